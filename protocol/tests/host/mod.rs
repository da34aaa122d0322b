//! A host as the protocol's description has it, and a line between it and a link that has troubles.
//!
//! The host breaks in, asks a number of questions and checks each answer: whatever the line does, every question is
//! answered. Sums cover payloads alone, and not the order of their bytes, so that some damage is taken for another
//! packet: a host that gets no further begins anew with RESET, and asks again.

use protocol::api::Api;
use protocol::link::{Event, Link, Patience};
use protocol::manipulate::{Manipulate, Memory};
use protocol::packet::{PacketType, SYNC, checksum, write_control, write_data};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// The longest that a session may take on its line, in the line's time.
const MOST_TIME: Duration = Duration::from_secs(4000);
const TURN: Duration = Duration::from_millis(20);

pub struct Host {
    next: u32,
    expected: u32,
    stopped: bool,
    asked: u64,
    questions: u64,
    /// What is being asked, and whether it was acknowledged.
    outstanding: Option<(Vec<u8>, u32, bool)>,
    silent_for: Duration,
    /// Since the outstanding question was last sent.
    waiting: Duration,
    /// How often it was repeated.
    repeated: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    wrong: Option<String>,
}

impl Host {
    pub fn new(questions: u64) -> Host {
        Host {
            next: 0x8080_0000,
            expected: 0x8080_0000,
            stopped: false,
            asked: 0,
            questions,
            outstanding: None,
            silent_for: Duration::from_secs(60),
            waiting: Duration::ZERO,
            repeated: 0,
            input: Vec::new(),
            output: Vec::new(),
            wrong: None,
        }
    }

    fn is_done(&self) -> bool {
        self.asked == self.questions && self.outstanding.is_none()
    }

    /// Time passes: what a host does when nothing comes.
    fn turn(&mut self) {
        self.silent_for += TURN;
        self.waiting += TURN;
        if self.silent_for > Duration::from_millis(1500) && self.input.len() >= 4 {
            // A packet broke off.
            self.input.clear();
            write_control(&mut self.output, PacketType::Resend, 0);
        }
        match &self.outstanding {
            Some((payload, _, _)) if self.repeated >= 4 => {
                write_control(&mut self.output, PacketType::Reset, 0);
                (self.next, self.expected) = (0x8080_0000, 0x8080_0000);
                self.outstanding = Some((payload.clone(), self.next, false));
                self.repeated = 0;
            }
            Some((payload, id, _)) if self.waiting > Duration::from_secs(3) => {
                self.repeated += 1;
                write_data(&mut self.output, PacketType::StateManipulate, *id, payload);
                self.waiting = Duration::ZERO;
            }
            None if self.stopped && self.asked < self.questions => self.ask(),
            None if !self.stopped && self.silent_for > Duration::from_secs(2) => {
                // As hosts do that find nobody: a break-in, a RESET, and so on.
                self.repeated += 1;
                if self.repeated % 2 == 1 {
                    self.output.push(b'b');
                } else {
                    write_control(&mut self.output, PacketType::Reset, 0);
                    (self.next, self.expected) = (0x8080_0000, 0x8080_0000);
                }
                self.silent_for = Duration::ZERO;
            }
            _ => {}
        }
    }

    fn ask(&mut self) {
        self.asked += 1;
        let mut request = Manipulate::request(Api::ReadVirtualMemory, 0);
        request.set(&Memory {
            address: self.asked.into(),
            count: 8.into(),
            actual: 0.into(),
        });
        let payload = request.as_bytes().to_vec();
        write_data(&mut self.output, PacketType::StateManipulate, self.next, &payload);
        self.outstanding = Some((payload, self.next, false));
        self.waiting = Duration::ZERO;
        self.repeated = 0;
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        loop {
            let leader = self.input.windows(4).position(|w| w == b"0000" || w == b"iiii");
            match leader {
                Some(at) => drop(self.input.drain(..at)),
                None => return,
            }
            if self.input.len() < 16 {
                return;
            }
            let word = |at: usize| u16::from_le_bytes([self.input[at], self.input[at + 1]]);
            let long = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
            let (number, length, id, sum) = (word(4), usize::from(word(6)), long(8), long(12));
            if self.input[0] == b'i' {
                self.input.drain(..16);
                self.control(number, id);
                continue;
            }
            if length > 4000 {
                self.input.drain(..16);
                write_control(&mut self.output, PacketType::Resend, 0);
                continue;
            }
            if self.input.len() < 17 + length {
                return;
            }
            let payload = self.input[16..16 + length].to_vec();
            let good = checksum(&payload) == sum && self.input[16 + length] == 0xaa;
            self.input.drain(..17 + length);
            if good {
                self.data(number, id, &payload);
            } else {
                write_control(&mut self.output, PacketType::Resend, 0);
            }
        }
    }

