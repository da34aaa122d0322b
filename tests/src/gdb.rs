//! gdb, driven line by line through pipes, as a user types.

use crate::process::Process;
use crate::{LIMIT, Transcript};
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

/// A gdb. It ends with this value.
pub struct Gdb {
    process: Process,
    at: usize,
    commands: u32,
}

impl Gdb {
    /// A gdb that is attached.
    #[track_caller]
    pub fn attached(address: &str) -> Gdb {
        let mut gdb = Gdb::start();
        let answer = gdb.run(&format!("target remote {address}"));
        assert!(
            answer.contains(&format!("Remote debugging using {address}")),
            "{answer}"
        );
        gdb
    }

    /// A gdb without a target.
    #[track_caller]
    pub fn start() -> Gdb {
        // One stream for results and errors, in order.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec gdb -nx -q 2>&1"])
            .env("LC_ALL", "C")
            .env_remove("DEBUGINFOD_URLS");
        let mut gdb = Gdb {
            process: Process::start(&mut command),
            at: 0,
            commands: 0,
        };
        for setting in [
            "confirm off",
            "pagination off",
            "width 0",
            "height 0",
            "remotetimeout 60",
            "style enabled off",
        ] {
            gdb.run(&format!("set {setting}"));
        }
        gdb
    }

    /// Runs a command to its end: what it printed.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.begin(command);
        self.end()
    }

    /// Runs commands one after another: what they printed.
    #[track_caller]
    pub fn run_all(&mut self, commands: &[&str]) -> String {
        commands.iter().map(|command| self.run(command)).collect()
    }

    /// Begins a command; [`Gdb::end`] waits for its end.
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        self.at = self.process.output.len();
        self.commands += 1;
        self.process
            .write(format!("{command}\necho \\ndone-{}-\\n\n", self.commands).as_bytes());
    }

    /// Waits for the end of the command that was begun: what it printed.
    #[track_caller]
    pub fn end(&mut self) -> String {
        self.end_within(LIMIT)
    }

    /// As [`Gdb::end`], with another limit.
    #[track_caller]
    pub fn end_within(&mut self, limit: Duration) -> String {
        let mark = format!("\ndone-{}-\n", self.commands);
        match self.process.output.find(self.at, &mark, limit) {
            Ok(end) => {
                let text = self.process.output.text_from(self.at);
                let length = end - self.at - mark.len();
                self.at = end;
                text.get(..length).unwrap_or(&text).replace("(gdb) ", "")
            }
            Err(why) => panic!("gdb: {why}"),
        }
    }

    /// `continue`, up to the next stop: what is printed there.
    #[track_caller]
    pub fn resume(&mut self) -> String {
        self.run("continue")
    }

    /// The value of an expression, as a number.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> u64 {
        let answer = self.run(&format!("output/x {expression}"));
        let digits = answer.trim().strip_prefix("0x").unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{expression}: {answer}"))
    }

    /// Ctrl-C.
    #[track_caller]
    pub fn interrupt(&self) {
        self.process.signal(Signal::INT);
    }

    /// Detaches and ends.
    #[track_caller]
    pub fn detach(mut self) {
        let answer = self.run("detach");
        assert!(
            answer.contains("[Inferior 1 (") && answer.contains("detached]"),
            "{answer}"
        );
        self.process.write(b"quit\n");
        self.process.wait(LIMIT);
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// All that it printed.
    pub fn transcript(&self) -> &Transcript {
        &self.process.output
    }
}
