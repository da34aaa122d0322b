//! A KD debugger for tests, written from a description of the protocol: it shares no code with the stub.
//!
//! ```text
//!  a test ── KdClient ──► Wire ──► TCP [ ──► Relay, which records and spoils ] ──► the target
//!    requests.rs │  client.rs: ids, resending      relay.rs                         FakeTarget, or kdd
//!    message.rs ─┘  packet.rs: framing
//! ```

mod client;
mod fake;
mod message;
pub mod packet;
mod relay;
pub mod requests;
mod target;
mod wire;

pub use client::KdClient;
pub use fake::{FakeCpu, FakeMachine};
pub use message::{
    Api, BREAKPOINT, Manipulate, SINGLE_STEP, SUCCESS, StateChange, UNSUCCESSFUL, Version, api,
};
pub use relay::{Capture, Faults, Piece, Random, Relay};
pub use target::FakeTarget;
pub use wire::{Trouble, Wire};
