//! One run of `kdd` as a client, and what came of it.

use crate::tools::kdd;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs `kdd` with these arguments, which find the service at `control`.
    #[track_caller]
    pub fn of(control: &Path, arguments: &[impl AsRef<OsStr>]) -> Outcome {
        let mut command = Command::new(kdd());
        command
            .args(arguments)
            .env("KDD_CONTROL", control)
            .env_remove("KDD_LOG");
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Outcome {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It must have succeeded.
    #[track_caller]
    pub fn done(self) -> Outcome {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// It must have failed with this status, and said so on one line: `kdd: what: why; what to do`.
    #[track_caller]
    pub fn fails(self, status: i32) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or(&self.stderr);
        assert!(
            line.starts_with("kdd: ") && !line.contains('\n') && line.contains("; "),
            "{line:?}"
        );
        line.to_owned()
    }

    /// What it printed, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it printed, as JSON objects, a line each.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => value,
            other => panic!("no JSON object: {line:?} ({other:?})"),
        };
        self.text().lines().map(parse).collect()
    }

    /// What it printed, as one JSON object.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines.remove(0)
    }
}
