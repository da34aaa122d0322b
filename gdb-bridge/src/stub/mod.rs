//! The `gdbstub` crate's part of a session.
//!
//! ```text
//! a packet that none of `packets` takes
//!        │
//!        ▼
//! Stub::packet ──bytes──► GdbStubStateMachine ──calls──► the traits that Guest implements here
//!        ▲                        │
//!        └── bodies of answers ◄──┘ Sink
//! ```
//! gdbstub parses the packets, keeps track of running and stopped, and words the answers and the stop replies. Its
//! state machine is consumed by an error; it is made anew then, with the thread selections it had, and the client
//! gets an `E`: a hostile packet ends nothing.

mod arch;
mod breakpoints;
mod info;
mod monitor;
mod registers;
mod resume;

pub use arch::RegisterNumber;

use crate::framing;
use crate::guest::Guest;
use crate::registers::{EXPEDITED, TABLE};
use crate::thread::{Thread, ThreadId};
use gdbstub::common::Tid;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine as Machine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use hv_core::addr::VcpuId;
use std::convert::Infallible;

/// Where gdbstub writes.
#[derive(Default)]
struct Sink(Vec<u8>);

impl Connection for Sink {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is answered.
    Answered,
    /// [`Guest::requested`] is to be carried out; the answer is the stop reply.
    Resumed,
    /// It was `D`, and is answered.
    Detached,
    /// gdbstub refused it; the sentence is for the log.
    Refused(String),
}

/// Why the guest stopped, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal number at a vCPU.
    Signal(u8, VcpuId),
    /// A breakpoint at a vCPU, of the software or the hardware kind.
    Breakpoint {
        /// Where.
        vcpu: VcpuId,
        /// `Z1`, not `Z0`.
        hardware: bool,
    },
    /// A watchpoint.
    Watch {
        /// Where.
        vcpu: VcpuId,
        /// Which kind was set.
        kind: gdbstub::target::ext::breakpoints::WatchKind,
        /// The first accessed byte.
        address: u64,
    },
    /// The guest is gone, or the process that is debugged.
    Exited(u8),
    /// The process was ended by a signal.
    Killed(u8),
}

impl Stop {
    /// The vCPU that stopped.
    pub fn vcpu(self) -> Option<VcpuId> {
        match self {
            Stop::Signal(_, vcpu) | Stop::Breakpoint { vcpu, .. } | Stop::Watch { vcpu, .. } => Some(vcpu),
            Stop::Exited(_) | Stop::Killed(_) => None,
        }
    }

    /// In gdbstub's words. The thread is the one that its vCPU is to the client.
    fn reason(self, guest: &Guest) -> MultiThreadStopReason<u64> {
        let thread = |vcpu| guest.thread_on(vcpu).id();
        match self {
            Stop::Signal(signal, vcpu) => MultiThreadStopReason::SignalWithThread {
                tid: thread(vcpu),
                signal: gdbstub::common::Signal(signal),
            },
            Stop::Breakpoint {
                vcpu,
                hardware: false,
            } => MultiThreadStopReason::SwBreak(thread(vcpu)),
            Stop::Breakpoint { vcpu, hardware: true } => MultiThreadStopReason::HwBreak(thread(vcpu)),
            Stop::Watch { vcpu, kind, address } => MultiThreadStopReason::Watch {
                tid: thread(vcpu),
                kind,
                addr: address,
            },
            Stop::Exited(code) => MultiThreadStopReason::Exited(code),
            Stop::Killed(signal) => MultiThreadStopReason::Terminated(gdbstub::common::Signal(signal)),
        }
    }
}

/// gdbstub's state machine, ready for the next packet at any time.
pub struct Stub {
    /// `None` only while it is moved.
    machine: Option<Machine<'static, Guest, Sink>>,
}

impl Stub {
    /// At the start of a connection.
    ///
    /// # Errors
    /// gdbstub's words; it has no reason to fail.
    pub fn new(guest: &mut Guest) -> Result<Stub, String> {
        let mut stub = Stub { machine: None };
        stub.restart(guest)?;
        Ok(stub)
    }

    /// A fresh machine. Acknowledgements are the framing's business, so gdbstub shall not write any.
    fn restart(&mut self, guest: &mut Guest) -> Result<(), String> {
        let stub = GdbStub::builder(Sink::default())
            .packet_buffer_size(framing::PACKET_SIZE + 256)
            .build()
            .map_err(|error| error.to_string())?;
        self.machine = Some(stub.run_state_machine(guest).map_err(|error| error.to_string())?);
        let thread = guest.selected.id();
        for body in ["QStartNoAckMode".to_owned(), format!("Hg{thread:x}")] {
            self.feed(guest, body.as_bytes())?;
        }
        self.take();
        Ok(())
    }

