//! The architecture as gdbstub wants it described.

use crate::registers::{FILE_LENGTH, RIP, SYSTEM, SYSTEM_BYTES, TABLE};
use gdbstub::arch::{Arch, RegId, Registers};
use std::num::NonZeroUsize;

/// x86-64, in every CPU mode.
pub enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = RegisterFile;
    type BreakpointKind = usize;
    type RegId = RegisterNumber;
}

/// A register by its number in the description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterNumber(pub usize);

impl RegId for RegisterNumber {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let bytes = match TABLE.get(id) {
            Some(register) => register.bytes(),
            None if id == SYSTEM => SYSTEM_BYTES,
            None => return None,
        };
        Some((RegisterNumber(id), NonZeroUsize::new(bytes)))
    }
    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// All registers as the `g` packet holds them; `None` for the bytes of those that are unavailable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterFile(pub Vec<Option<u8>>);

impl Default for RegisterFile {
    fn default() -> Self {
        RegisterFile(vec![None; FILE_LENGTH])
    }
}

impl Registers for RegisterFile {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        let before: usize = TABLE[..RIP].iter().map(|r| r.bytes()).sum();
        let bytes = self.0.iter().skip(before).take(8);
        bytes
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(byte.unwrap_or(0)))
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for byte in &self.0 {
            write_byte(*byte);
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if bytes.len() > FILE_LENGTH {
            return Err(());
        }
        self.0 = bytes.iter().copied().map(Some).collect();
        Ok(())
    }
}
