//! Which frames hold page tables, so that no translation outlives a change of the entry it came from.
//!
//! ```text
//! walk ──► mark the frames of its tables ──► revoke their write entries: a store to them takes the slow path
//! slow store, debugger's write ──► does it change an entry that a translation may come from?
//!                                    └─ leaf: the slots it can be in; above: everything. The writer at once, other
//!                                       vCPUs before their next turn
//! ```
//! What a TLB holds is then what a walk would give, with the accessed and dirty bits set: nobody can tell a hit from a
//! walk, and any flush at any time is invisible. Marks say "may": they outlive their use, until their vCPU drops all it
//! has, and decide about speed alone.

use super::bus::Bus;
use super::vcpu::Vcpu;
use super::walk::entry;
use crate::addr::GuestPhysAddr;
use crate::memory::Backing;
use crate::regs::cr4;

/// What a vCPU may hold of a RAM frame. A frame's marks are a word: a byte a kind, a bit a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Mark {
    /// Translations from the frame's entries for pages of 4 KiB.
    Leaf = 0,
    /// Translations by way of the frame's entries for tables or large pages.
    Upper = 8,
    /// Translations of fetches, along with `Leaf`.
    Fetch = 16,
    /// PAE page-directory pointers somewhere in the frame.
    Pointers = 24,
    /// Write entries for the frame.
    Write = 32,
}

/// All marks of a frame that holds page tables.
const TABLE: u64 = 0xff << Mark::Leaf as u32 | 0xff << Mark::Upper as u32 | 0xff << Mark::Pointers as u32;
/// One vCPU's marks, shifted by its number.
const ONE_VCPU: u64 = 0x01_0101_0101;
/// So many changes are worth telling apart; beyond, everything is dropped.
const MAX_CHANGES: usize = 64;
/// After so many slow stores to marked frames, some of them may be tables no more: the marks start afresh.
const MAX_SLOW_STORES: u32 = 1 << 14;

/// The marks of all frames, and what vCPUs must drop.
pub(crate) struct Tables {
    marks: Vec<u64>,
    /// Where each vCPU's PAE page-directory pointers are.
    pointers: [u64; 8],
    changes: Vec<Change>,
    /// Frames that became tables or code: write entries for them go.
    revoked: Vec<usize>,
    /// vCPUs that must drop everything.
    flush: u8,
    slow_stores: u32,
}

/// Paging entries changed; the masks are the vCPUs that must drop what came from them.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// The first and last changed, counted by 8 bytes from the frame's start.
    units: (u16, u16),
    leaf: u8,
    fetch: u8,
    upper: u8,
}

impl Mark {
    /// The first vCPU's bit.
    pub(super) const fn bit(self) -> u64 {
        1 << self as u32
    }

    /// The vCPUs that have it.
    fn of(self, marks: u64) -> u8 {
        (marks >> self as u32) as u8
    }
}

/// Whether a translation can come from an entry for a 4 KiB page in these 8 bytes: only if it is present and accessed.
/// They may be two entries of 32-bit paging.
fn leaf_in_use(unit: u64) -> bool {
    let used = entry::P | entry::A;
    unit & used == used || unit >> 32 & used == used
}

/// The same of a page-directory or a higher entry.
fn upper_in_use(unit: u64) -> bool {
    (unit | unit >> 32) & entry::P != 0
}

/// Whether translations stay what they are: rights, accessed and dirty bits are only given, or software's bits changed.
fn is_harmless(old: u64, new: u64) -> bool {
    let given = new & (entry::RW | entry::A | entry::D);
    (old ^ new) & !(given | entry::SOFTWARE) == 0
}

fn units(offset: usize, length: usize) -> std::ops::RangeInclusive<usize> {
    offset / 8..=(offset + length.max(1) - 1).min(4095) / 8
}

