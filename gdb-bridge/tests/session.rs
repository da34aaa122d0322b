//! Sessions with a toy domain, packet by packet.

mod common;

use common::toy::{CELL, LOOP, MEMORY, SECOND};
use common::{Client, domain, expedited, monitor, packet, text};
use hv_core::introspect::{DomainState, Introspect, ReadRegisters};

#[test]
fn connecting_alone_leaves_the_guest_running() {
    let (toy, target) = domain(1);
    let mut client = Client::connect(&target);
    client.raw(b"+");
    client.raw(&packet(b"qSupported:swbreak+"));
    assert_eq!(toy.state(), DomainState::Running);
    assert!(client.ask("vMustReplyEmpty").starts_with("PacketSize="));
    assert_eq!(client.next(), "");
}

#[test]
fn the_opening_of_gdb_13_is_answered() {
    let (_toy, target) = domain(2);
    let mut client = Client::connect(&target);
    client.raw(b"+");
    let features =
        client.ask("qSupported:multiprocess+;swbreak+;hwbreak+;qRelocInsn+;fork-events+;vContSupported+");
    for feature in [
        "PacketSize=20000",
        "ConditionalBreakpoints+",
        "qXfer:features:read+",
        "QStartNoAckMode+",
    ] {
        assert!(features.contains(feature), "{features}");
    }
    assert_eq!(client.ask("vMustReplyEmpty"), "");
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    client.raw(b"+");
    assert_eq!(client.ask("Hg0"), "OK");
    let description = client.ask("qXfer:features:read:target.xml:0,1000");
    assert!(description.starts_with("m<?xml"), "{description}");
    assert_eq!(client.ask("qTStatus"), "");
    assert!(client.ask("?").starts_with("T05thread:1;"));
    assert!(
        client
            .ask("qXfer:threads:read::0,1000")
            .contains("name=\"vCPU 1\"")
    );
    assert_eq!(client.ask("qAttached"), "1");
    assert_eq!(client.ask("Hc-1"), "OK");
    assert_eq!(client.ask("qOffsets"), "");
    assert_eq!(client.ask("qC"), "QC1");
    assert_eq!(client.ask("qfThreadInfo"), "m01,02");
    assert_eq!(client.ask("qsThreadInfo"), "l");
    assert_eq!(client.ask("T2"), "OK");
    assert_eq!(client.ask("T3"), "E01");
    assert_eq!(client.ask("vCont?"), "vCont;c;C;s;S;r");
    assert_eq!(client.ask("D"), "OK");
    assert!(client.session.is_closed());
}

#[test]
fn a_damaged_packet_is_refused_and_the_last_answer_repeated() {
    let (_toy, target) = domain(1);
    let mut client = Client::connect(&target);
    client.raw(b"$qC#00");
    assert_eq!(client.session.take_output(), b"-");
    client.raw(&packet(b"qC"));
    assert_eq!(client.session.take_output(), b"+$QC1#c5");
    client.raw(b"-");
    assert_eq!(client.session.take_output(), b"$QC1#c5");
}

#[test]
fn memory_ends_at_the_first_absent_page() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask(&format!("m{LOOP:x},3")), "48ffc0");
    assert_eq!(client.ask(&format!("m{:x},10", MEMORY - 4)), "00000000");
    assert_eq!(client.ask(&format!("m{MEMORY:x},1")), "E14");
    assert_eq!(client.ask("mffffffffffffffff,8"), "E14");
    assert_eq!(client.ask("m10000,40"), "0*~0*:", "runs are shortened");
    assert_eq!(client.ask(&format!("x{LOOP:x},1")), "bH");
    assert_eq!(client.ask("M9000,2:1234"), "OK");
    assert_eq!(client.ask("M9000,3:1234"), "E22");
    client.raw(&packet(b"X9002,2:}\x03}\x04"));
    assert_eq!(client.next(), "OK");
    assert_eq!(client.ask("m9000,4"), "12342324");
    assert_eq!(client.ask(&format!("M{:x},2:1234", MEMORY - 1)), "E14");
    assert_eq!(client.ask("X0,0:"), "OK");
}

