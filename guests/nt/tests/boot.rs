//! The guest as a whole: built, booted on hv-core, used through its console, and looked at from outside. Without clang and
//! lld there is nothing to boot, and the tests say so and end.

mod harness;

use harness::{Guest, Options};
use hv_core::regs::seg;
use nt_guest::Profile;

const ONE: Options = Options {
    vcpus: 1,
    options: " NODEBUG",
};

#[test]
fn it_boots_to_its_prompt_on_one_and_on_four_processors() {
    for vcpus in [1, 4] {
        let Some(mut guest) = Guest::boot(&Options { vcpus, ..ONE }) else {
            return;
        };
        assert!(
            guest
                .seen()
                .contains("NT guest: 19041.1.amd64fre.vb_release.191206-1406 ready")
        );
        assert!(guest.command("stat").contains(&format!("processors {vcpus}\r\n")));
    }
}

#[test]
fn every_x64_profile_boots_and_works() {
    for name in Profile::names().filter(|name| name.ends_with("-x64")) {
        let Some(mut guest) = Guest::of_profile(name, &Options { vcpus: 2, ..ONE }) else {
            return;
        };
        let round = guest.command("user");
        assert!(
            round.contains(" page faults") && !round.contains("\n0 system calls"),
            "{name}: {round}"
        );
        assert!(guest.command("load").contains("loaded at FFFF"), "{name}");
        let profile = Profile::built_in(name).expect("the profile");
        if let Some(version) = guest.known_symbol("KdVersionBlock") {
            let minor = guest.read(version) >> 16 & 0xffff;
            assert_eq!(minor, u64::from(profile.build()), "{name}");
            assert_eq!(guest.read(version + 0x10), guest.kernel(), "{name}");
        }
        guest.type_line("bugcheck e2");
        guest.run_to_the_end();
        assert!(guest.seen().contains("*** STOP: 0x000000E2"), "{name}");
        if let Some(block) = guest.known_symbol("KdDebuggerDataBlock") {
            let size = u64::from(profile.kdbg_size());
            assert_eq!(guest.read(block + 0x10), size << 32 | 0x4742_444b, "{name}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_state() {
    let (Some(mut one), Some(mut other)) = (Guest::boot(&ONE), Guest::boot(&ONE)) else {
        return;
    };
    one.command("user");
    other.command("user");
    assert_eq!(one.machine.state_hash(), other.machine.state_hash());
}

#[test]
fn ring_3_makes_system_calls_and_faults_its_memory_in() {
    for options in [" NODEBUG", " NODEBUG NOKVASHADOW"] {
        let Some(mut guest) = Guest::boot(&Options { vcpus: 2, options }) else {
            return;
        };
        let threads = |guest: &mut Guest| guest.command("ps").matches(" thread ").count();
        let before = threads(&mut guest);
        // Until all are done, and their memory is there.
        let rounds = (0..8).map(|_| guest.command("user"));
        let done = rounds.skip(1).find(|round| round.contains(" 0 page faults"));
        assert!(done.is_some_and(|round| !round.contains("\n0 system calls")));
        // A program that finds something wrong ends itself.
        assert_eq!(threads(&mut guest), before);
    }
}

#[test]
fn with_kva_shadow_ring_3_runs_without_the_kernel_mapped() {
    for (options, shadowed) in [(" NODEBUG KVASHADOW", true), (" NODEBUG NOKVASHADOW", false)] {
        let Some(mut guest) = Guest::boot(&Options { vcpus: 1, options }) else {
            return;
        };
        guest.type_line("user");
        guest.run_until(|machine| {
            let registers = machine.registers(hv_core::VcpuId(0));
            registers.segments[seg::CS].selector == 0x33
        });
        let registers = guest.machine.registers(hv_core::VcpuId(0));
        let kernel = guest.kernel();
        let mapped = |address| guest.translate(registers.cr3, address).is_some();
        assert!(mapped(registers.rip));
        assert!(mapped(registers.msrs.lstar));
        assert!(mapped(registers.idtr.base));
        assert_eq!(mapped(kernel), !shadowed);
        assert_eq!(mapped(0xffff_f780_0000_0000), !shadowed);
        let entry = if shadowed {
            "KiSystemCall64Shadow"
        } else {
            "KiSystemCall64"
        };
        assert_eq!(registers.msrs.lstar, guest.symbol(entry));
    }
}

#[test]
fn drivers_come_and_go_and_are_remembered() {
    let Some(mut guest) = Guest::boot(&ONE) else {
        return;
    };
    assert!(guest.command("load").contains("loaded at FFFF"));
    assert!(guest.command("lm").contains("\\drivers\\sample.sys\r\n"));
    assert!(guest.command("unload").contains("unloaded"));
    assert!(!guest.command("lm").contains("sample.sys"));
    let count = guest.symbol("MmLastUnloadedDriver");
    assert_eq!(guest.read(count) & 0xffff_ffff, 1);
    assert!(guest.command("load").contains("loaded at FFFF"));
    assert!(guest.command("load").contains("not loaded: c000010e"));
}

#[test]
fn the_debugger_block_is_encoded_until_a_bugcheck() {
    let Some(mut guest) = Guest::boot(&Options { vcpus: 2, ..ONE }) else {
        return;
    };
    let (block, flag) = (
        guest.symbol("KdDebuggerDataBlock"),
        guest.symbol("KdpDataBlockEncoded"),
    );
    assert_eq!(guest.read(flag) & 0xff, 1);
    let (never, always) = (
        guest.read(guest.symbol("KiWaitNever")),
        guest.read(guest.symbol("KiWaitAlways")),
    );
    let decoded = |word: u64| {
        let value = guest.read(block + word * 8) ^ never;
        (value.rotate_left(never as u32 & 63) ^ flag).swap_bytes() ^ always
    };
    assert_eq!(decoded(2), 0x380 << 32 | 0x4742_444b);
    assert_eq!(decoded(3), guest.kernel());
    assert_eq!(decoded(0), guest.symbol("KdpDebuggerDataListHead"));
    assert_eq!(guest.read(guest.symbol("KdpDebuggerDataListHead")), block);

    guest.type_line("bugcheck e2 11 22 33 44");
    guest.run_to_the_end();
    assert_eq!(guest.read(flag) & 0xff, 0);
    assert_eq!(guest.read(block + 0x10), 0x380 << 32 | 0x4742_444b);
    let data = guest.symbol("KiBugCheckData");
    let words: Vec<u64> = (0..5).map(|n| guest.read(data + n * 8)).collect();
    assert_eq!(words, [0xe2, 0x11, 0x22, 0x33, 0x44]);
}

#[test]
fn a_fault_in_the_kernel_ends_in_a_bugcheck_that_names_it() {
    for (command, code, parameter) in [
        ("crash", 0x7e, 0xffff_ffff_c000_0005_u64),
        ("divide", 0x7e, 0xffff_ffff_c000_0094),
        ("int3", 0x7e, 0xffff_ffff_8000_0003),
        ("overflow", 0x7f, 8),
    ] {
        let Some(mut guest) = Guest::boot(&ONE) else {
            return;
        };
        guest.type_line(command);
        guest.run_to_the_end();
        let data = guest.symbol("KiBugCheckData");
        assert_eq!((guest.read(data), guest.read(data + 8)), (code, parameter));
    }
}

#[test]
fn printed_text_is_in_the_circular_buffer() {
    let Some(mut guest) = Guest::boot(&ONE) else {
        return;
    };
    guest.command("print found from outside");
    let buffer = guest.read(guest.symbol("KdPrintCircularBuffer"));
    let bytes: Vec<u8> = (0..64)
        .flat_map(|n| guest.read(buffer + n * 8).to_le_bytes())
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("found from outside\n"), "{text}");
}

#[test]
fn a_changed_byte_of_code_is_noticed_and_nothing_else_is() {
    let Some(mut guest) = Guest::boot(&Options { vcpus: 2, ..ONE }) else {
        return;
    };
    guest.wait_seconds(5);
    assert!(guest.command("sum").contains("changes 0\r\n"));
    // Nobody executes it.
    let code = guest.symbol("KiDivideErrorFault");
    let physical = guest.translate(guest.root(), code).expect("the kernel is mapped");
    let at = hv_core::GuestPhysAddr(physical + 5);
    let mut byte = [0];
    guest.machine.read_physical(at, &mut byte);
    guest.machine.write_physical(at, &[!byte[0]]);
    guest.wait_seconds(3);
    let sum = guest.command("sum");
    assert!(sum.contains("changes 1\r\n"), "{sum}");
}
