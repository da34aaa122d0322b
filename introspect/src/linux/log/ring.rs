//! The log of 5.10 and later: `struct printk_ringbuffer` (kernel/printk/printk_ringbuffer.h).

use super::{Level, Log, MAX_RECORDS, Record, caller, number, read_all, text};
use crate::linux::Linux;
use crate::linux::error::{Error, Unknown};
use crate::linux::space::Space;
use hv_core::GuestVirtAddr;

/// A descriptor's state is in the top two bits of its `state_var`, its id in the others.
const ID_BITS: u32 = 62;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// Bytes before a block's text: its descriptor's id.
const BLOCK_HEADER: u64 = 8;

/// The ring as it was read.
struct Ring {
    descriptors: Vec<u8>,
    infos: Vec<u8>,
    data: Vec<u8>,
    size_bits: u32,
    layout: Layout,
}

/// Where everything is in a descriptor and its info.
struct Layout {
    descriptor: u64,
    state: u64,
    begin: u64,
    next: u64,
    info: u64,
    sequence: u64,
    time: u64,
    text_len: u64,
    caller: Option<u64>,
}

impl Layout {
    fn of(linux: &Linux) -> Result<Layout, Unknown> {
        let block = linux.offset("prb_desc", "text_blk_lpos")?;
        Ok(Layout {
            descriptor: linux.size("prb_desc")?,
            state: linux.offset("prb_desc", "state_var")?,
            begin: block + linux.offset("prb_data_blk_lpos", "begin")?,
            next: block + linux.offset("prb_data_blk_lpos", "next")?,
            info: linux.size("printk_info")?,
            sequence: linux.offset("printk_info", "seq")?,
            time: linux.offset("printk_info", "ts_nsec")?,
            text_len: linux.offset("printk_info", "text_len")?,
            caller: linux.offset("printk_info", "caller_id").ok(),
        })
    }
}

pub(super) fn read(linux: &Linux, space: &Space<'_>, variable: GuestVirtAddr) -> Result<Log, Error> {
    const RING: &str = "printk ring buffer";
    let ring = space.pointer(RING, variable)?;
    let descriptors = ring.wrapping_add(linux.offset("printk_ringbuffer", "desc_ring")?);
    let data = ring.wrapping_add(linux.offset("printk_ringbuffer", "text_data_ring")?);
    let of_descriptors = |member| -> Result<GuestVirtAddr, Error> {
        Ok(descriptors.wrapping_add(linux.offset("prb_desc_ring", member)?))
    };
    let of_data = |member| -> Result<GuestVirtAddr, Error> {
        Ok(data.wrapping_add(linux.offset("prb_data_ring", member)?))
    };
    let count_bits = space.u32(RING, of_descriptors("count_bits")?)?;
    let size_bits = space.u32(RING, of_data("size_bits")?)?;
    if count_bits > MAX_RECORDS.ilog2() || size_bits > super::MAX_LOG.ilog2() {
        return Err(Error::Implausible {
            what: RING,
            address: ring,
            why: format!("it would have 2^{count_bits} records in 2^{size_bits} bytes"),
        });
    }
    let layout = Layout::of(linux)?;
    let count = 1 << count_bits;
    let array = |member| space.pointer(RING, of_descriptors(member)?);
    let read = Ring {
        descriptors: read_all(
            space,
            "log descriptors",
            array("descs")?,
            count,
            layout.descriptor,
        )?,
        infos: read_all(space, "log infos", array("infos")?, count, layout.info)?,
        data: read_all(
            space,
            "log text",
            space.pointer(RING, of_data("data")?)?,
            1 << size_bits,
            1,
        )?,
        size_bits,
        layout,
    };
    let tail = space.u64(RING, of_descriptors("tail_id")?)? & ID_MASK;
    let head = space.u64(RING, of_descriptors("head_id")?)? & ID_MASK;
    let there = (head.wrapping_sub(tail) & ID_MASK).saturating_add(1).min(count);
    let records = (0..there).filter_map(|step| read.record(tail.wrapping_add(step) & ID_MASK, count - 1));
    Ok(Log {
        records: records.collect(),
        broken: None,
    })
}

impl Ring {
    /// The record of an id, if it is complete.
    fn record(&self, id: u64, mask: u64) -> Option<Record> {
        let layout = &self.layout;
        let descriptor = (id & mask) * layout.descriptor;
        let state = number(&self.descriptors, descriptor + layout.state, 8);
        if state & ID_MASK != id || !matches!(state >> ID_BITS, COMMITTED | FINALIZED) {
            return None;
        }
        let begin = number(&self.descriptors, descriptor + layout.begin, 8);
        let next = number(&self.descriptors, descriptor + layout.next, 8);
        let info = (id & mask) * layout.info;
        let length = number(&self.infos, info + layout.text_len, 2);
        // The facility and the bits of flags and level follow the length.
        let level = number(&self.infos, info + layout.text_len + 3, 1) as u8;
        Some(Record {
            sequence: number(&self.infos, info + layout.sequence, 8),
            nanoseconds: number(&self.infos, info + layout.time, 8),
            level: Level::of(level >> 5),
            facility: number(&self.infos, info + layout.text_len + 2, 1) as u8,
            caller: layout
                .caller
                .map(|at| caller(number(&self.infos, info + at, 4) as u32)),
            text: text(self.text(begin, next, length)),
        })
    }

    /// The text of a block between two logical positions; a record may have none.
    fn text(&self, begin: u64, next: u64, length: u64) -> &[u8] {
        if begin & 1 != 0 {
            return &[];
        }
        let lap = |position: u64| position >> self.size_bits;
        let mask = (1_u64 << self.size_bits) - 1;
        let last = next.wrapping_sub(1);
        // A block that doesn't fit before the end starts anew at the beginning.
        let begin = if lap(begin) == lap(last) {
            begin
        } else {
            last & !mask
        };
        let room = next.wrapping_sub(begin).saturating_sub(BLOCK_HEADER);
        let start = ((begin & mask) + BLOCK_HEADER) as usize;
        let rest = self.data.get(start..).unwrap_or_default();
        &rest[..length.min(room).min(rest.len() as u64) as usize]
    }
}
