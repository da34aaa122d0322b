//! Damage to something that is right: a list of small changes as a case's bytes.

use crate::input::Input;

/// The most changes of one case.
const MOST: usize = 256;

/// One change: eight bytes of a case.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    how: u8,
    place: u32,
    value: u64,
}

impl Patch {
    /// The changes that a case holds from here on.
    pub fn all(input: &mut Input<'_>) -> Vec<Patch> {
        let mut patches = Vec::new();
        while !input.is_empty() && patches.len() < MOST {
            let (how, place) = (input.u8(), u32::from(input.u16()) | u32::from(input.u8()) << 16);
            let value = match how & 3 {
                3 => input.u64(),
                _ => u64::from(input.u32()),
            };
            patches.push(Patch { how, place, value });
        }
        patches
    }

    /// What chooses between several things to be changed.
    pub fn choice(&self, count: usize) -> usize {
        (self.place as usize / 0x1000) % count.max(1)
    }

    /// As [`Patch::choice`] between the parts of a file, of which the first ones, with headers and tables, are chosen more
    /// often.
    pub fn chunk(&self, count: usize) -> usize {
        self.choice(if self.how & 0xc0 == 0x40 {
            count.min(4)
        } else {
            count
        })
    }

    /// A pointer to one of `targets` in place of a word of `page`, in one of four cases; whether it is one.
    pub fn point(&self, page: &mut [u8], targets: &[u64]) -> bool {
        if self.how & 0xc0 != 0xc0 || targets.is_empty() || page.len() < 8 {
            return false;
        }
        let at = self.place as usize % (page.len() / 8) * 8;
        let near = (self.value >> 24 & 0x1ff) * 8;
        let target = targets[(self.value & 0xff_ffff) as usize % targets.len()].wrapping_add(near);
        page[at..at + 8].copy_from_slice(&target.to_le_bytes());
        true
    }

    /// Makes the change. Bytes that are there are better changed than zeros, so most places count only those.
    pub fn apply(&self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let at = match self.how & 0x30 {
            0 => self.place as usize % bytes.len(),
            // Close to the beginning, where headers are.
            0x10 => self.place as usize % bytes.len().min(0x400),
            _ => {
                let used = bytes.iter().filter(|byte| **byte != 0).count();
                let nth = self.place as usize % used.max(1);
                let mut there = (0..bytes.len()).filter(|at| bytes[*at] != 0);
                there.nth(nth).unwrap_or(0)
            }
        };
        let width = (1 << (self.how & 3)).min(bytes.len() - at);
        let field = &mut bytes[at..at + width];
        let mut old = [0; 8];
        old[..width].copy_from_slice(field);
        let old = u64::from_le_bytes(old);
        let new = match self.how >> 2 & 3 {
            0 => self.value,
            1 => old ^ 1 << (self.value & 63),
            2 => old.wrapping_add(self.value & 0xff).wrapping_sub(0x80),
            _ => old ^ self.value,
        };
        field.copy_from_slice(&new.to_le_bytes()[..width]);
    }
}
