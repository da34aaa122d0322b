//! What is said about watches.

use super::{DumpFormat, DumpReport};
use crate::control::hex::Hex;
use crate::parse::Place;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What to wait for in a domain, and what to do then.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WatchRequest {
    /// Which domain.
    pub domain: String,
    /// The rule.
    #[serde(flatten)]
    pub rule: WatchRule,
    /// Ends after so many incidents; never where there is none.
    #[serde(default)]
    pub count: Option<u32>,
}

/// A rule of a watch. In `kdd serve`'s configuration it is a domain's table `watch`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WatchRule {
    /// What is waited for.
    pub on: Vec<Trigger>,
    /// The folder for dumps; none are written where there is none.
    #[serde(default)]
    pub dump: Option<PathBuf>,
    /// The dumps' format; what suits the guest where none is named.
    #[serde(default)]
    pub format: Option<DumpFormat>,
    /// How many dumps of this domain stay in the folder.
    #[serde(default)]
    pub keep: Option<u32>,
    /// How many bytes of them.
    #[serde(default)]
    pub keep_bytes: Option<u64>,
    /// A command for `/bin/sh -c`; it gets the facts in its environment and as JSON on standard input.
    #[serde(default)]
    pub exec: Option<String>,
    /// Where it runs; the service's own folder where none is named.
    #[serde(default)]
    pub exec_directory: Option<PathBuf>,
    /// Seconds that it may take.
    #[serde(default = "usual_limit")]
    pub exec_limit: u64,
    /// What becomes of the guest.
    #[serde(default)]
    pub then: Then,
}

/// Seconds that a script may take where nothing is said about it.
pub const DEFAULT_EXEC_LIMIT: u64 = 60;

fn usual_limit() -> u64 {
    DEFAULT_EXEC_LIMIT
}

/// What a watch waits for; written as text, as on the command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Trigger {
    /// The domain dies: a triple fault, every vCPU halted for good; or the guest says that it crashed, to its pvpanic
    /// device or the Microsoft hypervisor interface.
    Crash,
    /// Windows stops itself (KeBugCheckEx).
    Bugcheck,
    /// Linux stops itself (panic).
    Panic,
    /// The Linux kernel fails, and goes on or not.
    Oops,
    /// The guest resets.
    Reset,
    /// The guest powers off.
    ShutDown,
    /// A vCPU is about to run what is at this address or symbol.
    Breakpoint(String),
}

impl Trigger {
    /// Whether it is a breakpoint at an address, which no kernel has to be known for.
    pub fn is_address(&self) -> bool {
        matches!(self, Trigger::Breakpoint(place) if matches!(place.parse(), Ok(Place::Address(_))))
    }
}

impl FromStr for Trigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Trigger, String> {
        Ok(match text {
            "crash" => Trigger::Crash,
            "bugcheck" => Trigger::Bugcheck,
            "panic" => Trigger::Panic,
            "oops" => Trigger::Oops,
            "reset" => Trigger::Reset,
            "shutdown" => Trigger::ShutDown,
            _ => match text.strip_prefix("breakpoint=") {
                Some(place) if !place.is_empty() => Trigger::Breakpoint(place.to_owned()),
                _ => {
                    return Err(format!(
                        "'{text}' can't be waited for: write crash, bugcheck, panic, oops, reset, shutdown or breakpoint=ADDR"
                    ));
                }
            },
        })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trigger::Crash => "crash",
            Trigger::Bugcheck => "bugcheck",
            Trigger::Panic => "panic",
            Trigger::Oops => "oops",
            Trigger::Reset => "reset",
            Trigger::ShutDown => "shutdown",
            Trigger::Breakpoint(place) => return write!(f, "breakpoint={place}"),
        })
    }
}

impl TryFrom<String> for Trigger {
    type Error = String;

    fn try_from(text: String) -> Result<Trigger, String> {
        text.parse()
    }
}

impl From<Trigger> for String {
    fn from(trigger: Trigger) -> String {
        trigger.to_string()
    }
}

/// What becomes of a guest after an incident.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It goes on
    #[default]
    Resume,
    /// It stays paused until 'kdd unpause'
    Pause,
    /// It boots again
    Reset,
    /// The domain is ended
    Destroy,
}

/// What a watch tells.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WatchEvent {
    /// It waits for these; `missing` says for what it can't yet, and why.
    Waiting {
        /// What is waited for.
        on: Vec<Trigger>,
        /// What can't be waited for at the moment.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String>,
    },
    /// It happened.
    Incident(Box<Incident>),
}

/// What happened, and what was done: also what the script gets on its standard input (without `script`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Incident {
    /// The domain's name.
    pub domain: String,
    /// Its id.
    pub id: String,
    /// Counts the incidents of this watch, from 1.
    pub number: u64,
    /// What it is, as on the command line; a breakpoint's without its place.
    pub cause: String,
    /// The cause in words.
    pub detail: String,
    /// When: RFC 3339, in UTC.
    pub time: String,
    /// The guest's uptime in instructions.
    pub uptime_instructions: u64,
    /// The vCPU at which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<u32>,
    /// Its RIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rip: Option<Hex>,
    /// The operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// A bugcheck's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bugcheck_code: Option<Hex>,
    /// Its four parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bugcheck_parameters: Vec<Hex>,
    /// The dump that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpReport>,
    /// Why none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_error: Option<String>,
    /// Older dumps that were removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<PathBuf>,
    /// How the script went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptReport>,
    /// What becomes of the guest.
    pub then: Then,
    /// Why that couldn't be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then_error: Option<String>,
}

/// How a script went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScriptReport {
    /// Its exit status, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// What went wrong, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The beginning of what it printed, standard output and error together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_written_as_they_are_read() {
        for text in [
            "crash",
            "bugcheck",
            "panic",
            "oops",
            "reset",
            "shutdown",
            "breakpoint=nt!NtClose",
        ] {
            assert_eq!(text.parse::<Trigger>().unwrap().to_string(), text);
        }
        for text in ["", "breakpoint", "breakpoint=", "Crash"] {
            assert!(text.parse::<Trigger>().is_err(), "{text}");
        }
    }
}
