//! The I/O APIC: 24 pins, version 11h (82093AA datasheet; no EOI register, so every EOI is a broadcast).

use super::lapic::DeliveryMode;
use serde::{Deserialize, Serialize};

/// The page of the registers.
pub(super) const BASE: u64 = 0xfec0_0000;
/// Input pins.
pub(super) const PINS: u8 = 24;

const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;

const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Vector, delivery and destination mode, polarity, trigger, mask, destination.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// What a pin sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub(super) destination: u32,
    pub(super) logical: bool,
    pub(super) mode: DeliveryMode,
    pub(super) vector: u8,
    pub(super) level: bool,
}

/// The I/O APIC.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct IoApic {
    id: u32,
    /// IOREGSEL.
    select: u8,
    redirection: [u64; PINS as usize],
    /// Which pins are asserted. Polarity is the board's affair: a set bit is an active line.
    lines: u32,
}

impl IoApic {
    pub(super) fn new() -> Self {
        IoApic {
            id: 0,
            select: 0,
            redirection: [MASKED; PINS as usize],
            lines: 0,
        }
    }

    /// Sets the line of `pin`. True if a message is to be sent: an edge came, or a level that isn't being served.
    /// An edge on a masked pin is lost, as the datasheet says.
    pub(super) fn set_line(&mut self, pin: u8, asserted: bool) -> bool {
        if pin >= PINS {
            return false;
        }
        let bit = 1 << pin;
        let rising = asserted && self.lines & bit == 0;
        self.lines = if asserted {
            self.lines | bit
        } else {
            self.lines & !bit
        };
        let entry = self.redirection[usize::from(pin)];
        if entry & LEVEL != 0 {
            self.is_level_due(pin)
        } else {
            rising && entry & MASKED == 0
        }
    }

    /// Whether `pin` is a level-triggered, unmasked, asserted pin with no interrupt in flight.
    fn is_level_due(&self, pin: u8) -> bool {
        let entry = self.redirection[usize::from(pin)];
        entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL && self.lines >> pin & 1 != 0
    }

    /// The message that `pin` sends.
    pub(super) fn message(&self, pin: u8) -> Message {
        let entry = self.redirection[usize::from(pin % PINS)];
        Message {
            destination: (entry >> 56) as u32,
            logical: entry >> 11 & 1 != 0,
            mode: DeliveryMode::of(entry as u32),
            vector: entry as u8,
            level: entry & LEVEL != 0,
        }
    }

    /// Whether an unmasked pin sends messages that no interrupt flag holds back.
    pub(super) fn has_nmi_pin(&self) -> bool {
        (0..PINS).any(|pin| {
            let unmasked = self.redirection[usize::from(pin)] & MASKED == 0;
            unmasked && matches!(self.message(pin).mode, DeliveryMode::Nmi | DeliveryMode::Init)
        })
    }

    /// A local APIC took the message of `pin`: a level-triggered one waits for its EOI.
    pub(super) fn accepted(&mut self, pin: u8) {
        let entry = &mut self.redirection[usize::from(pin % PINS)];
        if *entry & LEVEL != 0 {
            *entry |= REMOTE_IRR;
        }
    }

