//! Far jumps, calls and returns through descriptors and call gates (SDM vol. 3A, 5.8).

use crate::bench::*;
use hv_core::regs::{gpr, rflags, seg};

const GATE: u16 = selector::FREE;
const CODE_X: u16 = selector::FREE + 0x10;
const TARGET: u64 = CODE + 0x8000;

fn far_pointer(b: &mut Bench, at: u64, offset: u64, selector: u16) {
    if b.regs().segments[seg::CS].long() {
        b.write_u64(at, offset);
        b.write_u16(at + 8, selector);
    } else {
        b.write_u32(at, offset as u32);
        b.write_u16(at + 4, selector);
    }
}

#[test]
fn a_far_jump_in_64_bit_mode_by_memory() {
    let mut b = Bench::long();
    far_pointer(&mut b, DATA, TARGET, selector::CODE64);
    b.code_at(64, TARGET, |a| a.out(EXIT_PORT as i32, al));
    b.code(|a| a.db(&[0x48, 0xff, 0x2c, 0x25, 0, 0, 0x40, 0])); // jmp far [DATA], 64-bit
    b.finish();
    assert_eq!(b.regs().rip, TARGET + 2);
    // To compatibility mode and back by a 32-bit pointer.
    b.write_u32(DATA, TARGET as u32);
    b.write_u16(DATA + 4, selector::CODE32);
    b.code(|a| a.db(&[0xff, 0x2c, 0x25, 0, 0, 0x40, 0])); // jmp far [DATA], 32-bit
    b.finish();
    let r = b.regs();
    assert_eq!(
        (r.segments[seg::CS].selector, r.segments[seg::CS].long()),
        (selector::CODE32, false)
    );
}

#[test]
fn far_jumps_check_the_code_segment() {
    let cases = [
        ("null", 3, 0, vector::GP, 0),
        ("beyond the table", 0x1f8, 0, vector::GP, 0x1f8),
        ("data", selector::DATA, 0, vector::GP, selector::DATA),
        (
            "another ring",
            selector::USER_CODE64,
            0,
            vector::GP,
            selector::USER_CODE64 & !3,
        ),
        (
            "not present",
            CODE_X,
            descriptor(0, u32::MAX, 0x1b, 0xa),
            vector::NP,
            CODE_X,
        ),
        (
            "L and D",
            CODE_X,
            descriptor(0, u32::MAX, 0x9b, 0xe),
            vector::GP,
            CODE_X,
        ),
        (
            "beyond the limit",
            CODE_X,
            descriptor(0, 0xfff, 0x9b, 4),
            vector::GP,
            0,
        ),
        (
            "a busy TSS",
            selector::TSS,
            descriptor(TSS as u32, 0x67, 0x8b, 0),
            vector::GP,
            selector::TSS,
        ),
    ];
    for (name, selector, value, vector, error) in cases {
        let mut b = Bench::long();
        if value != 0 {
            b.define(selector, value);
        }
        far_pointer(&mut b, DATA, TARGET, selector);
        let f = b.raises(vector, |a| a.db(&[0x48, 0xff, 0x2c, 0x25, 0, 0, 0x40, 0]));
        assert_eq!((f.error, f.rip), (Some(error as u64), CODE), "{name}");
    }
}

#[test]
fn a_far_call_and_return_in_one_ring() {
    let mut b = Bench::protected();
    b.code_at(32, TARGET, |a| {
        a.mov(ecx, esp)?;
        a.retf_1(8)
    });
    let mut call = vec![0x9a];
    call.extend((TARGET as u32).to_le_bytes());
    call.extend(selector::CODE32.to_le_bytes());
    b.runs(|a| {
        a.push(1)?;
        a.push(2)?;
        a.db(&call)
    });
    assert_eq!(b.gpr(gpr::RCX), STACK - 16);
    assert_eq!(
        (b.u32(STACK - 16), b.u32(STACK - 12)),
        (CODE as u32 + 4 + 7, selector::CODE32 as u32)
    );
    assert_eq!(b.gpr(gpr::RSP), STACK, "the parameters were released");
}

