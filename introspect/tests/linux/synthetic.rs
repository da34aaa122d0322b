//! The symbol file of a running kernel, by the tools that are to read it: stock readelf, gdb and lldb.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use introspect::Target;
use introspect::linux::{Linux, Task};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use symbols::synthetic::{Kernel, Orc, OrcVersion, SymbolFile};

/// What the file takes at most in a release build on a quiet machine; others may be busy.
const LIMIT: Duration = Duration::from_secs(3);

fn symbol_file(linux: &Linux, orc: &Orc) -> SymbolFile {
    let image = linux.kernel();
    let id = linux.build_id().expect("a build-id");
    let start = Instant::now();
    let kernel = Kernel {
        image: image.base.0..image.base.0 + image.size,
        symbols: linux.kallsyms().expect("symbols").iter().collect(),
        btf: linux.btf().map(|it| &**it),
        orc: Some(orc),
        build_id: Some(&id),
    };
    let file = kernel.symbol_file().expect("a file");
    let took = start.elapsed();
    println!("{} bytes in {took:?}", file.bytes().len());
    assert!(took < LIMIT, "{took:?}");
    let start = Instant::now();
    symbols::synthetic::cache::Fingerprint::of(&kernel);
    println!("fingerprint in {:?}", start.elapsed());
    file
}

/// What a tool says; `None` where it isn't installed.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(name).args(arguments).output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: no {name}");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{name} {arguments:?}: {}", output.status);
    Some(text + &errors)
}

fn gdb(file: &Path, core: Option<&Path>, commands: &[&str]) -> Option<String> {
    let file = file.to_string_lossy();
    let mut arguments = vec!["-nx", "-batch", "-ex", "set width 0", &file];
    let core = core.map(|core| core.to_string_lossy().into_owned());
    arguments.extend(core.as_deref());
    for command in commands {
        arguments.extend(["-ex", command]);
    }
    tool("gdb", &arguments)
}

/// A sleeping task's registers, by what `__switch_to_asm` left on its stack (arch/x86/include/asm/switch_to.h).
fn registers(target: &Target, linux: &Linux, task: &Task) -> [u64; 27] {
    let mut frame = [0; 56];
    let read = target.read_virtual(linux.address_space(), task.stack_pointer, &mut frame);
    assert_eq!(read.expect("its stack"), 56);
    let word = |at: usize| u64::from_le_bytes(frame[8 * at..8 * at + 8].try_into().expect("8 bytes"));
    let mut all = [0; 27];
    for (place, at) in [(0, 0), (1, 1), (2, 2), (3, 3), (5, 4), (4, 5), (16, 6)] {
        all[place] = word(at);
    }
    all[17] = 0x10; // cs
    all[19] = task.stack_pointer.0 + 56;
    all[20] = 0x18; // ss
    all
}

