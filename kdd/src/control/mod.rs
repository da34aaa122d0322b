//! The control socket: how the command line, and other clients, talk to a running service.
//!
//! ```text
//!  client                              server
//!  {"id":1,"request":"list"}\n   ──►   one task for each connection
//!                                ◄──   {"id":1,"ok":{"reply":"domains","domains":[]}}\n
//! ```
//!
//! One JSON object a line, requests answered in order; [`message`] lists them all. While a request is under way its
//! [`caller::Caller`] is told of progress and is watched: when it leaves, the work ends. The socket belongs to its
//! owner: mode 0600, in a directory of mode 0700, and a peer of another user is turned away. Lines, connections
//! and memory chunks are bounded; garbage gets an error reply.

pub mod caller;
pub mod client;
mod guest_view;
pub mod hex;
pub mod line;
pub mod message;
pub mod server;
pub mod socket;
