//! Decoded basic blocks, keyed by physical page, linear address and mode, and found without a hash on the hot path.

use super::exec::Flow;
use super::bus::Bus;
use super::vcpu::Vcpu;
use iced_x86::Instruction;
use rustc_hash::FxHashMap;

/// Executes one decoded instruction.
pub(crate) type Handler = fn(&mut Vcpu, &mut Bus, &Op) -> Flow;

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
    /// Unique; 0 in a free slot.
    pub(crate) serial: u32,
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
        JumpCache(Box::new([JumpEntry { rip: 0, key: u64::MAX, index: 0, serial: 0 }; JUMP_ENTRIES]))
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

    pub(crate) fn remember(&self, cache: &mut JumpCache, rip: u64, key: u64, index: u32) {
        let serial = self.blocks[index as usize].serial;
        cache.0[JumpCache::slot(rip)] = JumpEntry { rip, key, index, serial };
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
        let (place, frame, second) =
            ((block.physical, block.rip, block.mode), block.physical >> 12, block.second_frame);
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
