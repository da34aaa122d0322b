//! The kernel is found and read at every position of the guest's run.

use crate::guest::{Boot, Nt, images};
use hv_core::VcpuId;
use hv_core::regs::seg;
use introspect::AddressSpace;
use introspect::windows::{Encoding, Field, Source, Windows};
use std::path::Path;
use std::time::Instant;
use symbols::SymbolPath;

const PROFILES: [&str; 12] = [
    "win7-x86",
    "win7-x64",
    "win8-x64",
    "win81-x64",
    "win10-x86",
    "win10-1607-x64",
    "win10-1809-x64",
    "win10-1903-x64",
    "win10-19041-x64",
    "win2022-x64",
    "win11-22000-x64",
    "win11-22621-x64",
];

fn with_pdb(folder: &Path) -> SymbolPath {
    folder.display().to_string().parse().unwrap()
}

fn recognise(nt: &Nt, symbols: &SymbolPath) -> Windows {
    Windows::recognise(nt.guest(), symbols)
        .unwrap_or_else(|error| panic!("at tick {}: {error}", nt.machine.now().0))
}

/// What the guest's console says about its processes and modules is what is read from outside.
fn compare_with_the_guests_own_view(nt: &mut Nt, windows: &Windows) {
    let report = windows.report().to_string();
    let ps = nt.command("ps");
    let processes = windows
        .processes(nt.guest())
        .unwrap_or_else(|error| panic!("{error}\n{report}"));
    assert_eq!(processes.broken, None, "{report}");
    assert!(!processes.items.is_empty());
    for process in &processes.items {
        let line = ps
            .lines()
            .find(|line| {
                line.contains(&format!("eprocess {:016X}", process.address.0))
                    || line.to_lowercase().contains(&format!("{:x}", process.address.0))
            })
            .unwrap_or_else(|| panic!("{} isn't in\n{ps}", process.address));
        assert!(line.trim_start().starts_with(&process.pid.to_string()), "{line}");
        assert!(line.contains(&process.name), "{line}");
        let threads = windows
            .threads(nt.guest(), process.address)
            .unwrap_or_else(|error| panic!("{error}\n{report}"));
        assert_eq!(threads.broken, None, "{report}");
        for thread in &threads.items {
            assert_eq!(thread.pid, process.pid);
            assert!(ps.contains(&format!("thread {}", thread.tid)), "{ps}");
        }
    }
    assert_eq!(
        ps.matches(" eprocess ").count(),
        processes.items.len(),
        "{ps}\n{report}"
    );
    let lm = nt.command("lm");
    let modules = windows.modules(nt.guest()).unwrap();
    assert_eq!(modules.broken, None);
    assert_eq!(modules.items[0].name, "ntoskrnl.exe");
    assert_eq!(modules.items[0].base, windows.kernel().base);
    for module in &modules.items {
        assert!(lm.contains(&module.path), "{} isn't in\n{lm}", module.path);
    }
    assert_eq!(lm.matches('\\').count() > 0, !modules.items.is_empty());
}

/// What is true at every position.
fn check_here(nt: &Nt, windows: &Windows) {
    let at = nt.machine.now().0;
    let guest = nt.guest();
    for vcpu in 0..nt.machine.vcpu_count() {
        let vcpu = VcpuId(vcpu);
        let registers = nt.machine.registers(vcpu);
        let space = windows
            .kernel_space(guest, vcpu)
            .unwrap_or_else(|error| panic!("tick {at}: {error}"));
        assert!(matches!(space, AddressSpace::Root(..)));
        let processor = windows
            .processor(guest, vcpu)
            .unwrap_or_else(|error| panic!("tick {at}, rip {:#x}: {error}", registers.rip));
        assert_eq!(processor.number, vcpu.0, "tick {at}");
        assert!(processor.current_thread.is_some(), "tick {at}");
    }
    let data = windows
        .debugger_data(guest)
        .unwrap_or_else(|error| panic!("tick {at}: {error}"));
    assert_ne!(data.encoding, Encoding::Composed, "tick {at}");
    assert_eq!(data.bytes[0x10..0x14], *b"KDBG");
}

