//! The interrupt fabric: carries lines to controllers and messages to local APICs.
//!
//! ```text
//! ISA line ─┬─► 8259 pair ──INTR──► LINT0 of vCPU 0
//!           └─► I/O APIC ──message─┐
//! ICR, self-IPI ───────────message─┴─► local APICs ──► interrupt pending, or a Signal (NMI, INIT, SIPI)
//! EOI of a level interrupt ──────────► I/O APIC
//! ```

use super::Signal;
use super::ioapic::{IoApic, Message};
use super::lapic::{DeliveryMode, Effect, LocalApic};
use super::pic::PicPair;
use crate::addr::{Ticks, VcpuId};
use serde::{Deserialize, Serialize};

/// All interrupt controllers of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Interrupts {
    pub(super) lapics: Vec<LocalApic>,
    pub(super) ioapic: IoApic,
    pub(super) pic: PicPair,
    /// What the engine has to act on.
    pub(super) signals: Vec<Signal>,
}

impl Interrupts {
    /// Whether a state that was read from a file is one that a machine of this many vCPUs can be in.
    pub(super) fn is_sound(&self, vcpus: u32, clocks_per_tick: u64) -> bool {
        let numbered = (0..).zip(&self.lapics);
        self.lapics.len() == vcpus as usize
            && numbered
                .into_iter()
                .all(|(id, lapic)| lapic.is_sound(id, clocks_per_tick))
            && self.pic.is_sound()
    }

    pub(super) fn new(vcpus: u32, clocks_per_tick: u64) -> Self {
        Interrupts {
            lapics: (0..vcpus.max(1))
                .map(|id| LocalApic::new(id, clocks_per_tick))
                .collect(),
            ioapic: IoApic::new(),
            pic: PicPair::new(),
            signals: Vec::new(),
        }
    }

    /// Sets the line of ISA interrupt `irq`, on both controllers. IRQ 0 is pin 2 of the I/O APIC.
    pub(super) fn set_irq(&mut self, irq: u8, level: bool) {
        self.pic.set_irq(irq, level);
        self.pic_changed();
        let pin = if irq == 0 { 2 } else { irq };
        if self.ioapic.set_line(pin, level) {
            self.send_pin(pin);
        }
    }

    /// A rising edge on the line of `irq`.
    pub(super) fn pulse_irq(&mut self, irq: u8) {
        self.set_irq(irq, false);
        self.set_irq(irq, true);
    }

    /// Brings LINT0 of vCPU 0 to the 8259's output.
    pub(super) fn pic_changed(&mut self) {
        let level = self.pic.output();
        let effect = self.lapics[0].set_lint0(level);
        self.carry_out(VcpuId(0), effect);
    }

    /// Sends every level-triggered pin that is due; after an EOI or a write to the I/O APIC.
    pub(super) fn send_due_pins(&mut self) {
        let mut pins = self.ioapic.due_pins();
        while pins != 0 {
            self.send_pin(pins.trailing_zeros() as u8);
            pins &= pins - 1;
        }
    }

    fn send_pin(&mut self, pin: u8) {
        let message = self.ioapic.message(pin);
        // The 8259 isn't wired through the I/O APIC: an ExtINT pin has nobody to answer its INTA.
        let fixed = matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if self.deliver(&message, false, None) && fixed {
            self.ioapic.accepted(pin);
        }
    }

    /// Delivers to all that `message` names, but `except`. True if one took it.
    fn deliver(&mut self, message: &Message, wide: bool, except: Option<VcpuId>) -> bool {
        let named = |apic: &LocalApic| {
            apic.matches(message.destination, message.logical, wide)
                && except.is_none_or(|vcpu| vcpu.0 != apic.id())
        };
        if message.mode == DeliveryMode::LowestPriority {
            // SDM 11.6.2.4; equals go to the lowest id, so that the choice is deterministic.
            let chosen = self
                .lapics
                .iter()
                .filter(|apic| apic.accepts_fixed() && named(apic))
                .min_by_key(|apic| (apic.ppr(), apic.id()))
                .map(LocalApic::id);
            return chosen.is_some_and(|id| self.deliver_to(VcpuId(id), message));
        }
        let mut taken = false;
        for index in 0..self.lapics.len() {
            if named(&self.lapics[index]) {
                taken |= self.deliver_to(VcpuId(index as u32), message);
            }
        }
        taken
    }

