//! What was run: per instruction form, and per row of the census of a Linux boot.

use super::case::Case;
use iced_x86::{Code, Instruction, Mnemonic};
use std::collections::{BTreeMap, HashMap};

/// How often a form ran.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// It was part of a case.
    pub cases: u64,
    /// It was the last of a case that ended without a fault.
    pub completed: u64,
}

/// Counts by form and by prefix and mnemonic.
#[derive(Default)]
pub struct Coverage {
    /// By form and mode.
    pub codes: HashMap<(u32, Code), Count>,
    /// By the names that the census uses.
    pub mnemonics: BTreeMap<String, u64>,
}

/// The census' name for an instruction: its prefix and mnemonic.
pub fn census_name(i: &Instruction) -> String {
    let mnemonic = format!("{:?}", i.mnemonic()).to_lowercase();
    if i.has_lock_prefix() {
        format!("lock {mnemonic}")
    } else if i.is_string_instruction() && i.mnemonic() != Mnemonic::INVALID && (i.has_rep_prefix() || i.has_repne_prefix()) {
        format!("rep {mnemonic}")
    } else {
        mnemonic
    }
}

impl Coverage {
    /// Notes a case that was run.
    pub fn note(&mut self, case: &Case, completed: bool) {
        for line in &case.lines {
            let count = self.codes.entry((case.bits, line.instruction.code())).or_default();
            count.cases += 1;
            count.completed += completed as u64;
            *self.mnemonics.entry(census_name(&line.instruction)).or_default() += 1;
        }
    }
}
