//! The debugger's side of a connection: ids, acknowledgement, resending, resetting.

use super::message::{Manipulate, StateChange};
use super::packet::{self, BREAK_IN, INITIAL_ID, Incoming, Packet, SYNC, kind, long};
use super::wire::{Trouble, Wire};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A debugger that is connected.
///
/// It repeats what isn't acknowledged, asks again for what arrives damaged, and drops what arrives twice, so that it
/// gets on over a link that loses bytes.
pub struct KdClient {
    wire: Wire,
    next: u32,
    expected: u32,
    /// The packet that isn't acknowledged yet.
    sent: Option<(u16, Vec<u8>)>,
    /// Reports that arrived while something else was waited for.
    reports: Vec<StateChange>,
    resetting: bool,
    /// How many answers may come that nobody waits for any more.
    asked_twice: usize,
    /// How long to wait for an answer before asking again.
    pub patience: Duration,
    /// How long one request may take in all.
    pub limit: Duration,
    /// What the target has printed.
    pub prints: Vec<String>,
    /// How often something had to be sent again.
    pub repeats: usize,
    /// How often something arrived damaged.
    pub damaged: usize,
    /// How often something arrived twice, or with an id that wasn't its turn.
    pub duplicates: usize,
}

impl KdClient {
    /// A connection, on which nothing has been sent.
    #[track_caller]
    pub fn connect(address: &str) -> KdClient {
        match TcpStream::connect(address) {
            Ok(stream) => KdClient::over(stream),
            Err(error) => panic!("{address}: {error}"),
        }
    }

    /// The same over a stream that is there.
    #[track_caller]
    pub fn over(stream: TcpStream) -> KdClient {
        KdClient {
            wire: Wire::over(stream),
            next: INITIAL_ID,
            expected: INITIAL_ID,
            sent: None,
            reports: Vec::new(),
            resetting: false,
            asked_twice: 0,
            patience: Duration::from_millis(500),
            limit: crate::LIMIT,
            prints: Vec::new(),
            repeats: 0,
            damaged: 0,
            duplicates: 0,
        }
    }

    /// A connection whose target has stopped for it, and why: with a reset, as WinDbg begins.
    #[track_caller]
    pub fn attach(address: &str) -> (KdClient, StateChange) {
        let mut client = KdClient::connect(address);
        match client.reset() {
            Ok(report) => (client, report),
            Err(trouble) => panic!("attach: {trouble:?}"),
        }
    }

    /// Resets both sides and gets the report of the stop.
    ///
    /// # Errors
    /// If the target doesn't answer.
    pub fn reset(&mut self) -> Result<StateChange, Trouble> {
        let deadline = Instant::now() + self.limit;
        self.reports.clear();
        self.sent = None;
        self.resetting = true;
        self.write(&packet::control(kind::RESET, 0))?;
        loop {
            match self.pump(self.patience) {
                Ok(Some((kind::STATE_CHANGE, report))) if !self.resetting => {
                    return StateChange::parse(&report).ok_or(Trouble::Strange);
                }
                Err(Trouble::Silent) if self.resetting => {
                    self.repeats += 1;
                    self.write(&packet::control(kind::RESET, 0))?;
                }
                Ok(_) | Err(Trouble::Silent) => {}
                Err(trouble) => return Err(trouble),
            }
            if Instant::now() > deadline {
                return Err(Trouble::Silent);
            }
        }
    }

    /// Breaks in and gets the report of the stop.
    ///
    /// # Errors
    /// If the target doesn't stop.
    pub fn break_in(&mut self) -> Result<StateChange, Trouble> {
        self.write(&[BREAK_IN])?;
        self.report(self.limit)
    }

    /// Waits for the target to stop.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn report(&mut self, limit: Duration) -> Result<StateChange, Trouble> {
        let deadline = Instant::now() + limit;
        while self.reports.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pump(left.min(self.patience)) {
                Ok(Some((kind::STATE_CHANGE, report))) => {
                    return StateChange::parse(&report).ok_or(Trouble::Strange);
                }
                Ok(_) => {}
                Err(Trouble::Silent) if !left.is_zero() => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(self.reports.remove(0))
    }

    /// Sends a request and gets the answer.
    ///
    /// # Errors
    /// If none comes, or one that belongs to another request.
    pub fn ask(&mut self, request: &Manipulate) -> Result<Manipulate, Trouble> {
        let deadline = Instant::now() + self.limit;
        let mut silences = 0;
        self.begin(kind::MANIPULATE, request.bytes())?;
        loop {
            match self.pump(self.patience) {
                Ok(Some((kind::MANIPULATE, answer))) => {
                    let answer = Manipulate::parse(&answer).ok_or(Trouble::Strange)?;
                    // Whoever answers has the request: its acknowledgement got lost.
                    self.acknowledged();
                    let belongs = answer.api == request.api && answer.processor == request.processor;
                    let echoes = answer.fields[..8] == request.fields[..8];
                    if belongs && (echoes || self.asked_twice == 0) {
                        return Ok(answer);
                    }
                    // A second answer to what was asked twice.
                    self.asked_twice = self.asked_twice.checked_sub(1).ok_or(Trouble::Strange)?;
                }
                Ok(Some((kind::STATE_CHANGE, report))) => {
                    self.reports.extend(StateChange::parse(&report));
                }
                Err(Trouble::Silent) => {
                    silences += 1;
                    // The answer may have been acknowledged and yet be lost, if its header was damaged.
                    if silences % 3 == 0 && self.sent.is_none() {
                        self.asked_twice += 1;
                        self.begin(kind::MANIPULATE, request.bytes())?;
                    } else {
                        self.ask_again()?;
                    }
                }
                Ok(_) => {}
                Err(trouble) => return Err(trouble),
            }
            if Instant::now() > deadline {
                return Err(Trouble::Silent);
            }
        }
    }

