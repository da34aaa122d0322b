//! `vFile`: the files of [`crate::files`], for reading alone.
//!
//! Layouts and numbers are those of the GDB manual's "File-I/O Remote Protocol Extension": they are no system's own.

use super::{Flow, pair};
use crate::framing::{self, PACKET_SIZE};
use crate::guest::Guest;
use crate::hex;
use symbols::synthetic::SymbolFile;

/// Names that are looked at; ours are shorter.
const LONGEST_NAME: usize = 1024;
/// The bytes of a read, whatever is asked for: clients go on where an answer ends.
const MOST: u64 = PACKET_SIZE as u64;

/// Why a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errno {
    NoEntry = 2,
    BadDescriptor = 9,
    Invalid = 22,
    TooMany = 24,
    ReadOnly = 30,
}

/// What follows the `F`.
type Answer = Result<Vec<u8>, Errno>;
/// One operation: the guest, and its parameters.
type Operation = fn(&mut Guest, &[u8]) -> Answer;

/// What isn't here is answered as unknown: there is nothing to write, remove or link.
const OPERATIONS: &[(&str, Operation)] = &[
    ("pread:", pread),
    ("open:", open),
    ("close:", close),
    ("fstat:", fstat),
    ("stat:", stat),
    ("setfs:", setfs),
];

/// `vFile:operation:parameter,…`.
pub fn request(guest: &mut Guest, rest: &[u8]) -> Flow {
    let found = OPERATIONS
        .iter()
        .find_map(|(name, operation)| Some((operation, rest.strip_prefix(name.as_bytes())?)));
    let Some((operation, parameters)) = found else {
        return Flow::Answer(Vec::new());
    };
    Flow::Answer(match operation(guest, parameters) {
        Ok(answer) => answer,
        Err(errno) => format!("F-1,{:x}", errno as u8).into_bytes(),
    })
}

/// A result that is a number.
fn number(result: u64) -> Answer {
    Ok(format!("F{result:x}").into_bytes())
}

/// A result that is bytes.
fn bytes(data: &[u8]) -> Answer {
    let mut answer = format!("F{:x};", data.len()).into_bytes();
    framing::escape(&mut answer, data);
    Ok(answer)
}

/// `pid`: in whose file system names are meant. There is one.
fn setfs(_: &mut Guest, _: &[u8]) -> Answer {
    number(0)
}

/// `name,flags,mode`.
fn open(guest: &mut Guest, parameters: &[u8]) -> Answer {
    let comma = parameters.iter().position(|&b| b == b',');
    let (name, rest) = parameters.split_at(comma.ok_or(Errno::Invalid)?);
    let (flags, _mode) = pair(&rest[1..]).ok_or(Errno::Invalid)?;
    let name = file_name(name)?;
    // O_RDONLY; whatever else is wanted means writing.
    if flags != 0 {
        return Err(Errno::ReadOnly);
    }
    let file = guest.find_file(&name).ok_or(Errno::NoEntry)?;
    number(guest.files.open(file).ok_or(Errno::TooMany)?)
}

/// `fd`.
fn close(guest: &mut Guest, parameters: &[u8]) -> Answer {
    match guest.files.close(descriptor(parameters)?) {
        true => number(0),
        false => Err(Errno::BadDescriptor),
    }
}

/// `fd,count,offset`.
fn pread(guest: &mut Guest, parameters: &[u8]) -> Answer {
    let comma = parameters.iter().position(|&b| b == b',');
    let (file, rest) = parameters.split_at(comma.ok_or(Errno::Invalid)?);
    let (count, offset) = pair(&rest[1..]).ok_or(Errno::Invalid)?;
    let file = guest.files.get(descriptor(file)?).ok_or(Errno::BadDescriptor)?;
    let rest = usize::try_from(offset).ok().and_then(|at| file.bytes().get(at..));
    let rest = rest.unwrap_or_default();
    let length = rest.len().min(count.min(MOST) as usize);
    bytes(&rest[..length])
}

/// `fd`.
fn fstat(guest: &mut Guest, parameters: &[u8]) -> Answer {
    let file = guest.files.get(descriptor(parameters)?);
    bytes(&status(file.ok_or(Errno::BadDescriptor)?))
}

/// `name`: gdb 16 asks so.
fn stat(guest: &mut Guest, parameters: &[u8]) -> Answer {
    let name = file_name(parameters)?;
    bytes(&status(&*guest.find_file(&name).ok_or(Errno::NoEntry)?))
}

fn descriptor(digits: &[u8]) -> Result<u64, Errno> {
    hex::number(digits).ok_or(Errno::Invalid)
}

fn file_name(digits: &[u8]) -> Result<Vec<u8>, Errno> {
    if digits.len() > 2 * LONGEST_NAME {
        return Err(Errno::NoEntry);
    }
    hex::decode(digits).ok_or(Errno::Invalid)
}

/// The manual's `struct stat`, big-endian.
fn status(file: &SymbolFile) -> Vec<u8> {
    /// A regular file that all may read.
    const MODE: u32 = 0o100_444;
    let size = file.bytes().len() as u64;
    let mut out = Vec::with_capacity(64);
    // Device, inode, mode, links, user, group, device number. gdb takes files for the same by the inode, too.
    for word in [0, (file.base() >> 12) as u32, MODE, 1, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for long in [size, PACKET_SIZE as u64, size.div_ceil(512)] {
        out.extend_from_slice(&long.to_be_bytes());
    }
    // Times of access, modification, change.
    out.extend_from_slice(&[0; 12]);
    out
}
