//! Guests that change page tables and invalidate nothing: what they see depends on nothing that others do to the
//! machine. A change of a paging entry ends the translations that came from it, on every vCPU.

use crate::bench::page::*;
use crate::bench::*;
use crate::determinism::{Never, Random, run_to, same, straight};
use hv_core::introspect::{AccessKind, Breakpoint, BreakpointId, BreakpointKind, PageRights, Place};
use hv_core::machine::{Machine, RunExit};
use hv_core::regs::{cr0, cr4, efer, gpr};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use std::sync::Arc;

const PAGE: u64 = DATA + 0x3000;
const OTHER: u64 = DATA + 0x4000;
/// The same in two megabytes of their own.
const FAR: u64 = 0x70_0000;
const FAR_OTHER: u64 = 0x70_1000;
const FAULTS: u64 = CODE + 0x6100;

/// Runs to `end` with breaks of at most `most` ticks, and does something to the machine at each that drops what TLBs hold.
fn disturbed(m: &mut Machine, end: u64, seed: u64, most: u64) {
    let mut random = Random(seed * 77 + 5);
    while m.now().0 < end {
        let next = (m.now().0 + 1 + random.below(most)).min(end);
        straight(m, next);
        match random.below(4) {
            0 => *m = m.fork(),
            1 => {
                let mut bytes = Vec::new();
                m.save(&mut bytes).expect("a vector takes all");
                *m = Machine::restore(&mut &bytes[..]).expect("a good file");
            }
            2 => {
                let frame = GuestPhysAddr(PAGE);
                assert!(m.set_page_access(frame, PageRights::ALL), "flushes everything");
                m.fork();
            }
            _ => {
                let place = Place::Virtual(GuestVirtAddr(PAGE + random.below(0x2000)));
                let kind = BreakpointKind::Watch {
                    length: 1 + random.below(3 * 0x1000),
                    access: AccessKind::ReadWrite,
                };
                let condition = Some(Arc::new(Never) as _);
                m.remove_breakpoint(BreakpointId(1));
                m.insert_breakpoint(
                    BreakpointId(1),
                    Breakpoint {
                        place,
                        kind,
                        condition,
                    },
                );
            }
        }
    }
    m.remove_breakpoint(BreakpointId(1));
}

/// Compares undisturbed runs of a guest with disturbed ones.
fn nothing_shows(make: impl Fn() -> Bench, end: u64) {
    let mut whole = make();
    straight(&mut whole.m, end);
    for (seed, most) in [1, 2, 3, 5, 40, 300, 700].into_iter().enumerate() {
        let mut cut = make();
        disturbed(&mut cut.m, end, seed as u64, most);
        same(&whole.m, &cut.m, &format!("breaks of {most} ticks"));
    }
}

/// A handler of page faults that gives all rights again and counts.
fn forgiving(b: &mut Bench) {
    b.interrupt_gate(vector::PF, 0x8e, 0, FAULTS);
    b.code_at(64, FAULTS, |a| {
        a.push(rax)?;
        a.mov(rax, cr2)?;
        a.shr(rax, 12)?;
        a.or(byte_ptr(rax * 8 + (TABLES + 0x3000)), 7)?;
        a.btr(qword_ptr(rax * 8 + (TABLES + 0x3000)), 63)?;
        a.shr(rax, 9)?;
        a.or(byte_ptr(rax * 8 + (TABLES + 0x2000)), 7)?;
        a.inc(qword_ptr(DATA + 0x20))?;
        a.pop(rax)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
}

/// Clears accessed and dirty bits and takes rights away, and uses the pages.
fn lazy() -> Bench {
    let mut b = Bench::long();
    let (one, two) = (b.pte(PAGE), b.pte(OTHER));
    forgiving(&mut b);
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        for _ in 0..20 {
            a.nop()?;
        }
        a.and(byte_ptr(one), 0x9f)?; // A and D
        a.inc(qword_ptr(PAGE))?;
        a.mov(cl, byte_ptr(one))?;
        a.add(r8, rcx)?;
        a.and(byte_ptr(two), 0xfd)?; // W
        a.inc(qword_ptr(OTHER))?;
        a.jmp(again)
    });
    b
}

