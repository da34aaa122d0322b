//! The tasks of a Linux guest are threads, after the vCPUs.

use super::{attached, attached_four};
use dump::DumpDomain;
use hv_core::DomId;
use hv_core::introspect::Introspect;
use introspect::linux::Linux;
use std::collections::BTreeMap;
use std::path::PathBuf;
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

/// The kernel's symbol file of the guest, by way of a dump.
fn symbol_file(service: &Service) -> PathBuf {
    let (core, file) = (service.scratch().path("core"), service.scratch().path("vmlinux"));
    service
        .kdd(&["dump".as_ref(), "vm".as_ref(), core.as_os_str()])
        .done();
    let image = dump::open(&core).expect("it is a dump");
    let domain = DumpDomain::new(DomId(1), "core".into(), image);
    let linux = Linux::recognise((&domain as &dyn Introspect).into()).expect("it is Linux");
    let made = linux.symbol_file(&domain, None).expect("it has symbols");
    std::fs::write(&file, made.bytes()).expect("it is ours");
    file
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
    let file = symbol_file(&service);
    println!("{}", file.display());
    let commands = std::env::var("COMMANDS").unwrap_or_default();
    let mut gdb = Gdb::start();
    gdb.run(&format!("file {}", file.display()));
    let t = Instant::now();
    println!("{}", gdb.run(&format!("target remote {}", service.gdb_address())));
    println!("attach {:?}", t.elapsed());
    for command in commands.split(';') {
        let t = Instant::now();
        println!("(gdb) {command}\n{}", gdb.run(command));
        println!("-- {:?}", t.elapsed());
    }
}
