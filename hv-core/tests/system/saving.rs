//! Save and restore.

use crate::bench::*;
use hv_core::VcpuId;
use hv_core::machine::{Machine, RestoreError, RunExit, RunLimit};
use hv_core::regs::{Activity, gpr, rflags};
use std::sync::atomic::AtomicBool;

fn saved(m: &Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    m.save(&mut bytes).expect("a vector takes all");
    bytes
}

fn restored(bytes: &[u8]) -> Result<Machine, RestoreError> {
    Machine::restore(&mut &bytes[..])
}

/// A machine in the middle of things: an unusual register in every group, a timer that runs, a string instruction.
fn busy() -> Bench {
    let mut b = Bench::long_smp(2);
    for (msr, value) in [
        (0x1b, 0xfee0_0d00),
        (0x80f, 0x1ff),
        (0x832, 0x40),
        (0x83e, 0xb),
        (0x838, 50_000),
    ] {
        assert!(b.m.write_msr(CPU0, msr, value), "{msr:#x}");
    }
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(rax)?;
        a.mov(qword_ptr(DATA), rax)?;
        a.lea(rdi, ptr(DATA + 0x100))?;
        a.mov(ecx, 50)?;
        a.rep().stosq()?;
        a.sti()?;
        a.rdrand(rdx)?;
        a.xor(r12, rdx)?;
        a.jmp(again)
    });
    b.set(|r| {
        r.xmm[3] = 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00;
        r.x87.r[2] = 0x3fff_8000_0000_0000_0000;
        (r.x87.fsw, r.x87.ftw, r.x87.fop, r.x87.fip) = (0x1000, 0xffcf, 0x123, 0x55);
        r.mxcsr = 0x1fa0;
        (r.dr, r.dr7) = ([1, 2, 3, 4], 0x400);
        (r.cr2, r.cr8) = (0xdead_beef, 2);
        r.msrs.kernel_gs_base = 0xffff_8000_0000_1000;
        r.msrs.tsc_offset = 12_345;
        r.segments[hv_core::regs::seg::FS].base = 0x7fff_0000;
    });
    b.set_of(VcpuId(1), |r| r.gpr[gpr::RBX] = 42);
    b
}

fn run(m: &mut Machine, ticks: u64) -> RunExit {
    m.run(&RunLimit { ticks, step: None }, &AtomicBool::new(false))
}

#[test]
fn a_restored_machine_is_the_same_and_goes_on_the_same() {
    for ticks in [0, 1, 7, 100, 4999, 5000, 5001, 30_000] {
        let mut b = busy();
        if ticks > 0 {
            run(&mut b.m, ticks);
        }
        let mut copy = restored(&saved(&b.m)).expect("a good file");
        assert_eq!(copy.state_hash(), b.m.state_hash(), "at {ticks}");
        for n in 0..2 {
            assert_eq!(copy.registers(VcpuId(n)), b.m.registers(VcpuId(n)));
        }
        assert_eq!((copy.now(), copy.retired()), (b.m.now(), b.m.retired()));
        for _ in 0..5 {
            assert_eq!(run(&mut copy, 1234), run(&mut b.m, 1234));
            assert_eq!(
                copy.state_hash(),
                b.m.state_hash(),
                "{} after {ticks}",
                b.m.now().0
            );
        }
        assert_eq!(saved(&copy), saved(&b.m), "saved again");
    }
}

#[test]
fn saving_only_reads() {
    let mut b = busy();
    run(&mut b.m, 777);
    let before = b.m.state_hash();
    let first = saved(&b.m);
    assert_eq!(first, saved(&b.m));
    assert_eq!(b.m.state_hash(), before);
}

#[test]
fn halted_shadowed_and_nmi_blocked_states_survive() {
    let mut b = busy();
    b.set(|r| {
        (
            r.activity = Activity::Halted,
            r.rflags |= rflags::IF,
            r.nmi_blocked = true,
        )
            .1
    });
    b.m.write_msr(CPU0, 0x830, 0x4400); // an NMI that waits
    run(&mut b.m, 0);
    let mut copy = restored(&saved(&b.m)).expect("a good file");
    assert_eq!(copy.registers(CPU0), b.regs());
    b.set(|r| r.nmi_blocked = false);
    let mut registers = copy.registers(CPU0);
    registers.nmi_blocked = false;
    copy.set_registers(CPU0, &registers).expect("registers");
    assert_eq!(run(&mut copy, 10), run(&mut b.m, 10));
    assert_eq!(copy.state_hash(), b.m.state_hash());
    assert_eq!(vector_at(b.regs().rip), Some(vector::NMI));
}

#[test]
fn a_crashed_machine_stays_crashed() {
    let mut b = Bench::long();
    b.code(|a| a.hlt());
    let exit = b.go();
    let mut copy = restored(&saved(&b.m)).expect("a good file");
    assert_eq!(run(&mut copy, 10), exit);
    assert_eq!(copy.state_hash(), b.m.state_hash());
}

#[test]
fn flipped_bits_are_found_wherever_they_are() {
    let mut b = busy();
    run(&mut b.m, 100);
    let good = saved(&b.m);
    // Every byte of the first part, and a sample of the rest.
    let positions = (8..2500.min(good.len()))
        .chain((2500..good.len()).step_by(4099))
        .chain(good.len() - 40..good.len());
    for at in positions {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        match restored(&bad) {
            Err(RestoreError::Damaged(_)) => {}
            Err(other) => panic!("byte {at}: {other}"),
            Ok(_) => panic!("byte {at}: restored"),
        }
    }
}

#[test]
fn other_versions_other_files_and_short_files_are_told_apart() {
    let b = busy();
    let good = saved(&b.m);
    let mut newer = good.clone();
    newer[7] += 1;
    let expected = newer[7];
    assert!(matches!(restored(&newer), Err(RestoreError::Version { found }) if found == expected));
    for bytes in [&b"x"[..], &[], &b"\x7fELF and so on and on"[..]] {
        assert!(matches!(restored(bytes), Err(RestoreError::NotSaved)));
    }
    for length in [8, 15, 16, 100, good.len() / 2, good.len() - 33, good.len() - 1] {
        assert!(
            matches!(restored(&good[..length]), Err(RestoreError::Damaged(_))),
            "{length}"
        );
    }
}
