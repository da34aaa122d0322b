//! Hardware tasks: 32-bit TSSs, task gates, nesting, and faults in a new task (SDM vol. 3A, chapter 7).

use crate::bench::*;
use hv_core::regs::{cr0, gpr, rflags, seg};

const OTHER: u64 = TSS + 0x800;
const SELECTOR: u16 = selector::FREE;
const TASK: u64 = CODE + 0x8000;
const TASK_STACK: u64 = STACK + 0x8000;

/// 32-bit ring 0 with a second task at `TASK`.
fn bench() -> Bench {
    let mut b = Bench::protected();
    b.define(SELECTOR, descriptor(OTHER as u32, 0x67, 0x89, 0));
    b.write_u32(OTHER + 32, TASK as u32);
    b.write_u32(OTHER + 36, 2);
    for n in 0..8u64 {
        b.write_u32(OTHER + 40 + 4 * n, 0x100 + n as u32);
    }
    b.write_u32(OTHER + 40 + 16, TASK_STACK as u32);
    for n in 0..6u64 {
        let value = if n == 1 { selector::CODE32 } else { selector::DATA };
        b.write_u32(OTHER + 72 + 4 * n, value as u32);
    }
    b.set(|r| r.gpr[gpr::RAX] = 0x55);
    b
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut bytes = vec![opcode, 0, 0, 0, 0];
    bytes.extend(selector.to_le_bytes());
    bytes
}

fn busy(b: &Bench, selector: u16) -> bool {
    b.read::<1>(GDT + selector as u64 + 5)[0] & 2 != 0
}

#[test]
fn a_jump_to_a_tss_saves_the_old_task_and_loads_the_new_one() {
    let mut b = bench();
    b.code_at(32, TASK, |a| a.out(EXIT_PORT as i32, al));
    b.code(|a| a.db(&far(0xea, SELECTOR)));
    b.finish();
    let r = b.regs();
    assert_eq!(r.rip, TASK + 2);
    for n in [0, 1, 2, 3, 5, 6, 7] {
        assert_eq!(r.gpr[n], 0x100 + n as u64);
    }
    assert_eq!(r.gpr[gpr::RSP], TASK_STACK);
    assert_eq!((r.tr.selector, r.tr.base), (SELECTOR, OTHER));
    assert_ne!(r.cr0 & cr0::TS, 0);
    assert_eq!(
        (b.u32(TSS + 32), b.u32(TSS + 40), b.u32(TSS + 56)),
        (CODE as u32 + 7, 0x55, STACK as u32)
    );
    assert_eq!(
        (b.u32(TSS + 76), b.u32(TSS + 80)),
        (selector::CODE32 as u32, selector::DATA as u32)
    );
    assert_eq!((busy(&b, selector::TSS), busy(&b, SELECTOR)), (false, true));
    assert_eq!(r.rflags & rflags::NT, 0);
}

#[test]
fn a_call_nests_and_iret_returns_behind_it() {
    let mut b = bench();
    b.code_at(32, TASK, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(dword_ptr(DATA))?;
        a.iretd()?;
        a.add(dword_ptr(DATA), 0x100)?; // where it goes on the second time
        a.jmp(again)
    });
    b.runs(|a| {
        a.db(&far(0x9a, SELECTOR))?;
        a.db(&far(0x9a, SELECTOR))
    });
    assert_eq!(b.u32(DATA), 0x102);
    let r = b.regs();
    assert_eq!(
        (r.gpr[gpr::RAX], r.gpr[gpr::RSP], r.tr.selector),
        (0x55, STACK, selector::TSS)
    );
    assert_eq!(r.rflags & rflags::NT, 0);
    assert_eq!(b.u16(OTHER), selector::TSS, "the back link");
    assert_eq!((busy(&b, selector::TSS), busy(&b, SELECTOR)), (true, false));
    assert_eq!(b.u32(OTHER + 36) & rflags::NT as u32, 0);
}