fn unit_of(page: Option<&[u8; 4096]>, unit: usize) -> u64 {
    page.and_then(|page| page[8 * unit..8 * unit + 8].try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl Tables {
    pub(crate) fn new(ram_frames: usize) -> Tables {
        Tables {
            marks: vec![0; ram_frames],
            pointers: [0; 8],
            changes: Vec::new(),
            revoked: Vec::new(),
            flush: 0,
            slow_stores: 0,
        }
    }

    /// Whether a frame may hold page tables: no write entry is made for it.
    pub(crate) fn may_be_table(&self, ram_frame: usize) -> bool {
        self.marks[ram_frame] & TABLE != 0
    }
}

impl Bus {
    /// Every vCPU has settled.
    pub(crate) fn settled(&mut self) {
        self.moved = 0;
        self.tables.revoked.clear();
        self.tables.changes.clear();
        self.tables.flush = 0;
        if self.tables.slow_stores > MAX_SLOW_STORES {
            self.tables.slow_stores = 0;
        }
    }

    /// Notes a write to RAM that is about to be done, all in one page: which translations it ends.
    pub(crate) fn table_written(&mut self, address: GuestPhysAddr, bytes: &[u8]) {
        let Backing::Ram(frame) = self.memory.backing(address.frame()) else {
            return;
        };
        let marks = self.tables.marks[frame];
        if marks & TABLE == 0 {
            return;
        }
        self.tables.slow_stores += 1;
        let offset = address.page_offset();
        let page = self.memory.page_bytes(frame);
        let (mut first, mut last) = (usize::MAX, 0);
        let mut change = Change {
            units: (0, 0),
            leaf: 0,
            fetch: 0,
            upper: 0,
        };
        for unit in units(offset, bytes.len()) {
            let old = unit_of(page, unit);
            let mut new = old.to_le_bytes();
            for (n, byte) in new.iter_mut().enumerate() {
                if let Some(written) = (8 * unit + n).checked_sub(offset).and_then(|at| bytes.get(at)) {
                    *byte = *written;
                }
            }
            if is_harmless(old, u64::from_le_bytes(new)) {
                continue;
            }
            let (mut leaf, mut upper) = (0, 0);
            if leaf_in_use(old) {
                leaf = Mark::Leaf.of(marks);
            }
            if upper_in_use(old) {
                upper = Mark::Upper.of(marks);
                let at = (address.0 & !0xfff) + 8 * unit as u64;
                for n in 0..8 {
                    let has = Mark::Pointers.of(marks) >> n & 1 != 0;
                    if has && self.tables.pointers[n] == at & !0x1f {
                        upper |= 1 << n;
                    }
                }
            }
            if leaf | upper != 0 {
                (first, last) = (first.min(unit), unit);
                change.leaf |= leaf;
                change.upper |= upper;
            }
        }
        if first == usize::MAX {
            return;
        }
        change.fetch = change.leaf & Mark::Fetch.of(marks);
        change.units = (first as u16, last as u16);
        // The one who writes has dropped what the earlier ones are about.
        if self.tables.changes.len() >= MAX_CHANGES {
            for change in std::mem::take(&mut self.tables.changes) {
                self.tables.flush |= change.leaf | change.upper;
            }
        }
        self.tables.changes.push(change);
    }
}

impl Vcpu {
    pub(super) fn bit(&self) -> u8 {
        1 << (self.id.0 & 7)
    }

    /// Marks the frame of a paging entry that a walk of this vCPU goes through.
    #[inline(always)]
    pub(super) fn mark_table(&mut self, bus: &mut Bus, address: u64, marks: u64) {
        // What isn't RAM doesn't change.
        if let Backing::Ram(frame) = bus.memory.backing(address >> 12) {
            let wanted = marks << (self.id.0 & 7);
            if bus.tables.marks[frame] & wanted != wanted {
                self.mark_new_table(bus, frame, wanted);
            }
        }
    }

    /// Marks the frame of a leaf entry that a fetch goes through, and the entry.
    #[inline(always)]
    pub(super) fn mark_fetch(&mut self, bus: &mut Bus, address: u64) {
        let unit = (address >> 3 & 511) as usize;
        self.tlb.fetch_units[unit / 64] |= 1 << (unit % 64);
        self.mark_table(bus, address, Mark::Leaf.bit() | Mark::Fetch.bit());
    }

    /// Marks the frame of the PAE page-directory pointers.
    pub(super) fn mark_pointers(&mut self, bus: &mut Bus, address: u64) {
        bus.tables.pointers[(self.id.0 & 7) as usize] = address & !0x1f;
        self.mark_table(bus, address, Mark::Pointers.bit());
    }

    /// Marks a frame that this vCPU gets a write entry for.
    pub(super) fn mark_written(&mut self, bus: &mut Bus, ram_frame: usize) {
        if self.tlb.marks_stale {
            self.take_back_marks(bus);
        }
        self.mark(bus, ram_frame, Mark::Write.bit() << (self.id.0 & 7));
    }

    #[cold]
    fn mark_new_table(&mut self, bus: &mut Bus, ram_frame: usize, marks: u64) {
        let known = bus.tables.may_be_table(ram_frame);
        self.mark(bus, ram_frame, marks);
        if !known {
            self.revoke_writes(bus, ram_frame);
        }
    }

    fn mark(&mut self, bus: &mut Bus, ram_frame: usize, marks: u64) {
        let all = &mut bus.tables.marks[ram_frame];
        if *all & ONE_VCPU << (self.id.0 & 7) == 0 {
            self.tlb.marked.push(ram_frame);
        }
        *all |= marks;
    }

    /// Takes away every write entry for a frame: here at once, from other vCPUs before they run.
    pub(super) fn revoke_writes(&mut self, bus: &mut Bus, ram_frame: usize) {
        let holders = Mark::Write.of(bus.tables.marks[ram_frame]);
        if holders & self.bit() != 0 {
            self.tlb.drop_writes(bus.memory.readable_page(ram_frame));
        }
        if holders & !self.bit() != 0 {
            bus.tables.revoked.push(ram_frame);
        }
    }

    /// Whether a write may change where this vCPU fetches its next instructions from. The block being executed was
    /// fetched as a whole, so such a write must be done alone.
    pub(super) fn may_move_code(&self, bus: &Bus, physical: u64, length: usize) -> bool {
        let Backing::Ram(frame) = bus.memory.backing(physical >> 12) else {
            return false;
        };
        let marks = bus.tables.marks[frame] >> (self.id.0 & 7);
        let has = |mark: Mark| marks >> mark as u32 & 1 != 0;
        let (fetch, upper) = (has(Mark::Fetch), has(Mark::Upper) || has(Mark::Pointers));
        if !fetch && !upper {
            return false;
        }
        let page = bus.memory.page_bytes(frame);
        units((physical & 0xfff) as usize, length).any(|unit| {
            let old = unit_of(page, unit);
            fetch && self.tlb.fetched_by(unit) && leaf_in_use(old) || upper && upper_in_use(old)
        })
    }

    /// Drops the pointers to pages that moved.
    pub(super) fn drop_moved(&mut self, bus: &mut Bus) {
        if bus.moved & self.bit() != 0 {
            bus.moved &= !self.bit();
            self.tlb.flush_data();
        }
    }

    /// Drops what the writes noted since the last call have made untrue.
    pub(super) fn drop_changed(&mut self, bus: &mut Bus) {
        let bit = self.bit();
        let by_8 = self.long_mode() || self.r.cr4 & cr4::PAE != 0;
        let mut flush = bus.tables.flush & bit != 0;
        let mut moved_code = false;
        bus.tables.flush &= !bit;
        for change in &mut bus.tables.changes {
            if change.upper & bit != 0 {
                flush = true;
            } else if change.leaf & bit != 0 {
                for unit in change.units.0..=change.units.1 {
                    let unit = unit as usize;
                    moved_code |= change.fetch & bit != 0 && self.tlb.fetched_by(unit);
                    let slots = if by_8 {
                        [unit, unit + 512]
                    } else {
                        [2 * unit, 2 * unit + 1]
                    };
                    for slot in slots {
                        self.tlb.drop_slot(slot);
                    }
                }
            }
            change.leaf &= !bit;
            change.upper &= !bit;
        }
        bus.tables
            .changes
            .retain(|change| change.leaf | change.upper != 0);
        if flush {
            self.flush_tlb();
        } else if moved_code {
            self.forget_jumps();
        }
    }

    /// Takes back the marks of what a flush dropped.
    pub(super) fn take_back_marks(&mut self, bus: &mut Bus) {
        self.tlb.marks_stale = false;
        self.tlb.fetch_units = [0; 8];
        let mine = ONE_VCPU << (self.id.0 & 7);
        for frame in self.tlb.marked.drain(..) {
            bus.tables.marks[frame] &= !mine;
        }
    }

    /// Drops what other vCPUs and the debugger's side made untrue: between this vCPU's instructions.
    pub(crate) fn settle(&mut self, bus: &mut Bus) {
        self.drop_moved(bus);
        for n in 0..bus.tables.revoked.len() {
            let frame = bus.tables.revoked[n];
            if Mark::Write.of(bus.tables.marks[frame]) & self.bit() != 0 {
                self.tlb.drop_writes(bus.memory.readable_page(frame));
            }
        }
        self.drop_changed(bus);
        if bus.tables.slow_stores > MAX_SLOW_STORES {
            self.flush_tlb();
        }
        if self.tlb.marks_stale {
            self.take_back_marks(bus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::VcpuId;
    use crate::devices::{Platform, PlatformConfig};
    use crate::memory::GuestMemory;
    use crate::regs::{Registers, cr0, efer};
    use std::sync::Arc;

    const TABLE: u64 = 0x4000;
    const PAGE: u64 = 0x1_0000;

    /// A vCPU in 64-bit mode with the first 2 MiB mapped to themselves by the table at `TABLE`.
    fn machine() -> (Vcpu, Bus) {
        let mut memory = GuestMemory::new(4 << 20);
        let mut put = |at: u64, entry: u64| {
            memory.write(GuestPhysAddr(at), &entry.to_le_bytes(), false);
        };
        for (at, entry) in [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, TABLE | 3)] {
            put(at, entry);
        }
        for n in 0..512 {
            put(TABLE + 8 * n, n << 12 | 3);
        }
        let (vcpus, tsc_hz) = (1, 1_000_000_000);
        let platform = Platform::new(&PlatformConfig {
            vcpus,
            tsc_hz,
            debug_exit: None,
            rtc_epoch_seconds: 0,
            acpi: false,
        });
        let bus = Bus::new(memory, platform, vcpus, tsc_hz);
        let model = crate::engine::cpuid::MODELS[0].clone();
        let mut cpu = Vcpu::new(VcpuId(0), Arc::new(model), 1);
        let mut r = Registers::at_reset(true);
        r.cr0 = cr0::PE | cr0::PG;
        r.cr3 = 0x1000;
        r.cr4 = cr4::PAE;
        r.efer = efer::LME | efer::LMA;
        cpu.load_registers(&r);
        (cpu, bus)
    }

    fn store(cpu: &mut Vcpu, bus: &mut Bus, linear: u64, value: u64) {
        assert_eq!(cpu.store::<u64>(bus, linear, value), Ok(()));
    }

    fn is_fast(cpu: &Vcpu, linear: u64) -> bool {
        cpu.tlb.read_for_write::<u64>(cpu.view, linear).is_some()
    }

    #[test]
    fn a_page_table_gets_no_write_entry_until_its_translations_are_gone() {
        let (mut cpu, mut bus) = machine();
        store(&mut cpu, &mut bus, PAGE, 1);
        store(&mut cpu, &mut bus, TABLE + 0x800, 3);
        assert!(is_fast(&cpu, PAGE));
        assert!(!is_fast(&cpu, TABLE));
        // As a page of data, when no walk goes through it any more.
        bus.write_physical(GuestPhysAddr(0x3000), &(0x83u64).to_le_bytes());
        cpu.settle(&mut bus);
        store(&mut cpu, &mut bus, TABLE + 0x800, 3);
        assert!(is_fast(&cpu, TABLE));
    }

    #[test]
    fn a_frame_that_becomes_a_table_loses_its_write_entries() {
        let (mut cpu, mut bus) = machine();
        let new = 0x8000;
        for n in 0..512 {
            store(&mut cpu, &mut bus, new + 8 * n, n << 12 | 3);
        }
        assert!(is_fast(&cpu, new));
        // The second 2 MiB by it, as the first.
        store(&mut cpu, &mut bus, 0x3008, new | 3);
        assert!(is_fast(&cpu, new), "not used yet");
        store(&mut cpu, &mut bus, 0x20_0000 + PAGE, 1);
        assert!(!is_fast(&cpu, new));
        assert!(is_fast(&cpu, 0x20_0000 + PAGE));
    }

    #[test]
    fn only_the_entry_that_changes_loses_its_translations() {
        let (mut cpu, mut bus) = machine();
        store(&mut cpu, &mut bus, PAGE, 1);
        store(&mut cpu, &mut bus, PAGE + 0x1000, 1);
        let entry = TABLE + (PAGE >> 9);
        // An entry that nothing used, and one that gets software's bits.
        store(&mut cpu, &mut bus, entry + 0x100, 0);
        store(&mut cpu, &mut bus, entry, PAGE | 0xe63);
        assert!(is_fast(&cpu, PAGE) && is_fast(&cpu, PAGE + 0x1000));
        store(&mut cpu, &mut bus, entry, PAGE | 0x23);
        assert!(!is_fast(&cpu, PAGE));
        assert!(is_fast(&cpu, PAGE + 0x1000));
    }

    #[test]
    fn what_was_a_table_is_slow_for_a_while_only() {
        let (mut cpu, mut bus) = machine();
        for n in 0..=MAX_SLOW_STORES as u64 {
            store(&mut cpu, &mut bus, TABLE + 0x800, n << 12);
        }
        assert!(bus.tables.may_be_table(TABLE as usize >> 12));
        cpu.settle(&mut bus);
        bus.settled();
        assert!(!bus.tables.may_be_table(TABLE as usize >> 12));
        assert_eq!(bus.tables.slow_stores, 0);
    }

    #[test]
    fn rights_and_bits_that_are_given_end_nothing_and_taken_ones_do() {
        for bit in [entry::RW, entry::A, entry::D, 1 << 9, 1 << 11] {
            assert!(is_harmless(0x1001, 0x1001 | bit), "{bit:#x}");
        }
        assert!(is_harmless(0x1201, 0x1001));
        for bit in [entry::P, entry::RW, entry::US, entry::A, entry::D, 1 << 12] {
            assert!(!is_harmless(0x1001 | bit, 0x1001 & !bit), "{bit:#x}");
        }
        for bit in [entry::US, entry::PS, entry::NX, 1 << 13] {
            assert!(!is_harmless(0x1001, 0x1001 | bit), "{bit:#x}");
        }
    }
}
