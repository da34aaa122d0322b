//! Lines of the control socket, read as the service reads them and answered by a service with one domain.
//!
//! Requests that name files or addresses of the host are answered with ours in their place.

use super::Target;
use crate::lab;
use kdd::control::caller::Caller;
use kdd::control::line::LineBuffer;
use kdd::control::message::{CreateRequest, DumpRequest, Guest, ReplyLine, Request, RequestLine};
use kdd::serve::{ControlSession, Service};
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// See the module.
pub const TARGET: Target = Target {
    name: "control_message",
    run,
    seeds,
    words: WORDS,
    longest: 8192,
};

const WORDS: &[&[u8]] = &[
    b"\"id\":",
    b"\"request\":",
    b"\"domain\":\"lab\"",
    b"\"0x",
    b"null",
    b"true",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"18446744073709551615",
    b"-1",
    b"1e400",
    b"\"vcpu\":7",
    b"\"physical\"",
    b"{\"vcpu\":0}",
    b"\n",
    b"\\ud800",
    b"0.5",
    b"\"length\":1048576",
];

const LINES: &[&str] = &[
    r#"{"id":1,"request":"version"}"#,
    r#"{"id":2,"request":"list"}"#,
    r#"{"id":3,"request":"info","domain":"lab"}"#,
    r#"{"id":4,"request":"info","domain":"lab","hash":true}"#,
    r#"{"id":5,"request":"pause","domain":"lab"}"#,
    r#"{"id":6,"request":"unpause","domain":"lab"}"#,
    r#"{"id":7,"request":"hold","domain":"lab"}"#,
    r#"{"id":8,"request":"reset","domain":"lab"}"#,
    r#"{"id":9,"request":"destroy","domain":"lab"}"#,
    r#"{"id":10,"request":"gdb","domain":"lab","listen":"127.0.0.1:0"}"#,
    r#"{"id":11,"request":"save","domain":"lab","path":"/x"}"#,
    r#"{"id":12,"request":"fork","domain":"lab","count":2,"paused":true}"#,
    r#"{"id":13,"request":"registers","domain":"lab","vcpu":1}"#,
    r#"{"id":14,"request":"read-memory","domain":"lab","space":"physical","address":"0x100000","length":64}"#,
    r#"{"id":15,"request":"read-memory","domain":"lab","space":{"vcpu":0},"address":"0xffffffffffffffff","length":9}"#,
    r#"{"id":16,"request":"write-memory","domain":"lab","address":"0x9000","bytes":"0011ff"}"#,
    r#"{"id":17,"request":"translate","domain":"lab","vcpu":0,"address":"0x100000"}"#,
    r#"{"id":18,"request":"create","guest":{"linux":{"kernel":"/k","memory_bytes":2097152,"vcpus":1}},"paused":true}"#,
    r#"{"id":19,"request":"create","guest":{"restore":{"path":"/s"}},"name":"again"}"#,
    r#"{"id":22,"request":"dump","domain":"lab","path":"/d","force":true}"#,
    r#"{"id":23,"request":"dump","domain":"lab","path":"/d","force":true,"live":true,"format":"elf","for_gdb":true}"#,
    r#"{"id":24,"request":"create","guest":{"dump":{"path":"/d"}},"name":"dead"}"#,
    r#"{"id":25,"request":"watch","domain":"lab","on":["crash","breakpoint=0x100020"],"dump":"/f","keep":2}"#,
    r#"{"id":20,"ok":{"reply":"domains","domains":[]}}"#,
    r#"{"id":21,"error":{"kind":"no-such-domain","what":"a","why":"b","hint":"c"}}"#,
];

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = LINES
        .iter()
        .map(|line| format!("{line}\n").into_bytes())
        .collect();
    seeds.push(LINES.join("\n").into_bytes());
    seeds
}

