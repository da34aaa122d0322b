//! Real mode, and the ways between the modes (SDM vol. 3A, 9.8, 9.9 and 20.1).

use crate::bench::*;
use hv_core::regs::{Segment, cr0, cr4, efer, gpr, rflags, seg};

/// A real-mode far pointer's bytes: offset, selector.
fn far_jump16(offset: u16, selector: u16) -> Vec<u8> {
    let mut bytes = vec![0xea];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(selector.to_le_bytes());
    bytes
}

#[test]
fn real_mode_addresses_are_selector_times_16_plus_offset() {
    let mut b = Bench::real();
    b.write_u16(0x1_2345 + 0x10, 0xbeef);
    b.runs(|a| {
        a.mov(ax, 0x1234)?;
        a.mov(ds, ax)?;
        a.mov(bx, 5)?;
        a.mov(cx, word_ptr(bx + 0x10))?;
        a.mov(ax, -1)?;
        a.mov(es, ax)?;
        a.mov(byte_ptr(0xffff).es(), cl)
    });
    assert_eq!(b.gpr(gpr::RCX), 0xbeef);
    assert_eq!(
        b.read::<1>(0x10_ffef)[0],
        0xef,
        "FFFF:FFFF is above 1 MiB: A20 is on"
    );
}

#[test]
fn a_word_at_offset_ffff_is_beyond_the_segment() {
    let mut b = Bench::real();
    b.raises_real(vector::GP, |a| {
        a.mov(bx, -1)?;
        a.mov(ax, word_ptr(bx))
    });
    // 16-bit effective addresses wrap instead.
    let mut b = Bench::real();
    b.write(0x1_0004 - 0x1_0000 + 4, &[0x77]);
    b.runs(|a| {
        a.mov(bx, -4)?;
        a.mov(si, 12)?;
        a.mov(al, byte_ptr(bx + si))
    });
    assert_eq!(b.gpr(0) & 0xff, 0x77);
}

#[test]
fn the_stack_pointer_wraps_in_its_16_bits() {
    let mut b = Bench::real();
    b.set(|r| r.gpr[gpr::RSP] = 0xabcd_0000);
    b.runs(|a| {
        a.mov(ax, 0x1234)?;
        a.push(ax)?;
        a.pop(cx)
    });
    assert_eq!((b.u16(0x2_fffe), b.gpr(gpr::RCX)), (0x1234, 0x1234));
    assert_eq!(b.gpr(gpr::RSP), 0xabcd_0000, "the upper half stays");
}

#[test]
fn int_pushes_flags_cs_ip_and_iret_takes_them_back() {
    let mut b = Bench::real();
    b.set(|r| r.rflags |= rflags::IF | rflags::CF);
    b.code(|a| {
        a.int(0x21)?;
        a.mov(cx, 7)?;
        a.out(EXIT_PORT as i32, al)
    });
    assert!(exited(&b.go()));
    let r = b.regs();
    assert_eq!((r.segments[seg::CS].selector, r.rip), (0, 0x4000 + 16 * 0x21 + 2));
    assert_eq!(r.gpr[gpr::RSP], 0xfff8);
    assert_eq!(
        (b.u16(0x2_fff8), b.u16(0x2_fffa), b.u16(0x2_fffc)),
        (2, 0x1000, 0x203)
    );
    assert_eq!(r.rflags & rflags::IF, 0);
    assert!(exited(&b.go()));
    let r = b.regs();
    assert_eq!(
        (r.segments[seg::CS].selector, r.gpr[gpr::RCX], r.gpr[gpr::RSP]),
        (0x1000, 7, 0xfffe)
    );
    assert_eq!(r.rflags, 0x203);
}

#[test]
fn exceptions_go_through_the_ivt_without_error_codes() {
    let mut b = Bench::real();
    b.raises_real(vector::DE, |a| {
        a.xor(cx, cx)?;
        a.div(cx)
    });
    assert_eq!(b.gpr(gpr::RSP), 0xfff8);
    assert_eq!(b.u16(0x2_fff8), 2, "at the instruction");
    let mut b = Bench::real();
    b.raises_real(vector::UD, |a| a.sldt(ax));
    let mut b = Bench::real();
    b.set(|r| {
        r.idtr.base = 0x8000;
        r.idtr.limit = 4 * 14 - 1;
    });
    for v in 0..16u64 {
        b.write_u32(0x8000 + 4 * v, 0x4000 + 16 * v as u32);
    }
    b.code(|a| a.int(0x21));
    assert!(exited(&b.go()));
    assert_eq!(
        b.regs().rip,
        0x4000 + 16 * vector::GP as u64 + 2,
        "a vector beyond the limit"
    );
}