#[test]
fn every_profile_is_recognised_with_its_pdb_by_the_table_and_by_structure() {
    for profile in PROFILES {
        let Some(folder) = images(profile) else { continue };
        let mut nt = Nt::booted(&folder, Boot::default());
        let by_pdb = recognise(&nt, &with_pdb(&folder));
        assert!(by_pdb.pdb().is_some(), "{profile}:\n{}", by_pdb.report());
        let (_, source) = by_pdb.layout().find(Field::EprocessActiveProcessLinks).unwrap();
        assert_eq!(source, Source::Pdb);
        compare_with_the_guests_own_view(&mut nt, &by_pdb);
        check_here(&nt, &by_pdb);

        let alone = recognise(&nt, &SymbolPath::default());
        compare_with_the_guests_own_view(&mut nt, &alone);
        check_here(&nt, &alone);
        // What other sources say is what the PDB says.
        for (field, offset, source) in alone.layout().iter() {
            if let Some((right, Source::Pdb)) = by_pdb.layout().find(field) {
                assert_eq!(
                    offset,
                    right,
                    "{profile}: {field} by {source}\n{}",
                    alone.report()
                );
            }
        }
        assert_eq!(alone.build(), by_pdb.build());

        let mut nt = Nt::booted(
            &folder,
            Boot {
                strange: true,
                ..Boot::default()
            },
        );
        let strange = recognise(&nt, &with_pdb(&folder));
        assert!(strange.pdb().is_none());
        compare_with_the_guests_own_view(&mut nt, &strange);
        check_here(&nt, &strange);
        println!("{profile}: {}", strange.description());
    }
}

#[test]
fn it_is_recognised_wherever_the_vcpu_stands() {
    for profile in ["win7-x64", "win10-19041-x64", "win11-22000-x64"] {
        let Some(folder) = images(profile) else { continue };
        let mut nt = Nt::booted(&folder, Boot::default());
        let kept = recognise(&nt, &SymbolPath::default());
        let kernel = kept.kernel().clone();
        nt.input("user");
        let (mut user, mut foreign_gs, mut hidden, mut steps) = (0, 0, 0, 0);
        while steps < 6000 {
            // One instruction at a time near ring 3, in longer strides elsewhere.
            let before = nt.machine.registers(VcpuId(0));
            let near = before.cpl() == 3 || before.segments[seg::GS].base < 1 << 47 || steps % 3 == 0;
            if !nt.run(if near { 1 } else { 37 }) {
                break;
            }
            steps += 1;
            let registers = nt.machine.registers(VcpuId(0));
            let is_user = registers.cpl() == 3;
            user += u32::from(is_user);
            let is_foreign = !is_user && registers.segments[seg::GS].base < 1 << 47;
            foreign_gs += u32::from(is_foreign);
            check_here(&nt, &kept);
            assert!(kept.is_still_there(nt.guest()));
            let other_root = kept.kernel_space(nt.guest(), VcpuId(0)).unwrap();
            let is_hidden =
                !matches!(other_root, AddressSpace::Root(mode, root) if root == mode.root(registers.cr3));
            hidden += u32::from(is_hidden);
            if is_foreign || is_hidden || steps % 16 == 0 {
                let fresh = recognise(&nt, &SymbolPath::default());
                assert_eq!(fresh.kernel(), &kernel, "at tick {}", nt.machine.now().0);
                check_here(&nt, &fresh);
            }
        }
        println!(
            "{profile}: {steps} positions: {user} in ring 3, {foreign_gs} with the user's GS base in ring 0, {hidden} behind KVA shadow"
        );
        assert!(user > 50 && foreign_gs > 5, "{user} {foreign_gs}");
    }
}

#[test]
fn from_power_on_recognition_fails_or_is_right() {
    let Some(folder) = images("win10-19041-x64") else {
        return;
    };
    let mut nt = Nt::new(
        &folder,
        Boot {
            vcpus: 2,
            ..Boot::default()
        },
    );
    let mut first = None;
    for _ in 0..400 {
        match Windows::recognise(nt.guest(), &SymbolPath::default()) {
            Ok(windows) => {
                first.get_or_insert(nt.machine.now().0);
                assert_eq!(windows.build(), Some(19041));
                let _ = windows.modules(nt.guest());
                let _ = windows.processes(nt.guest());
                let _ = windows.debugger_data(nt.guest());
            }
            Err(error) => assert_eq!(first, None, "tick {}: {error}", nt.machine.now().0),
        }
        nt.run(20_011);
    }
    println!("recognised from tick {first:?} on");
    assert!(first.is_some());
}

