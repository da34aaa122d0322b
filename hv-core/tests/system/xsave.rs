//! FXSAVE, XSAVE and their family (SDM vol. 1, 10.5 and chapter 13).

use crate::bench::*;
use hv_core::regs::{X87, cr0, cr4, gpr};

const AREA: u64 = DATA;

fn bench() -> Bench {
    let mut b = Bench::long();
    b.write(AREA, &[0xcc; 1024]);
    b.set(|r| {
        r.cr4 |= cr4::OSXSAVE;
        r.xcr0 = 3;
        r.x87 = X87::default();
        for n in 0..16 {
            r.xmm[n] = (n as u128 + 1) * 0x0101_0101_0101_0101_0101_0101_0101_0101;
        }
        r.gpr[gpr::RBX] = AREA;
    });
    b
}

/// RFBM into EDX:EAX.
fn mask(b: &mut Bench, value: u64) {
    b.set(|r| (r.gpr[gpr::RAX], r.gpr[gpr::RDX]) = (value & 0xffff_ffff, value >> 32));
}

fn header(b: &Bench) -> (u64, u64) {
    (b.u64(AREA + 512), b.u64(AREA + 520))
}

/// Bytes that nobody wrote.
const UNTOUCHED: u64 = 0xcccc_cccc_cccc_cccc;

#[test]
fn the_fxsave_image_is_laid_out_as_the_manual_says() {
    let mut b = bench();
    b.set(|r| {
        r.x87.fcw = 0x37f;
        r.x87.fsw = 0x3000 | 0x41; // TOP 6
        r.x87.ftw = 0x0fff; // R6 and R7 valid
        r.x87.r[6] = 0x3fff_8000_0000_0000_0000;
        r.x87.r[7] = 0x4000_c000_0000_0000_0000;
        (r.x87.fop, r.x87.fip, r.x87.fdp, r.x87.fcs, r.x87.fds) =
            (0x1d9, 0x1_2345_6789, 0x2_3456_789a, 8, 0x10);
        r.mxcsr = 0x1f81;
    });
    b.runs(|a| a.fxsave64(ptr(rbx)));
    assert_eq!(
        (b.u16(AREA), b.u16(AREA + 2), b.u16(AREA + 4), b.u16(AREA + 6)),
        (0x37f, 0x3041, 0xc0, 0x1d9)
    );
    assert_eq!(
        (b.u64(AREA + 8), b.u64(AREA + 16)),
        (0x1_2345_6789, 0x2_3456_789a)
    );
    assert_eq!((b.u32(AREA + 24), b.u32(AREA + 28)), (0x1f81, 0xffff));
    assert_eq!(
        (b.u64(AREA + 32), b.u64(AREA + 40)),
        (0x8000_0000_0000_0000, 0x3fff),
        "ST0 is R6"
    );
    assert_eq!(b.u64(AREA + 48), 0xc000_0000_0000_0000);
    assert_eq!(b.u64(AREA + 160), 0x0101_0101_0101_0101);
    assert_eq!(b.u64(AREA + 160 + 15 * 16), 0x1010_1010_1010_1010);
    assert_eq!(b.u64(AREA + 416), UNTOUCHED);
    b.runs(|a| a.fxsave(ptr(rbx)));
    assert_eq!(
        (
            b.u32(AREA + 8),
            b.u16(AREA + 12),
            b.u32(AREA + 16),
            b.u16(AREA + 20)
        ),
        (0x2345_6789, 8, 0x3456_789a, 0x10)
    );
    // And back.
    let before = b.regs();
    b.set(|r| {
        r.x87 = X87::default();
        r.xmm = [0; 16];
        r.mxcsr = 0x1f80;
    });
    b.runs(|a| a.fxrstor(ptr(rbx)));
    let after = b.regs();
    assert_eq!((after.xmm, after.mxcsr), (before.xmm, before.mxcsr));
    assert_eq!(
        (after.x87.fcw, after.x87.fsw, after.x87.ftw, after.x87.r),
        (0x37f, 0x3041, 0x0fff, before.x87.r)
    );
}

#[test]
fn fxsave_and_fxrstor_check_alignment_and_mxcsr() {
    let mut b = bench();
    b.set(|r| r.gpr[gpr::RBX] = AREA + 8);
    assert_eq!(b.raises(vector::GP, |a| a.fxsave(ptr(rbx))).error, Some(0));
    let mut b = bench();
    b.runs(|a| a.fxsave(ptr(rbx)));
    b.write_u32(AREA + 24, 0x1_0000);
    assert_eq!(b.raises(vector::GP, |a| a.fxrstor(ptr(rbx))).error, Some(0));
}

