//! Console input on its way to the guest: a serial port takes a FIFO's worth at a time, people paste kilobytes.

use super::guest::{Guest, SERIAL_PORTS};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes kept for one port; what comes beyond is lost, as on a real line.
const CAPACITY: usize = 1 << 20;

/// The bytes that the guest hasn't taken yet.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct PendingInput {
    ports: [VecDeque<u8>; SERIAL_PORTS],
}

impl PendingInput {
    pub fn is_empty(&self) -> bool {
        self.ports.iter().all(VecDeque::is_empty)
    }

    pub fn push(&mut self, port: usize, bytes: &[u8]) {
        let Some(queue) = self.ports.get_mut(port) else {
            tracing::debug!(port, "console input for a serial port that isn't there");
            return;
        };
        let room = CAPACITY.saturating_sub(queue.len()).min(bytes.len());
        if room < bytes.len() {
            tracing::warn!(
                port,
                lost = bytes.len() - room,
                "the guest doesn't read its console input"
            );
        }
        queue.extend(&bytes[..room]);
    }

    /// Gives the guest what it takes; the number of bytes.
    pub fn feed<G: Guest>(&mut self, guest: &mut G) -> usize {
        let mut total = 0;
        for (port, queue) in self.ports.iter_mut().enumerate() {
            while !queue.is_empty() {
                let (bytes, _) = queue.as_slices();
                let taken = guest.console_input(port, bytes).min(bytes.len());
                if taken == 0 {
                    break;
                }
                tracing::trace!(port, taken, at = guest.now().0, "console input");
                queue.drain(..taken);
                total += taken;
            }
        }
        total
    }
}