/// A core file with tasks as its threads, and their stacks as its memory.
fn core(target: &Target, linux: &Linux, tasks: &[&Task]) -> Vec<u8> {
    let mut notes = Vec::new();
    for task in tasks {
        for word in [5_u32, 336, 1] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"CORE\0\0\0\0");
        let start = notes.len();
        notes.resize(start + 336, 0);
        notes[start + 32..start + 36].copy_from_slice(&task.pid.to_le_bytes());
        for (number, value) in registers(target, linux, task).into_iter().enumerate() {
            let at = start + 112 + 8 * number;
            notes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    let mut file = b"\x7fELF\x02\x01\x01\x03\0\0\0\0\0\0\0\0".to_vec();
    let segments = tasks.len() + 1;
    for half in [4_u16, 62, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for long in [0_u64, 64, 0] {
        file.extend(long.to_le_bytes());
    }
    for half in [0, 0, 64, 56, segments as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let first = (64 + 56 * segments) as u64;
    let mut contents = notes.clone();
    let mut segment = |kind: u32, offset: u64, address: u64, size: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(6_u32.to_le_bytes());
        for long in [offset, address, address, size, size, 1] {
            file.extend(long.to_le_bytes());
        }
    };
    segment(4, first, 0, notes.len() as u64);
    for task in tasks {
        let mut stack = vec![0; 0x4000];
        let read = target.read_virtual(linux.address_space(), task.stack, &mut stack);
        assert_eq!(read.expect("its stack"), stack.len());
        segment(1, first + contents.len() as u64, task.stack.0, 0x4000);
        contents.extend(stack);
    }
    file.extend(contents);
    file
}

/// A frame of the guest's own: its text, and the addresses that it may mean.
pub type Frame = (String, Vec<u64>);

/// pid and addresses of each stack in /proc, by all meanings of its names: `[<0>] do_nanosleep+0x67/0x130`.
pub fn stacks(text: &str, linux: &Linux) -> Vec<(u32, Vec<Frame>)> {
    let symbols = linux.kallsyms().expect("symbols");
    let mut all: Vec<(u32, Vec<_>)> = Vec::new();
    for line in text.lines() {
        if let Some(pid) = line.trim().strip_prefix("@/proc/") {
            all.push((pid.parse().expect("a pid"), Vec::new()));
        } else if let Some((_, place)) = line.split_once("[<0>] ")
            && let Some((name, offset)) = place.trim().split_once("+0x")
        {
            let offset = offset.split('/').next().unwrap_or_default();
            let offset = u64::from_str_radix(offset, 16).expect("an offset");
            let meant = symbols.all_of_name(name).map(|it| it.address + offset);
            let stack = all.last_mut().expect("a pid comes first");
            stack.1.push((place.trim().to_owned(), meant.collect()));
        }
    }
    all
}

/// The addresses of each thread's frames in gdb's or lldb's words, by pid.
fn backtraces(text: &str, (line_start, thread): (&str, &str)) -> Vec<(u32, Vec<u64>)> {
    let mut all: Vec<(u32, Vec<u64>)> = Vec::new();
    for line in text.lines() {
        let start = line.trim_start_matches(['*', ' ']);
        if start.starts_with(line_start)
            && let Some((_, rest)) = line.split_once(thread)
        {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if let Ok(pid) = digits.parse() {
                all.push((pid, Vec::new()));
                continue;
            }
        }
        let is_frame = line.trim_start().starts_with('#') || line.contains("frame #");
        let place = line.split("0x").nth(1).filter(|_| is_frame);
        if let Some(place) = place
            && let Some((_, frames)) = all.last_mut()
        {
            let digits: String = place.chars().take_while(char::is_ascii_hexdigit).collect();
            frames.extend(u64::from_str_radix(&digits, 16));
        }
    }
    all
}

/// How many of the guest's own stacks are in a debugger's, out of how many. The guest leaves out the scheduler's frames
/// at the top; what comes below are user mode's.
pub fn equal(guest: &[(u32, Vec<Frame>)], debugger: &[(u32, Vec<u64>)]) -> (usize, usize) {
    let (mut same, mut compared) = (0, 0);
    for (pid, frames) in debugger {
        let Some((_, wanted)) = guest.iter().find(|(other, _)| other == pid) else {
            continue;
        };
        compared += 1;
        let fits = |at: usize| {
            let rest = &frames[at..];
            rest.len() >= wanted.len() && wanted.iter().zip(rest).all(|((_, meant), it)| meant.contains(it))
        };
        if (0..=frames.len()).any(fits) {
            same += 1;
        } else {
            println!("{pid}: {wanted:x?}\n  against {frames:x?}");
        }
    }
    (same, compared)
}

fn tools_read_it(kind: &Kind, version: OrcVersion) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("synthetic-{}", kind.name));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (path, core_path) = (folder.join("vmlinux"), folder.join("core"));
    machine.command("for i in 1 2 3 4; do sleep 1000 & done");
    let loop_ = "for p in /proc/[0-9]*; do echo \"@$p\"; cat $p/stack 2>/dev/null; done";
    let text = machine.command(loop_);
    let target = Target::new(machine.domain.clone());
    let (linux, pids) = machine.paused(|domain| {
        let linux = recognise(domain);
        let orc = linux.orc(domain).expect("ORC");
        assert_eq!(orc.version, version);
        let file = symbol_file(&linux, &orc);
        std::fs::write(&path, file.bytes()).expect("it is ours");
        let tasks = linux.tasks(domain).expect("tasks").items;
        let sleeping: Vec<&Task> = tasks
            .iter()
            .filter(|task| task.pid != 0 && !task.on_cpu)
            .collect();
        std::fs::write(&core_path, core(&target, &linux, &sleeping)).expect("it is ours");
        let pids: Vec<u32> = sleeping.iter().map(|task| task.pid).collect();
        (linux, pids)
    });
    drop(target);

    let name = path.to_string_lossy();
    if let Some(text) = tool("readelf", &["-W", "-S", "-n", &name]) {
        println!("{text}");
        for section in [".text", ".rodata", ".data", ".init.text", ".bss", ".debug_info"] {
            assert!(text.contains(section), "{section}");
        }
        let id = linux.build_id().expect("a build-id");
        let id: String = id.iter().map(|it| format!("{it:02x}")).collect();
        assert!(text.contains(&format!("Build ID: {id}")));
        assert!(!text.contains("arning") && !text.contains("rror:"), "{text}");
    }
    let read = linux.symbol("vfs_read").expect("a symbol").0;
    if let Some(text) = tool("readelf", &["-W", "-s", &name]) {
        let line = text.lines().find(|line| line.ends_with(" vfs_read"));
        let line = line.expect("vfs_read");
        assert!(
            line.contains(&format!("{read:x}")) && line.contains("FUNC    GLOBAL"),
            "{line}"
        );
        let count = linux.kallsyms().expect("symbols").len();
        assert!(text.contains(&format!("contains {} entries", count + 1)));
    }
    if let Some(text) = tool("readelf", &["-W", "--debug-dump=abbrev,aranges,frames", &name]) {
        let bad = text
            .lines()
            .filter(|it| it.contains("readelf: "))
            .collect::<Vec<_>>();
        assert!(bad.is_empty(), "{bad:?}");
    }
    let size = linux
        .btf()
        .expect("types")
        .structure("task_struct")
        .expect("it is there");
    let inside = format!("info symbol {:#x}", read + 5);
    let commands = [
        &inside[..],
        "info line vfs_read",
        "p sizeof(struct task_struct)",
        "p &((struct task_struct *)0)->comm",
        "ptype struct list_head",
        "whatis vfs_read",
        "whatis init_task.comm",
        "p &init_task",
        "whatis linux_banner",
        "ptype enum pid_type",
        "whatis 'printk.c'::prb",
        "ptype struct task_struct",
    ];
    let start = Instant::now();
    if let Some(text) = gdb(&path, None, &commands) {
        println!("gdb in {:?}:\n{}", start.elapsed(), &text[..text.len().min(3000)]);
        for wanted in [
            "vfs_read + 5 in section .text",
            &format!("= {}\n", size.size()),
            &format!(") {:#x}", size.offset("comm").expect("a member")),
            "struct list_head *next;",
            "type = ssize_t (struct file *, char *, size_t, loff_t *)",
            "type = char [16]",
            &format!(
                "{:#x} <init_task>",
                linux.symbol("init_task").expect("a symbol").0
            ),
            "PIDTYPE_TGID",
            "type = struct printk_ringbuffer *",
            "struct sched_entity se;",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is missing in {text}");
        }
    }
    let guest = stacks(&text, &linux);
    println!("{} stacks, {} tasks", guest.len(), pids.len());
    let start = Instant::now();
    if let Some(text) = gdb(&path, Some(&core_path), &["thread apply all bt 30"]) {
        let frames = backtraces(&text, ("Thread ", "(LWP "));
        let (same, compared) = equal(&guest, &frames);
        println!("gdb: {same} of {compared} stacks in {:?}", start.elapsed());
        println!("{}", &text[..text.len().min(2500)]);
        assert!(compared > 40 && same + 3 >= compared, "{same} of {compared}");
    }
    let start = Instant::now();
    let arguments = [
        "--no-lldbinit",
        "--no-use-colors",
        "-b",
        "-o",
        &format!("target create -c {} {name}", core_path.display()),
        "-o",
        "target modules load --file vmlinux --slide 0",
        "-o",
        "image lookup -s vfs_read",
        "-o",
        "image lookup -t list_head",
        "-o",
        "thread backtrace all",
    ];
    if let Some(text) = tool("lldb", &arguments) {
        println!("{}", &text[..text.len().min(3500)]);
        assert!(text.contains(&format!("{read:x}")), "vfs_read");
        assert!(text.contains("struct list_head {"), "list_head");
        // It counts threads, in the core file's order.
        let frames: Vec<_> = backtraces(&text, ("thread #", "thread #"))
            .into_iter()
            .filter_map(|(number, frames)| Some((*pids.get(number as usize - 1)?, frames)))
            .collect();
        let (same, compared) = equal(&guest, &frames);
        assert!(compared > 40 && same + 3 >= compared, "{same} of {compared}");
        println!("lldb: {same} of {compared} stacks in {:?}", start.elapsed());
    }
}

#[test]
fn tools_read_the_file_of_6_1() {
    tools_read_it(&guest::STABLE, OrcVersion::V1);
}

#[test]
fn tools_read_the_file_of_6_12() {
    tools_read_it(&guest::NEWER, OrcVersion::V3);
}
