//! A host that talks to a session without a socket. It knows only what a debugger must.

use crate::guest::TestGuest;
use introspect::TargetEvent;
use kdd::kd::KdSession;
use kdd::kd::kernel::Recogniser;
use protocol::api::Api;
use protocol::context::amd64::Context;
use protocol::debug_io::{self, PRINT_STRING};
use protocol::manipulate::{Continue2Amd64, Manipulate, Memory, WriteBreakPoint};
use protocol::packet::{Header, INITIAL_ID, PacketType, SYNC, write_control, write_data};
use protocol::state_change::{Amd64Report, Exception, LoadSymbols, StateChange};
use protocol::status::NtStatus;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Host {
    pub session: KdSession,
    events: Receiver<TargetEvent>,
    received: Vec<u8>,
    next: u32,
    expected: u32,
    /// Text that the guest's side printed.
    pub printed: String,
    /// Control packets other than ACKs that came.
    pub control: Vec<PacketType>,
    /// How often the streams began anew.
    pub syncs: usize,
    waiting: VecDeque<(PacketType, u32, Vec<u8>)>,
    /// Bytes of each call of the session's `receive`.
    pub chunk: usize,
}

/// A reply.
#[derive(Debug)]
pub struct Answer {
    pub header: Manipulate,
    pub data: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> NtStatus {
        self.header.status()
    }
}

/// A stop.
#[derive(Debug)]
pub struct Stop {
    pub id: u32,
    pub change: StateChange,
    pub tail: Vec<u8>,
}

impl Stop {
    pub fn exception(&self) -> Exception {
        Exception::read_from_bytes(&self.change.union).unwrap()
    }
    pub fn code(&self) -> NtStatus {
        assert_eq!(self.change.new_state.get(), 0x3030, "{self:?}");
        NtStatus(self.exception().code.get())
    }
    pub fn pc(&self) -> u64 {
        self.change.program_counter.get()
    }
    pub fn module(&self) -> LoadSymbols {
        assert_eq!(self.change.new_state.get(), 0x3031, "{self:?}");
        LoadSymbols::read_from_prefix(&self.change.union).unwrap().0
    }
    pub fn report(&self) -> Amd64Report {
        Amd64Report::read_from_bytes(&self.change.report).unwrap()
    }
}

impl Host {
    /// Connects; nothing is said yet.
    pub fn connect(guest: &TestGuest) -> Host {
        Host::connect_to(guest, guest.recogniser())
    }

    /// The same, with what finds the kernel.
    pub fn connect_to(guest: &TestGuest, recogniser: Recogniser) -> Host {
        let (sender, events) = channel();
        let notify = Box::new(move |event| drop(sender.send(event)));
        Host {
            session: KdSession::new(&guest.target, "test", recogniser, notify),
            events,
            received: Vec::new(),
            next: INITIAL_ID,
            expected: INITIAL_ID,
            printed: String::new(),
            control: Vec::new(),
            syncs: 0,
            waiting: VecDeque::new(),
            chunk: usize::MAX,
        }
    }

    /// Connects and breaks in.
    pub fn attach(guest: &TestGuest) -> Host {
        let mut host = Host::connect(guest);
        host.raw(b"b");
        host.stop();
        host
    }

    /// Gives bytes to the session.
    pub fn raw(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(self.chunk.min(bytes.len().max(1))) {
            self.session.receive(chunk, Instant::now());
            self.collect();
        }
    }

    pub fn reset(&mut self) {
        let mut bytes = Vec::new();
        write_control(&mut bytes, PacketType::Reset, 0);
        (self.next, self.expected) = (INITIAL_ID, INITIAL_ID);
        self.raw(&bytes);
    }

    fn collect(&mut self) {
        self.received.extend(self.session.take_output());
        while let Some((header, _)) = self
            .received
            .get(..16)
            .and_then(|bytes| Header::read_from_prefix(bytes).ok())
        {
            let length = usize::from(header.byte_count.get());
            let is_data = header.leader.get() == 0x3030_3030;
            let whole = 16 + length + usize::from(is_data);
            let bytes: Vec<u8> = self.received.drain(..whole).collect();
            let packet_type = PacketType::from_number(header.packet_type.get()).unwrap();
            if !is_data {
                if packet_type != PacketType::Acknowledge {
                    self.control.push(packet_type);
                }
                continue;
            }
            assert_eq!(bytes[whole - 1], 0xaa);
            let payload = bytes[16..whole - 1].to_vec();
            let id = header.id.get();
            let mut ack = Vec::new();
            write_control(&mut ack, PacketType::Acknowledge, id & !SYNC);
            if id & SYNC != 0 {
                self.syncs += 1;
                self.next = INITIAL_ID;
                self.expected = INITIAL_ID;
            }
            let new = id & !SYNC == self.expected;
            if new {
                self.expected ^= 1;
                if packet_type == PacketType::DebugIo && payload[..4] == PRINT_STRING.to_le_bytes() {
                    self.printed += &String::from_utf8_lossy(&payload[16..]);
                } else {
                    self.waiting.push_back((packet_type, id, payload));
                }
            }
            self.session.receive(&ack, Instant::now());
            self.received.extend(self.session.take_output());
        }
    }

