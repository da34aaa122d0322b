//! The pair of 8259A interrupt controllers, cascaded on the master's input 2, with the ELCR of the EISA chips.

use serde::{Deserialize, Serialize};

/// The master's input that the slave drives.
const CASCADE: u8 = 2;

/// One 8259A.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Pic {
    /// Interrupt request register.
    irr: u8,
    /// Interrupt mask register.
    imr: u8,
    /// In-service register.
    isr: u8,
    /// The input lines as they are now.
    lines: u8,
    /// The input that has the highest priority (rotation).
    first_priority: u8,
    /// Bits 7:3 of the vectors, from ICW2.
    vector_base: u8,
    /// A command-port read gives the ISR and not the IRR (OCW3).
    read_isr: bool,
    /// The next read is a poll (OCW3).
    poll: bool,
    special_mask: bool,
    /// Which ICW the next data write is; 0 when initialised.
    next_icw: u8,
    expects_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    /// Edge/level control: a set bit makes the input level-triggered.
    elcr: u8,
    /// The ELCR bits that can be set.
    elcr_mask: u8,
}

impl Pic {
    fn new(elcr_mask: u8) -> Self {
        Pic {
            irr: 0,
            // Masked, as firmware leaves it: no guest takes an interrupt before it has set a vector base.
            imr: 0xff,
            isr: 0,
            lines: 0,
            first_priority: 0,
            vector_base: 0,
            read_isr: false,
            poll: false,
            special_mask: false,
            next_icw: 0,
            expects_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            elcr: 0,
            elcr_mask,
        }
    }

    fn set_line(&mut self, input: u8, level: bool) {
        let bit = 1 << (input & 7);
        if self.elcr & bit != 0 {
            self.irr = if level { self.irr | bit } else { self.irr & !bit };
        } else if level && self.lines & bit == 0 {
            self.irr |= bit;
        }
        self.lines = if level {
            self.lines | bit
        } else {
            self.lines & !bit
        };
    }

    /// The first set bit of `mask` in priority order, as (rank, input).
    fn first(&self, mask: u8) -> Option<(u8, u8)> {
        (0..8)
            .map(|rank| (rank, (rank + self.first_priority) & 7))
            .find(|(_, input)| mask >> input & 1 != 0)
    }

    /// The input that would be acknowledged now.
    fn request(&self) -> Option<u8> {
        let (rank, input) = self.first(self.irr & !self.imr)?;
        let mut blocking = self.isr;
        if self.special_mask {
            blocking &= !self.imr;
        }
        if self.special_fully_nested {
            blocking &= !(1 << CASCADE);
        }
        match self.first(blocking) {
            Some((serving, _)) if serving <= rank => None,
            _ => Some(input),
        }
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.first_priority = (input + 1) & 7;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1: the edge-sense circuit is reset, so an input must go low and high again.
            *self = Pic {
                elcr: self.elcr,
                lines: self.lines,
                ..Pic::new(self.elcr_mask)
            };
            self.imr = 0;
            self.irr = self.lines & self.elcr;
            self.expects_icw4 = value & 1 != 0;
            self.single = value & 2 != 0;
            self.next_icw = 2;
        } else if value & 8 != 0 {
            // OCW3
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let rotate = value & 0x80 != 0;
        let level = value & 7;
        match value >> 5 & 3 {
            0 => self.rotate_on_auto_eoi = rotate,
            1 => {
                // Non-specific EOI; in special mask mode a masked input's in-service bit is left alone.
                let mask = if self.special_mask {
                    self.isr & !self.imr
                } else {
                    self.isr
                };
                if let Some((_, input)) = self.first(mask) {
                    self.isr &= !(1 << input);
                    if rotate {
                        self.first_priority = (input + 1) & 7;
                    }
                }
            }
            2 => {
                if rotate {
                    self.first_priority = (level + 1) & 7;
                }
            }
            _ => {
                self.isr &= !(1 << level);
                if rotate {
                    self.first_priority = (level + 1) & 7;
                }
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.next_icw {
            2 => {
                self.vector_base = value & 0xf8;
                self.next_icw = match (self.single, self.expects_icw4) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                };
            }
            3 => self.next_icw = if self.expects_icw4 { 4 } else { 0 },
            4 => {
                self.auto_eoi = value & 2 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.next_icw = 0;
            }
            _ => self.imr = value,
        }
    }

    fn set_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_mask;
        self.irr = (self.irr & !self.elcr) | (self.lines & self.elcr);
    }
}

/// Master and slave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct PicPair {
    master: Pic,
    slave: Pic,
}

impl PicPair {
    /// Whether a state that was read from a file is one that this device can be in.
    pub(super) fn is_sound(&self) -> bool {
        [&self.master, &self.slave]
            .iter()
            .all(|pic| pic.first_priority < 8)
    }

    pub(super) fn new() -> Self {
        // IRQ 0, 1, 2, 8 and 13 are always edge-triggered.
        PicPair {
            master: Pic::new(0xf8),
            slave: Pic::new(0xde),
        }
    }

    /// Sets the input line of ISA interrupt `irq`.
    pub(super) fn set_irq(&mut self, irq: u8, level: bool) {
        if irq < 8 {
            self.master.set_line(irq, level);
        } else {
            self.slave.set_line(irq & 7, level);
            self.update_cascade();
        }
    }

