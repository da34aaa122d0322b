//! Serves a toy domain to gdb and lldb: `cargo run --example toy`, then `gdb -ex 'target remote :PORT'`.

#[path = "../tests/common/toy.rs"]
mod toy;

use gdb_bridge::{Listener, Options, serve};
use introspect::Target;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("target remote {}", listener.local_addr()?);
    let (keep, shutdown) = watch::channel(false);
    let served = serve(Listener::Tcp(listener), Target::new(toy::Toy::new(2)), Options::default(), shutdown).await;
    drop(keep);
    served
}
