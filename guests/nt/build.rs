//! Lists the guest's sources, so that the builder carries them; and hashes the builder's own, so that it builds again
//! what an older one made.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let mut files = Vec::new();
    for folder in ["include", "kernel", "hal", "drivers", "user"] {
        println!("cargo::rerun-if-changed={folder}");
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    println!("cargo::rerun-if-changed=src");
    let mut own: Vec<PathBuf> = std::fs::read_dir(root.join("src"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    own.sort();
    let mut hasher = DefaultHasher::new();
    for file in own {
        std::fs::read(file).unwrap_or_default().hash(&mut hasher);
    }
    println!("cargo::rustc-env=NT_GUEST_BUILDER={:016x}", hasher.finish());
    let mut text = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        let _ = writeln!(
            text,
            "    ({name:?}, include_bytes!({:?})),",
            file.display().to_string()
        );
    }
    text.push_str("]\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("sources.rs");
    if let Err(error) = std::fs::write(&out, text) {
        println!("cargo::error=can't write {}: {error}", out.display());
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|ending| ["c", "h", "S", "inc", "def"].iter().any(|known| ending == *known))
        {
            files.push(path);
        }
    }
}