    fn update_cascade(&mut self) {
        let requested = self.slave.request().is_some();
        self.master.set_line(CASCADE, requested);
        if !requested {
            // Otherwise masking a slave's input would leave a spurious IRQ 15 behind.
            self.master.irr &= !(1 << CASCADE);
        }
    }

    /// The INTR output.
    pub(super) fn output(&self) -> bool {
        self.master.request().is_some()
    }

    /// The INTA cycles: the vector of the interrupt with the highest priority; a spurious IRQ 7 if it went away.
    pub(super) fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.request() else {
            return self.master.vector_base + 7;
        };
        self.master.acknowledge(input);
        if input != CASCADE {
            return self.master.vector_base + input;
        }
        let vector = match self.slave.request() {
            Some(input) => {
                self.slave.acknowledge(input);
                self.slave.vector_base + input
            }
            None => self.slave.vector_base + 7,
        };
        self.master.set_line(CASCADE, false);
        self.update_cascade();
        vector
    }

    /// Reads port 0x20, 0x21, 0xa0 or 0xa1.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        let pic = if port < 0xa0 {
            &mut self.master
        } else {
            &mut self.slave
        };
        if std::mem::take(&mut pic.poll) {
            // A poll acknowledges what it reports.
            let answer = pic.request().map_or(0, |input| {
                pic.acknowledge(input);
                input | 0x80
            });
            self.update_cascade();
            return answer;
        }
        match (port & 1, pic.read_isr) {
            (1, _) => pic.imr,
            (_, true) => pic.isr,
            (_, false) => pic.irr,
        }
    }

    /// Writes port 0x20, 0x21, 0xa0 or 0xa1.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        let pic = if port < 0xa0 {
            &mut self.master
        } else {
            &mut self.slave
        };
        if port & 1 == 0 {
            pic.write_command(value);
        } else {
            pic.write_data(value);
        }
        self.update_cascade();
    }

    /// Reads ELCR port 0x4d0 or 0x4d1.
    pub(super) fn read_elcr(&self, port: u16) -> u8 {
        if port & 1 == 0 {
            self.master.elcr
        } else {
            self.slave.elcr
        }
    }

    /// Writes ELCR port 0x4d0 or 0x4d1.
    pub(super) fn write_elcr(&mut self, port: u16, value: u8) {
        if port & 1 == 0 {
            self.master.set_elcr(value);
        } else {
            self.slave.set_elcr(value);
        }
        self.update_cascade();
    }

    /// Two lines for a person.
    pub(super) fn describe(&self) -> String {
        let one = |name: &str, pic: &Pic| {
            format!(
                "PIC {name}: vectors {:02x}+, IRR {:08b} IMR {:08b} ISR {:08b} ELCR {:02x}{}\n",
                pic.vector_base,
                pic.irr,
                pic.imr,
                pic.isr,
                pic.elcr,
                if pic.auto_eoi { " auto-EOI" } else { "" }
            )
        };
        one("master", &self.master) + &one("slave", &self.slave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised(icw4: u8) -> PicPair {
        let mut pic = PicPair::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, icw4),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, icw4),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn nothing_is_delivered_before_initialisation() {
        let mut pic = PicPair::new();
        pic.set_irq(0, true);
        assert!(!pic.output());
    }

    #[test]
    fn a_lower_input_waits_for_the_eoi_of_a_higher_one() {
        let mut pic = initialised(1);
        pic.set_irq(4, true);
        pic.set_irq(3, true);
        assert_eq!(pic.acknowledge(), 0x33);
        assert!(!pic.output());
        pic.set_irq(1, true);
        assert_eq!(pic.acknowledge(), 0x31, "IRQ 1 preempts IRQ 3");
        pic.write(0x20, 0x20);
        assert!(!pic.output(), "IRQ 3 is still in service");
        pic.write(0x20, 0x63);
        assert_eq!(pic.acknowledge(), 0x34);
    }

    #[test]
    fn the_slave_comes_through_input_2() {
        let mut pic = initialised(1);
        pic.set_irq(8, true);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x38);
        pic.set_irq(12, true);
        assert!(!pic.output());
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x3c);
    }

    #[test]
    fn auto_eoi_lets_every_slave_interrupt_through() {
        let mut pic = initialised(3);
        pic.set_irq(8, true);
        pic.set_irq(9, true);
        assert_eq!(pic.acknowledge(), 0x38);
        assert_eq!(pic.acknowledge(), 0x39);
        assert!(!pic.output());
    }

    #[test]
    fn an_acknowledge_without_a_request_is_a_spurious_irq_7() {
        let mut pic = initialised(1);
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0, "and sets no in-service bit");
    }

    #[test]
    fn masks_hold_an_edge_and_level_inputs_follow_the_line() {
        let mut pic = initialised(1);
        pic.write(0x21, 0xff);
        assert_eq!(pic.read(0x21), 0xff);
        pic.set_irq(4, true);
        pic.set_irq(4, false);
        assert!(!pic.output());
        pic.write(0x21, 0xfb & !0x10);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(0x20, 0x20);
        pic.write_elcr(0x4d0, 0xff);
        assert_eq!(
            pic.read_elcr(0x4d0),
            0xf8,
            "the timer, keyboard and cascade stay edge-triggered"
        );
        pic.set_irq(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.write(0x20, 0x20);
        assert!(pic.output(), "the line is still up");
        pic.set_irq(4, false);
        assert!(!pic.output());
    }

    #[test]
    fn a_poll_acknowledges() {
        let mut pic = initialised(1);
        pic.set_irq(5, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x85);
        assert!(!pic.output());
    }
}
