//! The kernel's half of the link layer: bytes and the time in, events and bytes out.
//!
//! ```text
//!  receive(bytes, now) ─► Receiver ─► frame ─┬─ break-in, reset, data ────────────► Event
//!                                            └─ acknowledge, resend ─► the outstanding packet
//!  send(payload, now) ─► queue ─► the outstanding packet, until it is acknowledged ─► take_output()
//!  deadline() … tick(now) ─► the outstanding packet again, or given up
//! ```
//!
//! Each side numbers its packets, and only the lowest bit changes: a packet whose number is the one before is a
//! repetition. A kernel's first packet has [`SYNC`] in its number, which says that both streams begin anew.
//! A host that sends a request has seen what the kernel sent last, whether or not its acknowledgement arrived: data
//! that comes while one is awaited counts as it.
//!
//! Nothing is executed twice: a repeated request is acknowledged and dropped, and its answer, if that was lost, is
//! repeated because it isn't acknowledged.

mod outgoing;
mod receiver;

pub use outgoing::Patience;

use crate::packet::{INITIAL_ID, PacketType, SYNC, write_control};
use outgoing::{Due, Outstanding, Queued};
use receiver::{Frame, Receiver};
use std::collections::VecDeque;
use std::time::Instant;

/// The most packets that wait behind the outstanding one. One more prints no text, as a kernel whose host is slow.
const MOST_QUEUED: usize = 256;

/// What the host did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It wants the guest to stop. A run of break-in bytes is one event.
    BreakIn,
    /// It began anew: its RESET is answered already. If `repeated`, so is the packet that was outstanding; if
    /// not, it waits for a state change.
    Reset {
        /// An outstanding packet was sent again.
        repeated: bool,
    },
    /// It wants the last packet again, and acknowledged that already.
    Resend,
    /// A packet came, the first time.
    Data {
        /// What it is.
        packet_type: PacketType,
        /// Its payload. Requests have at least a header.
        payload: Vec<u8>,
    },
}

/// What time brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lapse {
    /// Nothing the session need know.
    Nothing,
    /// The host didn't acknowledge a packet of [`Patience::Limited`] in all that time: it counts as absent, and the
    /// streams begin anew.
    GaveUp,
}

/// The link to one host.
pub struct Link {
    receiver: Receiver,
    /// The number of the next packet we send.
    next: u32,
    /// The number of the next packet from the host.
    expected: u32,
    outstanding: Option<Outstanding>,
    queue: VecDeque<Queued>,
    output: Vec<u8>,
    heard: bool,
}

impl Default for Link {
    fn default() -> Self {
        Link::new()
    }
}

impl Link {
    /// A link that nobody has used yet, as after a boot.
    pub fn new() -> Link {
        Link {
            receiver: Receiver::default(),
            next: INITIAL_ID | SYNC,
            expected: INITIAL_ID,
            outstanding: None,
            queue: VecDeque::new(),
            output: Vec::new(),
            heard: false,
        }
    }

    /// Begins anew, as a kernel that boots does; what was to be sent is forgotten.
    pub fn restart(&mut self) {
        self.next = INITIAL_ID | SYNC;
        self.expected = INITIAL_ID;
        self.outstanding = None;
        self.queue.clear();
    }

    /// Whether a host was heard: before that, nobody would acknowledge anything.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// Whether everything that was sent is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Whether a packet of this type waits to be sent or acknowledged.
    pub fn is_pending(&self, packet_type: PacketType) -> bool {
        let outstanding = self.outstanding.iter().map(|outstanding| &outstanding.packet);
        outstanding
            .chain(&self.queue)
            .any(|packet| packet.packet_type == packet_type)
    }

    /// Takes bytes from the front of `bytes` up to the first event; `None` when all are taken.
    pub fn receive(&mut self, bytes: &mut &[u8], now: Instant) -> Option<Event> {
        while !bytes.is_empty() {
            let frame = self.receiver.take(bytes, now);
            if let Some(event) = frame.and_then(|frame| self.frame(frame, now)) {
                self.heard = true;
                return Some(event);
            }
        }
        None
    }

