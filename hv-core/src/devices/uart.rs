//! The 16550A UART (National Semiconductor PC16550D datasheet).
//!
//! A character leaves the moment it is written, so the transmitter is always empty, and the "transmitter empty"
//! interrupt comes again at once. Input waits in a queue in front of the receiver FIFO, which takes more as the guest
//! reads: nothing overruns. Written here and not taken from `vm-superio`, whose serial port has no MSR deltas, no
//! OUT2 gate and no FIFO trigger levels.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes of input that may wait for the guest.
pub const INPUT_LIMIT: usize = 64 * 1024;
/// Bytes of output kept for whoever takes them; when nobody does, the older half is dropped.
pub const OUTPUT_LIMIT: usize = 1024 * 1024;

const FIFO_SIZE: usize = 16;

/// Interrupt enable register: received data, transmitter empty, line status, modem status.
mod ier {
    pub const RECEIVED: u8 = 1;
    pub const TRANSMITTER_EMPTY: u8 = 2;
    pub const LINE_STATUS: u8 = 4;
    pub const MODEM_STATUS: u8 = 8;
}

/// Interrupt identification register.
mod iir {
    pub const NONE: u8 = 0x01;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const TRANSMITTER_EMPTY: u8 = 0x02;
    pub const RECEIVED: u8 = 0x04;
    pub const LINE_STATUS: u8 = 0x06;
    pub const TIMEOUT: u8 = 0x0c;
    pub const FIFO_ENABLED: u8 = 0xc0;
}

/// Line status register.
mod lsr {
    pub const DATA_READY: u8 = 0x01;
    pub const OVERRUN: u8 = 0x02;
    /// Overrun, parity, framing, break.
    pub const ERRORS: u8 = 0x1e;
    /// Transmitter holding register and shift register are empty.
    pub const EMPTY: u8 = 0x60;
}

/// Modem control register.
mod mcr {
    pub const DTR: u8 = 0x01;
    pub const RTS: u8 = 0x02;
    pub const OUT1: u8 = 0x04;
    pub const OUT2: u8 = 0x08;
    pub const LOOPBACK: u8 = 0x10;
}

/// Modem status register.
mod msr {
    pub const CTS: u8 = 0x10;
    pub const DSR: u8 = 0x20;
    pub const RING: u8 = 0x40;
    pub const DCD: u8 = 0x80;
}

const LCR_DLAB: u8 = 0x80;

/// One UART.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Uart {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// The error bits; the others are computed.
    lsr_errors: u8,
    /// The delta bits; the lines are computed.
    msr_deltas: u8,
    scratch: u8,
    divisor: u16,
    transmitter_empty_pending: bool,
    receiver: VecDeque<u8>,
    waiting: VecDeque<u8>,
    /// Not part of the machine's state: when it is taken depends on the host.
    #[serde(skip)]
    output: Vec<u8>,
}

impl Uart {
    pub(super) fn new() -> Self {
        Uart {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            lsr_errors: 0,
            msr_deltas: 0,
            scratch: 0,
            divisor: 12,
            transmitter_empty_pending: false,
            receiver: VecDeque::new(),
            waiting: VecDeque::new(),
            output: Vec::new(),
        }
    }

    /// A reset of the registers; what waits on the far ends of the wire stays.
    pub(super) fn reset(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let output = std::mem::take(&mut self.output);
        *self = Uart {
            waiting,
            output,
            ..Uart::new()
        };
        self.fill_receiver();
    }

    fn fifo_enabled(&self) -> bool {
        self.fcr & 1 != 0
    }

    fn loopback(&self) -> bool {
        self.mcr & mcr::LOOPBACK != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_enabled() { FIFO_SIZE } else { 1 }
    }

    fn trigger_level(&self) -> usize {
        if self.fifo_enabled() {
            [1, 4, 8, 14][usize::from(self.fcr >> 6)]
        } else {
            1
        }
    }

    /// Takes waiting input into the receiver. The wire is cut in loopback mode.
    fn fill_receiver(&mut self) {
        while !self.loopback() && self.receiver.len() < self.capacity() {
            let Some(byte) = self.waiting.pop_front() else {
                break;
            };
            self.receiver.push_back(byte);
        }
    }

