//! `.crash`: the guest's own call of KeBugCheckEx, or nothing at all.

use crate::guest::{BASE, BUGCHECK, LOOP, NOP, PHYS, STACK, TestGuest, USER};
use crate::host::Host;
use hv_core::introspect::{ControlRun, DomainState, Introspect, WriteMemory, WriteRegisters};
use hv_core::regs::{Registers, gpr, rflags, seg};
use hv_core::{GuestPhysAddr, VcpuId};
use protocol::api::Api;
use protocol::manipulate::Manipulate;
use protocol::status::NtStatus;

/// The KPCR of the first processor, and a kernel stack.
const KPCR: u64 = BASE + 0x10_0000;
const TOP: u64 = BASE + 0x18_3000;
const FATAL: &str = "*** Fatal System Error: 0x000000e2\n                       \
    (0x0000000000000000,0x0000000000000000,0x0000000000000000,0x0000000000000000)";

/// A guest whose first processor has a KPCR and a thread with a kernel stack.
fn guest() -> TestGuest {
    let guest = TestGuest::new(1);
    let phys = |at: u64, word: u64| {
        guest
            .domain
            .write_physical(GuestPhysAddr(at), &word.to_le_bytes())
            .unwrap();
    };
    phys(0xb000 + 8 * 0x100, (PHYS + 0x6000) | 3);
    for page in 0..3 {
        phys(0xb000 + 8 * (0x180 + page), (PHYS + 0x7000 + 0x1000 * page) | 3);
    }
    phys(PHYS + 0x6000 + 0x1a8, TOP);
    change(&guest, |registers| registers.segments[seg::GS].base = KPCR);
    guest
}

fn change(guest: &TestGuest, how: impl FnOnce(&mut Registers)) {
    let mut registers = guest.registers(0);
    how(&mut registers);
    guest.domain.set_registers(VcpuId(0), &registers).unwrap();
}

fn attach(guest: &TestGuest) -> Host {
    guest.domain.unpause().unwrap();
    Host::attach(guest)
}

fn crash(host: &mut Host) {
    host.send(&Manipulate::request(Api::CauseBugCheck, 0), &[]);
}

#[test]
fn kernel_code_calls_it_from_where_it_stands() {
    let guest = guest();
    let mut host = attach(&guest);
    host.go_to(NOP);
    change(&guest, |registers| {
        registers.rflags |= rflags::DF;
        registers.gpr[gpr::RSP] = STACK - 3;
    });
    let before = guest.registers(0);
    crash(&mut host);
    let stop = host.stop();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, BUGCHECK));
    assert!(host.printed.contains(FATAL), "{}", host.printed);
    let now = guest.registers(0);
    assert_eq!(now.gpr[gpr::RSP] % 16, 8);
    assert!(now.gpr[gpr::RSP] + 0x30 <= STACK - 3);
    assert_eq!(host.read(now.gpr[gpr::RSP], 8), NOP.to_le_bytes());
    assert_eq!(now.rflags & rflags::DF, 0);
    for register in [0, 3, 5, 6, 7, 10, 11, 12, 13, 14, 15] {
        assert_eq!(now.gpr[register], before.gpr[register], "{register}");
    }
    assert_eq!((&now.segments, now.cr3), (&before.segments, before.cr3));
    // Once more, where the first one still waits.
    crash(&mut host);
    assert_eq!(host.stop().pc(), BUGCHECK);
    let deeper = guest.registers(0).gpr[gpr::RSP];
    assert!(deeper < now.gpr[gpr::RSP]);
    // It isn't only said: the guest runs it, and halts.
    host.go();
    host.until(|host| host.printed.contains("halted"));
}

#[test]
fn a_program_is_taken_into_the_kernel_first() {
    let guest = guest();
    guest
        .domain
        .write_physical(GuestPhysAddr(0x20_0000), &[0xeb, 0xfe])
        .unwrap();
    change(&guest, |registers| {
        registers.rip = USER;
        registers.gpr[gpr::RSP] = USER + 0x800;
        registers.segments[seg::GS].base = 0x1234_5000;
        registers.msrs.kernel_gs_base = KPCR;
        registers.segments[seg::CS].selector = 0x33;
        registers.segments[seg::CS].attributes = 0xa0fb;
        registers.segments[seg::SS].selector = 0x2b;
        registers.segments[seg::SS].attributes = 0xc0f3;
    });
    let mut host = attach(&guest);
    assert_eq!(host.context(0).rip.get(), USER);
    crash(&mut host);
    assert_eq!(host.stop().pc(), BUGCHECK);
    let now = guest.registers(0);
    assert_eq!(now.cpl(), 0);
    assert_eq!(now.segments[seg::CS].selector, 0x10);
    assert_eq!(now.segments[seg::SS].selector, 0x18);
    assert_eq!(
        (now.segments[seg::GS].base, now.msrs.kernel_gs_base),
        (KPCR, 0x1234_5000)
    );
    assert_eq!(now.gpr[gpr::RSP], TOP - 0x38);
    assert_eq!(host.read(TOP - 0x38, 8), USER.to_le_bytes());
}

#[test]
fn what_cannot_be_done_changes_nothing_and_says_why() {
    let guest = guest();
    let mut host = attach(&guest);
    host.go_to(LOOP);
    // A stack that isn't there, no stack of the kernel's, and no KPCR.
    for (stack, base, why) in [
        (BASE + 0x7000, KPCR, "can't be written"),
        (USER, KPCR, "the kernel stack of its thread"),
        (STACK, 0, "the kernel stack of its thread"),
    ] {
        guest
            .domain
            .write_physical(GuestPhysAddr(PHYS + 0x6000 + 0x1a8), &[0; 8])
            .unwrap();
        change(&guest, |registers| {
            registers.gpr[gpr::RSP] = stack;
            registers.segments[seg::GS].base = base;
        });
        let (before, hash) = (guest.registers(0), guest.domain.state_hash());
        host.printed.clear();
        crash(&mut host);
        let stop = host.stop();
        assert_eq!((stop.code(), stop.pc()), (NtStatus::BREAKPOINT, LOOP));
        assert!(host.printed.contains(why), "{}", host.printed);
        assert_eq!(guest.registers(0), before);
        assert_eq!(guest.domain.state_hash(), hash);
    }
    assert_eq!(host.read(BASE, 2), b"MZ", "the session goes on");
    host.go();
    assert_eq!(guest.domain.state(), DomainState::Running);
}
