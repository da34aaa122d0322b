//! Stock gdb, timed from inside by its own Python: its start-up doesn't count.

use anyhow::{Context, Result};
use std::io::Write;
use std::process::{Child, Command, Stdio};

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
         print('MEASURED', time.perf_counter() - wall, time.process_time() - cpu)\nend\n"
    );
    let output = start(address, &script)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("MEASURED "));
    let mut numbers = line
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.parse().ok());
    let (wall, gdb_cpu) = numbers.next().zip(numbers.next()).with_context(|| {
        format!(
            "gdb measured nothing: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok(Taken { wall, gdb_cpu })
}

/// gdb, attached, with a script to run.
pub(crate) fn start(address: &str, script: &str) -> Result<Child> {
    let mut gdb = Command::new("gdb")
        .args([
            "-nx",
            "-q",
            "-batch",
            "-iex",
            "set pagination off",
            "-x",
            "/dev/stdin",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start gdb")?;
    let mut input = gdb.stdin.take().context("no standard input")?;
    write!(
        input,
        "set confirm off\nset architecture i386:x86-64\ntarget remote {address}\n{script}\n"
    )?;
    Ok(gdb)
}