    /// Queues input; returns how many bytes there was room for.
    pub(super) fn input(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(INPUT_LIMIT.saturating_sub(self.waiting.len()));
        self.waiting.extend(&bytes[..accepted]);
        self.fill_receiver();
        accepted
    }

    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// The identification of the pending interrupt of highest priority.
    fn interrupt_id(&self) -> u8 {
        if self.ier & ier::LINE_STATUS != 0 && self.lsr_errors != 0 {
            iir::LINE_STATUS
        } else if self.ier & ier::RECEIVED != 0 && !self.receiver.is_empty() {
            if self.receiver.len() >= self.trigger_level() {
                iir::RECEIVED
            } else {
                iir::TIMEOUT
            }
        } else if self.ier & ier::TRANSMITTER_EMPTY != 0 && self.transmitter_empty_pending {
            iir::TRANSMITTER_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.msr_deltas != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    /// The interrupt line: on a PC, OUT2 connects it, and loopback mode takes OUT2 away.
    pub(super) fn interrupt_line(&self) -> bool {
        self.mcr & mcr::OUT2 != 0 && !self.loopback() && self.interrupt_id() != iir::NONE
    }

    fn modem_lines(&self) -> u8 {
        if !self.loopback() {
            return msr::DCD | msr::DSR | msr::CTS;
        }
        let wires = [
            (mcr::RTS, msr::CTS),
            (mcr::DTR, msr::DSR),
            (mcr::OUT1, msr::RING),
            (mcr::OUT2, msr::DCD),
        ];
        wires
            .iter()
            .filter(|(from, _)| self.mcr & from != 0)
            .fold(0, |lines, (_, to)| lines | to)
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value & 0x1f;
        let after = self.modem_lines();
        let changed = (before ^ after) >> 4;
        // The ring indicator has a delta for its trailing edge only.
        let trailing_ring = before & !after & msr::RING != 0;
        self.msr_deltas |= (changed & 0b1011) | if trailing_ring { 0b0100 } else { 0 };
        self.fill_receiver();
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (self.fcr ^ value) & 1 != 0;
        if toggled || (value & 1 != 0 && value & 2 != 0) {
            self.receiver.clear();
        }
        if toggled || (value & 1 != 0 && value & 4 != 0) {
            self.transmitter_empty_pending = true;
        }
        // The other bits can be written only along with the enable bit.
        self.fcr = if value & 1 != 0 { value & 0xc9 } else { 0 };
        self.fill_receiver();
    }

    fn transmit(&mut self, byte: u8) {
        if self.loopback() {
            if self.receiver.len() < self.capacity() {
                self.receiver.push_back(byte);
            } else {
                self.lsr_errors |= lsr::OVERRUN;
            }
        } else {
            if self.output.len() >= OUTPUT_LIMIT {
                self.output.drain(..OUTPUT_LIMIT / 2);
            }
            self.output.push(byte);
        }
        self.transmitter_empty_pending = true;
    }

    /// Reads register `offset` (0 to 7).
    pub(super) fn read(&mut self, offset: u16) -> u8 {
        let dlab = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            0 if dlab => self.divisor as u8,
            0 => {
                let byte = self.receiver.pop_front().unwrap_or(0);
                self.fill_receiver();
                byte
            }
            1 if dlab => (self.divisor >> 8) as u8,
            1 => self.ier,
            2 => {
                let id = self.interrupt_id();
                if id == iir::TRANSMITTER_EMPTY {
                    self.transmitter_empty_pending = false;
                }
                id | if self.fifo_enabled() { iir::FIFO_ENABLED } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let errors = std::mem::take(&mut self.lsr_errors) & lsr::ERRORS;
                let ready = if self.receiver.is_empty() {
                    0
                } else {
                    lsr::DATA_READY
                };
                lsr::EMPTY | ready | errors
            }
            6 => self.modem_lines() | std::mem::take(&mut self.msr_deltas),
            _ => self.scratch,
        }
    }

    /// Writes register `offset` (0 to 7).
    pub(super) fn write(&mut self, offset: u16, value: u8) {
        let dlab = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            0 if dlab => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            0 => self.transmit(value),
            1 if dlab => self.divisor = (self.divisor & 0x00ff) | u16::from(value) << 8,
            1 => {
                // Enabling the interrupt while the transmitter is empty raises it.
                if value & !self.ier & ier::TRANSMITTER_EMPTY != 0 {
                    self.transmitter_empty_pending = true;
                }
                self.ier = value & 0x0f;
            }
            2 => self.write_fcr(value),
            3 => self.lcr = value,
            4 => self.write_mcr(value),
            7 => self.scratch = value,
            _ => {}
        }
    }

