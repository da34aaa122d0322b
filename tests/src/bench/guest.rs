//! The stock kernel as a process: under kdd or under QEMU, with a console and a place for gdb.

use super::usage;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// The guest's shell waits for a command.
const PROMPT: &str = "/root # ";

/// Who runs the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Host {
    Kdd,
    /// QEMU with its translator, without /dev/kvm.
    Qemu,
}

/// Ours and the reference.
pub(crate) const BOTH: [Host; 2] = [Host::Kdd, Host::Qemu];

/// A guest that runs.
pub(crate) struct Guest {
    process: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
    started: Instant,
    /// HOST:PORT for `target remote`.
    pub(crate) gdb: String,
    control: PathBuf,
}

impl Guest {
    /// Starts the kernel with 1 vCPU and 256 MiB; `append` follows what makes the serial port its console.
    pub(crate) fn start(host: Host, append: &str) -> Result<Guest> {
        let (kernel, initrd) = (in_cache("linux/vmlinuz")?, in_cache("linux/initramfs.cpio")?);
        let append = format!("console=ttyS0 {append}");
        // Free now; nobody else asks for it in the moment that it takes.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let gdb = format!("127.0.0.1:{port}");
        let control = std::env::temp_dir().join(format!("kdd-bench-{}-{port}.sock", std::process::id()));
        let mut command = match host {
            Host::Kdd => {
                let mut command = Command::new(kdd()?);
                command.args(["run", "--memory", "256M", "--name", "bench", "--gdb", &gdb]);
                command
                    .arg("--control")
                    .arg(&control)
                    .arg("--kernel")
                    .arg(kernel)
                    .arg("--initrd")
                    .arg(initrd);
                command
            }
            Host::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args([
                    "-M",
                    "pc",
                    "-cpu",
                    "qemu64",
                    "-accel",
                    "tcg",
                    "-m",
                    "256",
                    "-smp",
                    "1",
                    "-nodefaults",
                ]);
                command.args([
                    "-display",
                    "none",
                    "-serial",
                    "stdio",
                    "-no-reboot",
                    "-gdb",
                    &format!("tcp:{gdb}"),
                ]);
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
                command
            }
        };
        command.args(["-append", &append].map(|word| match (host, word) {
            (Host::Kdd, "-append") => "--append",
            (_, word) => word,
        }));
        let started = Instant::now();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let input = process.stdin.take().context("no standard input")?;
        let mut console = process.stdout.take().context("no standard output")?;
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Guest {
            process,
            input,
            output,
            seen: String::new(),
            started,
            gdb,
            control,
        })
    }

    /// As [`Guest::start`], and waits for the shell's prompt.
    pub(crate) fn booted(host: Host, append: &str) -> Result<Guest> {
        let mut guest = Guest::start(host, append)?;
        guest.wait_for_prompt()?;
        Ok(guest)
    }

    pub(crate) fn wait_for_prompt(&mut self) -> Result<String> {
        self.wait_for(PROMPT)
    }

    /// Waits until the console shows `text`: what it showed before that.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.seen, rest);
                before.truncate(at);
                return Ok(before);
            }
            match self
                .output
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => bail!("the console does not show {text:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the guest ended before it showed {text:?}"),
            }
        }
    }

    /// Types at the console.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes())?;
        Ok(self.input.flush()?)
    }

    /// Runs a command of the guest's shell: what it printed.
    pub(crate) fn shell(&mut self, command: &str) -> Result<String> {
        // The echo of the command isn't the marker.
        self.send(&format!("{command}; echo do''ne\n"))?;
        let output = self.wait_for("done\r\n")?;
        self.wait_for_prompt()?;
        Ok(output)
    }

    /// Since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        usage::cpu_seconds(self.pid())
    }

    /// A number that `kdd info` tells.
    pub(crate) fn info(&self, field: &str) -> Result<f64> {
        let output = Command::new(kdd()?)
            .args(["info", "bench", "--json", "--control"])
            .arg(&self.control)
            .output()?;
        let info: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("kdd info: {}", String::from_utf8_lossy(&output.stderr)))?;
        info[field]
            .as_f64()
            .with_context(|| format!("kdd info tells no {field}"))
    }

    /// The address of a kernel symbol.
    pub(crate) fn symbol(&mut self, name: &str) -> Result<u64> {
        let output = self.shell(&format!("grep ' {name}$' /proc/kallsyms"))?;
        let line = output
            .lines()
            .find(|line| line.trim_end().ends_with(name) && !line.contains("grep"));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| u64::from_str_radix(word, 16).ok())
            .with_context(|| format!("the kernel has no symbol '{name}': {output:?}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.control);
    }
}

/// The program that was built along with this one.
fn kdd() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("kdd");
    if !path.exists() {
        bail!(
            "{} is not there; build with 'cargo build --release'",
            path.display()
        );
    }
    Ok(path)
}

/// A file that set-up put in place.
fn in_cache(name: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("KDD_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"));
    let path = cache.join(name);
    if !path.exists() {
        bail!("{} is not there; run 'setup/guest-linux.sh'", path.display());
    }
    Ok(path)
}