    /// An EOI broadcast for `vector`. The pins to send again are those still asserted: see [`Self::due_pins`].
    pub(super) fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.redirection {
            if *entry as u8 == vector && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// The level-triggered pins that have something to send, as a bit mask.
    pub(super) fn due_pins(&self) -> u32 {
        if self.lines == 0 {
            return 0;
        }
        (0..PINS)
            .filter(|pin| self.is_level_due(*pin))
            .fold(0, |pins, pin| pins | 1 << pin)
    }

    /// Reads at `offset` of the page.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.select.into(),
            0x10 => match self.select {
                0 | 2 => self.id << 24,
                1 => VERSION,
                0x10..0x40 => {
                    let entry = self.redirection[usize::from(self.select - 0x10) / 2];
                    (entry >> (32 * (self.select & 1))) as u32
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes at `offset` of the page. Look at [`Self::due_pins`] afterwards.
    pub(super) fn write(&mut self, offset: u64, value: u32) {
        match (offset, self.select) {
            (0x00, _) => self.select = value as u8,
            (0x10, 0) => self.id = value >> 24 & 0xf,
            (0x10, select @ 0x10..0x40) => {
                let entry = &mut self.redirection[usize::from(select - 0x10) / 2];
                let shift = 32 * (select & 1);
                let written = (*entry & !(0xffff_ffff << shift)) | u64::from(value) << shift;
                *entry = (written & WRITABLE & !0x1000) | (*entry & REMOTE_IRR);
                if *entry & LEVEL == 0 {
                    // Linux ends a level interrupt on this version by switching to edge and back.
                    *entry &= !REMOTE_IRR;
                }
            }
            _ => {}
        }
    }

    /// A line for each pin that is unmasked or asserted, for a person.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("IOAPIC: id {}, lines {:06x}\n", self.id, self.lines);
        for (pin, entry) in self.redirection.iter().enumerate() {
            let asserted = self.lines >> pin & 1 != 0;
            if entry & MASKED != 0 && !asserted {
                continue;
            }
            text += &format!(
                "  pin {pin:2}: vector {:02x} {:?} {} to {} {:02x}{}{}{}\n",
                entry & 0xff,
                DeliveryMode::of(*entry as u32),
                if entry & LEVEL != 0 { "level" } else { "edge" },
                if entry >> 11 & 1 != 0 {
                    "logical"
                } else {
                    "APIC id"
                },
                entry >> 56,
                if entry & MASKED != 0 { ", masked" } else { "" },
                if asserted { ", asserted" } else { "" },
                if entry & REMOTE_IRR != 0 {
                    ", remote IRR"
                } else {
                    ""
                },
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(ioapic: &mut IoApic, pin: u8, entry: u64) {
        ioapic.write(0, u32::from(0x11 + 2 * pin));
        ioapic.write(0x10, (entry >> 32) as u32);
        ioapic.write(0, u32::from(0x10 + 2 * pin));
        ioapic.write(0x10, entry as u32);
    }

    #[test]
    fn the_registers_are_those_of_an_82093aa() {
        let mut ioapic = IoApic::new();
        ioapic.write(0, 1);
        assert_eq!(ioapic.read(0x10), 0x0017_0011);
        ioapic.write(0, 0x10);
        assert_eq!(ioapic.read(0x10), 0x0001_0000);
        ioapic.write(0x10, 0xffff_ffff);
        assert_eq!(
            ioapic.read(0x10),
            0x0001_afff,
            "read-only and reserved bits stay clear"
        );
    }

    #[test]
    fn an_edge_is_sent_once_and_lost_when_masked() {
        let mut ioapic = IoApic::new();
        assert!(!ioapic.set_line(4, true));
        program(&mut ioapic, 4, 0x0200_0000_0000_0821);
        assert!(!ioapic.set_line(4, true), "no new edge");
        ioapic.set_line(4, false);
        assert!(ioapic.set_line(4, true));
        let message = ioapic.message(4);
        assert_eq!(
            (message.vector, message.destination, message.logical),
            (0x21, 2, true)
        );
    }

    #[test]
    fn a_level_waits_for_its_eoi_and_comes_again_while_asserted() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, LEVEL | 0x59);
        assert!(ioapic.set_line(9, true));
        ioapic.accepted(9);
        assert!(!ioapic.set_line(9, true));
        assert_eq!(ioapic.due_pins(), 0);
        ioapic.end_of_interrupt(0x58);
        assert_eq!(ioapic.due_pins(), 0);
        ioapic.end_of_interrupt(0x59);
        assert_eq!(ioapic.due_pins(), 1 << 9);
        ioapic.set_line(9, false);
        assert_eq!(ioapic.due_pins(), 0);
    }

    #[test]
    fn switching_to_edge_clears_remote_irr() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, LEVEL | 0x59);
        ioapic.set_line(9, true);
        ioapic.accepted(9);
        ioapic.write(0x10, 0x1_0059);
        ioapic.write(0x10, 0x0_8059);
        assert_eq!(ioapic.due_pins(), 1 << 9);
    }
}