#[test]
fn ldmxcsr_refuses_reserved_bits() {
    let mut b = bench();
    b.write_u32(AREA, 0xffff);
    b.runs(|a| {
        a.ldmxcsr(dword_ptr(rbx))?;
        a.stmxcsr(dword_ptr(rbx + 4))
    });
    assert_eq!(b.u32(AREA + 4), 0xffff);
    b.write_u32(AREA, 0x1_0000);
    assert_eq!(b.raises(vector::GP, |a| a.ldmxcsr(dword_ptr(rbx))).error, Some(0));
}

#[test]
fn xsave_writes_what_is_asked_and_tells_what_is_in_use() {
    let mut b = bench();
    b.write(AREA + 512, &[0; 64]);
    mask(&mut b, 3);
    b.runs(|a| a.xsave(ptr(rbx)));
    assert_eq!(header(&b), (2, 0), "x87 is in its initial state");
    assert_eq!(b.u16(AREA), 0x37f, "and is written nevertheless");
    assert_eq!(b.u64(AREA + 160), 0x0101_0101_0101_0101);
    // Only what is asked, and the other bits of XSTATE_BV stay.
    let mut b = bench();
    b.write(AREA + 512, &[0; 64]);
    b.write_u64(AREA + 512, 2);
    b.set(|r| r.x87.fcw = 0x33f);
    mask(&mut b, 1);
    b.runs(|a| a.xsave(ptr(rbx)));
    assert_eq!(
        (header(&b), b.u16(AREA), b.u64(AREA + 160)),
        ((3, 0), 0x33f, UNTOUCHED)
    );
    // Bits beyond XCR0 are not asked.
    let mut b = bench();
    b.write(AREA + 512, &[0; 64]);
    mask(&mut b, u64::MAX);
    b.runs(|a| a.xsave(ptr(rbx)));
    assert_eq!(header(&b), (2, 0));
}

#[test]
fn xsaveopt_leaves_out_what_is_initial() {
    let mut b = bench();
    b.write(AREA + 512, &[0; 64]);
    b.set(|r| r.xmm = [0; 16]);
    mask(&mut b, 3);
    b.runs(|a| a.xsaveopt(ptr(rbx)));
    assert_eq!((header(&b).0, b.u64(AREA + 160)), (0, UNTOUCHED));
    assert_eq!(b.u16(AREA), 0xcccc);
}

#[test]
fn xsavec_and_xsaves_write_the_compact_form() {
    for supervisor in [false, true] {
        let mut b = bench();
        mask(&mut b, 3);
        b.code(|a| {
            if supervisor {
                a.xsaves(ptr(rbx))?
            } else {
                a.xsavec(ptr(rbx))?
            }
            a.out(EXIT_PORT as i32, al)
        });
        b.finish();
        assert_eq!(header(&b), (2, 1 << 63 | 3));
        assert_eq!((b.u16(AREA), b.u64(AREA + 160)), (0xcccc, 0x0101_0101_0101_0101));
    }
}

#[test]
fn mxcsr_alone_makes_sse_state_in_use() {
    // XMM initial, MXCSR not: saved and restored, or a context switch would lose it.
    for form in 0..4 {
        let mut b = bench();
        b.write(AREA + 512, &[0; 64]);
        b.set(|r| {
            r.xmm = [0; 16];
            r.mxcsr = 0x1fa2;
        });
        mask(&mut b, 3);
        b.code(|a| {
            match form {
                0 => a.xsave(ptr(rbx))?,
                1 => a.xsaveopt(ptr(rbx))?,
                2 => a.xsavec(ptr(rbx))?,
                _ => a.xsaves(ptr(rbx))?,
            }
            a.out(EXIT_PORT as i32, al)
        });
        b.finish();
        assert_eq!(b.u32(AREA + 24), 0x1fa2, "form {form}");
        b.set(|r| r.mxcsr = 0x1f80);
        mask(&mut b, 3);
        b.code(|a| {
            if form == 3 {
                a.xrstors(ptr(rbx))?
            } else {
                a.xrstor(ptr(rbx))?
            }
            a.out(EXIT_PORT as i32, al)
        });
        b.finish();
        assert_eq!(b.regs().mxcsr, 0x1fa2, "form {form}");
    }
}

#[test]
fn xrstor_initialises_what_the_image_leaves_out_and_keeps_what_is_not_asked() {
    let mut b = bench();
    b.write(AREA, &[0; 576]);
    b.write_u32(AREA + 24, 0x1fc0);
    b.set(|r| r.x87.fcw = 0x33f);
    mask(&mut b, 3);
    b.runs(|a| a.xrstor(ptr(rbx)));
    let r = b.regs();
    assert_eq!((r.xmm, r.x87.clone()), ([0; 16], X87::default()));
    assert_eq!(
        r.mxcsr, 0x1fc0,
        "the standard form loads MXCSR whenever SSE is asked for"
    );
    let mut b = bench();
    b.write(AREA, &[0; 576]);
    b.set(|r| r.x87.fcw = 0x33f);
    mask(&mut b, 1);
    b.runs(|a| a.xrstor(ptr(rbx)));
    assert_eq!((b.regs().xmm[0] as u8, b.regs().x87.fcw), (1, 0x37f));
    // The compact form initialises MXCSR with SSE.
    let mut b = bench();
    b.write(AREA, &[0; 576]);
    b.write_u64(AREA + 520, 1 << 63 | 3);
    b.write_u32(AREA + 24, 0x1fc0);
    b.set(|r| r.mxcsr = 0x1fa0);
    mask(&mut b, 3);
    b.runs(|a| a.xrstor(ptr(rbx)));
    assert_eq!((b.regs().mxcsr, b.regs().xmm), (0x1f80, [0; 16]));
}

