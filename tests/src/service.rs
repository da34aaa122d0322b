//! A service of a test's own.

use crate::process::Process;
use crate::tools::{cache_folder, kdd, kept};
use crate::{Console, LIMIT, Outcome, Scratch, Transcript};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// `kdd run` or `kdd serve` as a process. It ends with this value.
pub struct Service {
    process: Process,
    scratch: Scratch,
    control: PathBuf,
    /// What it said about itself when it was ready.
    ready: Value,
    /// Where standard output goes on after that.
    console_start: usize,
}

impl Service {
    /// `kdd run` with these arguments: one guest, with a gdb endpoint on a free port; it is the domain `vm` unless
    /// the arguments name it.
    #[track_caller]
    pub fn run(arguments: &[impl AsRef<OsStr>]) -> Service {
        let mut command = Command::new(kdd());
        command
            .arg("run")
            .args(["--json", "--name", "vm"])
            .args(arguments);
        Self::start(command)
    }

    /// As [`Service::run`], with symbol files of guests in another folder than those of the tests.
    #[track_caller]
    pub fn run_caching(cache: &Path, arguments: &[impl AsRef<OsStr>]) -> Service {
        let mut command = Command::new(kdd());
        command
            .arg("run")
            .args(["--json", "--name", "vm"])
            .args(arguments);
        Self::start_caching(command, cache)
    }

    /// `kdd serve` with these arguments.
    #[track_caller]
    pub fn serve(arguments: &[impl AsRef<OsStr>]) -> Service {
        let mut command = Command::new(kdd());
        command.args(["serve", "--json"]).args(arguments);
        Self::start(command)
    }

    #[track_caller]
    fn start(command: Command) -> Service {
        Self::start_caching(command, &kept("cache"))
    }

    #[track_caller]
    fn start_caching(mut command: Command, cache: &Path) -> Service {
        let scratch = Scratch::default();
        let control = scratch.path("control");
        command
            .arg("--control")
            .arg(&control)
            // The guests that set-up built, and not others in the folder that the test runs in.
            .env("KDD_CACHE", cache_folder())
            // Symbol files of guests stay out of the user's folder.
            .env("XDG_CACHE_HOME", cache)
            .env_remove("KDD_LOG")
            .env_remove("KDD_CONTROL");
        let process = Process::start(&mut command);
        let console_start = match process.output.find(0, "\n", LIMIT) {
            Ok(end) => end,
            Err(why) => panic!("{command:?}: {why}\n{}", process.errors.text_from(0)),
        };
        let ready = process.output.text_from(0);
        let ready = ready.lines().next().unwrap_or_default();
        let ready = serde_json::from_str(ready).unwrap_or_else(|error| panic!("{ready:?}: {error}"));
        Service {
            process,
            scratch,
            control,
            ready,
            console_start,
        }
    }

    /// What it printed with `--json` when it was ready.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Its folder, for files and sockets of the test.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Runs a client command of this service.
    #[track_caller]
    pub fn kdd(&self, arguments: &[impl AsRef<OsStr>]) -> Outcome {
        Outcome::of(&self.control, arguments)
    }

    /// `kdd info` of a domain.
    #[track_caller]
    pub fn info(&self, domain: &str) -> Value {
        self.kdd(&["info", domain, "--json"]).done().json()
    }

    /// The state of a domain, and its virtual time.
    #[track_caller]
    pub fn state(&self, domain: &str) -> (String, u64) {
        let info = self.info(domain);
        (
            info["state"].as_str().unwrap_or_default().to_owned(),
            info["uptime_instructions"].as_u64().unwrap_or(0),
        )
    }

    /// Where gdb attaches to the domain of `kdd run`.
    #[track_caller]
    pub fn gdb_address(&self) -> String {
        address(&self.ready)
    }

    /// Where KD debuggers attach to the domain of `kdd run --kd`.
    #[track_caller]
    pub fn kd_address(&self) -> String {
        let endpoints = self.ready["endpoints"].as_array().into_iter().flatten();
        let mut kd = endpoints.filter(|endpoint| endpoint["protocol"] == "kd");
        match kd.next().and_then(|endpoint| endpoint["address"].as_str()) {
            Some(address) => address.to_owned(),
            None => panic!("no KD endpoint: {}", self.ready),
        }
    }

    /// A new gdb endpoint of a domain.
    #[track_caller]
    pub fn add_gdb(&self, domain: &str) -> String {
        let endpoint = self.kdd(&["gdb", domain, "--json"]).done().json();
        endpoint["address"].as_str().unwrap_or_default().to_owned()
    }

    /// The console of `kdd run`.
    pub fn console(&mut self) -> Console<'_> {
        Console::new(&mut self.process, self.console_start)
    }

    /// All that the console of `kdd run` has shown.
    pub fn console_text(&self) -> String {
        self.process.output.text_from(self.console_start)
    }

    /// Its log.
    pub fn log(&self) -> &Transcript {
        &self.process.errors
    }

    /// The CPU time that it has used.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }

    /// Asks it to end.
    #[track_caller]
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }
}

/// Where gdb attaches to a domain that `kdd` described.
#[track_caller]
pub(crate) fn address(domain: &Value) -> String {
    match domain["endpoints"][0]["address"].as_str() {
        Some(address) => address.to_owned(),
        None => panic!("no endpoint: {domain}"),
    }
}
