//! A host's step: one instruction, as the trap flag would have it.
//!
//! The engine's step may be the delivery of an interrupt, or of a fault of the instruction, instead of the instruction.
//! With the trap flag a handler runs undisturbed (delivery clears the flag) and the instruction behind its return is
//! stepped: so the handler is stepped through here, without a word to the host.

use super::guest::Guest;
use hv_core::GuestVirtAddr;
use hv_core::regs::{Registers, efer, gpr, rflags, seg};

/// Instructions in which a handler returns; one that switches to other threads may not for long.
const MOST_STEPS: u32 = 4_000_000;

/// A step that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Step {
    /// The instruction that an event came before, and its stack.
    interrupted: Option<(u64, u64)>,
    steps: u32,
}

/// What has been stepped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// The instruction that the host meant.
    Done,
    /// Something else: it goes on.
    More,
}

impl Step {
    /// Whether a handler is being stepped through.
    pub fn is_in_handler(&self) -> bool {
        self.interrupted.is_some()
    }

    /// The engine stepped the vCPU from one state to another.
    pub fn advance(&mut self, guest: &mut Guest, before: &Registers, after: &Registers) -> Progress {
        self.steps += 1;
        let at = (after.rip, after.gpr[gpr::RSP]);
        match self.interrupted {
            _ if self.steps > MOST_STEPS => Progress::Done,
            Some(place) if place == at => {
                self.interrupted = None;
                Progress::More
            }
            Some(_) => Progress::More,
            None if is_delivery(guest, before, after) => {
                self.interrupted = Some((before.rip, before.gpr[gpr::RSP]));
                Progress::More
            }
            None => Progress::Done,
        }
    }
}

/// Whether the top of the new stack says where the old instruction is: the frame of an event (SDM vol. 3A, 6.12.1,
/// 6.14.2), with an error code before it or without.
fn is_delivery(guest: &mut Guest, before: &Registers, after: &Registers) -> bool {
    if before.gpr[gpr::RSP] == after.gpr[gpr::RSP] || before.rip == after.rip {
        return false;
    }
    let size = if after.efer & efer::LMA != 0 { 8 } else { 4 };
    let mut bytes = [0; 32];
    let stack = after.gpr[gpr::RSP].wrapping_add(if size == 8 {
        0
    } else {
        after.segments[seg::SS].base
    });
    let bytes = &mut bytes[..4 * size];
    if guest.read_virtual(GuestVirtAddr(stack), bytes) < bytes.len() {
        return false;
    }
    let word = |n: usize| {
        bytes[n * size..(n + 1) * size]
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u64::from(*b))
    };
    // The upper half of a pushed selector is undefined; RF is set for faults.
    let code = u64::from(before.segments[seg::CS].selector);
    let flags = before.rflags & !rflags::RF;
    [0, 1]
        .into_iter()
        .any(|n| word(n) == before.rip && word(n + 1) & 0xffff == code && word(n + 2) & !rflags::RF == flags)
}
