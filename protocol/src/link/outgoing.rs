//! A packet on its way to the host, and when it is sent again.

use crate::packet::{PacketType, write_data};
use std::time::{Duration, Instant};

/// How long after a packet is sent it is sent again. Streams lose nothing, so this is for hosts that do.
const RETRY: Duration = Duration::from_secs(1);
/// It grows with every repetition, up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Repetitions of a packet that may be lost (KdpDefaultRetries).
const RETRIES: u32 = 20;

/// How long a packet is repeated that nobody acknowledges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Until it is acknowledged: stops and replies.
    Forever,
    /// A number of times: text, and modules that come and go.
    Limited,
}

/// A packet that waits for its turn.
pub(super) struct Queued {
    pub packet_type: PacketType,
    pub patience: Patience,
    pub payload: Vec<u8>,
}

/// The packet that the host has to acknowledge.
pub(super) struct Outstanding {
    pub packet: Queued,
    retries: u32,
    due: Instant,
}

/// What is due for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Nothing,
    Again,
    GiveUp,
}

impl Outstanding {
    pub fn new(packet: Queued, now: Instant) -> Outstanding {
        Outstanding {
            packet,
            retries: 0,
            due: now + RETRY,
        }
    }

    /// It was asked for again: the wait begins anew.
    pub fn restart(&mut self, now: Instant) {
        self.due = now + RETRY;
    }

    pub fn write(&self, output: &mut Vec<u8>, id: u32) {
        write_data(output, self.packet.packet_type, id, &self.packet.payload);
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    pub fn tick(&mut self, now: Instant) -> Due {
        if now < self.due {
            return Due::Nothing;
        }
        if self.packet.patience == Patience::Limited && self.retries >= RETRIES {
            return Due::GiveUp;
        }
        self.retries += 1;
        self.due = now + (RETRY * (self.retries + 1)).min(LONGEST_RETRY);
        Due::Again
    }
}
