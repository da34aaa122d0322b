//! Page faults: error codes, CR2, and the rights that paging grants (SDM vol. 3A, 4.6 and 4.7).

use crate::bench::page::*;
use crate::bench::*;
use hv_core::regs::{Segment, cr0, cr4, efer, rflags};

const PAGE: u64 = DATA + 0x1000;

/// Error code bits.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const RESERVED: u64 = 8;
const FETCH: u64 = 16;

#[derive(Clone, Copy, PartialEq, Debug)]
enum By {
    Read,
    Write,
    Modify,
    Fetch,
}
use By::*;

/// Accesses `PAGE + 0x10` under this leaf entry; the error code of the fault, or none.
fn access(user: bool, by: By, entry: u64, prepare: impl FnOnce(&mut Bench)) -> Option<u64> {
    let mut b = Bench::long();
    b.write(PAGE + 0x10, &[0xe6, EXIT_PORT as u8]);
    b.map(PAGE, entry);
    if user {
        b.user();
        b.set(|r| r.rflags |= rflags::IOPL);
    }
    prepare(&mut b);
    b.code(|a| {
        a.mov(rbx, PAGE + 0x10)?;
        match by {
            Read => a.mov(rax, ptr(rbx))?,
            Write => a.mov(ptr(rbx), rax)?,
            Modify => a.add(qword_ptr(rbx), 1)?,
            Fetch => a.jmp(rbx)?,
        }
        a.out(EXIT_PORT as i32, al)
    });
    assert!(exited(&b.go()));
    let vector = vector_at(b.regs().rip)?;
    assert_eq!(vector, vector::PF);
    let f = b.frame();
    assert_eq!(b.regs().cr2, PAGE + 0x10);
    assert_eq!(f.rip, if by == Fetch { PAGE + 0x10 } else { CODE + 10 });
    assert_ne!(f.rflags & rflags::RF, 0);
    f.error
}

#[test]
fn error_codes_tell_access_privilege_and_cause() {
    let none = |_: &mut Bench| {};
    let all = PAGE | P | W | U;
    let cases = [
        (false, Read, 0, Some(0)),
        (false, Write, 0, Some(WRITE)),
        (false, Modify, 0, Some(WRITE)),
        (false, Fetch, 0, Some(FETCH)),
        (true, Read, 0, Some(USER)),
        (true, Write, 0, Some(USER | WRITE)),
        (true, Modify, 0, Some(USER | WRITE)),
        (true, Fetch, 0, Some(USER | FETCH)),
        (true, Read, PAGE | P | W, Some(USER | PRESENT)),
        (true, Write, PAGE | P | W, Some(USER | PRESENT | WRITE)),
        (true, Fetch, PAGE | P | W, Some(USER | PRESENT | FETCH)),
        (true, Write, PAGE | P | U, Some(USER | PRESENT | WRITE)),
        (true, Read, PAGE | P | U, None),
        (false, Write, PAGE | P, Some(PRESENT | WRITE)),
        (false, Modify, PAGE | P, Some(PRESENT | WRITE)),
        (false, Read, PAGE | P, None),
        (false, Fetch, all | NX, Some(PRESENT | FETCH)),
        (true, Fetch, all | NX, Some(USER | PRESENT | FETCH)),
        (false, Read, all | NX, None),
        (false, Read, all | 1 << 45, Some(PRESENT | RESERVED)),
        (
            true,
            Write,
            all | 1 << 51,
            Some(USER | PRESENT | WRITE | RESERVED),
        ),
        (false, Fetch, all | 1 << 40, Some(PRESENT | FETCH | RESERVED)),
        (false, Read, 1 << 45, Some(0)),
        (true, Write, all, None),
        (true, Fetch, all, None),
    ];
    for (user, by, entry, expected) in cases {
        assert_eq!(
            access(user, by, entry, none),
            expected,
            "user {user}, {by:?}, {entry:#x}"
        );
    }
}

#[test]
fn without_nxe_bit_63_is_reserved_and_fetches_are_not_told() {
    let no_nx = |b: &mut Bench| b.set(|r| r.efer &= !efer::NXE);
    assert_eq!(
        access(false, Read, PAGE | P | W | U | NX, no_nx),
        Some(PRESENT | RESERVED)
    );
    assert_eq!(access(true, Fetch, PAGE | P | W, no_nx), Some(USER | PRESENT));
    let smep = |b: &mut Bench| {
        b.map(HANDLERS, HANDLERS | P | W);
        b.set(|r| {
            r.efer &= !efer::NXE;
            r.cr4 |= cr4::SMEP;
        });
    };
    assert_eq!(
        access(true, Fetch, PAGE | P | W, smep),
        Some(USER | PRESENT | FETCH)
    );
}

#[test]
fn without_wp_the_supervisor_writes_read_only_pages() {
    let no_wp = |b: &mut Bench| b.set(|r| r.cr0 &= !cr0::WP);
    assert_eq!(access(false, Write, PAGE | P, no_wp), None);
    assert_eq!(access(false, Write, PAGE | P | U, no_wp), None);
    assert_eq!(
        access(true, Write, PAGE | P | U, no_wp),
        Some(USER | PRESENT | WRITE)
    );
}

