//! Maple trees: ranges of numbers, each with an entry (include/linux/maple_tree.h). From 6.1 on a process keeps its mappings in
//! one.

use super::Linux;
use super::error::{Error, Unknown};
use super::space::Space;
use hv_core::GuestVirtAddr;

/// The most nodes that are read: `vm.max_map_count` entries fill a thirtieth of them.
const MAX_NODES: usize = 1 << 17;
/// MAPLE_HEIGHT_MAX.
const MAX_HEIGHT: u32 = 31;
/// Pointers to nodes say their type in bits 3 to 6; nodes lie at multiples of 256.
const NODE: u64 = !0xff;
/// `enum maple_type`.
const LEAF: u64 = 1;
const RANGE: u64 = 2;
const ALLOCATION_RANGE: u64 = 3;
/// The most slots in a node.
const MAX_SLOTS: u64 = 31;

/// Where pivots and slots are in a kind of node.
#[derive(Clone, Copy)]
struct Node {
    pivot: u64,
    slot: u64,
}

impl Node {
    fn of(linux: &Linux, structure: &'static str) -> Result<Node, Error> {
        let node = Node {
            pivot: linux.offset(structure, "pivot")?,
            slot: linux.offset(structure, "slot")?,
        };
        // One pivot less than slots; the last slot ends where the node does.
        match node.slot.checked_sub(node.pivot) {
            Some(bytes) if (8..8 * MAX_SLOTS).contains(&bytes) && node.slot < 0x100 => Ok(node),
            _ => Err(Unknown::Member(structure, "slot").into()),
        }
    }

    fn slots(self) -> u64 {
        (self.slot - self.pivot) / 8 + 1
    }
}

/// The layout of this build's trees.
pub(super) struct MapleTree {
    root: u64,
    range: Node,
    allocation_range: Node,
}

/// An entry of a tree, and the numbers it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) value: u64,
}

struct Place {
    pointer: u64,
    first: u64,
    last: u64,
    height: u32,
}

impl MapleTree {
    pub(super) fn of(linux: &Linux) -> Result<MapleTree, Error> {
        Ok(MapleTree {
            root: linux.offset("maple_tree", "ma_root")?,
            range: Node::of(linux, "maple_range_64")?,
            allocation_range: Node::of(linux, "maple_arange_64")?,
        })
    }

    /// The entries of the tree at an address, in rising order, up to a limit; and why there are no more where the tree breaks off.
    pub(super) fn entries(
        &self,
        space: &Space<'_>,
        tree: GuestVirtAddr,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<Error>), Error> {
        let root = space.u64("maple tree", tree.wrapping_add(self.root))?;
        let mut entries = Vec::new();
        if !is_node(root) {
            if root != 0 && root & 3 != 2 {
                entries.push(Entry {
                    first: 0,
                    last: 0,
                    value: root,
                });
            }
            return Ok((entries, None));
        }
        let mut todo = vec![Place {
            pointer: root,
            first: 0,
            last: u64::MAX,
            height: 0,
        }];
        let mut nodes = 0;
        while let Some(place) = todo.pop() {
            nodes += 1;
            let step = if nodes > MAX_NODES || entries.len() >= limit {
                Err(implausible(&place, "it is larger than any"))
            } else {
                self.node(space, &place, &mut entries, &mut todo)
            };
            if let Err(error) = step {
                return Ok((entries, Some(error)));
            }
        }
        Ok((entries, None))
    }

    /// Reads a node: its entries, or the nodes below it, the first one on top.
    fn node(
        &self,
        space: &Space<'_>,
        place: &Place,
        entries: &mut Vec<Entry>,
        todo: &mut Vec<Place>,
    ) -> Result<(), Error> {
        let kind = place.pointer >> 3 & 0xf;
        let layout = match kind {
            LEAF | RANGE => self.range,
            ALLOCATION_RANGE => self.allocation_range,
            _ => return Err(implausible(place, "its type isn't known")),
        };
        let address = GuestVirtAddr(place.pointer & NODE);
        if !space.is_kernel(address) || place.height > MAX_HEIGHT {
            return Err(implausible(place, "no node of the kernel's"));
        }
        let mut bytes = [0; 0x100];
        space.bytes("maple node", address, &mut bytes)?;
        let word = |at: u64| {
            let bytes = bytes.get(at as usize..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let mut first = place.first;
        let below = todo.len();
        for number in 0..layout.slots() {
            let last = match word(layout.pivot + 8 * number) {
                _ if number + 1 == layout.slots() => place.last,
                0 if number > 0 => place.last,
                pivot => pivot,
            };
            if last < first || last > place.last {
                return Err(implausible(place, "its ranges don't rise"));
            }
            let value = word(layout.slot + 8 * number);
            match kind {
                // Zero entries are reserved places.
                LEAF if value != 0 && value & 3 != 2 => entries.push(Entry { first, last, value }),
                LEAF => {}
                _ if is_node(value) => todo.push(Place {
                    pointer: value,
                    first,
                    last,
                    height: place.height + 1,
                }),
                _ if value == 0 => {}
                _ => return Err(implausible(place, "no node below it")),
            }
            if last == place.last {
                break;
            }
            first = last + 1;
        }
        todo[below..].reverse();
        Ok(())
    }
}

/// `xa_is_node`.
pub(super) fn is_node(entry: u64) -> bool {
    entry & 3 == 2 && entry > 0x1000
}

fn implausible(place: &Place, why: &str) -> Error {
    Error::Implausible {
        what: "maple node",
        address: GuestVirtAddr(place.pointer & NODE),
        why: why.to_owned(),
    }
}