    /// Sends a request that has no answer, and waits until it is acknowledged.
    ///
    /// # Errors
    /// If it isn't.
    pub fn tell(&mut self, request: &Manipulate) -> Result<(), Trouble> {
        let deadline = Instant::now() + self.limit;
        // What was reported before isn't what comes of this.
        self.reports.clear();
        self.begin(kind::MANIPULATE, request.bytes())?;
        while self.sent.is_some() {
            match self.pump(self.patience) {
                Ok(Some((kind::STATE_CHANGE, report))) => {
                    // It stopped again, or repeats itself: the request will be acknowledged all the same.
                    self.reports.extend(StateChange::parse(&report));
                }
                Ok(Some((kind::MANIPULATE, _))) => return Err(Trouble::Strange),
                Err(Trouble::Silent) => self.ask_again()?,
                Ok(_) => {}
                Err(trouble) => return Err(trouble),
            }
            if Instant::now() > deadline {
                return Err(Trouble::Silent);
            }
        }
        Ok(())
    }

    /// Nothing may come for so long, but prints.
    ///
    /// # Errors
    /// What came instead.
    pub fn quiet(&mut self, time: Duration) -> Result<(), (u16, Vec<u8>)> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if let Ok(Some(came)) = self.pump(left) {
                return Err(came);
            }
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.wire.write(bytes)
    }

    /// The packet that would be sent next, to be spoilt.
    pub fn packet(&self, request: &Manipulate) -> Packet {
        Packet::new(kind::MANIPULATE, self.next, &request.bytes())
    }

    /// What arrives next, as it is and without any answer.
    ///
    /// # Errors
    /// If nothing does.
    pub fn receive(&mut self, limit: Duration) -> Result<Incoming, Trouble> {
        self.wire.receive(limit)
    }

    fn begin(&mut self, kind: u16, payload: Vec<u8>) -> Result<(), Trouble> {
        self.sent = Some((kind, payload));
        self.send()
    }

    fn send(&mut self) -> Result<(), Trouble> {
        let Some((kind, payload)) = &self.sent else {
            return Ok(());
        };
        let bytes = Packet::new(*kind, self.next, payload).bytes();
        self.write(&bytes)
    }

    fn acknowledged(&mut self) {
        if self.sent.take().is_some() {
            self.next ^= 1;
        }
    }

    /// Nothing came: the request got lost, or the answer.
    fn ask_again(&mut self) -> Result<(), Trouble> {
        self.repeats += 1;
        if self.sent.is_some() {
            self.send()
        } else {
            self.write(&packet::control(kind::RESEND, 0))
        }
    }

    /// Takes one packet and answers it as a debugger does; a data packet that is new, except prints.
    fn pump(&mut self, limit: Duration) -> Result<Option<(u16, Vec<u8>)>, Trouble> {
        match self.receive(limit)? {
            Incoming::BreakIn => Ok(None),
            Incoming::Damaged => {
                self.damaged += 1;
                self.write(&packet::control(kind::RESEND, 0))?;
                Ok(None)
            }
            Incoming::Control { kind, id } => {
                match kind {
                    kind::ACKNOWLEDGE if id & !SYNC == self.next => self.acknowledged(),
                    kind::RESEND => {
                        self.repeats += 1;
                        self.send()?;
                    }
                    kind::RESET => {
                        (self.next, self.expected) = (INITIAL_ID, INITIAL_ID);
                        if !std::mem::take(&mut self.resetting) {
                            self.write(&packet::control(kind::RESET, 0))?;
                        }
                    }
                    _ => {}
                }
                Ok(None)
            }
            Incoming::Data { kind, id, payload } => {
                self.write(&packet::control(kind::ACKNOWLEDGE, id & !SYNC))?;
                if id & SYNC != 0 {
                    self.next = INITIAL_ID;
                    self.expected = id & !SYNC;
                }
                if id & !SYNC != self.expected {
                    self.duplicates += 1;
                    return Ok(None);
                }
                self.expected ^= 1;
                if kind == kind::DEBUG_IO {
                    let length = long(&payload, 8) as usize;
                    let text = payload.get(16..16 + length).unwrap_or_default();
                    self.prints.push(String::from_utf8_lossy(text).into_owned());
                    return Ok(None);
                }
                Ok(Some((kind, payload)))
            }
        }
    }
}
