//! Bytes from a gdb client into a session over a real, running domain.
//!
//! The input is a list of pieces: a control byte, then a packet's body up to a zero byte. The control byte says
//! whether the packet is framed rightly, and what happens after it. When the session goes, the domain must not be
//! left held.

use super::Target;
use crate::input::Input;
use crate::lab;
use gdb_bridge::{GdbSession, Options};
use hv_core::introspect::DomainState;
use hv_core::{DomainConfig, Hypervisor};
use introspect::TargetEvent;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// See the module.
pub const TARGET: Target = Target {
    name: "rsp_session",
    run,
    seeds,
    words: PACKETS,
    longest: 4096,
};

/// Packets that do something.
const PACKETS: &[&[u8]] = &[
    b"qSupported:multiprocess+;swbreak+;hwbreak+",
    b"QStartNoAckMode",
    b"?",
    b"g",
    b"G00112233",
    b"p10",
    b"P10=0010000000000000",
    b"P0=ffffffffffffffff",
    b"m1000,40",
    b"x1000,40",
    b"x0,ffffffff",
    b"mffffffffffffff00,20000",
    b"M9000,2:1234",
    b"X9000,2:}\x03a",
    b"Z0,100025,1",
    b"z0,100025,1",
    b"Z0,100025,1;X9,2600002303e80822071327",
    b"Z0,100025,1;X3,210000",
    b"Z2,8000,8",
    b"Z3,8000,1",
    b"Z4,0,ffffffffffffffff",
    b"z2,8000,8",
    b"vCont;c",
    b"vCont;s:1;c",
    b"vCont;r100020,100040:1",
    b"vCont;c:2",
    b"vCont?",
    b"c",
    b"s",
    b"S05;100020",
    b"C05;100020",
    b"Hg1",
    b"Hg0",
    b"Hc-1",
    b"Hgp1.1",
    b"T1",
    b"qC",
    b"qfThreadInfo",
    b"qsThreadInfo",
    b"qXfer:features:read:target.xml:0,1000",
    b"qXfer:threads:read::0,ffffffffffffffff",
    b"qThreadExtraInfo,1",
    b"qSearch:memory:0;1000;abc",
    b"qSearch:memory:0;ffffffffffffffff;a",
    b"qCRC:0,1000",
    b"qCRC:0,ffffffffffffffff",
    b"qRcmd,68656c70",                     // help
    b"qRcmd,726567697374657273",           // registers
    b"qRcmd,6d73722030786330303030303832", // msr 0xc0000082
    b"qRcmd,706c61636520706879736963616c", // place physical
    b"qRcmd,706879736963616c206f6e",       // physical on
    b"qRcmd,7472616e736c6174652066666666", // translate ffff
    b"qRcmd,696e666f20646f6d61696e",       // info domain
    b"qRcmd,696e666f2064657669636573",     // info devices
    b"qRcmd,7265736574",                   // reset
    b"qHostInfo",
    b"qProcessInfo",
    b"qMemoryRegionInfo:1000",
    b"qRegisterInfo0",
    b"vKill;1",
    b"vAttach;1",
    b"vMustReplyEmpty",
    b"D",
    b"k",
    b"R00",
    b"!",
    b"QNonStop:1",
    b"Qqemu.PhyMemMode:1",
    b"qqemu.PhyMemMode",
];

fn seeds() -> Vec<Vec<u8>> {
    let script = |packets: &[usize]| {
        let mut bytes = vec![0];
        for index in packets {
            bytes.push(3);
            bytes.extend_from_slice(PACKETS[*index]);
            bytes.push(0);
        }
        bytes
    };
    let mut seeds: Vec<_> = (0..PACKETS.len()).map(|index| script(&[0, 2, index])).collect();
    seeds.extend((0..PACKETS.len()).map(|index| script(&[0, 1, 2, 14, 22, index, 28, 3])));
    seeds
}

/// Longer than a thread ever waits for its turn.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A domain and a session on it.
struct Client {
    session: GdbSession,
    events: Receiver<TargetEvent>,
}

impl Client {
    fn connect(target: &Arc<introspect::Target>) -> Option<Client> {
        let (sender, events) = channel();
        let notify = Box::new(move |event| drop(sender.send(event)));
        let session = GdbSession::new(target, "fuzz", Options::default(), notify).ok()?;
        Some(Client { session, events })
    }

    fn give(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.session.is_closed() {
            let taken = self.session.receive(rest);
            rest = &rest[taken..];
            assert!(
                taken > 0 || !self.session.take_output().is_empty(),
                "neither taken nor answered"
            );
        }
    }

    fn turn(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.session.event(event);
        }
        if self.session.is_busy() {
            self.session.work();
        }
        self.session.take_output();
    }
}

/// `$body#checksum`, as the control byte wants it.
fn framed(control: u8, body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    match control & 0x30 {
        0x10 => body.to_vec(),
        0x20 => [b"$", body, format!("#{:02x}", sum ^ 1).as_bytes()].concat(),
        _ => [b"$", body, format!("#{sum:02x}").as_bytes()].concat(),
    }
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let vcpus = 1 + u32::from(input.u8() & 1);
    let hypervisor = Hypervisor::new();
    let config = DomainConfig {
        name: None,
        machine: lab::config(vcpus),
        paused: false,
        throttle: false,
    };
    let Ok(domain) = hypervisor.create(config) else {
        return;
    };
    let target = introspect::Target::new(domain.clone());
    let mut clients: Vec<_> = (0..2).filter_map(|_| Client::connect(&target)).collect();
    let bytes = input.rest();
    for piece in bytes.split_inclusive(|byte| *byte == 0).take(64) {
        let Some((control, body)) = piece.split_first() else {
            continue;
        };
        let body = body.strip_suffix(&[0]).unwrap_or(body);
        let which = usize::from(control & 0x40 != 0);
        let Some(client) = clients.get_mut(which) else {
            continue;
        };
        client.give(&framed(*control, body));
        if control & 1 != 0 {
            client.turn();
        }
        if control & 4 != 0 {
            client.give(b"\x03");
        }
        if control & 8 != 0 {
            clients.iter_mut().for_each(Client::turn);
        }
        for client in &mut clients {
            if client.session.is_closed()
                && let Some(new) = Client::connect(&target)
            {
                *client = new;
            }
        }
    }
    drop(clients);
    assert_eq!(target.sessions().len(), 0, "a session is left");
    // A stop that was on its way is given back by the thread that brought it.
    let start = std::time::Instant::now();
    while let DomainState::Paused(count) = hv_core::introspect::Introspect::state(&*domain) {
        assert!(start.elapsed() < PATIENCE, "left paused {count} times");
        std::thread::yield_now();
    }
    domain.destroy();
}
