//! IN and OUT: IOPL, the I/O permission bitmap, widths, string forms (SDM vol. 1, 19.5).

use crate::bench::*;
use hv_core::regs::{gpr, rflags};

/// Ring 3 with a bitmap behind the TSS, all ports forbidden but these.
fn bench(allowed: &[u16]) -> Bench {
    let mut b = Bench::long();
    b.write(TSS + 104, &[0xff; 0x101]);
    for port in allowed {
        let at = TSS + 104 + *port as u64 / 8;
        let byte = b.read::<1>(at)[0];
        b.write(at, &[byte & !(1 << (port % 8))]);
    }
    b.set(|r| r.tr.limit = 104 + 0x100);
    b.user();
    b
}

#[test]
fn the_bitmap_allows_single_ports() {
    let mut b = bench(&[EXIT_PORT]);
    b.runs(|a| a.nop());
    let f = bench(&[EXIT_PORT]).raises(vector::GP, |a| a.out(EXIT_PORT as i32 + 1, al));
    assert_eq!((f.error, f.rip), (Some(0), CODE));
    bench(&[]).raises(vector::GP, |a| a.in_(al, dx));
}

#[test]
fn every_byte_of_a_wide_access_must_be_allowed() {
    for (allowed, size, ok) in [
        (&[0x86u16, 0x87][..], 2, true),
        (&[0x86], 2, false),
        (&[0x87], 2, false),
        (&[0x86, 0x87, 0x88, 0x89], 4, true),
        (&[0x86, 0x87, 0x88], 4, false),
    ] {
        let mut b = bench(&[allowed, &[EXIT_PORT]].concat());
        b.code(|a| {
            a.mov(dx, 0x86)?;
            if size == 2 {
                a.in_(ax, dx)?
            } else {
                a.in_(eax, dx)?
            }
            a.out(EXIT_PORT as i32, al)
        });
        if ok {
            b.finish();
        } else {
            assert_eq!(b.fault(vector::GP).error, Some(0), "{allowed:x?}");
        }
    }
}

#[test]
fn ports_beyond_the_tss_limit_are_forbidden() {
    let mut b = bench(&[EXIT_PORT, 0x80]);
    // The byte behind the port's own must lie in the segment as well.
    b.set(|r| r.tr.limit = 104 + EXIT_PORT as u32 / 8);
    b.raises(vector::GP, |a| a.out(EXIT_PORT as i32, al));
    let mut b = bench(&[EXIT_PORT]);
    b.set(|r| r.tr.limit = 104 + EXIT_PORT as u32 / 8 + 1);
    b.runs(|a| a.nop());
    let mut b = bench(&[EXIT_PORT]);
    b.write_u16(TSS + 102, 0x200);
    b.raises(vector::GP, |a| a.out(EXIT_PORT as i32, al));
}

#[test]
fn iopl_3_allows_all_and_the_bitmap_is_not_asked() {
    let mut b = bench(&[]);
    b.set(|r| r.rflags |= rflags::IOPL);
    b.runs(|a| {
        a.mov(dx, 0x80)?;
        a.in_(eax, dx)?;
        a.cli()?;
        a.sti()
    });
}

#[test]
fn ports_that_nobody_has_read_all_ones_at_their_width() {
    let mut b = Bench::long();
    b.runs(|a| {
        a.xor(eax, eax)?;
        a.mov(rbx, -1i64 as u64)?;
        a.mov(edx, 0x1234)?;
        a.in_(al, dx)?;
        a.mov(ecx, eax)?;
        a.in_(ax, dx)?;
        a.mov(esi, eax)?;
        a.mov(rax, rbx)?;
        a.in_(eax, dx)
    });
    assert_eq!((b.gpr(1), b.gpr(6), b.gpr(0)), (0xff, 0xffff, 0xffff_ffff));
}

#[test]
fn string_io_goes_by_memory_and_restarts_after_a_fault() {
    // OUTSB to the serial port, INSB from a port of all ones.
    let mut b = Bench::long();
    b.write(DATA, b"hello");
    b.set(|r| (r.gpr[gpr::RSI], r.gpr[gpr::RCX], r.gpr[gpr::RDX]) = (DATA, 5, 0x3f8));
    b.runs(|a| a.rep().outsb());
    assert_eq!(b.m.take_console_output(0), b"hello");
    assert_eq!((b.gpr(gpr::RSI), b.gpr(gpr::RCX), b.m.now().0), (DATA + 5, 0, 6));
    b.map(DATA + 0x1000, 0);
    b.set(|r| (r.gpr[gpr::RDI], r.gpr[gpr::RCX], r.gpr[gpr::RDX]) = (DATA + 0xffc, 10, 0x1234));
    b.raises(vector::PF, |a| a.rep().insb());
    assert_eq!(
        (b.gpr(gpr::RDI), b.gpr(gpr::RCX), b.regs().cr2),
        (DATA + 0x1000, 6, DATA + 0x1000)
    );
    assert_eq!(b.u32(DATA + 0xffc), u32::MAX);
}