#[test]
fn a_32_bit_call_gate_to_ring_0_switches_stacks_and_copies_parameters() {
    let mut b = Bench::protected();
    b.define(GATE, gate(selector::CODE32, TARGET as u32, 0xec, 2));
    b.code_at(32, TARGET, |a| {
        a.mov(ecx, esp)?;
        a.mov(edx, dword_ptr(esp + 8))?;
        a.mov(ebx, dword_ptr(esp + 12))?;
        a.retf_1(8)
    });
    b.user();
    let mut call = vec![0x9a, 0, 0, 0, 0];
    call.extend((GATE | 3).to_le_bytes());
    b.code(|a| {
        a.push(0x11)?;
        a.push(0x22)?;
        a.db(&call)?;
        a.int3()
    });
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.cs, f.rsp, f.ss),
        (selector::USER_CODE32, STACK - 0x800, selector::USER_DATA)
    );
    let inner = STACK + 0x1000 - 24;
    assert_eq!((b.gpr(1), b.gpr(2), b.gpr(3)), (inner, 0x22, 0x11));
}

#[test]
fn a_16_bit_call_gate_pushes_words() {
    let mut b = Bench::protected();
    b.define(CODE_X, descriptor(TARGET as u32, 0xffff, 0x9b, 0));
    b.define(GATE, gate(CODE_X, 0x10, 0xe4, 1));
    b.write(TARGET + 0x10, &[0xe6, EXIT_PORT as u8]);
    b.user();
    let mut call = vec![0x9a, 0, 0, 0, 0];
    call.extend((GATE | 3).to_le_bytes());
    b.code(|a| {
        a.db(&[0x66, 0x68, 0x34, 0x12])?; // push word 1234h
        a.db(&call)
    });
    assert!(exited(&b.go()));
    let at = b.gpr(gpr::RSP);
    assert_eq!(at, STACK + 0x1000 - 10);
    let words: Vec<u16> = (0..5).map(|n| b.u16(at + 2 * n)).collect();
    let expected = [
        11,
        selector::USER_CODE32,
        0x1234,
        (STACK - 0x802) as u16,
        selector::USER_DATA,
    ];
    assert_eq!(words[1..], expected[1..]);
    assert_eq!(words[0], (CODE + 11) as u16);
}

#[test]
fn a_64_bit_call_gate_to_ring_0_and_back() {
    let mut b = Bench::long();
    b.define(GATE, gate(selector::CODE64, TARGET as u32, 0xec, 0));
    b.write_u64(GDT + GATE as u64 + 8, 0);
    b.code_at(64, TARGET, |a| {
        a.mov(rcx, rsp)?;
        a.mov(rdx, qword_ptr(rsp + 24))?;
        a.mov(ebx, ss)?;
        a.db(&[0x48, 0xcb])
    });
    b.user();
    b.write_u16(DATA + 4, GATE | 3);
    b.code(|a| {
        a.db(&[0xff, 0x1c, 0x25, 0, 0, 0x40, 0])?; // call far [DATA]
        a.int3()
    });
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.cs, f.rsp, f.ss),
        (selector::USER_CODE64, STACK - 0x800, selector::USER_DATA)
    );
    assert_eq!(
        (b.gpr(1), b.gpr(2)),
        (STACK + 0x1000 - 32, selector::USER_DATA as u64)
    );
    assert_eq!(b.gpr(3), 0, "SS is null in the inner ring");
}

#[test]
fn call_gates_check_privilege_and_target() {
    let cases = [
        (
            "DPL below CPL",
            gate(selector::CODE32, TARGET as u32, 0x8c, 0),
            vector::GP,
            GATE,
        ),
        (
            "not present",
            gate(selector::CODE32, TARGET as u32, 0x6c, 0),
            vector::NP,
            GATE,
        ),
        ("null target", gate(0, TARGET as u32, 0xec, 0), vector::GP, 0),
        (
            "data target",
            gate(selector::DATA, TARGET as u32, 0xec, 0),
            vector::GP,
            selector::DATA,
        ),
    ];
    for (name, value, vector, error) in cases {
        let mut b = Bench::protected();
        b.define(GATE, value);
        b.user();
        let mut call = vec![0x9a, 0, 0, 0, 0];
        call.extend((GATE | 3).to_le_bytes());
        let f = b.raises(vector, |a| a.db(&call));
        assert_eq!((f.error, f.rip), (Some(error as u64), CODE), "{name}");
    }
    // A jump can't reach an inner ring by a gate.
    let mut b = Bench::protected();
    b.define(GATE, gate(selector::CODE32, TARGET as u32, 0xec, 0));
    b.user();
    let mut jump = vec![0xea, 0, 0, 0, 0];
    jump.extend((GATE | 3).to_le_bytes());
    assert_eq!(
        b.raises(vector::GP, |a| a.db(&jump)).error,
        Some(selector::CODE32 as u64)
    );
}

