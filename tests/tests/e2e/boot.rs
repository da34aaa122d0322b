//! The stock kernel boots, works, and ends.

use std::time::Duration;
use tests::{BOOT_LIMIT, LIMIT, SECOND_KERNEL, Service, expected_smoke_output, four_vcpus, guest, one_vcpu};

/// What a kernel says when it finds something wrong with its machine.
const COMPLAINTS: &[&str] = &[
    "WARNING",
    "BUG",
    "Oops",
    "Call Trace",
    "Firmware Bug",
    "unchecked MSR",
    "unstable",
    "soft lockup",
    "rcu_sched",
    "rcu_preempt",
    "blocked for more than",
    "[Hardware Error]",
];

/// Boots the guest's usual kernel, or another.
fn boot(kernel: Option<&str>, append: &str, arguments: &[&str]) -> Option<Service> {
    let guest = guest(kernel)?;
    let append = format!("console=ttyS0 cryptomgr.notests {append}");
    let (kernel, initrd) = (guest.kernel.to_string_lossy(), guest.initrd.to_string_lossy());
    let mut all = vec!["--kernel", &kernel, "--initrd", &initrd, "--append", &append];
    all.extend(arguments);
    Some(Service::run(&all))
}

/// The guest comes to its shell with so many vCPUs, about so much memory, and nothing to complain of.
#[track_caller]
fn comes_up(service: &mut Service, vcpus: u32, mebibytes: u64) {
    service.console().shows_prompt(BOOT_LIMIT);
    is_right(service, vcpus, mebibytes);
}

