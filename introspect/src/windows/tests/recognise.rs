//! Every persona, every mode.

use super::super::*;
use super::nt::{Nt, Persona};
use hv_core::VcpuId;
use hv_core::regs::seg;
use symbols::SymbolPath;

fn recognise(nt: &Nt) -> Windows {
    let guest = nt.memory.guest();
    Windows::recognise(guest, &SymbolPath::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// What must be told of every persona.
fn check(nt: &Nt, windows: &Windows) {
    let report = windows.report();
    let guest = nt.memory.guest();
    assert_eq!(windows.kernel().base.0, nt.base, "{report}");
    assert_eq!(windows.build(), Some(nt.layout.build), "{report}");
    assert!(windows.is_still_there(guest));

    let data = windows.debugger_data(guest).unwrap();
    assert_eq!(data.bytes, nt.block, "{report}");
    assert_eq!(data.address.0, nt.global(Global::KdDebuggerDataBlock));
    assert!(data.list_head_readable);

    for vcpu in 0..2 {
        let processor = windows
            .processor(guest, VcpuId(vcpu))
            .unwrap_or_else(|error| panic!("{error}\n{report}"));
        if nt.arch == Arch::X64 {
            assert_eq!(processor.kpcr.0, nt.kpcr[vcpu as usize]);
            assert_eq!(processor.number, vcpu);
        }
        assert_eq!(processor.current_thread.unwrap().0, nt.thread);
        let AddressSpaceRoot(root) = windows.kernel_space(guest, VcpuId(vcpu)).unwrap().into();
        assert_eq!(root, nt.kernel_tables.root);
    }

    let modules = windows.modules(guest).unwrap();
    let names: Vec<_> = modules.items.iter().map(|module| module.name.as_str()).collect();
    assert_eq!(names, ["ntoskrnl.exe", "hal.dll", "disk.sys"]);
    assert_eq!(modules.broken, None);
    assert_eq!(modules.items[0].time_date_stamp, Some(0x5e7f_0001));

    let processes = windows
        .processes(guest)
        .unwrap_or_else(|error| panic!("{error}\n{report}"));
    let names: Vec<_> = processes.items.iter().map(|p| (p.name.as_str(), p.pid)).collect();
    assert_eq!(names, [("System", 4), ("smss.exe", 0x138), ("csrss.exe", 0x26c)]);
    assert_eq!(processes.broken, None);

    let threads = windows.threads(guest, processes.items[0].address).unwrap();
    assert_eq!(threads.items.len(), 1, "{report}");
    assert_eq!(threads.items[0].tid, 12);
    assert!(threads.items[0].running_on.is_some());
    assert_eq!(windows.bugcheck(guest).unwrap(), None);
    assert_eq!(windows.shared_data(guest).unwrap().system_root, "C:\\Windows");
}

struct AddressSpaceRoot(u64);

impl From<crate::AddressSpace> for AddressSpaceRoot {
    fn from(space: crate::AddressSpace) -> Self {
        match space {
            crate::AddressSpace::Root(_, root) => AddressSpaceRoot(root.0),
            other => panic!("{other}"),
        }
    }
}

const KNOWN: [&str; 9] = [
    "6.1.7601.24540",
    "6.3.9600.19913",
    "10.0.14393.4583",
    "10.0.17763.379",
    "10.0.18362.30",
    "10.0.19041.329",
    "10.0.19041.3570",
    "10.0.20348.288",
    "10.0.22000.318",
];
const X86: [&str; 3] = ["win7_sp1_x86", "win10_x86_19041", "win81_u1_x86"];

#[test]
fn a_known_kernel_is_recognised_by_its_guid() {
    for version in KNOWN {
        let nt = Nt::new(&Persona::of(version));
        let windows = recognise(&nt);
        check(&nt, &windows);
        let data = windows.debugger_data(nt.memory.guest()).unwrap();
        assert_eq!(data.encoding, Encoding::DecodedWithKeys);
    }
}

#[test]
fn an_unknown_kernel_is_recognised_by_its_structure() {
    for version in KNOWN {
        let nt = Nt::new(&Persona {
            known_guid: false,
            ..Persona::of(version)
        });
        let windows = recognise(&nt);
        check(&nt, &windows);
        let data = windows.debugger_data(nt.memory.guest()).unwrap();
        assert_eq!(data.encoding, Encoding::DecodedByTrial);
        let (_, source) = windows.layout().find(Field::EprocessActiveProcessLinks).unwrap();
        assert_eq!(source, Source::Similar);
    }
}

#[test]
fn x86_kernels_are_recognised() {
    for layout in X86 {
        let nt = Nt::new(&Persona {
            shadow: false,
            ..Persona::of(layout)
        });
        let windows = recognise(&nt);
        assert_eq!(windows.arch(), Arch::X86);
        check(&nt, &windows);
    }
}

#[test]
fn user_mode_behind_kva_shadow_hides_nothing() {
    for version in KNOWN.into_iter().chain(["win10_x86_19041"]) {
        let mut nt = Nt::new(&Persona::of(version));
        nt.enter_user_mode(0);
        nt.enter_user_mode(1);
        check(&nt, &recognise(&nt));
    }
}

#[test]
fn between_an_entry_and_swapgs_the_other_gs_base_counts() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    // CPL 0, but with the user's GS base and tables: just after SYSCALL.
    nt.enter_user_mode(0);
    nt.memory.vcpus[0].segments[seg::SS].attributes = 0x93;
    nt.memory.vcpus[0].rip = nt.memory.vcpus[0].msrs.lstar;
    check(&nt, &recognise(&nt));
    // Just after SWAPGS, still with the user's tables.
    let registers = &mut nt.memory.vcpus[0];
    std::mem::swap(
        &mut registers.segments[seg::GS].base,
        &mut registers.msrs.kernel_gs_base,
    );
    check(&nt, &recognise(&nt));
}

#[test]
fn what_was_recognised_in_the_kernel_holds_in_user_mode() {
    let mut nt = Nt::new(&Persona::of("10.0.22000.318"));
    let windows = recognise(&nt);
    nt.enter_user_mode(0);
    nt.enter_user_mode(1);
    check(&nt, &windows);
}

#[test]
fn a_hooked_lstar_leads_nobody_astray() {
    let mut nt = Nt::new(&Persona::of("10.0.18362.30"));
    // Into a driver above the kernel, with an image of its own.
    let driver = nt.base + 0x150_0000;
    let page: Vec<u8> = {
        let mut page = vec![0; 0x400];
        nt_read(&nt, nt.base, &mut page);
        page
    };
    nt.set(driver, &page);
    for registers in &mut nt.memory.vcpus {
        registers.msrs.lstar = driver + 0x10;
    }
    nt.set(driver + 0x10, &[0]);
    check(&nt, &recognise(&nt));
}

fn nt_read(nt: &Nt, address: u64, buffer: &mut [u8]) {
    let space = space::Space::new(
        nt.memory.guest(),
        nt.arch,
        nt.kernel_tables.mode,
        nt.kernel_tables.root,
    );
    space.read(GuestVirtAddr(address), buffer).unwrap();
}

#[test]
fn a_known_kernel_without_its_header_is_found_by_its_entry_points() {
    let mut nt = Nt::new(&Persona::of("10.0.17763.379"));
    let tables = nt.kernel_tables;
    tables.unmap(&mut nt.memory, nt.base);
    let windows = recognise(&nt);
    let guest = nt.memory.guest();
    assert_eq!(windows.kernel().base.0, nt.base);
    assert_eq!(windows.processes(guest).unwrap().items.len(), 3);
    assert_eq!(windows.debugger_data(guest).unwrap().bytes, nt.block);
}

#[test]
fn without_exports_the_pdbs_name_is_enough() {
    let nt = Nt::new(&Persona {
        exports: false,
        ..Persona::of("10.0.19041.329")
    });
    check(&nt, &recognise(&nt));
}

#[test]
fn code_of_exports_tells_offsets_where_no_layout_fits() {
    // Of 18362, claiming to be a build that nobody knows, with links where no known kernel has them.
    let mut nt = Nt::new(&Persona {
        known_guid: false,
        code: true,
        ..Persona::of("10.0.18362.30")
    });
    let build = 0xf000_0000u32 | 12345;
    nt.set(nt.global(Global::NtBuildNumber), &build.to_le_bytes());
    // The executive's thread list is broken, so that no layout is proved.
    let head = nt.system + nt.field(Field::EprocessThreadListHead);
    nt.set(head, &[0; 16]);
    let windows = recognise(&nt);
    let source = |field| windows.layout().find(field).map(|(_, source)| source);
    assert_eq!(source(Field::EprocessUniqueProcessId), Some(Source::Code));
    assert_eq!(source(Field::EprocessActiveProcessLinks), Some(Source::Structure));
    assert_eq!(source(Field::EthreadThreadListEntry), None);
    let guest = nt.memory.guest();
    let processes = windows.processes(guest).unwrap();
    assert_eq!(processes.items.len(), 3);
    // By the scheduler's list, which was found by its links.
    assert_eq!(source(Field::KthreadThreadListEntry), Some(Source::Structure));
    let threads = windows.threads(guest, processes.items[0].address).unwrap();
    assert_eq!(threads.items[0].tid, 12);
}

#[test]
fn a_bugcheck_makes_the_guests_block_plain() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    let windows = recognise(&nt);
    assert!(!windows.debugger_data(nt.memory.guest()).unwrap().is_plain());
    nt.decode_in_place();
    let data = nt.global(Global::KiBugCheckData);
    for (index, value) in [0x1000_007e_u64, 1, 2, 3, 4].into_iter().enumerate() {
        nt.set_word(data + 8 * index as u64, value);
    }
    let guest = nt.memory.guest();
    let data = windows.debugger_data(guest).unwrap();
    assert_eq!((data.encoding, &data.bytes), (Encoding::Plain, &nt.block));
    let bugcheck = windows.bugcheck(guest).unwrap().unwrap();
    assert_eq!((bugcheck.code, bugcheck.parameters), (0x1000_007e, [1, 2, 3, 4]));
}

