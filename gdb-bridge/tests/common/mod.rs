//! A client that talks to a session without a socket.
#![allow(dead_code)] // each test file uses its part

pub mod toy;

use gdb_bridge::{GdbSession, Options};
use introspect::{Target, TargetEvent};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use toy::Toy;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    pub session: GdbSession,
    events: Receiver<TargetEvent>,
    received: Vec<u8>,
}

/// `$body#checksum`.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}

impl Client {
    /// Connects; nothing is said yet.
    pub fn connect(target: &Arc<Target>) -> Client {
        let (sender, events) = channel();
        let notify = Box::new(move |event| drop(sender.send(event)));
        let session = GdbSession::new(target, "test", Options::default(), notify).unwrap();
        Client {
            session,
            events,
            received: Vec::new(),
        }
    }

    /// Connects as gdb does: no acknowledgements, and the guest is stopped.
    pub fn attach(target: &Arc<Target>) -> Client {
        let mut client = Client::connect(target);
        client.raw(b"+");
        client.raw(&packet(b"qSupported:swbreak+;hwbreak+"));
        client.raw(&packet(b"QStartNoAckMode"));
        client.raw(b"+");
        client.session.take_output();
        assert!(client.ask("?").starts_with("T05thread:1;"));
        client
    }

    /// Gives bytes to the session.
    pub fn raw(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.session.is_closed() {
            let taken = self.session.receive(rest);
            rest = &rest[taken..];
            if !rest.is_empty() {
                self.received.extend(self.session.take_output());
            }
        }
    }

    /// Sends a packet and waits for the next one.
    pub fn ask(&mut self, body: &str) -> String {
        self.raw(&packet(body.as_bytes()));
        self.next()
    }

    /// The body of the next packet; events and slices of work are given to the session meanwhile.
    pub fn next(&mut self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            self.received.extend(self.session.take_output());
            if let Some(body) = self.take_packet() {
                return body;
            }
            assert!(
                Instant::now() < end,
                "no answer; so far: {:?}",
                String::from_utf8_lossy(&self.received)
            );
            self.turn();
        }
    }

    /// One turn of what drives a session.
    pub fn turn(&mut self) {
        let patience = Duration::from_millis(if self.session.is_busy() { 0 } else { 5 });
        match self.events.recv_timeout(patience) {
            Ok(event) => self.session.event(event),
            Err(RecvTimeoutError::Timeout) => self.session.work(),
            Err(RecvTimeoutError::Disconnected) => panic!("the session dropped its notifier"),
        }
    }

    fn take_packet(&mut self) -> Option<String> {
        let start = self.received.iter().position(|&b| b == b'$')?;
        let length = self.received[start..].iter().position(|&b| b == b'#')?;
        let end = start + length + 3;
        let whole = self.received.get(start..end)?.to_vec();
        let body = &whole[1..length];
        assert_eq!(whole, packet(body), "a wrong checksum");
        self.received.drain(..end);
        Some(String::from_utf8_lossy(body).into_owned())
    }
}

/// A running toy, and its target.
pub fn domain(vcpus: u32) -> (Arc<Toy>, Arc<Target>) {
    let toy = Toy::new(vcpus);
    let target = Target::new(toy.clone());
    (toy, target)
}

/// The value of a register in a stop reply.
pub fn expedited(stop: &str, register: &str) -> u64 {
    let field = stop
        .split([';', 'T'])
        .find_map(|f| f.strip_prefix(&format!("{register}:")));
    let digits = field.unwrap_or_else(|| panic!("no register {register} in {stop}"));
    u64::from_str_radix(digits, 16).expect("digits").swap_bytes()
}

pub fn text(output: &str) -> String {
    let digits = output.strip_prefix('O').expect("console output");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(byte).map(char::from).collect()
}

/// Runs a monitor command.
pub fn monitor(client: &mut Client, command: &str) -> String {
    let digits: String = command.bytes().map(|b| format!("{b:02x}")).collect();
    let mut answer = client.ask(&format!("qRcmd,{digits}"));
    let mut all = String::new();
    while answer != "OK" {
        all.push_str(&text(&answer));
        answer = client.next();
    }
    all
}
