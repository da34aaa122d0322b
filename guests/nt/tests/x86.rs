//! The guest for x86, with PAE and without: built, booted on hv-core, used through its console, and looked at from outside. Without clang
//! and lld there is nothing to boot, and the tests say so and end.

mod harness;

use harness::{Guest, Options};
use hv_core::VcpuId;
use hv_core::regs::{cr4, efer, gpr, seg};

const PROFILES: [&str; 2] = ["win7-x86", "win10-x86"];
const IA32_PAGES: u64 = 0xffff_f000;

/// The guest without PAE.
const PLAIN: &str = " NODEBUG NOPAE";

fn boot_plain(profile: &str, vcpus: u32) -> Option<Guest> {
    let options = Options {
        vcpus,
        options: PLAIN,
    };
    Guest::of_profile(profile, &options)
}

fn boot(profile: &str, vcpus: u32) -> Option<Guest> {
    let options = Options {
        vcpus,
        options: " NODEBUG",
    };
    Guest::of_profile(profile, &options)
}

/// What the kernel has at an offset of processor 0's KPCR, which GDT entry 30 is for.
fn kpcr(guest: &Guest) -> u64 {
    let descriptor = guest.read(guest.machine.registers(VcpuId(0)).gdtr.base + 0x30);
    descriptor >> 16 & 0xff_ffff | descriptor >> 56 << 24
}

#[test]
fn both_profiles_boot_to_their_prompts_on_one_and_on_four_processors() {
    for profile in PROFILES {
        for vcpus in [1, 4] {
            let Some(mut guest) = boot(profile, vcpus) else {
                return;
            };
            assert!(guest.seen().contains(".x86fre."));
            assert!(guest.command("stat").contains(&format!("processors {vcpus}\r\n")));
        }
    }
}

