//! Each exception that instructions raise, with its error code and what is pushed (SDM vol. 3A, 6.15).

use crate::bench::*;
use hv_core::regs::{cr0, cr4, gpr, rflags};

const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;

/// Where the last instruction before the exit lies, given the bytes of that instruction.
fn faults_at_start(frame: Frame, start: u64) {
    assert_eq!(frame.rip, start);
    assert_eq!(frame.cs, selector::CODE64);
    assert_eq!(frame.ss, selector::DATA);
    assert_eq!(frame.rsp, STACK);
    assert_ne!(frame.rflags & rflags::RF, 0, "a fault pushes RF set");
}

#[test]
fn a_division_by_zero_is_de_at_the_instruction() {
    let mut b = Bench::long();
    let f = b.raises(vector::DE, |a| a.div(rcx));
    faults_at_start(f, CODE);
    assert_eq!(f.error, None);
    let f = Bench::long().raises(vector::DE, |a| {
        a.mov(rax, i64::MIN as u64)?;
        a.cqo()?;
        a.mov(rcx, -1i64)?;
        a.idiv(rcx)
    });
    assert_ne!(f.rflags & rflags::RF, 0);
}

#[test]
fn int3_is_a_trap_behind_the_byte_and_pushes_no_rf() {
    let mut b = Bench::long();
    let f = b.raises(vector::BP, |a| a.int3());
    assert_eq!((f.rip, f.error), (CODE + 1, None));
    assert_eq!(f.rflags & rflags::RF, 0);
}

#[test]
fn int_n_pushes_the_next_address_and_clears_if_tf_nt_by_an_interrupt_gate() {
    let mut b = Bench::long();
    b.set(|r| r.rflags |= rflags::IF | rflags::NT);
    let f = b.raises(0x80, |a| a.int(0x80));
    assert_eq!(f.rip, CODE + 2);
    assert_eq!(f.rflags & (rflags::IF | rflags::NT), rflags::IF | rflags::NT);
    assert_eq!(b.regs().rflags & (rflags::IF | rflags::NT | rflags::TF), 0);
}

#[test]
fn a_trap_gate_keeps_if() {
    let mut b = Bench::long();
    b.interrupt_gate(0x80, 0x8f, 0, handler(0x80));
    b.set(|r| r.rflags |= rflags::IF);
    b.raises(0x80, |a| a.int(0x80));
    assert_ne!(b.regs().rflags & rflags::IF, 0);
}

#[test]
fn int_n_from_ring_3_needs_the_gates_dpl() {
    let mut b = Bench::long();
    b.user();
    let f = b.raises(vector::GP, |a| a.int(0x80));
    assert_eq!(f.error, Some(0x80 * 8 + 2), "IDT bit set, EXT clear");
    assert_eq!(f.rip, CODE);
    let mut b = Bench::long();
    b.user();
    assert_eq!(b.raises(vector::BP, |a| a.int3()).cs, selector::USER_CODE64);
    let mut b = Bench::long();
    b.user();
    b.raises(vector::DB, |a| a.int1());
}

#[test]
fn undefined_instructions_are_ud() {
    let f = Bench::long().raises(vector::UD, |a| a.ud2());
    faults_at_start(f, CODE);
    assert_eq!(f.error, None);
    for bytes in [
        &[0x0f, 0x04][..],         // no such opcode
        &[0xf0, 0x01, 0xc0],       // LOCK with a register destination
        &[0x8e, 0xc8],             // MOV CS
        &[0x06],                   // PUSH ES in 64-bit mode
        &[0xc5, 0xf8, 0x77],       // VZEROUPPER without AVX
        &[0x0f, 0x01, 0xc1],       // VMCALL
        &[0x0f, 0x20, 0xc8],       // MOV from CR1
        &[0xea, 0, 0, 0, 0, 0, 0], // direct far JMP in 64-bit mode
    ] {
        let mut b = Bench::long();
        let f = b.raises(vector::UD, |a| a.db(bytes));
        assert_eq!(f.rip, CODE, "{bytes:x?}");
    }
}

#[test]
fn an_instruction_longer_than_15_bytes_is_gp_or_ud_at_its_start() {
    let mut b = Bench::long();
    b.code(|a| {
        a.db(&[0x66; 14])?;
        a.db(&[0x90, 0xe6, EXIT_PORT as u8])
    });
    b.finish();
    let mut b = Bench::long();
    b.code(|a| a.db(&[0x66; 15]));
    assert_eq!(b.fault(vector::GP).error, Some(0));
}

