//! A set of interrupt vectors: the shape of the local APIC's ISR, TMR and IRR.

use serde::{Deserialize, Serialize};

/// 256 bits, one for each vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct VectorSet([u64; 4]);

impl VectorSet {
    /// Adds `vector`.
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    /// Takes `vector` out.
    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    /// Whether `vector` is in the set.
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0
    }

    /// The highest vector, which is the one of the highest priority.
    pub(super) fn highest(&self) -> Option<u8> {
        (0u8..4).rev().find_map(|i| {
            let word = self.0[usize::from(i)];
            (word != 0).then(|| i * 64 + (63 - word.leading_zeros() as u8))
        })
    }

    /// The 32-bit register `index` (0 to 7) of the set, as the APIC's register map shows it.
    pub(super) fn register(&self, index: u32) -> u32 {
        (self.0[(index as usize >> 1) & 3] >> ((index & 1) * 32)) as u32
    }

    /// The vectors from low to high, for a person.
    pub(super) fn list(&self) -> String {
        let all: Vec<String> = (0..=255u8)
            .filter(|v| self.contains(*v))
            .map(|v| format!("{v:02x}"))
            .collect();
        if all.is_empty() { "-".into() } else { all.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_and_the_register_view_agree() {
        let mut set = VectorSet::default();
        assert_eq!(set.highest(), None);
        for vector in [0x10, 0x3f, 0x40, 0xff] {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
            assert_ne!(set.register(u32::from(vector) / 32) & 1 << (vector % 32), 0);
        }
        set.remove(0xff);
        assert_eq!(set.highest(), Some(0x40));
        assert_eq!(set.list(), "10,3f,40");
    }
}
