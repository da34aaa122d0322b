//! The time-stamp counter: ten to a tick, a tick to an instruction, exact everywhere (SDM vol. 2, RDTSC; vol. 3B, 17.17).

use crate::bench::*;
use hv_core::VcpuId;
use hv_core::regs::{cr4, gpr};

#[test]
fn rdtsc_counts_ten_a_tick_exactly_within_a_block() {
    let mut b = Bench::long();
    b.code(|a| {
        a.rdtsc()?; // tick 0
        a.mov(ecx, eax)?;
        a.nop()?;
        a.rdtsc()?; // 3
        a.mov(esi, eax)?;
        a.rdtscp()?; // 5
        a.mov(edi, eax)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.finish();
    let r = b.regs();
    assert_eq!((r.gpr[gpr::RSI], r.gpr[gpr::RDI]), (30, 50));
    assert_eq!(b.m.read_msr(CPU0, 0x10), Some(10 * b.m.now().0));
}

#[test]
fn rdtsc_is_the_same_whether_stepped_or_not_and_behind_string_instructions() {
    let code = |a: &mut CodeAssembler| {
        a.mov(edi, DATA as u32)?;
        a.mov(ecx, 123)?;
        a.rep().stosb()?;
        a.rdtsc()?;
        a.out(EXIT_PORT as i32, al)
    };
    let mut b = Bench::long();
    b.code(code);
    b.finish();
    assert_eq!(b.gpr(0), 1250);
    let mut b = Bench::long();
    b.code(code);
    while b.run_for(1) == hv_core::machine::RunExit::Limit {}
    assert_eq!(b.gpr(0), 1250);
}

#[test]
fn wrmsr_moves_the_counter_and_rdtscp_gives_tsc_aux() {
    let mut b = Bench::long();
    b.runs(|a| {
        a.mov(ecx, 0x10)?;
        a.mov(eax, 5)?;
        a.mov(edx, 7)?;
        a.wrmsr()?; // tick 3
        a.rdtsc()?; // tick 4
        a.mov(rsi, rax)?;
        a.mov(rdi, rdx)?;
        a.mov(ecx, 0xc000_0103u32)?;
        a.mov(eax, 0x42)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.rdtscp()?;
        a.rdpid(rbx)
    });
    assert_eq!((b.gpr(6), b.gpr(7)), (15, 7));
    assert_eq!((b.gpr(gpr::RCX), b.gpr(3)), (0x42, 0x42));
}

#[test]
fn tsd_forbids_it_in_ring_3_only() {
    let mut b = Bench::long();
    b.set(|r| r.cr4 |= cr4::TSD);
    b.runs(|a| {
        a.rdtsc()?;
        a.rdtscp()
    });
    for p in [false, true] {
        let mut b = Bench::long();
        b.user();
        b.set(|r| r.cr4 |= cr4::TSD);
        let f = b.raises(vector::GP, |a| if p { a.rdtscp() } else { a.rdtsc() });
        assert_eq!((f.error, f.rip), (Some(0), CODE));
    }
}

#[test]
fn all_vcpus_read_one_counter() {
    let mut b = Bench::long_smp(2);
    assert_eq!(b.m.read_msr(VcpuId(0), 0x10), b.m.read_msr(VcpuId(1), 0x10));
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.jmp(again)
    });
    b.run_for(30_000);
    assert_eq!(b.m.read_msr(VcpuId(0), 0x10), Some(300_000));
    assert_eq!(b.m.read_msr(VcpuId(1), 0x10), Some(300_000));
}

#[test]
fn idle_time_counts() {
    let mut b = Bench::long();
    for (msr, value) in [
        (0x1b, 0xfee0_0d00),
        (0x80f, 0x1ff),
        (0x832, 0x4_0040),
        (0x6e0, 123_456),
    ] {
        assert!(b.m.write_msr(CPU0, msr, value), "{msr:#x}");
    }
    b.interrupt_gate(0x40, 0x8e, 0, CODE + 0x4000);
    b.code_at(64, CODE + 0x4000, |a| {
        a.rdtsc()?;
        a.out(EXIT_PORT as i32, al)
    });
    b.code(|a| {
        a.sti()?;
        a.hlt()
    });
    b.finish();
    assert_eq!(b.gpr(0), 123_460, "the first tick at or behind the TSC deadline");
}
