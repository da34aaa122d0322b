//! Kernels that die, and kernels that nearly do.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use hv_core::introspect::Introspect;
use introspect::Target;
use introspect::linux::Linux;
use std::sync::Arc;

/// A panic is told with its CPU and its words, whatever the vCPUs are doing.
fn a_panic_is_told(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    machine.command("echo 1 >/proc/sys/kernel/sysrq");
    machine.types("echo c >/proc/sysrq-trigger");
    machine.shows("end Kernel panic - not syncing");
    machine.paused(|domain| {
        let linux = recognise(domain);
        let crash = linux.crash(domain).expect("its state");
        println!("{crash:?}");
        assert!(crash.panicked());
        assert_eq!(crash.panic.as_deref(), Some("sysrq triggered crash"));
        assert_eq!(crash.message(), Some("sysrq triggered crash"));
        assert_eq!(crash.kdump_loaded, Some(false));
        assert!(crash.panic_cpu.is_some_and(|cpu| cpu < kind.vcpus));
        let alone = Linux::recognise_in_memory(domain).expect("it is Linux");
        assert_eq!(alone.crash(domain), Ok(crash));
    });
}

/// A kernel that has an oops and lives on says what it was; the same with `panic_on_oops` is a panic.
fn an_oops_is_told(kind: &Kind, code: &[u8], words: &str) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    let target = Target::new(machine.domain.clone() as Arc<dyn Introspect>);
    let linux = machine.paused(recognise);
    let function = linux.symbol("__x64_sys_sethostname").expect("a symbol");
    let write = |code: &[u8]| {
        let written = target.write_virtual(linux.address_space(), function, code);
        assert_eq!(written.expect("text"), code.len());
    };
    let mut right = vec![0; code.len()];
    target
        .read_virtual(linux.address_space(), function, &mut right)
        .expect("text");
    write(code);
    machine.types("hostname other");
    machine.shows("---[ end trace");
    write(&right);
    assert_eq!(machine.command("echo alive"), "alive\n");
    machine.paused(|domain| {
        let crash = linux.crash(domain).expect("its state");
        println!("{crash:?}");
        assert!(!crash.panicked());
        assert_eq!(crash.oopses, Some(1));
        assert!(crash.taint.died(), "{}", crash.taint);
        assert_eq!(crash.panic_on_oops, Some(false));
        assert!(crash.message().is_some_and(|it| it.contains(words)), "{crash:?}");
    });
    machine.command("echo 1 >/proc/sys/kernel/panic_on_oops");
    write(code);
    machine.types("hostname other");
    machine.shows("end Kernel panic - not syncing");
    machine.paused(|domain| {
        let crash = linux.crash(domain).expect("its state");
        assert!(crash.panicked());
        assert_eq!(crash.panic_on_oops, Some(true));
        assert_eq!(crash.message(), Some("Fatal exception"));
        assert!(crash.oops.is_some_and(|it| it.contains(words)));
    });
}

#[test]
fn an_invalid_opcode_in_6_1() {
    an_oops_is_told(&guest::STABLE_FIXED, &[0x0f, 0x0b], "invalid opcode");
}

#[test]
fn a_null_pointer_in_6_12() {
    // mov [0], eax
    let code = [0x89, 0x04, 0x25, 0, 0, 0, 0];
    an_oops_is_told(&guest::NEWER, &code, "BUG: kernel NULL pointer dereference");
}

#[test]
fn a_panic_of_6_1() {
    a_panic_is_told(&guest::STABLE);
}

#[test]
fn a_panic_of_6_12() {
    a_panic_is_told(&guest::NEWER);
}
