//! What isn't gdb, on gdb's port.

use super::{attached, sessions_become};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tests::{LIMIT, Service};

/// Sends bytes, reads what comes until the other side closes or has nothing to say, and goes.
fn send(service: &Service, bytes: &[u8]) {
    let mut stream = TcpStream::connect(service.gdb_address()).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a limit");
    // The other side may have closed by now, which is its right.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 64 << 20);
}

fn packet(body: &str) -> Vec<u8> {
    let sum = body.bytes().fold(0_u8, u8::wrapping_add);
    format!("${body}#{sum:02x}").into_bytes()
}

#[test]
fn garbage_disturbs_nobody() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.run(&format!("break *{:#x}", snapshot.symbol("__x64_sys_sethostname")));
    gdb.begin("continue");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20 {
        let bytes: Vec<u8> = (0..5000)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            })
            .collect();
        send(&service, &bytes);
    }
    let half: &[&[u8]] = &[
        b"",
        b"$",
        b"$g",
        b"$g#",
        b"$g#0",
        b"$g#00",
        b"+",
        b"-----",
        b"\x03\x03\x03",
        b"$}",
        b"$qSupported",
    ];
    half.iter().for_each(|bytes| send(&service, bytes));
    for body in [
        "m0,ffffffffffffffff",
        "mffffffffffffffff,ffffffff",
        "M0,ffffffff:00",
        "X0,ffffffffffffffff:",
        "x0,ffffffffffffffff",
        "Z0,0,ffffffffffffffff",
        "Z2,0,ffffffffffffffff",
        "Z0,1,1;Xffffffff,00",
        "Z0,1,1;X4,22ffff",
        "vCont;s:ffffffffffffffff",
        "vCont;r0,ffffffffffffffff:1",
        "Hgffffffffffffffffff",
        "P9999=00",
        "pffffffffffffffff",
        "G00",
        "qRcmd,zz",
        "qRcmd,",
        "qSearch:memory:0;ffffffffffffffff;aaaa",
        "qCRC:0,ffffffffffffffff",
        "qXfer:features:read:target.xml:ffffffffffffffff,ffffffffffffffff",
        "qXfer:features:read:../../../etc/passwd:0,fff",
        "vFile:open:2f,0,0",
        "vRun;",
        "k",
    ] {
        send(&service, &packet(body));
    }
    let long = "q".repeat(8 << 20);
    send(&service, long.as_bytes());
    send(&service, &packet(&long));

    // The debugger that was there all the time goes on.
    sessions_become(&service, 1);
    service.console().types("hostname x\r");
    loop {
        let stop = gdb.end();
        if stop.contains("Breakpoint 1, ") {
            break;
        }
        // One of those above stopped the guest for a moment.
        assert!(stop.contains("SIG"), "{stop}");
        gdb.begin("continue");
    }
    gdb.detach();
    service.console().answers();
}

#[test]
fn a_thousand_connections_disturb_nobody() {
    let Some((snapshot, mut service, mut gdb)) = attached() else {
        return;
    };
    gdb.run(&format!("break *{:#x}", snapshot.symbol("__x64_sys_sethostname")));
    let address = service.gdb_address();
    let mut open = Vec::new();
    for n in 0..1000 {
        let Ok(stream) = TcpStream::connect(&address) else {
            continue;
        };
        if n % 4 == 0 {
            open.push(stream);
        }
    }
    gdb.begin("continue");
    let begun = service.console().begin("hostname x");
    assert!(gdb.end().contains("Breakpoint 1, "));
    drop(open);
    sessions_become(&service, 1);
    let time = service.state("vm").1;
    gdb.run("stepi");
    assert_eq!(service.state("vm").1, time + 1);
    gdb.detach();
    assert_eq!(service.console().result(begun, LIMIT).1, 0);
}