#[test]
fn a_block_that_cannot_be_decoded_is_composed() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    let block = nt.global(Global::KdDebuggerDataBlock);
    nt.set(block, &[0x5a; 0x380]);
    let windows = recognise(&nt);
    let data = windows.debugger_data(nt.memory.guest()).unwrap();
    assert_eq!(data.encoding, Encoding::Composed);
    assert_eq!(data.bytes.len(), 0x380);
    for at in [0, 0x10, 0x18, 0x48, 0x50, 0x218] {
        assert_eq!(data.bytes[at..at + 8], nt.block[at..at + 8], "at {at:#x}");
    }
    // OffsetPrcbProcStateContext and OffsetKThreadApcProcess of 19041.
    assert_eq!(data.bytes[0x2bc..0x2be], [0xf0, 1]);
    assert_eq!(data.bytes[0x2a0..0x2a2], [0xb8, 0]);
}

#[test]
fn a_broken_list_gives_what_was_read_before() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    let second = nt.modules[1];
    nt.set_word(second, second);
    nt.set_word(second + 8, nt.modules[0]);
    let windows = recognise(&nt);
    let modules = windows.modules(nt.memory.guest()).unwrap();
    assert_eq!(modules.items.len(), 2);
    let broken = modules.broken.unwrap();
    assert!(broken.why.contains("circle"), "{broken}");
    assert_eq!((broken.read, broken.at.0), (2, second));
}

