//! What is said about dumps that are written.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A dump to write.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DumpRequest {
    /// Of which domain.
    pub domain: String,
    /// Where to. A named pipe gets the dump as a stream.
    pub path: PathBuf,
    /// In which format; what suits the guest where none is named.
    #[serde(default)]
    pub format: Option<DumpFormat>,
    /// Whether the guest runs on: it is forked, and the fork is written.
    #[serde(default)]
    pub live: bool,
    /// Whether a file of that name may be replaced.
    #[serde(default)]
    pub force: bool,
    /// How pages are compressed where the format can: `zlib`, `zstd` or `none`.
    #[serde(default)]
    pub compression: Option<Compression>,
    /// Kinds of pages of a Linux guest that are left out, as makedumpfile's dump level: 1 zero, 2 cache, 4 private cache,
    /// 8 user, 16 free, added up.
    #[serde(default)]
    pub level: u8,
    /// Whether an ELF dump is for gdb alone: it maps the kernel's image too, which other readers don't take.
    #[serde(default)]
    pub for_gdb: bool,
    /// Whether progress is told.
    #[serde(default)]
    pub progress: bool,
}

/// The format of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DumpFormat {
    /// Windows, all memory, for every reader
    Windows,
    /// Windows, all memory, however many holes it has
    WindowsBitmap,
    /// Windows, the kernel's pages alone
    WindowsKernel,
    /// ELF vmcore, for crash, drgn, gdb
    Elf,
    /// kdump-compressed, for crash, drgn, makedumpfile
    Kdump,
}

/// How pages are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all
    None,
    /// By zlib: every reader of kdump files has it
    Zlib,
    /// By zstd
    Zstd,
}

/// A dump that was written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DumpReport {
    /// Where.
    pub path: PathBuf,
    /// In which format.
    pub format: DumpFormat,
    /// The file's length.
    pub bytes: u64,
    /// Pages in it.
    pub pages: u64,
    /// Of these, pages of zeros that take no space.
    pub zero_pages: u64,
    /// Pages of RAM that were left out.
    pub excluded_pages: u64,
    /// The operating system as it was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// The crash in words, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<String>,
    /// How long a running guest stood still for it.
    pub paused_microseconds: u64,
    /// What readers may miss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
