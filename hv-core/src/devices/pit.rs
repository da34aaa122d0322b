//! The 8254 interval timer, and port 0x61, which gates its channel 2.
//!
//! Its clock is a fixed grid over virtual time, so a periodic channel never drifts. A new count in the periodic modes
//! takes effect at once and not at the end of the running period.

use super::clock::{cycles_at, first_tick_at};
use crate::addr::Ticks;
use serde::{Deserialize, Serialize};

/// The input clock.
pub(super) const HZ: u64 = 1_193_182;

/// The refresh toggle of port 0x61 changes after this many clocks (15 microseconds).
const REFRESH_CLOCKS: u64 = 18;

/// One counter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Channel {
    /// 0 to 5.
    mode: u8,
    bcd: bool,
    /// Control word bits 5:4: 1 low byte, 2 high byte, 3 both.
    access: u8,
    /// The initial count, in clocks: 1 to 0x10000.
    count: u32,
    /// The guest has written a control word; before that the channel runs but is wired nowhere.
    programmed: bool,
    /// A count was written since the control word.
    loaded: bool,
    /// Counting has begun; in modes 1 and 5 only a gate edge does that.
    started: bool,
    /// The clock at which the count began.
    start: u64,
    /// The clocks that had passed when the gate stopped the count.
    frozen: Option<u64>,
    gate: bool,
    /// The low byte of a count whose high byte is still to come.
    low_byte: Option<u8>,
    /// The next read is the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Channel {
            mode: 3,
            bcd: false,
            access: 3,
            count: 0x1_0000,
            programmed: false,
            loaded: true,
            started: true,
            start: 0,
            frozen: None,
            gate,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn is_gate_triggered(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    /// Clocks since the count began.
    fn elapsed(&self, clock: u64) -> Option<u64> {
        (self.loaded && self.started).then(|| self.frozen.unwrap_or_else(|| clock.saturating_sub(self.start)))
    }

    /// The OUT pin.
    fn out(&self, clock: u64) -> bool {
        let count = u64::from(self.count);
        match (self.elapsed(clock), self.mode) {
            (None, 0) => false,
            (None, _) => true,
            (Some(elapsed), 0 | 1) => elapsed >= count,
            (Some(_), 2 | 3) if self.frozen.is_some() => true,
            (Some(elapsed), 2) => count == 1 || elapsed % count != count - 1,
            (Some(elapsed), 3) => elapsed % count < count.div_ceil(2),
            (Some(elapsed), _) => elapsed != count,
        }
    }

    /// The clock after `clock` at which OUT rises next.
    fn next_rise(&self, clock: u64) -> Option<u64> {
        if self.frozen.is_some() || !self.programmed {
            return None;
        }
        let elapsed = self.elapsed(clock)?;
        let count = u64::from(self.count);
        let at = match self.mode {
            0 | 1 => count,
            2 | 3 => (elapsed / count + 1) * count,
            _ => count + 1,
        };
        (at > elapsed).then(|| self.start.saturating_add(at))
    }

    /// The counting element, as a read would show it.
    fn counter(&self, clock: u64) -> u16 {
        let count = u64::from(self.count);
        let elapsed = self.elapsed(clock).unwrap_or(0);
        let left = match self.mode {
            2 => count - elapsed % count,
            3 => count - elapsed.wrapping_mul(2) % count,
            _ => {
                let range = if self.bcd { 10_000 } else { 0x1_0000 };
                (count + range - elapsed % range) % range
            }
        };
        if self.bcd {
            to_bcd(left as u32)
        } else {
            left as u16
        }
    }

    fn status(&self, clock: u64) -> u8 {
        u8::from(self.programmed && self.out(clock)) << 7
            | u8::from(!self.loaded) << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    fn control(&mut self, value: u8) {
        self.access = value >> 4 & 3;
        // Modes 6 and 7 are 2 and 3.
        self.mode = match value >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        self.bcd = value & 1 != 0;
        self.programmed = true;
        self.loaded = false;
        self.started = false;
        self.frozen = None;
        self.low_byte = None;
        self.read_high = false;
    }

    fn latch_count(&mut self, clock: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.counter(clock));
            self.read_high = false;
        }
    }

    fn write(&mut self, clock: u64, value: u8) {
        let count = match (self.access, self.low_byte.take()) {
            (1, _) => u16::from(value),
            (2, _) => u16::from(value) << 8,
            (_, Some(low)) => u16::from(value) << 8 | u16::from(low),
            (_, None) => {
                self.low_byte = Some(value);
                return;
            }
        };
        self.count = match (count, self.bcd) {
            (0, true) => 10_000,
            (0, false) => 0x1_0000,
            (_, true) => from_bcd(count).max(1),
            (_, false) => u32::from(count),
        };
        self.loaded = true;
        if !self.is_gate_triggered() {
            self.started = true;
            self.start = clock;
            self.frozen = (!self.gate).then_some(0);
        }
    }

    fn read(&mut self, clock: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched_count.unwrap_or_else(|| self.counter(clock));
        let high = match self.access {
            1 => false,
            2 => true,
            _ => self.read_high,
        };
        self.read_high = self.access == 3 && !high;
        if !self.read_high {
            self.latched_count = None;
        }
        if high { (value >> 8) as u8 } else { value as u8 }
    }

    fn set_gate(&mut self, clock: u64, gate: bool) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        if rising {
            if self.is_gate_triggered() || self.is_periodic() {
                self.start = clock;
                self.started = self.loaded;
            } else {
                self.start = clock.saturating_sub(self.frozen.unwrap_or(0));
            }
            self.frozen = None;
        } else if falling && !self.is_gate_triggered() {
            self.frozen = if self.is_periodic() {
                Some(0)
            } else {
                self.elapsed(clock)
            };
        }
    }
}