    fn control(&mut self, number: u16, id: u32) {
        self.silent_for = Duration::ZERO;
        match (number, &mut self.outstanding) {
            (4, Some((_, mine, acknowledged))) if *mine == id => *acknowledged = true,
            (5, Some((payload, id, _))) => {
                write_data(&mut self.output, PacketType::StateManipulate, *id, payload);
            }
            _ => {}
        }
    }

    fn data(&mut self, number: u16, id: u32, payload: &[u8]) {
        self.silent_for = Duration::ZERO;
        write_control(&mut self.output, PacketType::Acknowledge, id & !SYNC);
        if id & SYNC != 0 {
            // A kernel that began anew; a second copy of it changes nothing that has begun since.
            if self.stopped {
                return;
            }
            self.next = 0x8080_0000;
            self.expected = (id ^ 1) & !SYNC;
        } else if id == self.expected {
            self.expected ^= 1;
        } else {
            return;
        }
        match number {
            7 => (self.stopped, self.repeated) = (true, 0),
            2 => {
                let Some((header, data)) = Manipulate::split(payload) else {
                    self.wrong = Some("a short answer".into());
                    return;
                };
                // What was answered before we began anew comes again, and is no answer to what is asked now.
                let ours = header.get::<Memory>().address.get() == self.asked;
                if ours && data == self.asked.to_le_bytes() && self.outstanding.take().is_some() {
                    self.next ^= 1;
                }
            }
            _ => {}
        }
    }
}

/// A line that loses, doubles, delays and flips bytes, all decided by a seed.
pub struct Line {
    random: u64,
    /// Troubles in ten thousand bytes.
    trouble: u64,
    to_host: VecDeque<(Instant, u8)>,
    to_link: VecDeque<(Instant, u8)>,
}

impl Line {
    pub fn new(seed: u64, trouble: u64) -> Line {
        Line {
            random: seed | 1,
            trouble,
            to_host: VecDeque::new(),
            to_link: VecDeque::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn put(&mut self, bytes: &[u8], now: Instant, to_link: bool) {
        let mut at = now;
        for &byte in bytes {
            let mut copies = vec![byte];
            if self.below(10_000) < self.trouble {
                match self.below(4) {
                    0 => copies.clear(),
                    1 => copies.push(byte),
                    2 => copies[0] ^= 1 << self.below(8),
                    _ => at += Duration::from_millis(self.below(700)),
                }
            }
            let queue = if to_link {
                &mut self.to_link
            } else {
                &mut self.to_host
            };
            at = queue.back().map_or(at, |(last, _)| at.max(*last));
            queue.extend(copies.into_iter().map(|byte| (at, byte)));
        }
    }

    fn take(queue: &mut VecDeque<(Instant, u8)>, now: Instant) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some((at, byte)) = queue.front()
            && *at <= now
        {
            bytes.push(*byte);
            queue.pop_front();
        }
        bytes
    }

    /// Runs a session to its end.
    pub fn run(&mut self, host: &mut Host) -> Result<(), String> {
        let begin = Instant::now();
        let mut now = begin;
        let mut link = Link::new();
        let mut stopped = false;
        while !host.is_done() {
            if now - begin > MOST_TIME {
                return Err(format!("stuck at question {} of {}", host.asked, host.questions));
            }
            now += TURN;
            host.receive(&Line::take(&mut self.to_host, now));
            host.turn();
            if let Some(wrong) = host.wrong.take() {
                return Err(wrong);
            }
            let output = std::mem::take(&mut host.output);
            self.put(&output, now, true);

            let bytes = Line::take(&mut self.to_link, now);
            let mut rest = &bytes[..];
            while let Some(event) = link.receive(&mut rest, now) {
                match event {
                    Event::BreakIn | Event::Resend | Event::Reset { repeated: false } => {
                        if !stopped || event != Event::BreakIn {
                            link.send(PacketType::StateChange64, &[0x11; 240], Patience::Forever, now);
                        }
                        stopped = true;
                    }
                    Event::Reset { repeated: true } => {}
                    Event::Data {
                        packet_type: PacketType::StateManipulate,
                        payload,
                    } => {
                        let Some((request, _)) = Manipulate::split(&payload) else {
                            return Err("a short request came through".into());
                        };
                        let number = request.get::<Memory>().address.get();
                        let answer = [request.as_bytes(), &number.to_le_bytes()[..]].concat();
                        link.send(PacketType::StateManipulate, &answer, Patience::Forever, now);
                    }
                    Event::Data { .. } => {}
                }
            }
            link.tick(now);
            let output = link.take_output();
            self.put(&output, now, false);
        }
        Ok(())
    }
}
