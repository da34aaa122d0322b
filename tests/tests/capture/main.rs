//! `kdd dump`, `kdd watch`, `kdd dump-info` and `kdd run --dump`, end to end: real guests, the real binary.
//!
//! ```text
//!  bare.rs: guests of a few instructions, which count, fill memory, die in every way
//!  stock Linux, the NT-shaped guest: saved at their prompts (tests::Snapshot, tests::NtGuest)
//!     └─► dump.rs  served.rs  watch.rs  bad_input.rs
//! ```

mod bad_input;
mod bare;
mod crash_kernel;
mod dump;
mod served;
mod watch;

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::{LIMIT, NtGuest, Service, Transcript, kdd, nt_guest, one_vcpu};

const PROFILE: &str = "win10-19041-x64";
const NOTHING: &[&str] = &[];

/// A text of a path.
fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A service, and a domain `vm` in it with its console on a socket: the guest may die, the service stays.
struct Guest {
    service: Service,
    /// What the console shows.
    output: Transcript,
    input: UnixStream,
    /// Up to here it was waited for.
    at: usize,
}

impl Guest {
    /// A domain `vm` that is created with these arguments.
    #[track_caller]
    fn create(arguments: &[&str]) -> Guest {
        let service = Service::serve(NOTHING);
        let socket = service.scratch().path("console");
        let console = format!("unix:{}", socket.display());
        let mut all = vec!["create", "--name", "vm", "--console", &console];
        all.extend(arguments);
        service.kdd(&all).done();
        let input = UnixStream::connect(&socket).expect("the console");
        let output = Transcript::of(input.try_clone().expect("the console, twice"));
        Guest {
            service,
            output,
            input,
            at: 0,
        }
    }

    /// The stock Linux at its prompt.
    #[track_caller]
    fn linux() -> Option<Guest> {
        let snapshot = one_vcpu()?;
        Some(Guest::create(&["--restore", snapshot.state()]))
    }

    /// The NT-shaped guest at its prompt.
    #[track_caller]
    fn nt() -> Option<(&'static NtGuest, Guest)> {
        Guest::nt_like(PROFILE)
    }

    /// The same in the shape of another Windows version.
    #[track_caller]
    fn nt_like(profile: &str) -> Option<(&'static NtGuest, Guest)> {
        let guest = nt_guest(profile, 2)?;
        Some((guest, Guest::create(&["--restore", &text(guest.saved())])))
    }

    #[track_caller]
    fn types(&mut self, line: &str) {
        self.at = self.output.len();
        self.input
            .write_all(format!("{line}\r").as_bytes())
            .expect("the console takes it");
    }

    #[track_caller]
    fn shows(&mut self, text: &str) {
        self.shows_within(text, LIMIT);
    }

    #[track_caller]
    fn shows_within(&mut self, text: &str, limit: Duration) {
        match self.output.find(self.at, text, limit) {
            Ok(end) => self.at = end,
            Err(why) => panic!("console: {why}"),
        }
    }

    /// The Linux shell answers.
    #[track_caller]
    fn shell_answers(&mut self) {
        self.types("echo sum-$((6*7))");
        self.shows("sum-42");
    }

    fn state(&self) -> String {
        self.service.state("vm").0
    }

    #[track_caller]
    fn watch(&self, arguments: &[&str]) -> Watch {
        Watch::of(&self.service, "vm", arguments)
    }

    /// A folder for dumps.
    #[track_caller]
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.service.scratch().path(name);
        fs::create_dir(&path).expect("a new folder");
        path
    }
}

/// A `kdd watch --json`. It ends with this value.
struct Watch {
    child: Child,
    output: Transcript,
    errors: Transcript,
    at: usize,
}

impl Watch {
    #[track_caller]
    fn of(service: &Service, domain: &str, arguments: &[&str]) -> Watch {
        let mut child = Command::new(kdd())
            .args(["watch", domain, "--json"])
            .args(arguments)
            .env("KDD_CONTROL", service.control())
            .env_remove("KDD_LOG")
            .current_dir(service.scratch().folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kdd runs");
        let output = child.stdout.take().map(Transcript::of).unwrap_or_default();
        let errors = child.stderr.take().map(Transcript::of).unwrap_or_default();
        Watch {
            child,
            output,
            errors,
            at: 0,
        }
    }

    /// The next line.
    #[track_caller]
    fn next(&mut self) -> Value {
        match self.output.find(self.at, "\n", LIMIT) {
            Ok(end) => {
                let line = self.output.text_from(self.at);
                self.at = end;
                serde_json::from_str(line.lines().next().unwrap_or_default()).expect(&line)
            }
            Err(why) => panic!("watch: {why}; {}", self.errors.text_from(0)),
        }
    }

    /// Waits until all that is waited for is.
    #[track_caller]
    fn armed(&mut self) {
        loop {
            let event = self.next();
            assert_eq!(event["event"], "waiting", "{event}");
            if event.get("missing").is_none() {
                return;
            }
        }
    }

    /// The next incident.
    #[track_caller]
    fn incident(&mut self) -> Value {
        loop {
            let event = self.next();
            if event["event"] == "incident" {
                return event;
            }
        }
    }

    /// Its exit status, and what it said on standard error.
    #[track_caller]
    fn ended(&mut self) -> (i32, String) {
        assert!(self.output.ends(LIMIT), "the watch goes on");
        assert!(self.errors.ends(LIMIT));
        let status = self.child.wait().expect("it has ended");
        (status.code().unwrap_or(-1), self.errors.text_from(0))
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is there");
        self.child.wait().expect("it has ended");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `kdd` command that is still running.
#[track_caller]
fn begin(service: &Service, arguments: &[&str]) -> Child {
    Command::new(kdd())
        .args(arguments)
        .env("KDD_CONTROL", service.control())
        .env_remove("KDD_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kdd runs")
}

/// A long enough look at something that mustn't happen.
fn a_while() {
    std::thread::sleep(Duration::from_millis(300));
}
