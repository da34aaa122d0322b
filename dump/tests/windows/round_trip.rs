//! What is written is what is read.

use super::guest::Nt;
use super::{Dump, KINDS, booted, options, recognised, streamed};
use dump::windows::{Kind, Options, WindowsDump};
use dump::{Absent, Error, FileBytes, Format, Ignore, Image, NewFile, Observer, PAGE_SIZE, Pfn, Stream};
use hv_core::introspect::{MemoryRegion, ReadMemory, ReadRegisters};
use hv_core::regs::{Registers, Segment, seg};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::windows::{Arch, Bugcheck, Global, Guest, Windows};
use introspect::{PageTables, PagingMode};
use std::ops::ControlFlow;

/// All that differs from the guest in the file: pages of the data block, and of the processors' contexts.
const PATCHED: usize = 24;

/// Compares all pages; how many the file has.
fn compare(nt: &Nt, dump: &WindowsDump) -> u64 {
    let (mut there, mut different) = (0, 0);
    let mut own = [0; PAGE_SIZE];
    let mut page = [0; PAGE_SIZE];
    for range in dump.ram() {
        for pfn in range.first.0..range.end().0 {
            nt.read_physical(Pfn(pfn).address(), &mut own).unwrap();
            match dump.read_page(Pfn(pfn), &mut page) {
                Ok(()) => {
                    there += 1;
                    different += usize::from(own != page);
                }
                Err(Absent::LeftOut) => {}
                Err(error) => panic!("{pfn:#x}: {error}"),
            }
        }
    }
    assert!(different <= PATCHED, "{different} pages differ");
    let beyond = dump.ram().last().unwrap().end();
    assert!(matches!(dump.read_page(beyond, &mut page), Err(Absent::NoMemory)));
    assert_eq!(there, dump.description().pages);
    there
}

/// The registers that a dump keeps.
fn same_registers(arch: Arch, own: &Registers, read: &Registers) {
    assert_eq!((own.gpr, own.rip, own.rflags), (read.gpr, read.rip, read.rflags));
    let control = |r: &Registers| (r.cr0, r.cr2, r.cr3, r.cr4, r.gdtr, r.idtr);
    assert_eq!(control(own), control(read));
    assert_eq!(PagingMode::of(own), PagingMode::of(read));
    assert_eq!(own.cpl(), read.cpl());
    assert_eq!((own.xmm, own.mxcsr), (read.xmm, read.mxcsr));
    let system = |r: &Registers| (r.tr.selector, r.tr.base, r.tr.limit);
    assert_eq!(system(own), system(read));
    for (index, (own, read)) in own.segments.iter().zip(&read.segments).enumerate() {
        assert_eq!(
            (own.selector, own.base),
            (read.selector, read.base),
            "segment {index}"
        );
        // The accessed bit is the CPU's, and SYSCALL sets limits that no descriptor has.
        let attributes = |segment: &Segment| (segment.attributes | 1) & 0x1_60ff;
        if index == seg::CS || arch == Arch::X86 {
            assert_eq!(attributes(own), attributes(read), "segment {index}");
        }
        if arch == Arch::X86 {
            assert_eq!(own.limit, read.limit, "segment {index}");
        }
    }
    if arch == Arch::X64 {
        let msrs = |r: &Registers| (r.msrs.kernel_gs_base, r.msrs.lstar, r.msrs.star, r.msrs.sfmask);
        assert_eq!(msrs(own), msrs(read));
    }
}

/// The code at RIP, through each processor's own page tables.
fn reads_code_at_rip(nt: &Nt, dump: &WindowsDump) {
    struct Pages<'a>(&'a WindowsDump);
    impl ReadMemory for Pages<'_> {
        fn read_physical(
            &self,
            address: GuestPhysAddr,
            buffer: &mut [u8],
        ) -> hv_core::introspect::Result<()> {
            let mut page = [0; PAGE_SIZE];
            self.0.read_page(Pfn::of(address), &mut page).unwrap();
            let at = address.page_offset();
            buffer.copy_from_slice(&page[at..at + buffer.len()]);
            Ok(())
        }
        fn memory_regions(&self) -> Vec<MemoryRegion> {
            Vec::new()
        }
    }
    for (vcpu, registers) in (0..).zip(dump.processors()) {
        let own = nt.registers(VcpuId(vcpu)).unwrap();
        let (mode, root) = (PagingMode::of(registers), GuestPhysAddr(registers.cr3));
        let rip = GuestVirtAddr(registers.rip);
        let (mut expected, mut read) = ([0], [1]);
        let mut tables = PageTables::new(nt, PagingMode::of(&own), GuestPhysAddr(own.cr3));
        tables.read(GuestVirtAddr(own.rip), &mut expected).unwrap();
        PageTables::new(&Pages(dump), mode, root)
            .read(rip, &mut read)
            .unwrap();
        assert_eq!(expected, read);
    }
}

