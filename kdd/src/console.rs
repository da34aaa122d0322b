//! The terminal of `kdd run`: keys go to the guest, Ctrl-] is for us.
//!
//! ```text
//!  terminal, raw ── bytes ──► Keys ── for the guest ──► its serial port
//!                               └──── Ctrl-] q, ?  ──► an action of ours
//! ```
//!
//! Where standard input is no terminal it is passed on as it comes. The terminal's settings come back at every
//! end: when [`RawTerminal`] goes, and from the panic hook; signals end `kdd run` in an orderly way, so that the
//! first holds for them.

use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use std::io::{self, IsTerminal, Read};
use std::sync::{Mutex, Once, PoisonError};

/// What `Ctrl-]` `?` says.
pub const HELP: &str = "\
[kdd] Ctrl-] then
        q       leaves: the guest ends
        ?       this help
        Ctrl-]  sends Ctrl-] to the guest
      every other key, and all before, goes to the guest
";

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// What a key means that isn't for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Leave.
    Quit,
    /// Show [`HELP`].
    Help,
}

/// Tells keys for the guest from those for us. No I/O.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes typed bytes: adds those that are the guest's to `guest`, gives the actions asked for.
    pub fn feed(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Vec<Action> {
        let mut actions = Vec::new();
        for &byte in typed {
            match (self.escaped, byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    continue;
                }
                (false, _) | (true, ESCAPE) => guest.push(byte),
                (true, b'q' | b'Q') => actions.push(Action::Quit),
                (true, b'?' | b'h') => actions.push(Action::Help),
                (true, _) => {}
            }
            self.escaped = false;
        }
        actions
    }
}

/// The settings to come back to. The panic hook has to find them.
static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode, until dropped.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input raw; `None` if it is no terminal, or is another job's at the moment.
    ///
    /// # Errors
    /// The operating system's.
    pub fn enter() -> io::Result<Option<RawTerminal>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !in_foreground() {
            return Ok(None);
        }
        let cooked = termios::tcgetattr(&stdin)?;
        let mut raw = cooked.clone();
        raw.make_raw();
        // Lines of our own messages still start at the left.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(cooked);
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(RawTerminal(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let cooked = COOKED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(cooked) = cooked {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &cooked);
    }
}

/// Whether the terminal is ours: a job in the background that touches it would be stopped.
pub fn in_foreground() -> bool {
    termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Reads standard input until it ends, or `each` says false.
pub fn read_stdin(mut each: impl FnMut(&[u8]) -> bool) {
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                if !each(&buffer[..read]) {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "standard input can't be read any more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Action>) {
        let (mut keys, mut guest, mut actions) = (Keys::default(), Vec::new(), Vec::new());
        for piece in pieces {
            actions.extend(keys.feed(piece, &mut guest));
        }
        (guest, actions)
    }

    #[test]
    fn keys_go_to_the_guest_ctrl_c_too() {
        assert_eq!(fed(&[b"ls\r\x03q?"]), (b"ls\r\x03q?".to_vec(), vec![]));
    }

    #[test]
    fn the_escape_works_across_reads() {
        assert_eq!(
            fed(&[b"a\x1d", b"?b", b"\x1dq"]),
            (b"ab".to_vec(), vec![Action::Help, Action::Quit])
        );
    }

    #[test]
    fn a_double_escape_is_for_the_guest_and_other_keys_are_dropped() {
        assert_eq!(fed(&[b"\x1d\x1dx\x1dzy"]), (b"\x1dxy".to_vec(), vec![]));
    }
}
