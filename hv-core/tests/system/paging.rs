//! The paging forms, accessed and dirty bits, and when translations must be fresh (SDM vol. 3A, 4.3 to 4.10).

use crate::bench::page::*;
use crate::bench::*;
use hv_core::regs::{cr0, cr4, efer, gpr};

const PAGE: u64 = DATA + 0x1000;
/// A linear address that nothing else uses, in 64-bit mode with tables from `0x60_0000` on.
const FAR: u64 = 0xffff_8000_0000_0000;

/// 32-bit paging: the directory at `TABLES`, one table for each of the two low 4 MiB.
fn legacy() -> Bench {
    let mut b = Bench::protected();
    for n in 0..2u64 {
        b.write_u32(TABLES + 4 * n, (TABLES + 0x1000 * (n + 1)) as u32 | 7);
        for k in 0..1024 {
            b.write_u32(
                TABLES + 0x1000 * (n + 1) + 4 * k,
                ((n << 22) + (k << 12)) as u32 | 7,
            );
        }
    }
    b.set(|r| {
        r.cr3 = TABLES;
        r.cr0 |= cr0::PG;
    });
    b
}

/// PAE paging: four pointers at `TABLES`, one directory of 2 MiB pages.
fn pae() -> Bench {
    let mut b = Bench::protected();
    b.write_u64(TABLES, (TABLES + 0x1000) | 1);
    for k in 0..4 {
        b.write_u64(TABLES + 0x1000 + 8 * k, k << 21 | 0x87);
    }
    b.set(|r| {
        r.cr3 = TABLES;
        r.cr4 |= cr4::PAE;
        r.efer |= efer::NXE;
        r.cr0 |= cr0::PG;
    });
    b
}

/// 64-bit paging with tables for `FAR`, not yet pointing anywhere at level `level` (3 is the PDPT).
fn far(entries: [u64; 3]) -> Bench {
    let mut b = Bench::long();
    b.write_u64(TABLES + 0x800, 0x60_0000 | 7);
    for (n, entry) in entries.into_iter().enumerate() {
        b.write_u64(0x60_0000 + 0x1000 * n as u64, entry);
    }
    b
}

#[test]
fn legacy_paging_maps_4_kib_pages_and_4_mib_pages_with_pse() {
    let mut b = legacy();
    b.write_u32(TABLES + 0x1000 * 2, PAGE as u32 | 7); // 0x40_0000 is the data page then
    b.write_u32(PAGE, 0x1234);
    b.runs(|a| a.mov(ecx, dword_ptr(0x40_0000)));
    assert_eq!(b.gpr(gpr::RCX), 0x1234);
    let mut b = legacy();
    b.write_u32(TABLES + 4 * 0x200, 0x40_0000 | 0x87);
    b.write_u32(PAGE, 0x5678);
    b.set(|r| r.cr4 |= cr4::PSE);
    b.runs(|a| a.mov(ecx, dword_ptr(0x8000_1000u32)));
    assert_eq!(b.gpr(gpr::RCX), 0x5678);
    // Without PSE the bit is ignored and the entry is a table.
    let mut b = legacy();
    b.write_u32(TABLES + 4 * 0x200, (TABLES as u32 + 0x2000) | 0x87);
    b.write_u32(PAGE, 0x9abc);
    b.runs(|a| a.mov(ecx, dword_ptr(0x8000_1000u32)));
    assert_eq!(b.gpr(gpr::RCX), 0x9abc);
    // PSE-36: bits 13 to 20 are address bits 32 to 39; bit 21 is reserved.
    let mut b = legacy();
    b.write_u32(TABLES + 4 * 0x200, 0x20_0000 | 0x87);
    b.set(|r| r.cr4 |= cr4::PSE);
    let f = b.raises(vector::PF, |a| a.mov(ecx, dword_ptr(0x8000_1000u32)));
    assert_eq!(f.error, Some(9));
}

#[test]
fn pae_paging_maps_2_mib_and_4_kib_pages_and_knows_nx() {
    let mut b = pae();
    b.write_u64(TABLES + 8 * 3, (TABLES + 0x2000) | 1);
    b.write_u64(TABLES + 0x2000 + 8 * 511, (TABLES + 0x3000) | 7);
    b.write_u64(TABLES + 0x3000 + 8 * 511, PAGE | 7 | NX);
    b.write_u32(PAGE + 0xffc, 0x4321);
    b.set(|r| r.cr3 = TABLES); // the pointers are loaded with CR3
    b.runs(|a| a.mov(ecx, dword_ptr(0xffff_fffcu32)));
    assert_eq!(b.gpr(gpr::RCX), 0x4321);
    let f = b.raises(vector::PF, |a| {
        a.mov(ecx, 0xffff_f000u32)?;
        a.jmp(ecx)
    });
    assert_eq!(f.error, Some(0x11));
    let mut b = pae();
    b.write_u64(TABLES + 0x1000 + 8 * 3, 0x60_0000 | 0x87 | 1 << 52);
    assert_eq!(
        b.raises(vector::PF, |a| a.mov(ecx, dword_ptr(0x60_0000))).error,
        Some(9),
        "bit 52 is reserved"
    );
}