fn from_bcd(value: u16) -> u32 {
    [12, 8, 4, 0]
        .iter()
        .fold(0, |sum, shift| sum * 10 + u32::from(value >> shift & 0xf))
}

fn to_bcd(value: u32) -> u16 {
    [1000, 100, 10, 1]
        .iter()
        .fold(0, |bcd, unit| bcd << 4 | (value / unit % 10) as u16)
}

/// What became of the IRQ 0 line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Irq0 {
    /// It rose at least once.
    pub(super) rose: bool,
    /// Its level now.
    pub(super) level: bool,
}

/// The three channels and port 0x61.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Pit {
    channels: [Channel; 3],
    /// The writable bits of port 0x61: gate, speaker, and two check enables.
    port_61: u8,
    deadline: Ticks,
}

impl Pit {
    /// Whether a state that was read from a file is one that this device can be in.
    pub(super) fn is_sound(&self) -> bool {
        self.channels
            .iter()
            .all(|channel| channel.mode <= 5 && (1..=0x1_0000).contains(&channel.count))
    }

    pub(super) fn new() -> Self {
        Pit {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port_61: 0,
            deadline: Ticks::NEVER,
        }
    }

    /// When OUT of channel 0 rises next.
    pub(super) fn deadline(&self) -> Ticks {
        self.deadline
    }

    fn find_deadline(&mut self, clock: u64) {
        let rise = self.channels[0].next_rise(clock);
        self.deadline = rise.map_or(Ticks::NEVER, |rise| first_tick_at(rise, HZ));
    }

    /// Lets channel 0 run on to `now`. Call it before any access, and when the deadline comes.
    pub(super) fn advance(&mut self, now: Ticks) -> Irq0 {
        let clock = cycles_at(now, HZ);
        let rose = self.deadline <= now;
        if rose {
            self.find_deadline(clock);
        }
        Irq0 {
            rose,
            level: self.channels[0].programmed && self.channels[0].out(clock),
        }
    }

    /// Reads port 0x40 to 0x43.
    pub(super) fn read(&mut self, now: Ticks, port: u16) -> u8 {
        let clock = cycles_at(now, HZ);
        match self.channels.get_mut(usize::from(port & 3)) {
            Some(channel) => channel.read(clock),
            None => 0xff,
        }
    }