#[test]
fn a_far_return_to_an_outer_ring_pops_the_stack_and_nulls_segments() {
    let mut b = Bench::protected();
    b.code_at(32, TARGET, |a| a.int3());
    b.code(|a| {
        a.push(selector::USER_DATA as i32)?;
        a.push((STACK - 0x800) as i32)?;
        a.push(0x77)?; // a parameter
        a.push(selector::USER_CODE32 as i32)?;
        a.push(TARGET as i32)?;
        a.retf_1(4)
    });
    let f = b.fault(vector::BP);
    assert_eq!(
        (f.rip, f.cs, f.ss),
        (TARGET + 1, selector::USER_CODE32, selector::USER_DATA)
    );
    assert_eq!(f.rsp, STACK - 0x800 + 4, "released in the outer stack too");
    assert_eq!(b.regs().segments[seg::DS].selector, 0);
    // Inwards is refused.
    let mut b = Bench::protected();
    b.user();
    let f = b.raises(vector::GP, |a| {
        a.push(selector::CODE32 as i32)?;
        a.push(TARGET as i32)?;
        a.retf()
    });
    assert_eq!(f.error, Some(selector::CODE32 as u64));
}

#[test]
fn conforming_code_keeps_the_callers_ring() {
    let mut b = Bench::protected();
    b.define(CODE_X, descriptor(0, u32::MAX, 0x9f, 0xc));
    b.code_at(32, TARGET, |a| a.out(EXIT_PORT as i32, al));
    b.user();
    b.set(|r| r.rflags |= rflags::IOPL);
    let mut jump = vec![0xea];
    jump.extend((TARGET as u32).to_le_bytes());
    jump.extend(CODE_X.to_le_bytes());
    b.code(|a| a.db(&jump));
    b.finish();
    assert_eq!(
        (b.regs().segments[seg::CS].selector, b.regs().cpl()),
        (CODE_X | 3, 3)
    );
}

#[test]
fn a_failing_inner_stack_leaves_everything_as_it_was() {
    let mut b = Bench::protected();
    b.define(GATE, gate(selector::CODE32, TARGET as u32, 0xec, 0));
    b.user();
    // SS0 is no good for the gate, nor for the #TS: that goes by conforming code.
    b.write_u32(TSS + 8, 0);
    b.define(CODE_X, descriptor(0, u32::MAX, 0x9f, 0xc));
    b.set(|r| r.rflags |= rflags::IOPL);
    b.write_u64(IDT + 8 * 10, gate(CODE_X, handler(vector::TS) as u32, 0x8e, 0));
    let mut call = vec![0x9a, 0, 0, 0, 0];
    call.extend((GATE | 3).to_le_bytes());
    let f = b.raises(vector::TS, |a| a.db(&call));
    assert_eq!((f.error, f.rip), (Some(0), CODE));
    assert_eq!(b.regs().segments[seg::SS].selector, selector::USER_DATA);
}

#[test]
fn lar_lsl_verr_verw_look_without_faulting() {
    let mut b = Bench::long();
    b.define(CODE_X, descriptor(0, 0x1234, 0x99, 0x4));
    b.runs(|a| {
        a.mov(ecx, CODE_X as u32)?;
        a.lar(eax, ecx)?;
        a.lsl(ebx, ecx)?;
        a.mov(edx, selector::DATA as u32)?;
        a.lsl(esi, edx)
    });
    assert_eq!((b.gpr(0), b.gpr(3), b.gpr(6)), (0x40_9900, 0x1234, 0xffff_ffff));
    for (selector, read, write) in [
        (selector::DATA, true, true),
        (selector::CODE64, true, false),
        (CODE_X, false, false),
        (selector::TSS, false, false),
        (0, false, false),
        (0x1f0, false, false),
        (selector::DATA | 3, false, false),
    ] {
        b.runs(|a| {
            a.mov(ecx, selector as u32)?;
            a.verr(cx)?;
            a.setz(bl)?;
            a.verw(cx)?;
            a.setz(dl)
        });
        assert_eq!(
            (b.gpr(3) & 0xff != 0, b.gpr(2) & 0xff != 0),
            (read, write),
            "{selector:#x}"
        );
    }
    b.runs(|a| {
        a.mov(eax, 0x55)?;
        a.mov(ecx, 0x1f0)?;
        a.lar(eax, ecx)?;
        a.setz(bl)
    });
    assert_eq!((b.gpr(0), b.gpr(3) & 0xff), (0x55, 0), "the destination stays");
}
