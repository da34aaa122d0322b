//! Stock gdb, timed from inside by its own Python: its start-up doesn't count.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What a command took.
pub(crate) struct Taken {
    /// Seconds.
    pub(crate) wall: f64,
    /// Of which gdb itself computed.
    pub(crate) gdb_cpu: f64,
}

/// Attaches to `address` and measures one command; `script` comes before it.
pub(crate) fn measure(address: &str, script: &str, command: &str) -> Result<Taken> {
    let script = format!(
        "{script}\npython\nimport time\nwall, cpu = time.perf_counter(), time.process_time()\n\
         gdb.execute({command:?}, to_string=True)\n\
         print('MEASURED', time.perf_counter() - wall, time.process_time() - cpu, flush=True)\nend\n"
    );
    let line = start(address, &script)?.wait_for("MEASURED ")?;
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    let (wall, gdb_cpu) = numbers
        .next()
        .zip(numbers.next())
        .context("gdb measured nothing")?;
    Ok(Taken { wall, gdb_cpu })
}

/// gdb, attached, with a script to run. The script is a file: gdb reads none from a pipe.
pub(crate) fn start(address: &str, script: &str) -> Result<Gdb> {
    let id = SCRIPTS.fetch_add(1, Relaxed);
    let file = std::env::temp_dir().join(format!("kdd-bench-{}-{id}.gdb", std::process::id()));
    let head = "set pagination off\nset confirm off\nset architecture i386:x86-64";
    std::fs::write(&file, format!("{head}\ntarget remote {address}\n{script}\n"))?;
    let process = Command::new("gdb")
        .args(["-nx", "-q", "-batch", "-x"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It warns that it knows no program.
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start gdb")?;
    Ok(Gdb { process, file })
}

static SCRIPTS: AtomicU32 = AtomicU32::new(0);

/// A gdb that runs its script. Dropping it kills it.
pub(crate) struct Gdb {
    process: Child,
    file: PathBuf,
}

impl Gdb {
    /// What it prints after `prefix` on a line of its own.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> Result<String> {
        let output = self.process.stdout.as_mut().context("no standard output")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        lines
            .find_map(|line| line.strip_prefix(prefix).map(str::to_owned))
            .with_context(|| format!("gdb ended without printing {prefix}"))
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}