    /// Writes port 0x40 to 0x43; [`Self::advance`] tells the line afterwards.
    pub(super) fn write(&mut self, now: Ticks, port: u16, value: u8) {
        let clock = cycles_at(now, HZ);
        match self.channels.get_mut(usize::from(port & 3)) {
            Some(channel) => channel.write(clock, value),
            None => self.write_control(clock, value),
        }
        self.find_deadline(clock);
    }

    fn write_control(&mut self, clock: u64, value: u8) {
        match (self.channels.get_mut(usize::from(value >> 6)), value >> 4 & 3) {
            (Some(channel), 0) => channel.latch_count(clock),
            (Some(channel), _) => channel.control(value),
            (None, _) => {
                // Read-back: bits 5 and 4 are active low.
                for (number, channel) in self.channels.iter_mut().enumerate() {
                    if value >> (number + 1) & 1 == 0 {
                        continue;
                    }
                    if value & 0x20 == 0 {
                        channel.latch_count(clock);
                    }
                    if value & 0x10 == 0 && channel.latched_status.is_none() {
                        channel.latched_status = Some(channel.status(clock));
                    }
                }
            }
        }
    }

    /// Reads port 0x61.
    pub(super) fn read_port_61(&self, now: Ticks) -> u8 {
        let clock = cycles_at(now, HZ);
        let refresh = (clock / REFRESH_CLOCKS % 2) as u8;
        self.port_61 | refresh << 4 | u8::from(self.channels[2].out(clock)) << 5
    }

    /// Writes port 0x61.
    pub(super) fn write_port_61(&mut self, now: Ticks, value: u8) {
        self.port_61 = value & 0x0f;
        self.channels[2].set_gate(cycles_at(now, HZ), value & 1 != 0);
    }

