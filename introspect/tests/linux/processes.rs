//! A process's mappings, program, page tables and files, against /proc and against the program's own file.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use hv_core::introspect::ReadMemory;
use introspect::Target;
use introspect::linux::{Linux, Mapping};
use std::fmt::Write as _;

/// A line of /proc/PID/maps, without its device and inode.
fn line(linux: &Linux, memory: &dyn ReadMemory, mapping: &Mapping) -> String {
    let path = mapping
        .file
        .map_or_else(String::new, |file| linux.file(memory, file).expect("a file").path);
    format!(
        "{:08x}-{:08x} {} {:08x} {path}",
        mapping.start.0,
        mapping.end.0,
        mapping.rights(),
        mapping.offset,
    )
}

fn processes_are_those_of_proc(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    machine.command("mkdir -p /tmp/a/b; mount -t tmpfs none /tmp/a; cp /bin/busybox /tmp/a/sleep");
    machine.command("/tmp/a/sleep 12345 & true");
    let pid = machine.command("pidof sleep");
    let pid = pid.trim();
    machine.command("sleep 1");
    let maps = machine.command(&format!("cat /proc/{pid}/maps"));
    let auxv = machine.command(&format!("od -An -v -tx1 /proc/{pid}/auxv"));
    let said: Vec<String> = maps
        .lines()
        .map(|line| {
            let mut parts = line.split_whitespace();
            let mut next = || parts.next().unwrap_or_default();
            let (range, rights, offset) = (next(), next(), next());
            next();
            next();
            // `[heap]` and the like are guesses about mappings without a file.
            let path = next();
            let path = if path.starts_with('[') { "" } else { path };
            format!("{range} {rights} {offset} {path}")
        })
        .filter(|line| !line.starts_with("ffffffffff600000"))
        .collect();
    assert!(said.len() > 4, "{maps}");
    let shared = machine.domain.clone();
    machine.paused(|domain| {
        let linux = recognise(domain);
        let task = linux.process(domain, pid).expect("tasks").expect("it runs");
        assert_eq!(
            linux.process(domain, "sleep").expect("tasks").as_ref(),
            Some(&task)
        );
        assert_eq!(linux.process(domain, "no-such").expect("tasks"), None);
        let mm = task.mm.expect("a user's");
        let walk = linux.mappings(domain, mm).expect("mappings");
        assert_eq!(walk.broken, None);
        let seen: Vec<String> = walk.items.iter().map(|it| line(&linux, domain, it)).collect();
        assert_eq!(seen, said);

        assert_eq!(
            linux.arguments(domain, mm).expect("arguments"),
            ["/tmp/a/sleep", "12345"]
        );
        let mut words = String::new();
        for byte in linux.auxiliary_vector(domain, mm).expect("a vector") {
            let _ = write!(words, "{byte:02x} ");
        }
        let told: String = auxv.split_whitespace().map(|byte| format!("{byte} ")).collect();
        assert_eq!(words, told);

        let program = linux.program(domain, mm).expect("readable").expect("one");
        assert_eq!(program.path, "/tmp/a/sleep");
        let mut bytes = vec![0; program.size as usize + 100];
        let read = linux
            .read_file(domain, &program, 0, &mut bytes)
            .expect("the page cache");
        assert_eq!(read as u64, program.size, "all of it is in memory");
        let busybox = std::fs::read(guest::cache_folder().join("linux/busybox")).expect("it is there");
        assert!(bytes[..read] == busybox, "the file's bytes");
        assert_eq!(linux.read_file(domain, &program, program.size, &mut bytes), Ok(0));
        assert_eq!(linux.read_file(domain, &program, u64::MAX, &mut bytes), Ok(0));

        let tables = linux.page_tables(domain, mm).expect("page tables");
        let apart = linux.user_page_tables(domain, tables).0 ^ tables.0;
        assert_eq!(apart, if kind.append.contains("pti=on") { 0x1000 } else { 0 });

        // Its memory, by its own page tables.
        let text = walk
            .items
            .iter()
            .find(|it| it.rights() == "r-xp" && it.file.is_some());
        let text = text.expect("code");
        let target = Target::new(shared);
        let space = linux
            .user_space(domain, &task)
            .expect("page tables")
            .expect("its own");
        let mut code = [0; 64];
        let got = target.read_virtual(space, text.start, &mut code).expect("mapped");
        let offset = text.offset as usize;
        assert_eq!(code[..got], busybox[offset..offset + got]);
    });
}

#[test]
fn processes_are_those_of_proc_on_6_1() {
    processes_are_those_of_proc(&guest::STABLE);
}

#[test]
fn processes_are_those_of_proc_on_6_12() {
    processes_are_those_of_proc(&guest::NEWER);
}
