//! How a guest ends under the debugger, and begins again.

use super::{lives, nothing_wrong, options, tick};
use nt_guest::Arch;
use tests::{Engine, NtGuest, Service, has_engine, nt_guest};

/// A 64-bit guest and a 32-bit one, with four processors, and an engine attached.
fn each(check: impl Fn(&'static NtGuest, &mut Service, &mut Engine)) {
    if !has_engine() {
        return;
    }
    for profile in [super::PROFILE, "win7-x86"] {
        let Some(guest) = nt_guest(profile, 4) else { return };
        let mut service = guest.service();
        let mut engine = Engine::attached(&service.kd_address(), &options(guest));
        check(guest, &mut service, &mut engine);
        nothing_wrong(&engine);
        engine.detach();
        lives(&mut service);
    }
}

/// The engine has found the next boot by itself, and stands in it.
#[track_caller]
fn has_come_again(guest: &NtGuest, engine: &mut Engine, said: &str) {
    for words in [
        "Shutdown occurred at ",
        "...unloading all symbol tables.\n",
        "Waiting to reconnect...\n",
        "Kernel Debugger connection established.  (Initial Breakpoint requested)\n",
        // The clock began anew.
        "System Uptime: 0 days 0:00:00.",
        "Break instruction exception - code 80000003 (first chance)\n",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    engine.run(".reload");
    let modules = engine.run("lm");
    for name in [" nt ", " hal ", " bootdrv "] {
        assert!(modules.contains(name), "{}: {modules}", guest.profile.name);
    }
    assert!(engine.run(".bugcheck").contains("Bugcheck code 00000000\n"));
    assert_eq!(engine.run("bl").trim(), "", "breakpoints don't outlive a boot");
    engine.run("bp nt!KeClockInterruptNotify");
    let hit = engine.run("g");
    assert!(
        hit.starts_with("Breakpoint 0 hit\nnt!KeClockInterruptNotify:\n"),
        "{hit}"
    );
    engine.run("bc *");
}

#[test]
fn a_reboot_leads_to_the_next_boot() {
    each(|guest, _, engine| {
        engine.run_all(&["bp nt!KeClockInterruptNotify", "g"]);
        let said = engine.run(".reboot");
        has_come_again(guest, engine, &said);
    });
}

#[test]
fn a_guest_that_is_reset_while_it_runs_leads_there_too() {
    each(|guest, service, engine| {
        engine.begin("g");
        lives(service);
        service.kdd(&["reset", "vm"]).done();
        let said = engine.end();
        assert!(said.contains("kdd: the guest was reset\n"), "{said}");
        has_come_again(guest, engine, &said);
    });
}

#[test]
fn a_bugcheck_is_told_with_its_arguments_and_ends_in_a_reboot() {
    each(|guest, service, engine| {
        engine.begin("g");
        service.console().types("bugcheck e2 11 22 33 44\r");
        let stop = engine.end();
        let shown = |value: u64| match guest.profile.arch {
            Arch::X86 => format!("{value:08x}"),
            Arch::X64 => tick(value),
        };
        let width = 2 * guest.profile.arch.pointer() as usize;
        let arguments: Vec<String> = [0x11, 0x22, 0x33, 0x44]
            .iter()
            .map(|value: &u64| format!("0x{value:0width$X}"))
            .collect();
        let text = format!(
            "*** Fatal System Error: 0x000000e2\n                       ({})\n",
            arguments.join(",")
        );
        for words in [&*text, "Break instruction exception", "\nnt!KeBugCheckEx:\n"] {
            assert!(stop.contains(words), "{words}: {stop}");
        }
        let told = engine.run(".bugcheck");
        let arguments = [0x11, 0x22, 0x33, 0x44].map(shown).join(" ");
        assert_eq!(told, format!("Bugcheck code 000000E2\nArguments {arguments}\n"));
        let stack = engine.run("k");
        assert!(stack.contains("nt!KiConsoleThread"), "{stack}");
        // It goes on to its end, and can still be looked at.
        let end = engine.run("g");
        assert!(end.contains("kdd: the guest crashed: "), "{end}");
        assert_eq!(
            engine.run(".bugcheck"),
            told,
            "the kernel has written the same by now"
        );
        let said = engine.run(".reboot");
        has_come_again(guest, engine, &said);
    });
}

#[test]
fn an_error_of_the_kernels_own_is_told_as_well() {
    each(|_, service, engine| {
        engine.begin("g");
        service.console().types("divide\r");
        let stop = engine.end();
        assert!(stop.contains("*** Fatal System Error: 0x000000"), "{stop}");
        let frames = engine.run("k");
        assert!(frames.contains("nt!KeBugCheckEx"), "{frames}");
        assert!(!engine.run(".bugcheck").contains("code 00000000"));
        engine.run(".reboot");
    });
}
