//! One vCPU's local APIC: xAPIC registers and x2APIC MSRs (SDM vol. 3A chapter 11).
//!
//! The APIC knows nothing of its neighbours. A register write that reaches beyond it answers with an [`Effect`],
//! which `interrupts.rs` carries out. `registers.rs` is what software sees; this file is what the APIC does.

mod registers;
mod timer;
mod vector_set;

use crate::addr::Ticks;
use crate::engine::mmu::PHYSICAL_BITS;
use serde::{Deserialize, Serialize};
use timer::ApicTimer;
use vector_set::VectorSet;

/// IA32_APIC_BASE bits.
pub(super) const BASE_BSP: u64 = 1 << 8;
/// x2APIC mode.
pub(super) const BASE_EXTD: u64 = 1 << 10;
/// APIC global enable.
pub(super) const BASE_ENABLE: u64 = 1 << 11;
/// The page that the registers come up in.
pub(super) const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Bits of IA32_APIC_BASE that exist: the page address, enable, x2APIC, BSP.
const BASE_WRITABLE: u64 = ((1 << PHYSICAL_BITS) - 0x1000) | BASE_ENABLE | BASE_EXTD | BASE_BSP;

const TIMER: usize = 0;
const LINT0: usize = 3;
const LINT1: usize = 4;
const ERROR: usize = 5;
const LVT_MASKED: u32 = 1 << 16;

const SVR_ENABLE: u32 = 1 << 8;

const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;

/// ICR bits 10:8, and the same field of an LVT or redirection entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DeliveryMode {
    Fixed,
    LowestPriority,
    Smi,
    Reserved,
    Nmi,
    Init,
    StartUp,
    ExtInt,
}

impl DeliveryMode {
    /// Decodes bits 10:8 of `entry`.
    pub(super) fn of(entry: u32) -> Self {
        match entry >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }
}

/// What a register access asks of the rest of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt was ended: tell the I/O APIC.
    EndOfLevelInterrupt(u8),
    /// The ICR was written: low word and destination (8 bits in xAPIC mode, else 32).
    SendIpi {
        command: u32,
        destination: u32,
        wide: bool,
    },
    /// Deliver an NMI to this vCPU.
    Nmi,
}

/// A local APIC.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct LocalApic {
    id: u32,
    /// IA32_APIC_BASE.
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    /// The ESR as software reads it.
    esr: u32,
    /// Errors since the ESR was last written.
    new_errors: u32,
    icr_low: u32,
    icr_high: u32,
    lvt: [u32; 6],
    timer: ApicTimer,
    /// The level of the LINT0 pin: the 8259's INTR, on vCPU 0.
    lint0: bool,
    /// When the timer has to be looked at next.
    deadline: Ticks,
    /// An interrupt of the IRR is above the processor priority.
    ready: bool,
    /// `ready`, or the 8259 requests an interrupt and the APIC lets it through.
    pending: bool,
}

impl LocalApic {
    /// Whether a state that was read from a file is one that the APIC of vCPU `id` can be in.
    pub(super) fn is_sound(&self, id: u32, clocks_per_tick: u64) -> bool {
        self.id == id
            && self.timer.clocks_per_tick() == clocks_per_tick
            && self.base & !BASE_WRITABLE == 0
            && (self.base & BASE_EXTD == 0 || self.base & BASE_ENABLE != 0)
    }

    pub(super) fn new(id: u32, clocks_per_tick: u64) -> Self {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        let mut apic = LocalApic {
            id,
            base: DEFAULT_BASE | BASE_ENABLE | bsp,
            tpr: 0,
            ldr: 0,
            dfr: 0xffff_ffff,
            svr: 0xff,
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            irr: VectorSet::default(),
            esr: 0,
            new_errors: 0,
            icr_low: 0,
            icr_high: 0,
            lvt: [LVT_MASKED; 6],
            timer: ApicTimer::new(clocks_per_tick),
            lint0: false,
            deadline: Ticks::NEVER,
            ready: false,
            pending: false,
        };
        if id == 0 {
            // Virtual wire mode, as firmware leaves it: the 8259 reaches the BSP through LINT0 as ExtINT.
            apic.lvt[LINT0] = 0x700;
        }
        apic
    }

