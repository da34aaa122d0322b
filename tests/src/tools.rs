//! What the tests need from outside: the binary, the debuggers, the guest's files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The default guest's files.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
}

/// The kernel of another version, in the cache folder.
pub const SECOND_KERNEL: &str = "linux-second/vmlinuz";

/// The binary under test: beside the folder of the test executable, or beside the bench.
#[track_caller]
pub fn kdd() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let mut folders = test.ancestors().skip(1).take(2).map(|folder| folder.join("kdd"));
    let path = folders
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("kdd"));
    assert!(
        path.is_file(),
        "{} is not there: build it first, as setup/test.sh does",
        path.display()
    );
    path
}

/// A file in the target folder, where what tests make outlives them.
#[track_caller]
pub fn kept(name: &str) -> PathBuf {
    let folder = kdd().with_file_name("e2e");
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder.join(name)
}

/// The guest, with its usual kernel or another from the cache folder. `None`, and it is said, if set-up hasn't run.
#[track_caller]
pub fn guest(kernel: Option<&str>) -> Option<Guest> {
    let cache = cache_folder();
    let guest = Guest {
        kernel: cache.join(kernel.unwrap_or("linux/vmlinuz")),
        initrd: cache.join("linux/initramfs.cpio"),
    };
    let missing = [&guest.kernel, &guest.initrd]
        .into_iter()
        .find(|path| !path.is_file());
    match missing {
        None => Some(guest),
        Some(path) => {
            skip(&format!(
                "{} is not there: run setup/guest-linux.sh --second",
                path.display()
            ));
            None
        }
    }
}

/// Files of a kernel's package in the cache folder (`linux`, `linux-second`), in an archive to put behind an initial RAM disk:
/// `/root/NAME.ko`. `None`, and it is said, if set-up hasn't fetched them.
#[track_caller]
pub fn modules_archive(kernel: &str, names: &[&str]) -> Option<Vec<u8>> {
    let mut files = Vec::new();
    for name in names {
        let path = cache_folder().join(kernel).join(format!("modules/{name}.ko"));
        match std::fs::read(&path) {
            Ok(contents) => files.push((format!("root/{name}.ko"), contents)),
            Err(error) => {
                skip(&format!("{}: {error}: run setup/guest-linux.sh", path.display()));
                return None;
            }
        }
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, contents)| (name.as_str(), contents.as_slice()))
        .collect();
    Some(archive_of(&files))
}

/// An archive of these files, to go behind a guest's initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
pub fn archive_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive: Vec<u8> = Vec::new();
    for &(name, contents) in files {
        for (name, contents, mode) in [(name, contents, 0o100_644), ("TRAILER!!!", &[][..], 0)] {
            archive.extend(b"070701");
            let fields = [0, mode, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
            for field in fields {
                archive.extend(format!("{field:08x}").as_bytes());
            }
            archive.extend(name.as_bytes());
            archive.push(0);
            archive.resize(archive.len().next_multiple_of(4), 0);
            archive.extend(contents);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
}

/// What the guest's smoke script must print.
#[track_caller]
pub fn expected_smoke_output() -> String {
    let path = root().join("guests/linux/smoke.expected");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a program can be run; it is said if it can't.
#[track_caller]
pub fn has_tool(name: &str) -> bool {
    let mut command = Command::new(name);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    if !there {
        skip(&format!("{name} isn't installed: run setup/test-tools.sh"));
    }
    there
}

/// Where set-up put memprocfs.
pub fn memprocfs_folder() -> PathBuf {
    cache_folder().join("memprocfs")
}

/// Whether memprocfs can be run; it is said if it can't.
#[track_caller]
pub fn has_memprocfs() -> bool {
    let there = memprocfs_folder().join("memprocfs").is_dir();
    if !there {
        skip("memprocfs isn't installed: run setup/memprocfs.sh");
    }
    there
}

/// Where set-up put drgn and volatility3.
pub fn dump_readers_folder() -> PathBuf {
    cache_folder().join("dump-readers")
}

/// Where set-up puts the debug information of the guest's kernel.
pub fn kernel_debug() -> PathBuf {
    cache_folder().join("linux-debug/vmlinux")
}

/// Whether makedumpfile, drgn and volatility3 can be run; it is said if they can't.
#[track_caller]
pub fn has_dump_readers() -> bool {
    let folder = dump_readers_folder();
    let mut makedumpfile = Command::new("makedumpfile");
    makedumpfile.arg("-v").stdout(Stdio::null()).stderr(Stdio::null());
    let there = makedumpfile.status().is_ok_and(|status| status.success())
        && folder.join("drgn").is_dir()
        && folder.join("volatility3").is_dir();
    if !there {
        skip("makedumpfile, drgn or volatility3 isn't installed: run setup/dump-readers.sh");
    }
    there
}

/// Where set-up put radare2.
pub fn radare2_folder() -> PathBuf {
    cache_folder().join("radare2")
}

/// Whether radare2 can be run; it is said if it can't.
#[track_caller]
pub fn has_radare2() -> bool {
    let there = radare2_folder().join("libr").is_dir();
    if !there {
        skip("radare2 isn't installed: run setup/radare2.sh");
    }
    there
}

/// Says that a test can't run here; where everything has to be there, that is a failure.
#[track_caller]
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
    eprintln!("SKIPPED: {why}");
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where set-up puts what it fetches and builds.
pub fn cache_folder() -> PathBuf {
    let cache = std::env::var_os("KDD_CACHE").filter(|folder| !folder.is_empty());
    // As for the set-up scripts, a relative path starts at the project's folder.
    root().join(cache.map_or_else(|| PathBuf::from(".cache"), PathBuf::from))
}