    fn deliver_to(&mut self, vcpu: VcpuId, message: &Message) -> bool {
        let apic = &mut self.lapics[vcpu.index()];
        if !apic.is_enabled() {
            return false;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                return apic.accept(message.vector, message.level);
            }
            DeliveryMode::Nmi => self.signals.push(Signal::Nmi(vcpu)),
            DeliveryMode::Init => {
                apic.init();
                self.signals.push(Signal::Init(vcpu));
            }
            DeliveryMode::StartUp => self.signals.push(Signal::StartUp(vcpu, message.vector)),
            // There is no system management mode.
            DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::ExtInt => return false,
        }
        true
    }

    /// Carries out what a register access of `vcpu`'s APIC asked for.
    pub(super) fn carry_out(&mut self, vcpu: VcpuId, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Nmi => self.signals.push(Signal::Nmi(vcpu)),
            Effect::EndOfLevelInterrupt(vector) => {
                self.ioapic.end_of_interrupt(vector);
                self.send_due_pins();
            }
            Effect::SendIpi {
                command,
                destination,
                wide,
            } => self.send_ipi(vcpu, command, destination, wide),
        }
    }

    fn send_ipi(&mut self, from: VcpuId, command: u32, destination: u32, wide: bool) {
        let mut message = Message {
            destination,
            logical: command >> 11 & 1 != 0,
            mode: DeliveryMode::of(command),
            vector: command as u8,
            // An IPI is always edge-triggered on these processors.
            level: false,
        };
        let (assert, level) = (command >> 14 & 1 != 0, command >> 15 & 1 != 0);
        if message.mode == DeliveryMode::Init && level && !assert {
            // INIT level de-assert: not supported since the Pentium 4, ignored.
            return;
        }
        let fixed = message.mode == DeliveryMode::Fixed;
        match command >> 18 & 3 {
            0 => {
                self.deliver(&message, wide, None);
            }
            // SDM table 11-3: only fixed interrupts may be sent to oneself by shorthand.
            1 if fixed => {
                self.deliver_to(from, &message);
            }
            2 if fixed => {
                (message.destination, message.logical) = (0xffff_ffff, false);
                self.deliver(&message, true, None);
            }
            3 => {
                (message.destination, message.logical) = (0xffff_ffff, false);
                self.deliver(&message, true, Some(from));
            }
            _ => {}
        }
    }

    /// Whether a line is wired as NMI or INIT: the 8259's output, or a pin of the I/O APIC.
    pub(super) fn has_nmi_source(&self) -> bool {
        self.ioapic.has_nmi_pin() || self.lapics.iter().any(LocalApic::has_nmi_lint0)
    }

    /// The INTA cycle of `vcpu`.
    pub(super) fn acknowledge(&mut self, vcpu: VcpuId) -> Option<u8> {
        let apic = &mut self.lapics[vcpu.index()];
        if !apic.is_pending() {
            return None;
        }
        if let Some(vector) = apic.acknowledge() {
            return Some(vector);
        }
        let vector = self.pic.acknowledge();
        self.pic_changed();
        Some(vector)
    }

    /// Lets every timer that is due by `now` expire.
    pub(super) fn advance(&mut self, now: Ticks) {
        for apic in &mut self.lapics {
            if apic.deadline() <= now {
                apic.advance(now);
            }
        }
    }

    /// The earliest deadline of all timers.
    pub(super) fn deadline(&self) -> Ticks {
        self.lapics
            .iter()
            .map(LocalApic::deadline)
            .min()
            .unwrap_or(Ticks::NEVER)
    }
}