#[test]
fn pae_pointers_with_reserved_bits_are_gp_when_cr3_is_loaded() {
    for bits in [2u64, 4, 0x20, 0x80, 1 << 40, 1 << 63] {
        let mut b = pae();
        b.write_u64(0x60_0008, bits | 1);
        b.write_u64(0x60_0000, (TABLES + 0x1000) | 1);
        let f = b.raises(vector::GP, |a| {
            a.mov(eax, 0x60_0000)?;
            a.mov(cr3, eax)
        });
        assert_eq!((f.error, b.regs().cr3), (Some(0), TABLES), "{bits:#x}");
    }
    let mut b = pae();
    b.write_u64(0x60_0008, 1 << 63 | 0x22);
    b.write_u64(0x60_0000, (TABLES + 0x1000) | 1);
    b.runs(|a| {
        a.mov(eax, 0x60_0000)?;
        a.mov(cr3, eax)
    });
}

#[test]
fn large_pages_of_64_bit_mode_and_their_reserved_bits() {
    let mut b = far([0x60_1000 | 7, 0x40_0000 | 0x87, 0]);
    b.write_u32(PAGE + 4, 0x2222);
    b.runs(|a| {
        a.mov(rbx, FAR)?;
        a.mov(ecx, ptr(rbx + 0x1004))
    });
    assert_eq!(b.gpr(gpr::RCX), 0x2222);
    let mut b = far([0x87, 0, 0]);
    b.write_u32(PAGE + 4, 0x3333);
    b.runs(|a| {
        a.mov(rbx, FAR)?;
        a.mov(ecx, ptr(rbx + PAGE as i32 + 4))
    });
    assert_eq!(b.gpr(gpr::RCX), 0x3333, "1 GiB");
    for entries in [[0x60_1000 | 7, 0x40_2000 | 0x87, 0], [0x20_0087, 0, 0]] {
        let mut b = far(entries);
        let f = b.raises(vector::PF, |a| {
            a.mov(rbx, FAR)?;
            a.mov(ecx, ptr(rbx))
        });
        assert_eq!(f.error, Some(9), "{entries:x?}");
    }
    let mut b = far([0, 0, 0]);
    b.write_u64(TABLES + 0x800, 0x60_0000 | 0x87);
    let f = b.raises(vector::PF, |a| {
        a.mov(rbx, FAR)?;
        a.mov(ecx, ptr(rbx))
    });
    assert_eq!(f.error, Some(9), "PS in a PML4 entry");
    // The PAT bit of a large page is no address bit.
    let mut b = far([0x60_1000 | 7, 0x40_0000 | 0x1087, 0]);
    b.write_u32(DATA, 0x4444);
    b.runs(|a| {
        a.mov(rbx, FAR)?;
        a.mov(ecx, ptr(rbx))
    });
    assert_eq!(b.gpr(gpr::RCX), 0x4444);
}

#[test]
fn accessed_bits_are_set_at_every_level_and_dirty_only_at_the_leaf_of_a_write() {
    let entries = [0x60_1000 | 7, 0x60_2000 | 7, PAGE | 7];
    for (write, leaf) in [(false, A), (true, A | D)] {
        let mut b = far(entries);
        b.code(|a| {
            a.mov(rbx, FAR)?;
            if write {
                a.mov(ptr(rbx), rbx)?
            } else {
                a.mov(rcx, ptr(rbx))?
            }
            a.out(EXIT_PORT as i32, al)
        });
        b.finish();
        let at = [TABLES + 0x800, 0x60_0000, 0x60_1000, 0x60_2000];
        let found: Vec<u64> = at.iter().map(|a| b.u64(*a) & (A | D)).collect();
        assert_eq!(found, [A, A, A, leaf], "write {write}");
        assert_eq!(b.u64(0x60_2000), PAGE | 7 | leaf);
    }
}

