//! The guest runs under the debugger: breakpoints, steps, watches, modules that come and go, a breakpoint instruction
//! of its own.

use super::User;
use tests::{LIMIT, until};

pub(super) fn all(user: &mut User) {
    user.engine.run("~0s");
    breakpoints_on_the_clock(user);
    steps_follow_the_code(user);
    conditions_decide(user);
    watches_stop_behind_the_access(user);
    a_system_call_is_seen_from_both_sides(user);
    modules_come_and_go(user);
    the_kernels_own_breakpoints_are_told_of(user);
    many_breakpoints_at_once(user);
}

const CLOCK: &str = "nt!KeClockInterruptNotify";

fn breakpoints_on_the_clock(user: &mut User) {
    for command in [format!("bp {CLOCK}"), format!("ba e1 {CLOCK}")] {
        user.engine.run(&command);
        for _ in 0..2 {
            user.says("g", &[format!("Breakpoint 0 hit\n{CLOCK}:\n")]);
        }
        user.says("bl", &[format!("{CLOCK}\n")]);
        user.says("k", &[CLOCK, "nt!KiClockInterrupt"]);
        user.engine.run("bc *");
    }
    user.says(&format!("g {CLOCK}"), &[format!("{CLOCK}:\n")]);
    // One that is disabled stops nothing; one that is counted stops at the last.
    user.engine
        .run(&format!("bp {CLOCK}; bd 0; bp nt!KiClockInterrupt 3"));
    user.says("g", &["Breakpoint 1 hit\nnt!KiClockInterrupt"]);
    user.engine.run("bc *");
}

/// Addresses of the instructions from here on, as the engine disassembles them.
fn listing(user: &mut User, count: usize) -> Vec<u64> {
    let text = user.engine.run(&format!("u @$ip L{count}"));
    let address = |line: &str| {
        let word = line.split(' ').next()?.replace('`', "");
        (word.len() >= 8).then(|| u64::from_str_radix(&word, 16).ok())?
    };
    text.lines().filter_map(address).collect()
}

fn steps_follow_the_code(user: &mut User) {
    user.engine.run(&format!("bp {CLOCK}"));
    user.says("g", &["Breakpoint 0 hit\n"]);
    user.engine.run("bc *");
    let back = user.value("poi(@$csp)");
    let stack = user.value("@$csp");
    let code = listing(user, 5);
    assert_eq!(code.len(), 5, "{code:x?}");
    for (n, place) in code.iter().enumerate().skip(1) {
        user.engine.run(if n % 2 == 0 { "p" } else { "t" });
        assert_eq!(user.value("@$ip"), *place, "step {n}");
    }
    // Not `gu`, for which a function that is in line is one, too.
    user.engine.run(&format!("g {back:#x}"));
    assert_eq!(user.value("@$ip"), back);
    assert_eq!(user.value("@$csp"), stack + user.pointer());
    // To an address, by steps.
    let code = listing(user, 2);
    user.engine.run(&format!("pa {:#x}", code[1]));
    assert_eq!(user.value("@$ip"), code[1]);
}

fn conditions_decide(user: &mut User) {
    user.engine.run("r $t3=0");
    let condition = ".if (@$t3 >= 3) { .echo third } .else { r $t3=@$t3+1; gc }";
    user.engine.run(&format!("bp {CLOCK} \"{condition}\""));
    user.says("g", &[format!("third\n{CLOCK}:\n")]);
    assert_eq!(user.value("@$t3"), 3);
    user.engine.run("bc *");
    user.engine
        .run(&format!("bp {CLOCK} \"j (1==0) '.echo never' ; '.echo else'\""));
    let hit = user.says("g", &["else\n"]);
    assert!(!hit.contains("never"), "{hit}");
    user.engine.run("bc *");
}