#[test]
fn an_exception_by_a_task_gate_has_its_error_code_on_the_new_stack() {
    let mut b = bench();
    b.define(SELECTOR + 8, 0);
    b.write_u64(IDT + 8 * vector::GP as u64, gate(SELECTOR, 0, 0x85, 0));
    b.code_at(32, TASK, |a| {
        a.pop(ecx)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.code(|a| {
        a.mov(eax, 0x1f8)?;
        a.mov(es, eax)
    });
    b.finish();
    assert_eq!(b.gpr(gpr::RCX), 0x1f8);
    assert_eq!(b.u32(TSS + 32), CODE as u32 + 5, "the faulting instruction");
    assert_ne!(b.regs().rflags & rflags::NT, 0);
    assert_ne!(b.u32(TSS + 36) & rflags::RF as u32, 0);
}

#[test]
fn a_double_fault_task_gate_saves_the_day() {
    let mut b = bench();
    b.write_u64(IDT + 8 * vector::DF as u64, gate(SELECTOR, 0, 0x85, 0));
    b.set(|r| r.gpr[gpr::RSP] = 0x1000);
    // No stack: SS gets a limit that the push doesn't fit.
    b.define(SELECTOR + 8, descriptor(0, 0xfff, 0x93, 4));
    b.code_at(32, TASK, |a| {
        a.pop(ecx)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.code(|a| {
        a.mov(eax, SELECTOR as u32 + 8)?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x2000)?;
        a.push(eax)
    });
    b.finish();
    assert_eq!(b.gpr(gpr::RCX), 0);
    assert_eq!(b.u32(TSS + 56), 0x2000);
}

#[test]
fn task_switches_check_the_tss() {
    let cases = [
        (
            "busy",
            descriptor(OTHER as u32, 0x67, 0x8b, 0),
            vector::GP,
            SELECTOR,
        ),
        (
            "not present",
            descriptor(OTHER as u32, 0x67, 0x09, 0),
            vector::NP,
            SELECTOR,
        ),
        (
            "too short",
            descriptor(OTHER as u32, 0x66, 0x89, 0),
            vector::TS,
            SELECTOR,
        ),
        (
            "no TSS",
            descriptor(OTHER as u32, 0x67, 0x82, 0),
            vector::GP,
            SELECTOR,
        ),
    ];
    for (name, value, vector, error) in cases {
        let mut b = bench();
        b.define(SELECTOR, value);
        let f = b.raises(vector, |a| a.db(&far(0xea, SELECTOR)));
        assert_eq!((f.error, f.rip), (Some(error as u64), CODE), "{name}");
        assert_eq!(b.regs().tr.selector, selector::TSS, "{name}");
    }
}

#[test]
fn bad_segments_in_the_new_tss_are_ts_in_the_new_task() {
    for (index, value, vector, error) in [
        (1, selector::DATA, vector::TS, selector::DATA),     // CS
        (2, selector::CODE32, vector::TS, selector::CODE32), // SS
        (3, 0x1f8, vector::TS, 0x1f8),                       // DS
        (2, 0, vector::TS, 0),
    ] {
        let mut b = bench();
        b.write_u32(OTHER + 72 + 4 * index, value as u32);
        // The handler's stack must work: a task of its own.
        b.write_u64(IDT + 8 * vector as u64, gate(SELECTOR + 8, 0, 0x85, 0));
        b.define(SELECTOR + 8, descriptor(OTHER as u32 + 0x200, 0x67, 0x89, 0));
        b.write_u32(OTHER + 0x200 + 32, TASK as u32);
        b.write_u32(OTHER + 0x200 + 36, 2);
        b.write_u32(OTHER + 0x200 + 56, TASK_STACK as u32);
        for n in 0..6u64 {
            let s = if n == 1 { selector::CODE32 } else { selector::DATA };
            b.write_u32(OTHER + 0x200 + 72 + 4 * n, s as u32);
        }
        b.code_at(32, TASK, |a| {
            a.pop(ecx)?;
            a.out(EXIT_PORT as i32, al)
        });
        b.code(|a| a.db(&far(0xea, SELECTOR)));
        b.finish();
        assert_eq!(b.gpr(gpr::RCX), error as u64, "segment {index}");
        assert_eq!(b.u16(OTHER + 0x200), SELECTOR, "it was the new task's fault");
    }
}

#[test]
fn the_t_bit_traps_in_the_new_task() {
    let mut b = bench();
    b.write_u16(OTHER + 100, 1);
    b.code_at(32, TASK, |a| a.nop());
    b.code(|a| a.db(&far(0xea, SELECTOR)));
    let f = b.fault(vector::DB);
    assert_eq!((f.rip, b.regs().dr6), (TASK, 0xffff_0ff0 | 1 << 15));
}

#[test]
fn local_breakpoints_end_with_the_task() {
    let mut b = bench();
    b.set(|r| (r.dr[0], r.dr[1], r.dr7) = (TASK, TASK + 1, 0x400 | 1 | 8));
    b.code_at(32, TASK, |a| {
        a.nop()?;
        a.nop()
    });
    b.code(|a| a.db(&far(0xea, SELECTOR)));
    assert_eq!(b.fault(vector::DB).rip, TASK + 1, "the global one stays");
}

#[test]
fn a_task_may_be_virtual_8086() {
    let mut b = bench();
    b.write_u32(OTHER + 36, (rflags::VM | 2) as u32);
    b.write_u32(OTHER + 32, 0x10);
    for (n, s) in [0x3000, 0x1000, 0x2000, 0x3100, 0x3200, 0x3300]
        .into_iter()
        .enumerate()
    {
        b.write_u32(OTHER + 72 + 4 * n as u64, s);
    }
    for n in 0..1u64 {
        b.write_u32(OTHER + 4 + 8 * n, (STACK + 0x1000) as u32);
        b.write_u32(OTHER + 8 + 8 * n, selector::DATA as u32);
    }
    b.write(0x1_0010, &[0xcc]);
    b.code(|a| a.db(&far(0xea, SELECTOR)));
    let f = b.fault(vector::BP);
    assert_eq!((f.rip, f.cs, f.ss), (0x11, 0x1000, 0x2000));
    assert_ne!(f.rflags & rflags::VM, 0);
    assert_eq!(b.regs().segments[seg::CS].selector, selector::CODE32);
}

#[test]
fn ltr_marks_busy_and_lldt_takes_only_ldts() {
    let mut b = Bench::long();
    b.define(SELECTOR, descriptor(OTHER as u32, 0x67, 0x89, 0));
    b.write_u64(GDT + SELECTOR as u64 + 8, 0xffff_8000);
    b.runs(|a| {
        a.mov(eax, SELECTOR as u32)?;
        a.ltr(ax)
    });
    assert_eq!(b.regs().tr.base, 0xffff_8000_0000_0000 | OTHER);
    assert!(busy(&b, SELECTOR));
    let f = b.raises(vector::GP, |a| a.ltr(ax));
    assert_eq!(f.error, Some(SELECTOR as u64), "busy now");
    let f = b.raises(vector::GP, |a| a.lldt(ax));
    assert_eq!(f.error, Some(SELECTOR as u64));
    b.raises(vector::GP, |a| {
        a.xor(eax, eax)?;
        a.ltr(ax)
    });
    b.runs(|a| {
        a.xor(eax, eax)?;
        a.lldt(ax)
    });
}
