//! The Linux guest under QEMU, for what QEMU makes of it.

use crate::{BOOT_LIMIT, Scratch, guest};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// QEMU with the Linux guest at its prompt, stopped; it ends with this value.
pub struct QemuMachine {
    process: Child,
    monitor: BufReader<UnixStream>,
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl QemuMachine {
    /// Boots the guest with two processors. `None`, and it is said, if set-up hasn't run.
    ///
    /// # Panics
    /// If it doesn't come to its prompt.
    #[track_caller]
    pub fn boot(scratch: &Scratch, memory_bytes: u64) -> Option<QemuMachine> {
        let guest = guest(None)?;
        let (socket, console) = (scratch.path("qmp"), scratch.path("console"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-M",
            "pc",
            "-cpu",
            "qemu64",
            "-accel",
            "tcg",
            "-m",
            &format!("{}M", memory_bytes >> 20),
            "-smp",
            "2",
        ]);
        command.args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-append",
            "console=ttyS0 cryptomgr.notests",
        ]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
        command
            .arg("-kernel")
            .arg(guest.kernel)
            .arg("-initrd")
            .arg(guest.initrd);
        let process = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{error}"));
        let start = std::time::Instant::now();
        let wait = |what: &str, holds: &mut dyn FnMut() -> bool| {
            while !holds() {
                assert!(start.elapsed() < BOOT_LIMIT, "{what}");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        };
        let mut monitor = None;
        wait("no monitor", &mut || {
            monitor = UnixStream::connect(&socket).ok();
            monitor.is_some()
        });
        let mut qemu = QemuMachine {
            process,
            monitor: BufReader::new(monitor.expect("it was waited for")),
        };
        wait("no prompt", &mut || {
            let text = std::fs::read(&console).unwrap_or_default();
            text.windows(8).any(|window| window == b"/root # ")
        });
        qemu.command("qmp_capabilities", &json!({}));
        qemu.command("stop", &json!({}));
        Some(qemu)
    }

    /// A command of QEMU's machine protocol.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn command(&mut self, name: &str, arguments: &Value) {
        let command = json!({ "execute": name, "arguments": arguments }).to_string();
        self.monitor
            .get_mut()
            .write_all(command.as_bytes())
            .expect("QEMU listens");
        loop {
            let mut line = String::new();
            self.monitor.read_line(&mut line).expect("QEMU answers");
            let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(answer.get("error").is_none(), "{name}: {answer}");
            if answer.get("return").is_some() {
                return;
            }
        }
    }

    /// `dump-guest-memory`.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn dump(&mut self, path: &Path, format: Option<&str>) {
        let mut arguments = json!({ "paging": false, "protocol": format!("file:{}", path.display()) });
        if let Some(format) = format {
            arguments["format"] = format.into();
        }
        self.command("dump-guest-memory", &arguments);
    }
}
