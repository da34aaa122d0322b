//! What the target is: versions, modules, symbols, types, processors.

use super::{attached, nothing_wrong, tick};

#[test]
fn it_knows_the_kernel_and_complains_of_nothing() {
    let Some((guest, _service, mut engine)) = attached() else {
        return;
    };
    let log = engine.log();
    assert!(
        log.contains("Connected to Windows 10 19041 x64 target at "),
        "{log}"
    );
    assert!(log.contains("Kernel Debugger connection established.  (Initial Breakpoint requested)"));
    assert!(
        log.contains("Break instruction exception - code 80000003 (first chance)"),
        "{log}"
    );
    let version = engine.run("vertarget");
    assert!(
        version.contains("Windows 10 Kernel Version 19041 MP (2 procs) Free x64\n"),
        "{version}"
    );
    assert!(version.contains("Built by: 19041."), "{version}");
    let (base, modules) = (tick(guest.base()), tick(guest.symbol("PsLoadedModuleList")));
    assert!(
        version.contains(&format!(
            "Kernel base = 0x{base} PsLoadedModuleList = 0x{modules}\n"
        )),
        "{version}"
    );
    // The guest's clock, not the host's.
    assert!(version.contains("System Uptime: 0 days 0:00:0"), "{version}");
    engine.run(".reload");
    nothing_wrong(&engine);
}

#[test]
fn lm_has_the_modules_that_the_guest_has() {
    let Some((guest, _service, mut engine)) = attached() else {
        return;
    };
    engine.run(".reload");
    let modules = engine.run("lm");
    assert!(guest.modules().len() >= 3, "{}", guest.console);
    for module in guest.modules() {
        let range = format!("{} {}", tick(module.base), tick(module.end));
        assert!(modules.contains(&range), "{module:?}:\n{modules}");
    }
    assert!(modules.contains("   nt "), "{modules}");
    assert!(modules.contains("(private pdb symbols)"), "{modules}");
    let kernel = engine.run("lmvm nt");
    assert!(kernel.contains("Image name: ntkrnlmp.exe"), "{kernel}");
}

#[test]
fn symbols_are_where_the_profile_says() {
    let Some((guest, _service, mut engine)) = attached() else {
        return;
    };
    for name in [
        "KeBugCheckEx",
        "PsActiveProcessHead",
        "KiProcessorBlock",
        "KdDebuggerDataBlock",
    ] {
        let found = engine.run(&format!("x nt!{name}"));
        assert!(found.starts_with(&tick(guest.symbol(name))), "{name}: {found}");
        let near = engine.run(&format!("ln {:#x}", guest.symbol(name)));
        assert!(near.contains(&format!("nt!{name}")), "{near}");
    }
}

#[test]
fn types_and_lists_are_read_as_the_guest_has_them() {
    let Some((guest, _service, mut engine)) = attached() else {
        return;
    };
    let layout = engine.run("dt nt!_EPROCESS");
    for field in [
        "UniqueProcessId",
        "ActiveProcessLinks",
        "ImageFileName",
        "ThreadListHead",
        "Peb",
    ] {
        let offset = guest.field("_EPROCESS", field);
        assert!(
            layout.contains(&format!("   +0x{offset:03x} {field} ")),
            "{field}:\n{layout}"
        );
    }
    let processes = guest.processes();
    assert!(processes.len() >= 5, "{}", guest.console);
    for process in processes {
        let address = process.address;
        let text = engine.run(&format!(
            "dt nt!_EPROCESS UniqueProcessId ImageFileName {address:#x}"
        ));
        let id = format!(" : {} Void", short(process.id));
        assert!(
            text.contains(&id) && text.contains(&format!("\"{}\"", process.name)),
            "{text}"
        );
        let root = guest.field("_KPROCESS", "DirectoryTableBase");
        assert_eq!(
            value(&engine.run(&format!("dq {address:#x}+{root:#x} L1"))),
            process.root
        );
    }
    let first = engine.run("dq nt!PsInitialSystemProcess L1");
    assert_eq!(value(&first), guest.processes()[0].address);
}

#[test]
fn each_processor_can_be_looked_at() {
    let Some((guest, _service, mut engine)) = attached() else {
        return;
    };
    let blocks = guest.symbol("KiProcessorBlock");
    for cpu in [1, 0] {
        let switched = engine.run(&format!("~{cpu}s"));
        assert!(!switched.contains("rror"), "{switched}");
        // Its own descriptor table, as its control region says; that lies before the control block in the kernel's table.
        let prcb = value(&engine.run(&format!("dq {:#x} L1", blocks + 8 * cpu)));
        let pcr = prcb - guest.field("_KPCR", "Prcb");
        let table = value(&engine.run(&format!("dq {pcr:#x} L1")));
        let register = engine.run("r gdtr");
        assert_eq!(
            register.trim().replace('`', ""),
            format!("gdtr={table:016x}"),
            "CPU {cpu}"
        );
    }
    let entry = value_of(&engine.run("rdmsr c0000082"));
    assert_eq!(entry, system_call_entry(guest));
    nothing_wrong(&engine);
}

/// Where LSTAR points: past the shadow stub, if the kernel has one.
fn system_call_entry(guest: &tests::NtGuest) -> u64 {
    let shadow = guest.profile.rvas.contains_key("KiSystemCall64Shadow");
    guest.symbol(if shadow {
        "KiSystemCall64Shadow"
    } else {
        "KiSystemCall64"
    })
}

/// A small number as `dt` prints a pointer: 0x00000000`00000004.
fn short(value: u64) -> String {
    format!("0x{}", tick(value))
}

/// The value behind an address: "fffff805`9221c000  ffff8a00`00441010".
#[track_caller]
fn value(text: &str) -> u64 {
    value_of(text.split_once("  ").map_or("", |(_, value)| value))
}

/// The last number of a text.
#[track_caller]
fn value_of(text: &str) -> u64 {
    let digits = text
        .split_whitespace()
        .last()
        .unwrap_or_default()
        .replace('`', "");
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("{text:?}"))
}
