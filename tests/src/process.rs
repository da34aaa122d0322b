//! A child process that ends with the value that stands for it.

use crate::Transcript;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running child with its output.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    /// Its standard output.
    pub output: Transcript,
    /// Its standard error.
    pub errors: Transcript,
}

impl Process {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Process {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = child.stdout.take().map(Transcript::of).unwrap_or_default();
        let errors = child.stderr.take().map(Transcript::of).unwrap_or_default();
        Process {
            input: child.stdin.take(),
            child,
            output,
            errors,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let Some(input) = &mut self.input else {
            panic!("standard input is closed")
        };
        if let Err(error) = input.write_all(bytes).and_then(|()| input.flush()) {
            panic!("standard input: {error}; it said:\n{}", self.errors.text_from(0));
        }
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            panic!("signal: {error}");
        }
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        if !self.output.ends(limit) {
            panic!(
                "it didn't end; it said:\n{}{}",
                self.output.text_from(0),
                self.errors.text_from(0)
            );
        }
        self.child.wait().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The CPU time that it has used (proc(5), /proc/PID/stat, fields 14 and 15), at 100 ticks a second.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| {
                rest.split_whitespace()
                    .map(|field| field.parse().unwrap_or(0))
                    .collect()
            })
            .unwrap_or_default();
        assert!(fields.len() > 12, "no /proc/PID/stat");
        Duration::from_millis((fields[11] + fields[12]) * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
