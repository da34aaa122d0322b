//! Symbol files kept on disk, by build-id.
//!
//! The folder is its user's alone, files are written whole or not at all, and what is read is checked: the format, what it
//! was made of, a checksum. A guest chooses its build-id, but not what another guest gets: a file counts only for the
//! symbols, types and tables that it was made of.

use super::{Kernel, MAX_BUILD_ID, MAX_FILE, SymbolFile};
use crate::btf::Btf;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Changes with what is in a file, or with how symbol files are made.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"kdd-syms";
/// Magic, format, number of addresses, length, base; what it was made of; checksum of what follows.
const HEADER: usize = 8 + 4 + 4 + 8 + 8 + 32 + 32;
/// Files that are kept, and their bytes; the oldest go first.
const MAX_FILES: usize = 16;
const MAX_BYTES: u64 = 1 << 30;
const SUFFIX: &str = ".symbols";
/// Of files for debuggers.
const EXPORT_SUFFIX: &str = ".elf";

/// What a file is made of, wherever the kernel is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of all that a kernel's file depends on.
    pub fn of(kernel: &Kernel<'_>) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        let image = &kernel.image;
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(&image.end.wrapping_sub(image.start).to_le_bytes());
        let mut symbols = Vec::with_capacity(kernel.symbols.len() * 32);
        for symbol in &kernel.symbols {
            let inside = image.contains(&symbol.address);
            let start = if inside { image.start } else { 0 };
            symbols.extend_from_slice(&(symbol.address - start).to_le_bytes());
            symbols.extend_from_slice(&(symbol.kind as u32 | (inside as u32) << 31).to_le_bytes());
            symbols.extend_from_slice(&(symbol.name.len() as u32).to_le_bytes());
            symbols.extend_from_slice(symbol.name);
        }
        part(&symbols);
        part(kernel.btf.map(Btf::bytes).unwrap_or_default());
        if let Some(orc) = kernel.orc {
            part(&orc.start.wrapping_sub(image.start).to_le_bytes());
            part(&orc.ips);
            part(&orc.rows);
            part(&[orc.version as u8]);
        }
        part(kernel.build_id.unwrap_or_default());
        Fingerprint(*hasher.finalize().as_bytes())
    }
}