#[test]
fn a_write_after_a_read_still_sets_dirty_and_a_faulting_access_sets_nothing_at_the_leaf() {
    let mut b = far([0x60_1000 | 7, 0x60_2000 | 7, PAGE | 7]);
    b.runs(|a| {
        a.mov(rbx, FAR)?;
        a.mov(rcx, ptr(rbx))
    });
    assert_eq!(b.u64(0x60_2000) & (A | D), A);
    b.runs(|a| a.mov(byte_ptr(rbx), cl));
    assert_eq!(b.u64(0x60_2000) & (A | D), A | D);
    let mut b = far([0x60_1000 | 7, 0x60_2000 | 7, PAGE | P]);
    b.raises(vector::PF, |a| {
        a.mov(rbx, FAR)?;
        a.mov(ptr(rbx), cl)
    });
    assert_eq!(b.u64(0x60_2000) & (A | D), 0);
}

#[test]
fn fetches_and_large_pages_have_accessed_and_dirty_bits_too() {
    let mut b = far([0x60_1000 | 7, 0x40_0000 | 0x87, 0]);
    b.write(DATA, &[0xe6, EXIT_PORT as u8]);
    b.code(|a| {
        a.mov(rbx, FAR)?;
        a.jmp(rbx)
    });
    b.go();
    assert_eq!(b.u64(0x60_1000) & (A | D), A);
    b.runs(|a| {
        a.mov(rbx, FAR)?;
        a.inc(qword_ptr(rbx + 0x100))
    });
    assert_eq!(b.u64(0x60_1000) & (A | D), A | D);
    let mut b = legacy();
    b.runs(|a| a.mov(dword_ptr(PAGE), eax));
    let leaf = TABLES + 0x2000 + 4 * (PAGE >> 12 & 0x3ff);
    assert_eq!((b.u32(TABLES + 4) & 0x60, b.u32(leaf) & 0x60), (0x20, 0x60));
}

#[test]
fn a_read_only_page_read_by_cmpxchg_or_bt_is_not_dirtied() {
    let mut b = Bench::long();
    b.runs(|a| {
        a.bt(qword_ptr(PAGE), 3)?;
        a.cmp(qword_ptr(PAGE), 0)?;
        a.test(qword_ptr(PAGE), rax)
    });
    assert_eq!(b.u64(b.pte(PAGE)) & (A | D), A);
    b.runs(|a| {
        a.mov(rax, 1u64)?;
        a.cmpxchg(qword_ptr(PAGE), rbx)
    });
    assert_eq!(
        b.u64(b.pte(PAGE)) & (A | D),
        A | D,
        "CMPXCHG writes even when it fails"
    );
}

#[test]
fn a_not_present_entry_is_never_cached() {
    let mut b = Bench::long();
    b.map(PAGE, 0);
    b.write_u64(PAGE + 0x10, 77);
    b.raises(vector::PF, |a| a.mov(rcx, qword_ptr(PAGE + 0x10)));
    // The guest maps the page itself and does not invalidate anything.
    let pte = b.pte(PAGE);
    b.runs(|a| {
        a.mov(qword_ptr(pte), (PAGE | 7) as i32)?;
        a.mov(rcx, qword_ptr(PAGE + 0x10))
    });
    assert_eq!(b.gpr(gpr::RCX), 77);
}

#[test]
fn more_rights_are_seen_at_the_next_fault_without_invalidation() {
    // SDM vol. 3A, 4.10.4.3: a fault by a stale entry does not repeat for ever.
    let mut b = Bench::long();
    b.map(PAGE, PAGE | P);
    let pte = b.pte(PAGE);
    b.code(|a| {
        a.mov(rcx, qword_ptr(PAGE))?;
        a.mov(qword_ptr(pte), (PAGE | 7) as i32)?;
        a.mov(qword_ptr(PAGE), rax)?;
        a.out(EXIT_PORT as i32, al)
    });
    b.go();
    if vector_at(b.regs().rip).is_some() {
        assert_eq!(b.frame().error, Some(3));
        b.leave_handler();
        b.finish();
    }
}