#[test]
fn what_was_recognised_while_it_booted_is_looked_at_again() {
    let Some(folder) = images("win10-19041-x64") else {
        return;
    };
    for strange in [false, true] {
        let boot = Boot {
            strange,
            ..Boot::default()
        };
        let mut nt = Nt::new(&folder, boot);
        let mut windows = None;
        let mut looks = 0;
        for _ in 0..2000 {
            let known = windows.take_if(|windows: &mut Windows| !windows.is_still_there(nt.guest()));
            if known.is_some() || windows.is_none() {
                windows = Windows::recognise(nt.guest(), &SymbolPath::default()).ok();
                looks += u32::from(windows.is_some());
            }
            nt.run(5_003);
        }
        let mut windows = windows.unwrap();
        assert!((2..10).contains(&looks), "{looks} looks");
        nt.run_to_prompt_again();
        if !windows.is_still_there(nt.guest()) {
            windows = recognise(&nt, &SymbolPath::default());
        }
        compare_with_the_guests_own_view(&mut nt, &windows);
        check_here(&nt, &windows);
    }
}

#[test]
fn all_processors_are_found() {
    let Some(folder) = images("win10-19041-x64") else {
        return;
    };
    let boot = Boot {
        vcpus: 4,
        ..Boot::default()
    };
    let mut nt = Nt::booted(&folder, boot);
    let windows = recognise(&nt, &SymbolPath::default());
    nt.input("user");
    for _ in 0..200 {
        nt.run(997);
        check_here(&nt, &windows);
        check_here(&nt, &recognise(&nt, &SymbolPath::default()));
    }
}

#[test]
fn a_driver_that_comes_and_goes_is_seen() {
    let Some(folder) = images("win10-19041-x64") else {
        return;
    };
    let mut nt = Nt::booted(&folder, Boot::default());
    let windows = recognise(&nt, &SymbolPath::default());
    let names = |nt: &Nt| -> Vec<String> {
        let modules = windows.modules(nt.guest()).unwrap();
        modules.items.into_iter().map(|module| module.name).collect()
    };
    let before = names(&nt);
    nt.command("load sample.sys");
    assert!(names(&nt).contains(&"sample.sys".to_owned()));
    nt.command("unload sample.sys");
    assert_eq!(names(&nt), before);
    let unloaded = windows.unloaded_modules(nt.guest()).unwrap();
    assert_eq!(unloaded[0].name, "sample.sys");
}

#[test]
fn a_bugcheck_is_seen_and_the_debugger_data_is_plain_then() {
    let Some(folder) = images("win10-19041-x64") else {
        return;
    };
    let mut nt = Nt::booted(&folder, Boot::default());
    let windows = recognise(&nt, &SymbolPath::default());
    let before = windows.debugger_data(nt.guest()).unwrap();
    assert_eq!(before.encoding, Encoding::DecodedWithKeys);
    assert_eq!(windows.bugcheck(nt.guest()).unwrap(), None);
    nt.input("bugcheck e2 1 2 3 4");
    for _ in 0..200 {
        nt.run(100_000);
        if windows.bugcheck(nt.guest()).unwrap().is_some() {
            break;
        }
    }
    nt.run(1_000_000);
    let bugcheck = windows.bugcheck(nt.guest()).unwrap().unwrap();
    assert_eq!((bugcheck.code, bugcheck.parameters), (0xe2, [1, 2, 3, 4]));
    let after = windows.debugger_data(nt.guest()).unwrap();
    assert!(after.is_plain());
    assert_eq!(after.bytes.len(), before.bytes.len());
}

#[test]
#[ignore = "a measurement: cargo test --release -p introspect --test nt -- --ignored --nocapture"]
fn how_long_recognition_takes() {
    for (profile, memory_mib) in [
        ("win10-19041-x64", 512),
        ("win10-19041-x64", 16 << 10),
        ("win11-22621-x64", 512),
    ] {
        let Some(folder) = images(profile) else { return };
        for strange in [false, true] {
            let boot = Boot {
                memory_mib,
                strange,
                ..Boot::default()
            };
            let nt = Nt::booted(&folder, boot);
            for (how, symbols) in [("alone", SymbolPath::default()), ("PDB", with_pdb(&folder))] {
                let mut times: Vec<_> = (0..50)
                    .map(|_| {
                        let start = Instant::now();
                        recognise(&nt, &symbols);
                        start.elapsed()
                    })
                    .collect();
                times.sort();
                println!(
                    "{profile}, {memory_mib} MiB, strange {strange}, {how}: median {:?}, longest {:?}",
                    times[25], times[49]
                );
            }
        }
    }
}
