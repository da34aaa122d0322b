//! Walking the kernel's doubly linked lists: with a limit, without cycles, each link checked from both sides.

use super::error::Error;
use super::facts::{Broken, Walk};
use super::space::Space;
use hv_core::GuestVirtAddr;
use std::collections::HashSet;

/// A list to walk.
pub(crate) struct List {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Its head, a LIST_ENTRY.
    pub(crate) head: GuestVirtAddr,
    /// Where the LIST_ENTRY is in an entry.
    pub(crate) link: u64,
    /// The most entries.
    pub(crate) limit: usize,
}

impl List {
    /// Calls `item` with the address of each entry.
    ///
    /// # Errors
    /// The head can't be read.
    pub(crate) fn walk<T>(
        &self,
        space: &Space<'_>,
        mut item: impl FnMut(GuestVirtAddr) -> Result<T, Error>,
    ) -> Result<Walk<T>, Error> {
        let pointer_size = space.arch.pointer_size() as u64;
        let mut items = Vec::new();
        let mut seen = HashSet::new();
        let mut previous = self.head;
        let mut at = space.pointer(self.name, self.head)?;
        let broken = loop {
            if at == self.head {
                break None;
            }
            let next = if items.len() == self.limit {
                Err(format!("it has more than {} entries", self.limit))
            } else if !space.is_kernel(at) || !at.0.is_multiple_of(pointer_size) {
                Err(format!(
                    "{previous} points there, and that is no kernel structure"
                ))
            } else if !seen.insert(at) {
                Err("it runs in a circle".to_owned())
            } else {
                self.links(space, at, previous)
            };
            let entry = GuestVirtAddr(at.0.wrapping_sub(self.link));
            match next.and_then(|next| Ok((next, item(entry).map_err(|error| error.to_string())?))) {
                Ok((next, value)) => {
                    items.push(value);
                    previous = at;
                    at = next;
                }
                Err(why) => break Some(why),
            }
        };
        let broken = broken.map(|why| Broken {
            list: self.name,
            at,
            read: items.len(),
            why,
        });
        Ok(Walk { items, broken })
    }

    /// The next link, if the one here points back.
    fn links(
        &self,
        space: &Space<'_>,
        at: GuestVirtAddr,
        previous: GuestVirtAddr,
    ) -> Result<GuestVirtAddr, String> {
        let pointer_size = space.arch.pointer_size() as u64;
        let next = space.pointer(self.name, at).map_err(|error| error.to_string())?;
        let back = space
            .pointer(self.name, at.wrapping_add(pointer_size))
            .map_err(|error| error.to_string())?;
        if back == previous {
            Ok(next)
        } else {
            Err(format!("its Blink is {back} and not {previous}"))
        }
    }
}
