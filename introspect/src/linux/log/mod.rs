//! The kernel's log, as `dmesg` would show it: from memory, of a living kernel or a dead one.
//!
//! Kernels from 5.10 on keep a ring of descriptors beside a ring of text; older ones a buffer of records one behind the
//! other. Both are read whole and then taken apart, so that a hostile one costs no more than its size.

mod buffer;
mod ring;
#[cfg(test)]
mod tests;

use super::Linux;
use super::error::Error;
use super::space::{Space, printable};
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use std::fmt;

/// The largest log that is read, in bytes of text. `log_buf_len=` makes it larger than a few MiB rarely.
const MAX_LOG: u64 = 64 << 20;
/// The most records.
const MAX_RECORDS: u64 = 1 << 20;

/// How urgent a record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// 0: the system is unusable.
    Emergency,
    /// 1.
    Alert,
    /// 2.
    Critical,
    /// 3.
    Error,
    /// 4.
    Warning,
    /// 5.
    Notice,
    /// 6.
    Info,
    /// 7.
    Debug,
}

impl Level {
    fn of(bits: u8) -> Level {
        match bits & 7 {
            0 => Level::Emergency,
            1 => Level::Alert,
            2 => Level::Critical,
            3 => Level::Error,
            4 => Level::Warning,
            5 => Level::Notice,
            6 => Level::Info,
            _ => Level::Debug,
        }
    }
}

/// Who wrote a record (CONFIG_PRINTK_CALLER).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A thread.
    Thread(u32),
    /// A CPU, outside of any thread.
    Cpu(u32),
}

/// A record of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its number since boot; counted from the first that is left, in kernels before 5.10.
    pub sequence: u64,
    /// Nanoseconds since boot.
    pub nanoseconds: u64,
    /// How urgent.
    pub level: Level,
    /// The syslog facility; 0 is the kernel.
    pub facility: u8,
    /// Who wrote it, where the kernel keeps that.
    pub caller: Option<Caller>,
    /// The text, of one line or several. Control characters are replaced.
    pub text: String,
}

impl fmt::Display for Record {
    /// As `dmesg` does: each line with the time before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (
            self.nanoseconds / 1_000_000_000,
            self.nanoseconds / 1000 % 1_000_000,
        );
        for (number, line) in self.text.split('\n').enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "[{seconds:5}.{micros:06}] {line}")?;
        }
        Ok(())
    }
}

/// What is in the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// Why there aren't more: a record that makes no sense.
    pub broken: Option<String>,
}

impl Linux {
    /// The kernel's log, oldest first.
    ///
    /// # Errors
    /// [`Error`] if this kernel's log isn't found or isn't one.
    pub fn log(&self, memory: &dyn ReadMemory) -> Result<Log, Error> {
        let space = self.space(memory);
        match self.symbol("prb") {
            Some(variable) => ring::read(self, &space, variable),
            None => buffer::read(self, &space),
        }
    }
}

/// Reads so many bytes, which a guest said.
fn read_all(
    space: &Space<'_>,
    what: &'static str,
    address: GuestVirtAddr,
    count: u64,
    each: u64,
) -> Result<Vec<u8>, Error> {
    let size = count.checked_mul(each).filter(|&size| size <= MAX_LOG);
    let Some(size) = size else {
        return Err(Error::Implausible {
            what,
            address,
            why: format!("{count} times {each} bytes are more than a log has"),
        });
    };
    let mut bytes = vec![0; size as usize];
    space.bytes(what, address, &mut bytes)?;
    Ok(bytes)
}

/// The caller in a record's word; threads have positive ids.
fn caller(word: u32) -> Caller {
    if word >> 31 != 0 {
        Caller::Cpu(word & 0x7fff_ffff)
    } else {
        Caller::Thread(word)
    }
}

/// Text without what would move a cursor.
fn text(bytes: &[u8]) -> String {
    printable(bytes, true)
}

/// A little-endian number of up to 8 bytes; 0 beyond the end.
fn number(bytes: &[u8], at: u64, size: usize) -> u64 {
    let part = usize::try_from(at)
        .ok()
        .and_then(|at| bytes.get(at..at.checked_add(size)?));
    let mut word = [0; 8];
    if let Some(part) = part {
        word[..size].copy_from_slice(part);
    }
    u64::from_le_bytes(word)
}