#[test]
fn ts_and_em_make_x87_and_sse_nm_or_ud() {
    let mut b = Bench::long();
    b.set(|r| r.cr0 |= cr0::TS);
    let f = b.raises(vector::NM, |a| a.fxsave(ptr(DATA)));
    faults_at_start(f, CODE);
    let mut b = Bench::long();
    b.set(|r| r.cr0 |= cr0::EM);
    b.raises(vector::UD, |a| a.fxsave(ptr(DATA)));
}

#[test]
fn bound_and_into_outside_64_bit_mode() {
    let mut b = Bench::protected();
    b.write_u32(DATA, 5);
    b.write_u32(DATA + 4, 9);
    b.runs(|a| {
        a.mov(eax, 9)?;
        a.bound(eax, ptr(DATA))
    });
    let f = b.raises(vector::BR, |a| {
        a.mov(eax, 10)?;
        a.bound(eax, ptr(DATA))
    });
    assert_eq!(f.error, None);
    let mut b = Bench::protected();
    let f = b.raises(vector::OF, |a| {
        a.mov(al, 0x7f)?;
        a.add(al, 1)?;
        a.into()
    });
    assert_eq!(f.rip, CODE + 5, "a trap: behind INTO");
}

#[test]
fn privileged_instructions_are_gp_0_in_ring_3() {
    type Code = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let all: [(&str, Code); 20] = [
        ("hlt", |a| a.hlt()),
        ("cli", |a| a.cli()),
        ("sti", |a| a.sti()),
        ("mov cr0", |a| a.mov(rax, cr0)),
        ("mov to cr3", |a| a.mov(cr3, rax)),
        ("mov dr7", |a| a.mov(rax, dr7)),
        ("lgdt", |a| a.lgdt(ptr(DATA))),
        ("lidt", |a| a.lidt(ptr(DATA))),
        ("lldt", |a| a.lldt(ax)),
        ("ltr", |a| a.ltr(ax)),
        ("lmsw", |a| a.lmsw(ax)),
        ("clts", |a| a.clts()),
        ("invlpg", |a| a.invlpg(byte_ptr(DATA))),
        ("wbinvd", |a| a.wbinvd()),
        ("rdmsr", |a| a.rdmsr()),
        ("wrmsr", |a| a.wrmsr()),
        ("swapgs", |a| a.swapgs()),
        ("in", |a| a.in_(al, dx)),
        ("outsb", |a| a.outsb()),
        ("sysexit", |a| a.sysexit()),
    ];
    for (name, code) in all {
        let mut b = Bench::long();
        b.user();
        let f = b.raises(vector::GP, code);
        assert_eq!(
            (f.error, f.rip, f.cs, f.ss),
            (Some(0), CODE, selector::USER_CODE64, selector::USER_DATA),
            "{name}"
        );
        assert_eq!(
            b.regs().segments[hv_core::regs::seg::SS].selector,
            0,
            "{name}: SS is null in ring 0"
        );
    }
}

#[test]
fn umip_forbids_store_instructions_in_ring_3_only() {
    for umip in [false, true] {
        let mut b = Bench::long();
        b.set(|r| r.cr4 |= if umip { cr4::UMIP } else { 0 });
        b.runs(|a| {
            a.sgdt(ptr(DATA))?;
            a.smsw(ax)
        });
        assert_eq!((b.u16(DATA), b.u64(DATA + 2)), (0xff, GDT));
        b.user();
        b.set(|r| r.rflags |= rflags::IOPL);
        if umip {
            assert_eq!(b.raises(vector::GP, |a| a.sidt(ptr(DATA))).error, Some(0));
        } else {
            b.runs(|a| {
                a.sidt(ptr(DATA + 16))?;
                a.str(word_ptr(DATA + 32))
            });
            assert_eq!(
                (b.u16(DATA + 16), b.u64(DATA + 18), b.u16(DATA + 32)),
                (0xfff, IDT, selector::TSS)
            );
        }
    }
}

