//! lldb, run with a list of commands.

use crate::LIMIT;
use crate::process::Process;
use std::process::Command;

/// What one lldb printed, command by command.
pub struct Lldb {
    text: String,
    answers: Vec<(String, String)>,
}

impl Lldb {
    /// Attaches, runs the commands, each to its end, and quits.
    #[track_caller]
    pub fn session(address: &str, commands: &[&str]) -> Lldb {
        Self::session_after(&[], address, commands)
    }

    /// As [`Lldb::session`], with commands before it attaches.
    #[track_caller]
    pub fn session_after(first: &[&str], address: &str, commands: &[&str]) -> Lldb {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "exec lldb \"$@\" 2>&1",
            "lldb",
            "--no-lldbinit",
            "--batch",
            "--no-use-colors",
        ]);
        let attach = format!("gdb-remote {address}");
        let settings = [
            "settings set plugin.process.gdb-remote.packet-timeout 60",
            "settings set auto-confirm true",
        ];
        for line in settings
            .into_iter()
            .chain(first.iter().copied())
            .chain([attach.as_str()])
            .chain(commands.iter().copied())
        {
            command.args(["-o", line]);
        }
        let mut process = Process::start(&mut command);
        process.wait(LIMIT);
        let text = process.output.text_from(0);
        let answers = text
            .split("(lldb) ")
            .filter_map(|piece| piece.split_once('\n'))
            .map(|(line, answer)| (line.trim().to_owned(), answer.to_owned()))
            .collect();
        Lldb { text, answers }
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The answer to a command, the first if it was given more than once.
    #[track_caller]
    pub fn answer(&self, command: &str) -> &str {
        match self.answers.iter().find(|(line, _)| line == command) {
            Some((_, answer)) => answer,
            None => panic!("lldb didn't run '{command}':\n{}", self.text),
        }
    }
}