fn check(nt: &Nt, windows: &Windows, options: &Options) -> WindowsDump {
    let file = Dump::of(nt, windows, options);
    assert_eq!(file.written.warnings, [""; 0], "{:?}", options.kind);
    let length = std::fs::metadata(&file.path).unwrap().len();
    assert_eq!(length, file.written.length);
    let dump = file.open();
    let description = dump.description();
    assert_eq!(description.pages, file.written.pages);
    assert_eq!(compare(nt, &dump), file.written.pages);
    let all: u64 = dump.ram().iter().map(|range| range.count).sum();
    assert_eq!(all, file.written.pages + file.written.excluded);
    assert_eq!(dump.processors().len(), 2);
    for (vcpu, read) in (0..).zip(dump.processors()) {
        same_registers(windows.arch(), &nt.registers(VcpuId(vcpu)).unwrap(), read);
    }
    assert_eq!(description.kernel, Some(windows.kernel().base));
    assert_eq!(description.arch, Some(&*windows.arch().to_string()));
    assert_eq!(description.os.as_deref(), Some(&*windows.description()));
    let shared = windows.shared_data(nt.guest()).unwrap();
    assert_eq!(
        description.uptime.unwrap().as_nanos(),
        u128::from(shared.interrupt_time) * 100
    );
    assert_eq!(
        description.time.unwrap(),
        shared.system_time / 10_000_000 - 11_644_473_600
    );
    dump
}

fn all_kinds(profile: &str) {
    let Some((mut nt, windows)) = booted(profile) else {
        return;
    };
    for (kind, format) in KINDS.into_iter().zip([
        Format::WindowsFull,
        Format::WindowsBitmapFull,
        Format::WindowsBitmapKernel,
    ]) {
        let dump = check(&nt, &windows, &options(kind));
        assert_eq!(dump.description().format, format);
        assert_eq!(dump.description().crash, None);
        reads_code_at_rip(&nt, &dump);
        let file = Dump::of(&nt, &windows, &options(kind));
        assert!(std::fs::read(&file.path).unwrap() == streamed(&nt, &windows, &options(kind)));
    }
    // In user mode, in the middle of entries and exits, wherever it stands.
    nt.input("user");
    let mut in_user_mode = 0;
    for _ in 0..2000 {
        if in_user_mode == 3 || !nt.run(911) {
            break;
        }
        if (0..2).any(|vcpu| nt.registers(VcpuId(vcpu)).unwrap().cpl() == 3) {
            in_user_mode += 1;
            let dump = check(&nt, &windows, &options(Kind::Full));
            reads_code_at_rip(&nt, &dump);
            check(&nt, &windows, &options(Kind::BitmapKernel));
        }
    }
    assert_eq!(in_user_mode, 3);
    nt.run_to_prompt();
    bugcheck(&mut nt, &windows);
}

/// A bugcheck: at its first instruction, and when it is over.
fn bugcheck(nt: &mut Nt, windows: &Windows) {
    let entry = windows.global(Global::KeBugCheckEx).unwrap();
    let expected = Bugcheck {
        code: 0xd1,
        parameters: [0x11, 0x22, 0x33, 0x44],
    };
    let text = "bugcheck 0xd1 DRIVER_IRQL_NOT_LESS_OR_EQUAL (0x11, 0x22, 0x33, 0x44)";
    nt.input("bugcheck d1 11 22 33 44");
    let mut at_entry = None;
    // Up to the record of it, an instruction at a time near its beginning.
    for _ in 0..3_000_000 {
        if windows.bugcheck(nt.guest()).unwrap().is_some() || !nt.run(1) {
            break;
        }
        let there = |vcpu: &u32| nt.registers(VcpuId(*vcpu)).unwrap().rip == entry.0;
        if at_entry.is_none()
            && let Some(vcpu) = (0..2).find(there)
        {
            at_entry = Some(vcpu);
            let dump = check(nt, windows, &options(Kind::Full));
            assert_eq!(dump.description().crash.as_deref(), Some(text));
        }
    }
    assert!(at_entry.is_some());
    // The code comes first.
    for _ in 0..100 {
        nt.run(1000);
    }
    assert_eq!(windows.bugcheck(nt.guest()).unwrap(), Some(expected));
    let windows = recognised(nt);
    let dump = check(nt, &windows, &options(Kind::BitmapFull));
    assert_eq!(dump.description().crash.as_deref(), Some(text));
    let told = Bugcheck {
        code: 0x7b,
        ..expected
    };
    let dump = check(
        nt,
        &windows,
        &Options {
            bugcheck: Some(told),
            ..options(Kind::Full)
        },
    );
    let crash = dump.description().crash.clone().unwrap();
    assert!(
        crash.starts_with("bugcheck 0x7b INACCESSIBLE_BOOT_DEVICE ("),
        "{crash}"
    );
}