#[test]
fn far_calls_jumps_and_returns() {
    let mut b = Bench::real();
    b.write(0x5_0010, &[0x89, 0xe1, 0xcb]); // mov cx, sp; retf
    b.code(|a| {
        a.db(&[0x9a, 0x10, 0x00, 0x00, 0x50])?; // call 5000:0010
        a.db(&far_jump16(0x20, 0x5000))
    });
    b.write(0x5_0020, &[0xe6, EXIT_PORT as u8]);
    assert!(exited(&b.go()));
    let r = b.regs();
    assert_eq!((r.gpr[gpr::RCX], r.gpr[gpr::RSP]), (0xfffa, 0xfffe));
    assert_eq!(
        (r.segments[seg::CS].selector, r.segments[seg::CS].base, r.rip),
        (0x5000, 0x5_0000, 0x22)
    );
    assert_eq!((b.u16(0x2_fffa), b.u16(0x2_fffc)), (5, 0x1000));
}

#[test]
fn string_instructions_use_16_bit_registers() {
    let mut b = Bench::real();
    b.write(0x3_fffe, &[1, 2]);
    b.write(0x3_0000, &[3, 4]);
    b.set(|r| {
        (r.gpr[gpr::RSI], r.gpr[gpr::RDI], r.gpr[gpr::RCX]) = (0x5555_fffe, 0x6666_0100, 0x7777_0004);
    });
    b.runs(|a| {
        a.mov(ax, 0x3000)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.rep().movsb()
    });
    assert_eq!(b.read::<4>(0x3_0100), [1, 2, 3, 4]);
    assert_eq!(
        (b.gpr(6), b.gpr(7), b.gpr(1)),
        (0x5555_0002, 0x6666_0104, 0x7777_0000)
    );
}

#[test]
fn operand_and_address_prefixes_reach_32_bits() {
    let mut b = Bench::real();
    b.write_u32(0xfff0, 0x1234_5678);
    b.runs(|a| {
        a.mov(ebx, 0xffecu32)?;
        a.mov(ecx, dword_ptr(ebx + 4))?;
        a.push(ecx)?;
        a.pop(edx)
    });
    assert_eq!(b.gpr(gpr::RDX), 0x1234_5678);
}

#[test]
fn a_segment_limit_loaded_in_protected_mode_stays_in_real_mode() {
    let mut b = Bench::real();
    b.write_u64(0x6008, descriptor(0, u32::MAX, 0x93, 0xc));
    b.write_u32(DATA, 0xabcd);
    b.set(|r| (r.gdtr.base, r.gdtr.limit) = (0x6000, 0xf));
    b.runs(|a| {
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.mov(bx, 8)?;
        a.mov(fs, bx)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)?;
        a.mov(ebx, DATA as u32)?;
        a.mov(ecx, dword_ptr(ebx).fs())
    });
    assert_eq!(b.gpr(gpr::RCX), 0xabcd);
}

#[test]
fn lgdt_with_a_16_bit_operand_takes_24_bits_of_base() {
    let mut b = Bench::real();
    b.write_u16(0x3_0000, 0x27);
    b.write_u32(0x3_0002, 0xff12_3456);
    b.runs(|a| {
        a.mov(ax, 0x3000)?;
        a.mov(ds, ax)?;
        a.db(&[0x0f, 0x01, 0x16, 0, 0])?; // lgdt [0]
        a.db(&[0x66, 0x0f, 0x01, 0x1e, 0, 0]) // lidt [0], 32-bit
    });
    assert_eq!((b.regs().gdtr.base, b.regs().gdtr.limit), (0x12_3456, 0x27));
    assert_eq!((b.regs().idtr.base, b.regs().idtr.limit), (0xff12_3456, 0x27));
}

