//! The offsets of one kernel build, looked up once.

use super::error::Unknown;
use super::field::{Field, Source};

/// Structure offsets and sizes of the recognised kernel, each with where it was learned. What isn't known is absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    offsets: Vec<Option<(u32, Source)>>,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            offsets: vec![None; Field::COUNT],
        }
    }
}

impl Layout {
    /// The offset of a field in its structure, or the size of a structure.
    ///
    /// # Errors
    /// [`Unknown`] if nothing says where the field is in this build.
    pub fn get(&self, field: Field) -> Result<u32, Unknown> {
        self.find(field)
            .map(|(offset, _)| offset)
            .ok_or(Unknown::Field(field))
    }

    /// The same with its source, or `None`.
    pub fn find(&self, field: Field) -> Option<(u32, Source)> {
        self.offsets[field as usize]
    }

    /// Sets a field that isn't known yet; better sources come first.
    pub(crate) fn learn(&mut self, field: Field, offset: u32, source: Source) {
        self.offsets[field as usize].get_or_insert((offset, source));
    }

    /// The fields that are known, with their sources.
    pub fn iter(&self) -> impl Iterator<Item = (Field, u32, Source)> + '_ {
        Field::ALL
            .iter()
            .filter_map(|&field| self.find(field).map(|(offset, source)| (field, offset, source)))
    }
}