    /// A line for each channel, for a person.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for (number, channel) in self.channels.iter().enumerate().filter(|(_, c)| c.programmed) {
            text += &format!(
                "PIT channel {number}: mode {}, count {:#x}{}{}\n",
                channel.mode,
                channel.count,
                if channel.loaded { "" } else { ", not loaded" },
                if channel.gate { "" } else { ", gate closed" },
            );
        }
        if self.deadline != Ticks::NEVER {
            text += &format!("PIT: IRQ 0 rises at tick {}\n", self.deadline.0);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first tick of PIT clock `clock`.
    fn at(clock: u64) -> Ticks {
        first_tick_at(clock, HZ)
    }

    fn program(pit: &mut Pit, now: Ticks, channel: u8, mode: u8, count: u16) {
        pit.write(now, 0x43, channel << 6 | 0x30 | mode << 1);
        pit.write(now, 0x40 + u16::from(channel), count as u8);
        pit.write(now, 0x40 + u16::from(channel), (count >> 8) as u8);
    }

    fn count(pit: &mut Pit, now: Ticks, channel: u16) -> u16 {
        let low = pit.read(now, 0x40 + channel);
        u16::from(pit.read(now, 0x40 + channel)) << 8 | u16::from(low)
    }

    #[test]
    fn mode_0_counts_down_and_raises_irq_0_once() {
        let mut pit = Pit::new();
        program(&mut pit, at(50), 0, 0, 1000);
        assert_eq!(
            pit.advance(at(50)),
            Irq0 {
                rose: false,
                level: false
            }
        );
        assert_eq!(count(&mut pit, at(51), 0), 999);
        assert_eq!(pit.deadline(), at(1050));
        assert_eq!(
            pit.advance(at(1050)),
            Irq0 {
                rose: true,
                level: true
            }
        );
        assert_eq!(pit.deadline(), Ticks::NEVER);
        assert_eq!(count(&mut pit, at(1051), 0), 0xffff, "it goes on counting");
    }

    #[test]
    fn mode_2_rises_every_period_in_phase() {
        let mut pit = Pit::new();
        program(&mut pit, at(7), 0, 2, 4773);
        for n in 1..1000 {
            assert_eq!(pit.deadline(), at(7 + n * 4773));
            let now = pit.deadline();
            assert!(pit.advance(now).rose);
        }
        assert_eq!(count(&mut pit, at(7 + 4773 * 2000 + 1), 0), 4772);
        assert!(pit.advance(at(7 + 4773 * 2000 + 100)).rose, "late");
        assert_eq!(pit.deadline(), at(7 + 4773 * 2001));
    }

    #[test]
    fn mode_3_is_a_square_wave_that_counts_by_two() {
        let mut pit = Pit::new();
        program(&mut pit, Ticks(0), 0, 3, 1000);
        assert!(pit.advance(at(499)).level);
        assert!(!pit.advance(at(500)).level);
        assert_eq!(count(&mut pit, at(100), 0), 800);
        assert_eq!(count(&mut pit, at(600), 0), 800);
        assert_eq!(pit.deadline(), at(1000));
    }

    #[test]
    fn channel_2_counts_while_its_gate_is_open() {
        let mut pit = Pit::new();
        program(&mut pit, at(0), 2, 0, 0xffff);
        assert_eq!(count(&mut pit, at(100), 2), 0xffff);
        pit.write_port_61(at(100), 1);
        assert_eq!(count(&mut pit, at(300), 2), 0xffff - 200);
        pit.write_port_61(at(300), 0);
        pit.write_port_61(at(1000), 1);
        assert_eq!(count(&mut pit, at(1001), 2), 0xffff - 201);
        assert_eq!(pit.read_port_61(at(1001)) & 0x21, 0x01);
        assert_eq!(pit.read_port_61(at(1000 + 0xffff)) & 0x21, 0x21);
    }

    #[test]
    fn a_gate_edge_starts_a_one_shot() {
        let mut pit = Pit::new();
        program(&mut pit, at(0), 2, 1, 100);
        assert_eq!(pit.read_port_61(at(500)) & 0x20, 0x20);
        pit.write_port_61(at(500), 1);
        assert_eq!(pit.read_port_61(at(599)) & 0x20, 0);
        assert_eq!(pit.read_port_61(at(600)) & 0x20, 0x20);
    }

    #[test]
    fn a_latched_count_holds_until_both_bytes_are_read() {
        let mut pit = Pit::new();
        program(&mut pit, at(0), 0, 2, 0x8000);
        pit.write(at(0x100), 0x43, 0x00);
        assert_eq!(pit.read(at(0x500), 0x40), 0x00);
        assert_eq!(pit.read(at(0x900), 0x40), 0x7f);
        assert_eq!(count(&mut pit, at(0x900), 0), 0x7700);
    }

    #[test]
    fn read_back_gives_status_then_count() {
        let mut pit = Pit::new();
        pit.write(at(0), 0x43, 0x34);
        pit.write(at(0), 0x43, 0xe2);
        assert_eq!(
            pit.read(at(0), 0x40),
            0xf4,
            "OUT, null count, word access, mode 2"
        );
        pit.write(at(0), 0x40, 0x10);
        pit.write(at(0), 0x40, 0x00);
        pit.write(at(1), 0x43, 0xc2);
        assert_eq!(pit.read(at(1), 0x40), 0xb4);
        assert_eq!(count(&mut pit, at(9), 0), 0x0f);
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let mut pit = Pit::new();
        pit.write(at(0), 0x43, 0x31);
        pit.write(at(0), 0x40, 0x00);
        pit.write(at(0), 0x40, 0x10);
        assert_eq!(count(&mut pit, at(1), 0), 0x0999);
        assert_eq!(pit.deadline(), at(1000));
    }

    #[test]
    fn the_refresh_toggle_toggles() {
        let pit = Pit::new();
        assert_ne!(pit.read_port_61(at(0)) & 0x10, pit.read_port_61(at(18)) & 0x10);
    }
}
