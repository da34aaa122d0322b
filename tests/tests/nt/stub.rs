//! Our own debugger on the NT-shaped guest: every request, wrong packets, bad links, connections that are cut.

use super::windows::{PROFILE, lives};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use tests::kd::packet::{Incoming, Packet, kind, long, quad};
use tests::kd::requests::{CONTEXT, register, selector};
use tests::kd::{Api, Faults, KdClient, Manipulate, Random, Relay, SINGLE_STEP, SUCCESS, Trouble, api};
use tests::{NtGuest, Service, nt_guest, until};

/// A guest with two CPUs, which runs.
fn guest() -> Option<(&'static NtGuest, Service)> {
    let guest = nt_guest(PROFILE, 2)?;
    Some((guest, guest.service()))
}

#[test]
fn the_kernel_is_told_as_it_is() {
    let Some((guest, service)) = guest() else { return };
    let (mut client, stop) = KdClient::attach(&service.kd_address());
    assert_eq!((stop.state, stop.processors), (0x3030, 2));
    assert!(stop.processor < 2);
    let version = client.version();
    assert_eq!(
        (version.major, version.minor, version.protocol, version.secondary),
        (0xf, 19041, 6, 2)
    );
    assert_eq!(version.machine, 0x8664);
    assert_eq!(version.flags & 7, 7, "several CPUs, data list, 64-bit pointers");
    assert_eq!(version.kernel_base, guest.base());
    assert_eq!(version.module_list, guest.symbol("PsLoadedModuleList"));
    let data = client
        .read_quad(version.debugger_data_list)
        .expect("the list's head");
    assert_eq!(data, guest.symbol("KdDebuggerDataBlock"));
    let block = client.read_all(data, 0x60).expect("the block");
    assert_eq!(&block[0x10..0x14], b"KDBG");
    assert_eq!(quad(&block, 0x18), guest.base());
    assert_eq!(quad(&block, 0x48), guest.symbol("PsLoadedModuleList"));
    assert_eq!(quad(&block, 0x50), guest.symbol("PsActiveProcessHead"));

    // The list of processes, walked: as the guest's console tells it.
    let (links, id, name) = (
        guest.field("_EPROCESS", "ActiveProcessLinks"),
        guest.field("_EPROCESS", "UniqueProcessId"),
        guest.field("_EPROCESS", "ImageFileName"),
    );
    let head = guest.symbol("PsActiveProcessHead");
    let mut at = client.read_quad(head).expect("a link");
    for process in guest.processes() {
        assert_eq!(at, process.address + links);
        assert_eq!(client.read_quad(process.address + id), Ok(process.id));
        let text = client.read_all(process.address + name, 15).expect("a name");
        assert!(text.starts_with(process.name.as_bytes()));
        at = client.read_quad(at).expect("a link");
    }
    assert_eq!(at, head);
}

#[test]
fn registers_control_spaces_and_memory_agree() {
    let Some((guest, service)) = guest() else { return };
    let (mut client, stop) = KdClient::attach(&service.kd_address());
    let cpu = stop.processor;
    let context = client.context(cpu).expect("a context");
    assert_eq!(context.len(), CONTEXT);
    assert_eq!(register(&context, "rip"), stop.pc);
    assert_eq!(selector(&context, "cs"), 0x10);
    assert_eq!(long(&context, 0x44), stop.flags());
    assert_eq!(client.context_ex(cpu, 0, CONTEXT as u32), Ok(context.clone()));
    assert_eq!(client.read_virtual(stop.pc, 16).as_deref(), Ok(stop.code_bytes()));
    for cpu in 0..2 {
        let number = |bytes: Vec<u8>| quad(&bytes, 0);
        let pcr = number(client.read_control_space(cpu, 0, 8).expect("KPCR"));
        let prcb = number(client.read_control_space(cpu, 1, 8).expect("KPRCB"));
        let thread = number(client.read_control_space(cpu, 3, 8).expect("KTHREAD"));
        assert_eq!(prcb, pcr + guest.field("_KPCR", "Prcb"));
        let table = guest.symbol("KiProcessorBlock") + 8 * u64::from(cpu);
        assert_eq!(client.read_quad(table), Ok(prcb));
        assert_eq!(
            client.read_quad(prcb + guest.field("_KPRCB", "CurrentThread")),
            Ok(thread)
        );
        let special = client
            .read_control_space(cpu, 2, 0xf0)
            .expect("special registers");
        let cr3 = quad(&special, 0x10);
        assert!(
            guest
                .processes()
                .iter()
                .any(|process| process.root == cr3 & !0xfff)
                || cr3 != 0
        );
        assert_eq!(client.read_msr(cpu, 0xc000_0080).expect("EFER") & 0xd01, 0xd01);
    }
    // The last bytes of a page before nothing.
    assert!(client.read_virtual(0x10, 16).is_err());
    let found = client
        .search(guest.base(), 0x1000, b"PE\0\0")
        .expect("the header");
    let offset = client.read_all(guest.base() + 0x3c, 4).expect("e_lfanew");
    assert_eq!(found, guest.base() + u64::from(long(&offset, 0)));
}

