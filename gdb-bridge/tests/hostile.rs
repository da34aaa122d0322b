//! Whatever a client sends: no panic, no endless loop, no unbounded answer.

mod common;

use common::toy::Toy;
use common::{Client, packet};
use introspect::Target;

/// Packets that do something, to be mutated.
const SEEDS: &[&str] = &[
    "qSupported:multiprocess+;swbreak+",
    "?",
    "g",
    "G00112233",
    "p10",
    "P10=0010000000000000",
    "m1000,40",
    "x1000,40",
    "mffffffffffffff00,20000",
    "M9000,2:1234",
    "X9000,2:}\u{3}a",
    "Z0,1006,1",
    "z0,1006,1",
    "Z1,1006,1;X9,2600002303e80822071327",
    "Z0,1006,1;X3,210000",
    "Z2,8000,8",
    "Z4,0,ffffffffffffffff",
    "z2,8000,8",
    "vCont;c",
    "vCont;s:1;c",
    "vCont;r1000,1010:1",
    "vCont;c:2",
    "vCont?",
    "c",
    "s",
    "S05;1000",
    "Hg1",
    "Hc-1",
    "Hgp1.1",
    "T1",
    "qC",
    "qfThreadInfo",
    "qXfer:features:read:target.xml:0,1000",
    "qXfer:threads:read::0,ffffffffffffffff",
    "qThreadExtraInfo,1",
    "qSearch:memory:0;1000;abc",
    "qCRC:0,1000",
    "qRcmd,68656c70",
    "qRcmd,706c61636520706879736963616c",
    "qRcmd,7472616e736c6174652066666666",
    "qHostInfo",
    "qProcessInfo",
    "vKill;1",
    "vAttach;1",
    "D",
    "k",
    "R00",
    "!",
    "QStartNoAckMode",
    "QNonStop:1",
    "Qqemu.PhyMemMode:1",
    "\u{3}",
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn mutate(random: &mut Random, body: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = random.below(body.len() + 1);
        match random.below(5) {
            0 if at < body.len() => body[at] = random.next() as u8,
            1 => body.insert(at, b"0123456789abcdef,;:=-+pX"[random.below(24)]),
            2 if at < body.len() => drop(body.remove(at)),
            3 => body.truncate(at),
            4 => body.extend_from_slice(SEEDS[random.below(SEEDS.len())].as_bytes()),
            _ => {}
        }
    }
}

#[test]
fn two_hundred_thousand_broken_packets_break_nothing() {
    let target = Target::new(Toy::new(2));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut client = Client::connect(&target);
    for round in 0..200_000 {
        let mut body = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
        mutate(&mut random, &mut body);
        let mut bytes = packet(&body);
        if round % 16 == 0 {
            mutate(&mut random, &mut bytes);
        }
        client.raw(&bytes);
        if round % 64 == 0 {
            client.raw(b"\x03");
        }
        if client.session.is_busy() {
            client.session.work();
        }
        client.session.take_output();
        if client.session.is_closed() {
            client = Client::connect(&target);
        }
    }
    // And a client that behaves is served.
    drop(client);
    assert_eq!(target.sessions().len(), 0);
    assert!(Client::attach(&target).ask("qfThreadInfo").starts_with("m01,02"));
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let target = Target::new(Toy::new(1));
    let mut client = Client::connect(&target);
    let many = packet(b"x1000,10000").repeat(10_000);
    let taken = client.session.receive(&many);
    assert!(taken < many.len());
    assert!(client.session.output().len() < 2 << 20);
    client.session.take_output();
    assert!(client.session.receive(&many[taken..]) > 0);
}