#[track_caller]
fn is_right(service: &mut Service, vcpus: u32, mebibytes: u64) {
    is_healthy(service);
    let mut console = service.console();
    assert_eq!(console.command("nproc"), format!("{vcpus}\n"));
    let kib = console.command("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
    let mib: u64 = kib.trim().parse::<u64>().expect("a number") / 1024;
    // The kernel keeps a part for itself.
    assert!(
        (mebibytes * 3 / 5..=mebibytes).contains(&mib),
        "{mib} MiB of {mebibytes}"
    );
}

#[track_caller]
fn is_healthy(service: &mut Service) {
    has_no_complaints(&service.console().command("dmesg"));
}

#[track_caller]
fn has_no_complaints(log: &str) {
    let found: Vec<_> = log
        .lines()
        .filter(|line| COMPLAINTS.iter().any(|word| line.contains(word)))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn one_vcpu_without_kaslr() {
    let Some(snapshot) = one_vcpu() else { return };
    has_no_complaints(&snapshot.boot_console);
    is_right(&mut snapshot.service(), 1, 256);
    assert_eq!(snapshot.symbol("_stext"), 0xffff_ffff_8100_0000);
}

#[test]
fn four_vcpus_with_kaslr() {
    let Some(snapshot) = four_vcpus() else { return };
    has_no_complaints(&snapshot.boot_console);
    let mut service = snapshot.service();
    is_right(&mut service, 4, 256);
    assert_ne!(snapshot.symbol("_stext"), 0xffff_ffff_8100_0000);
    // Each of them works.
    let mut console = service.console();
    for vcpu in 0..4 {
        assert_eq!(
            console.command(&format!("taskset {:x} sh -c 'echo on $((6*7))'", 1 << vcpu)),
            "on 42\n"
        );
    }
}

#[test]
fn two_vcpus_with_little_memory_as_x86_64_v2() {
    let arguments = ["--cpus", "2", "--memory", "128M", "--cpu", "x86-64-v2"];
    let Some(mut service) = boot(None, "", &arguments) else {
        return;
    };
    comes_up(&mut service, 2, 128);
    assert!(service.console().command("cat /proc/cpuinfo").contains("sse4_2"));
}

#[test]
fn one_vcpu_with_much_memory_and_the_minimal_cpu() {
    let arguments = ["--memory", "2G", "--cpu", "minimal"];
    let Some(mut service) = boot(None, "nokaslr", &arguments) else {
        return;
    };
    comes_up(&mut service, 1, 2048);
    assert!(!service.console().command("cat /proc/cpuinfo").contains("sse4_2"));
}

#[test]
fn a_kernel_of_another_version() {
    let Some(mut service) = boot(Some(SECOND_KERNEL), "", &["--cpus", "2", "--seed", "7"]) else {
        return;
    };
    comes_up(&mut service, 2, 256);
    let first = one_vcpu()
        .map(|snapshot| &snapshot.boot_console)
        .expect("the usual kernel");
    let version = service.console().command("uname -r");
    assert!(!first.contains(version.trim()), "{version}");
}

/// What people add to a command line, and machines of other sizes.
const OTHERS: &[(&str, &[&str])] = &[
    ("nosmp", &["--cpus", "2"]),
    ("noapic nokaslr", &[]),
    ("nolapic nokaslr", &[]),
    ("acpi=off nokaslr", &[]),
    ("clocksource=acpi_pm nokaslr", &[]),
    ("nox2apic lapic=notscdeadline nokaslr", &["--cpus", "3"]),
    ("nohz=off highres=off nokaslr", &["--cpus", "2"]),
    ("idle=poll nokaslr", &[]),
    ("pti=on nokaslr", &["--cpus", "2"]),
    ("noxsave nopcid nosmep nosmap nofsgsbase nokaslr", &[]),
    ("mitigations=off ignore_loglevel initcall_debug", &[]),
    (
        "slub_debug=FZP page_poison=1 init_on_alloc=1 init_on_free=1 nokaslr",
        &[],
    ),
    ("earlyprintk=serial,ttyS0,115200 nokaslr", &["--memory", "96M"]),
    ("maxcpus=2 nokaslr", &["--cpus", "4"]),
    ("nokaslr", &["--cpus", "8"]),
    ("", &["--cpus", "2", "--memory", "5G"]),
];

#[test]
#[ignore = "many boots: for the night"]
fn other_command_lines_and_sizes_boot() {
    for (append, arguments) in OTHERS {
        let Some(mut service) = boot(None, append, arguments) else {
            return;
        };
        eprintln!("{append} {arguments:?}");
        service.console().shows_prompt(BOOT_LIMIT);
        is_healthy(&mut service);
        service.console().command("sleep 1");
    }
}

#[test]
#[ignore = "a long boot: for the night"]
fn the_kernels_own_tests_of_its_ciphers_pass() {
    let Some(guest) = guest(None) else { return };
    let (kernel, initrd) = (guest.kernel.to_string_lossy(), guest.initrd.to_string_lossy());
    let mut service = Service::run(&[
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        "console=ttyS0",
    ]);
    service.console().shows_prompt(BOOT_LIMIT);
    is_healthy(&mut service);
    let log = service.console().command("dmesg");
    assert!(!log.contains("alg: ") || !log.contains("fail"), "{log}");
}

/// Ordinary work gives exactly the output of another machine; then the guest powers off, which ends `kdd run`.
#[track_caller]
fn works_exactly(kernel: Option<&str>, append: &str, arguments: &[&str]) {
    let Some(mut service) = boot(kernel, &format!("kdd.script=smoke {append}"), arguments) else {
        return;
    };
    let status = service.ended(BOOT_LIMIT);
    let console = service.console_text().replace('\r', "");
    let output = console
        .split_once("kdd-guest: begin smoke\n")
        .map(|(_, rest)| rest)
        .unwrap_or(&console);
    let (output, end) = output.split_once("kdd-guest: end smoke, ").expect(&console);
    assert_eq!(output, expected_smoke_output());
    assert!(end.starts_with("status 0\n"), "{end}");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn work_gives_exact_output_and_power_off_ends_with_status_0() {
    works_exactly(None, "", &["--seed", "1"]);
}

#[test]
fn work_gives_exact_output_on_four_vcpus() {
    works_exactly(None, "nokaslr", &["--cpus", "4"]);
}

/// What a machine may be, and what its kernel may be told, short of what hides the APIC, which the work looks for, or
/// names functions in the kernel's log, in which it looks for words of trouble.
const MACHINES: &[(&str, &[&str])] = &[
    ("", &["--cpus", "8", "--memory", "512M"]),
    ("nokaslr nosmp", &["--cpus", "2", "--memory", "128M"]),
    ("nopti mitigations=off", &["--cpus", "3", "--cpu", "x86-64-v2"]),
    ("pti=on nopcid", &["--cpu", "minimal", "--memory", "2G"]),
    ("noapic", &[]),
    ("nolapic_timer", &[]),
    ("nox2apic noxsave", &["--cpus", "2"]),
    ("clocksource=acpi_pm nohz=off highres=off", &["--cpus", "2"]),
    ("lapic=notscdeadline", &["--cpus", "4", "--seed", "77"]),
    ("debug page_poison=1 slub_debug=FZP", &["--memory", "1G"]),
];

#[test]
#[ignore = "takes some minutes; setup/nightly.sh runs it"]
fn every_kernel_works_exactly_on_every_machine() {
    for kernel in [None, Some(SECOND_KERNEL)] {
        for (append, arguments) in MACHINES {
            println!(
                "{}: {append:?} {arguments:?}",
                kernel.unwrap_or("the usual kernel")
            );
            works_exactly(kernel, append, arguments);
        }
    }
}

#[test]
fn the_last_shell_powers_off_with_status_0() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.console().types("exit\r");
    assert_eq!(service.ended(LIMIT).code(), Some(0));
    assert!(service.console_text().contains("reboot: Power down"));
}

#[test]
fn a_reboot_boots_again() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    let mut console = service.console();
    console.command("echo old >/tmp/mark");
    console.types("reboot -f\r");
    console.shows("reboot: Restarting system", LIMIT);
    console.shows("Linux version", LIMIT);
    console.shows_prompt(BOOT_LIMIT);
    console.command("test ! -e /tmp/mark");
    is_healthy(&mut service);
}

#[test]
fn a_kernel_that_panics_can_be_looked_at_and_reset() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.console().types("echo c >/proc/sysrq-trigger\r");
    service.console().shows("end Kernel panic - not syncing", LIMIT);
    let registers = service.kdd(&["regs", "vm", "--json"]).done().json();
    assert_eq!(registers["mode"], "long");
    service.kdd(&["reset", "vm"]).done();
    service.console().shows("Linux version", LIMIT);
}

#[test]
fn the_console_takes_what_is_typed() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    let mut console = service.console();
    console.types("ls -d /bi\t\r");
    console.shows("\n/bin", LIMIT);
    console.shows_prompt(LIMIT);
    let long = "0123456789".repeat(40);
    assert_eq!(console.command(&format!("echo {long}")), format!("{long}\n"));
    // The shell takes Ctrl-C as a character while it edits a line, as a signal once a command runs.
    console.types("echo run''ning; sleep 1000\r");
    console.shows("\nrunning", LIMIT);
    console.types("\x03");
    console.shows("^C", LIMIT);
    console.answers();
}

#[test]
fn an_idle_guest_costs_little() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.console().answers();
    let before = service.cpu_time();
    service.console().command("sleep 4");
    let used = service.cpu_time() - before;
    eprintln!("an idle guest used {used:?} of CPU time in 4 s");
    assert!(used < Duration::from_millis(800), "{used:?}");
}

#[test]
fn guest_time_does_not_run_ahead_of_the_host() {
    let Some(snapshot) = one_vcpu() else { return };
    let mut service = snapshot.service();
    service.console().answers();
    let start = std::time::Instant::now();
    service.console().command("sleep 2");
    assert!(
        start.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        start.elapsed()
    );
}