#[test]
fn what_a_tlb_holds_depends_on_nothing_but_the_guest() {
    nothing_shows(lazy, 10_000);
}

#[test]
fn a_cleared_bit_is_set_again_and_a_right_taken_away_is_missed_at_once() {
    let mut b = lazy();
    straight(&mut b.m, 10_000);
    let rounds = b.u64(PAGE);
    assert!(rounds > 100);
    assert_eq!(b.u64(DATA + 0x20), rounds, "a fault a round");
    assert!(b.gpr(8) >= rounds * (A | D), "both bits in each round");
}

#[test]
fn every_entry_above_the_leaf_counts_too() {
    for (entry, taken) in [(TABLES, !A), (TABLES + 0x1000, !A), (TABLES + 0x2018, !(A | W))] {
        let make = || {
            let mut b = Bench::long();
            forgiving(&mut b);
            b.code(|a| {
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.nop()?;
                a.inc(qword_ptr(FAR))?;
                a.and(byte_ptr(entry), taken as u8 as i8 as i32)?;
                a.nop()?;
                a.mov(cl, byte_ptr(entry))?;
                a.add(r8, rcx)?;
                a.inc(qword_ptr(FAR_OTHER))?;
                a.mov(cl, byte_ptr(entry))?;
                a.add(r8, rcx)?;
                a.jmp(again)
            });
            b
        };
        nothing_shows(make, 3_000);
    }
}

/// 64-bit code that changes the entry of a large page.
fn large() -> Bench {
    let mut b = Bench::long();
    let entry = TABLES + 0x2018;
    b.write_u64(entry, 0x60_0000 | LARGE | 7);
    b.interrupt_gate(vector::PF, 0x8e, 0, FAULTS);
    b.code_at(64, FAULTS, |a| {
        a.or(byte_ptr(entry), 7)?;
        a.inc(r9)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(qword_ptr(FAR))?;
        a.inc(qword_ptr(FAR_OTHER))?;
        a.and(byte_ptr(entry), 0x9f)?;
        a.inc(qword_ptr(FAR_OTHER))?;
        a.mov(cl, byte_ptr(entry))?;
        a.add(r8, rcx)?;
        a.and(byte_ptr(entry), 0xfd)?;
        a.inc(qword_ptr(FAR))?;
        a.jmp(again)
    });
    b
}

#[test]
fn large_pages() {
    nothing_shows(large, 5_000);
    let mut b = large();
    straight(&mut b.m, 5_000);
    assert!(b.gpr(9) > 300, "a fault a round");
    assert!(b.gpr(8) >= b.gpr(9) * (A | D | LARGE));
}

/// PAE paging, with a table of small pages for the third 2 MiB.
fn pae() -> Bench {
    let mut b = Bench::protected();
    b.write_u64(TABLES, (TABLES + 0x1000) | 1);
    for k in 0..4 {
        b.write_u64(TABLES + 0x1000 + 8 * k, k << 21 | 0x87);
    }
    b.write_u64(TABLES + 0x1010, (TABLES + 0x2000) | 7);
    for k in 0..512u64 {
        b.write_u64(TABLES + 0x2000 + 8 * k, (DATA + (k << 12)) | 7);
    }
    // A second directory, which maps the same.
    let directory = b.read::<4096>(TABLES + 0x1000);
    b.write(TABLES + 0x3000, &directory);
    b.set(|r| {
        r.cr3 = TABLES;
        r.cr4 |= cr4::PAE;
        r.efer |= efer::NXE;
        r.cr0 |= cr0::PG | cr0::WP;
    });
    b
}

/// 32-bit paging.
fn legacy() -> Bench {
    let mut b = Bench::protected();
    for n in 0..2u64 {
        b.write_u32(TABLES + 4 * n, (TABLES + 0x1000 * (n + 1)) as u32 | 7);
        for k in 0..1024 {
            let entry = ((n << 22) + (k << 12)) as u32 | 7;
            b.write_u32(TABLES + 0x1000 * (n + 1) + 4 * k, entry);
        }
    }
    b.set(|r| {
        r.cr3 = TABLES;
        r.cr0 |= cr0::PG | cr0::WP;
    });
    b
}

