//! The answer to a request: its header, given back with the outcome in it, and its data, built in place.

use protocol::manipulate::Manipulate;
use protocol::status::NtStatus;
use zerocopy::IntoBytes;

const HEADER: usize = size_of::<Manipulate>();

/// A reply under construction. One buffer serves all replies of a session.
#[derive(Default)]
pub(super) struct Reply {
    payload: Vec<u8>,
    finished: bool,
}

impl Reply {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.payload.clear();
        self.finished = false;
    }

    /// Room for `count` bytes of data, zeroed.
    pub fn data(&mut self, count: usize) -> &mut [u8] {
        self.payload.clear();
        self.payload.resize(HEADER + count, 0);
        &mut self.payload[HEADER..]
    }

    /// It is this header with this outcome, and the first `count` bytes of the data.
    pub fn finish(&mut self, mut header: Manipulate, status: NtStatus, count: usize) {
        header.set_status(status);
        self.payload.resize(HEADER + count, 0);
        self.payload[..HEADER].copy_from_slice(header.as_bytes());
        self.finished = true;
    }

    /// It is this header with this outcome and this data.
    pub fn finish_with(&mut self, header: Manipulate, status: NtStatus, data: &[u8]) {
        self.data(data.len()).copy_from_slice(data);
        self.finish(header, status, data.len());
    }

    /// The payload, if there is to be a reply.
    pub fn payload(&self) -> Option<&[u8]> {
        self.finished.then_some(&self.payload)
    }
}
