//! Saving, restoring and hashing the whole state.
//!
//! Layout, all numbers little-endian: the magic `KDDMACH` and a version byte; the length (u64) and postcard bytes of
//! [`SavedState`], with those of [`HyperV`] behind them if the CPU model has that interface; then, per touched RAM
//! frame that isn't all zeros, its number (u64) and 4096 bytes; then the number `u64::MAX`; then the BLAKE3 hash of all
//! before it.

use super::access::check_state;
use super::{Machine, MachineConfig, SLICE, config};
use crate::addr::{Ticks, VcpuId};
use crate::devices::Platform;
use crate::engine::block::CodeCache;
use crate::engine::bus::Bus;
use crate::engine::hyperv::HyperV;
use crate::engine::run::Runner;
use crate::introspect::CrashReason;
use crate::memory::{GuestMemory, PAGE_SIZE};
use crate::regs::Registers;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

const MAGIC: &[u8; 7] = b"KDDMACH";
const VERSION: u8 = 1;
/// A state of more bytes is no state.
const MAX_STATE: u64 = 1 << 30;
const END: u64 = u64::MAX;
/// No machine runs for a hundred years; beyond, sums of times could overflow.
const MAX_CLOCK: u64 = 1 << 62;

/// Why a saved machine can't be restored.
#[derive(thiserror::Error, Debug)]
pub enum RestoreError {
    /// Reading failed.
    #[error("the saved machine can't be read: {0}")]
    Io(#[from] io::Error),
    /// It isn't one.
    #[error("this is no saved machine; give a file that `kdd save` wrote")]
    NotSaved,
    /// Another program version.
    #[error(
        "the saved machine has format {found}, this program reads {VERSION}; restore it with the version that saved it"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// The content doesn't fit its checksum or itself.
    #[error("the saved machine is damaged ({0}); take another copy of the file")]
    Damaged(&'static str),
    /// Its configuration can't be built here.
    #[error(transparent)]
    Config(#[from] super::CreateError),
}

/// Everything but memory.
#[derive(Serialize, Deserialize)]
struct SavedState {
    config: MachineConfig,
    clock: u64,
    idle_ticks: u64,
    current: usize,
    slice_left: u64,
    crashed: Option<CrashReason>,
    vcpus: Vec<SavedVcpu>,
    platform: Platform,
}

#[derive(Serialize, Deserialize)]
struct SavedVcpu {
    registers: Registers,
    nmi_pending: bool,
    random: u64,
    delivered_at: u64,
}

/// Writes and hashes.
struct HashingWriter<'a> {
    inner: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl HashingWriter<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

struct HashingReader<'a> {
    inner: &'a mut dyn Read,
    hasher: blake3::Hasher,
}

impl HashingReader<'_> {
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), RestoreError> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => RestoreError::Damaged("it ends too early"),
            _ => RestoreError::Io(error),
        })?;
        self.hasher.update(bytes);
        Ok(())
    }
    fn take_u64(&mut self) -> Result<u64, RestoreError> {
        let mut bytes = [0; 8];
        self.take(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

fn is_zero(page: &[u8; PAGE_SIZE]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

impl Machine {
    fn saved_vcpus(&self) -> Vec<SavedVcpu> {
        self.runners
            .iter()
            .enumerate()
            .map(|(n, runner)| SavedVcpu {
                registers: self.registers(VcpuId(n as u32)),
                nmi_pending: runner.cpu.nmi_pending,
                random: runner.cpu.random,
                delivered_at: runner.cpu.delivered_at,
            })
            .collect()
    }

    /// RAM frames that hold something, with their bytes.
    fn full_frames(&self) -> impl Iterator<Item = (usize, &[u8; PAGE_SIZE])> {
        (0..self.bus.memory.ram_frames())
            .filter_map(|frame| self.bus.memory.page_bytes(frame).map(|page| (frame, page)))
            .filter(|(_, page)| !is_zero(page))
    }

    /// Writes the whole state; the machine is only read.
    ///
    /// # Errors
    /// The writer's.
    pub fn save(&self, writer: &mut dyn Write) -> io::Result<()> {
        let state = SavedState {
            config: self.config.clone(),
            clock: self.clock,
            idle_ticks: self.idle_ticks,
            current: self.current,
            slice_left: self.slice_left,
            crashed: self.crashed.clone(),
            vcpus: self.saved_vcpus(),
            platform: self.bus.platform.clone(),
        };
        let mut bytes = postcard::to_stdvec(&state).map_err(io::Error::other)?;
        if let Some(hyperv) = &self.bus.hyperv {
            bytes.extend(postcard::to_stdvec(hyperv).map_err(io::Error::other)?);
        }
        let mut out = HashingWriter {
            inner: writer,
            hasher: blake3::Hasher::new(),
        };
        out.put(MAGIC)?;
        out.put(&[VERSION])?;
        out.put(&(bytes.len() as u64).to_le_bytes())?;
        out.put(&bytes)?;
        for (frame, page) in self.full_frames() {
            out.put(&(frame as u64).to_le_bytes())?;
            out.put(page)?;
        }
        out.put(&END.to_le_bytes())?;
        let hash = out.hasher.finalize();
        out.inner.write_all(hash.as_bytes())
    }

    /// Reads a machine that [`Machine::save`] wrote.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing is kept then.
    pub fn restore(reader: &mut dyn Read) -> Result<Machine, RestoreError> {
        let mut input = HashingReader {
            inner: reader,
            hasher: blake3::Hasher::new(),
        };
        let mut head = [0; 8];
        input.take(&mut head).map_err(|error| match error {
            RestoreError::Damaged(_) => RestoreError::NotSaved,
            other => other,
        })?;
        if &head[..7] != MAGIC {
            return Err(RestoreError::NotSaved);
        }
        if head[7] != VERSION {
            return Err(RestoreError::Version { found: head[7] });
        }
        let length = input.take_u64()?;
        if length > MAX_STATE {
            return Err(RestoreError::Damaged("its length is impossible"));
        }
        let bytes = take_bounded(&mut input, length)?;
        let undecodable = |_| RestoreError::Damaged("its state can't be decoded");
        let (state, rest): (SavedState, _) = postcard::take_from_bytes(&bytes).map_err(undecodable)?;
        // A configuration that can't be built may come from a flipped bit: the checksum is looked at first.
        let shell = config::shell(&state.config);
        let mut memory = GuestMemory::new(if shell.is_ok() {
            state.config.memory_bytes
        } else {
            0
        });
        loop {
            let frame = input.take_u64()?;
            if frame == END {
                break;
            }
            let mut page = [0; PAGE_SIZE];
            input.take(&mut page)?;
            if shell.is_ok() && !memory.fill_frame(frame, &page) {
                return Err(RestoreError::Damaged("a page lies outside its memory"));
            }
        }
        let expected = input.hasher.finalize();
        let mut stored = [0; 32];
        input
            .inner
            .read_exact(&mut stored)
            .map_err(|_| RestoreError::Damaged("its checksum is missing"))?;
        if expected != stored {
            return Err(RestoreError::Damaged("its checksum is wrong"));
        }
        let (fresh, vcpus) = shell?;
        if state.vcpus.len() != vcpus.len()
            || state.current >= vcpus.len()
            || state.slice_left > SLICE
            || state.clock > MAX_CLOCK
            || state.idle_ticks > state.clock
            || !state.platform.is_sound(&config::platform_config(&state.config))
        {
            return Err(RestoreError::Damaged("its parts don't fit together"));
        }
        let mut hyperv = HyperV::of(&vcpus[0].model);
        if let Some(hyperv) = &mut hyperv {
            *hyperv = postcard::from_bytes(rest).map_err(undecodable)?;
        }
        let mut runners = Vec::new();
        for (mut cpu, saved) in vcpus.into_iter().zip(&state.vcpus) {
            if check_state(&cpu.model, &saved.registers).is_err() {
                return Err(RestoreError::Damaged("it holds registers that no vCPU can have"));
            }
            cpu.load_registers(&saved.registers);
            cpu.nmi_pending = saved.nmi_pending;
            cpu.random = saved.random;
            cpu.delivered_at = saved.delivered_at;
            runners.push(Runner::new(cpu));
        }
        let mut bus = Bus::new(memory, state.platform, fresh.vcpus, fresh.tsc_hz);
        bus.hyperv = hyperv;
        bus.platform.advance(Ticks(state.clock));
        Ok(Machine {
            bus,
            runners,
            cache: CodeCache::default(),
            clock: state.clock,
            idle_ticks: state.idle_ticks,
            current: state.current,
            slice_left: state.slice_left,
            config: state.config,
            crashed: state.crashed,
            passed: None,
            came_up: Vec::new(),
            guest_crashes: Vec::new(),
        })
    }

    /// A hash of the whole architectural state.
    pub fn state_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let parts = (
            self.clock,
            self.idle_ticks,
            self.current,
            self.slice_left,
            self.saved_vcpus(),
            &self.bus.platform,
        );
        // Serialising plain data into a vector doesn't fail.
        hasher.update(&postcard::to_stdvec(&parts).unwrap_or_default());
        if let Some(hyperv) = &self.bus.hyperv {
            hasher.update(&postcard::to_stdvec(hyperv).unwrap_or_default());
        }
        for (frame, page) in self.full_frames() {
            hasher.update(&(frame as u64).to_le_bytes());
            hasher.update(page);
        }
        *hasher.finalize().as_bytes()
    }
}

/// Reads `length` bytes without trusting the number with an allocation.
fn take_bounded(input: &mut HashingReader<'_>, length: u64) -> Result<Vec<u8>, RestoreError> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let mut left = length as usize;
    while left > 0 {
        let n = left.min(piece.len());
        input.take(&mut piece[..n])?;
        bytes.extend_from_slice(&piece[..n]);
        left -= n;
    }
    Ok(bytes)
}