/// A folder of symbol files.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's: `$XDG_CACHE_HOME/kdd/symbols`, else `~/.cache/kdd/symbols`; `None` where there is neither.
    pub fn user_folder() -> Option<PathBuf> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(cache.join("kdd/symbols"))
    }

    /// Uses a folder, which is made if it isn't there.
    ///
    /// # Errors
    /// Where it can't be made, isn't a folder, or others can write to it.
    pub fn open(folder: &Path) -> io::Result<Cache> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let meta = fs::symlink_metadata(folder)?;
        if !meta.is_dir() || !is_ours(&meta) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} is not a folder of this user alone", folder.display()),
            ));
        }
        Ok(Cache {
            folder: folder.to_owned(),
        })
    }

    /// The kernel's file: the one that is kept, or a new one, which is kept then. That it can't be is no error.
    ///
    /// # Errors
    /// [`super::SyntheticError`].
    pub fn symbol_file(&self, kernel: &Kernel<'_>) -> Result<SymbolFile, super::SyntheticError> {
        let fingerprint = Fingerprint::of(kernel);
        if let Some(file) = self.get(kernel.build_id, fingerprint) {
            return Ok(file.moved_to(kernel.image.start));
        }
        let file = kernel.symbol_file()?;
        if let Err(error) = self.put(kernel.build_id, fingerprint, &file) {
            tracing::debug!(%error, folder = %self.folder.display(), "the symbol file isn't kept");
        }
        Ok(file)
    }

    /// What is kept of a build, if it was made of this.
    pub fn get(&self, build_id: Option<&[u8]>, fingerprint: Fingerprint) -> Option<SymbolFile> {
        let path = self.path(build_id, fingerprint);
        let nofollow = OFlags::NOFOLLOW.bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nofollow)
            .open(&path)
            .ok()?;
        let meta = file.metadata().ok()?;
        if !meta.is_file() || !is_ours(&meta) || meta.len() > 2 * MAX_FILE as u64 {
            return None;
        }
        let found = read(file, meta.len(), fingerprint);
        if found.is_none() {
            // Of another format, cut off, or of another kernel: the next one takes its place.
            tracing::debug!(path = %path.display(), "a kept symbol file doesn't fit");
        }
        found
    }

    /// Keeps a file in place of what there was of its build.
    ///
    /// # Errors
    /// What the file system says.
    pub fn put(
        &self,
        build_id: Option<&[u8]>,
        fingerprint: Fingerprint,
        file: &SymbolFile,
    ) -> io::Result<()> {
        let addresses: Vec<u8> = file.moving.iter().flat_map(|at| at.to_le_bytes()).collect();
        let header = header(fingerprint, file, &addresses);
        let path = self.path(build_id, fingerprint);
        self.replace(&path, &[&header, &addresses, &file.bytes])?;
        self.tidy();
        Ok(())
    }

    /// Writes the file as debuggers read it, under a name of the caller's in this folder, in place of what has that name.
    ///
    /// # Errors
    /// What the file system says; a name that is none.
    pub fn export(&self, name: &str, file: &SymbolFile) -> io::Result<PathBuf> {
        if name.contains('/') || name.starts_with('.') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no file name"));
        }
        let path = self.folder.join(format!("{name}{EXPORT_SUFFIX}"));
        self.replace(&path, &[file.bytes()])?;
        self.tidy();
        Ok(path)
    }

    /// Writes a file whole, or not at all.
    fn replace(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("draft-{}-{number}", std::process::id()));
        let written = write(&draft, parts).and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    fn path(&self, build_id: Option<&[u8]>, fingerprint: Fingerprint) -> PathBuf {
        let id = build_id.filter(|id| !id.is_empty() && id.len() <= MAX_BUILD_ID);
        let id = id.unwrap_or(&fingerprint.0);
        let mut name: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        name.push_str(SUFFIX);
        self.folder.join(name)
    }

    /// Removes the oldest files beyond what may be kept.
    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let mut files: Vec<_> = entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                [SUFFIX, EXPORT_SUFFIX]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
            })
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(|meta| meta.is_file())?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        let mut bytes = 0;
        for (number, (_, length, path)) in files.iter().enumerate() {
            bytes += length;
            if number >= MAX_FILES || bytes > MAX_BYTES {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Nobody else can have written it.
fn is_ours(meta: &fs::Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0
}

fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    parts.iter().try_for_each(|part| out.write_all(part))
}

fn header(fingerprint: Fingerprint, file: &SymbolFile, addresses: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&(file.moving.len() as u32).to_le_bytes());
    header.extend_from_slice(&(file.bytes.len() as u64).to_le_bytes());
    header.extend_from_slice(&file.base.to_le_bytes());
    header.extend_from_slice(&fingerprint.0);
    let sum = checksum(&header, addresses, &file.bytes);
    header.extend_from_slice(&sum);
    header
}

fn checksum(header: &[u8], addresses: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [header, addresses, bytes] {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn read(mut file: File, size: u64, fingerprint: Fingerprint) -> Option<SymbolFile> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header).ok()?;
    let (told, sum) = header.split_at(HEADER - 32);
    let word = |at: usize| Some(u32::from_le_bytes(told.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(told.get(at..at + 8)?.try_into().ok()?));
    if told[..8] != MAGIC || word(8)? != FORMAT || told[32..64] != fingerprint.0 {
        return None;
    }
    let (count, length, base) = (u64::from(word(12)?), long(16)?, long(24)?);
    let whole = (HEADER as u64 + 4 * count).checked_add(length)?;
    if whole != size {
        return None;
    }
    let mut addresses = vec![0; 4 * count as usize];
    file.read_exact(&mut addresses).ok()?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact(&mut bytes).ok()?;
    if checksum(told, &addresses, &bytes) != sum {
        return None;
    }
    let moving = addresses.as_chunks::<4>().0.iter();
    Some(SymbolFile {
        base,
        bytes,
        moving: moving.map(|at| u32::from_le_bytes(*at)).collect(),
    })
}