/// Reads `PAGE` through `at`, maps it elsewhere by its page-table entry, does `flush`, and reads again: the second value.
fn remapped(b: &mut Bench, flush: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> u64 {
    b.write_u64(PAGE, 1);
    b.write_u64(PAGE + 0x1000, 2);
    let pte = b.pte(PAGE);
    let entry = (PAGE + 0x1000) | b.u64(pte) & 0xfff;
    b.runs(|a| {
        a.mov(rdx, qword_ptr(PAGE))?;
        a.mov(rbx, pte)?;
        a.mov(rcx, entry)?;
        a.mov(ptr(rbx), rcx)?;
        flush(a)?;
        a.mov(rcx, qword_ptr(PAGE))
    });
    assert_eq!(b.gpr(gpr::RDX), 1);
    b.gpr(gpr::RCX)
}

#[test]
fn what_invalidates_translations() {
    type Flush = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let flushes: [(&str, Flush, bool); 6] = [
        ("invlpg", |a| a.invlpg(byte_ptr(PAGE + 0x123)), true),
        (
            "mov cr3",
            |a| {
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)
            },
            false,
        ),
        (
            "cr4.pge toggled",
            |a| {
                a.mov(rax, cr4)?;
                a.xor(rax, 0x80)?;
                a.mov(cr4, rax)?;
                a.xor(rax, 0x80)?;
                a.mov(cr4, rax)
            },
            true,
        ),
        (
            "cr0.wp toggled twice",
            |a| {
                a.mov(rax, cr4)?;
                a.mov(rsi, rax)?;
                a.xor(rax, 0x10)?;
                a.mov(cr4, rax)?;
                a.mov(cr4, rsi)
            },
            true,
        ),
        (
            "invpcid of all with globals",
            |a| {
                a.mov(eax, 2)?;
                a.invpcid(rax, xmmword_ptr(DATA))
            },
            true,
        ),
        (
            "invpcid of all but globals",
            |a| {
                a.mov(eax, 3)?;
                a.invpcid(rax, xmmword_ptr(DATA))
            },
            false,
        ),
    ];
    for (name, flush, globals) in flushes {
        assert_eq!(remapped(&mut Bench::long(), flush), 2, "{name}");
        if globals {
            let mut b = Bench::long();
            b.map(PAGE, PAGE | 7 | GLOBAL);
            assert_eq!(remapped(&mut b, flush), 2, "{name}, a global page");
        }
    }
}

#[test]
fn invlpg_takes_a_linear_address_in_a_segment_and_never_faults() {
    let mut b = Bench::long();
    b.map(PAGE + 0x5000, 0);
    b.set(|r| r.segments[hv_core::regs::seg::FS].base = PAGE - 0x10);
    assert_eq!(remapped(&mut b, |a| a.invlpg(byte_ptr(0x10).fs())), 2);
    b.runs(|a| {
        a.invlpg(byte_ptr(PAGE + 0x5000))?;
        a.mov(rax, 1u64 << 60)?;
        a.invlpg(byte_ptr(rax))
    });
}

#[test]
fn invlpg_of_any_address_in_a_large_page_drops_all_of_it() {
    // Also when the page has been split into small ones since it was cached.
    for split in [false, true] {
        let mut b = far([0x60_1000 | 7, 0x40_0000 | 0x87, 0]);
        b.write_u64(0x40_1000, 1);
        b.write_u64(0x60_3000, 2);
        for k in 0..512 {
            b.write_u64(0x60_2000 + 8 * k, (0x60_2000 + (k << 12)) | 7);
        }
        let new = if split {
            0x60_2000 | 7
        } else {
            0x60_2000u64 & !0x1f_ffff | 0x87
        };
        b.write_u64(0x60_1000 & !0x1f_ffff | 0x1000, 2); // 0x60_1000 of the second mapping
        b.write_u64(0x60_1000, 0x40_0000 | 0x87);
        b.code(|a| {
            a.mov(rbx, FAR)?;
            a.mov(rcx, ptr(rbx + 0x1000))?;
            a.mov(rcx, ptr(rbx + 0x8000))?;
            a.mov(rdx, new)?;
            a.mov(qword_ptr(0x60_1000u64), rdx)?;
            a.invlpg(byte_ptr(rbx + 0x8000))?;
            a.mov(rcx, ptr(rbx + 0x1000))?;
            a.out(EXIT_PORT as i32, al)
        });
        b.finish();
        // 0x60_2000 + 0x1000 when split; 0x60_1000 itself, the directory entry, when not.
        let expected = if split { 2 } else { b.u64(0x60_1000) };
        assert_eq!(b.gpr(gpr::RCX), expected, "split {split}");
    }
}

#[test]
fn cr3_bits_and_pcids() {
    let mut b = Bench::long();
    b.raises(vector::GP, |a| {
        a.mov(rax, 1u64 << 63 | TABLES)?;
        a.mov(cr3, rax)
    });
    let mut b = Bench::long();
    b.raises(vector::GP, |a| {
        a.mov(rax, 1u64 << 40 | TABLES)?;
        a.mov(cr3, rax)
    });
    let mut b = Bench::long();
    b.set(|r| r.cr4 |= cr4::PCIDE);
    b.runs(|a| {
        a.mov(rax, 1u64 << 63 | TABLES | 0x123)?;
        a.mov(cr3, rax)?;
        a.mov(rcx, cr3)
    });
    assert_eq!(b.gpr(gpr::RCX), TABLES | 0x123, "bit 63 is never stored");
    // Setting PCIDE with a PCID in CR3, or clearing paging with PCIDE, is #GP.
    let mut b = Bench::long();
    b.set(|r| r.cr3 = TABLES | 0x18);
    assert_eq!(
        b.raises(vector::GP, |a| {
            a.mov(rax, cr4)?;
            a.bts(rax, 17)?;
            a.mov(cr4, rax)
        })
        .error,
        Some(0)
    );
}

