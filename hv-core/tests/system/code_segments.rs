//! What the code segment and the vCPU have to do with which instructions are at RIP: found by fuzzing, where decoded
//! code of one was taken for another's.

use crate::bench::*;
use hv_core::VcpuId;
use hv_core::machine::RunLimit;
use hv_core::regs::{Activity, gpr, seg};
use std::sync::atomic::AtomicBool;

#[test]
fn the_same_offset_in_another_segment_is_other_code() {
    let mut b = Bench::real();
    b.write(0x3_0000, &[0x40, 0xcb]); // inc ax; retf
    b.write(0x4_0000, &[0x43, 0xcb]); // inc bx; retf
    let call = |segment: u16| [0x9a, 0, 0, segment as u8, (segment >> 8) as u8];
    b.runs(|a| {
        for segment in [0x3000, 0x4000, 0x3000, 0x4000, 0x4000] {
            a.db(&call(segment))?;
        }
        Ok(())
    });
    assert_eq!((b.gpr(gpr::RAX), b.gpr(gpr::RBX)), (2, 3));
}

#[test]
fn code_that_ran_under_a_larger_limit_faults_at_a_smaller_one() {
    let mut b = Bench::protected();
    let start = b.code(|a| {
        // INC EAX, EBX, ECX, of two bytes each.
        a.db(&[0xff, 0xc0, 0xff, 0xc3, 0xff, 0xc1])?;
        a.out(EXIT_PORT as i32, al)
    });
    b.finish();
    assert_eq!(b.gpr(gpr::RCX), 1);
    b.set(|r| {
        r.rip = start;
        r.segments[seg::CS].limit = start as u32 + 2;
    });
    b.fault(vector::GP);
    let counts = (b.gpr(gpr::RAX), b.gpr(gpr::RBX), b.gpr(gpr::RCX));
    assert_eq!(counts, (2, 1, 1), "INC EBX reaches beyond the limit by a byte");
}

#[test]
fn vcpus_with_page_tables_of_their_own_run_their_own_code() {
    // However often each translation was dropped before.
    for extra in 0..6 {
        let mut b = Bench::long_smp(2);
        // The second one's tables: the same but for one page of the code.
        const OTHER: u64 = TABLES + 0x10_000;
        const THERE: u64 = CODE + 0x1000;
        for at in (0..0x8000).step_by(8) {
            let entry = b.u64(TABLES + at);
            let moved = if at < 0x3000 && entry != 0 {
                entry + 0x10_000
            } else {
                entry
            };
            b.write_u64(OTHER + at, moved);
        }
        b.write_u64(OTHER + 0x3000 + 8 * (THERE >> 12), DATA | 7);
        b.code_at(64, CODE, |a| a.jmp(THERE));
        let page = |counter: u8| [&[0xff, counter][..], &[0xe9, 0xf9, 0xef, 0xff, 0xff]].concat();
        b.write(THERE, &page(0xc0)); // inc eax; jmp CODE
        b.write(DATA, &page(0xc3)); // inc ebx; jmp CODE
        let registers = b.long_registers();
        b.set(|r| *r = registers.clone());
        for _ in 0..extra {
            b.set_of(VcpuId(1), |r| r.rip = CODE);
        }
        b.set_of(VcpuId(1), |r| {
            let apic_base = r.apic_base;
            *r = registers.clone();
            (r.apic_base, r.activity, r.cr3) = (apic_base, Activity::Running, OTHER);
        });
        let limit = RunLimit {
            ticks: 200_000,
            step: None,
        };
        b.m.run(&limit, &AtomicBool::new(false));
        let other = b.m.registers(VcpuId(1));
        assert_eq!(
            (b.gpr(gpr::RBX), other.gpr[gpr::RAX]),
            (0, 0),
            "after {extra} more"
        );
        assert!(b.gpr(gpr::RAX) > 0 && other.gpr[gpr::RBX] > 0);
    }
}

#[test]
fn registers_written_back_leave_the_low_half_of_the_priority() {
    const TPR: u32 = 0x808;
    let mut b = Bench::long();
    assert!(b.m.write_msr(CPU0, 0x1b, 0xfee0_0d00) && b.m.write_msr(CPU0, TPR, 0x49));
    b.set(|r| r.gpr[0] = 1);
    assert_eq!(b.m.read_msr(CPU0, TPR), Some(0x49));
    b.set(|r| r.cr8 = 3);
    assert_eq!(b.m.read_msr(CPU0, TPR), Some(0x30));
}
