//! Breakpoints whose commands are carried out in the service: gdb's `dprintf` in agent style.

mod common;

use common::toy::{CELL, LOOP};
use common::{Client, domain, text};
use hv_core::introspect::{DomainState, Introspect};

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `printf(format, rax)` as gdb compiles it: the value, the channel, the function, and the print.
fn command(format: &str, before: &[u8]) -> String {
    let mut code = before.to_vec();
    code.extend([0x26, 0, 0, 0x22, 0, 0x22, 0, 0x34, 1]);
    code.extend((format.len() as u16 + 1).to_be_bytes());
    code.extend(format.bytes());
    code.extend([0, 0x27]);
    format!("X{:x},{}", code.len(), digits(&code))
}

#[test]
fn a_dprintf_prints_and_the_guest_does_not_stop() {
    let (toy, target) = domain(1);
    let mut client = Client::attach(&target);
    let breakpoint = format!("Z0,{:x},1;cmds:1,{}", LOOP + 3, command(r"rax=%ld\n", &[]));
    assert_eq!(client.ask(&breakpoint), "OK");
    client.session.receive(&common::packet(b"vCont;c"));
    let mut printed = String::new();
    while printed.lines().count() < 3 {
        printed += &text(&client.next());
    }
    let first: u64 = printed.lines().next().unwrap()["rax=".len()..].parse().unwrap();
    assert!(
        printed.starts_with(&format!("rax={first}\nrax={}\n", first + 1)),
        "{printed}"
    );
    assert_eq!(toy.state(), DomainState::Running);
    client.raw(&[3]);
    // What was printed before comes before the stop.
    let mut answer = client.next();
    while answer.starts_with('O') {
        answer = client.next();
    }
    assert!(answer.starts_with("T02"), "{answer}");
}

#[test]
fn a_dprintf_has_a_condition_and_prints_while_stepping() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    // rax % 1000 == 7
    let condition = "Xb,2600002303e80822071327";
    let breakpoint = format!("Z0,{:x},1;{condition};cmds:0,{}", LOOP + 3, command("%lu;", &[]));
    assert_eq!(client.ask(&breakpoint), "OK");
    client.raw(&common::packet(b"vCont;c"));
    let printed = text(&client.next());
    let values: Vec<u64> = printed
        .split_terminator(';')
        .map(|v| v.parse().unwrap())
        .collect();
    assert!(values.iter().all(|v| v % 1000 == 7), "{printed}");
    client.raw(&[3]);
    while client.next().starts_with('O') {}
    // A range step goes over it.
    assert_eq!(
        client.ask(&format!("Z0,{:x},1;cmds:0,{}", LOOP + 3, command("%ld!", &[]))),
        "OK"
    );
    assert_eq!(client.ask("P10=0010000000000000"), "OK");
    assert!(text(&client.ask("vCont;r1000,1006:1")).ends_with('!'));
    assert!(client.next().starts_with("T05"));
}

#[test]
fn a_dprintf_that_fails_says_so_and_hostile_ones_are_refused() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    let reads_nothing = [0x25, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0x1a, 0x29];
    let breakpoint = format!("Z0,{:x},1;cmds:1,{}", LOOP + 3, command("x", &reads_nothing));
    // A format without a value takes none.
    assert_eq!(client.ask(&breakpoint), "E22");
    let breakpoint = format!("Z0,{:x},1;cmds:1,{}", LOOP + 3, command("%d", &reads_nothing));
    assert_eq!(client.ask(&breakpoint), "OK");
    client.raw(&common::packet(b"vCont;c"));
    assert!(text(&client.next()).starts_with("[a dprintf at 0x1003 failed: no memory at 0xffff"));
    client.raw(&[3]);
    while client.next().starts_with('O') {}
    for broken in [
        "cmds:",
        "cmds:1",
        "cmds:1,",
        "cmds:1,X",
        "cmds:1,X3,340101",
        "cmds:1,X5,3400000127",
    ] {
        assert_eq!(
            client.ask(&format!("Z0,{:x},1;{broken}", LOOP + 3)),
            "E22",
            "{broken}"
        );
    }
    // A condition can't print.
    assert_eq!(
        client.ask(&format!("Z0,{CELL:x},1;{}", command("%d", &[]))),
        "E22"
    );
}
