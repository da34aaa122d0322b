//! One vCPU's local APIC: xAPIC registers and x2APIC MSRs (SDM vol. 3A chapter 11).
//!
//! The APIC knows nothing of its neighbours. A register write that reaches beyond it answers with an [`Effect`],
//! which `interrupts.rs` carries out.

use super::lapic_timer::{ApicTimer, TimerMode};
use super::vector_set::VectorSet;
use crate::addr::Ticks;
use serde::{Deserialize, Serialize};

/// IA32_APIC_BASE bits.
pub(super) const BASE_BSP: u64 = 1 << 8;
/// x2APIC mode.
pub(super) const BASE_EXTD: u64 = 1 << 10;
/// APIC global enable.
pub(super) const BASE_ENABLE: u64 = 1 << 11;
/// The page that the registers come up in.
pub(super) const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Bits of IA32_APIC_BASE that exist: the page address (52 bits), enable, x2APIC, BSP.
const BASE_WRITABLE: u64 = 0x000f_ffff_ffff_f000 | BASE_ENABLE | BASE_EXTD | BASE_BSP;

/// Six LVT entries, no EOI-broadcast suppression.
const VERSION: u32 = 0x0005_0014;

/// Register numbers: MMIO offset / 16, or MSR number - 0x800.
pub(super) mod register {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const RRD: u32 = 0x0c;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_ERROR: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

const TIMER: usize = 0;
const LINT0: usize = 3;
const LINT1: usize = 4;
const ERROR: usize = 5;
/// Writable bits of the LVT entries: timer, thermal, performance counters, LINT0, LINT1, error.
const LVT_WRITABLE: [u32; 6] = [
    0x0007_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];
const LVT_MASKED: u32 = 1 << 16;

const SVR_ENABLE: u32 = 1 << 8;

const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

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

