//! Serves a toy domain to gdb and lldb: `cargo run --example toy`, then paste the line it prints.

#[path = "../tests/common/toy.rs"]
mod toy;

use gdb_bridge::server::{ListenAddress, listen};
use introspect::Target;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let any = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    let endpoint = listen(Target::new(toy::Toy::new(2)), any).await?;
    println!("target remote {}", endpoint.address);
    std::future::pending().await
}
