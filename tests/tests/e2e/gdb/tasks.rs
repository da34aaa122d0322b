//! The tasks of a Linux guest are threads, after the vCPUs.

use super::{attached, attached_four};
use std::collections::BTreeMap;
use std::time::Instant;
use tests::{Console, Gdb, Service, four_vcpus, has_tool};

/// Sleepers of user mode, of several kinds.
const SLEEPERS: &str =
    "sleep 1000 & sleep 1000 & (cat /dev/zero | sleep 1000) & cat >/dev/null </dev/ptmx & sleep 0.5";
/// Tasks by pid with their names, or their stacks, as the guest says.
const NAMES: &str =
    "for p in /proc/[0-9]*/task/[0-9]*; do echo \"@${p##*/} $(cat $p/comm)\"; done 2>/dev/null";
const STACKS: &str = "for p in /proc/[0-9]*; do echo \"@${p##*/}\"; cat $p/stack; done 2>/dev/null";

/// What follows `@PID` in the guest's answer.
fn by_pid(text: &str) -> BTreeMap<u32, String> {
    let parts = text.split('@').skip(1);
    let of = |part: &str| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        Some((part[..digits].parse().ok()?, part[digits..].trim().to_owned()))
    };
    parts.filter_map(of).collect()
}

/// A line of `info threads`: gdb's number, the name and what it does, by the pid.
struct Listed {
    number: u32,
    name: String,
    extra: String,
}

fn listed(text: &str) -> BTreeMap<u32, Listed> {
    let of = |line: &str| {
        let line = line.trim_start_matches(['*', ' ']);
        let (number, rest) = line.split_once(" Thread ")?;
        let (id, rest) = rest.split_once(" \"")?;
        let (name, rest) = rest.split_once("\" (")?;
        let listed = Listed {
            number: number.trim().parse().ok()?,
            name: name.to_owned(),
            extra: rest.split_once(')')?.0.to_owned(),
        };
        Some((id.parse::<u32>().ok()?.checked_sub(1000)?, listed))
    };
    text.lines().filter_map(of).collect()
}

#[test]
fn explore() {
    let Some(snapshot) = four_vcpus().filter(|_| has_tool("gdb")) else {
        return;
    };
    let mut service = snapshot.service();
    service.console().command(SLEEPERS);
    let many = std::env::var("MANY").unwrap_or("0".into());
    service.console().command(&format!(
        "i=0; while [ $i -lt {many} ]; do sleep 1000 & i=$((i+1)); done"
    ));
    println!(
        "{}",
        service
            .console()
            .command("for p in /proc/[0-9]*; do echo \"${p##*/} $(cat $p/wchan)\"; done")
    );
    let commands = std::env::var("COMMANDS").unwrap_or_default();
    let mut gdb = Gdb::start();
    let t = Instant::now();
    println!("{}", gdb.run(&format!("target remote {}", service.gdb_address())));
    println!("attach {:?}", t.elapsed());
    for command in commands.split(';') {
        let t = Instant::now();
        println!("(gdb) {command}\n{}", gdb.run(command));
        println!("-- {:?}", t.elapsed());
    }
}
