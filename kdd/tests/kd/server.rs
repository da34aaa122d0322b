//! The server: transports, one debugger at a time, connections that break.

use crate::guest::TestGuest;
use hv_core::introspect::{DomainState, Introspect};
use kdd::kd::server::{Endpoint, listen};
use kdd::parse::KdAddress;
use protocol::api::Api;
use protocol::manipulate::Manipulate;
use protocol::packet::{INITIAL_ID, PacketType, write_control, write_data};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use zerocopy::IntoBytes;

const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    guest: TestGuest,
    endpoint: Option<Endpoint>,
    _runtime: Runtime,
}

fn serve(address: &str) -> Served {
    let guest = TestGuest::running(1);
    let runtime = Runtime::new().unwrap();
    let listening = listen(guest.target.clone(), address.parse().unwrap(), guest.recogniser());
    let endpoint = runtime.block_on(listening).unwrap();
    Served {
        guest,
        endpoint: Some(endpoint),
        _runtime: runtime,
    }
}

impl Served {
    fn address(&self) -> KdAddress {
        self.endpoint.as_ref().unwrap().address.clone()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address().to_string()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Until no debugger is there, and the guest runs.
    fn until_alone(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.guest.target.sessions().is_empty() || self.guest.domain.state() != DomainState::Running {
            assert!(Instant::now() < end, "it is {:?}", self.guest.domain.state());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn reset() -> Vec<u8> {
    let mut bytes = Vec::new();
    write_control(&mut bytes, PacketType::Reset, 0);
    bytes
}

/// Says RESET, and reads the answer: a RESET and a report.
fn attach(stream: &mut (impl Read + Write)) {
    stream.write_all(&reset()).unwrap();
    let mut answer = vec![0; 16 + 16 + 240 + 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..16], reset());
    assert_eq!(answer[16..22], *b"0000\x07\0");
    assert_eq!(answer[answer.len() - 1], 0xaa);
}

#[test]
fn a_debugger_attaches_over_tcp_and_the_next_one_at_once_when_it_is_gone() {
    let served = serve("127.0.0.1:0");
    for _ in 0..20 {
        let mut stream = served.connect();
        attach(&mut stream);
        assert_eq!(served.guest.domain.state(), DomainState::Paused(1));
        drop(stream);
        served.until_alone();
    }
}

#[test]
fn a_second_debugger_is_refused_and_the_first_goes_on() {
    let served = serve("127.0.0.1:0");
    let mut first = served.connect();
    attach(&mut first);
    let mut second = served.connect();
    assert_eq!(second.read(&mut [0; 10]).unwrap_or(0), 0, "it is closed");
    attach(&mut first);
}

#[test]
fn a_connection_that_ends_at_any_byte_leaves_the_guest_running() {
    let served = serve("127.0.0.1:0");
    let mut all = reset();
    let request = Manipulate::request(Api::GetVersion, 0);
    write_data(
        &mut all,
        PacketType::StateManipulate,
        INITIAL_ID,
        request.as_bytes(),
    );
    for length in 0..=all.len() {
        let mut stream = served.connect();
        stream.write_all(&all[..length]).unwrap();
        if length >= 16 {
            stream.read_exact(&mut [0; 16]).unwrap();
        }
        drop(stream);
        served.until_alone();
    }
}

#[test]
fn a_debugger_attaches_over_a_unix_socket_that_is_the_owners() {
    let folder = std::env::temp_dir().join(format!("kdd-kd-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("kd");
    let mut served = serve(&format!("unix:{}", path.display()));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    attach(&mut UnixStream::connect(&path).unwrap());
    served.until_alone();
    served.endpoint = None;
    assert!(!path.exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn we_connect_to_a_debugger_that_listens_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let served = serve(&format!("connect:{to}"));
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().unwrap();
        attach(&mut stream);
        drop(stream);
        served.until_alone();
    }
}

#[test]
fn a_pseudo_terminal_is_a_serial_line() {
    let served = serve("pty");
    let KdAddress::Pty(Some(path)) = served.address() else {
        panic!("{}", served.address());
    };
    for _ in 0..2 {
        let mut options = std::fs::OpenOptions::new();
        let mut line = options.read(true).write(true).open(&path).unwrap();
        attach(&mut line);
        drop(line);
        served.until_alone();
    }
}

#[test]
fn an_endpoint_that_is_dropped_ends_its_session() {
    let mut served = serve("127.0.0.1:0");
    let mut stream = served.connect();
    attach(&mut stream);
    served.endpoint = None;
    assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
    served.until_alone();
}
