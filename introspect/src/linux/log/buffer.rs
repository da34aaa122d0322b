//! The log before 5.10: `log_buf`, records of `struct printk_log` one behind the other (kernel/printk/printk.c).

use super::{Level, Log, MAX_LOG, MAX_RECORDS, Record, caller, number, read_all, text};
use crate::linux::Linux;
use crate::linux::error::{Error, Unknown};
use crate::linux::space::Space;

const LOG: &str = "log_buf";

/// Where everything is in a record.
pub(super) struct Layout {
    pub(super) time: u64,
    pub(super) length: u64,
    pub(super) text_length: u64,
    /// The record's own bytes, before its text.
    pub(super) header: u64,
}

pub(super) fn read(linux: &Linux, space: &Space<'_>) -> Result<Log, Error> {
    let variable = |name| -> Result<u32, Error> { space.u32(name, linux.needed(name)?) };
    let length = u64::from(variable("log_buf_len")?);
    if length > MAX_LOG {
        return Err(Error::Implausible {
            what: LOG,
            address: linux.needed("log_buf_len")?,
            why: format!("it would have {length} bytes"),
        });
    }
    let (first, next) = (variable("log_first_idx")?, variable("log_next_idx")?);
    // `struct log` in the first kernels that had it.
    let member = |name| -> Result<u64, Unknown> {
        linux
            .offset("printk_log", name)
            .or_else(|_| linux.offset("log", name))
    };
    let layout = Layout {
        time: member("ts_nsec")?,
        length: member("len")?,
        text_length: member("text_len")?,
        header: linux.size("printk_log").or_else(|_| linux.size("log"))?,
    };
    let buffer = space.pointer(LOG, linux.needed(LOG)?)?;
    let bytes = read_all(space, LOG, buffer, length, 1)?;
    Ok(records(&bytes, u64::from(first), u64::from(next), &layout))
}

/// The records from one offset to another, at most once around.
pub(super) fn records(bytes: &[u8], first: u64, next: u64, layout: &Layout) -> Log {
    let (mut log, mut at, mut wrapped) = (Log::default(), first, false);
    while at != next && log.records.len() < MAX_RECORDS as usize {
        let length = number(bytes, at + layout.length, 2);
        if length == 0 && !wrapped && at < bytes.len() as u64 {
            // The rest of the buffer was too short for a record.
            (at, wrapped) = (0, true);
            continue;
        }
        let text_length = number(bytes, at + layout.text_length, 2);
        let end = at.saturating_add(length);
        if length < layout.header + text_length || end > bytes.len() as u64 || (wrapped && at > next) {
            log.broken = Some(format!("the record at offset {at:#x} of the log makes no sense"));
            break;
        }
        // Behind the lengths of text and dictionary: the facility, and the bits of flags and level.
        let level = number(bytes, at + layout.text_length + 5, 1) as u8;
        let start = (at + layout.header) as usize;
        log.records.push(Record {
            sequence: log.records.len() as u64,
            nanoseconds: number(bytes, at + layout.time, 8),
            level: Level::of(level >> 5),
            facility: number(bytes, at + layout.text_length + 4, 1) as u8,
            caller: (layout.header >= layout.text_length + 10)
                .then(|| caller(number(bytes, at + layout.text_length + 6, 4) as u32)),
            text: text(&bytes[start..start + text_length as usize]),
        });
        at = end;
    }
    log
}