#[test]
fn translations_of_another_pcid_are_not_used() {
    let mut b = Bench::long();
    b.set(|r| r.cr4 |= cr4::PCIDE);
    // A second address space that differs in one page.
    for n in 0..7u64 {
        let bytes = b.read::<4096>(TABLES + 0x1000 * n);
        b.write(0x60_0000 + 0x1000 * n, &bytes);
    }
    b.write_u64(0x60_0000, 0x60_1000 | 7);
    b.write_u64(0x60_1000, 0x60_2000 | 7);
    for n in 0..4 {
        b.write_u64(0x60_2000 + 8 * n, (0x60_3000 + 0x1000 * n) | 7);
    }
    b.write_u64(0x60_3000 + 8 * (PAGE >> 12), (PAGE + 0x1000) | 7);
    b.write_u64(PAGE, 1);
    b.write_u64(PAGE + 0x1000, 2);
    b.runs(|a| {
        a.mov(rax, 1u64 << 63 | 0x60_0000 | 5)?;
        a.mov(rbx, 1u64 << 63 | TABLES | 1)?;
        a.mov(cr3, rbx)?;
        a.mov(rcx, qword_ptr(PAGE))?;
        a.mov(cr3, rax)?;
        a.mov(rdx, qword_ptr(PAGE))?;
        a.mov(cr3, rbx)?;
        a.mov(rsi, qword_ptr(PAGE))
    });
    assert_eq!((b.gpr(1), b.gpr(2), b.gpr(6)), (1, 2, 1));
}

#[test]
fn invpcid_checks_its_descriptor() {
    for (kind, low, high) in [
        (4u64, 0u64, 0u64),
        (0, 1 << 12, 0),
        (0, 1, 1 << 60),
        (1, 1 << 63, 0),
    ] {
        let mut b = Bench::long();
        b.write_u64(DATA, low);
        b.write_u64(DATA + 8, high);
        let f = b.raises(vector::GP, |a| {
            a.mov(rax, kind)?;
            a.invpcid(rax, xmmword_ptr(DATA))
        });
        assert_eq!(f.error, Some(0), "type {kind}");
    }
}

#[test]
fn page_tables_beyond_memory_are_a_fault_not_a_crash_of_the_engine() {
    let mut b = far([0x60_1000 | 7, 0x7f_ffff_f000 | 7, 0]);
    b.raises(vector::PF, |a| {
        a.mov(rbx, FAR)?;
        a.mov(rcx, ptr(rbx))
    });
    // Memory that isn't there reads as all ones and drops writes.
    let mut b = far([0x60_1000 | 7, 0x60_2000 | 7, 0x7f_ffff_f000 | 7]);
    b.runs(|a| {
        a.mov(rbx, FAR)?;
        a.mov(qword_ptr(rbx), 5)?;
        a.mov(rcx, ptr(rbx))
    });
    assert_eq!(b.gpr(gpr::RCX), u64::MAX);
}

#[test]
fn page_tables_that_lie_among_code_work() {
    // The entry for PAGE sits in the same page as the running code, right behind it.
    let mut b = Bench::long();
    b.write_u64(TABLES + 0x2000 + 8 * 3, (CODE + 0x5000) | 7);
    for k in 0..512u64 {
        b.write_u64(CODE + 0x5000 + 8 * k, (0x60_0000 + (k << 12)) | 7);
    }
    b.write_u64(0x60_1000, 11);
    // Code over the unused entries 0x10 on.
    b.code_at(64, CODE + 0x5080, |a| {
        a.mov(rcx, qword_ptr(0x60_1000u64))?;
        a.mov(qword_ptr(0x60_2000u64), rcx)?;
        a.mov(rdx, qword_ptr(CODE + 0x5000 + 8))?;
        a.out(EXIT_PORT as i32, al)
    });
    b.set(|r| r.rip = CODE + 0x5080);
    b.finish();
    assert_eq!((b.gpr(1), b.gpr(2)), (11, 0x60_1000 | 7 | A));
    assert_eq!(b.u64(CODE + 0x5010) & (A | D), A | D);
}