#[test]
fn physical_addresses_are_chosen_by_packet_and_by_command() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("qqemu.PhyMemMode"), "0");
    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(client.ask("qqemu.PhyMemMode"), "1");
    assert!(monitor(&mut client, "physical off").contains("virtual"));
    assert_eq!(client.ask("qqemu.PhyMemMode"), "0");
}

#[test]
fn registers_are_read_and_written_one_by_one_and_together() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("P3=efcdab8967452301"), "OK");
    assert_eq!(client.ask("p3"), "efcdab8967452301");
    assert_eq!(client.ask("P20=00000000000000ff"), "E22", "reserved bits of EFER");
    assert_eq!(client.ask("P3=00"), "E22", "too short");
    assert_eq!(client.ask("pffff"), "");
    let all = client.ask("g");
    let changed = format!("{}{}", "1100000000000000", &all[16..]);
    assert_eq!(client.ask(&format!("G{changed}")), "OK");
    assert_eq!(client.ask("g"), changed);
}

#[test]
fn the_system_registers_are_one_register_too() {
    let (toy, target) = domain(1);
    let mut client = Client::attach(&target);
    client.ask("qSupported:vContSupported+");
    let mut description = String::new();
    while !description.ends_with("</target>\n") {
        let part = client.ask(&format!(
            "qXfer:features:read:target.xml:{:x},4000",
            description.len()
        ));
        description.push_str(&part[1..]);
    }
    let register = description.lines().find(|line| line.contains("name=\"system\""));
    let number = register
        .and_then(|line| line.split("regnum=\"").nth(1))
        .and_then(|r| r.split('"').next());
    let number: usize = number.expect("a number").parse().unwrap();
    let all = client.ask(&format!("p{number:x}"));
    // k_gs_base, cr0, cr2, cr3 come first.
    let cr2 = client.ask("p1c");
    assert_eq!(all[32..48], cr2);
    let changed = format!("{}efbeadde00000000{}", &all[..32], &all[48..]);
    assert_eq!(client.ask(&format!("P{number:x}={changed}")), "OK");
    assert_eq!(toy.registers(hv_core::VcpuId(0)).unwrap().cr2, 0xdead_beef);
    // It isn't part of `g`.
    let g = client.ask("g").len();
    assert!(g < 2 * 1000 && all.len() > 2 * 300, "{g} {}", all.len());
}

#[test]
fn a_breakpoint_stops_before_its_instruction() {
    let (toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("Z0,1006,1"), "OK");
    let stop = client.ask("vCont;c");
    assert!(stop.starts_with("T05thread:01;swbreak:;"), "{stop}");
    assert_eq!(expedited(&stop, "10"), 0x1006);
    assert_eq!(client.ask("?"), stop, "the last stop is told again");
    assert_eq!(client.ask("z0,1006,1"), "OK");
    assert_eq!(client.ask("Z1,1009,1"), "OK");
    assert!(client.ask("vCont;c").contains("hwbreak:;"));
    assert_eq!(client.ask("D"), "OK");
    assert_eq!(toy.state(), DomainState::Running);
}

#[test]
fn a_condition_is_evaluated_in_the_service() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    // rax % 1000 == 7: reg 0, const16 1000, rem_unsigned, const8 7, equal, end.
    assert_eq!(
        client.ask("Z0,1003,1;X9,2600002303e80822071327"),
        "E22",
        "a wrong length"
    );
    assert_eq!(client.ask("Z0,1003,1;Xb,2600002303e80822071327"), "OK");
    let stop = client.ask("vCont;c");
    assert_eq!(expedited(&stop, "00") % 1000, 7);
    // The same one without a condition replaces it.
    assert_eq!(client.ask("Z0,1003,1"), "OK");
    let next = client.ask("vCont;c");
    // A domain may or may not stop again where it is.
    assert!(expedited(&next, "00") - expedited(&stop, "00") <= 1);
}