#[test]
fn smep_forbids_the_supervisor_to_fetch_from_user_pages() {
    // The code of the bench must be the supervisor's own then.
    let smep = |b: &mut Bench| {
        for page in [CODE, HANDLERS] {
            b.map(page, page | P | W);
        }
        b.set(|r| r.cr4 |= cr4::SMEP);
    };
    assert_eq!(
        access(false, Fetch, PAGE | P | W | U, smep),
        Some(PRESENT | FETCH)
    );
    assert_eq!(access(false, Fetch, PAGE | P | W, smep), None);
    assert_eq!(access(false, Read, PAGE | P | W | U, smep), None);
}

/// SMAP on, with everything but `PAGE` the supervisor's.
fn smap(b: &mut Bench, ac: bool) {
    for page in 0..2048 {
        let page = page << 12;
        if page != PAGE {
            b.map(page, page | P | W);
        }
    }
    b.set(|r| {
        r.cr4 |= cr4::SMAP;
        r.rflags |= if ac { rflags::AC } else { 0 };
    });
}

#[test]
fn smap_forbids_the_supervisor_user_data_unless_ac() {
    let user_page = PAGE | P | W | U;
    assert_eq!(access(false, Read, user_page, |b| smap(b, false)), Some(PRESENT));
    assert_eq!(
        access(false, Write, user_page, |b| smap(b, false)),
        Some(PRESENT | WRITE)
    );
    assert_eq!(
        access(false, Modify, user_page, |b| smap(b, false)),
        Some(PRESENT | WRITE)
    );
    assert_eq!(
        access(false, Fetch, user_page, |b| smap(b, false)),
        None,
        "that is SMEP's"
    );
    assert_eq!(access(false, Read, user_page, |b| smap(b, true)), None);
    assert_eq!(access(false, Write, user_page, |b| smap(b, true)), None);
    assert_eq!(
        access(false, Write, PAGE | P | U, |b| smap(b, true)),
        Some(PRESENT | WRITE)
    );
}

#[test]
fn stac_and_clac_switch_smap_at_once() {
    let mut b = Bench::long();
    b.map(PAGE, PAGE | P | W | U);
    smap(&mut b, false);
    let f = b.raises(vector::PF, |a| {
        a.stac()?;
        a.mov(rax, qword_ptr(PAGE))?;
        a.mov(qword_ptr(PAGE), rax)?;
        a.clac()?;
        a.mov(qword_ptr(PAGE + 8), rax)
    });
    assert_eq!((f.error, b.regs().cr2), (Some(PRESENT | WRITE), PAGE + 8));
    assert_eq!(f.rflags & rflags::AC, 0);
    // POPF carries AC too.
    let mut b = Bench::long();
    smap(&mut b, false);
    b.runs(|a| {
        a.push(1 << 18 | 2)?;
        a.popfq()?;
        a.mov(rax, qword_ptr(PAGE))
    });
    b.raises(vector::PF, |a| {
        a.push(2)?;
        a.popfq()?;
        a.mov(rax, qword_ptr(PAGE))
    });
    let mut b = Bench::long();
    b.raises(vector::UD, |a| a.db(&[0x66, 0x0f, 0x01, 0xcb]));
}

#[test]
fn descriptor_loads_from_user_pages_are_implicit_and_ignore_ac() {
    let mut b = Bench::long();
    b.write_u64(PAGE + 0x10, descriptor(0, 0xfff, 0x93, 0));
    smap(&mut b, true);
    b.set(|r| {
        r.ldtr = Segment {
            selector: 0x60,
            base: PAGE,
            limit: 0xff,
            attributes: 0x82,
        }
    });
    let f = b.raises(vector::PF, |a| {
        a.mov(eax, 0x10 | 4)?;
        a.mov(ds, eax)
    });
    assert_eq!((f.error, b.regs().cr2), (Some(PRESENT), PAGE + 0x10));
}

#[test]
fn rights_are_those_of_all_levels_together() {
    for (level, cleared, user, by, expected) in [
        (0, W, false, Write, Some(PRESENT | WRITE)),
        (1, W, false, Write, Some(PRESENT | WRITE)),
        (2, W, false, Write, Some(PRESENT | WRITE)),
        (1, U, true, Read, Some(USER | PRESENT)),
        (2, U, true, Fetch, Some(USER | PRESENT | FETCH)),
        (2, P, false, Read, Some(0)),
    ] {
        // An address that the bench doesn't need: 1 GiB, with tables of its own.
        let mut b = Bench::long();
        let far = 0x80_4000_0000u64;
        let tables = [
            TABLES + 8 * (far >> 39),
            0x60_0000 + 8 * (far >> 30 & 511),
            0x60_1000,
            0x60_2000,
        ];
        let entries = [0x60_0000 | 7, 0x60_1000 | 7, 0x60_2000 | 7, DATA | 7];
        for (n, (at, entry)) in tables.into_iter().zip(entries).enumerate() {
            b.write_u64(at, if n == level { entry & !cleared } else { entry });
        }
        if user {
            b.user();
        }
        let f = b.raises(vector::PF, |a| {
            a.mov(rbx, far)?;
            match by {
                Read => a.mov(rax, ptr(rbx)),
                Write => a.mov(ptr(rbx), rax),
                _ => a.jmp(rbx),
            }
        });
        assert_eq!(
            (f.error, b.regs().cr2),
            (expected, far),
            "level {level}, {cleared:#x}"
        );
    }
}

