//! Whether the kernel has crashed, or has had an oops and lives on.

use super::error::Error;
use super::{Linux, Record};
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use std::fmt;

/// `panic_cpu` of a kernel that hasn't panicked (PANIC_CPU_INVALID).
const NO_CPU: u32 = u32::MAX;
/// How a panic begins in the log.
const PANIC: &str = "Kernel panic - not syncing: ";
/// The line that every oops has: `Oops: 0002 [#1] PREEMPT SMP`. Others before it say more.
const OOPS: &str = "Oops: ";
/// Lines before it that are looked at.
const OOPS_HEAD: usize = 8;
/// How what makes an oops begins: texts of `__die`, `page_fault_oops`, `exc_…` and `BUG()` in arch/x86.
const CAUSES: [&str; 8] = [
    "BUG: kernel NULL pointer dereference",
    "BUG: unable to handle",
    "kernel BUG at ",
    "general protection fault",
    "divide error: ",
    "invalid opcode: ",
    "stack segment: ",
    "double fault: ",
];

/// What the kernel was marked with (`tainted_mask`; Documentation/admin-guide/tainted-kernels.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Taint(pub u64);

impl Taint {
    /// The letters of set bits, in the order of the bits; the first one is `G` when it isn't `P`.
    const LETTERS: &'static [u8] = b"PFSRMBUDAWCIOELKXTNJ";

    /// An oops happened (TAINT_DIE).
    pub fn died(self) -> bool {
        self.0 & 1 << 7 != 0
    }

    /// A warning happened (TAINT_WARN).
    pub fn warned(self) -> bool {
        self.0 & 1 << 9 != 0
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("not tainted");
        }
        let set = |(bit, letter): (usize, &u8)| (self.0 >> bit & 1 != 0).then_some(char::from(*letter));
        let letters: String = Self::LETTERS.iter().enumerate().filter_map(set).collect();
        f.write_str(&letters)
    }
}

/// The state of a kernel that may have crashed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crash {
    /// The CPU that panicked. A panic doesn't end: the kernel is dead.
    pub panic_cpu: Option<u32>,
    /// The message of the panic, from the log: what follows `Kernel panic - not syncing: `.
    pub panic: Option<String>,
    /// Oopses so far (`die_counter`).
    pub oopses: Option<u32>,
    /// The last oops' line in the log: `BUG: kernel NULL pointer dereference, address: …`.
    pub oops: Option<String>,
    /// A message that must get out is being printed (`oops_in_progress`).
    pub in_progress: bool,
    /// Whether an oops makes the kernel panic (`panic_on_oops`).
    pub panic_on_oops: Option<bool>,
    /// Seconds from a panic to the reboot (`panic_timeout`): 0 is never, less is at once.
    pub panic_timeout: Option<i32>,
    /// What the kernel is marked with.
    pub taint: Taint,
    /// A kernel for a crash is loaded (`kexec_crash_image`): a panic starts it.
    pub kdump_loaded: Option<bool>,
}

impl Crash {
    /// Whether the kernel is dead.
    pub fn panicked(&self) -> bool {
        self.panic_cpu.is_some()
    }

    /// What happened, in a line: the panic, or else the last oops.
    pub fn message(&self) -> Option<&str> {
        match self.panicked() {
            true => Some(self.panic.as_deref().unwrap_or("a panic without a message")),
            false => self.oops.as_deref(),
        }
    }
}

impl Linux {
    /// Whether the kernel has panicked, or had an oops, and with which words.
    ///
    /// # Errors
    /// [`Error`] if `panic_cpu` can't be read.
    pub fn crash(&self, memory: &dyn ReadMemory) -> Result<Crash, Error> {
        let space = self.space(memory);
        let word = |name: &'static str| -> Option<u32> { space.u32(name, self.symbol(name)?).ok() };
        let pointer = |name: &'static str| -> Option<u64> { space.u64(name, self.symbol(name)?).ok() };
        let cpu = space.u32("panic_cpu", self.needed("panic_cpu")?)?;
        let oopses = word("die_counter");
        let taint = Taint(pointer("tainted_mask").unwrap_or(0));
        let panicked = cpu != NO_CPU;
        let mut crash = Crash {
            panic_cpu: panicked.then_some(cpu),
            panic: None,
            oopses,
            oops: None,
            in_progress: word("oops_in_progress").is_some_and(|count| count != 0),
            panic_on_oops: word("panic_on_oops").map(|on| on != 0),
            panic_timeout: word("panic_timeout").map(|seconds| seconds as i32),
            taint,
            kdump_loaded: pointer("kexec_crash_image").map(|image| image != 0),
        };
        // What the log says counts only for a kernel that has died: programs may write such lines there.
        let died = taint.died() || oopses.is_some_and(|count| count > 0);
        if (panicked || died)
            && let Ok(log) = self.log(memory)
        {
            if panicked {
                let mut lines = newest_first(&log.records);
                crash.panic = lines.find_map(|line| line.strip_prefix(PANIC)).map(str::to_owned);
            }
            if died {
                crash.oops = last_oops(newest_first(&log.records));
            }
        }
        Ok(crash)
    }

    /// Where to break to learn of crashes as they happen: entries of functions that every crash of the kind goes through.
    pub fn crash_entries(&self) -> Vec<(&'static str, GuestVirtAddr)> {
        // `vpanic` took over the work of `panic` in 6.17; `oops_enter` is called by all that die.
        [
            "vpanic",
            "panic",
            "oops_enter",
            "__crash_kexec",
            "machine_restart",
            "machine_halt",
        ]
        .into_iter()
        .filter_map(|name| Some((name, self.symbol(name)?)))
        .collect()
    }
}

/// The lines of the kernel's own records.
fn newest_first(records: &[Record]) -> impl Iterator<Item = &str> {
    let own = records.iter().rev().filter(|record| record.facility == 0);
    own.flat_map(|record| record.text.lines().rev())
}

/// The line that says most of the last oops.
fn last_oops<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<String> {
    let cause = |line: &&str| CAUSES.iter().any(|start| line.starts_with(start));
    let last = lines.find(|line| cause(line) || line.starts_with(OOPS))?;
    let better = if last.starts_with(OOPS) {
        lines.take(OOPS_HEAD).find(cause)
    } else {
        None
    };
    Some(better.unwrap_or(last).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_oops_is_told_and_not_its_number() {
        let lines = [
            "---[ end trace 0000000000000000 ]---",
            "Oops: 0002 [#1] PREEMPT SMP PTI",
            "#PF: error_code(0x0002) - not-present page",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "general protection fault: of long ago",
        ];
        assert_eq!(last_oops(lines.into_iter()).as_deref(), Some(lines[3]));
        assert_eq!(last_oops(lines[..3].iter().copied()).as_deref(), Some(lines[1]));
        assert_eq!(last_oops(lines[..1].iter().copied()), None);
    }

    #[test]
    fn taints_are_told_by_their_letters() {
        assert_eq!(Taint(0).to_string(), "not tainted");
        assert_eq!(Taint(1 << 7 | 1 << 9).to_string(), "DW");
        assert!(Taint(1 << 7).died());
    }
}
