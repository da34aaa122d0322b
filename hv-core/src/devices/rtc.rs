//! The MC146818A real-time clock with its CMOS RAM.
//!
//! The date is virtual time plus an offset, so it starts at the configured epoch and runs deterministically.
//! "Update in progress" is never seen set: the registers change between two instructions.

use super::clock::{cycles_at, first_tick_at};
use crate::addr::Ticks;
use serde::{Deserialize, Serialize};

const SECOND: i128 = Ticks::PER_SECOND as i128;
/// The periodic interrupt divides this clock.
const OSCILLATOR_HZ: u64 = 32_768;

/// Register numbers.
mod register {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const DAY_OF_WEEK: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    pub const CENTURY: u8 = 0x32;
}
pub(super) use register::CENTURY;

/// Register B: stop updates, interrupt enables (the positions of register C's flags), binary mode, 24-hour mode.
const B_SET: u8 = 0x80;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE_ENDED: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
/// Register C: the interrupt request line.
const C_IRQF: u8 = 0x80;

/// A date and time of day in plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct DateTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl DateTime {
    /// From seconds since 1970, by the proleptic Gregorian calendar; years 0 to 9999.
    fn from_seconds(seconds: i128) -> Self {
        let days = seconds.div_euclid(86_400) + 719_468;
        let time = seconds.rem_euclid(86_400) as u32;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + i128::from(month <= 2);
        DateTime {
            year: year.rem_euclid(10_000) as u16,
            month: month as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    fn days(self) -> i128 {
        let (month, day) = (i128::from(self.month), i128::from(self.day));
        let year = i128::from(self.year) - i128::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    fn seconds(self) -> i128 {
        self.days() * 86_400
            + i128::from(self.hour) * 3600
            + i128::from(self.minute) * 60
            + i128::from(self.second)
    }

    /// 1 is Sunday.
    fn day_of_week(self) -> u8 {
        ((self.days() + 4).rem_euclid(7) + 1) as u8
    }
}

/// The clock and its RAM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Rtc {
    index: u8,
    /// 128 bytes; the clock's own registers in it are not used, but for the alarm.
    ram: Vec<u8>,
    a: u8,
    b: u8,
    /// The flags of register C, without IRQF.
    flags: u8,
    /// The date in ticks since 1970 is virtual time plus this.
    offset: i128,
    /// The date while updates are stopped.
    stopped_at: Option<DateTime>,
    /// Until when the flags have been worked out.
    checked: Ticks,
    deadline: Ticks,
}

impl Rtc {
    /// Whether a state that was read from a file is one that this device can be in.
    pub(super) fn is_sound(&self) -> bool {
        // Ten thousand years either way: a date has four digits.
        self.ram.len() == 128 && self.offset.abs() <= SECOND * 86_400 * 366 * 10_000
    }

    pub(super) fn new(epoch_seconds: u64) -> Self {
        Rtc {
            index: 0,
            ram: vec![0; 128],
            a: 0x26,
            b: B_24_HOURS,
            flags: 0,
            offset: i128::from(epoch_seconds) * SECOND,
            stopped_at: None,
            checked: Ticks(0),
            deadline: Ticks::NEVER,
        }
    }

    /// A machine reset: the battery keeps date and RAM; the interrupts are disabled.
    pub(super) fn reset(&mut self) {
        self.b &= !(PERIODIC | ALARM | UPDATE_ENDED);
        self.flags = 0;
        self.index = 0;
        self.deadline = Ticks::NEVER;
    }

    pub(super) fn deadline(&self) -> Ticks {
        self.deadline
    }

    /// The IRQ 8 line.
    pub(super) fn interrupt_line(&self) -> bool {
        self.flags & self.b != 0
    }

    /// Seconds since 1970, whole ones.
    fn seconds(&self, now: Ticks) -> i128 {
        (i128::from(now.0) + self.offset).div_euclid(SECOND)
    }

    /// The tick at which second `seconds` begins, if it is still to come and can be reached.
    fn tick_of_second(&self, seconds: i128) -> Ticks {
        u64::try_from(seconds * SECOND - self.offset).map_or(Ticks::NEVER, Ticks)
    }

    fn date(&self, now: Ticks) -> DateTime {
        self.stopped_at
            .unwrap_or_else(|| DateTime::from_seconds(self.seconds(now)))
    }

    /// log2 of the oscillator cycles in a period of the periodic interrupt; `None` if it is off.
    fn period_shift(&self) -> Option<u32> {
        match u32::from(self.a & 0xf) {
            0 => None,
            // Rates 1 and 2 are 256 and 128 Hz, as 8 and 9.
            rate @ 1..=2 => Some(rate + 6),
            rate => Some(rate - 1),
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & 0x7f) % 12;
        if value & 0x80 != 0 { hour + 12 } else { hour }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    /// The first second after `after` that the alarm registers match; 0xc0 and up matches all.
    fn next_alarm(&self, after: i128) -> Option<i128> {
        let field = |register: u8, hour: bool| {
            let value = self.ram[usize::from(register)];
            match (value >= 0xc0, hour) {
                (true, _) => None,
                (_, true) => Some(self.decode_hour(value)),
                (_, false) => Some(self.decode(value)),
            }
        };
        let hour = field(register::HOURS_ALARM, true);
        let minute = field(register::MINUTES_ALARM, false);
        let second = field(register::SECONDS_ALARM, false);
        // The first time of day at or after `from` that matches.
        let first = |from: u32| {
            let (from_hour, from_minute, from_second) = (from / 3600, from / 60 % 60, from % 60);
            let fits = |wanted: Option<u8>, value: u32| wanted.is_none_or(|w| u32::from(w) == value);
            (from_hour..24).filter(|h| fits(hour, *h)).find_map(|h| {
                let minutes = if h == from_hour { from_minute } else { 0 };
                (minutes..60).filter(|m| fits(minute, *m)).find_map(|m| {
                    let seconds = if (h, m) == (from_hour, from_minute) {
                        from_second
                    } else {
                        0
                    };
                    (seconds..60)
                        .find(|s| fits(second, *s))
                        .map(|s| h * 3600 + m * 60 + s)
                })
            })
        };
        let start = after + 1;
        let midnight = start.div_euclid(86_400) * 86_400;
        match first((start - midnight) as u32) {
            Some(time) => Some(midnight + i128::from(time)),
            None => first(0).map(|time| midnight + 86_400 + i128::from(time)),
        }
    }

    /// Sets the flags of everything that happened since the last look, and finds the next deadline.
    pub(super) fn advance(&mut self, now: Ticks) {
        if now > self.checked {
            if let Some(shift) = self.period_shift() {
                let periods = |at| cycles_at(at, OSCILLATOR_HZ) >> shift;
                if periods(now) != periods(self.checked) {
                    self.flags |= PERIODIC;
                }
            }
            let before = self.seconds(self.checked);
            if self.stopped_at.is_none() && self.seconds(now) != before {
                self.flags |= UPDATE_ENDED;
                if self.next_alarm(before).is_some_and(|at| at <= self.seconds(now)) {
                    self.flags |= ALARM;
                }
            }
            self.checked = now;
        }
        self.find_deadline(now);
    }

    fn find_deadline(&mut self, now: Ticks) {
        self.deadline = Ticks::NEVER;
        // While the line is up another flag changes nothing that can be seen without reading.
        if self.interrupt_line() {
            return;
        }
        if self.b & PERIODIC != 0
            && let Some(shift) = self.period_shift()
        {
            let next = (cycles_at(now, OSCILLATOR_HZ) >> shift).saturating_add(1);
            let cycles = u64::try_from(u128::from(next) << shift).unwrap_or(u64::MAX);
            self.deadline = first_tick_at(cycles, OSCILLATOR_HZ);
        }
        if self.stopped_at.is_some() {
            return;
        }
        let second = self.seconds(now);
        if self.b & UPDATE_ENDED != 0 {
            self.deadline = self.deadline.min(self.tick_of_second(second + 1));
        }
        if self.b & ALARM != 0
            && let Some(alarm) = self.next_alarm(second)
        {
            self.deadline = self.deadline.min(self.tick_of_second(alarm));
        }
    }

    /// Reads port 0x70 or 0x71.
    pub(super) fn read(&mut self, now: Ticks, port: u16) -> u8 {
        if port & 1 == 0 {
            return 0xff;
        }
        self.advance(now);
        let date = self.date(now);
        match self.index {
            register::SECONDS => self.encode(date.second),
            register::MINUTES => self.encode(date.minute),
            register::HOURS => self.encode_hour(date.hour),
            register::DAY_OF_WEEK => date.day_of_week(),
            register::DAY => self.encode(date.day),
            register::MONTH => self.encode(date.month),
            register::YEAR => self.encode((date.year % 100) as u8),
            register::CENTURY => self.encode((date.year / 100) as u8),
            register::A => self.a,
            register::B => self.b,
            register::C => {
                let irq = if self.interrupt_line() { C_IRQF } else { 0 };
                let flags = std::mem::take(&mut self.flags);
                self.find_deadline(now);
                flags | irq
            }
            // Valid RAM and time.
            register::D => 0x80,
            index => self.ram[usize::from(index & 0x7f)],
        }
    }

    /// Writes port 0x70 or 0x71.
    pub(super) fn write(&mut self, now: Ticks, port: u16, value: u8) {
        if port & 1 == 0 {
            // Bit 7 is the NMI mask of the board.
            self.index = value & 0x7f;
            return;
        }
        self.advance(now);
        match self.index {
            register::SECONDS..=register::YEAR | register::CENTURY
                if !matches!(
                    self.index,
                    register::SECONDS_ALARM | register::MINUTES_ALARM | register::HOURS_ALARM
                ) =>
            {
                self.write_date(now, value);
            }
            register::A => {
                self.a = value & 0x7f;
                self.stop_or_go(now);
            }
            register::B => {
                // SET going high clears the update-ended interrupt enable.
                self.b = if value & B_SET != 0 {
                    value & !UPDATE_ENDED
                } else {
                    value
                };
                self.stop_or_go(now);
            }
            register::C | register::D => {}
            index => self.ram[usize::from(index & 0x7f)] = value,
        }
        self.find_deadline(now);
    }

    /// The divider chain is held in reset (register A bits 6:5).
    fn divider_reset(&self) -> bool {
        self.a & 0x60 == 0x60
    }

    fn stop_or_go(&mut self, now: Ticks) {
        let stop = self.b & B_SET != 0 || self.divider_reset();
        if stop && self.stopped_at.is_none() {
            self.stopped_at = Some(self.date(now));
        } else if !stop && let Some(date) = self.stopped_at.take() {
            self.set_date(now, date);
        }
    }

    /// Makes `date` the time, keeping the phase of the seconds.
    fn set_date(&mut self, now: Ticks, date: DateTime) {
        self.offset += (date.seconds() - self.seconds(now)) * SECOND;
    }

    fn write_date(&mut self, now: Ticks, value: u8) {
        let mut date = self.date(now);
        let number = self.decode(value);
        // A value that no clock can show is brought into range; the calendar carries a day 31 over.
        match self.index {
            register::SECONDS => date.second = number.min(59),
            register::MINUTES => date.minute = number.min(59),
            register::HOURS => date.hour = self.decode_hour(value).min(23),
            register::DAY => date.day = number.clamp(1, 31),
            register::MONTH => date.month = number.clamp(1, 12),
            register::YEAR => date.year = date.year / 100 * 100 + u16::from(number % 100),
            register::CENTURY => date.year = date.year % 100 + u16::from(number % 100) * 100,
            // The day of the week follows from the date.
            _ => {}
        }
        if self.stopped_at.is_some() {
            self.stopped_at = Some(date);
        } else {
            self.set_date(now, date);
        }
    }

    /// One line for a person.
    pub(super) fn describe(&self) -> String {
        let date = self.date(self.checked);
        format!(
            "RTC: {:04}-{:02}-{:02} {:02}:{:02}:{:02} at tick {}, A {:02x} B {:02x} C {:02x}\n",
            date.year,
            date.month,
            date.day,
            date.hour,
            date.minute,
            date.second,
            self.checked.0,
            self.a,
            self.b,
            self.flags
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-01-01 00:00:00.
    const EPOCH: u64 = 1_704_067_200;

    fn read(rtc: &mut Rtc, now: Ticks, index: u8) -> u8 {
        rtc.write(now, 0x70, index);
        rtc.read(now, 0x71)
    }

    fn write(rtc: &mut Rtc, now: Ticks, index: u8, value: u8) {
        rtc.write(now, 0x70, index);
        rtc.write(now, 0x71, value);
    }

    fn date(rtc: &mut Rtc, now: Ticks) -> [u8; 8] {
        [0x32, 9, 8, 7, 4, 2, 0, 6].map(|index| read(rtc, now, index))
    }

    fn seconds(n: u64) -> Ticks {
        Ticks(n * Ticks::PER_SECOND)
    }

    #[test]
    fn the_date_starts_at_the_epoch_and_follows_virtual_time() {
        let mut rtc = Rtc::new(EPOCH);
        assert_eq!(
            date(&mut rtc, Ticks(0)),
            [0x20, 0x24, 1, 1, 0, 0, 0, 2],
            "a Monday"
        );
        // 59 days on is 29 February.
        let later = Ticks(seconds(59 * 86_400 + 13 * 3600 + 59 * 60 + 58).0 + 99_999_999);
        assert_eq!(date(&mut rtc, later), [0x20, 0x24, 2, 0x29, 0x13, 0x59, 0x58, 5]);
        assert_eq!(date(&mut rtc, later.after(1))[6], 0x59);
        assert_eq!(read(&mut rtc, later, 0x0a), 0x26);
        assert_eq!(read(&mut rtc, later, 0x0d), 0x80);
    }

    #[test]
    fn hours_in_binary_and_in_twelve_hour_mode() {
        let mut rtc = Rtc::new(EPOCH + 12 * 3600);
        assert_eq!(read(&mut rtc, Ticks(0), 4), 0x12);
        write(&mut rtc, Ticks(0), 0x0b, 0);
        assert_eq!(read(&mut rtc, Ticks(0), 4), 0x92, "12 PM");
        assert_eq!(read(&mut rtc, seconds(12 * 3600), 4), 0x12, "12 AM");
        write(&mut rtc, Ticks(0), 0x0b, 0x06);
        assert_eq!(read(&mut rtc, seconds(11 * 3600), 4), 23);
    }

    #[test]
    fn the_guest_sets_the_clock_while_it_is_stopped() {
        let mut rtc = Rtc::new(EPOCH);
        let now = seconds(1000);
        write(&mut rtc, now, 0x0b, 0x82);
        for (index, value) in [
            (9, 0x99),
            (0x32, 0x19),
            (8, 0x12),
            (7, 0x31),
            (4, 0x23),
            (2, 0x59),
            (0, 0x59),
        ] {
            write(&mut rtc, now, index, value);
        }
        assert_eq!(
            date(&mut rtc, seconds(2000))[..7],
            [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]
        );
        write(&mut rtc, seconds(3000), 0x0b, 0x02);
        assert_eq!(
            date(&mut rtc, seconds(3001)),
            [0x20, 0, 1, 1, 0, 0, 0, 7],
            "a Saturday"
        );
    }

    #[test]
    fn the_periodic_interrupt_keeps_its_rate() {
        let mut rtc = Rtc::new(EPOCH);
        write(&mut rtc, Ticks(0), 0x0b, 0x42);
        // Rate 6 is 1024 Hz.
        let mut fired = 0;
        while rtc.deadline() <= seconds(2) {
            let at = rtc.deadline();
            rtc.advance(Ticks(at.0 - 1));
            assert!(!rtc.interrupt_line());
            rtc.advance(at);
            assert!(rtc.interrupt_line());
            assert_eq!(rtc.deadline(), Ticks::NEVER, "nothing more until C is read");
            assert_eq!(read(&mut rtc, at, 0x0c) & 0xc0, 0xc0);
            assert!(!rtc.interrupt_line());
            fired += 1;
        }
        assert_eq!(fired, 2048);
    }

    #[test]
    fn update_and_alarm_interrupts_come_at_the_second() {
        let mut rtc = Rtc::new(EPOCH);
        write(&mut rtc, Ticks(5), 0x0b, 0x12);
        assert_eq!(rtc.deadline(), seconds(1));
        write(&mut rtc, Ticks(5), 0x0b, 0x22);
        for (index, value) in [(1, 0x30), (3, 0xff), (5, 0x01)] {
            write(&mut rtc, Ticks(5), index, value);
        }
        assert_eq!(rtc.deadline(), seconds(3630));
        rtc.advance(seconds(3630));
        assert_eq!(read(&mut rtc, seconds(3630), 0x0c) & !PERIODIC, 0xb0);
        assert_eq!(rtc.deadline(), seconds(3690), "every minute of that hour");
        write(&mut rtc, seconds(3630), 1, 0x77);
        assert_eq!(rtc.deadline(), Ticks::NEVER, "there is no second 77");
    }

    #[test]
    fn every_day_of_ten_thousand_years_survives_the_round_trip() {
        for day in (-719_528i128..2_932_896).step_by(97) {
            let seconds = day * 86_400 + 86_399;
            assert_eq!(DateTime::from_seconds(seconds).seconds(), seconds);
        }
    }

    #[test]
    fn ram_and_date_survive_a_reset() {
        let mut rtc = Rtc::new(EPOCH);
        write(&mut rtc, Ticks(0), 0x0f, 0x5a);
        write(&mut rtc, Ticks(0), 0x0b, 0x72);
        rtc.reset();
        assert_eq!(read(&mut rtc, seconds(1), 0x0f), 0x5a);
        assert_eq!(read(&mut rtc, seconds(1), 0x0b), 0x02);
        assert_eq!(read(&mut rtc, seconds(1), 0x00), 0x01);
    }
}