/// From real mode to 64-bit mode and back to real mode, by code alone.
#[test]
fn the_whole_way_up_and_down() {
    let mut b = Bench::real();
    // Tables below 1 MiB: GDT at 0x6000; page tables at 0x7000 with a 2 MiB page of identity.
    for (n, value) in [
        (1, descriptor(0, u32::MAX, 0x9b, 0xc)), // 08: 32-bit code
        (2, descriptor(0, u32::MAX, 0x93, 0xc)), // 10: data
        (3, descriptor(0, 0, 0x9b, 0x2)),        // 18: 64-bit code
        (4, descriptor(0, 0xffff, 0x9b, 0)),     // 20: 16-bit code
        (5, descriptor(0, 0xffff, 0x93, 0)),     // 28: 16-bit data
    ] {
        b.write_u64(0x6000 + 8 * n, value);
    }
    b.write_u64(0x7000, 0x8007);
    b.write_u64(0x8000, 0x9007);
    b.write_u64(0x9000, 0x87);
    b.write_u16(0x5ff0, 0x2f);
    b.write_u32(0x5ff2, 0x6000);
    // Real mode, 16 bits.
    b.code(|a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.db(&[0x66, 0x0f, 0x01, 0x16, 0xf0, 0x5f])?; // lgdt [5ff0]
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.db(&[0x66, 0xea, 0x00, 0xa0, 0, 0, 0x08, 0]) // jmp 08:a000
    });
    // 32-bit protected mode.
    let mut code = assemble(32, 0xa000, |a| {
        a.mov(ax, 0x10)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(esp, 0x3_0000)?;
        a.mov(dword_ptr(0x5000), 0x32)?;
        a.mov(eax, cr4)?;
        a.or(eax, cr4::PAE as u32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, 0x7000)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, efer::LME as u32)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, cr0::PG as u32)?;
        a.mov(cr0, eax)?; // compatibility mode now
        a.rdmsr()?;
        a.mov(dword_ptr(0x5004), eax)
    });
    code.extend([0xea, 0x00, 0xb0, 0, 0, 0x18, 0]); // jmp 18:b000
    b.write(0xa000, &code);
    // 64-bit mode.
    b.code_at(64, 0xb000, |a| {
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.mov(qword_ptr(0x5008), rax)?;
        a.mov(r8, rax)?;
        a.push(0x08)?;
        a.push(0xc000)?;
        a.db(&[0x48, 0xcb]) // retfq to 08:c000
    });
    // Compatibility mode, then paging off, then 16 bits, then real mode.
    let mut code = assemble(32, 0xc000, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, !(cr0::PG as u32))?;
        a.mov(cr0, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.mov(dword_ptr(0x5010), eax)
    });
    code.extend([0xea, 0x00, 0xd0, 0, 0, 0x20, 0]); // jmp 20:d000
    b.write(0xc000, &code);
    let mut code = assemble(16, 0xd000, |a| {
        a.mov(ax, 0x28)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(eax, cr0)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)
    });
    code.extend(far_jump16(0xe000, 0));
    b.write(0xd000, &code);
    b.code_at(16, 0xe000, |a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x3000)?;
        a.int(0x33)
    });
    assert!(exited(&b.go()), "at {:x?}", b.regs());
    let r = b.regs();
    assert_eq!(r.rip, 0x4000 + 16 * 0x33 + 2);
    assert_eq!(b.u32(0x5000), 0x32);
    assert_eq!(
        b.u32(0x5004) as u64 & (efer::LME | efer::LMA),
        efer::LME | efer::LMA
    );
    assert_eq!(b.u64(0x5008), 0x1122_3344_5566_7788);
    assert_eq!(
        b.u32(0x5010) as u64 & (efer::LME | efer::LMA),
        efer::LME,
        "LMA went with PG"
    );
    assert_eq!(r.gpr[8], 0x1122_3344_5566_7788, "R8 is kept");
    assert_eq!(r.gpr[gpr::RSP] & 0xffff, 0x2ffa);
    assert_eq!((b.u16(0x2ffa), b.u16(0x2ffc)), (0xe00b, 0));
}

