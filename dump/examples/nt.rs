//! Boots an NT-shaped guest and writes its dumps: `nt FOLDER-WITH-IMAGES PREFIX [VCPUS] [COMMAND]`.
#[path = "../../introspect/tests/nt/guest.rs"]
#[allow(dead_code)]
mod guest;
use dump::windows::{Kind, Options};
use guest::{Boot, Nt};
use introspect::windows::Windows;
use symbols::SymbolPath;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let vcpus = arguments.get(2).map_or(1, |n| n.parse().unwrap());
    let mut nt = Nt::booted(
        arguments[0].as_ref(),
        Boot {
            vcpus,
            ..Boot::default()
        },
    );
    if let Some(command) = arguments.get(3) {
        nt.input(command);
        for _ in 0..2000 {
            if !nt.run(1000) {
                break;
            }
        }
    }
    let path = arguments[0].parse::<SymbolPath>().unwrap();
    let windows = Windows::recognise(nt.guest(), &path).unwrap();
    for vcpu in 0..vcpus {
        let r = nt.machine.registers(hv_core::VcpuId(vcpu));
        println!(
            "{vcpu}: rip {:x} rsp {:x} cr3 {:x} cpl {}",
            r.rip,
            r.gpr[4],
            r.cr3,
            r.cpl()
        );
    }
    for (kind, name) in [
        (Kind::Full, "1"),
        (Kind::BitmapFull, "5"),
        (Kind::BitmapKernel, "6"),
    ] {
        let path = format!("{}-{name}.dmp", arguments[1]);
        let mut file = dump::NewFile::create(path.as_ref(), true).unwrap();
        let options = Options {
            kind,
            comment: "made by an example".into(),
            ..Options::default()
        };
        let start = std::time::Instant::now();
        let written =
            dump::windows::write(nt.guest(), &windows, &options, &mut file, &mut dump::Ignore).unwrap();
        let took = start.elapsed();
        file.commit().unwrap();
        println!("{path}: {took:?} {written:?}");
    }
}
