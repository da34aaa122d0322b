//! radare2, a kernel debugger that others wrote, on the NT-shaped guest, over a Unix socket.
//!
//! What it must say comes from the guest's PDB, the images' files and the guest's console. It knows few builds: Windows 7
//! and 8, and 10 up to 1607. Memory isn't written here: this radare2 opens its debuggees for reading alone.

use super::windows::lives;
use std::collections::BTreeSet;
use std::process::Command;
use symbols::Pdb;
use tests::{NtGuest, Scratch, Service, has_radare2, nt_guest, radare2_folder};

/// Between the answers of commands.
const MARK: &str = "----";

/// Runs commands in a session: what each printed. Breakpoints are allowed in memory that it knows no map of.
#[track_caller]
fn radare2(socket: &str, bits: u32, commands: &[&str]) -> Vec<String> {
    let mark = format!(";?e {MARK};");
    let script = format!("e dbg.bpinmaps=false;?e {MARK};{}{mark}q", commands.join(&mark));
    let mut command = Command::new("timeout");
    command
        .args([
            "60",
            "python3",
            concat!(env!("CARGO_MANIFEST_DIR"), "/radare2/r2.py"),
        ])
        .arg(radare2_folder())
        // No settings of the user's, no colours.
        .args([
            "-N",
            "-e",
            "scr.color=0",
            "-e",
            "scr.interactive=false",
            "-q",
            "-a",
            "x86",
        ])
        .args(["-b", &bits.to_string(), "-D", "winkd", "-c", &script])
        .arg(format!("winkd://{socket}"));
    let output = command.output().expect("python3 runs");
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let answers: Vec<String> = text
        .split(&format!("{MARK}\n"))
        .skip(1)
        .map(str::to_owned)
        .collect();
    assert_eq!(answers.len(), commands.len() + 1, "{text}\n{errors}");
    assert!(errors.contains("Sync done!"), "{errors}");
    answers
}

fn number(text: &str) -> u64 {
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{text:?}"))
}

/// What it says of a guest with these names of registers.
fn works_on(profile: &str, bits: u32, pc: &str, spare: &str) {
    let Some(guest) = nt_guest(profile, 1).filter(|_| has_radare2()) else {
        return;
    };
    let scratch = Scratch::default();
    let socket = scratch.path("kd").to_string_lossy().into_owned();
    let mut service = guest.service_with(&["--kd", &format!("unix:{socket}")]);

    let process = guest.processes().into_iter().find(|it| it.name.contains("smss"));
    let process = process.expect("a process with a program");
    let files = std::fs::read_dir(&guest.folder)
        .expect("the guest's files")
        .flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let name = names.find(|name| name.starts_with("ntk") && name.ends_with(".pdb"));
    let pdb = Pdb::open(&guest.folder.join(name.expect("a PDB")), None).expect("the PDB");
    let place = guest.base()
        + u64::from(
            pdb.rva("KiSwapContext")
                .expect("called at every switch of threads"),
        );
    let answers = radare2(
        &socket,
        bits,
        &[
            "dp",
            &format!("p8 1024 @ {:#x}", guest.base()),
            &format!("dp={}", process.id),
            "dpt",
            &format!("db {place:#x};dc"),
            &format!("dr {pc}"),
            &format!("p8 16 @ {place:#x}"),
            &format!("dr {spare}=0x1234;dr {spare}"),
            "dc",
            &format!("dr {pc}"),
        ],
    );
    check(guest, &answers, place, &mut service);
}

fn check(guest: &NtGuest, answers: &[String], place: u64, service: &mut Service) {
    // ` - 4 ppid:0 uid:0 s System`
    let process = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.get(1)?.parse().ok()?, (*words.last()?).to_owned()))
    };
    let listed: BTreeSet<(u64, String)> = answers[0].lines().filter_map(process).collect();
    let known: BTreeSet<(u64, String)> = guest
        .processes()
        .into_iter()
        .map(|process| (process.id, process.name))
        .collect();
    assert_eq!(listed, known, "{answers:#?}");

    let file = std::fs::read(guest.folder.join("ntoskrnl.exe")).expect("the image");
    // Behind them is ImageBase, which the loader changes.
    let memory: String = file[..0x90].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(answers[1].starts_with(&memory), "{}", answers[1]);
    assert!(
        answers[3].lines().any(|line| line.trim().starts_with("- ")),
        "threads: {answers:#?}"
    );

    assert_eq!(number(&answers[5]), place, "{answers:#?}");
    let code = answers[6].trim();
    let of_the_file =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() == code;
    assert!(
        file.windows(16).any(of_the_file),
        "{code}: the guest's own code, and no breakpoint"
    );
    let written = answers[7].lines().last().unwrap_or_default();
    assert_eq!(number(written), 0x1234, "{answers:#?}");
    assert_eq!(number(&answers[9]), place, "{answers:#?}");
    lives(service);
}

#[test]
fn radare2_debugs_x64() {
    works_on("win7-x64", 64, "rip", "r11");
}

#[test]
fn radare2_debugs_x86() {
    works_on("win7-x86", 32, "eip", "eax");
}