#[test]
fn it_steps_breaks_and_goes() {
    let Some((guest, mut service)) = guest() else {
        return;
    };
    let (mut client, _) = KdClient::attach(&service.kd_address());
    let handle = client
        .write_breakpoint(guest.symbol("KiSwapContext"))
        .expect("a handle");
    assert!((1..=32).contains(&handle));
    assert!(
        client.write_breakpoint(guest.symbol("KiSwapContext")).is_err(),
        "it is there"
    );
    client.go();
    service.console().types("user\r");
    // Called at every switch of threads.
    let hit = client.stopped();
    assert_eq!(
        (hit.code, hit.pc),
        (tests::kd::BREAKPOINT, guest.symbol("KiSwapContext"))
    );
    let place = client.read_virtual(hit.pc, 1).expect("code");
    assert_ne!(place, [0xcc], "a breakpoint is never seen");
    let step = client.step();
    assert_eq!(step.code, SINGLE_STEP);
    assert_eq!(step.dr6() & 0x4000, 0x4000);
    assert_ne!(step.pc, hit.pc);
    assert_eq!(step.flags() & 0x100, 0, "no trap flag");
    let _ = client.restore_breakpoint(handle);
    client.go();
    service.console().shows("system calls", tests::LIMIT);
    lives(&mut service);
}

/// Every API number there is and some that there aren't, with zeros for fields and again with ones.
#[test]
fn every_request_is_answered_or_silent_as_it_should_be() {
    let Some((_guest, mut service)) = guest() else {
        return;
    };
    let (mut client, _) = KdClient::attach(&service.kd_address());
    let harmful = [
        api::REBOOT,
        api::CONTINUE,
        api::CONTINUE2,
        api::CAUSE_BUG_CHECK,
        api::SWITCH_PROCESSOR,
    ];
    let unknown = [0x3163, 0x314a, 0x3000, 0xffff_ffff].map(|number| Api {
        number,
        name: "unknown",
        replies: true,
    });
    for api in api::ALL
        .iter()
        .copied()
        .chain(unknown)
        .filter(|api| !harmful.contains(api))
    {
        for fill in [0, 0xff] {
            let mut request = Manipulate::new(api);
            request.fields = [fill; 40];
            if api.replies {
                let answer = client
                    .ask(&request)
                    .unwrap_or_else(|trouble| panic!("{api:?}: {trouble:?}"));
                assert!(
                    answer.status == SUCCESS || answer.status >= 0x8000_0000,
                    "{api:?}: {answer:?}"
                );
            } else {
                client
                    .tell(&request)
                    .unwrap_or_else(|trouble| panic!("{api:?}: {trouble:?}"));
                assert_eq!(client.quiet(Duration::from_millis(50)), Ok(()), "{api:?}");
            }
        }
    }
    assert_eq!(client.repeats, 0, "each at once");
    assert_eq!(client.version().minor, 19041, "it goes on");
    let other = client.switch_processor(1);
    assert_eq!(other.processor, 1);
    client.go();
    lives(&mut service);
}