#[test]
fn entering_long_mode_has_its_conditions() {
    // Without PAE.
    let mut b = Bench::protected();
    b.set(|r| r.efer = efer::LME);
    assert_eq!(
        b.raises(vector::GP, |a| {
            a.mov(eax, cr0)?;
            a.bts(eax, 31)?;
            a.mov(cr0, eax)
        })
        .error,
        Some(0)
    );
    // From a code segment with L set.
    let mut b = Bench::protected();
    b.set(|r| {
        r.efer = efer::LME;
        r.cr4 |= cr4::PAE;
        r.segments[seg::CS].attributes |= 1 << 13;
    });
    b.raises(vector::GP, |a| {
        a.mov(eax, cr0)?;
        a.bts(eax, 31)?;
        a.mov(cr0, eax)
    });
    // Changing LME under paging, clearing PAE or PG in 64-bit mode.
    let mut b = Bench::long();
    b.raises(vector::GP, |a| {
        a.mov(ecx, 0xc000_0080u32)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()
    });
    let mut b = Bench::long();
    b.raises(vector::GP, |a| {
        a.mov(rax, cr4)?;
        a.btr(rax, 5)?;
        a.mov(cr4, rax)
    });
    let mut b = Bench::long();
    b.raises(vector::GP, |a| {
        a.mov(rax, cr0)?;
        a.btr(rax, 31)?;
        a.mov(cr0, rax)
    });
}

#[test]
fn compatibility_mode_has_segments_and_32_bit_addresses() {
    let mut b = Bench::long();
    b.define(selector::FREE, descriptor(DATA as u32, 0xfff, 0x93, 4));
    b.write_u32(DATA + 4, 0x99);
    b.set(|r| {
        r.segments[seg::CS] = Segment {
            selector: selector::CODE32,
            base: 0,
            limit: u32::MAX,
            attributes: 0xc09b,
        };
    });
    b.runs(|a| {
        a.mov(eax, selector::FREE as u32)?;
        a.mov(es, eax)?;
        a.mov(ecx, dword_ptr(4).es())?;
        a.db(&[0x40])?; // inc eax there, a REX prefix in 64-bit mode
        a.mov(ebx, 0xffff_fff0u32)?;
        a.mov(edx, dword_ptr(ebx + (DATA as i32 + 0x14))) // wraps at 4 GiB
    });
    assert_eq!(
        (b.gpr(1), b.gpr(2), b.gpr(0)),
        (0x99, 0x99, selector::FREE as u64 + 1)
    );
    let f = b.raises(vector::GP, |a| a.mov(ecx, dword_ptr(0x1000).es()));
    assert_eq!((f.error, f.cs), (Some(0), selector::CODE32));
    assert!(b.regs().segments[seg::CS].long(), "handlers are 64-bit");
}

#[test]
fn in_64_bit_mode_only_fs_and_gs_have_a_base_and_nothing_a_limit() {
    let mut b = Bench::long();
    b.define(selector::FREE, descriptor(0x1000, 0xf, 0x93, 4));
    b.write_u64(DATA, 5);
    b.write_u64(DATA + 0x1000, 6);
    b.runs(|a| {
        a.mov(eax, selector::FREE as u32)?;
        a.mov(ds, eax)?;
        a.mov(fs, eax)?;
        a.mov(rcx, qword_ptr(DATA))?;
        a.mov(rdx, qword_ptr(DATA).fs())
    });
    assert_eq!((b.gpr(1), b.gpr(2)), (5, 6));
}

#[test]
fn protected_16_bit_code_and_stack() {
    let mut b = Bench::protected();
    b.define(selector::FREE, descriptor(0x5_0000, 0xffff, 0x9b, 0));
    b.define(selector::FREE + 8, descriptor(0x6_0000, 0xffff, 0x93, 0));
    let code = assemble(16, 0x10, |a| {
        a.mov(ax, selector::FREE as i32 + 8)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x100)?;
        a.push(0x1234)?;
        a.push(0x5678_9abcu32 as i32 & 0x7fff)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.write(0x5_0010, &code);
    let mut jump = vec![0xea, 0x10, 0, 0, 0];
    jump.extend(selector::FREE.to_le_bytes());
    b.set(|r| r.gpr[gpr::RSP] = 0xdead_0000);
    b.code(|a| a.db(&jump));
    assert!(exited(&b.go()));
    let r = b.regs();
    assert_eq!(r.gpr[gpr::RSP], 0xdead_00fc, "16-bit stack: SP alone");
    assert_eq!((b.u16(0x6_00fe), b.u16(0x6_00fc)), (0x1234, 0x1abc));
    assert_eq!(r.segments[seg::CS].base, 0x5_0000);
}