#[test]
fn a_watchpoint_names_address_and_kind() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask(&format!("Z2,{CELL:x},8")), "OK");
    let stop = client.ask("vCont;c");
    assert!(stop.contains("watch:8000;"), "{stop}");
    assert_eq!(expedited(&stop, "10"), LOOP + 6, "after the instruction");
    assert_eq!(client.ask(&format!("z2,{CELL:x},8")), "OK");
    assert_eq!(client.ask(&format!("Z3,{:x},1", CELL + 3)), "OK");
    assert!(client.ask("vCont;c").contains("rwatch:8003;"));
    assert_eq!(client.ask("Z2,8000,0"), "E22");
}

#[test]
fn a_watchpoint_at_a_physical_address_is_said_in_words_and_stops() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    monitor(&mut client, &format!("place physical at {CELL:x}"));
    assert_eq!(client.ask(&format!("Z2,{CELL:x},8")), "OK");
    assert_eq!(text(&client.ask("vCont;c")), "guest-physical 0x8000 is written\n");
    let stop = client.next();
    assert!(stop.starts_with("T05thread:01;00:"), "{stop}");
    // A client whose addresses are physical is told as usual.
    monitor(&mut client, "physical on");
    assert!(client.ask("vCont;c").contains("watch:8000;"));
}

#[test]
fn steps_are_of_one_instruction_and_ranges_of_many() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("P10=0010000000000000"), "OK");
    assert_eq!(expedited(&client.ask("vCont;s:1;c"), "10"), LOOP + 3);
    assert_eq!(expedited(&client.ask("vCont;r1000,100a:1;c"), "10"), LOOP + 0xa);
    assert_eq!(expedited(&client.ask("s"), "10"), LOOP);
    assert_eq!(expedited(&client.ask("vCont;s"), "10"), LOOP + 3);
    // A breakpoint inside the range counts.
    assert_eq!(client.ask("Z0,1009,1"), "OK");
    let stop = client.ask("vCont;r1000,1010:1");
    assert!(stop.contains("swbreak"), "{stop}");
    assert_eq!(expedited(&stop, "10"), LOOP + 9);
}

#[test]
fn a_locked_step_keeps_the_other_vcpus_still() {
    let (_toy, target) = domain(2);
    let mut client = Client::attach(&target);
    let of_second = |client: &mut Client| {
        assert_eq!(client.ask("Hg2"), "OK");
        let registers = client.ask("g");
        assert_eq!(client.ask("Hg1"), "OK");
        registers[..16].to_owned()
    };
    let before = of_second(&mut client);
    for _ in 0..10 {
        client.ask("vCont;s:1");
    }
    assert_eq!(of_second(&mut client), before);
    for _ in 0..10 {
        client.ask("vCont;s:1;c");
    }
    assert_ne!(of_second(&mut client), before);
    // Only the second continues, up to its breakpoint.
    assert_eq!(client.ask("Hg1"), "OK");
    let first = client.ask("g");
    assert_eq!(client.ask(&format!("Z0,{SECOND:x},1")), "OK");
    let stop = client.ask("vCont;c:2");
    assert!(stop.starts_with("T05thread:02;swbreak"), "{stop}");
    assert_eq!(client.ask("Hg1"), "OK");
    assert_eq!(client.ask("g")[..300], first[..300]);
}

#[test]
fn ctrl_c_stops_whatever_runs() {
    let (_toy, target) = domain(2);
    let mut client = Client::attach(&target);
    client.raw(b"\x03");
    assert_eq!(
        client.session.take_output(),
        b"",
        "nothing runs: nothing to interrupt"
    );
    // It crossed a stop that a client may pass over by itself: it counts at once.
    assert!(client.ask("vCont;c").starts_with("T02thread:"));
    // All, one alone, a range that is never left.
    for plan in ["vCont;c", "vCont;c:2", "vCont;r0,ffffffff:1;c"] {
        client.raw(&packet(plan.as_bytes()));
        for _ in 0..3 {
            client.turn();
        }
        client.raw(b"\x03");
        let stop = client.next();
        assert!(stop.starts_with("T02thread:"), "{plan}: {stop}");
    }
}