/// A service, and a folder for what it reads and writes.
struct Bench {
    runtime: Runtime,
    kernel: PathBuf,
    state: PathBuf,
    dump: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn new() -> Option<Bench> {
        let folder = std::env::temp_dir().join(format!("kdd-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).ok()?;
        let kernel = folder.join("kernel");
        std::fs::write(&kernel, lab::multiboot(&[0xf4, 0xeb, 0xfd])).ok()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .ok()?;
        Some(Bench {
            runtime,
            kernel,
            state: folder.join("state"),
            dump: folder.join("dump"),
            folder,
        })
    }

    fn create(&self, name: Option<String>, memory_bytes: u64, vcpus: u32) -> Option<Request> {
        let line = serde_json::json!({
            "request": "create", "paused": true, "name": name,
            "guest": {"linux": {"kernel": self.kernel, "memory_bytes": memory_bytes, "vcpus": vcpus}},
        });
        serde_json::from_value::<RequestLine>(line)
            .ok()
            .map(|line| line.request)
    }

    /// The request with nothing of the host in it but our folder; `None` where it can't be had.
    fn tamed(&self, request: Request) -> Option<Request> {
        Some(match request {
            Request::Create(create) => {
                let guest = match create.guest {
                    Guest::Restore { .. } => Guest::Restore {
                        path: self.state.clone(),
                    },
                    Guest::Dump { .. } => Guest::Dump {
                        path: self.dump.clone(),
                    },
                    Guest::Nt(mut nt) => {
                        nt.folder = self.state.clone();
                        Guest::Nt(nt)
                    }
                    Guest::Linux(mut linux) => {
                        linux.kernel = self.kernel.clone();
                        linux.initrd = linux.initrd.map(|_| self.kernel.clone());
                        Guest::Linux(linux)
                    }
                };
                Request::Create(Box::new(CreateRequest {
                    guest,
                    console: Default::default(),
                    gdb: Vec::new(),
                    ..*create
                }))
            }
            Request::Save { domain, .. } => Request::Save {
                domain,
                path: self.state.clone(),
            },
            Request::Fork {
                domain,
                count,
                paused,
            } => {
                // A thousand children are allowed, and slow.
                let count = if (4..=1024).contains(&count) { 3 } else { count };
                Request::Fork {
                    domain,
                    count,
                    paused,
                }
            }
            Request::Dump(dump) => Request::Dump(Box::new(DumpRequest {
                path: self.dump.clone(),
                ..*dump
            })),
            Request::Watch(mut watch) => {
                watch.rule.dump = watch.rule.dump.map(|_| self.folder.clone());
                watch.rule.exec = None;
                Request::Watch(watch)
            }
            Request::Gdb { .. } | Request::Kd { .. } => return None,
            other => other,
        })
    }
}

/// Runs a case.
///
/// # Panics
/// When a message isn't read back as it was written.
pub fn run(data: &[u8]) {
    thread_local!(static BENCH: Option<Bench> = Bench::new());
    BENCH.with(|bench| {
        let Some(bench) = bench else { return };
        let service = Service::new(bench.runtime.handle().clone());
        let mut session = ControlSession::new(service.clone(), 1);
        if let Some(request) = bench.create(Some("lab".into()), lab::MEMORY, 1) {
            let _ = session.answer(request, &Caller::new().0);
        }
        let mut lines = LineBuffer::new(4096);
        for piece in data.chunks(100) {
            lines.push(piece);
            while let Ok(Some(line)) = lines.next_line() {
                answer(bench, &mut session, &line);
            }
        }
        drop(session);
        for managed in service.domains() {
            let _ = service.destroy(&managed);
        }
    });
}

fn answer(bench: &Bench, session: &mut ControlSession, line: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<ReplyLine>(line) {
        let text = serde_json::to_vec(&reply).unwrap_or_default();
        assert_eq!(
            serde_json::from_slice::<ReplyLine>(&text).ok().as_ref(),
            Some(&reply)
        );
    }
    let Ok(request) = serde_json::from_slice::<RequestLine>(line) else {
        return;
    };
    let text = serde_json::to_vec(&request).unwrap_or_default();
    assert_eq!(
        serde_json::from_slice::<RequestLine>(&text).ok().as_ref(),
        Some(&request)
    );
    if let Some(request) = bench.tamed(request.request) {
        let (caller, _updates) = Caller::new();
        // A watch lasts as long as its client.
        if matches!(request, Request::Watch(_)) {
            caller.leave();
        }
        let _ = session.answer(request, &caller);
    }
}
