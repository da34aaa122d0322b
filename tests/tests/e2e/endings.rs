//! A guest that ends, resets itself or says that it crashed: what those who watch it are told.

use serde_json::Value;
use std::time::Instant;
use tests::{BOOT_LIMIT, Gdb, LIMIT, Outcome, SECOND_KERNEL, Service, guest, one_vcpu};

/// Watches for one incident, does `act` meanwhile, and gives what the watch told.
#[track_caller]
fn incident(service: &mut Service, on: &str, act: impl FnOnce(&mut Service)) -> Value {
    let control = service.control().to_owned();
    let watch = ["watch", "vm", "--on", on, "--count", "1", "--json"];
    // A watch is ready when it listens; for what the kernel does, when its breakpoints are set.
    let ready = if on == "panic" {
        "watch, 1 breakpoints"
    } else {
        "watch"
    };
    std::thread::scope(|scope| {
        let told = scope.spawn(|| Outcome::of(&control, &watch));
        let since = Instant::now();
        let is_ready = |session: &Value| session.as_str().is_some_and(|text| text.starts_with(ready));
        while !service.info("vm")["sessions"]
            .as_array()
            .is_some_and(|all| all.iter().any(is_ready))
        {
            assert!(since.elapsed() < LIMIT, "the watch doesn't come");
        }
        act(service);
        let told = told.join().expect("the watch ends").done();
        told.json_lines().pop().expect("it tells of the incident")
    })
}

/// The guest's shell is given a command that it may not end.
fn types(command: &str) -> impl FnOnce(&mut Service) {
    move |service| service.console().types(&format!("{command}\r"))
}

#[test]
fn a_reset_is_told_with_its_port() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    let told = incident(&mut service, "reset", types("reboot -f"));
    assert_eq!(told["cause"], "reset");
    assert_eq!(
        told["detail"],
        "the guest reset itself by port 0xcf9 (reset control)"
    );
}

#[test]
fn a_stock_kernel_finds_pvpanic() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    let ports = service.console().command("cat /proc/ioports");
    assert!(ports.contains("0505-0505 : QEMU0001:00"), "{ports}");
}

#[test]
fn a_panic_reaches_the_microsoft_interface() {
    let Some(guest) = guest(Some(SECOND_KERNEL)) else {
        return;
    };
    let (kernel, initrd) = (guest.kernel.to_string_lossy(), guest.initrd.to_string_lossy());
    let append = "console=ttyS0 cryptomgr.notests";
    let arguments = ["--kernel", &kernel, "--initrd", &initrd, "--append", append];
    let arguments = [&arguments[..], &["--cpus", "2", "--cpu", "kdd64-hv"]].concat();
    let mut service = Service::run(&arguments);
    service.console().shows_prompt(BOOT_LIMIT);
    let log = service.console().command("dmesg");
    assert!(log.contains("Hypervisor detected: Microsoft Hyper-V"), "{log}");
    for complaint in ["unchecked MSR", "WARNING", "unstable"] {
        assert!(!log.contains(complaint), "{log}");
    }
    let told = incident(&mut service, "crash", types("echo c >/proc/sysrq-trigger"));
    let detail = told["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("Kernel panic - not syncing: sysrq triggered crash"),
        "{told}"
    );
    assert_eq!(service.info("vm")["guest_crash"], detail);
    assert_eq!(service.state("vm").0, "running", "it spins in panic()");
}

#[test]
fn an_oops_on_the_way_to_a_panic_is_not_a_panic_of_its_own() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.console().answers();
    let mut gdb = Gdb::attached(&service.gdb_address());
    // The idle task goes astray. Its oops looks for a crash kernel before it is known that the task can't be killed.
    gdb.run("set $pc = 0");
    let told = incident(&mut service, "panic", |_| gdb.detach());
    assert_eq!(
        (&told["cause"], &told["detail"]),
        (&"panic".into(), &"Attempted to kill the idle task!".into())
    );
}
