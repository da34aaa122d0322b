//! Why a command failed: one line for a person, one exit status for a script.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The kinds of failure that scripts tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// It failed.
    Failed,
    /// It was asked wrongly.
    Usage,
    /// There is no such domain.
    NoSuchDomain,
    /// The service cannot be reached.
    Unreachable,
    /// A `--timeout` passed.
    TimedOut,
}

impl FailureKind {
    /// The exit status of a command that fails so.
    pub const fn exit_status(self) -> u8 {
        match self {
            FailureKind::Failed => 1,
            FailureKind::Usage => 2,
            FailureKind::NoSuchDomain => 3,
            FailureKind::Unreachable => 4,
            FailureKind::TimedOut => 124,
        }
    }
}

/// A failure as the user reads it: `kdd: what: why; what to do`.
///
/// It also travels over the control socket, so that a command says what the service found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// For scripts.
    pub kind: FailureKind,
    /// The thing that was tried: `create`, `domain 'web'`, a file's name.
    pub what: String,
    /// The reason.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

impl Failure {
    /// A plain failure.
    pub fn new(what: impl fmt::Display, why: impl fmt::Display, hint: impl fmt::Display) -> Failure {
        Failure {
            kind: FailureKind::Failed,
            what: one_line(what),
            why: one_line(why),
            hint: one_line(hint),
        }
    }

    /// The same failure, of another kind.
    pub fn of_kind(self, kind: FailureKind) -> Failure {
        Failure { kind, ..self }
    }

    /// No domain answers to `name`.
    pub fn no_such_domain(name: &str) -> Failure {
        Failure::new(
            format_args!("domain '{name}'"),
            "there is no such domain",
            "'kdd list' shows those that exist",
        )
        .of_kind(FailureKind::NoSuchDomain)
    }

    /// The exit status of a command that fails so.
    pub fn exit_status(&self) -> u8 {
        self.kind.exit_status()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kdd: {}: {}; {}", self.what, self.why, self.hint)
    }
}

impl std::error::Error for Failure {}

/// Scripts read one line, and what a service or a guest says must not move a terminal's cursor.
fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let mut line = String::with_capacity(text.len());
    for c in text.trim().chars() {
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_what_why_and_what_to_do() {
        let failure = Failure::new("create", "the name 'web'\nis in use", "choose another --name");
        assert_eq!(
            failure.to_string(),
            "kdd: create: the name 'web' is in use; choose another --name"
        );
    }

    #[test]
    fn exit_statuses_are_those_of_the_contract() {
        let statuses = [
            FailureKind::Failed,
            FailureKind::Usage,
            FailureKind::NoSuchDomain,
            FailureKind::Unreachable,
            FailureKind::TimedOut,
        ]
        .map(FailureKind::exit_status);
        assert_eq!(statuses, [1, 2, 3, 4, 124]);
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert!(!Failure::new("x", "\x1b[2J", "y").to_string().contains('\x1b'));
    }
}
