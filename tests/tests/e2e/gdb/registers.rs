//! Registers, with the control ones.

use super::attached;

#[test]
fn attaching_stops_the_guest_and_quitting_lets_it_run() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    let (state, before) = service.state("vm");
    assert_eq!(state, "paused");
    gdb.run("info registers");
    assert_eq!(service.state("vm").1, before);
    gdb.detach();
    service.console().answers();
    assert_eq!(service.state("vm").0, "running");
}

#[test]
fn every_register_is_shown() {
    let Some((_, service, mut gdb)) = attached() else {
        return;
    };
    let shown = gdb.run("info registers");
    let core = "rax rbx rsp r15 rip eflags cs ss fs_base gs_base";
    let control = "k_gs_base cr0 cr2 cr3 cr4 cr8 efer xcr0 gdtr_base gdtr_limit idtr_base idtr_limit ldtr tr dr0 dr3 \
        dr6 dr7 apic_base star lstar sfmask tsc tsc_aux pat misc_enable";
    for name in core.split_whitespace().chain(control.split_whitespace()) {
        assert!(
            shown.lines().any(|line| line.starts_with(&format!("{name} "))),
            "{name}: {shown}"
        );
    }
    let all = gdb.run("info all-registers");
    for name in ["st0", "fctrl", "xmm15", "mxcsr"] {
        assert!(
            all.lines().any(|line| line.starts_with(&format!("{name} "))),
            "{name}: {all}"
        );
    }
    let dump = service.kdd(&["regs", "vm", "--json"]).done().json();
    for name in ["rip", "rsp", "cr0", "cr3", "cr4", "efer"] {
        let shown = dump["registers"][name].as_str().expect(name);
        let shown = u64::from_str_radix(shown.trim_start_matches("0x"), 16).expect(shown);
        assert_eq!(gdb.value(&format!("${name}")), shown, "{name}");
    }
    // Paging, write protection, protected mode; long mode active and enabled.
    assert_eq!(gdb.value("$cr0") & 0x8001_0001, 0x8001_0001);
    assert_eq!(gdb.value("$efer") & 0x500, 0x500);
}

#[test]
fn registers_are_writable_control_ones_too() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    let samples = [
        ("r14", 0x1122_3344_5566_7788),
        ("cr2", 0xffff_8000_dead_b000),
        ("dr0", 0xffff_ffff_8123_4567),
        ("k_gs_base", 0x7fff_0000_1000),
        ("fs_base", 0x7f00_0000_2000),
        ("mxcsr", 0x1fa0),
        ("fctrl", 0x27f),
        ("lstar", 0xffff_ffff_8100_0000),
        ("tsc_aux", 3),
    ];
    for (name, value) in samples {
        let before = gdb.value(&format!("${name}"));
        assert_ne!(before, value, "{name}");
        gdb.run(&format!("set ${name} = {value:#x}"));
        // From the guest, not from gdb's own copy.
        gdb.run("maintenance flush register-cache");
        assert_eq!(gdb.value(&format!("${name}")), value, "{name}");
        gdb.run(&format!("set ${name} = {before:#x}"));
    }
    let cr0 = gdb.value("$cr0");
    gdb.run(&format!("set $cr0 = {:#x}", cr0 & !0x1_0000));
    gdb.run("maintenance flush register-cache");
    assert_eq!(gdb.value("$cr0"), cr0 & !0x1_0000);
    gdb.run(&format!("set $cr0 = {cr0:#x}"));
    gdb.run("set $xmm3.v2_int64[1] = 0x0102030405060708");
    gdb.run("maintenance flush register-cache");
    assert_eq!(gdb.value("$xmm3.v2_int64[1]"), 0x0102_0304_0506_0708);
    gdb.run("set $st1 = 1.5");
    gdb.run("maintenance flush register-cache");
    assert!(gdb.run("print $st1").contains("= 1.5"));
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_value_that_the_machine_could_not_have_is_refused() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    // Reserved bits; paging without protection; a reserved bit of MXCSR.
    for (name, value) in [
        ("cr4", 0xffff_ffff_0000_0000_u64),
        ("cr0", 0x8000_0000),
        ("mxcsr", 0xffff_0000),
    ] {
        let before = gdb.value(&format!("${name}"));
        let answer = gdb.run(&format!("set ${name} = {value:#x}"));
        assert!(answer.contains("Could not write register"), "{name}: {answer}");
        gdb.run("maintenance flush register-cache");
        assert_eq!(gdb.value(&format!("${name}")), before, "{name}");
    }
    gdb.detach();
    service.console().answers();
}

#[test]
fn monitor_commands_show_the_machine() {
    let Some((snapshot, service, mut gdb)) = attached() else {
        return;
    };
    let help = gdb.run("monitor help");
    for name in [
        "registers",
        "msr",
        "translate",
        "info",
        "physical",
        "place",
        "pause-policy",
        "save",
        "fork",
        "reset",
    ] {
        assert!(help.lines().any(|line| line.starts_with(name)), "{name}: {help}");
    }
    let lstar = gdb.value("$lstar");
    assert_eq!(gdb.run("monitor msr c0000082").trim(), format!("{lstar:#018x}"));
    assert!(gdb.run("monitor msr 12345678").contains("no MSR"));
    assert!(gdb.run("monitor registers").contains("cr3"));
    let text = snapshot.symbol("_stext");
    let walk = gdb.run(&format!("monitor translate {text:x}"));
    assert!(walk.contains("PML4E") && walk.contains("is physical"), "{walk}");
    let domain = gdb.run("monitor info domain");
    assert!(domain.contains("vm (") && domain.contains("vCPU 0"), "{domain}");
    assert!(gdb.run("monitor info interrupts").contains("IOAPIC"));
    assert!(gdb.run("monitor info devices").contains("UART"));
    assert!(gdb.run("monitor info sessions").contains("holds the guest"));
    assert!(gdb.run("monitor nonsense").contains("no such command"));
    let state = service.scratch().path("saved");
    assert!(
        gdb.run(&format!("monitor save {}", state.display()))
            .contains("saved to")
    );
    assert!(state.is_file());
    let fork = gdb.run("monitor fork child");
    assert!(fork.contains("target remote 127.0.0.1:"), "{fork}");
    assert_eq!(service.state("child").0, "paused");
}

#[test]
fn monitor_reset_boots_again_under_the_debugger() {
    let Some((_, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.run("monitor reset");
    gdb.run("maintenance flush register-cache");
    assert!(gdb.value("$rip") < 1 << 32, "not at the kernel's entry");
    gdb.detach();
    service.console().shows("Linux version", tests::LIMIT);
}