#[test]
fn ring_3_makes_system_calls_by_sysenter_and_int_2e() {
    for profile in PROFILES {
        let Some(mut guest) = boot(profile, 2) else {
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
fn a_process_has_a_root_of_32_bytes_that_maps_its_own_tables() {
    let Some(mut guest) = boot("win10-x86", 1) else {
        return;
    };
    guest.type_line("user");
    guest.run_until(|machine| machine.registers(VcpuId(0)).segments[seg::CS].selector == 0x1b);
    let registers = guest.machine.registers(VcpuId(0));
    assert_eq!(registers.efer & efer::LMA, 0);
    assert_ne!(registers.cr3, guest.root());
    let code = guest
        .translate(registers.cr3, registers.rip)
        .expect("its code is mapped");
    // The page table's entry of that code, where the tables are seen.
    let entry = guest
        .translate(registers.cr3, 0xc000_0000 + (registers.rip >> 12) * 8)
        .expect("its page table is mapped");
    assert_eq!(guest.physical(entry) & IA32_PAGES, code & IA32_PAGES);
}

#[test]
fn the_processor_block_describes_itself_and_the_debugger_block_is_plain() {
    for (profile, size) in [("win7-x86", 0x340), ("win10-x86", 0x380)] {
        let Some(guest) = boot(profile, 1) else {
            return;
        };
        let (kpcr, word) = (kpcr(&guest), |address| guest.read(address) & 0xffff_ffff);
        let registers = guest.machine.registers(VcpuId(0));
        assert_eq!(word(kpcr + 0x1c), kpcr);
        assert_eq!(word(kpcr + 0x20), kpcr + 0x120);
        assert_eq!(word(kpcr + 0x38), registers.idtr.base);
        assert_eq!(word(kpcr + 0x3c), registers.gdtr.base);
        assert_eq!(word(kpcr + 0x40), registers.tr.base);
        // KdVersionBlock: 7 has its address in the KPCR, 10 doesn't.
        let version = word(kpcr + 0x34);
        assert_eq!(version != 0, profile == "win7-x86");
        if version != 0 {
            assert_eq!(word(version + 8) & 0xffff, 0x14c);
            let kernel = guest.read(version + 0x10);
            assert_eq!(
                kernel >> 32,
                0xffff_ffff,
                "the version block's addresses are sign-extended"
            );
            let block = word(word(version + 0x20));
            assert_eq!(guest.read(block + 0x10), size << 32 | 0x4742_444b);
            assert_eq!(
                guest.read(block + 0x18),
                kernel & 0xffff_ffff,
                "the data block's aren't"
            );
            assert_eq!(guest.read(block + 8), 0);
        }
    }
}

#[test]
fn a_fault_in_the_kernel_ends_in_a_bugcheck_that_names_it() {
    for (command, stop) in [
        ("crash", "*** STOP: 0x0000007E (0xC0000005,"),
        ("divide", "*** STOP: 0x0000007E (0xC0000094,"),
        ("int3", "*** STOP: 0x0000007E (0x80000003,"),
        // The task of the double fault says where the TSS is that holds the registers.
        ("overflow", "*** STOP: 0x0000007F (0x00000008,"),
        (
            "bugcheck e2 1 2 3 4",
            "*** STOP: 0x000000E2 (0x00000001,0x00000002,0x00000003,0x00000004)",
        ),
    ] {
        let Some(mut guest) = boot("win7-x86", 2) else {
            return;
        };
        guest.type_line(command);
        guest.run_to_the_end();
        assert!(guest.seen().contains(stop), "{command}: {}", guest.seen());
    }
}

#[test]
fn frame_pointers_lead_from_a_trap_to_the_thread_start() {
    let Some(mut guest) = boot("win10-x86", 1) else {
        return;
    };
    guest.type_line("divide");
    guest.run_to_the_end();
    let registers = guest.machine.registers(VcpuId(0));
    let mut at = registers.gpr[gpr::RBP];
    let mut returns = Vec::new();
    while at != 0 {
        assert!(returns.len() < 32, "{returns:x?}");
        let pair = guest.read(at);
        assert!(
            pair & 0xffff_ffff == 0 || pair & 0xffff_ffff > at,
            "{at:x}: {pair:x}"
        );
        returns.push(pair >> 32);
        at = pair & 0xffff_ffff;
    }
    // KeBugCheckEx's caller on: dispatcher, trap, divide, command, console thread, thread start.
    assert!(returns.len() >= 8, "{returns:x?}");
    let base = guest.read(kpcr(&guest) + 0x38) & 0xffff_ffff;
    let entry = guest.read(base);
    let trap = entry & 0xffff | entry >> 32 & 0xffff_0000;
    assert!(
        returns.iter().all(|address| address.abs_diff(trap) < 0x2_0000),
        "{returns:x?}"
    );
}

#[test]
fn drivers_come_and_go_and_the_guards_sums_stay() {
    let Some(mut guest) = boot("win7-x86", 2) else {
        return;
    };
    assert!(guest.command("load").contains("loaded at C8"));
    assert!(guest.command("lm").contains("\\drivers\\sample.sys\r\n"));
    assert!(guest.command("unload").contains("unloaded"));
    assert!(guest.command("load").contains("loaded at C8"));
    guest.wait_seconds(4);
    let sums = guest.command("sum");
    assert!(
        sums.contains("changes 0\r\n") && !sums.contains("rounds 0\r\n"),
        "{sums}"
    );
}

#[test]
fn ram_that_the_kernels_map_does_not_reach_is_the_programs() {
    let options = Options {
        vcpus: 1,
        options: " NODEBUG",
    };
    for (memory, lowest) in [(1 << 30, 768 << 20), (5 << 30, 4 << 30)] {
        let Some(mut guest) = Guest::of_profile_with("win7-x86", &options, memory) else {
            return;
        };
        guest.type_line("user");
        guest.run_until(|machine| machine.registers(VcpuId(0)).segments[seg::CS].selector == 0x1b);
        let registers = guest.machine.registers(VcpuId(0));
        let stack = guest.translate(registers.cr3, registers.gpr[gpr::RSP]);
        assert!(
            stack.is_some_and(|stack| stack >= lowest),
            "{stack:x?} of {memory:#x}"
        );
        guest.wait_seconds(1);
        // A driver's image lies there too, and is given back.
        for _ in 0..2 {
            assert!(guest.command("load").contains("loaded at C8"));
            assert!(guest.command("unload").contains("unloaded"));
        }
    }
}

#[test]
fn without_pae_both_profiles_boot_and_their_programs_run() {
    for (profile, vcpus) in [("win7-x86", 1), ("win10-x86", 4)] {
        let Some(mut guest) = boot_plain(profile, vcpus) else {
            return;
        };
        for vcpu in 0..vcpus {
            let registers = guest.machine.registers(VcpuId(vcpu));
            assert_eq!(registers.cr4 & (cr4::PAE | cr4::PSE), cr4::PSE);
        }
        assert!(guest.command("stat").contains(&format!("processors {vcpus}\r\n")));
        let rounds = (0..8).map(|_| guest.command("user"));
        let done = rounds.skip(1).find(|round| round.contains(" 0 page faults"));
        assert!(done.is_some_and(|round| !round.contains("\n0 system calls")));
        for _ in 0..2 {
            assert!(guest.command("load").contains("loaded at C8"));
            assert!(guest.command("unload").contains("unloaded"));
        }
    }
}

#[test]
fn without_pae_a_process_has_a_page_directory_that_maps_itself() {
    let Some(mut guest) = boot_plain("win7-x86", 1) else {
        return;
    };
    guest.type_line("user");
    guest.run_until(|machine| machine.registers(VcpuId(0)).segments[seg::CS].selector == 0x1b);
    let registers = guest.machine.registers(VcpuId(0));
    let root = registers.cr3;
    assert_ne!(root, guest.root());
    assert_eq!(guest.translate(root, 0xc030_0000), Some(root));
    let code = guest.translate(root, registers.rip).expect("its code is mapped");
    let entry = guest
        .translate(root, 0xc000_0000 + (registers.rip >> 12) * 4)
        .expect("its page table is mapped");
    assert_eq!(guest.physical(entry) & IA32_PAGES, code & IA32_PAGES);
    // KdVersionBlock, the list, KDDEBUGGER_DATA64.PaeEnabled.
    let word = |address| guest.read(address) & 0xffff_ffff;
    let block = word(word(word(kpcr(&guest) + 0x34) + 0x20));
    assert_eq!(guest.read(block + 0x10) & 0xffff_ffff, 0x4742_444b);
    assert_eq!(guest.read(block + 0x36) & 0xffff, 0);
}

#[test]
fn without_pae_a_mistake_in_the_kernel_ends_in_a_bugcheck() {
    for (command, stop) in [
        ("crash", "*** STOP: 0x0000007E (0xC0000005,"),
        ("overflow", "*** STOP: 0x0000007F (0x00000008,"),
    ] {
        let Some(mut guest) = boot_plain("win7-x86", 2) else {
            return;
        };
        guest.type_line(command);
        guest.run_to_the_end();
        assert!(guest.seen().contains(stop), "{command}: {}", guest.seen());
    }
}