#[test]
fn wrong_packets_are_asked_for_again_and_change_nothing() {
    let Some((_guest, mut service)) = guest() else {
        return;
    };
    let (mut client, _) = KdClient::attach(&service.kd_address());
    let request = Manipulate::new(api::GET_VERSION);
    let good = client.packet(&request);
    let limit = Duration::from_secs(10);
    let wrong = [
        Packet {
            checksum: good.checksum + 1,
            ..good.clone()
        },
        Packet {
            trailer: 0xab,
            ..good.clone()
        },
        Packet {
            length: 4001,
            ..good.clone()
        },
        Packet {
            length: 0xffff,
            ..good.clone()
        },
        Packet::new(kind::MANIPULATE, good.id, &[0; 10]),
    ];
    for bad in wrong {
        client.write(&bad.bytes()).expect("sent");
        let answer = client
            .receive(limit)
            .unwrap_or_else(|trouble| panic!("{bad:?}: {trouble:?}"));
        assert!(
            matches!(
                answer,
                Incoming::Control {
                    kind: kind::RESEND,
                    ..
                }
            ),
            "{bad:?}: {answer:?}"
        );
        while client.receive(Duration::from_millis(300)).is_ok() {}
    }
    assert_eq!(client.ask(&request).map(|answer| answer.status), Ok(SUCCESS));
    // One that was carried out already.
    let mut stale = client.packet(&request);
    stale.id ^= 1;
    client.write(&stale.bytes()).expect("sent");
    let answer = client.receive(limit);
    assert_eq!(
        answer,
        Ok(Incoming::Control {
            kind: kind::ACKNOWLEDGE,
            id: stale.id
        })
    );
    assert_eq!(client.ask(&request).map(|answer| answer.status), Ok(SUCCESS));
    client.go();
    lives(&mut service);
}

#[test]
fn a_bad_link_costs_time_and_nothing_else() {
    let Some((guest, service)) = guest() else { return };
    for seed in 1..=2 {
        let faults = Faults {
            seed,
            lose: 200,
            double: 200,
            flip: 200,
            ..Faults::default()
        };
        let back = Faults {
            seed: seed + 100,
            ..faults
        };
        let relay = Relay::to(&service.kd_address(), faults, back);
        let mut client = KdClient::connect(relay.address());
        client.patience = Duration::from_millis(1200);
        // The session before may not be over yet, and a second one is refused.
        while let Err(trouble) = client.reset() {
            assert_eq!(trouble, Trouble::Closed, "seed {seed}");
            client = KdClient::connect(relay.address());
            client.patience = Duration::from_millis(1200);
        }
        let file = std::fs::read(guest.folder.join("ntoskrnl.exe")).expect("the image");
        for at in (0..0x600).step_by(0x40) {
            let bytes = client.read_virtual(guest.base() + at, 0x10).expect("memory");
            assert_eq!(
                bytes,
                file[at as usize..at as usize + 0x10],
                "seed {seed} at {at:#x}"
            );
        }
        assert!(relay.spoilt() > 0, "seed {seed}");
        drop(client);
    }
}

/// Connections that end at random bytes of a session. `KDD_TEST_CUTS` is how many; `KDD_TEST_SEED` another seed.
#[test]
fn connections_cut_anywhere_leave_a_running_guest_and_no_breakpoint() {
    let Some((guest, mut service)) = guest() else {
        return;
    };
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let mut random = Random(number("KDD_TEST_SEED", 7));
    for _ in 0..number("KDD_TEST_CUTS", 40) {
        let cut = Faults {
            cut: Some(random.below(700) as usize),
            ..Faults::default()
        };
        let there = random.below(2) == 0;
        let (to, from) = if there {
            (cut, Faults::default())
        } else {
            (Faults::default(), cut)
        };
        let relay = Relay::to(&service.kd_address(), to, from);
        let mut client = KdClient::connect(relay.address());
        if client.reset().is_err() {
            continue;
        }
        let breakpoint = Manipulate::new(api::WRITE_BREAKPOINT).quad(0, guest.symbol("KiSwapContext"));
        for request in [
            breakpoint,
            Manipulate::new(api::GET_VERSION),
            Manipulate::new(api::GET_CONTEXT),
        ] {
            if client.ask(&request).is_err() {
                break;
            }
        }
        let _ = client.tell(
            &Manipulate::new(api::CONTINUE2)
                .long(0, 0x10001)
                .quad(8, 0x400)
                .quad(16, 1),
        );
    }
    until("the guest to run", || service.state("vm").0 == "running");
    let mut console = service.console().from_now();
    console.types("user\r");
    console.shows("system calls", tests::LIMIT);
    lives(&mut service);
    let (mut client, _) = KdClient::attach(&service.kd_address());
    assert_eq!(client.version().kernel_base, guest.base());
}

#[test]
fn a_second_debugger_is_refused_and_garbage_disturbs_nobody() {
    let Some((guest, service)) = guest() else { return };
    let (mut client, _) = KdClient::attach(&service.kd_address());
    let mut random = Random(5);
    for _ in 0..20 {
        let bytes: Vec<u8> = (0..3000).map(|_| random.below(256) as u8).collect();
        if let Ok(mut stream) = TcpStream::connect(service.kd_address()) {
            let _ = stream.write_all(&bytes);
        }
        assert_eq!(client.version().kernel_base, guest.base());
    }
}
