//! A target made of a [`FakeMachine`], to prove debuggers on.

use super::FakeMachine;
use super::message::{Api, BREAKPOINT, Manipulate, api};
use super::packet::{self, INITIAL_ID, Incoming, Packet, SYNC, kind, long};
use super::wire::{Trouble, Wire};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A target that listens until the test ends, one connection after the other.
pub struct FakeTarget {
    address: String,
    requests: Arc<Mutex<Vec<Manipulate>>>,
}

impl FakeTarget {
    /// Begins to listen.
    #[track_caller]
    pub fn start(machine: FakeMachine) -> FakeTarget {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("a port: {error}"));
        let address = listener
            .local_addr()
            .map_or_else(|error| panic!("{error}"), |address| address.to_string());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut session = Session {
                    wire: Wire::over(stream),
                    machine: machine.clone(),
                    next: INITIAL_ID | SYNC,
                    expected: INITIAL_ID,
                    sent: None,
                    waiting: Vec::new(),
                    stopped: false,
                    log: log.clone(),
                };
                while session.turn().is_ok() {}
            }
        });
        FakeTarget { address, requests }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The requests that it has carried out.
    pub fn requests(&self) -> Vec<Manipulate> {
        lock(&self.requests).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Session {
    wire: Wire,
    machine: FakeMachine,
    next: u32,
    expected: u32,
    /// Not acknowledged yet.
    sent: Option<(u16, Vec<u8>)>,
    /// To be sent when that is.
    waiting: Vec<(u16, Vec<u8>)>,
    stopped: bool,
    log: Arc<Mutex<Vec<Manipulate>>>,
}

impl Session {
    fn turn(&mut self) -> Result<(), Trouble> {
        match self.wire.receive(Duration::from_millis(100)) {
            Err(Trouble::Silent) => self.repeat(),
            Err(trouble) => Err(trouble),
            Ok(Incoming::BreakIn) if self.sent.is_some() => Ok(()),
            Ok(Incoming::BreakIn) => {
                if !self.stopped {
                    self.machine.stop(BREAKPOINT);
                }
                self.report()
            }
            Ok(Incoming::Damaged) => self.wire.write(&packet::control(kind::RESEND, 0)),
            Ok(Incoming::Control { kind, id }) => self.control(kind, id),
            Ok(Incoming::Data { kind, id, payload }) => {
                self.wire.write(&packet::control(kind::ACKNOWLEDGE, id & !SYNC))?;
                if id & !SYNC != self.expected || kind != kind::MANIPULATE {
                    return Ok(());
                }
                self.expected ^= 1;
                self.acknowledged()?;
                match Manipulate::parse(&payload) {
                    Some(request) => self.answer(request),
                    None => Err(Trouble::Strange),
                }
            }
        }
    }

    fn control(&mut self, kind: u16, id: u32) -> Result<(), Trouble> {
        match kind {
            kind::ACKNOWLEDGE if id & !SYNC == self.next & !SYNC => self.acknowledged(),
            kind::RESEND if self.sent.is_some() => self.repeat(),
            kind::RESEND if self.stopped => self.report(),
            kind::RESET => {
                (self.next, self.expected) = (INITIAL_ID, INITIAL_ID);
                self.wire.write(&packet::control(kind::RESET, 0))?;
                if self.sent.is_some() {
                    self.repeat()
                } else {
                    self.report()
                }
            }
            _ => Ok(()),
        }
    }

    fn report(&mut self) -> Result<(), Trouble> {
        self.stopped = true;
        self.send(kind::STATE_CHANGE, self.machine.report.clone())
    }

    fn send(&mut self, kind: u16, payload: Vec<u8>) -> Result<(), Trouble> {
        if self.sent.is_some() {
            self.waiting.push((kind, payload));
            return Ok(());
        }
        self.sent = Some((kind, payload));
        self.repeat()
    }

    fn repeat(&mut self) -> Result<(), Trouble> {
        match &self.sent {
            Some((kind, payload)) => self.wire.write(&Packet::new(*kind, self.next, payload).bytes()),
            None => Ok(()),
        }
    }

    fn acknowledged(&mut self) -> Result<(), Trouble> {
        if self.sent.take().is_some() {
            self.next = (self.next ^ 1) & !SYNC;
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (kind, payload) = self.waiting.remove(0);
        self.send(kind, payload)
    }

    fn answer(&mut self, request: Manipulate) -> Result<(), Trouble> {
        lock(&self.log).push(request.clone());
        if !self.machine.prints.is_empty() {
            let text = self.machine.prints.remove(0);
            let mut print = 0x3230_u32.to_le_bytes().to_vec();
            print.extend_from_slice(&[0; 4]);
            print.extend_from_slice(&(text.len() as u64).to_le_bytes());
            print.extend_from_slice(text.as_bytes());
            self.send(kind::DEBUG_IO, print)?;
        }
        if let Some(answer) = self.machine.answer(&request) {
            return self.send(kind::MANIPULATE, answer.bytes());
        }
        let is = |api: Api| api.number == request.api;
        if is(api::CONTINUE) || is(api::CONTINUE2) {
            let trace = is(api::CONTINUE2) && long(&request.fields, 4) != 0;
            self.stopped = self.machine.go(trace);
            return if self.stopped { self.report() } else { Ok(()) };
        }
        if is(api::SWITCH_PROCESSOR) {
            self.report()
        } else {
            Ok(())
        }
    }
}
