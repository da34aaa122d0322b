//! The crash utility, which needs the kernel's debug information: setup/kernel-debug.sh. A part of the nightly script.

use crate::guest::dumped;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What crash prints for some commands.
#[track_caller]
fn crash(kernel: &Path, dump: &Path, commands: &str) -> String {
    let mut command = Command::new("crash");
    command.arg("-s").arg(kernel).arg(dump).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut input = process.stdin.take().expect("it was asked for");
    input.write_all(commands.as_bytes()).expect("crash reads");
    drop(input);
    let output = process.wait_with_output().expect("crash ends");
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{text}\n{errors}")
}

#[test]
#[ignore = "needs the kernel's debug information: setup/nightly.sh crash-utility"]
fn crash_opens_every_file() {
    let kernel = tests::kernel_debug();
    if !tests::has_tool("crash") || !kernel.is_file() {
        assert!(std::env::var_os("CI").is_none(), "run setup/kernel-debug.sh");
        return;
    }
    let Some(guest) = dumped() else { return };
    for name in [
        "elf",
        "elf-physical",
        "elf-gdb",
        "none",
        "zlib",
        "snappy",
        "zstd",
        "flattened",
    ] {
        let text = crash(
            &kernel,
            &guest.path(name),
            "sys\nlog\nrd -a linux_banner\nmod\nquit\n",
        );
        // Its exit status says little, and its list of tasks is wrong for this kernel: it is older.
        for expected in [
            format!("RELEASE: {}", guest.release()),
            format!("CPUS: {}", guest.processors.len()),
            format!("Linux version {}", guest.release()),
        ] {
            assert!(text.contains(&expected), "{name}: no '{expected}': {text}");
        }
        let banner = text.lines().find(|line| line.contains(":  Linux version"));
        assert!(banner.is_some(), "{name}: rd shows no banner: {text}");
        assert!(
            !text.contains("excluded") && !text.contains("do not match"),
            "{name}: {text}"
        );
    }
}