    /// The state after an INIT: as after a reset, but the APIC base stays.
    pub(super) fn init(&mut self) {
        let (base, lint0) = (self.base, self.lint0);
        *self = LocalApic::new(self.id, self.timer.clocks_per_tick());
        self.base = base;
        self.lint0 = lint0;
        self.update();
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Writes IA32_APIC_BASE. `None` is #GP: reserved bits, or a mode change that SDM figure 11-27 doesn't have.
    pub(super) fn set_base(&mut self, value: u64) -> Option<()> {
        if value & !BASE_WRITABLE != 0 {
            return None;
        }
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_EXTD != 0);
        match (mode(self.base), mode(value)) {
            (_, (false, true)) | ((true, true), (true, false)) | ((false, _), (true, true)) => return None,
            ((true, _), (false, false)) => self.init(),
            _ => {}
        }
        // The BSP flag stays what it was at reset, so that no garbage makes two of them.
        self.base = (value & !BASE_BSP) | (self.base & BASE_BSP);
        self.update();
        Some(())
    }

    /// Enabled by IA32_APIC_BASE.
    pub(super) fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    pub(super) fn is_x2apic(&self) -> bool {
        self.base & BASE_EXTD != 0
    }

    fn is_software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    pub(super) fn deadline(&self) -> Ticks {
        self.deadline
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    pub(super) fn tpr(&self) -> u8 {
        self.tpr
    }

    pub(super) fn set_tpr(&mut self, value: u8) {
        self.tpr = value;
        self.update();
    }

    /// Processor priority: the higher of the task priority and the class in service.
    pub(super) fn ppr(&self) -> u8 {
        let serving = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= serving >> 4 {
            self.tpr
        } else {
            serving & 0xf0
        }
    }

    /// Brings the cached answers up to date; every change of state ends here.
    fn update(&mut self) {
        let enabled = self.is_enabled();
        self.ready = enabled
            && self
                .irr
                .highest()
                .is_some_and(|vector| vector >> 4 > self.ppr() >> 4);
        self.pending = self.ready || (self.lint0 && self.accepts_external());
        self.deadline = if self.lvt[TIMER] & LVT_MASKED != 0 {
            Ticks::NEVER
        } else {
            self.timer.next_expiry()
        };
    }

    /// Whether the 8259's interrupt reaches the processor as ExtINT.
    fn accepts_external(&self) -> bool {
        let lint0 = self.lvt[LINT0];
        !self.is_enabled() || (lint0 & LVT_MASKED == 0 && DeliveryMode::of(lint0) == DeliveryMode::ExtInt)
    }

    /// Whether an edge of the LINT0 pin is an NMI. Only vCPU 0's has a source.
    pub(super) fn has_nmi_lint0(&self) -> bool {
        let lint0 = self.lvt[LINT0];
        let is_nmi = lint0 & LVT_MASKED == 0 && DeliveryMode::of(lint0) == DeliveryMode::Nmi;
        self.id == 0 && self.is_enabled() && is_nmi
    }

    /// Sets the LINT0 pin.
    pub(super) fn set_lint0(&mut self, level: bool) -> Effect {
        if level == self.lint0 {
            return Effect::None;
        }
        self.lint0 = level;
        let effect = if level {
            self.local_interrupt(LINT0)
        } else {
            Effect::None
        };
        self.update();
        effect
    }

    /// A pulse on the LINT1 pin, where PCs wire the NMI.
    pub(super) fn pulse_lint1(&mut self) -> Effect {
        if !self.is_enabled() {
            return Effect::Nmi;
        }
        self.local_interrupt(LINT1)
    }

    /// Delivers what LVT entry `index` asks for.
    fn local_interrupt(&mut self, index: usize) -> Effect {
        let entry = self.lvt[index];
        if !self.is_enabled() || entry & LVT_MASKED != 0 {
            return Effect::None;
        }
        match DeliveryMode::of(entry) {
            DeliveryMode::Fixed => {
                self.accept(entry as u8, false);
                Effect::None
            }
            DeliveryMode::Nmi => Effect::Nmi,
            _ => Effect::None,
        }
    }

    /// Takes a fixed interrupt message; false if the APIC is off or the vector illegal.
    pub(super) fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.accepts_fixed() {
            return false;
        }
        if vector < 16 {
            self.raise_error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        if level {
            self.tmr.insert(vector);
        } else {
            self.tmr.remove(vector);
        }
        self.irr.insert(vector);
        self.update();
        true
    }

    /// Whether fixed interrupts are accepted at all.
    pub(super) fn accepts_fixed(&self) -> bool {
        self.is_enabled() && self.is_software_enabled()
    }

    fn raise_error(&mut self, error: u32) {
        let first = self.new_errors & error == 0;
        self.new_errors |= error;
        let entry = self.lvt[ERROR];
        // An illegal vector in the error entry itself would raise the next error: once is enough.
        if first && entry & LVT_MASKED == 0 && entry as u8 >= 16 {
            self.accept(entry as u8, false);
        }
    }

    /// The INTA of this APIC's own highest interrupt: it goes from requested to in service.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        if !self.ready {
            return None;
        }
        let vector = self.irr.highest()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.update();
        Some(vector)
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else {
            return Effect::None;
        };
        self.isr.remove(vector);
        self.update();
        if self.tmr.contains(vector) {
            Effect::EndOfLevelInterrupt(vector)
        } else {
            Effect::None
        }
    }

    /// Whether a message for `destination` is for this APIC. `wide` says that the sender gave 32 bits.
    pub(super) fn matches(&self, destination: u32, logical: bool, wide: bool) -> bool {
        if !self.is_enabled() {
            return false;
        }
        if destination == if wide { 0xffff_ffff } else { 0xff } {
            return true;
        }
        if !logical {
            return destination == self.id;
        }
        if self.is_x2apic() {
            let ldr = self.logical_id();
            return destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0;
        }
        if destination > 0xff {
            return false;
        }
        let ldr = self.ldr >> 24;
        if self.dfr >> 28 == 0xf {
            destination & ldr != 0
        } else {
            let cluster = destination >> 4;
            (cluster == 0xf || cluster == ldr >> 4) && destination & ldr & 0xf != 0
        }
    }

    /// The logical destination register; in x2APIC mode derived from the id (SDM 11.12.10.2).
    fn logical_id(&self) -> u32 {
        if self.is_x2apic() {
            (self.id >> 4) << 16 | 1 << (self.id & 0xf)
        } else {
            self.ldr
        }
    }

    /// Lets the timer expire if it is due. Call it before any access, and when the deadline comes.
    pub(super) fn advance(&mut self, now: Ticks) {
        if self.timer.expire(now) {
            let entry = self.lvt[TIMER];
            if self.is_enabled() && entry & LVT_MASKED == 0 {
                self.accept(entry as u8, false);
            }
        }
        self.update();
    }

    /// Reads IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE; a deadline in the past fires at once.
    pub(super) fn set_tsc_deadline(&mut self, now: Ticks, value: u64) {
        self.timer.set_tsc_deadline(value);
        self.advance(now);
    }

    /// One line for a person.
    pub(super) fn describe(&self) -> String {
        let mode = match (self.is_enabled(), self.is_x2apic(), self.is_software_enabled()) {
            (false, ..) => "off",
            (_, _, false) => "software-disabled",
            (_, true, _) => "x2APIC",
            _ => "xAPIC",
        };
        let entry = self.lvt[TIMER];
        let masked = if entry & LVT_MASKED != 0 { " masked" } else { "" };
        let deadline = match self.timer.next_expiry() {
            Ticks::NEVER => "stopped".to_owned(),
            at => format!("expires at tick {}", at.0),
        };
        format!(
            "LAPIC {}: {mode}, base {:#x}, TPR {:02x} PPR {:02x} LDR {:08x}, IRR {} ISR {}, timer {:?} vector \
             {:02x}{masked} {deadline}, LINT0 {:05x} LINT1 {:05x}\n",
            self.id,
            self.base & !0xfff,
            self.tpr,
            self.ppr(),
            self.logical_id(),
            self.irr.list(),
            self.isr.list(),
            self.timer.mode(),
            entry & 0xff,
            self.lvt[LINT0],
            self.lvt[LINT1],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Ticks = Ticks(1000);

    /// An APIC that software has enabled.
    fn apic(id: u32) -> LocalApic {
        let mut apic = LocalApic::new(id, 10);
        apic.mmio_write(NOW, 0xf0, 4, 0x1ff);
        apic
    }

    #[test]
    fn only_a_higher_priority_class_interrupts_the_one_in_service() {
        let mut apic = apic(1);
        assert!(apic.accept(0x55, false));
        assert_eq!(apic.acknowledge(), Some(0x55));
        apic.accept(0x5f, false);
        assert!(!apic.is_pending(), "the same class waits");
        apic.accept(0x61, false);
        assert_eq!(apic.acknowledge(), Some(0x61));
        assert_eq!(apic.ppr(), 0x60);
        apic.mmio_write(NOW, 0xb0, 4, 0);
        assert!(!apic.is_pending());
        apic.mmio_write(NOW, 0xb0, 4, 0);
        assert_eq!(apic.acknowledge(), Some(0x5f));
    }

    #[test]
    fn the_task_priority_holds_interrupts_back() {
        let mut apic = apic(1);
        apic.mmio_write(NOW, 0x80, 4, 0x60);
        apic.accept(0x6f, false);
        assert!(!apic.is_pending());
        apic.set_tpr(0x50);
        assert!(apic.is_pending());
    }

    #[test]
    fn only_a_level_interrupts_eoi_is_broadcast() {
        let mut apic = apic(1);
        apic.accept(0x40, true);
        apic.acknowledge();
        assert_eq!(
            apic.mmio_write(NOW, 0xb0, 4, 0),
            Effect::EndOfLevelInterrupt(0x40)
        );
        apic.accept(0x40, false);
        apic.acknowledge();
        assert_eq!(apic.mmio_write(NOW, 0xb0, 4, 0), Effect::None);
        assert_eq!(
            apic.mmio_write(NOW, 0xb0, 4, 0),
            Effect::None,
            "nothing in service"
        );
    }

    #[test]
    fn disabling_by_software_masks_every_lvt_entry() {
        let mut apic = apic(0);
        apic.mmio_write(NOW, 0x320, 4, 0x2_0030);
        apic.mmio_write(NOW, 0x380, 4, 1000);
        assert_ne!(apic.deadline(), Ticks::NEVER);
        apic.mmio_write(NOW, 0xf0, 4, 0xff);
        assert_eq!(apic.mmio_read(NOW, 0x320, 4), 0x3_0030);
        assert_eq!(apic.deadline(), Ticks::NEVER);
        apic.mmio_write(NOW, 0x350, 4, 0x700);
        assert_eq!(apic.mmio_read(NOW, 0x350, 4), 0x1_0700);
        assert!(!apic.accept(0x40, false));
    }

    #[test]
    fn the_timer_interrupts_on_time_and_not_while_masked() {
        let mut apic = apic(1);
        apic.mmio_write(NOW, 0x3e0, 4, 0b1011);
        apic.mmio_write(NOW, 0x320, 4, 0xec);
        apic.mmio_write(NOW, 0x380, 4, 10_000);
        assert_eq!(apic.deadline(), Ticks(2000));
        apic.advance(Ticks(1999));
        assert!(!apic.is_pending());
        apic.advance(Ticks(2000));
        assert_eq!(apic.acknowledge(), Some(0xec));
        apic.mmio_write(NOW, 0x320, 4, 0x1_00ec);
        apic.mmio_write(Ticks(3000), 0x380, 4, 10);
        assert_eq!(apic.deadline(), Ticks::NEVER);
        apic.mmio_write(Ticks(4000), 0x320, 4, 0xec);
        assert!(!apic.is_pending(), "an expiry while masked is lost");
    }

    #[test]
    fn tsc_deadline_in_the_past_fires_at_once() {
        let mut apic = apic(1);
        apic.mmio_write(NOW, 0x320, 4, 0x4_00ec);
        apic.set_tsc_deadline(NOW, 20_005);
        assert_eq!(apic.tsc_deadline(), 20_005);
        assert_eq!(apic.deadline(), Ticks(2001));
        apic.set_tsc_deadline(Ticks(1500), 15_000);
        assert!(apic.is_pending());
        assert_eq!(apic.tsc_deadline(), 0);
    }

    #[test]
    fn logical_destinations_flat_and_cluster() {
        let mut apic = apic(1);
        apic.mmio_write(NOW, 0xd0, 4, 0x0200_0000);
        assert!(apic.matches(0x03, true, false));
        assert!(!apic.matches(0x01, true, false));
        apic.mmio_write(NOW, 0xe0, 4, 0);
        apic.mmio_write(NOW, 0xd0, 4, 0x3200_0000);
        assert!(apic.matches(0x32, true, false));
        assert!(!apic.matches(0x22, true, false));
        assert!(apic.matches(0xf2, true, false), "all clusters");
        assert!(apic.matches(0xff, false, false));
    }
}