#[test]
fn non_canonical_data_is_gp_0_and_ss_0_through_the_stack() {
    let f = Bench::long().raises(vector::GP, |a| {
        a.mov(rbx, NON_CANONICAL)?;
        a.mov(rax, ptr(rbx))
    });
    assert_eq!(f.error, Some(0));
    for through in [0, 1, 2] {
        let mut b = Bench::long();
        b.interrupt_gate(vector::SS, 0x8e, 1, handler(vector::SS));
        let f = b.raises(vector::SS, |a| match through {
            0 => {
                a.mov(rbp, NON_CANONICAL)?;
                a.mov(rax, ptr(rbp))
            }
            1 => {
                a.mov(rsp, NON_CANONICAL)?;
                a.push(rax)
            }
            _ => {
                a.mov(rsp, NON_CANONICAL)?;
                a.ret()
            }
        });
        assert_eq!(f.error, Some(0), "form {through}");
        assert_eq!(f.rip, CODE + 10, "form {through}");
        assert_eq!(b.regs().cr2, 0, "no page fault");
    }
}

#[test]
fn an_access_across_the_canonical_edge_is_gp() {
    let f = Bench::long().raises(vector::GP, |a| {
        a.mov(rbx, 0x0000_7fff_ffff_fffcu64)?;
        a.mov(rax, ptr(rbx))
    });
    assert_eq!(f.error, Some(0));
}

#[test]
fn near_branches_to_non_canonical_addresses_fault_at_the_branch() {
    let f = Bench::long().raises(vector::GP, |a| {
        a.mov(rbx, NON_CANONICAL)?;
        a.jmp(rbx)
    });
    assert_eq!((f.error, f.rip, f.rsp), (Some(0), CODE + 10, STACK));
    let f = Bench::long().raises(vector::GP, |a| {
        a.mov(rbx, NON_CANONICAL)?;
        a.call(rbx)
    });
    assert_eq!(
        (f.error, f.rip, f.rsp),
        (Some(0), CODE + 10, STACK),
        "nothing was pushed"
    );
    let f = Bench::long().raises(vector::GP, |a| {
        a.mov(rbx, NON_CANONICAL)?;
        a.push(rbx)?;
        a.ret()
    });
    assert_eq!(
        (f.error, f.rip, f.rsp),
        (Some(0), CODE + 11, STACK - 8),
        "the fault is RET's"
    );
}

#[test]
fn segment_loads_check_type_privilege_and_presence() {
    let s = selector::FREE;
    let cases = [
        ("beyond the table", 0x1f8 | 3, 0, vector::GP, 0x1f8),
        (
            "system descriptor",
            s,
            descriptor(0, 0xfff, 0x82, 0),
            vector::GP,
            s,
        ),
        (
            "execute-only code",
            s,
            descriptor(0, 0xfff, 0x99, 0xa),
            vector::GP,
            s,
        ),
        ("not present", s, descriptor(0, 0xfff, 0x13, 0), vector::NP, s),
        (
            "RPL above DPL",
            s | 3,
            descriptor(0, 0xfff, 0x93, 0),
            vector::GP,
            s,
        ),
        (
            "in an absent LDT",
            s | 4,
            descriptor(0, 0xfff, 0x93, 0),
            vector::GP,
            s | 4,
        ),
    ];
    for (name, selector, value, vector, error) in cases {
        let mut b = Bench::long();
        b.define(s, value);
        let f = b.raises(vector, |a| {
            a.mov(eax, selector as u32)?;
            a.mov(ds, eax)
        });
        assert_eq!(f.error, Some(error as u64), "{name}");
    }
}

#[test]
fn stack_segment_loads_have_stricter_rules_and_ss_for_not_present() {
    let s = selector::FREE;
    let cases = [
        ("null in ring 3", 0, 0, vector::GP, 0, true),
        (
            "read-only data",
            s,
            descriptor(0, 0xfff, 0x91, 0),
            vector::GP,
            s,
            false,
        ),
        (
            "RPL differs",
            s | 1,
            descriptor(0, 0xfff, 0x93, 0),
            vector::GP,
            s,
            false,
        ),
        (
            "DPL differs",
            s,
            descriptor(0, 0xfff, 0xb3, 0),
            vector::GP,
            s,
            false,
        ),
        (
            "not present",
            s,
            descriptor(0, 0xfff, 0x13, 0),
            vector::SS,
            s,
            false,
        ),
    ];
    for (name, selector, value, vector, error, user) in cases {
        let mut b = Bench::long();
        b.define(s, value);
        if user {
            b.user();
        }
        let f = b.raises(vector, |a| {
            a.mov(eax, selector as u32)?;
            a.mov(ss, eax)
        });
        assert_eq!(f.error, Some(error as u64), "{name}");
    }
    Bench::long().runs(|a| {
        a.xor(eax, eax)?;
        a.mov(ss, eax)
    });
}

