//! Kernels that die, and kernels that nearly do.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use introspect::linux::Linux;

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

#[test]
fn a_panic_of_6_1() {
    a_panic_is_told(&guest::STABLE);
}

#[test]
fn a_panic_of_6_12() {
    a_panic_is_told(&guest::NEWER);
}
