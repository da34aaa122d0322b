//! A test case: a start state, memory and instructions.

use super::layout::{IMAGE_BYTES, image_offset};
use super::rng::Rng;
use super::state::State;
use iced_x86::Instruction;
use std::sync::OnceLock;

/// One instruction of a case.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its encoding.
    pub bytes: Vec<u8>,
    /// Decoded.
    pub instruction: Instruction,
    /// What it does to the status flags.
    pub effect: FlagEffect,
}

/// What an instruction does to the set of undefined status flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlagEffect {
    /// Those that it gives a defined value.
    pub defines: u64,
    /// Those that it leaves undefined.
    pub undefines: u64,
}

impl FlagEffect {
    /// The undefined flags after it.
    pub fn after(&self, before: u64) -> u64 {
        (before & !self.defines) | self.undefines
    }
}

/// What memory holds at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Where in the pool of values the image starts; `None` for zeros.
    pub pool_offset: Option<usize>,
    /// Then these bytes are put at these addresses.
    pub patches: Vec<(u64, Vec<u8>)>,
}

const POOL_BYTES: usize = 1 << 17;

/// Values that memory images are cut from: the same in every run.
fn pool() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut rng = Rng::new(0x6b64_6470_6f6f_6c00);
        let mut bytes = Vec::with_capacity(POOL_BYTES);
        while bytes.len() < POOL_BYTES {
            let word = match rng.below(4) {
                0 => rng.interesting(),
                1 => rng.interesting_double(),
                _ => rng.bits(),
            };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    })
}

impl Memory {
    /// A random cut of the pool.
    pub fn random(rng: &mut Rng) -> Memory {
        let offset = rng.below(((POOL_BYTES - IMAGE_BYTES) / 16) as u64) as usize * 16;
        Memory {
            pool_offset: Some(offset),
            patches: Vec::new(),
        }
    }

    /// The bytes of the whole image.
    pub fn image(&self) -> Vec<u8> {
        let mut image = match self.pool_offset {
            Some(offset) => pool()[offset..offset + IMAGE_BYTES].to_vec(),
            None => vec![0; IMAGE_BYTES],
        };
        for (address, bytes) in &self.patches {
            if let Some(start) = image_offset(*address) {
                let length = bytes.len().min(IMAGE_BYTES - start);
                image[start..start + length].copy_from_slice(&bytes[..length]);
            }
        }
        image
    }
}

/// A test case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What generates it again.
    pub id: String,
    /// 64 or 32.
    pub bits: u32,
    /// The state before the first instruction.
    pub start: State,
    /// Memory before the first instruction.
    pub memory: Memory,
    /// The instructions, one behind the other from `start.rip`.
    pub lines: Vec<Line>,
}

impl Case {
    /// All instruction bytes.
    pub fn code(&self) -> Vec<u8> {
        self.lines
            .iter()
            .flat_map(|line| line.bytes.iter().copied())
            .collect()
    }

    /// Status flags that are undefined if the run ended with RIP here: before the instruction at `rip`, or at the end.
    pub fn undefined_flags_at(&self, rip: u64) -> u64 {
        let mut ip = self.start.rip;
        let (mut undefined, mut all) = (0, 0);
        for line in &self.lines {
            if ip == rip {
                return undefined;
            }
            ip += line.bytes.len() as u64;
            undefined = line.effect.after(undefined);
            all |= undefined;
        }
        // Behind the INT3 at the end, or after a jump to elsewhere.
        if rip == ip + 1 { undefined } else { all }
    }
}