    fn feed(&mut self, guest: &mut Guest, body: &[u8]) -> Result<(), String> {
        let mut bytes = Vec::new();
        framing::frame(&mut bytes, body);
        for byte in bytes {
            self.machine = Some(match self.machine.take() {
                Some(Machine::Idle(m)) => m.incoming_data(guest, byte).map_err(|e| e.to_string())?,
                Some(Machine::Running(m)) => m.incoming_data(guest, byte).map_err(|e| e.to_string())?,
                Some(Machine::CtrlCInterrupt(m)) => m
                    .interrupt_handled(guest, None::<MultiThreadStopReason<u64>>)
                    .map_err(|e| e.to_string())?,
                Some(Machine::Disconnected(m)) => m.return_to_idle(),
                None => return Err("no state machine".into()),
            });
        }
        Ok(())
    }

    /// The bodies of what gdbstub wrote.
    fn take(&mut self) -> Vec<Vec<u8>> {
        let sink = match &mut self.machine {
            Some(Machine::Idle(m)) => m.borrow_conn(),
            Some(Machine::Running(m)) => m.borrow_conn(),
            Some(Machine::CtrlCInterrupt(m)) => m.borrow_conn(),
            Some(Machine::Disconnected(m)) => m.borrow_conn(),
            None => return Vec::new(),
        };
        let mut receiver = framing::Receiver::new();
        let bytes = std::mem::take(&mut sink.0);
        let whole = bytes.iter().filter_map(|&byte| match receiver.pump(byte) {
            Some(framing::Input::Packet) => Some(receiver.take_body()),
            _ => None,
        });
        whole.collect()
    }

    /// Hands a packet over; the bodies of the answers are appended to `answers`.
    pub fn packet(&mut self, guest: &mut Guest, body: &[u8], answers: &mut Vec<Vec<u8>>) -> Outcome {
        guest.requested = None;
        if let Err(error) = self.feed(guest, body) {
            guest.requested = None;
            return match self.restart(guest) {
                Ok(()) => Outcome::Refused(error),
                Err(worse) => Outcome::Refused(worse),
            };
        }
        answers.append(&mut self.take());
        match self.machine.take() {
            Some(Machine::Disconnected(machine)) => {
                let reason = machine.get_reason();
                self.machine = Some(machine.return_to_idle());
                match reason {
                    DisconnectReason::Disconnect | DisconnectReason::Kill => Outcome::Detached,
                    _ => Outcome::Answered,
                }
            }
            machine => {
                self.machine = machine;
                if guest.requested.is_some() {
                    Outcome::Resumed
                } else {
                    Outcome::Answered
                }
            }
        }
    }

    /// The body of the stop reply that answers the resume request.
    pub fn report(&mut self, guest: &mut Guest, stop: Stop) -> Option<Vec<u8>> {
        let (mut numbers, mut values) = (Vec::new(), Vec::new());
        if let Some(vcpu) = stop.vcpu()
            && let Ok(registers) = guest.registers_of(guest.thread_on(vcpu))
        {
            numbers.extend(EXPEDITED.filter(|number| registers.put(&TABLE[*number], &mut values)));
        }
        let mut rest = &values[..];
        let mut registers = numbers.into_iter().map_while(|number| {
            let (value, tail) = rest.split_at_checked(TABLE[number].bytes())?;
            rest = tail;
            Some((RegisterNumber(number), value))
        });
        let reason = stop.reason(guest);
        let next = match self.machine.take() {
            Some(Machine::Running(machine)) => machine.report_stop_with_regs(guest, reason, &mut registers),
            other => {
                self.machine = other;
                return None;
            }
        };
        match next {
            Ok(Machine::Disconnected(mut machine)) => {
                // `W` leaves nothing to debug, but the client may still ask.
                let written = std::mem::take(&mut machine.borrow_conn().0);
                self.machine = Some(machine.return_to_idle());
                if let Some(Machine::Idle(machine)) = &mut self.machine {
                    machine.borrow_conn().0 = written;
                }
            }
            Ok(machine) => self.machine = Some(machine),
            Err(error) => {
                tracing::error!(%error, "gdbstub can't word a stop");
                let _ = self.restart(guest);
                return Some(format!("T05thread:{:02x};", stop.vcpu().map_or(1, |v| v.0 + 1)).into_bytes());
            }
        }
        self.take().pop()
    }
}

/// Which thread an id means.
fn thread(guest: &Guest, id: Tid) -> Option<Thread> {
    guest.meant(ThreadId::One(id.get() as u64))
}

/// `E03`: there is no such thread (ESRCH as the protocol prints it).
const NO_THREAD: u8 = 3;
/// `E22`: a value that isn't allowed (EINVAL in decimal).
const REFUSED: u8 = 0x22;
