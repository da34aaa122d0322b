//! An index from names to numbers, for names that a guest chose.

use std::hash::{BuildHasher, RandomState};

/// No entry.
const EMPTY: u32 = u32::MAX;

/// Numbers of entries by name; a name may have several. The hash is keyed, so that nobody can choose names that make it
/// slow.
#[derive(Debug)]
pub(crate) struct NameIndex {
    keys: RandomState,
    /// Open addressing, a power of two.
    slots: Vec<u32>,
}

impl NameIndex {
    /// Of entries `0..count`; those without a name are left out.
    pub(crate) fn new<'n>(count: u32, name: impl Fn(u32) -> &'n [u8]) -> NameIndex {
        let size = (count as usize * 2).next_power_of_two().max(2);
        let mut index = NameIndex {
            keys: RandomState::new(),
            slots: vec![EMPTY; size],
        };
        // Half of a kernel's types have no name, and nobody asks for them by it.
        for entry in (0..count).filter(|&entry| !name(entry).is_empty()) {
            let mut slot = index.first_slot(name(entry));
            let mut tried = 0;
            while index.slots[slot] != EMPTY && tried < MAX_PROBES {
                slot = (slot + 1) & (size - 1);
                tried += 1;
            }
            if index.slots[slot] == EMPTY {
                index.slots[slot] = entry;
            }
        }
        index
    }

    /// The entries that may have this name, in rising order; the caller compares.
    pub(crate) fn candidates(&self, name: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let first = self.first_slot(name);
        (0..=MAX_PROBES)
            .map(move |step| self.slots[(first + step) & (self.slots.len() - 1)])
            .take_while(|&entry| entry != EMPTY)
    }

    fn first_slot(&self, name: &[u8]) -> usize {
        self.keys.hash_one(name) as usize & (self.slots.len() - 1)
    }
}

/// Slots that are looked at for one name. Kernels have some hundred functions of one name at most; entries beyond that
/// aren't found by name.
const MAX_PROBES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_a_name_is_found() {
        let names: [&[u8]; 5] = [b"a", b"b", b"a", b"", b"a"];
        let index = NameIndex::new(5, |entry| names[entry as usize]);
        let found = |name: &[u8]| -> Vec<u32> {
            index
                .candidates(name)
                .filter(|&entry| names[entry as usize] == name)
                .collect()
        };
        assert_eq!(found(b"a"), [0, 2, 4]);
        assert!(found(b"").is_empty());
        assert!(found(b"c").is_empty());
    }

    #[test]
    fn a_million_equal_names_cost_little() {
        let index = NameIndex::new(100_000, |_| b"same");
        assert!(index.candidates(b"same").count() > 1000);
    }
}