#[test]
fn a_client_that_dies_leaves_the_guest_running_without_its_breakpoints() {
    let (toy, target) = domain(1);
    for last in ["vCont;c", "vCont;s:1;c", "vCont;r0,ffffffff:1;c", "m1000,1", "qC"] {
        let mut client = Client::attach(&target);
        assert_eq!(client.ask("Z0,1006,1"), "OK");
        let bytes = packet(last.as_bytes());
        client.raw(&bytes);
        client.raw(&bytes[..2]);
        drop(client);
        assert_eq!(toy.state(), DomainState::Running, "after {last}");
        let before = toy.uptime();
        while toy.uptime().0 < before.0 + 10_000 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn two_clients_see_each_others_stops() {
    let (toy, target) = domain(1);
    let mut first = Client::attach(&target);
    let mut second = Client::attach(&target);
    assert_eq!(second.ask("Z0,1006,1"), "OK");
    first.raw(&packet(b"vCont;c"));
    second.raw(&packet(b"vCont;c"));
    assert!(second.next().contains("swbreak"));
    assert_eq!(
        text(&first.next()),
        "the guest is at a breakpoint of another debugger\n"
    );
    let stop = first.next();
    assert!(
        stop.starts_with("T05thread:01;00:"),
        "not its own breakpoint: {stop}"
    );
    drop(second);
    assert!(
        matches!(toy.state(), DomainState::Paused(_)),
        "the first still holds it"
    );
    first.raw(&packet(b"vCont;c"));
    assert_eq!(toy.state(), DomainState::Running);
}

#[test]
fn another_debuggers_stop_is_noted_or_followed() {
    let (_toy, target) = domain(1);
    let mut first = Client::attach(&target);
    first.raw(&packet(b"vCont;c"));
    let second = Client::attach(&target);
    assert!(text(&first.next()).contains("another debugger"));
    drop(second);
    first.raw(b"\x03");
    assert!(first.next().starts_with("T02"));
    assert!(monitor(&mut first, "pause-policy stop").contains("stops too"));
    first.raw(&packet(b"vCont;c"));
    let _second = Client::attach(&target);
    assert!(first.next().starts_with("T05"));
}

#[test]
fn kill_lets_go_and_restart_resets() {
    let (toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("vKill;1"), "OK");
    assert!(client.session.is_closed());
    assert_eq!(toy.state(), DomainState::Running);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("!"), "OK");
    assert_eq!(client.ask("vKill;1"), "OK");
    assert!(!client.session.is_closed(), "extended mode");
    client.raw(&packet(b"R00"));
    let stop = client.ask("?");
    assert_eq!(expedited(&stop, "10"), LOOP);
    assert_eq!(expedited(&stop, "0"), 0);
    assert_eq!(client.ask("D"), "OK");
    assert_eq!(toy.state(), DomainState::Running);
    assert!(client.ask("vAttach;1").starts_with("T05"));
}

#[test]
fn a_client_that_detached_and_stays_sees_no_process_and_holds_nothing() {
    let (toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("!"), "OK");
    assert_eq!(client.ask("D;1"), "OK");
    assert!(!client.ask("qXfer:threads:read::0,1000").contains("<thread "));
    for packet in ["g", "p10", "m1000,4", "Z0,1000,1", "vCont;c", "qC"] {
        assert_eq!(client.ask(packet), "E03", "{packet}");
    }
    monitor(&mut client, "save /nonexistent/file");
    assert_eq!(toy.state(), DomainState::Running);
    assert!(client.ask("vAttach;1").starts_with("T05"));
    assert!(client.ask("qXfer:threads:read::0,1000").contains("<thread "));
    assert!(matches!(toy.state(), DomainState::Paused(_)));
}

#[test]
fn gdb_is_told_why_a_register_is_not_written() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("P1f=ff00000000000000"), "E22");
    client.ask("qSupported:vContSupported+;swbreak+");
    assert_eq!(client.ask("P1f=ff00000000000000"), "E.cr8: the value is too wide");
    assert_eq!(client.ask("P1f=0f00000000000000"), "OK");
    assert_eq!(client.ask("Hg9"), "E03", "reasons don't outlive their packet");
}