#[test]
fn xrstor_checks_the_header() {
    type Words = &'static [(u64, u64)];
    let cases: [(&str, Words, bool); 9] = [
        ("a component beyond XCR0", &[(512, 4)], false),
        ("XCOMP_BV without compaction", &[(520, 1)], false),
        ("reserved bytes", &[(528, 1)], false),
        ("the last reserved byte", &[(568, 1 << 63)], false),
        ("compact, not in XCOMP_BV", &[(512, 2), (520, 1 << 63 | 1)], false),
        ("compact, beyond XCR0", &[(520, 1 << 63 | 7)], false),
        ("MXCSR", &[(24, 0x1_0000), (512, 2)], false),
        ("XRSTORS of the standard form", &[], true),
        ("compact reserved bytes", &[(520, 1 << 63 | 3), (528, 1)], true),
    ];
    for (name, words, supervisor) in cases {
        let mut b = bench();
        b.write(AREA, &[0; 576]);
        for (at, value) in words {
            b.write_u64(AREA + at, *value);
        }
        mask(&mut b, 3);
        let f = b.raises(vector::GP, |a| {
            if supervisor {
                a.xrstors(ptr(rbx))
            } else {
                a.xrstor(ptr(rbx))
            }
        });
        assert_eq!((f.error, f.rip), (Some(0), CODE), "{name}");
        assert_eq!(b.regs().xmm[0] as u8, 1, "{name}: nothing was loaded");
    }
}

#[test]
fn the_family_checks_alignment_osxsave_ts_and_ring() {
    let mut b = bench();
    b.set(|r| r.gpr[gpr::RBX] = AREA + 16);
    assert_eq!(b.raises(vector::GP, |a| a.xsave(ptr(rbx))).error, Some(0));
    let mut b = bench();
    b.set(|r| r.cr4 &= !cr4::OSXSAVE);
    b.raises(vector::UD, |a| a.xsave(ptr(rbx)));
    b.raises(vector::UD, |a| a.xgetbv());
    let mut b = bench();
    b.set(|r| r.cr0 |= cr0::TS);
    b.raises(vector::NM, |a| a.xrstor(ptr(rbx)));
    let mut b = bench();
    b.user();
    assert_eq!(b.raises(vector::GP, |a| a.xsaves(ptr(rbx))).error, Some(0));
    let mut b = bench();
    b.user();
    assert_eq!(b.raises(vector::GP, |a| a.xsetbv()).error, Some(0));
}

#[test]
fn an_area_that_faults_changes_nothing() {
    let mut b = bench();
    b.map(AREA + 0x1000, 0);
    b.set(|r| r.gpr[gpr::RBX] = AREA + 0xe00);
    mask(&mut b, 3);
    b.raises(vector::PF, |a| a.xsave(ptr(rbx)));
    assert_eq!((b.regs().cr2, b.u64(AREA + 0xe00)), (AREA + 0x1000, 0));
}

#[test]
fn xcr0_takes_what_cpuid_tells() {
    for (index, value, ok) in [
        (0u32, 3u64, true),
        (0, 1, true),
        (0, 2, false),
        (0, 0, false),
        (0, 7, false),
        (0, 1 << 32 | 1, false),
        (1, 1, false),
    ] {
        let mut b = bench();
        mask(&mut b, value);
        b.set(|r| r.gpr[gpr::RCX] = index as u64);
        b.code(|a| {
            a.xsetbv()?;
            a.out(EXIT_PORT as i32, al)
        });
        if ok {
            b.finish();
            assert_eq!(b.regs().xcr0, value);
            b.runs(|a| {
                a.xor(ecx, ecx)?;
                a.xgetbv()
            });
            assert_eq!((b.gpr(0), b.gpr(2)), (value, 0));
        } else {
            assert_eq!(b.fault(vector::GP).error, Some(0), "XCR{index} := {value:#x}");
        }
    }
    let mut b = bench();
    b.raises(vector::GP, |a| {
        a.mov(ecx, 2)?;
        a.xgetbv()
    });
    b.runs(|a| {
        a.mov(ecx, 1)?;
        a.xgetbv()
    });
    assert_eq!(b.gpr(0), 2, "XINUSE");
}
