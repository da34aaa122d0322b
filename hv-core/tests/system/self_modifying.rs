//! Code that changes under the feet of who runs it is seen at once, wherever the write comes from.

use crate::bench::*;
use hv_core::VcpuId;
use hv_core::regs::{Activity, gpr};

const ALIAS: u64 = 0x70_0000;

/// A target function far from the writer: `mov eax, imm32; ret`.
fn function(b: &mut Bench, at: u64, value: u32) {
    b.code_at(64, at, |a| {
        a.mov(eax, value)?;
        a.ret()
    });
}

#[test]
fn the_next_instruction_can_be_written() {
    let mut b = Bench::long();
    let at = b.code(|a| {
        a.mov(byte_ptr(CODE + 9), 7)?; // 8 bytes: c6 04 25 disp32 imm8
        a.mov(al, 1)?;
        a.out(EXIT_PORT as i32, al)
    });
    assert_eq!(b.read::<1>(at + 8)[0], 0xb0);
    b.finish();
    assert_eq!(b.gpr(gpr::RAX), 7);
}

#[test]
fn an_instruction_later_in_the_same_block_and_one_before_can_be_written() {
    let mut b = Bench::long();
    b.code(|a| {
        let mut again = a.create_label();
        a.xor(ecx, ecx)?;
        a.set_label(&mut again)?;
        a.mov(al, 1)?; // CODE + 2, its immediate at CODE + 3
        a.add(ecx, eax)?;
        a.inc(byte_ptr(CODE + 3))?;
        a.cmp(byte_ptr(CODE + 3), 5)?;
        a.jne(again)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.finish();
    assert_eq!(b.gpr(gpr::RCX), 1 + 2 + 3 + 4);
}

#[test]
fn a_function_that_was_called_before_and_is_patched() {
    let mut b = Bench::long();
    let target = CODE + 0x8000;
    function(&mut b, target, 1);
    b.runs(|a| {
        a.call(target)?;
        a.mov(ecx, eax)?;
        a.mov(dword_ptr(target + 1), 2)?;
        a.call(target)?;
        a.shl(eax, 8)?;
        a.or(ecx, eax)
    });
    assert_eq!(b.gpr(gpr::RCX), 0x201);
}

#[test]
fn through_another_mapping_of_the_page() {
    let mut b = Bench::long();
    let target = CODE + 0x8000;
    function(&mut b, target, 1);
    b.map(ALIAS, target | 7);
    b.runs(|a| {
        a.mov(dword_ptr(ALIAS + 0x800), 0)?; // the alias is in the TLB for writing before the code is known
        a.call(target)?;
        a.mov(ecx, eax)?;
        a.mov(dword_ptr(ALIAS + 1), 2)?;
        a.call(target)?;
        a.shl(eax, 8)?;
        a.or(ecx, eax)
    });
    assert_eq!(b.gpr(gpr::RCX), 0x201);
}

#[test]
fn one_page_of_code_at_two_addresses() {
    let mut b = Bench::long();
    let target = CODE + 0x8000;
    // lea rax, [rip]: differs by address; then patched.
    b.code_at(64, target, |a| {
        a.db(&[0x48, 0x8d, 0x05, 0, 0, 0, 0])?;
        a.ret()
    });
    b.map(ALIAS, target | 7);
    b.runs(|a| {
        a.call(target)?;
        a.mov(rsi, rax)?;
        a.mov(rbx, ALIAS)?;
        a.call(rbx)?;
        a.mov(rdi, rax)?;
        a.mov(dword_ptr(target + 3), 0x10)?;
        a.call(rbx)
    });
    assert_eq!(
        (b.gpr(6), b.gpr(7), b.gpr(0)),
        (target + 7, ALIAS + 7, ALIAS + 0x17)
    );
}

#[test]
fn an_instruction_across_two_pages_changed_in_either() {
    let mut b = Bench::long();
    let edge = CODE + 0x9000;
    function(&mut b, edge - 2, 0x0403_0201);
    b.runs(|a| {
        a.call(edge - 2)?;
        a.mov(ecx, eax)?;
        a.mov(byte_ptr(edge - 1), 0x11)?;
        a.call(edge - 2)?;
        a.mov(edx, eax)?;
        a.mov(byte_ptr(edge + 2), 0x44)?;
        a.call(edge - 2)
    });
    assert_eq!(
        (b.gpr(1), b.gpr(2), b.gpr(0)),
        (0x0403_0201, 0x0403_0211, 0x4403_0211)
    );
}

#[test]
fn the_second_page_of_an_instruction_is_mapped_elsewhere() {
    let mut b = Bench::long();
    let edge = CODE + 0x9000;
    function(&mut b, edge - 2, 0x0403_0201);
    b.write(0x60_0000, &[0x22, 0x33, 0x44, 0xc3]);
    let pte = b.pte(edge);
    b.runs(|a| {
        a.call(edge - 2)?;
        a.mov(ecx, eax)?;
        a.mov(qword_ptr(pte), 0x60_0007)?;
        a.invlpg(byte_ptr(edge))?;
        a.call(edge - 2)
    });
    assert_eq!((b.gpr(1), b.gpr(0)), (0x0403_0201, 0x4433_2201));
}

#[test]
fn a_rep_movs_over_code_including_its_own() {
    let mut b = Bench::long();
    // The new code: mov eax, 9; out.
    b.code_at(64, DATA, |a| {
        a.nop()?;
        a.mov(eax, 9)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.code(|a| {
        a.mov(esi, DATA as u32)?;
        a.mov(edi, CODE as u32 + 17)?;
        a.mov(ecx, 8)?;
        a.rep().movsb()?; // 15..17
        a.mov(eax, 1)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.finish();
    assert_eq!((b.gpr(0), b.gpr(1), b.regs().rip), (9, 0, CODE + 25));
    // Over the REP itself: after the iteration that wrote it, the new instruction runs.
    let mut b = Bench::long();
    b.write(DATA, &[0x90, 0x90, 0x90, 0xe6, EXIT_PORT as u8]);
    b.code(|a| {
        a.mov(esi, DATA as u32)?;
        a.mov(edi, CODE as u32 + 15)?;
        a.mov(ecx, 5)?;
        a.rep().movsb()?;
        a.ud2()
    });
    b.write(CODE + 17, &[0xe6, EXIT_PORT as u8]);
    b.finish();
    assert_eq!(b.gpr(1), 4, "one iteration; then NOP and MOVSB");
}

#[test]
fn string_stores_and_pushes_over_code() {
    let mut b = Bench::long();
    let target = CODE + 0x8000;
    function(&mut b, target, 1);
    b.runs(|a| {
        a.call(target)?;
        a.mov(edi, target as u32 + 1)?;
        a.mov(eax, 0x55)?;
        a.stosb()?;
        a.call(target)?;
        a.mov(ecx, eax)?;
        // push b8 xx xx xx xx c3 .. .. over it
        a.mov(rbx, 0xc300_0000_77b8u64)?;
        a.mov(rdx, rsp)?;
        a.mov(esp, target as u32 + 8)?;
        a.push(rbx)?;
        a.mov(rsp, rdx)?;
        a.call(target)
    });
    assert_eq!((b.gpr(1), b.gpr(0)), (0x55, 0x77));
}

#[test]
fn code_may_end_at_the_end_of_a_page_and_go_on_in_another() {
    let mut b = Bench::long();
    let edge = CODE + 0x9000;
    b.code_at(64, edge - 4, |a| {
        a.nop()?;
        a.nop()?;
        a.mov(al, 5)
    });
    b.code_at(64, edge, |a| {
        a.inc(al)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.set(|r| r.rip = edge - 4);
    b.finish();
    assert_eq!(b.gpr(0), 6);
    // The next page is another one now.
    b.code_at(64, 0x60_0000, |a| a.out(EXIT_PORT as i32, al));
    let pte = b.pte(edge);
    b.write_u64(pte, 0x60_0007);
    b.set(|r| (r.rip = edge - 4, r.cr3 = TABLES).1);
    b.finish();
    assert_eq!(b.gpr(0), 5);
}

#[test]
fn data_in_the_page_of_running_code_is_only_data() {
    let mut b = Bench::long();
    b.runs(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 1000)?;
        a.set_label(&mut again)?;
        a.inc(qword_ptr(CODE + 0x800))?;
        a.push(rcx)?;
        a.pop(qword_ptr(CODE + 0x808))?;
        a.dec(ecx)?;
        a.jne(again)
    });
    assert_eq!((b.u64(CODE + 0x800), b.u64(CODE + 0x808)), (1000, 1));
}

#[test]
fn code_written_by_a_debugger_is_seen() {
    let mut b = Bench::long();
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(al, 1)?;
        a.jmp(again)
    });
    b.run_for(1000);
    b.write(CODE, &[0xe6, EXIT_PORT as u8]);
    b.finish();
}

/// vCPU 1 calls a function for ever and leaves its result; vCPU 0 patches it with `patch`, then waits for the new result.
fn cross_modified(patch: impl FnOnce(&mut CodeAssembler, u64) -> Result<(), iced_x86::IcedError>) -> Bench {
    let mut b = Bench::long_smp(2);
    let target = CODE + 0x8000;
    function(&mut b, target, 1);
    b.map(ALIAS, target | 7);
    b.code_at(64, CODE + 0x4000, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.call(target)?;
        a.mov(dword_ptr(DATA), eax)?;
        a.jmp(again)
    });
    let registers = b.long_registers();
    b.set_of(VcpuId(1), |r| {
        let apic = r.apic_base;
        *r = registers;
        r.apic_base = apic;
        r.rip = CODE + 0x4000;
        r.gpr[gpr::RSP] = STACK + 0x2_0000;
        r.activity = Activity::Running;
    });
    b.code(|a| {
        let mut first = a.create_label();
        let mut second = a.create_label();
        a.set_label(&mut first)?;
        a.pause()?;
        a.cmp(dword_ptr(DATA), 1)?;
        a.jne(first)?;
        patch(a, target)?;
        a.set_label(&mut second)?;
        a.pause()?;
        a.cmp(dword_ptr(DATA), 2)?;
        a.jne(second)?;
        a.out(EXIT_PORT as i32, al)
    });
    b
}

#[test]
fn another_vcpu_sees_a_patch_through_any_mapping() {
    let mut b = cross_modified(|a, target| a.mov(dword_ptr(target + 1), 2));
    b.finish();
    let mut b = cross_modified(|a, _| a.mov(dword_ptr(ALIAS + 1), 2));
    b.finish();
}

#[test]
fn int3_patching_as_an_os_does_it() {
    // Breakpoint byte, tail, first byte, each through the alias; whoever meets the breakpoint goes on behind it.
    let mut b = cross_modified(|a, _| {
        a.mov(byte_ptr(ALIAS), 0xcc)?;
        a.cpuid()?;
        a.mov(dword_ptr(ALIAS + 1), 2)?;
        a.cpuid()?;
        a.mov(byte_ptr(ALIAS), 0xb8)
    });
    // The handler skips the five bytes with eax = 1, as the old instruction would.
    b.code_at(64, CODE + 0x6000, |a| {
        a.mov(eax, 1)?;
        a.add(qword_ptr(rsp), 4)?;
        a.inc(qword_ptr(DATA + 8))?;
        a.iretq()
    });
    b.interrupt_gate(vector::BP, 0x8e, 0, CODE + 0x6000);
    b.finish();
}

#[test]
fn a_page_that_gains_code_loses_its_fast_writes_on_every_vcpu() {
    // vCPU 1 writes to a page all the time; vCPU 0 starts to run code in it; later vCPU 1's write changes that code.
    let mut b = Bench::long_smp(2);
    let target = CODE + 0x8000;
    function(&mut b, target, 0);
    b.code_at(64, CODE + 0x4000, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(dword_ptr(target + 1))?;
        a.pause()?;
        a.jmp(again)
    });
    let registers = b.long_registers();
    b.set_of(VcpuId(1), |r| {
        let apic = r.apic_base;
        *r = registers;
        r.apic_base = apic;
        r.rip = CODE + 0x4000;
        r.activity = Activity::Running;
    });
    b.code(|a| {
        let mut again = a.create_label();
        let mut wrong = a.create_label();
        a.mov(ebx, 200)?;
        a.set_label(&mut again)?;
        a.call(target)?;
        a.cmp(eax, dword_ptr(target + 1))?;
        a.jne(wrong)?;
        a.pause()?;
        a.dec(ebx)?;
        a.jne(again)?;
        a.out(EXIT_PORT as i32, al)?;
        a.set_label(&mut wrong)?;
        a.ud2()
    });
    b.finish();
    assert!(b.u32(target + 1) > 100);
}

#[test]
fn a_descriptor_among_code_is_marked_accessed_before_it_is_executed() {
    let mut b = Bench::long();
    b.set(|r| {
        r.gpr[gpr::RAX] = 0x60;
        r.gpr[gpr::RBX] = 2;
        r.gpr[gpr::RDX] = 3;
        r.gdtr.base = CODE + 0x1000 + 2 - 0x60;
    });
    // mov es, eax; then NOPs around the byte with the type: XCHG EAX, EDX, which the accessed bit makes EAX, EBX.
    let exit = [0xe6, EXIT_PORT as u8];
    b.write(CODE + 0x1000, &[0x8e, 0xc0]);
    b.write(
        CODE + 0x1002,
        &[0x90, 0x90, 0x90, 0x90, 0x90, 0x92, 0x90, 0x90, exit[0], exit[1]],
    );
    b.set(|r| r.rip = CODE + 0x1000);
    b.finish();
    assert_eq!((b.gpr(gpr::RAX), b.gpr(gpr::RBX), b.gpr(gpr::RDX)), (2, 0x60, 3));
}

#[test]
fn a_page_table_entry_among_code_is_marked_accessed_before_it_is_executed() {
    let mut b = Bench::long();
    let table = CODE + 0x5000;
    b.write_u64(TABLES + 0x2000 + 8 * 3, table | 7);
    for k in 0..512u64 {
        b.write_u64(table + 8 * k, (0x60_0000 + (k << 12)) | 7);
    }
    // mov rcx, [the page of entry 16]; then the entry: XCHG EAX, EBX and a jump, which the accessed bit makes
    // MOV BL, EBh; PUSH RAX; ADD [RAX], AL.
    b.code_at(64, table + 0x78, |a| a.mov(rcx, qword_ptr(0x61_0000u64)));
    b.write_u64(table + 0x80, 0x50_eb93);
    b.write(table + 0x88, &[0, 0xe6, EXIT_PORT as u8]);
    b.set(|r| {
        r.rip = table + 0x78;
        r.gpr[gpr::RAX] = DATA;
    });
    b.finish();
    assert_eq!(b.gpr(gpr::RBX), 0xeb);
    assert_eq!(b.u64(table + 0x80), 0x50_ebb3);
}
