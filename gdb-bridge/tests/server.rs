//! The server over real sockets.

mod common;

use common::packet;
use common::toy::Toy;
use gdb_bridge::server::{Endpoint, ListenAddress, listen};
use hv_core::introspect::{DomainState, Introspect};
use introspect::Target;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const PATIENCE: Duration = Duration::from_secs(20);

async fn tcp(target: &std::sync::Arc<Target>) -> (Endpoint, std::net::SocketAddr) {
    let any = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    let endpoint = listen(target.clone(), any).await.unwrap();
    let ListenAddress::Tcp(address) = endpoint.address else {
        panic!("not tcp")
    };
    (endpoint, address)
}

/// Waits until `done`, with a limit.
async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it happens in time");
}

/// Sends a packet and reads up to the end of the answer.
async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), body: &str) -> String {
    stream.write_all(&packet(body.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while answer.len() < 4 || answer[answer.len() - 3] != b'#' {
            answer.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn clients_are_served_and_a_lost_connection_lets_the_guest_run() {
    let toy = Toy::new(1);
    let target = Target::new(toy.clone());
    let (_endpoint, address) = tcp(&target).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut stream, "?").await.starts_with("+$T05"));
    assert!(matches!(toy.state(), DomainState::Paused(_)));
    // It continues, and dies while the guest runs to a breakpoint in a loop.
    assert_eq!(ask(&mut stream, "Z0,1006,1").await, "+$OK#9a");
    assert!(ask(&mut stream, "vCont;c").await.contains("T05"));
    stream.write_all(b"$vCont;r0,ffff").await.unwrap();
    drop(stream);
    until(|| target.sessions().is_empty() && toy.state() == DomainState::Running).await;
}

#[tokio::test]
async fn a_thousand_connections_are_mostly_closed_at_once() {
    let target = Target::new(Toy::new(1));
    let (_endpoint, address) = tcp(&target).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut first, "qC").await, "+$QC1#c5");
    let mut others = Vec::new();
    for _ in 0..1000 {
        others.push(TcpStream::connect(address).await.unwrap());
    }
    // The last one is closed; the first is served as before.
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, others[999].read(&mut byte))
        .await
        .expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(target.sessions().len() <= 16);
    assert_eq!(ask(&mut first, "qC").await, "+$QC1#c5");
    drop(others);
    until(|| target.sessions().len() == 1).await;
    // A session's place is free a moment after the session is gone.
    let served = async {
        loop {
            let mut next = TcpStream::connect(address).await.unwrap();
            let mut ack = [0];
            if next.write_all(&packet(b"qC")).await.is_ok() && matches!(next.read(&mut ack).await, Ok(1)) {
                return ack;
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(PATIENCE, served)
            .await
            .expect("served in time"),
        [b'+']
    );
}

#[tokio::test]
async fn dropping_the_endpoint_ends_its_sessions() {
    let toy = Toy::new(1);
    let target = Target::new(toy.clone());
    let (endpoint, address) = tcp(&target).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, "?").await;
    drop(endpoint);
    until(|| target.sessions().is_empty() && toy.state() == DomainState::Running).await;
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_unix_socket_is_the_owners_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("gdb-bridge-{}.sock", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let target = Target::new(Toy::new(1));
    let endpoint = listen(target.clone(), ListenAddress::Unix(path.clone()))
        .await
        .unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        listen(target.clone(), ListenAddress::Unix(path.clone()))
            .await
            .is_err(),
        "in use"
    );
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream, "qC").await, "+$QC1#c5");
    drop(endpoint);
    assert!(!path.exists());
}
