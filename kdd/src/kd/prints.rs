//! What the guest prints for a debugger, while it runs and without stopping it.
//!
//! A kernel hands each finished text to its `DebugPrint` (a counted string is the first argument), whether or not a
//! debugger is there. A breakpoint whose condition is never true reads it on the vCPU's own thread.

use hv_core::GuestVirtAddr;
use hv_core::introspect::{Condition, StopContext};
use hv_core::regs::gpr;
use introspect::windows::Arch;
use std::sync::{Arc, Mutex, PoisonError};

/// The kernel's function.
pub(super) const SYMBOL: &str = "DebugPrint";
/// The most text of one call, as a kernel clamps it.
const MOST_TEXT: usize = 512;
/// Text that may wait for the session; what is printed while it does is lost, and that is said.
const MOST_WAITING: usize = 1 << 16;

/// From the vCPUs' threads to the session.
pub(super) struct Printer {
    waiting: Mutex<Waiting>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    texts: Vec<Vec<u8>>,
    bytes: usize,
    lost: u64,
}

impl Printer {
    /// For the session that `wake` wakes.
    pub fn new(wake: Box<dyn Fn() + Send + Sync>) -> Arc<Printer> {
        Arc::new(Printer {
            waiting: Mutex::default(),
            wake,
        })
    }

    /// What was printed since the last call.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut texts = waiting.texts;
        if waiting.lost > 0 {
            texts.push(format!("[kdd: {} texts are lost: they came too fast]\n", waiting.lost).into_bytes());
        }
        texts
    }

    fn put(&self, text: &[u8]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lost > 0 || waiting.bytes + text.len() > MOST_WAITING {
            waiting.lost += 1;
            return;
        }
        let first = waiting.texts.is_empty();
        waiting.bytes += text.len();
        waiting.texts.push(text.to_vec());
        drop(waiting);
        if first {
            (self.wake)();
        }
    }
}

/// The condition at `DebugPrint`.
pub(super) struct AtDebugPrint {
    pub arch: Arch,
    pub printer: Arc<Printer>,
}

impl Condition for AtDebugPrint {
    fn should_stop(&self, at: &mut dyn StopContext) -> bool {
        let mut text = [0; MOST_TEXT];
        if let Some(length) = self.read(at, &mut text) {
            self.printer.put(&text[..length]);
        }
        false
    }
}

impl AtDebugPrint {
    fn read(&self, at: &mut dyn StopContext, text: &mut [u8; MOST_TEXT]) -> Option<usize> {
        let word = |at: &mut dyn StopContext, address: u64, size: usize| {
            let mut bytes = [0; 8];
            at.read_virtual(GuestVirtAddr(address), &mut bytes[..size])
                .then(|| u64::from_le_bytes(bytes))
        };
        let (string, size) = match self.arch {
            Arch::X64 => (at.gpr(gpr::RCX), 8),
            Arch::X86 => {
                let argument = at.gpr(gpr::RSP).wrapping_add(4) & 0xffff_ffff;
                (word(at, argument, 4)?, 4)
            }
        };
        // STRING: Length, MaximumLength, Buffer, each aligned to its size.
        let length = (word(at, string, 2)? as usize).min(MOST_TEXT);
        let buffer = word(at, string.wrapping_add(size as u64), size)?;
        at.read_virtual(GuestVirtAddr(buffer), &mut text[..length])
            .then_some(length)
    }
}