fn watches_stop_behind_the_access(user: &mut User) {
    for access in ["w4", "r4"] {
        let before = user.value("dwo(nt!KiSystemCalls)");
        user.engine.run(&format!("ba {access} nt!KiSystemCalls"));
        let hit = user.goes_with("user");
        user.has(access, &hit, &["Breakpoint 0 hit\nnt!KiSystemService"]);
        assert_eq!(user.value("dwo(nt!KiSystemCalls)"), before + 1, "{access}");
        user.engine.run("bc *");
    }
}

fn a_system_call_is_seen_from_both_sides(user: &mut User) {
    user.engine.run("bp nt!NtQuerySystemTime");
    let hit = user.goes_with("user");
    user.has("bp", &hit, &["Breakpoint 0 hit\nnt!NtQuerySystemTime:\n"]);
    user.engine.run("bc *");
    user.says("k", &["nt!NtQuerySystemTime", "nt!KiSystemService"]);
    // The caller is one of the processes that the console told of, and a program.
    let process = user.value("@$proc");
    let known = user.guest.processes();
    let caller = known.iter().find(|known| known.address == process);
    let caller = caller.unwrap_or_else(|| panic!("{process:#x}: {}", user.guest.console));
    assert_ne!(caller.name, "System");
    let field = user.guest.field("_KTHREAD", "TrapFrame");
    let frame = user.value(&format!("poi(@$thread+{field:#x})"));
    user.says(
        &format!(".trap {frame:#x}"),
        &[if user.is_x86() { "cs=001b" } else { "rip=0000" }],
    );
    assert!(user.value("@$ip") < user.guest.profile.system_range_start());
    user.engine.run(".trap");
    user.says("gu", &["nt!KiSystemService"]);
}

fn modules_come_and_go(user: &mut User) {
    user.engine.run("sxe ld");
    user.goes_with("load");
    user.says(".lastevent", &["Load module sample.sys at "]);
    user.engine.run("sxd ld; sxe ud");
    let gone = user.goes_with("unload");
    user.has("sxe ud", &gone, &["Unload module ", "sample.sys at "]);
    user.engine.run("sxd ud");
}

fn the_kernels_own_breakpoints_are_told_of(user: &mut User) {
    let stop = user.goes_with("int3");
    user.has(
        "int3",
        &stop,
        &["Break instruction exception - code 80000003 ", "int     3\n"],
    );
    user.says("k", &["nt!CommandInt3", "nt!KiConsoleThread"]);
    let place = user.value("@$ip");
    assert_eq!(user.value(&format!("by({place:#x})")), 0xcc);
    user.engine.run("p");
    assert_eq!(user.value("@$ip"), place + 1);
    user.says(".reload", &["Loading unloaded module list\n."]);
    user.says("lm", &["Unloaded modules:\n", "   sample.sys"]);
}

/// As many as the engine allows, and all four data breakpoints, on what the guest's watch sums up again and again.
fn many_breakpoints_at_once(user: &mut User) {
    for n in 0..24 {
        user.engine.run(&format!("bp{n} nt!KeBugCheckEx+{n:x}"));
    }
    for n in 30..34 {
        user.engine.run(&format!("ba{n} r1 nt!KiBugCheckData+{n:x}"));
    }
    user.engine.run("bp40 nt!NtQuerySystemTime");
    let set = user.engine.run("bl");
    let set = set.lines().filter(|line| line.contains(" e "));
    assert_eq!(set.count(), 29);
    user.engine.begin("g");
    let before = watched(user);
    until("the watch to go round", || watched(user) >= before + 2);
    user.service.console().types("user\r");
    let hit = user.engine.end();
    user.has("bp40", &hit, &["Breakpoint 40 hit\n"]);
    user.engine.run("bc *");
}

/// How often the guest has summed itself up; it found no change.
fn watched(user: &mut User) -> u64 {
    let mut console = user.service.console().from_now();
    console.types("sum\r");
    console.shows("changes 0\r\n", LIMIT);
    console.shows("nt> ", LIMIT);
    let text = user.service.console_text();
    let rounds = text.rsplit("rounds ").next().unwrap_or_default();
    let digits = rounds.split_whitespace().next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no rounds: {text}"))
}