#[test]
fn cr2_is_the_first_inaccessible_byte_of_a_crossing_access() {
    for (first, second, offset, address, by) in [
        (P | W, 0, 0xffc, PAGE + 0x1000, Read),
        (P | W, 0, 0xffc, PAGE + 0x1000, Write),
        (P | W, 0, 0xffc, PAGE + 0x1000, Modify),
        (0, P | W, 0xffc, PAGE + 0xffc, Read),
        (0, 0, 0xffc, PAGE + 0xffc, Write),
    ] {
        let mut b = Bench::long();
        b.map(PAGE, PAGE | first);
        b.map(PAGE + 0x1000, (PAGE + 0x1000) | second);
        b.raises(vector::PF, |a| {
            a.mov(rbx, PAGE + offset)?;
            a.mov(rax, -1i64)?;
            match by {
                Read => a.mov(rcx, ptr(rbx)),
                Write => a.mov(ptr(rbx), rax),
                _ => a.or(ptr(rbx), rax),
            }
        });
        assert_eq!(b.regs().cr2, address, "{by:?}");
        assert_eq!(b.u32(PAGE + 0xffc), 0, "no part of it is written");
    }
}

#[test]
fn a_crossing_write_to_a_read_only_second_page_writes_nothing() {
    let mut b = Bench::long();
    b.map(PAGE + 0x1000, (PAGE + 0x1000) | P);
    b.raises(vector::PF, |a| {
        a.mov(qword_ptr(PAGE + 0xff0), rsp)?; // the first page has been written before
        a.mov(qword_ptr(PAGE + 0xffc), rsp)
    });
    assert_eq!(b.regs().cr2, PAGE + 0x1000);
    assert_eq!(b.u32(PAGE + 0xffc), 0);
}

#[test]
fn an_instruction_that_runs_into_an_absent_page_faults_with_cr2_there() {
    let mut b = Bench::long();
    b.map(PAGE, 0);
    b.code_at(64, PAGE - 3, |a| a.db(&[0x48, 0xb8, 0x11]));
    b.set(|r| r.rip = PAGE - 3);
    let f = b.fault(vector::PF);
    assert_eq!((f.rip, f.error, b.regs().cr2), (PAGE - 3, Some(FETCH), PAGE));
}

#[test]
fn a_faulting_push_leaves_rsp_and_a_faulting_pop_to_memory_too() {
    let mut b = Bench::long();
    b.interrupt_gate(vector::PF, 0x8e, 1, handler(vector::PF));
    b.map(PAGE - 0x1000, 0);
    let f = b.raises(vector::PF, |a| {
        a.mov(rsp, PAGE)?;
        a.push(rax)
    });
    assert_eq!((f.rsp, b.regs().cr2), (PAGE, PAGE - 8));
    let mut b = Bench::long();
    b.map(PAGE, 0);
    let f = b.raises(vector::PF, |a| {
        a.push(rax)?;
        a.pop(qword_ptr(PAGE))
    });
    assert_eq!((f.rsp, b.regs().cr2), (STACK - 8, PAGE));
}

#[test]
fn a_string_instruction_faults_with_the_elements_before_done() {
    for backwards in [false, true] {
        let mut b = Bench::long();
        let (start, hole) = if backwards {
            (PAGE + 0x18, PAGE - 0x1000)
        } else {
            (PAGE - 0x20, PAGE)
        };
        b.map(hole, 0);
        b.code(|a| {
            if backwards {
                a.std()?;
            }
            a.mov(rdi, start)?;
            a.mov(ecx, 100)?;
            a.mov(rax, 0x1122_3344_5566_7788u64)?;
            a.rep().stosq()
        });
        let f = b.fault(vector::PF);
        let r = b.regs();
        assert_eq!(
            (r.gpr[1], r.gpr[7]),
            (96, if backwards { PAGE - 8 } else { PAGE })
        );
        assert_eq!(b.u64(start), 0x1122_3344_5566_7788);
        assert_eq!(r.cr2, if backwards { PAGE - 8 } else { PAGE });
        // Mapped now, the instruction goes on where it was.
        b.map(hole, hole | 7);
        b.leave_handler();
        b.write(f.rip + 3, &[0xe6, EXIT_PORT as u8]);
        b.finish();
        assert_eq!(b.gpr(1), 0);
    }
}

#[test]
fn cmpxchg_needs_write_rights_even_where_it_does_not_store() {
    let mut b = Bench::long();
    b.map(PAGE, PAGE | P);
    let f = b.raises(vector::PF, |a| {
        a.mov(eax, 5)?;
        a.cmpxchg(qword_ptr(PAGE), rbx)
    });
    assert_eq!(f.error, Some(PRESENT | WRITE));
}
