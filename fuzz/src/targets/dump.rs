//! Dump files of every format with damage, or any bytes: opened, read, and looked into as guests.
//!
//! The first byte chooses the file, the second what is done besides: a cut, another type of Windows dump, no file of ours at
//! all; changes follow.

use super::Target;
use crate::dumps;
use crate::input::Input;
use crate::patch::Patch;
use crate::sample::Sample;
use dump::{DumpDomain, Ignore, Image, PAGE_SIZE, Pfn, Sink, Source};
use hv_core::introspect::{Introspect, ReadMemory, ReadRegisters};
use hv_core::{DomId, GuestPhysAddr, VcpuId};
use introspect::linux::Linux;
use introspect::windows::{Guest, Windows};
use std::io::{self, Write};
use std::path::Path;
use symbols::SymbolPath;

/// See the module.
pub const TARGET: Target = Target {
    name: "dump",
    run,
    seeds,
    words: &[
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\x80",
        b"\xff\xff\xff\x7f",
        b"PAGEDU64",
        b"\x7fELF\x02\x01\x01",
        b"KDUMP   ",
        b"makedumpfile",
        b"EMiL",
        b"VMCOREINFO",
    ],
    longest: 2048,
};

/// Any bytes instead of a file of ours.
const ANY: u8 = 0xff;

fn seeds() -> Vec<Vec<u8>> {
    let count = dumps::all().len() as u8;
    let mut seeds: Vec<Vec<u8>> = (0..count).map(|file| vec![file, 0]).collect();
    seeds.extend((0..count).flat_map(|file| [vec![file, 1, 0x12, 0x34], vec![file, 2, 0xff, 0xff]]));
    seeds.extend((1..=10).flat_map(|kind| [vec![1, kind << 4], vec![5, kind << 4]]));
    // Most files are small; those of the stock Linux take long.
    for how in 0..=255_u8 {
        let place = how.wrapping_mul(77);
        let file = how % count.saturating_sub(2).max(1);
        seeds.push(
            [
                &[file, 0, how, place, how, how.wrapping_mul(5)][..],
                &[0xff, how, 0xff, 0x7f],
                &[0x40 | how & 0x1f, place, how, 0, how, how, how, how],
            ]
            .concat(),
        );
    }
    seeds.push([&[ANY, 0][..], b"PAGEDUMP", &[0; 64]].concat());
    seeds.push([&[ANY, 0][..], b"makedumpfile\0\0\0\0\0\0\0\0\0\0\0\x01"].concat());
    seeds
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (file, how) = (input.u8(), input.u8());
    if file == ANY {
        if let Ok(sample) = Sample::new(input.rest()) {
            let _ = sample.damaged(&[], None, look);
        }
        return;
    }
    let samples = dumps::all();
    let Some(sample) = samples.get(usize::from(file) % samples.len().max(1)) else {
        return;
    };
    let cut = match how & 0xf {
        1 | 2 => Some(input.u16()),
        _ => None,
    };
    let patches = Patch::all(&mut input);
    let kind = how >> 4;
    let _ = sample.damaged(&patches, cut, |path| {
        if kind != 0 {
            set_type(path, kind);
        }
        look(path);
    });
}

/// Makes another type of a Windows dump; what else is in it doesn't fit.
fn set_type(path: &Path, kind: u8) {
    use std::os::unix::fs::FileExt;
    let Ok(file) = std::fs::File::options().read(true).write(true).open(path) else {
        return;
    };
    let mut magic = [0; 8];
    if file.read_exact_at(&mut magic, 0).is_ok() && magic.starts_with(b"PAGE") {
        let at = dumps::DUMP_TYPE[usize::from(&magic[4..] != b"DU64")];
        let _ = file.write_all_at(&[kind, 0, 0, 0], at);
        if kind >= 8 {
            let _ = file.write_all_at(b"RDMP", if &magic[4..] == b"DU64" { 0x2000 } else { 0x1000 });
        }
    }
}

/// Opens a file, and does all that can be done with it.
fn look(path: &Path) {
    let image = match dump::open(path) {
        Ok(image) => image,
        Err(error) => {
            assert!(error.to_string().len() < 4096, "an error is a line");
            return;
        }
    };
    read(&*image);
    let domain = DumpDomain::new(DomId(1), "dump".into(), image);
    let _ = format!("{:?}", domain.description());
    let windows = Windows::recognise(Guest::from(&domain as &dyn Introspect), &SymbolPath::default());
    if let Ok(windows) = &windows {
        let guest = Guest::from(&domain as &dyn Introspect);
        let _ = windows.description();
        let _ = windows.modules(guest);
        let _ = windows.bugcheck(guest);
        let _ = windows.shared_data(guest);
        let processes = windows
            .processes(guest)
            .map(|walk| walk.items)
            .unwrap_or_default();
        for process in processes.iter().take(16) {
            let _ = windows.threads(guest, process.address);
        }
    }
    if let Ok(linux) = Linux::recognise(Guest::from(&domain as &dyn Introspect)) {
        let _ = linux.log(&domain);
        let _ = linux.crash(&domain);
        let _ = linux.tasks(&domain);
        let _ = linux.modules(&domain);
    }
    for vcpu in (0..domain.vcpu_count().min(64)).map(VcpuId) {
        let _ = domain.registers(vcpu);
        let _ = domain.read_msr(vcpu, 0xc000_0082);
    }
    let _ = domain.read_physical(GuestPhysAddr(0xffe), &mut [0; 0x2004]);
    write(&domain, windows.ok().as_ref());
}

/// Pages at the ends of what it says to have.
fn read(image: &dyn Image) {
    let mut page = [0; PAGE_SIZE];
    let mut before = Pfn(0);
    for range in image.ram().iter().take(64) {
        let end = range.first.0.checked_add(range.count);
        assert!(
            range.count > 0 && end.is_some_and(|end| end <= 1 << 52),
            "{range:?}"
        );
        assert!(range.first >= before, "ranges rise");
        before = range.end();
        let last = range.end().0 - 1;
        for pfn in [
            range.first.0,
            range.first.0 + 1,
            range.first.0 + range.count / 2,
            last,
            last + 1,
        ] {
            // An error is an answer.
            let _ = image.read_page(Pfn(pfn), &mut page);
        }
    }
    let _ = image.read_page(Pfn(u64::MAX), &mut page);
    assert!(image.processors().len() <= 4096 && image.description().fields.len() < 100);
}

/// A sink that is full after a while.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Full {
    fn zeros(&mut self, _length: u64) -> io::Result<()> {
        self.0 = self.0.checked_sub(PAGE_SIZE).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }

    fn rewrite(&mut self, _at: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn can_rewrite(&self) -> bool {
        true
    }
}

/// Writes it in another format, as `kdd dump` does.
fn write(domain: &DumpDomain, windows: Option<&Windows>) {
    let mut full = Full(1 << 20);
    match windows {
        Some(windows) => {
            let options = dump::windows::Options {
                kind: dump::windows::Kind::BitmapKernel,
                ..dump::windows::Options::default()
            };
            let guest = Guest::from(domain as &dyn Introspect);
            let _ = dump::windows::write(guest, windows, &options, &mut full, &mut Ignore);
        }
        None => {
            let cpus: Vec<_> = (0..domain.vcpu_count())
                .filter_map(|n| domain.registers(VcpuId(n)).ok())
                .collect();
            let source = Source::new(domain);
            let facts = dump::linux::LinuxFacts::default();
            let _ = dump::elf::write(
                &source,
                &cpus,
                &facts,
                &dump::elf::ElfOptions::default(),
                &mut full,
                &mut Ignore,
            );
        }
    }
}
