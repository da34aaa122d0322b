//! The programs that read dumps.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a program printed; it must have succeeded.
#[track_caller]
pub fn printed(command: &mut Command) -> String {
    let output = run(command);
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {out}\n{errors}");
    out.into_owned()
}

/// Runs makedumpfile, the dump last but one.
#[track_caller]
pub fn makedumpfile(options: &[&str], from: &Path, to: &Path) {
    printed(Command::new("makedumpfile").args(options).arg(from).arg(to));
}

/// What drgn sees: the kernel's release, and bytes by physical and by virtual address.
#[track_caller]
pub fn drgn(dump: &Path, physical: u64, address: u64, length: usize) -> Value {
    const SCRIPT: &str = "\
import drgn, json, sys
path, physical, virtual, length = sys.argv[1], *map(int, sys.argv[2:])
prog = drgn.Program()
prog.set_core_dump(path)
print(json.dumps({
    'release': prog['UTS_RELEASE'].string_().decode(),
    'physical': prog.read(physical, length, True).hex(),
    'virtual': prog.read(virtual, length).hex(),
    'live': bool(prog.flags & drgn.ProgramFlags.IS_LIVE),
}))";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(dump);
    command.args([physical, address, length as u64].map(|number| number.to_string()));
    let text = printed(command.env("PYTHONPATH", tests::dump_readers_folder()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What a plug-in of volatility3 prints.
#[track_caller]
pub fn volatility(dump: &Path, plugin: &str) -> String {
    let mut command = Command::new("python3");
    let folder = tests::dump_readers_folder();
    command
        .arg(folder.join("bin/vol"))
        .args(["--offline", "-q", "-f"]);
    command.arg(dump).arg(plugin).env("PYTHONPATH", folder);
    printed(&mut command)
}

/// What volatility3 finds in a Windows dump, by `volatility/windows.py`; its memory goes into the file `pages`.
#[track_caller]
pub fn volatility_of_windows(dump: &Path, folder: &Path, pages: &Path, pdb: Option<&Path>) -> Value {
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/volatility/windows.py"))
        .args([dump, folder, pages])
        .args(pdb)
        .env("PYTHONPATH", tests::dump_readers_folder());
    let text = printed(&mut command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What gdb prints; it may warn as it likes.
#[track_caller]
pub fn gdb(dump: &Path, commands: &[&str]) -> String {
    let mut command = Command::new("gdb");
    command
        .args(["-nx", "-batch", "-ex"])
        .arg(format!("core-file {}", dump.display()));
    commands.iter().for_each(|text| {
        command.args(["-ex", text]);
    });
    printed(&mut command)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
