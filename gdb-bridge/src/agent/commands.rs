//! Breakpoints with commands: gdb's `dprintf` in agent style. What they print is carried to the session by a
//! [`Printer`], and the guest doesn't stop.

use super::{Condition, DecodeError, Program, list};
use hv_core::introspect::StopContext;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that may wait for a session; what is printed while they do is lost, and that is said.
const MOST_WAITING: usize = 1 << 16;

/// From the vCPUs' threads to the session: text, and a call that wakes it.
pub struct Printer {
    waiting: Mutex<Waiting>,
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Waiting {
    text: String,
    lost: u64,
}

impl Printer {
    /// A printer for the session that `wake` wakes.
    pub fn new(wake: Box<dyn Fn() + Send + Sync>) -> Arc<Printer> {
        Arc::new(Printer {
            waiting: Mutex::default(),
            wake,
        })
    }

    /// What was printed since the last call.
    pub fn take(&self) -> String {
        let Waiting { mut text, lost } =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if lost > 0 {
            text.push_str(&format!(
                "[{lost} messages of dprintf are lost: they came too fast]\n"
            ));
        }
        text
    }

    fn print(&self, text: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lost > 0 || waiting.text.len() + text.len() > MOST_WAITING {
            waiting.lost += 1;
            return;
        }
        let first = waiting.text.is_empty();
        waiting.text.push_str(text);
        drop(waiting);
        if first {
            (self.wake)();
        }
    }
}

/// Commands, and the condition under which they are carried out.
pub struct Commands {
    condition: Option<Condition>,
    programs: Vec<Program>,
    printer: Arc<Printer>,
}

impl Commands {
    /// Reads what follows `cmds:` in a `Z` packet: whether they persist when the client is gone (here nothing
    /// does), and `X len,expr` any number of times.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(
        text: &[u8],
        condition: Option<Condition>,
        printer: Arc<Printer>,
    ) -> Result<Commands, DecodeError> {
        let comma = text.iter().position(|&b| b == b',').ok_or(DecodeError::List)?;
        let (programs, rest) = list(&text[comma + 1..], Program::decode_command)?;
        if programs.is_empty() || !rest.is_empty() {
            return Err(DecodeError::List);
        }
        Ok(Commands {
            condition,
            programs,
            printer,
        })
    }
}

impl hv_core::introspect::Condition for Commands {
    fn should_stop(&self, at: &mut dyn StopContext) -> bool {
        if self.condition.as_ref().is_none_or(|c| c.should_stop(at)) {
            let mut text = String::new();
            for program in &self.programs {
                if let Err(why) = program.run(at, &mut text) {
                    text.push_str(&format!("[a dprintf at {:#x} failed: {why}]\n", at.rip()));
                }
            }
            self.printer.print(&text);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_printer_wakes_once_and_says_what_it_lost() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = wakes.clone();
        let printer = Printer::new(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        printer.print("a");
        printer.print("b");
        assert_eq!(
            (printer.take().as_str(), wakes.load(Ordering::Relaxed)),
            ("ab", 1)
        );
        let page = "x".repeat(1 << 12);
        for _ in 0..20 {
            printer.print(&page);
        }
        let text = printer.take();
        assert!(
            text.ends_with("[4 messages of dprintf are lost: they came too fast]\n"),
            "{}",
            text.len()
        );
        assert_eq!(printer.take(), "");
    }
}
