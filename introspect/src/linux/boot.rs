//! How the kernel was started, and when.

use super::Linux;
use super::error::Error;
use hv_core::introspect::ReadMemory;
use std::time::Duration;

/// COMMAND_LINE_SIZE (arch/x86/include/asm/setup.h).
const COMMAND_LINE: usize = 2048;
/// The clock's rates that kernels are built for, in Hz (CONFIG_HZ).
const RATES: [u64; 6] = [100, 250, 300, 500, 1000, 1024];
/// `INITIAL_JIFFIES` (include/linux/jiffies.h): the count begins five minutes before its low half wraps.
const WRAPS_AFTER: u64 = 300;

impl Linux {
    /// What it was started with: /proc/cmdline.
    ///
    /// # Errors
    /// [`Error`] if its place isn't known, or it can't be read.
    pub fn command_line(&self, memory: &dyn ReadMemory) -> Result<String, Error> {
        const WHAT: &str = "saved_command_line";
        let space = self.space(memory);
        let line = space.pointer(WHAT, self.needed(WHAT)?)?;
        space.string(WHAT, line, COMMAND_LINE)
    }

    /// How long it had run when its clock last ticked, to a second or two: the clock that ticks is started after the one of
    /// /proc/uptime.
    ///
    /// # Errors
    /// [`Error`] if the clock's variables aren't known or hold nonsense.
    pub fn uptime(&self, memory: &dyn ReadMemory) -> Result<Duration, Error> {
        let space = self.space(memory);
        let place = self.needed("jiffies_64")?;
        let ticks = space.u64("jiffies_64", place)?;
        let length = self.needed("tick_nsec")?;
        let nanoseconds = space.u64("tick_nsec", length)?;
        let rate = RATES
            .into_iter()
            .find(|rate| nanoseconds.abs_diff(1_000_000_000 / rate) <= 1000);
        let Some(rate) = rate else {
            return Err(Error::Implausible {
                what: "tick_nsec",
                address: length,
                why: format!("{nanoseconds} is no clock's tick"),
            });
        };
        let first = u64::from(((WRAPS_AFTER * rate) as u32).wrapping_neg());
        let Some(ticks) = ticks.checked_sub(first) else {
            return Err(Error::Implausible {
                what: "jiffies_64",
                address: place,
                why: format!("{ticks:#x} is before the kernel's start"),
            });
        };
        let (seconds, rest) = (ticks / rate, ticks % rate);
        Ok(Duration::from_secs(seconds) + Duration::from_millis(rest * 1000 / rate))
    }
}
