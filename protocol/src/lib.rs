//! The KD serial protocol as it goes over the wire, from the kernel's side: no sockets, no guest.
//!
//! ```text
//!  bytes in ─► link::Receiver ─► packet ─► Link ─► Event (break-in, reset, a request's payload)
//!  bytes out ◄──────────────────────────── Link ◄─ send(payload)
//! ```
//!
//! [`link::Link`] is the kernel's half of the link layer: a state machine that is given bytes and the time, and gives
//! events and bytes. The other modules are the structures that the payloads are made of, one theme a file, declared
//! once with their size asserted: [`manipulate`] for requests and replies, [`state_change`] for stops,
//! [`debug_io`] for text, [`version`], and the register blocks in [`context`].
//!
//! Everything that a host sends is hostile: lengths are checked before anything is kept, and what is kept is bounded
//! by [`packet::MAX_PAYLOAD`].
//!
//! ```
//! use protocol::link::{Event, Link, Patience};
//! use protocol::packet::PacketType;
//! use std::time::Instant;
//!
//! let mut link = Link::new();
//! let mut bytes: &[u8] = b"b";
//! assert_eq!(link.receive(&mut bytes, Instant::now()), Some(Event::BreakIn));
//! link.send(PacketType::StateChange64, &[0; 240], Patience::Forever, Instant::now());
//! assert_eq!(link.take_output().len(), 16 + 240 + 1);
//! ```

pub mod api;
pub mod context;
pub mod debug_io;
pub mod link;
pub mod manipulate;
pub mod packet;
pub mod state_change;
pub mod status;
pub mod version;

/// Asserts at compile time that a wire structure has the size that its source says.
macro_rules! assert_size {
    ($($type:ty = $size:expr),+ $(,)?) => {
        $(const _: () = assert!(::std::mem::size_of::<$type>() == $size);)+
    };
}
pub(crate) use assert_size;
