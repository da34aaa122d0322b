//! Seats, refusals, and how an endpoint ends.

use endpoint::{Connection, Endpoint, ListenAddress, Manners, Sessions, Shutdown, Stream};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

const LIMIT: Duration = Duration::from_secs(20);

fn manners(seats: usize, grace: Duration) -> Manners {
    Manners {
        protocol: "echo",
        debugger: "client",
        seats,
        grace,
    }
}

async fn echo(mut stream: Box<dyn Stream>, _peer: String, mut shutdown: Shutdown) -> io::Result<()> {
    let mut bytes = [0; 100];
    loop {
        let read = tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
            read = stream.read(&mut bytes) => read?,
        };
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..read]).await?;
    }
}

async fn tcp(seats: usize, grace: Duration) -> (Endpoint, String) {
    let sessions = Sessions::new(manners(seats, grace), echo);
    let endpoint = sessions.listen(ListenAddress::LOOPBACK).await.unwrap();
    let address = endpoint.address.to_string();
    (endpoint, address)
}

fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kdd-endpoint-{}-{name}", std::process::id()))
}

/// Whether what is sent comes back, and not the end of the connection.
async fn answers(stream: &mut (impl Stream + ?Sized)) -> bool {
    let mut back = [0; 2];
    // A refused one may break at the write.
    let _ = stream.write_all(b"hi").await;
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut back)).await;
    read.expect("neither an answer nor an end").is_ok() && back == *b"hi"
}

#[tokio::test]
async fn one_more_than_there_are_seats_is_refused_until_one_leaves() {
    let (_endpoint, address) = tcp(2, Duration::ZERO).await;
    let connect = || async { TcpStream::connect(&address).await.unwrap() };
    let (mut first, mut second) = (connect().await, connect().await);
    assert!(answers(&mut first).await && answers(&mut second).await);
    assert!(!answers(&mut connect().await).await);
    assert!(answers(&mut first).await, "the others go on");
    drop(second);
    let end = tokio::time::Instant::now() + LIMIT;
    while !answers(&mut connect().await).await {
        assert!(tokio::time::Instant::now() < end, "the seat stays taken");
    }
}

#[tokio::test]
async fn with_grace_the_next_one_waits_for_the_one_that_leaves() {
    let (_endpoint, address) = tcp(1, LIMIT).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        assert!(answers(&mut stream).await);
    }
}

#[tokio::test]
async fn dropping_an_endpoint_ends_its_sessions_and_its_socket() {
    let path = socket("drop");
    let sessions = Sessions::new(manners(1, Duration::ZERO), echo);
    let endpoint = sessions.listen(ListenAddress::Unix(path.clone())).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it is its owner's alone");
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(answers(&mut stream).await);
    drop(endpoint);
    assert!(!answers(&mut stream).await);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let path = socket("stale");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = || Sessions::new(manners(1, Duration::ZERO), echo).listen(ListenAddress::Unix(path.clone()));
    let endpoint = listen().await.unwrap();
    let second = listen().await.map(|_| ()).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(answers(&mut stream).await, "the first one still listens");
    drop(endpoint);

    std::fs::write(&path, "a file").unwrap();
    assert!(listen().await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn connections_from_elsewhere_are_served_one_after_the_other() {
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = host.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let sessions = Sessions::new(manners(1, Duration::ZERO), echo);
    let endpoint = sessions.serve_each("a call", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { Connection::tcp(TcpStream::connect(to).await?, to.to_string()) }
    });
    for served in 1..4 {
        let (mut stream, _) = host.accept().await.unwrap();
        assert!(answers(&mut stream).await);
        assert_eq!(calls.load(Ordering::SeqCst), served);
    }
    let (mut stream, _) = host.accept().await.unwrap();
    drop(endpoint);
    assert!(!answers(&mut stream).await);
}

#[tokio::test]
async fn what_no_buffer_holds_goes_both_ways_all_the_same() {
    let (_endpoint, address) = tcp(1, Duration::ZERO).await;
    let (mut from, mut to) = TcpStream::connect(&address).await.unwrap().into_split();
    let sent: Vec<u8> = (0..8u32 << 20)
        .map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8)
        .collect();
    let written = sent.clone();
    // More than the sockets' buffers hold.
    let writer = tokio::spawn(async move { to.write_all(&written).await });
    let mut back = vec![0; sent.len()];
    let read = tokio::time::timeout(LIMIT, from.read_exact(&mut back)).await;
    read.expect("it stands still").unwrap();
    assert!(back == sent);
    writer.await.unwrap().unwrap();
}