/// Goes on with 32-bit code that clears bits of the entries `one` and `two`, of `PAGE` and `OTHER`, and of `upper`.
fn lazy_32(mut b: Bench, one: u64, two: u64, upper: u64) -> Bench {
    b.interrupt_gate(vector::PF, 0x8e, 0, FAULTS);
    b.code_at(32, FAULTS, |a| {
        a.or(byte_ptr(two), 7)?;
        a.inc(edi)?;
        a.add(esp, 4)?;
        a.iretd()
    });
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(dword_ptr(PAGE))?;
        a.inc(dword_ptr(OTHER))?;
        a.and(byte_ptr(one), 0x9f)?;
        a.inc(dword_ptr(PAGE))?;
        a.mov(cl, byte_ptr(one))?;
        a.add(edx, ecx)?;
        a.and(byte_ptr(two), 0xfd)?;
        a.inc(dword_ptr(OTHER))?;
        a.and(byte_ptr(upper), !0x20)?;
        a.inc(dword_ptr(PAGE))?;
        a.mov(cl, byte_ptr(upper))?;
        a.add(edx, ecx)?;
        a.jmp(again)
    });
    b
}

#[test]
fn pae_and_32_bit_paging() {
    let small_pae = || lazy_32(pae(), TABLES + 0x2000 + 24, TABLES + 0x2000 + 32, TABLES + 0x1010);
    let legacy = || lazy_32(legacy(), TABLES + 0x2000 + 12, TABLES + 0x2000 + 16, TABLES + 4);
    nothing_shows(small_pae, 3_000);
    nothing_shows(legacy, 3_000);
    for mut b in [small_pae(), legacy()] {
        straight(&mut b.m, 3_000);
        assert!(b.gpr(gpr::RDI) > 150, "a fault a round");
    }
}

#[test]
fn pae_pointers_are_read_at_each_walk() {
    let make = || {
        let mut b = pae();
        b.code(|a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.inc(dword_ptr(PAGE))?;
            a.xor(dword_ptr(TABLES), 0x2000)?; // The other directory, whose accessed bits are its own.
            a.and(byte_ptr(TABLES + 0x1010), !0x20)?;
            a.inc(dword_ptr(PAGE))?;
            // A counter right behind the pointers.
            a.inc(dword_ptr(TABLES + 0x20))?;
            a.mov(cl, byte_ptr(TABLES + 0x1010))?;
            a.add(edx, ecx)?;
            a.jmp(again)
        });
        b
    };
    nothing_shows(make, 2_000);
    let mut b = make();
    straight(&mut b.m, 2_000);
    assert!(b.u64(TABLES + 0x3010) & A != 0, "the second directory was used");
}

/// One vCPU changes entries that the other uses, and the other way round.
fn two() -> Bench {
    let mut b = Bench::long_smp(2);
    let (one, other) = (b.pte(PAGE), b.pte(OTHER));
    forgiving(&mut b);
    let start = b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(qword_ptr(r14))?;
        a.and(byte_ptr(r15), 0x9d)?; // A, D and W of the other's page
        a.mov(cl, byte_ptr(r13))?;
        a.add(r8, rcx)?;
        a.xor(r9, r8)?;
        a.rol(r9, 3)?;
        a.pause()?;
        a.jmp(again)
    });
    let registers = b.long_registers();
    for n in 0..2u64 {
        b.set_of(VcpuId(n as u32), |r| {
            let apic = r.apic_base;
            *r = registers.clone();
            r.apic_base = apic;
            r.rip = start;
            r.gpr[13] = [one, other][n as usize];
            r.gpr[14] = [PAGE, OTHER][n as usize];
            r.gpr[15] = [other, one][n as usize];
            r.gpr[gpr::RSP] = STACK + 0x2_0000 * (n + 1);
        });
    }
    b
}

#[test]
fn a_change_by_one_vcpu_is_seen_by_the_other_at_its_next_turn() {
    nothing_shows(two, 10_000);
    let mut b = two();
    straight(&mut b.m, 10_000);
    assert!(b.u64(DATA + 0x20) > 200, "faults");
    assert!(b.u64(PAGE) > 200 && b.u64(OTHER) > 200);
}