#[test]
fn a_link_that_does_not_point_back_ends_the_list() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    let third = nt.modules[2];
    nt.set_word(third + 8, nt.modules[0]);
    let windows = recognise(&nt);
    let modules = windows.modules(nt.memory.guest()).unwrap();
    assert_eq!(modules.items.len(), 2);
    assert!(modules.broken.unwrap().why.contains("Blink"));
}

#[test]
fn unloaded_drivers_are_told_the_latest_first() {
    let nt = Nt::new(&Persona::of("10.0.19041.329"));
    let unloaded = recognise(&nt).unloaded_modules(nt.memory.guest()).unwrap();
    assert_eq!(unloaded.len(), 1);
    assert_eq!(unloaded[0].name, "old.sys");
}

#[test]
fn a_guest_without_paging_is_not_up() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    for registers in &mut nt.memory.vcpus {
        registers.cr0 = 1;
    }
    let result = Windows::recognise(nt.memory.guest(), &SymbolPath::default());
    assert_eq!(result.err(), Some(NotWindows::NotUp));
}

#[test]
fn another_kernel_is_no_windows_and_that_is_told_soon() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    nt.set(nt.base, &[0; 2]);
    nt.set(nt.global(Global::KdVersionBlock), &[0; 0x28]);
    nt.memory.reads.set(0);
    let result = Windows::recognise(nt.memory.guest(), &SymbolPath::default());
    assert!(matches!(result, Err(NotWindows::NoKernel(_))));
    assert!(nt.memory.reads.get() < 200_000, "{} reads", nt.memory.reads.get());
}

#[test]
fn a_kernel_that_is_gone_is_gone() {
    let mut nt = Nt::new(&Persona::of("10.0.19041.329"));
    let windows = recognise(&nt);
    nt.set(nt.base + 0x1104, &[0; 16]);
    assert!(!windows.is_still_there(nt.memory.guest()));
}
