//! Conditions and commands of breakpoints: gdb's agent expressions (GDB manual, appendix F), evaluated in the middle
//! of guest execution.
//!
//! ```text
//! bytes of the packet ──Program::decode──► checked operations ──Program::evaluate──► a number, or an error
//! ```
//! Whatever can be checked is checked once, at decoding: operation codes, jump targets, register numbers. An
//! evaluation of a condition allocates nothing, ends after [`STEPS`] operations, and where it fails (an absent page, a division by
//! zero) the guest stops, as gdbserver does it.

mod commands;
mod decode;
mod evaluate;
mod format;

pub use commands::{Commands, Printer};
pub use decode::{DecodeError, Program};

use hv_core::introspect::StopContext;

/// Operations that one evaluation may take.
pub const STEPS: usize = 10_000;
/// Numbers on the stack of an evaluation.
pub const STACK: usize = 64;
/// Bytes that the commands of a breakpoint may print at once; the print that goes beyond is the last.
pub const MOST_TEXT: usize = 1 << 12;
/// The longest program, in bytes.
pub const LONGEST: usize = 0xffff;

/// A list of expressions; the guest stops where any is true.
pub struct Condition(Vec<Program>);

impl Condition {
    /// Reads the list of a `Z` packet: `X len,expr` any number of times, as digits.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Option<Condition>, DecodeError> {
        match list(text, Program::decode)? {
            (programs, [] | [b';', ..]) => Ok((!programs.is_empty()).then_some(Condition(programs))),
            _ => Err(DecodeError::List),
        }
    }
}

/// Reads `X len,expr` any number of times, and gives what follows.
fn list(
    mut text: &[u8],
    decode: fn(&[u8]) -> Result<Program, DecodeError>,
) -> Result<(Vec<Program>, &[u8]), DecodeError> {
    let mut programs = Vec::new();
    while let [b'X', rest @ ..] = text {
        let comma = rest.iter().position(|&b| b == b',').ok_or(DecodeError::List)?;
        let length = crate::hex::number(&rest[..comma]).ok_or(DecodeError::List)?;
        let digits = usize::try_from(length)
            .ok()
            .filter(|&n| n <= LONGEST)
            .and_then(|n| rest[comma + 1..].split_at_checked(n * 2))
            .ok_or(DecodeError::List)?;
        let code = crate::hex::decode(digits.0).ok_or(DecodeError::List)?;
        programs.push(decode(&code)?);
        text = digits.1;
    }
    Ok((programs, text))
}

impl hv_core::introspect::Condition for Condition {
    fn should_stop(&self, at: &mut dyn StopContext) -> bool {
        self.0.iter().any(|program| program.evaluate(at) != Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_expressions_is_read() {
        // const8 1; end, and const8 0; end.
        assert!(Condition::parse(b"X3,220127X3,220027").unwrap().is_some());
        assert!(Condition::parse(b"").unwrap().is_none());
    }

    #[test]
    fn broken_lists_are_refused() {
        let broken: [&[u8]; 7] = [
            b"X",
            b"X3",
            b"X3,2201",
            b"Xffffffff,22",
            b"Y3,220127",
            b"X3,22012g",
            b"X0,",
        ];
        for list in broken {
            assert!(
                Condition::parse(list).is_err(),
                "{}",
                String::from_utf8_lossy(list)
            );
        }
    }
}