    /// The next packet of this type; the session is driven meanwhile.
    fn packet(&mut self, wanted: PacketType) -> (u32, Vec<u8>) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.collect();
            if let Some((packet_type, id, payload)) = self.waiting.pop_front() {
                assert_eq!(packet_type, wanted, "{payload:x?}");
                return (id, payload);
            }
            assert!(
                Instant::now() < end,
                "no packet of type {wanted:?}; printed: {}",
                self.printed
            );
            self.turn();
        }
    }

    /// One turn of what drives a session.
    pub fn turn(&mut self) {
        let patience = Duration::from_millis(if self.session.is_busy() { 0 } else { 5 });
        match self.events.recv_timeout(patience) {
            Ok(event) => self.session.event(event, Instant::now()),
            Err(RecvTimeoutError::Timeout) if self.session.is_busy() => self.session.work(Instant::now()),
            Err(RecvTimeoutError::Timeout) => self.session.tick(Instant::now()),
            Err(RecvTimeoutError::Disconnected) => panic!("the session dropped its notifier"),
        }
        self.collect();
    }

    /// Turns until this is true.
    pub fn until(&mut self, what: impl Fn(&Host) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !what(self) {
            assert!(
                Instant::now() < end,
                "it doesn't happen; printed: {}",
                self.printed
            );
            self.turn();
        }
    }

    /// Whether a packet waits.
    pub fn has_packet(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn stop(&mut self) -> Stop {
        let (id, payload) = self.packet(PacketType::StateChange64);
        let (change, tail) = StateChange::read_from_prefix(&payload).unwrap();
        Stop {
            id,
            change,
            tail: tail.to_vec(),
        }
    }

    /// What the guest asks, with its header.
    pub fn question(&mut self) -> Vec<u8> {
        self.packet(PacketType::DebugIo).1
    }

    /// Answers a question.
    pub fn answer(&mut self, text: &[u8]) {
        let mut payload = debug_io::prompt(0, 0, b"", text.len() as u32);
        payload.extend_from_slice(text);
        let mut bytes = Vec::new();
        write_data(&mut bytes, PacketType::DebugIo, self.next, &payload);
        self.next ^= 1;
        self.raw(&bytes);
    }

    /// Sends a request.
    pub fn send(&mut self, header: &Manipulate, data: &[u8]) {
        let mut bytes = Vec::new();
        let payload = [header.as_bytes(), data].concat();
        write_data(&mut bytes, PacketType::StateManipulate, self.next, &payload);
        self.next ^= 1;
        self.raw(&bytes);
    }

    /// Sends a request and waits for its reply.
    pub fn ask(&mut self, header: &Manipulate, data: &[u8]) -> Answer {
        self.send(header, data);
        let (_, payload) = self.packet(PacketType::StateManipulate);
        let (answer, data) = Manipulate::split(&payload).unwrap();
        assert_eq!(answer.api, header.api);
        assert_eq!(answer.processor, header.processor);
        Answer {
            header: answer,
            data: data.to_vec(),
        }
    }

    pub fn memory(&mut self, api: Api, address: u64, count: u32, data: &[u8]) -> Answer {
        let mut header = Manipulate::request(api, 0);
        header.set(&Memory {
            address: address.into(),
            count: count.into(),
            actual: 0xaaaa_aaaa.into(),
        });
        self.ask(&header, data)
    }

    pub fn read(&mut self, address: u64, count: u32) -> Vec<u8> {
        let answer = self.memory(Api::ReadVirtualMemory, address, count, &[]);
        assert_eq!(answer.status(), NtStatus::SUCCESS);
        assert_eq!(
            answer.header.get::<Memory>().actual.get() as usize,
            answer.data.len()
        );
        answer.data
    }

    pub fn context(&mut self, processor: u16) -> Context {
        let answer = self.ask(&Manipulate::request(Api::GetContext, processor), &[]);
        assert_eq!(answer.status(), NtStatus::SUCCESS);
        Context::read_from_bytes(&answer.data).unwrap()
    }

    pub fn set_context(&mut self, processor: u16, context: &Context) -> NtStatus {
        let header = Manipulate::request(Api::SetContext, processor);
        self.ask(&header, context.as_bytes()).status()
    }

    /// Moves the program counter.
    pub fn go_to(&mut self, address: u64) {
        let mut context = self.context(0);
        context.rip = address.into();
        assert_eq!(self.set_context(0, &context), NtStatus::SUCCESS);
    }

    pub fn breakpoint(&mut self, address: u64) -> Option<u32> {
        let mut header = Manipulate::request(Api::WriteBreakPoint, 0);
        header.set(&WriteBreakPoint {
            address: address.into(),
            handle: 0.into(),
        });
        let answer = self.ask(&header, &[]);
        let handle = answer.header.get::<WriteBreakPoint>().handle.get();
        assert_eq!(answer.status() == NtStatus::SUCCESS, handle != 0);
        (handle != 0).then_some(handle)
    }

    pub fn continue2(&mut self, trace: bool, dr7: u64) {
        let mut header = Manipulate::request(Api::Continue2, 0);
        header.set(&Continue2Amd64 {
            status: NtStatus::DBG_EXCEPTION_HANDLED.0.into(),
            trace_flag: u32::from(trace).into(),
            dr7: dr7.into(),
            symbol_start: 1.into(),
            symbol_end: 0.into(),
        });
        self.send(&header, &[]);
    }

    pub fn go(&mut self) {
        self.continue2(false, 0x400);
    }

    pub fn step(&mut self) -> Stop {
        self.continue2(true, 0x400);
        self.stop()
    }
}
