//! Places where debuggers connect, whatever they speak.
//!
//! ```text
//!  TCP, Unix socket ─► Listener ─┐
//!  what a protocol has besides   ├─► Connection ─► Sessions: a seat, a thread ─► the protocol's own session
//!  (a terminal, a call out) ─────┘                     ▲
//!  Endpoint, dropped ──────────── Shutdown ────────────┘
//! ```
//! A protocol says how many debuggers there may be and what happens over the [`Stream`] of one ([`Sessions::new`]);
//! here is what is the same for all of them. Each session has a thread of its own with a small runtime, because calls
//! into a domain block: a pause waits for the vCPUs, a step runs guest code. So one session never waits for another.
//!
//! Nothing here knows of guests or protocols.
//!
//! ```
//! use endpoint::{ListenAddress, Manners, Sessions};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! async fn echo() -> std::io::Result<()> {
//!     let manners = Manners { protocol: "echo", debugger: "client", seats: 4, grace: std::time::Duration::ZERO };
//!     let sessions = Sessions::new(manners, |mut stream, _peer, mut shutdown| async move {
//!         let mut bytes = [0; 100];
//!         loop {
//!             let read = tokio::select! {
//!                 read = stream.read(&mut bytes) => read?,
//!                 () = shutdown.wait() => return Ok(()),
//!             };
//!             if read == 0 {
//!                 return Ok(());
//!             }
//!             stream.write_all(&bytes[..read]).await?;
//!         }
//!     });
//!     let endpoint = sessions.listen(ListenAddress::LOOPBACK).await?;
//!     println!("nc {}", endpoint.address);
//!     std::future::pending().await // dropping the endpoint ends its sessions
//! }
//! ```

mod address;
mod connection;
mod listener;
mod sessions;
mod shutdown;

pub use address::ListenAddress;
pub use connection::{Connection, Stream};
pub use sessions::{Manners, Sessions};
pub use shutdown::{Endpoint, Shutdown};
