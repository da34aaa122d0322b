//! Decoded basic blocks, keyed by physical page, linear address and mode, and found without a hash on the hot path.

use super::bus::Bus;
use super::exec::Flow;
use super::vcpu::Vcpu;
use iced_x86::Instruction;
use rustc_hash::FxHashMap;
use std::cell::Cell;

/// Executes a decoded instruction and goes on with those after it: each handler ends in a call of the next, which the
/// compiler makes a jump. A block's length bounds the depth where it doesn't.
///
/// Returns what ended the run; for [`Flow::Leave`], [`Flow::Abort`] and [`Flow::Break`], [`Vcpu::stopped_at`] is the
/// number of the instruction. [`Flow::Branch`] comes only from the last one.
pub(crate) type Handler = fn(&mut Vcpu, &mut Bus, &Op, &[Op]) -> Flow;

/// Runs `ops` from the first on.
#[inline(always)]
pub(crate) fn dispatch(cpu: &mut Vcpu, bus: &mut Bus, ops: &[Op]) -> Flow {
    match ops.split_first() {
        Some((op, rest)) => (op.handler)(cpu, bus, op, rest),
        None => Flow::Next,
    }
}

/// Makes a [`Handler`] of a function that executes one instruction.
macro_rules! handler {
    ($f:expr) => {{
        fn handler(
            cpu: &mut $crate::engine::vcpu::Vcpu,
            bus: &mut $crate::engine::bus::Bus,
            op: &$crate::engine::block::Op,
            rest: &[$crate::engine::block::Op],
        ) -> $crate::engine::exec::Flow {
            match $f(cpu, bus, op) {
                $crate::engine::exec::Flow::Next => $crate::engine::block::dispatch(cpu, bus, rest),
                $crate::engine::exec::Flow::Branch => $crate::engine::exec::Flow::Branch,
                flow => {
                    cpu.stopped_at = op.number;
                    flow
                }
            }
        }
        handler as $crate::engine::block::Handler
    }};
}
pub(crate) use handler;

/// A decoded instruction: the handler that gives it its meaning and the operands in the handler's form.
pub(crate) struct Op {
    pub(crate) handler: Handler,
    /// An immediate, or a branch target.
    pub(crate) imm: u64,
    /// A displacement, or the next instruction's address for a branch.
    pub(crate) disp: u64,
    /// The instruction in full, for handlers that need it.
    pub(crate) instruction: Option<Box<Instruction>>,
    /// Register numbers; absent ones are the zero register.
    pub(crate) dst: u8,
    pub(crate) src: u8,
    pub(crate) base: u8,
    pub(crate) index: u8,
    pub(crate) scale: u8,
    /// The pseudo register that holds the segment base.
    pub(crate) segment: u8,
    /// Position in the block.
    pub(crate) number: u16,
    /// Offset of the first byte from the block's start.
    pub(crate) offset: u16,
    /// Whether a non-canonical address is a stack fault.
    pub(crate) stack: bool,
}

/// A straight piece of code that lies in one page (a single instruction may reach into the next).
pub(crate) struct Block {
    pub(crate) rip: u64,
    /// RIP after the last instruction.
    pub(crate) end: u64,
    pub(crate) ops: Vec<Op>,
    /// Physical address of the first byte.
    pub(crate) physical: u64,
    /// Frame of the second page that the last instruction reaches into.
    pub(crate) second_frame: Option<u64>,
    pub(crate) mode: u8,
    /// The code segment's, that it was decoded under.
    pub(crate) limit: u32,
    /// Unique; 0 in a free slot.
    pub(crate) serial: u32,
    /// Where control went from here: the two last successors.
    pub(crate) links: [Cell<Link>; 2],
}

/// A known successor of a block.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    rip: u64,
    key: u64,
    index: u32,
    serial: u32,
}

impl Link {
    /// A link that leads nowhere.
    pub(crate) const NONE: Link = Link {
        rip: 0,
        key: u64::MAX,
        index: 0,
        serial: 0,
    };
}

#[derive(Clone, Copy)]
struct JumpEntry {
    rip: u64,
    key: u64,
    index: u32,
    serial: u32,
}

const JUMP_ENTRIES: usize = 8192;

/// A vCPU's direct-mapped map from RIP to block.
pub(crate) struct JumpCache(Box<[JumpEntry; JUMP_ENTRIES]>);

impl JumpCache {
    pub(crate) fn new() -> JumpCache {
        JumpCache(Box::new(
            [JumpEntry {
                rip: 0,
                key: u64::MAX,
                index: 0,
                serial: 0,
            }; JUMP_ENTRIES],
        ))
    }

    #[inline(always)]
    fn slot(rip: u64) -> usize {
        (rip ^ (rip >> 12)) as usize & (JUMP_ENTRIES - 1)
    }
}

