//! `lx`: what the kernel's own gdb scripts (scripts/gdb) show of a Linux guest, under their names, without them.

use crate::guest::Guest;
use hv_core::introspect::Introspect;
use introspect::linux::{Linux, Walk};
use std::fmt::Write;

pub fn lx(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    let show = match arguments {
        ["ps"] => ps,
        ["dmesg"] => dmesg,
        ["lsmod"] => lsmod,
        ["cmdline"] => command_line,
        ["version"] => version,
        ["current"] => current,
        ["vmcoreinfo"] => vmcoreinfo,
        _ => return Err("ps, dmesg, lsmod, cmdline, version, current or vmcoreinfo".into()),
    };
    guest.hold();
    let linux = guest.target.linux().map_err(|error| error.to_string())?;
    show(guest, &linux)
}

fn ps(guest: &Guest, linux: &Linux) -> Result<String, String> {
    let walk = linux.tasks(guest.domain()).map_err(|error| error.to_string())?;
    let mut text = format!("{:>10} {:>12} {:>7}\n", "TASK", "PID", "COMM");
    for task in &walk.items {
        let _ = writeln!(text, "{:#x} {:^5} {}", task.address.0, task.pid, task.name);
    }
    Ok(text + &ending(&walk))
}

fn dmesg(guest: &Guest, linux: &Linux) -> Result<String, String> {
    let log = linux.log(guest.domain()).map_err(|error| error.to_string())?;
    let mut text = String::new();
    for record in &log.records {
        let _ = writeln!(text, "{record}");
    }
    Ok(text)
}

fn lsmod(guest: &Guest, linux: &Linux) -> Result<String, String> {
    let walk = linux.modules(guest.domain()).map_err(|error| error.to_string())?;
    let mut text = format!("{:<18} {:<19} {:>8}  Used by\n", "Address", "Module", "Size");
    for module in &walk.items {
        let base = module.base().map_or(0, |base| base.0);
        let users = module
            .references
            .map_or_else(String::new, |count| count.to_string());
        let (name, size, by) = (&module.name, module.size(), module.users.join(","));
        let _ = writeln!(text, "{base:#018x} {name:<19} {size:>8}  {users} {by}");
    }
    Ok(text + &ending(&walk))
}

fn command_line(guest: &Guest, linux: &Linux) -> Result<String, String> {
    let line = linux.command_line(guest.domain());
    Ok(line.ok_or("the kernel has none yet")? + "\n")
}

/// What the kernel keeps for crash dumps; docs/live_drgn.py asks for it.
fn vmcoreinfo(_: &Guest, linux: &Linux) -> Result<String, String> {
    let info = linux.vmcoreinfo().ok_or("the kernel has none yet")?;
    Ok(String::from_utf8_lossy(info.text()).into_owned())
}

fn version(_: &Guest, linux: &Linux) -> Result<String, String> {
    let banner = linux.banner().ok_or("the kernel's banner was not found")?;
    Ok(banner.trim_end().to_owned() + "\n")
}

/// The task that the vCPU that is looked at runs, the idle one too.
fn current(guest: &Guest, linux: &Linux) -> Result<String, String> {
    let domain: &dyn Introspect = guest.domain();
    let vcpu = guest.vcpu();
    let number = linux
        .cpu_of(domain.into(), vcpu)
        .map_err(|error| error.to_string())?;
    let number = number.ok_or_else(|| format!("vCPU {vcpu} is none of the kernel's CPUs yet"))?;
    let cpus = linux.cpus(domain).map_err(|error| error.to_string())?;
    let current = cpus
        .iter()
        .find(|cpu| cpu.number == number)
        .and_then(|cpu| cpu.current);
    let current = current.ok_or_else(|| format!("CPU {number} runs no task yet"))?;
    let task = linux.task(domain, current).map_err(|error| error.to_string())?;
    Ok(format!("{:#x} {} {}\n", current.0, task.pid, task.name))
}

/// Why a list ends before its end, if it does.
fn ending<T>(walk: &Walk<T>) -> String {
    let broken = walk.broken.as_ref();
    broken.map_or_else(String::new, |broken| format!("{broken}\n"))
}
