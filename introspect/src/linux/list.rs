//! Walking the kernel's `struct list_head` rings: with a limit, without cycles, each pointer checked.
//!
//! The guest may have been stopped in the middle of an insertion, where `prev` isn't right yet: it isn't asked.

use super::error::Error;
use super::space::Space;
use super::{Broken, Walk};
use hv_core::GuestVirtAddr;
use std::collections::HashSet;

/// A ring to walk.
pub(super) struct Ring {
    /// What it is called.
    pub(super) name: &'static str,
    /// Its head, a list_head.
    pub(super) head: GuestVirtAddr,
    /// Where the list_head is in an entry.
    pub(super) link: u64,
    /// The most entries.
    pub(super) limit: usize,
}

impl Ring {
    /// Calls `item` with the address of each entry.
    ///
    /// # Errors
    /// The head can't be read.
    pub(super) fn walk<T>(
        &self,
        space: &Space<'_>,
        mut item: impl FnMut(GuestVirtAddr) -> Result<T, Error>,
    ) -> Result<Walk<T>, Error> {
        let mut items = Vec::new();
        let mut seen = HashSet::new();
        let mut at = GuestVirtAddr(space.u64(self.name, self.head)?);
        let mut previous = self.head;
        let why = loop {
            if at == self.head {
                break None;
            }
            if items.len() >= self.limit {
                break Some(format!("it has more than {} entries", self.limit));
            }
            if !space.is_kernel(at) || !at.0.is_multiple_of(8) {
                break Some(format!(
                    "{previous} points there, and that is no kernel structure"
                ));
            }
            if !seen.insert(at) {
                break Some("it runs in a circle".to_owned());
            }
            let next = item(GuestVirtAddr(at.0.wrapping_sub(self.link))).and_then(|value| {
                items.push(value);
                space.u64(self.name, at)
            });
            match next {
                Ok(next) => (previous, at) = (at, GuestVirtAddr(next)),
                Err(error) => break Some(error.to_string()),
            }
        };
        let broken = why.map(|why| Broken {
            list: self.name,
            at,
            read: items.len(),
            why,
        });
        Ok(Walk { items, broken })
    }
}