/// All blocks of a machine.
#[derive(Default)]
pub(crate) struct CodeCache {
    blocks: Vec<Block>,
    free: Vec<u32>,
    by_place: FxHashMap<(u64, u64, u8), u32>,
    by_frame: FxHashMap<u64, Vec<u32>>,
    by_linear_page: FxHashMap<u64, Vec<u32>>,
    next_serial: u32,
}

/// More blocks than this and the cache starts afresh.
const MAX_BLOCKS: usize = 400_000;

impl CodeCache {
    /// The block at `rip` by the vCPU's jump cache.
    #[inline(always)]
    pub(crate) fn jump(&self, cache: &JumpCache, rip: u64, key: u64) -> Option<u32> {
        let entry = &cache.0[JumpCache::slot(rip)];
        if entry.rip == rip && entry.key == key && self.blocks[entry.index as usize].serial == entry.serial {
            Some(entry.index)
        } else {
            None
        }
    }

    /// The successor of `from` at `rip`, if control went there before under the same translations.
    #[inline(always)]
    pub(crate) fn follow(&self, from: u32, rip: u64, key: u64) -> Option<u32> {
        for link in &self.blocks[from as usize].links {
            let link = link.get();
            if link.rip == rip && link.key == key && self.blocks[link.index as usize].serial == link.serial {
                return Some(link.index);
            }
        }
        None
    }

    /// Notes that control goes from `from` to `to`, in place of the older of two links.
    pub(crate) fn link(&self, from: u32, rip: u64, key: u64, to: u32) {
        let [first, second] = &self.blocks[from as usize].links;
        second.set(first.get());
        first.set(Link {
            rip,
            key,
            index: to,
            serial: self.blocks[to as usize].serial,
        });
    }

    pub(crate) fn remember(&self, cache: &mut JumpCache, rip: u64, key: u64, index: u32) {
        let serial = self.blocks[index as usize].serial;
        cache.0[JumpCache::slot(rip)] = JumpEntry {
            rip,
            key,
            index,
            serial,
        };
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> &Block {
        &self.blocks[index as usize]
    }

    /// The block for code at `rip` that lies at `physical`.
    pub(crate) fn find(&self, physical: u64, rip: u64, mode: u8) -> Option<u32> {
        self.by_place.get(&(physical, rip, mode)).copied()
    }

    pub(crate) fn insert(&mut self, mut block: Block) -> u32 {
        if self.blocks.len() - self.free.len() > MAX_BLOCKS {
            self.clear();
        }
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        block.serial = self.next_serial;
        let (place, frame, second) = (
            (block.physical, block.rip, block.mode),
            block.physical >> 12,
            block.second_frame,
        );
        let pages = [block.rip >> 12, block.end.wrapping_sub(1) >> 12];
        let index = match self.free.pop() {
            Some(index) => {
                self.blocks[index as usize] = block;
                index
            }
            None => {
                self.blocks.push(block);
                (self.blocks.len() - 1) as u32
            }
        };
        self.by_place.insert(place, index);
        self.by_frame.entry(frame).or_default().push(index);
        if let Some(second) = second {
            self.by_frame.entry(second).or_default().push(index);
        }
        self.by_linear_page.entry(pages[0]).or_default().push(index);
        if pages[1] != pages[0] {
            self.by_linear_page.entry(pages[1]).or_default().push(index);
        }
        index
    }

    fn remove(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        if block.serial == 0 {
            return;
        }
        block.serial = 0;
        block.ops = Vec::new();
        let place = (block.physical, block.rip, block.mode);
        let frames = [Some(block.physical >> 12), block.second_frame];
        let pages = [block.rip >> 12, block.end.wrapping_sub(1) >> 12];
        self.by_place.remove(&place);
        for frame in frames.into_iter().flatten() {
            remove_from(&mut self.by_frame, frame, index);
        }
        for page in pages {
            remove_from(&mut self.by_linear_page, page, index);
        }
        self.free.push(index);
    }

    /// Drops the blocks with code in a frame.
    pub(crate) fn drop_frame(&mut self, frame: u64) {
        for index in self.by_frame.get(&frame).cloned().unwrap_or_default() {
            self.remove(index);
        }
    }

    /// Drops the blocks with code in a linear page: an execution breakpoint came or went there.
    pub(crate) fn drop_linear_page(&mut self, page: u64) {
        for index in self.by_linear_page.get(&page).cloned().unwrap_or_default() {
            self.remove(index);
        }
    }

    pub(crate) fn clear(&mut self) {
        for index in 0..self.blocks.len() as u32 {
            self.remove(index);
        }
    }
}

fn remove_from(map: &mut FxHashMap<u64, Vec<u32>>, key: u64, index: u32) {
    if let Some(list) = map.get_mut(&key) {
        list.retain(|i| *i != index);
        if list.is_empty() {
            map.remove(&key);
        }
    }
}
