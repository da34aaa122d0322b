//! A guest's console: typing, and waiting for what appears.

use crate::process::Process;
use crate::{LIMIT, Transcript};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The prompt of the guest's shell.
pub(crate) const PROMPT: &str = "/root # ";

/// The serial console of a `kdd run`.
pub struct Console<'a> {
    process: &'a mut Process,
    output: Transcript,
    /// What was waited for ends here.
    at: usize,
}

impl Console<'_> {
    pub(crate) fn new(process: &mut Process, at: usize) -> Console<'_> {
        Console {
            output: process.output.clone(),
            process,
            at,
        }
    }

    /// From now on: what has appeared before isn't waited for.
    #[must_use]
    pub fn from_now(mut self) -> Self {
        self.at = self.output.len();
        self
    }

    /// Types text as it is; a line ends with `\r`.
    #[track_caller]
    pub fn types(&mut self, text: &str) {
        self.process.write(text.as_bytes());
    }

    /// Waits for text behind that which was waited for last.
    #[track_caller]
    pub fn shows(&mut self, text: &str, limit: Duration) {
        match self.output.find(self.at, text, limit) {
            Ok(end) => self.at = end,
            Err(why) => panic!("console: {why}"),
        }
    }

    /// Waits for the shell's prompt.
    #[track_caller]
    pub fn shows_prompt(&mut self, limit: Duration) {
        self.shows(PROMPT, limit);
    }

    /// Begins a command of the guest's shell; [`Console::result`] waits for it.
    #[track_caller]
    pub fn begin(&mut self, command: &str) -> u32 {
        static COUNT: AtomicU32 = AtomicU32::new(1000);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        self.at = self.output.len();
        // The shell computes the numbers, so that the echo of the line isn't taken for its output.
        self.types(&format!("echo begin-$(({n}));{command};echo end-$(({n}))-$?\r"));
        n
    }

    /// Waits for a command that was begun: what it printed, and its exit status.
    #[track_caller]
    pub fn result(&mut self, begun: u32, limit: Duration) -> (String, i32) {
        self.shows(&format!("begin-{begun}\r\n"), limit);
        let start = self.at;
        let end = format!("end-{begun}-");
        self.shows(&end, limit);
        let status_at = self.at;
        self.shows("\r\n", limit);
        let text = self.output.text_from(start);
        let status = text[status_at - start..]
            .lines()
            .next()
            .and_then(|digits| digits.parse().ok());
        (
            text[..status_at - start - end.len()].replace('\r', ""),
            status.unwrap_or(-1),
        )
    }

    /// Runs a command in the guest's shell, which must succeed: what it printed.
    #[track_caller]
    pub fn command(&mut self, command: &str) -> String {
        let begun = self.begin(command);
        let (text, status) = self.result(begun, LIMIT);
        assert_eq!(status, 0, "{command}: {text}");
        text
    }

    /// The guest runs and its shell answers.
    #[track_caller]
    pub fn answers(&mut self) {
        assert_eq!(self.command("echo $((6*7))"), "42\n");
    }
}
