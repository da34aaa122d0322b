//! Where a task sleeps: the function that called the scheduler, as /proc/PID/wchan says.

use super::Snapshot;
use hv_core::addr::GuestVirtAddr;
use introspect::Target;
use introspect::linux::{Linux, Task};

/// Bytes of the stack that are looked at; the scheduler's own frames are small.
const DEPTH: usize = 1024;
/// Where the return address of the switch is: behind six registers.
const RETURN: usize = 6;
/// `call rel32`.
const CALL: u8 = 0xe8;
/// A call may go behind a function's first instruction (`endbr64`, a patched `nop`).
const ENTRY: u64 = 16;

impl Snapshot {
    /// The first function outside the scheduler on the stack of a task that isn't on a CPU, and how far in it.
    ///
    /// A word on the stack is the return address of the frame below if a call is before it that goes to that frame's
    /// function. Where no chain of those leaves the scheduler, the first return address outside of it is taken.
    pub fn place(&self, target: &Target, task: &Task) -> Option<String> {
        let linux = &*self.linux;
        let mut bytes = vec![0; DEPTH];
        let length = target
            .read_virtual(linux.address_space(), task.stack_pointer, &mut bytes)
            .ok()?;
        let mut words = bytes[..length].as_chunks::<8>().0.iter().skip(RETURN);
        let mut inner = u64::from_le_bytes(*words.next()?);
        if !is_scheduler(linux, inner) {
            return name(linux, inner);
        }
        let mut likely = None;
        for word in words {
            let word = u64::from_le_bytes(*word);
            let Some(callee) = called(linux, target, word) else {
                continue;
            };
            let outside = !is_scheduler(linux, word);
            if callee.wrapping_sub(function(linux, inner)?) < ENTRY {
                if outside {
                    return name(linux, word);
                }
                inner = word;
            } else if outside && likely.is_none() {
                likely = Some(word);
            }
        }
        name(linux, likely?)
    }
}

/// What the direct call before a return address calls.
fn called(linux: &Linux, target: &Target, address: u64) -> Option<u64> {
    // The kernel's image, and modules above it.
    if address < linux.kernel().base.0 {
        return None;
    }
    let mut code = [0; 5];
    let at = GuestVirtAddr(address.wrapping_sub(5));
    let read = target.read_virtual(linux.address_space(), at, &mut code);
    let [CALL, distance @ ..] = code else {
        return None;
    };
    (read == Ok(5)).then(|| address.wrapping_add_signed(i64::from(i32::from_le_bytes(distance))))
}

/// Whether /proc/PID/wchan would go past this function (`__sched`).
fn is_scheduler(linux: &Linux, address: u64) -> bool {
    let bounds = linux
        .symbol("__sched_text_start")
        .zip(linux.symbol("__sched_text_end"));
    bounds.is_some_and(|(start, end)| (start.0..end.0).contains(&address))
}

/// The start of the function that returned to or is at an address.
fn function(linux: &Linux, address: u64) -> Option<u64> {
    let (symbol, _) = linux.nearest_symbol(GuestVirtAddr(address.wrapping_sub(1)))?;
    Some(symbol.address)
}

fn name(linux: &Linux, address: u64) -> Option<String> {
    // A call that doesn't return may be a function's last instruction.
    match linux.nearest_symbol(GuestVirtAddr(address.wrapping_sub(1))) {
        Some((symbol, distance)) => Some(format!("{}+{:#x}", symbol.text(), distance + 1)),
        None => Some(format!("{address:#x}")),
    }
}
