//! Every message of the control socket. This module is the contract for clients in any language.
//!
//! A client sends one JSON object a line, [`RequestLine`], and gets one [`ReplyLine`] for each, in order. Before it there
//! may be lines with [`Outcome::Progress`], for requests that ask for them:
//!
//! ```text
//! {"id":7,"request":"registers","domain":"web","vcpu":0}
//! {"id":7,"ok":{"reply":"registers","vcpu":0,"activity":"running", … }}
//! {"id":8,"request":"info","domain":"nobody"}
//! {"id":8,"error":{"kind":"no-such-domain","what":"domain 'nobody'","why":"there is no such domain","hint":"…"}}
//! ```
//!
//! Conventions: a domain is named by its name or its id (16 hex digits); sizes are numbers, in bytes; addresses and
//! register values are strings `"0x…"`, and what reads memory takes a symbol of the kernel too (`"do_exit+0x10"`); memory is a string of hex digits; paths are absolute, and are opened by the
//! service. Fields that are absent have the documented default. Unknown fields are ignored, so that newer clients
//! can talk to older services.

mod dump;
mod reply;
mod request;
mod watch;

pub use super::guest_view::{
    GuestLog, GuestLogRecord, GuestModule, GuestModulePart, GuestModules, GuestProcess, GuestProcesses,
    GuestSymbol, GuestSymbols, GuestThread, GuestThreads, OsInfo, OsStep, SymbolFileReport,
    UnloadedGuestModule,
};
pub use dump::{Compression, DumpFormat, DumpReport, DumpRequest};
pub use reply::*;
pub use request::*;
pub use watch::{
    DEFAULT_EXEC_LIMIT, Incident, ScriptReport, Then, Trigger, WatchEvent, WatchRequest, WatchRule,
};

use crate::Failure;
use serde::{Deserialize, Serialize};

/// The version of these messages; a change that breaks clients raises it.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 4 << 20;

/// The most memory that one request reads or writes, in bytes.
pub const MAX_MEMORY: u64 = 1 << 20;

/// What a client sends.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RequestLine {
    /// Comes back in the reply.
    #[serde(default)]
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What the service sends.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplyLine {
    /// The request's id; 0 where the request could not be read.
    pub id: u64,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How far a request is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Progress {
    /// A dump is being written.
    Dump {
        /// Bytes of guest memory that were looked at.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// A watch has something to tell.
    Watch(WatchEvent),
}

/// How a request went, or goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is under way; more lines follow.
    Progress(Progress),
    /// It was done.
    Ok(Reply),
    /// It was not.
    Error(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hex::HexBytes;
    use crate::parse::{self, ConsoleTarget, KdAddress, ListenAddress};

    fn round_trip(line: &RequestLine) -> String {
        let text = serde_json::to_string(line).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(&serde_json::from_str::<RequestLine>(&text).unwrap(), line);
        text
    }

    #[test]
    fn requests_read_back_as_written() {
        let read = Request::ReadMemory {
            domain: "web".into(),
            space: MemorySpace::Physical,
            address: parse::Place::Address(0x1000),
            length: 16,
        };
        assert_eq!(
            round_trip(&RequestLine { id: 7, request: read }),
            r#"{"id":7,"request":"read-memory","domain":"web","space":"physical","address":"0x1000","length":16}"#
        );
        let nt = serde_json::json!({
            "id": 1, "request": "create",
            "guest": {"nt": {"folder": "/nt", "options": "DEBUG", "memory_bytes": 1, "vcpus": 1}},
        });
        round_trip(&serde_json::from_value::<RequestLine>(nt).unwrap());
        round_trip(&RequestLine {
            id: u64::MAX,
            request: Request::List,
        });
        round_trip(&RequestLine {
            id: 1,
            request: Request::Create(Box::new(CreateRequest {
                guest: Guest::Linux(LinuxGuest {
                    kernel: "/vmlinuz".into(),
                    initrd: None,
                    append: "quiet".into(),
                    machine: Machine {
                        memory_bytes: 1 << 28,
                        vcpus: 2,
                        seed: u64::MAX,
                        cpu: None,
                        debug_exit: Some(0xf4),
                    },
                }),
                name: None,
                paused: true,
                throttle: true,
                console: ConsoleTarget::File("/log".into()),
                gdb: vec![ListenAddress::LOOPBACK],
                kd: vec![KdAddress::Pty(None)],
            })),
        });
    }

    #[test]
    fn defaults_are_filled_in() {
        let line: RequestLine = serde_json::from_str(
            r#"{"request":"create","guest":{"linux":{"kernel":"/k","memory_bytes":1,"vcpus":1}},"new_field":1}"#,
        )
        .unwrap();
        let Request::Create(create) = line.request else {
            panic!("another request");
        };
        assert!(create.throttle && !create.paused && create.gdb.is_empty());
        assert_eq!(create.console, ConsoleTarget::None);
    }

    #[test]
    fn replies_and_errors_read_back_as_written() {
        for outcome in [
            Outcome::Ok(Reply::Done),
            Outcome::Ok(Reply::Memory(MemoryDump {
                address: 1.into(),
                bytes: HexBytes(vec![1, 2]),
                stopped: None,
            })),
            Outcome::Error(Failure::no_such_domain("x")),
        ] {
            let line = ReplyLine { id: 3, outcome };
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<ReplyLine>(&text).unwrap(), line);
        }
    }
}