    /// One line for a person.
    pub(super) fn describe(&self, name: &str) -> String {
        format!(
            "UART {name}: IER {:02x} IIR {:02x} FCR {:02x} LCR {:02x} MCR {:02x}, divisor {}, receiver {} bytes, \
             {} waiting, interrupt {}\n",
            self.ier,
            self.interrupt_id(),
            self.fcr,
            self.lcr,
            self.mcr,
            self.divisor,
            self.receiver.len(),
            self.waiting.len(),
            if self.interrupt_line() { "up" } else { "down" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_8250_drivers_probe_finds_a_working_16550a() {
        let mut uart = Uart::new();
        // IER keeps its low four bits only.
        uart.write(1, 0);
        assert_eq!(uart.read(1), 0);
        uart.write(1, 0xff);
        assert_eq!(uart.read(1), 0x0f);
        uart.write(1, 0);
        // Loopback shows OUT2 and RTS as DCD and CTS.
        uart.write(4, 0x1a);
        assert_eq!(uart.read(6) & 0xf0, 0x90);
        uart.write(4, 0);
        // No EFR behind LCR 0xbf, a FIFO behind FCR 1.
        uart.write(3, 0xbf);
        uart.write(2, 0);
        uart.write(3, 0);
        uart.write(2, 1);
        assert_eq!(uart.read(2), 0xc1);
        for fcr in [1, 7, 0] {
            uart.write(2, fcr);
        }
        uart.read(6);
        assert_eq!(uart.read(6), 0xb0);
        assert_eq!(uart.read(5), 0x60);
        uart.write(7, 0x5a);
        assert_eq!(uart.read(7), 0x5a);
    }

    #[test]
    fn the_transmitter_interrupt_is_raised_a_second_time() {
        let mut uart = Uart::new();
        uart.write(1, 2);
        assert_eq!(uart.read(2), 2);
        uart.write(1, 0);
        uart.write(1, 2);
        assert_eq!(uart.read(2), 2);
        assert_eq!(uart.read(2), 1);
    }

    #[test]
    fn output_raises_the_line_again_after_iir_was_read() {
        let mut uart = Uart::new();
        uart.write(2, 0x81);
        uart.write(1, 7);
        assert!(!uart.interrupt_line(), "OUT2 gates the line");
        uart.write(4, 0x0b);
        assert!(uart.interrupt_line());
        assert_eq!(uart.read(2), 0xc2);
        assert!(!uart.interrupt_line());
        uart.write(0, b'x');
        assert!(uart.interrupt_line());
        assert_eq!(uart.take_output(), b"x");
    }

    #[test]
    fn input_beyond_the_fifo_waits_and_nothing_is_lost() {
        let mut uart = Uart::new();
        uart.write(2, 0x81);
        uart.write(4, 0x0b);
        uart.write(1, 1);
        let text: Vec<u8> = (0..100).collect();
        assert_eq!(uart.input(&text), 100);
        assert!(uart.interrupt_line());
        assert_eq!(uart.read(2), 0xc4);
        let mut got = Vec::new();
        while uart.read(5) & 1 != 0 {
            got.push(uart.read(0));
            if got.len() == 99 {
                assert_eq!(uart.read(2), 0xcc, "below the trigger level it is a timeout");
            }
        }
        assert_eq!(got, text);
        assert!(!uart.interrupt_line());
        assert_eq!(uart.input(&vec![0; INPUT_LIMIT + 100]), INPUT_LIMIT);
        assert_eq!(uart.input(&[1; 100]), 16, "room for what the FIFO took");
        assert_eq!(uart.input(&[1]), 0);
    }

    #[test]
    fn loopback_returns_what_was_sent_and_overruns() {
        let mut uart = Uart::new();
        uart.write(4, 0x10);
        uart.write(0, 0x55);
        uart.write(0, 0x66);
        assert_eq!(uart.read(5), 0x63);
        assert_eq!(uart.read(5), 0x61);
        assert_eq!(uart.read(0), 0x55);
        assert!(!uart.has_output());
    }

    #[test]
    fn output_that_nobody_takes_is_bounded() {
        let mut uart = Uart::new();
        for _ in 0..OUTPUT_LIMIT + 10 {
            uart.write(0, b'a');
        }
        assert!(uart.take_output().len() <= OUTPUT_LIMIT);
    }
}