#[test]
fn a_segment_load_sets_the_accessed_bit() {
    let mut b = Bench::long();
    b.define(selector::FREE, descriptor(0x1234, 0xfff, 0x92, 0));
    b.runs(|a| {
        a.mov(eax, selector::FREE as u32)?;
        a.mov(fs, eax)
    });
    assert_eq!(b.read::<1>(GDT + selector::FREE as u64 + 5)[0], 0x93);
    assert_eq!(b.regs().segments[hv_core::regs::seg::FS].base, 0x1234);
}

#[test]
fn limits_and_types_count_in_protected_mode() {
    let s = selector::FREE;
    let cases = [
        (
            "beyond the limit",
            descriptor(DATA as u32, 0xf, 0x93, 4),
            0x0du32,
            true,
            false,
        ),
        (
            "at the limit",
            descriptor(DATA as u32, 0xf, 0x93, 4),
            0x0c,
            false,
            false,
        ),
        (
            "write to read-only",
            descriptor(DATA as u32, 0xf, 0x91, 4),
            0,
            true,
            true,
        ),
        (
            "read from read-only",
            descriptor(DATA as u32, 0xf, 0x91, 4),
            0,
            false,
            false,
        ),
        (
            "below an expand-down limit",
            descriptor(0, 0xfff, 0x97, 4),
            0xffc,
            true,
            true,
        ),
        (
            "above an expand-down limit",
            descriptor(DATA as u32, 0xfff, 0x97, 4),
            0x1000,
            false,
            true,
        ),
    ];
    for (name, value, offset, faults, write) in cases {
        let mut b = Bench::protected();
        b.define(s, value);
        b.code(|a| {
            a.mov(eax, s as u32)?;
            a.mov(es, eax)?;
            if write {
                a.mov(dword_ptr(offset).es(), eax)?
            } else {
                a.mov(eax, dword_ptr(offset).es())?
            }
            a.out(EXIT_PORT as i32, al)
        });
        if faults {
            assert_eq!(b.fault(vector::GP).error, Some(0), "{name}");
        } else {
            b.finish();
        }
    }
    let mut b = Bench::protected();
    b.runs(|a| {
        a.xor(eax, eax)?;
        a.mov(gs, eax)
    });
    assert_eq!(
        b.raises(vector::GP, |a| a.mov(eax, dword_ptr(DATA).gs())).error,
        Some(0),
        "a null segment"
    );
}

#[test]
fn a_stack_access_beyond_the_limit_is_ss_0() {
    let mut b = Bench::protected();
    // The handler gets a stack of its own by coming from ring 3.
    b.define(selector::FREE, descriptor(0, 0xfff, 0xf3, 4));
    b.user();
    let f = b.raises(vector::SS, |a| {
        a.mov(eax, selector::FREE as u32 | 3)?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x2000)?;
        a.push(eax)
    });
    assert_eq!((f.error, f.rsp, f.ss), (Some(0), 0x2000, selector::FREE | 3));
}

#[test]
fn misaligned_data_in_ring_3_with_am_and_ac_is_ac_0() {
    for (am, ac, user, address, faults) in [
        (true, true, true, DATA + 1, true),
        (true, true, true, DATA + 4, true),
        (true, true, true, DATA + 8, false),
        (false, true, true, DATA + 1, false),
        (true, false, true, DATA + 1, false),
        (true, true, false, DATA + 1, false),
    ] {
        let mut b = Bench::long();
        if user {
            b.user();
        }
        b.set(|r| {
            r.cr0 |= if am { cr0::AM } else { 0 };
            r.rflags |= rflags::IOPL | if ac { rflags::AC } else { 0 };
        });
        b.code(|a| {
            a.mov(al, byte_ptr(DATA + 3))?;
            a.mov(rax, qword_ptr(address))?;
            a.out(EXIT_PORT as i32, al)
        });
        if faults {
            let f = b.fault(vector::AC);
            assert_eq!((f.error, f.rip), (Some(0), CODE + 9));
        } else {
            b.finish();
        }
    }
}

#[test]
fn cmpxchg16b_wants_alignment() {
    let f = Bench::long().raises(vector::GP, |a| a.cmpxchg16b(ptr(DATA + 8)));
    assert_eq!(f.error, Some(0));
    let mut b = Bench::long();
    b.set(|r| (r.gpr[gpr::RBX], r.gpr[gpr::RCX]) = (3, 4));
    b.runs(|a| a.cmpxchg16b(ptr(DATA)));
    assert_eq!((b.u64(DATA), b.u64(DATA + 8)), (3, 4));
}
