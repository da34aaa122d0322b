//! Breakpoints and watchpoints of the debugger's side, by the engine's own indices.
//!
//! Execution breakpoints are asked for when a block is decoded; watchpoints when an access takes the slow path,
//! which every access to a watched page does.

use crate::introspect::{AccessKind, Breakpoint, BreakpointId, BreakpointKind, Place};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// All of a machine's, plus what the current instruction hit.
#[derive(Default)]
pub(crate) struct Watches {
    all: BTreeMap<BreakpointId, Breakpoint>,
    /// Virtual pages with execution breakpoints, and how many.
    execute_virtual: FxHashMap<u64, u32>,
    /// Physical frames with execution breakpoints.
    execute_physical: FxHashMap<u64, u32>,
    /// Virtual pages with watchpoints.
    watch_virtual: FxHashMap<u64, u32>,
    /// Physical frames with watchpoints.
    watch_physical: FxHashMap<u64, u32>,
    /// Watches so large that pages aren't counted one by one.
    huge: u32,
    /// The accesses of the current instruction that a watchpoint asked for.
    pub(crate) hits: Vec<WatchHit>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchHit {
    pub(crate) id: BreakpointId,
    pub(crate) address: u64,
    pub(crate) access: AccessKind,
}

const HUGE_PAGES: u64 = 1024;

fn pages(start: u64, length: u64) -> std::ops::RangeInclusive<u64> {
    start >> 12..=start.saturating_add(length.max(1) - 1) >> 12
}

fn count(map: &mut FxHashMap<u64, u32>, page: u64, add: bool) {
    if add {
        *map.entry(page).or_default() += 1;
    } else if let Some(n) = map.get_mut(&page) {
        *n -= 1;
        if *n == 0 {
            map.remove(&page);
        }
    }
}

impl Watches {
    pub(crate) fn insert(&mut self, id: BreakpointId, breakpoint: Breakpoint) {
        self.count_pages(&breakpoint, true);
        self.all.insert(id, breakpoint);
    }

    pub(crate) fn remove(&mut self, id: BreakpointId) -> Option<Breakpoint> {
        let breakpoint = self.all.remove(&id)?;
        self.count_pages(&breakpoint, false);
        Some(breakpoint)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn count_pages(&mut self, breakpoint: &Breakpoint, add: bool) {
        let (address, physical) = match breakpoint.place {
            Place::Virtual(a) | Place::InAddressSpace(a, _) => (a.0, false),
            Place::Physical(a) => (a.0, true),
        };
        match breakpoint.kind {
            BreakpointKind::Execute => {
                let map = if physical {
                    &mut self.execute_physical
                } else {
                    &mut self.execute_virtual
                };
                count(map, address >> 12, add);
            }
            BreakpointKind::Watch { length, .. } => {
                let range = pages(address, length);
                if range.end() - range.start() > HUGE_PAGES {
                    self.huge = if add { self.huge + 1 } else { self.huge - 1 };
                    return;
                }
                let map = if physical {
                    &mut self.watch_physical
                } else {
                    &mut self.watch_virtual
                };
                for page in range {
                    count(map, page, add);
                }
            }
        }
    }

    /// Whether a page may hold an execution breakpoint: cheap, asked once a decoded block.
    pub(crate) fn executes_in(&self, linear: u64, physical: u64) -> bool {
        self.execute_virtual.contains_key(&(linear >> 12))
            || self.execute_physical.contains_key(&(physical >> 12))
    }

    /// Whether an execution breakpoint is at this address, in whatever address space.
    pub(crate) fn is_break_address(&self, linear: u64, physical: u64) -> bool {
        self.executes_in(linear, physical)
            && self.all.values().any(|b| {
                b.kind == BreakpointKind::Execute
                    && match b.place {
                        Place::Virtual(a) | Place::InAddressSpace(a, _) => a.0 == linear,
                        Place::Physical(a) => a.0 == physical,
                    }
            })
    }

    /// The execution breakpoints that hit at this address under this page-table root.
    pub(crate) fn breaks_at(
        &self,
        linear: u64,
        physical: Option<u64>,
        root: u64,
    ) -> Vec<(BreakpointId, Breakpoint)> {
        self.all
            .iter()
            .filter(|(_, b)| {
                b.kind == BreakpointKind::Execute
                    && match b.place {
                        Place::Virtual(a) => a.0 == linear,
                        Place::InAddressSpace(a, r) => a.0 == linear && r.0 == root,
                        Place::Physical(a) => Some(a.0) == physical,
                    }
            })
            .map(|(id, b)| (*id, b.clone()))
            .collect()
    }

    /// Whether accesses to this page must take the slow path.
    pub(crate) fn watches_page(&self, linear: u64, physical: u64) -> bool {
        self.huge > 0
            || (!self.watch_virtual.is_empty() && self.watch_virtual.contains_key(&(linear >> 12)))
            || (!self.watch_physical.is_empty() && self.watch_physical.contains_key(&(physical >> 12)))
    }

    /// The watchpoints that an access of `length` bytes touches; with `record` they are kept in `hits`.
    pub(crate) fn check(
        &mut self,
        linear: u64,
        physical: u64,
        length: u64,
        access: AccessKind,
        root: u64,
        record: bool,
    ) -> bool {
        let mut any = false;
        for (id, b) in &self.all {
            let BreakpointKind::Watch {
                length: watched,
                access: wanted,
            } = b.kind
            else {
                continue;
            };
            if !access.matches(wanted) {
                continue;
            }
            let (start, at) = match b.place {
                Place::Virtual(a) => (a.0, linear),
                Place::InAddressSpace(a, r) if r.0 == root => (a.0, linear),
                Place::InAddressSpace(..) => continue,
                Place::Physical(a) => (a.0, physical),
            };
            if at < start.saturating_add(watched) && start < at.saturating_add(length) {
                any = true;
                // An instruction hits a watchpoint once, however often it touches it.
                if record && self.hits.iter().all(|hit| hit.id != *id) {
                    self.hits.push(WatchHit {
                        id: *id,
                        address: at.max(start),
                        access,
                    });
                }
            }
        }
        any
    }

    /// The breakpoint of this id.
    pub(crate) fn get(&self, id: BreakpointId) -> Option<&Breakpoint> {
        self.all.get(&id)
    }
}