    /// Sends a packet once those before it are acknowledged. A payload is cut at
    /// [`crate::packet::MAX_PAYLOAD`]. False if it was dropped: too many wait, and this one may be lost.
    pub fn send(
        &mut self,
        packet_type: PacketType,
        payload: &[u8],
        patience: Patience,
        now: Instant,
    ) -> bool {
        if self.queue.len() >= MOST_QUEUED && patience == Patience::Limited {
            return false;
        }
        self.queue.push_back(Queued {
            packet_type,
            patience,
            payload: payload.to_vec(),
        });
        self.send_next(now);
        true
    }

    /// When [`Link::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let again = self.outstanding.as_ref().map(Outstanding::due);
        again.into_iter().chain(self.receiver.deadline()).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) -> Lapse {
        if self.receiver.is_late(now) {
            // A packet broke off in the middle.
            self.ask_again();
        }
        let Some(outstanding) = &mut self.outstanding else {
            return Lapse::Nothing;
        };
        match outstanding.tick(now) {
            Due::Nothing => Lapse::Nothing,
            Due::Again => {
                outstanding.write(&mut self.output, self.next);
                Lapse::Nothing
            }
            Due::GiveUp => {
                self.outstanding = None;
                self.queue.retain(|packet| packet.patience == Patience::Forever);
                self.next = INITIAL_ID | SYNC;
                self.expected = INITIAL_ID;
                self.heard = false;
                self.send_next(now);
                Lapse::GaveUp
            }
        }
    }

    /// What is to be sent to the host.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether there is something to be sent.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    fn frame(&mut self, frame: Frame, now: Instant) -> Option<Event> {
        match frame {
            Frame::BreakIn => Some(Event::BreakIn),
            Frame::Control { packet_type, id } => {
                self.heard = true;
                match packet_type {
                    PacketType::Acknowledge => {
                        self.acknowledged(id, now);
                        None
                    }
                    PacketType::Resend => self.repeat(now).is_none().then_some(Event::Resend),
                    PacketType::Reset => Some(self.reset(now)),
                    _ => None,
                }
            }
            Frame::Damaged => {
                self.ask_again();
                None
            }
            Frame::Data {
                packet_type,
                id,
                payload,
            } => {
                self.heard = true;
                write_control(&mut self.output, PacketType::Acknowledge, id & !SYNC);
                if id & !SYNC != self.expected {
                    return None;
                }
                self.expected ^= 1;
                // It would not speak of anything new had it not seen what we sent last.
                self.done(now);
                Some(Event::Data { packet_type, payload })
            }
        }
    }

    fn acknowledged(&mut self, id: u32, now: Instant) {
        if self.outstanding.is_some() && id & !SYNC == self.next & !SYNC {
            self.done(now);
        }
    }

    /// The outstanding packet has arrived.
    fn done(&mut self, now: Instant) {
        if self.outstanding.take().is_some() {
            self.next = (self.next ^ 1) & !SYNC;
            self.send_next(now);
        }
    }

    fn send_next(&mut self, now: Instant) {
        if self.outstanding.is_none()
            && let Some(packet) = self.queue.pop_front()
        {
            let outstanding = Outstanding::new(packet, now);
            outstanding.write(&mut self.output, self.next);
            self.outstanding = Some(outstanding);
        }
    }

    /// Sends the outstanding packet again, if there is one.
    fn repeat(&mut self, now: Instant) -> Option<()> {
        let outstanding = self.outstanding.as_mut()?;
        outstanding.restart(now);
        outstanding.write(&mut self.output, self.next);
        Some(())
    }

    fn reset(&mut self, now: Instant) -> Event {
        self.next = INITIAL_ID;
        self.expected = INITIAL_ID;
        write_control(&mut self.output, PacketType::Reset, 0);
        let repeated = self.repeat(now).is_some();
        Event::Reset { repeated }
    }

    fn ask_again(&mut self) {
        write_control(&mut self.output, PacketType::Resend, 0);
    }
}
