//! What the kernel was started with, and for how long it runs.

use super::Linux;
use hv_core::introspect::ReadMemory;
use std::time::Duration;

/// COMMAND_LINE_SIZE on x86.
const MAX_COMMAND_LINE: usize = 2048;

impl Linux {
    /// The command line, as /proc/cmdline shows it (`saved_command_line`); `None` where it isn't known, or the kernel has not come that far.
    pub fn command_line(&self, memory: &dyn ReadMemory) -> Option<String> {
        let space = self.space(memory);
        let text = space.pointer("saved_command_line", self.symbol("saved_command_line")?);
        space.string("command line", text.ok()?, MAX_COMMAND_LINE).ok()
    }

    /// How long the kernel runs by its own clock, as of its last timer tick: an idle kernel ticks when it has to wake up.
    pub fn uptime(&self, memory: &dyn ReadMemory) -> Option<Duration> {
        // kernel/time/tick-sched.c and tick-common.c: of CLOCK_MONOTONIC, in nanoseconds.
        let variable = self
            .symbol("last_jiffies_update")
            .or_else(|| self.symbol("tick_next_period"))?;
        let nanoseconds = self.space(memory).u64("last_jiffies_update", variable).ok()?;
        (nanoseconds != 0).then(|| Duration::from_nanos(nanoseconds))
    }
}