/// A guest whose RAM has holes, where there are only zeros.
struct Holes<'a>(&'a Nt, Vec<MemoryRegion>);

impl<'a> Holes<'a> {
    /// So many ranges of RAM.
    fn new(nt: &'a Nt, ranges: usize) -> Holes<'a> {
        let mut rest = nt.memory_regions();
        let mut regions = Vec::new();
        let mut page = [0; PAGE_SIZE];
        while let Some(region) = rest.pop() {
            let end = region.start.0 + region.length;
            let zero = (region.start.0 + 2 * PAGE_SIZE as u64..end.saturating_sub(2 * PAGE_SIZE as u64))
                .step_by(PAGE_SIZE)
                .find(|&at| {
                    nt.read_physical(GuestPhysAddr(at), &mut page).unwrap();
                    page == [0; PAGE_SIZE]
                });
            let Some(hole) = zero.filter(|_| region.writable && regions.len() + rest.len() + 1 < ranges)
            else {
                regions.push(region);
                continue;
            };
            regions.push(MemoryRegion {
                length: hole - region.start.0,
                ..region
            });
            let after = hole + PAGE_SIZE as u64;
            rest.push(MemoryRegion {
                start: GuestPhysAddr(after),
                length: end - after,
                ..region
            });
        }
        regions.sort_by_key(|region| region.start);
        Holes(nt, regions)
    }
}

impl ReadMemory for Holes<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
        self.0.read_physical(address, buffer)
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.1.clone()
    }
}

#[test]
fn ram_in_many_ranges_needs_a_bitmap() {
    let Some((nt, windows)) = booted("win10-19041-x64") else {
        return;
    };
    for (ranges, fits) in [(42, true), (43, false)] {
        let writable = |regions: &[MemoryRegion]| regions.iter().filter(|region| region.writable).count();
        let others = nt.memory_regions().len() - writable(&nt.memory_regions());
        let holes = Holes::new(&nt, ranges + others);
        assert_eq!(writable(&holes.1), ranges);
        let guest = Guest::new(&holes, &nt);
        let mut stream = Stream(Vec::new());
        let written = dump::windows::write(guest, &windows, &options(Kind::Full), &mut stream, &mut Ignore);
        match written {
            Ok(_) => assert!(fits),
            Err(Error::Unsupported(why)) => assert!(!fits && why.contains("type 5"), "{why}"),
            Err(error) => panic!("{error}"),
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.dmp");
        let mut file = NewFile::create(&path, false).unwrap();
        dump::windows::write(
            guest,
            &windows,
            &options(Kind::BitmapFull),
            &mut file,
            &mut Ignore,
        )
        .unwrap();
        file.commit().unwrap();
        let dump = dump::windows::open(FileBytes::open(&path).unwrap()).unwrap();
        assert_eq!(dump.ram().len(), ranges);
        compare(&nt, &dump);
    }
}

#[test]
fn an_observer_ends_it_and_hears_all_of_it() {
    struct Count(u64, u64);
    impl Observer for Count {
        fn progress(&mut self, done: u64, total: u64) -> ControlFlow<()> {
            assert!(done >= self.0 && done <= total);
            self.0 = done;
            if done >= self.1 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
    let Some((nt, windows)) = booted("win10-19041-x64") else {
        return;
    };
    let write = |count: &mut Count| {
        let mut stream = Stream(std::io::sink());
        dump::windows::write(nt.guest(), &windows, &options(Kind::Full), &mut stream, count)
    };
    let mut all = Count(0, u64::MAX);
    let written = write(&mut all).unwrap();
    assert_eq!(all.0, written.pages);
    assert!(matches!(write(&mut Count(0, 1000)), Err(Error::Cancelled)));
}

#[test]
fn windows_10_x64_with_kva_shadow_is_read_as_it_was_written() {
    all_kinds("win10-19041-x64");
}

#[test]
fn windows_7_x64_is_read_as_it_was_written() {
    all_kinds("win7-x64");
}

#[test]
fn windows_7_x86_is_read_as_it_was_written() {
    all_kinds("win7-x86");
}

#[test]
fn windows_10_x86_is_read_as_it_was_written() {
    all_kinds("win10-x86");
}