#[test]
fn code_that_moves_itself_goes_on_at_its_new_place() {
    // The page with the code is mapped to one where the next instruction is another.
    let make = || {
        let mut b = Bench::long();
        b.interrupt_gate(vector::PF, 0x8e, 0, FAULTS);
        let pte = b.pte(CODE + 0x1000);
        b.code_at(64, FAULTS, |a| {
            a.inc(r11)?;
            a.btr(qword_ptr(pte), 63)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        for (frame, amount) in [(CODE + 0x1000, 1), (DATA + 0x8000, 0x100)] {
            b.code_at(64, frame, |a| {
                a.inc(r10)?;
                a.xor(dword_ptr(pte), ((CODE + 0x1000) ^ (DATA + 0x8000)) as i32)?;
                a.add(r8, amount)?;
                a.and(byte_ptr(pte), !0x20)?;
                a.nop()?;
                a.nop()?;
                a.mov(cl, byte_ptr(pte))?;
                a.add(r9, rcx)?;
                a.bts(qword_ptr(pte), 63)?;
                a.nop()?;
                a.mov(eax, (CODE + 0x1000) as u32)?;
                a.jmp(rax)
            });
        }
        b.set(|r| r.rip = CODE + 0x1000);
        b
    };
    let mut b = make();
    nothing_shows(make, 2_000);
    straight(&mut b.m, 3);
    assert_eq!((b.gpr(10), b.gpr(8)), (1, 0x100), "from the other frame");
    straight(&mut b.m, 2_000);
    assert!(b.gpr(11) > 10, "not executable");
}

#[test]
fn a_store_across_pages_whose_first_part_maps_the_second_elsewhere() {
    // The last entry of the table maps the page behind the one through which the table is written.
    let (table, second, new) = (TABLES + 0x5000, 0x5f_f000, DATA + 0x9000);
    let mut b = Bench::long();
    b.map(second - 0x1000, table | 7);
    b.runs(|a| {
        a.mov(rax, 0xaa << 56 | new >> 8)?;
        a.mov(qword_ptr(second - 7), rax)?;
        a.mov(dword_ptr(second + 8), 5)?;
        a.mov(ecx, dword_ptr(second + 8))
    });
    assert_eq!(b.u64(table + 0xff8), new | 0x67);
    assert_eq!(
        b.read::<1>(second),
        [0xaa],
        "the store itself goes to the old place"
    );
    assert_eq!((b.u32(new + 8), b.gpr(gpr::RCX)), (5, 5));
}

#[test]
fn a_debuggers_write_to_a_page_table_is_seen_at_once() {
    let mut b = Bench::long();
    b.code(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(PAGE))?;
        a.jmp(again)
    });
    b.write_u64(PAGE, 1);
    b.write_u64(OTHER, 2);
    straight(&mut b.m, 100);
    assert_eq!(b.gpr(gpr::RAX), 1);
    b.map(PAGE, OTHER | 7);
    straight(&mut b.m, 102);
    assert_eq!(b.gpr(gpr::RAX), 2);
    assert_eq!(b.u64(b.pte(PAGE)) & A, A);
}

#[test]
fn a_stop_at_a_breakpoint_leaves_no_accessed_bit() {
    let make = || {
        let mut b = Bench::long();
        b.code_at(64, CODE + 0x1000, |a| a.jmp(CODE + 0x2000));
        b.code_at(64, CODE + 0x2000, |a| a.jmp(CODE + 0x2000));
        b.code(|a| a.jmp(CODE + 0x1000));
        b
    };
    for at in [CODE + 0x1000, CODE + 0x2000] {
        let (mut whole, mut stopped) = (make(), make());
        let place = Place::Virtual(GuestVirtAddr(at));
        stopped.m.insert_breakpoint(
            BreakpointId(1),
            Breakpoint {
                place,
                kind: BreakpointKind::Execute,
                condition: None,
            },
        );
        assert!(matches!(stopped.go(), RunExit::Stopped { .. }));
        straight(&mut whole.m, stopped.m.now().0);
        same(&whole.m, &stopped.m, "at the stop");
    }
}

/// Pages that random programs use; code of random programs.
const PAGES: u64 = DATA + 0x10_0000;
const PROGRAM: u64 = CODE + 0x8_0000;
const CODE_PAGES: u64 = 4;

