//! `system`: the control and model-specific registers once more, as one register of a structure type.
//!
//! gdb decides by rules of its own which x86 registers are in its group "system", and takes none of a description
//! there: `info registers system` would print nothing. But it looks for a register of that name first. Its fields
//! are the registers of [`Feature::System`], by their own names and in their order: `info registers system` shows
//! them all, and `print $system` the bits of some by their names.
//!
//! It isn't part of the `g` packet: gdb asks for it alone, when a user does. Other clients aren't told of it.

use super::{Feature, Register, TABLE, View};

/// Its number, the one after the last of the table.
pub const SYSTEM: usize = TABLE.len();

/// Its width in bytes.
pub const SYSTEM_BYTES: usize = {
    let mut sum = 0;
    let mut i = 0;
    while i < TABLE.len() {
        if matches!(TABLE[i].feature, Feature::System) {
            sum += TABLE[i].bytes();
        }
        i += 1;
    }
    sum
};

/// Its fields, one behind the other without gaps.
pub fn members() -> impl Iterator<Item = &'static Register> {
    TABLE
        .iter()
        .filter(|register| register.feature == Feature::System)
}

impl View<'_> {
    /// All fields, appended.
    pub fn put_system(&self, out: &mut Vec<u8>) {
        for register in members() {
            self.put(register, out);
        }
    }

    /// Changes the fields that differ from what they are now; the time stamp counter, which goes on by itself, not.
    ///
    /// # Errors
    /// A sentence that says what is wrong with a value.
    pub fn set_system(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != SYSTEM_BYTES {
            return Err(format!("system has {SYSTEM_BYTES} bytes, not {}", bytes.len()));
        }
        self.set_changed(members(), bytes)
    }
}