    /// Reads a register; `None` if there is none of that number.
    fn read(&self, now: Ticks, number: u32) -> Option<u32> {
        use register::*;
        Some(match number {
            ID => {
                if self.is_x2apic() {
                    self.id
                } else {
                    self.id << 24
                }
            }
            register::VERSION => self::VERSION,
            TPR => self.tpr.into(),
            APR | RRD => 0,
            PPR => self.ppr().into(),
            EOI => 0,
            LDR => self.logical_id(),
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.register(number - ISR),
            TMR..IRR => self.tmr.register(number - TMR),
            IRR..ESR => self.irr.register(number - IRR),
            ESR => self.esr,
            ICR_LOW => self.icr_low,
            ICR_HIGH => self.icr_high,
            LVT_TIMER..=LVT_ERROR => self.lvt[(number - LVT_TIMER) as usize],
            INITIAL_COUNT => self.timer.initial_count(),
            CURRENT_COUNT => self.timer.current_count(now),
            DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// Writes a register that both modes have; reserved bits are ignored. `None` if there is none of that number.
    fn write(&mut self, now: Ticks, number: u32, value: u32) -> Option<Effect> {
        use register::*;
        match number {
            TPR => self.tpr = value as u8,
            EOI => return Some(self.end_of_interrupt()),
            SVR => {
                self.svr = value & 0x3ff;
                if !self.is_software_enabled() {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => self.esr = std::mem::take(&mut self.new_errors),
            LVT_TIMER..=LVT_ERROR => return Some(self.write_lvt((number - LVT_TIMER) as usize, value)),
            INITIAL_COUNT => self.timer.set_initial_count(now, value),
            DIVIDE => self.timer.set_divide(now, value),
            ID | register::VERSION | APR | PPR | RRD | ISR..ESR | CURRENT_COUNT => {}
            _ => return None,
        }
        self.update();
        Some(Effect::None)
    }

    fn write_lvt(&mut self, index: usize, value: u32) -> Effect {
        self.lvt[index] = value & LVT_WRITABLE[index];
        if !self.is_software_enabled() {
            self.lvt[index] |= LVT_MASKED;
        }
        if index == TIMER {
            self.timer.set_mode(match value >> 17 & 3 {
                1 => TimerMode::Periodic,
                2 => TimerMode::TscDeadline,
                _ => TimerMode::OneShot,
            });
        }
        self.update();
        Effect::None
    }

    fn send(&mut self, command: u32, destination: u32, wide: bool) -> Effect {
        let fixed = matches!(
            DeliveryMode::of(command),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if fixed && (command as u8) < 16 {
            self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::SendIpi {
            command,
            destination,
            wide,
        }
    }

    /// A read in the xAPIC page. The registers are 32 bits wide at 16-byte steps; what lies between reads 0.
    pub(super) fn mmio_read(&mut self, now: Ticks, offset: u64, size: u8) -> u64 {
        let all_ones = u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)));
        if !self.is_enabled() || self.is_x2apic() {
            return all_ones;
        }
        self.advance(now);
        let value = self.read(now, (offset >> 4) as u32).unwrap_or_else(|| {
            self.raise_error(ESR_ILLEGAL_REGISTER);
            0
        });
        let byte = offset as u32 & 0xf;
        if byte < 4 {
            u64::from(value) >> (8 * byte) & all_ones
        } else {
            0
        }
    }

    /// A write in the xAPIC page. Only aligned writes of 32 bits or more do anything.
    pub(super) fn mmio_write(&mut self, now: Ticks, offset: u64, size: u8, value: u64) -> Effect {
        use register::*;
        if !self.is_enabled() || self.is_x2apic() || size < 4 || offset & 0xf != 0 {
            return Effect::None;
        }
        self.advance(now);
        let value = value as u32;
        match (offset >> 4) as u32 {
            LDR => {
                self.ldr = value & 0xff00_0000;
                Effect::None
            }
            DFR => {
                self.dfr = value | 0x0fff_ffff;
                Effect::None
            }
            ICR_HIGH => {
                self.icr_high = value & 0xff00_0000;
                Effect::None
            }
            ICR_LOW => {
                self.icr_low = value & 0x000c_cfff;
                self.send(self.icr_low, self.icr_high >> 24, false)
            }
            number => self.write(now, number, value).unwrap_or_else(|| {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                Effect::None
            }),
        }
    }

    /// Reads x2APIC MSR 0x800 + `number`; `None` is #GP.
    pub(super) fn msr_read(&mut self, now: Ticks, number: u32) -> Option<u64> {
        use register::*;
        if !self.is_enabled() || !self.is_x2apic() {
            return None;
        }
        self.advance(now);
        match number {
            APR | EOI | RRD | DFR | ICR_HIGH | SELF_IPI => None,
            ICR_LOW => Some(u64::from(self.icr_high) << 32 | u64::from(self.icr_low)),
            _ => self.read(now, number).map(u64::from),
        }
    }

    /// Writes x2APIC MSR 0x800 + `number`; `None` is #GP.
    pub(super) fn msr_write(&mut self, now: Ticks, number: u32, value: u64) -> Option<Effect> {
        use register::*;
        if !self.is_enabled() || !self.is_x2apic() {
            return None;
        }
        let allowed = match number {
            TPR | SELF_IPI => 0xff,
            EOI | ESR => 0,
            SVR => 0x3ff,
            // Bit 12, the delivery status, is tolerated as set.
            ICR_LOW => 0xffff_ffff_000c_dfff,
            LVT_TIMER..=LVT_ERROR => {
                // Delivery status and remote IRR are read-only and not reserved.
                u64::from(LVT_WRITABLE[(number - LVT_TIMER) as usize] | 0x1000)
                    | if matches!(number, 0x35 | 0x36) { 0x4000 } else { 0 }
            }
            INITIAL_COUNT => 0xffff_ffff,
            DIVIDE => 0b1011,
            _ => return None,
        };
        if value & !allowed != 0 {
            return None;
        }
        self.advance(now);
        match number {
            ICR_LOW => {
                self.icr_high = (value >> 32) as u32;
                self.icr_low = value as u32 & 0x000c_cfff;
                Some(self.send(self.icr_low, self.icr_high, true))
            }
            SELF_IPI => Some(self.send(value as u32 | 1 << 18, 0, true)),
            _ => self.write(now, number, value as u32),
        }
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
    fn x2apic_mode_has_msrs_with_reserved_bits_and_no_page() {
        let mut apic = apic(0x23);
        assert_eq!(apic.msr_read(NOW, register::ID), None);
        assert_eq!(apic.set_base(DEFAULT_BASE | BASE_EXTD), None);
        apic.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_EXTD).unwrap();
        assert_eq!(apic.mmio_read(NOW, 0x20, 4), 0xffff_ffff);
        assert_eq!(apic.msr_read(NOW, register::ID), Some(0x23));
        assert_eq!(apic.msr_read(NOW, register::LDR), Some(0x2_0008));
        assert!(apic.matches(0x2_0008, true, true));
        assert!(!apic.matches(0x1_0008, true, true));
        assert_eq!(apic.msr_write(NOW, register::EOI, 1), None);
        assert_eq!(apic.msr_write(NOW, register::TPR, 0x100), None);
        assert_eq!(apic.msr_write(NOW, register::ID, 0), None);
        assert_eq!(apic.msr_read(NOW, register::SELF_IPI), None);
        assert_eq!(
            apic.set_base(DEFAULT_BASE | BASE_ENABLE),
            None,
            "x2APIC to xAPIC only through off"
        );
        apic.set_base(DEFAULT_BASE).unwrap();
        apic.set_base(DEFAULT_BASE | BASE_ENABLE).unwrap();
        assert_eq!(apic.mmio_read(NOW, 0xf0, 4), 0xff, "off and on again is a reset");
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

    #[test]
    fn errors_show_after_the_esr_is_written() {
        let mut apic = apic(1);
        apic.mmio_write(NOW, 0x370, 4, 0xfe);
        apic.mmio_write(NOW, 0x300, 4, 0x0004_0005);
        assert_eq!(apic.acknowledge(), Some(0xfe));
        assert_eq!(apic.mmio_read(NOW, 0x280, 4), 0);
        apic.mmio_write(NOW, 0x280, 4, 0);
        assert_eq!(apic.mmio_read(NOW, 0x280, 4), 0x20);
        apic.mmio_write(NOW, 0x280, 4, 0);
        assert_eq!(apic.mmio_read(NOW, 0x280, 4), 0);
    }
}