/// Random code over four pages that uses and changes eight pages and their entries, its own pages' and those above.
fn random_program(seed: u64, vcpus: u32) -> Bench {
    let mut random = Random(seed * 0x9e37 + 1);
    let mut b = Bench::long_smp(vcpus);
    forgiving(&mut b);
    let data = |random: &mut Random| PAGES + random.below(8) * 0x1000;
    for n in 0..CODE_PAGES {
        let at = PROGRAM + 0x1000 * n;
        let next = PROGRAM + 0x1000 * ((n + 1 + random.below(2)) % CODE_PAGES);
        let entries: Vec<u64> = (0..CODE_PAGES).map(|k| b.pte(PROGRAM + 0x1000 * k)).collect();
        let leaves: Vec<u64> = (0..8).map(|k| b.pte(PAGES + 0x1000 * k)).collect();
        b.code_at(64, at, |a| {
            for _ in 0..60 {
                let leaf = leaves[random.below(8) as usize];
                let page = data(&mut random);
                match random.below(16) {
                    0 => a.and(byte_ptr(leaf), !0x20)?,
                    1 => a.and(byte_ptr(leaf), !0x40)?,
                    2 => a.and(byte_ptr(leaf), !0x2)?,
                    3 => a.and(byte_ptr(leaf), !0x1)?,
                    4 => {
                        let to = data(&mut random) as i32;
                        a.mov(dword_ptr(leaf), to | random.below(0x80) as i32)?
                    }
                    5 => {
                        let entry = entries[random.below(CODE_PAGES) as usize];
                        a.and(byte_ptr(entry), !0x20)?
                    }
                    6 => {
                        let entry = entries[random.below(CODE_PAGES) as usize];
                        a.bts(qword_ptr(entry), 63)?
                    }
                    7 => {
                        let above = [TABLES, TABLES + 0x1000, TABLES + 0x2008, TABLES + 0x2010];
                        let entry = above[random.below(4) as usize];
                        a.and(byte_ptr(entry), !0x20)?
                    }
                    8 => {
                        // A move to a table, or from one.
                        a.mov(esi, page as u32)?;
                        a.mov(edi, leaf as u32)?;
                        a.mov(rax, qword_ptr(leaf))?;
                        a.or(eax, 7)?;
                        a.mov(qword_ptr(rsi), rax)?;
                        a.movsq()?
                    }
                    9 => {
                        a.mov(edi, data(&mut random) as u32 + 0xf00)?;
                        a.mov(esi, page as u32 + 0x123)?;
                        a.mov(ecx, 1 + random.below(64) as u32)?;
                        a.rep().movsd()?
                    }
                    10 => a.mov(qword_ptr(page + 0xffd), r8)?,
                    11 | 12 => a.add(r8, qword_ptr(page + random.below(0xff0)))?,
                    13 => {
                        a.movzx(ecx, byte_ptr(leaf))?;
                        a.add(r8, rcx)?
                    }
                    _ => {
                        a.rol(r8, 7)?;
                        a.add(qword_ptr(page + random.below(0xff0)), r8)?
                    }
                }
            }
            a.jmp(next)
        });
    }
    let registers = b.long_registers();
    for n in 0..vcpus {
        b.set_of(VcpuId(n), |r| {
            let apic = r.apic_base;
            *r = registers.clone();
            r.apic_base = apic;
            r.rip = PROGRAM + 0x1000 * n as u64;
            r.gpr[8] = 0x1234_5678 * (n as u64 + 1);
            r.gpr[gpr::RSP] = STACK + 0x2_0000 * (n as u64 + 1);
        });
    }
    b
}

#[test]
fn random_programs_that_change_their_tables() {
    for seed in 0..9 {
        let vcpus = 1 + seed as u32 % 3;
        let end = 20_000;
        let mut whole = random_program(seed, vcpus);
        straight(&mut whole.m, end);
        assert!(whole.u64(DATA + 0x20) > 100, "faults");
        for most in [7, 90, 3_000] {
            let mut cut = random_program(seed, vcpus);
            disturbed(&mut cut.m, end, seed, most);
            same(&whole.m, &cut.m, &format!("seed {seed}, breaks of {most}"));
        }
        let mut stepped = random_program(seed, vcpus);
        run_to(&mut stepped.m, end, || (1, None));
        same(&whole.m, &stepped.m, &format!("seed {seed}, tick by tick"));
    }
}
