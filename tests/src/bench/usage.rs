//! What a process uses, from procfs (proc(5)).

use anyhow::{Context, Result};
use std::fs;

/// USER_HZ, which is 100 on every architecture that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process, all its threads and those that have ended.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<f64>().ok());
    // utime and stime: fields 14 and 15, of which 1 and 2 are gone.
    let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat has no times")?;
    Ok((user + system) / TICKS_PER_SECOND)
}

/// CPU seconds of a process' present threads, to the nanosecond where the kernel keeps them.
pub(crate) fn fine_cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            return cpu_seconds(pid);
        };
        let on_cpu = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok());
        nanoseconds += on_cpu.context("schedstat has no times")?;
    }
    Ok(nanoseconds / 1e9)
}

/// Bytes of a process that are in memory.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("/proc/PID/status has no VmRSS")? * 1024.0)
}

/// CPU seconds of this thread.
pub(crate) fn thread_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Sets this process' peak resident set to what it is now, in bytes (proc(5): 5 in `clear_refs`).
pub(crate) fn forget_peak() -> Result<u64> {
    fs::write("/proc/self/clear_refs", "5")?;
    peak()
}

/// The most that this process had resident since [`forget_peak`], in bytes.
pub(crate) fn peak() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    Ok(kilobytes.context("/proc/self/status has no VmHWM")? << 10)
}
