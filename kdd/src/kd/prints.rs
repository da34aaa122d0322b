//! What the guest prints for a debugger, while it runs and without stopping it.
//!
//! A kernel hands each finished text to its `DebugPrint` (a counted string is the first argument), and that to the
//! print service of `int 2d` (the text's address and length). Breakpoints whose conditions are never true read it there
//! on the vCPU's own thread: the interrupt's handler is found by the IDT, in any kernel; `DebugPrint`, for kernels that
//! leave the interrupt out when no debugger is enabled, by the PDB. What comes by both ways counts once.

use hv_core::GuestVirtAddr;
use hv_core::introspect::{Condition, StopContext};
use hv_core::regs::gpr;
use introspect::windows::Arch;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Addresses and lengths of texts that `DebugPrint` has: the interrupt that follows isn't another one.
    expected: VecDeque<(u64, u16)>,
}

/// Texts between `DebugPrint` and its interrupt: one for each processor, and threads that were preempted there.
const MOST_EXPECTED: usize = 16;

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
        let mut waiting = self.lock();
        let mut texts = std::mem::take(&mut waiting.texts);
        let lost = std::mem::take(&mut waiting.lost);
        waiting.bytes = 0;
        drop(waiting);
        if lost > 0 {
            texts.push(format!("[kdd: {lost} texts are lost: they came too fast]\n").into_bytes());
        }
        texts
    }

    /// The print service has the text at an address.
    pub fn put_from(&self, at: &mut dyn StopContext, buffer: u64, length: u16) {
        let mut waiting = self.lock();
        let known = waiting.expected.iter().position(|it| *it == (buffer, length));
        if let Some(index) = known {
            waiting.expected.remove(index);
            return;
        }
        drop(waiting);
        self.put(at, buffer, length);
    }

    /// `DebugPrint` has it, and will hand it to the print service.
    fn put_first(&self, at: &mut dyn StopContext, buffer: u64, length: u16) {
        let mut waiting = self.lock();
        if waiting.expected.len() >= MOST_EXPECTED {
            waiting.expected.pop_front();
        }
        waiting.expected.push_back((buffer, length));
        drop(waiting);
        self.put(at, buffer, length);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, at: &mut dyn StopContext, buffer: u64, length: u16) {
        let mut text = [0; MOST_TEXT];
        let text = &mut text[..usize::from(length).min(MOST_TEXT)];
        if !at.read_virtual(GuestVirtAddr(buffer), text) {
            return;
        }
        let mut waiting = self.lock();
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
        if let Some((buffer, length)) = self.string(at) {
            self.printer.put_first(at, buffer, length);
        }
        false
    }
}

impl AtDebugPrint {
    /// The buffer and the length of the first argument, a STRING: Length, MaximumLength, Buffer, each aligned to its
    /// size.
    fn string(&self, at: &mut dyn StopContext) -> Option<(u64, u16)> {
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
        let length = word(at, string, 2)? as u16;
        let buffer = word(at, string.wrapping_add(size as u64), size)?;
        Some((buffer, length))
    }
}