#[test]
fn the_end_of_the_guest_is_told() {
    // out 0xf4, al; out 4, al; ud2.
    for (code, prefix) in [("e6f4", "W2a"), ("e604", "W00"), ("0f0b", "T0bthread:01;")] {
        let (_toy, target) = domain(1);
        let mut client = Client::attach(&target);
        assert_eq!(client.ask(&format!("M1000,2:{code}")), "OK");
        assert_eq!(client.ask("P0=2a00000000000000"), "OK");
        assert_eq!(client.ask("P10=0010000000000000"), "OK");
        let mut stop = client.ask("vCont;c");
        if prefix.starts_with('T') {
            assert!(text(&stop).contains("triple fault"));
            stop = client.next();
        }
        assert!(stop.starts_with(prefix), "{stop}");
        assert_eq!(client.ask("?"), stop);
        // Going on leads nowhere.
        client.raw(&packet(b"vCont;c"));
        if prefix.starts_with('T') {
            client.next();
        }
        assert!(client.next().starts_with(prefix));
    }
}

#[test]
fn memory_is_searched_and_summed_in_the_service() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("Ma0000,9:313233343536373839"), "OK");
    assert_eq!(client.ask("qCRC:a0000,9"), "C0376e6e7");
    assert_eq!(client.ask("qCRC:ffffffff00000000,9"), "E14");
    assert_eq!(client.ask("qSearch:memory:0;200000;56789"), "1,a0004");
    assert_eq!(client.ask("qSearch:memory:a0005;1000;56789"), "0");
    assert_eq!(client.ask("qSearch:memory:a0005;ffffffffffffffff;56789"), "E14");
    assert_eq!(client.ask("qSearch:memory:0;10;"), "E22");
}

#[test]
fn monitor_commands_are_listed_and_unknown_ones_say_so() {
    let (_toy, target) = domain(2);
    let mut client = Client::attach(&target);
    let help = monitor(&mut client, "help");
    for command in [
        "registers",
        "msr",
        "translate",
        "info",
        "physical",
        "place",
        "save",
        "fork",
        "reset",
    ] {
        assert!(help.contains(command), "{help}");
        assert!(monitor(&mut client, &format!("help {command}")).starts_with(command));
    }
    assert!(monitor(&mut client, "frobnicate").contains("no such command"));
    assert!(monitor(&mut client, "p").contains("could be"));
    assert!(monitor(&mut client, "registers 1").contains("gdtr_base"));
    assert!(monitor(&mut client, "registers 9").contains("no vCPU 9"));
    assert!(monitor(&mut client, "info domain").contains("toy"));
    assert!(monitor(&mut client, "info sessions").contains("holds the guest"));
    assert!(monitor(&mut client, "msr 10").starts_with("0x"));
    assert!(monitor(&mut client, "msr 999").contains("would fault"));
    assert!(monitor(&mut client, "translate 1000").contains("0x1000"));
    assert!(monitor(&mut client, "translate $rsp + 8").starts_with("0x10008 is physical"));
    assert!(monitor(&mut client, "translate rbx-4").starts_with("0x7ffc is physical"));
    assert!(monitor(&mut client, "translate schedule").contains("eval"));
    assert!(monitor(&mut client, "translate xmm0").contains("neither"));
    assert!(monitor(&mut client, "translate").contains("which address"));
    assert!(monitor(&mut client, "place physical at rbx").contains("at 0x8000 is at guest-physical"));
    assert!(monitor(&mut client, "info interrupts").contains("nothing"));
    assert!(monitor(&mut client, "vcpu 1").contains("mean vCPU 1"));
    assert!(monitor(&mut client, "vcpu 2").contains("only 0 to 1"));
    assert!(monitor(&mut client, "place physical at 8000").contains("guest-physical"));
    assert!(monitor(&mut client, "save /nonexistent/file").contains("can't be saved"));
    assert!(monitor(&mut client, "fork child").contains("kdd fork"));
}

#[test]
fn non_stop_and_unknown_threads_are_refused() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("QNonStop:0"), "OK");
    assert_eq!(client.ask("QNonStop:1"), "E22");
    assert_eq!(client.ask("Hg7"), "E03");
    assert_eq!(client.ask("vCont;s:7"), "E22");
    assert_eq!(client.ask("vCont;t"), "E22");
    assert_eq!(client.ask("Hg1"), "OK", "the session goes on");
}
