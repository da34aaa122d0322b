//! Page walks in every paging mode, over tables built by hand.

mod scripted;

use hv_core::regs::{Registers, cr0, cr4, efer};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use introspect::{AddressSpace, Fault, PagingMode, Target, Translation};
use scripted::Scripted;
use std::sync::Arc;

const P: u64 = 1;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const PWU: u64 = P | W | U;

/// Where the tests put their tables, from the root down.
const ROOT: u64 = 0x1000;
const T1: u64 = 0x2000;
const T2: u64 = 0x3000;
const T3: u64 = 0x4000;
const T4: u64 = 0x5000;

fn target() -> (Arc<Scripted>, Arc<Target>) {
    let domain = Scripted::new();
    domain.map(0, &[0; 0x6000]);
    (domain.clone(), Target::new(domain))
}

fn space(mode: PagingMode) -> AddressSpace {
    AddressSpace::Root(mode, GuestPhysAddr(ROOT))
}

/// What a translation found: physical address, page size, rights as letters.
fn found(target: &Target, mode: PagingMode, address: u64) -> (u64, u64, String) {
    let t = target.translate(space(mode), GuestVirtAddr(address)).unwrap();
    (t.phys.0, t.page_size, rights(&t))
}

fn rights(t: &Translation) -> String {
    let letters = [
        (t.writable, 'w'),
        (t.user, 'u'),
        (t.executable, 'x'),
        (t.global, 'g'),
    ];
    letters.iter().filter(|(set, _)| *set).map(|(_, c)| c).collect()
}

fn fault(target: &Target, mode: PagingMode, address: u64) -> String {
    target
        .translate(space(mode), GuestVirtAddr(address))
        .unwrap_err()
        .fault
        .to_string()
}

#[test]
fn four_levels_with_pages_of_three_sizes() {
    let (domain, target) = target();
    let mode = PagingMode::Level4;
    domain.put64(ROOT + 511 * 8, T1 | PWU);
    domain.put64(T1 + 510 * 8, T2 | PWU);
    domain.put64(T2 + 8, T3 | PWU);
    domain.put64(T3 + 2 * 8, 0x000f_edcb_a987_6000 | P | W | G | NX);
    assert_eq!(
        found(&target, mode, 0xffff_ffff_8020_2abc),
        (0x000f_edcb_a987_6abc, 0x1000, "wg".into())
    );
    domain.put64(T2 + 2 * 8, 0x4060_0000 | 1 << 12 /* PAT */ | PWU | PS);
    assert_eq!(
        found(&target, mode, 0xffff_ffff_8045_6789),
        (0x4065_6789, 0x20_0000, "wux".into())
    );
    domain.put64(T1 + 511 * 8, 0x8_4000_0000 | P | PS);
    assert_eq!(
        found(&target, mode, 0xffff_ffff_c123_4567),
        (0x8_4123_4567, 0x4000_0000, "x".into())
    );
}

#[test]
fn five_levels() {
    let (domain, target) = target();
    let mode = PagingMode::Level5;
    let address = (0xff << 48) | (1 << 39) | (2 << 30) | (3 << 21) | (4 << 12) | 5;
    domain.put64(ROOT + 255 * 8, T1 | PWU);
    domain.put64(T1 + 8, T2 | PWU);
    domain.put64(T2 + 2 * 8, T3 | PWU);
    domain.put64(T3 + 3 * 8, T4 | PWU);
    domain.put64(T4 + 4 * 8, 0x9000 | PWU);
    let t = target.translate(space(mode), GuestVirtAddr(address)).unwrap();
    assert_eq!(t.phys, GuestPhysAddr(0x9005));
    let walked: Vec<_> = t
        .levels
        .iter()
        .map(|l| (l.name, l.index, l.entry_addr.0, l.entry))
        .collect();
    assert_eq!(
        walked,
        [
            ("PML5E", 255, ROOT + 255 * 8, T1 | PWU),
            ("PML4E", 1, T1 + 8, T2 | PWU),
            ("PDPTE", 2, T2 + 16, T3 | PWU),
            ("PDE", 3, T3 + 24, T4 | PWU),
            ("PTE", 4, T4 + 32, 0x9000 | PWU),
        ]
    );
}

#[test]
fn pae_tables_start_with_four_entries_without_rights() {
    let (domain, target) = target();
    let mode = PagingMode::Pae;
    // The four PDPTEs are aligned to 32 bytes only.
    let root = ROOT + 0x60;
    let space = AddressSpace::Root(mode, GuestPhysAddr(root));
    domain.put64(root + 3 * 8, T1 | P);
    domain.put64(T1 + 8, T2 | PWU);
    domain.put64(T2 + 3 * 8, 0x12_3456_7000 | PWU | NX);
    domain.put64(T1 + 2 * 8, 0xa0_0060_0000 | PWU | PS | G);
    let small = target.translate(space, GuestVirtAddr(0xc020_3004)).unwrap();
    assert_eq!((small.phys.0, small.page_size), (0x12_3456_7004, 0x1000));
    assert_eq!(rights(&small), "wu");
    assert_eq!(small.levels.len(), 3);
    let large = target.translate(space, GuestVirtAddr(0xc041_2345)).unwrap();
    assert_eq!((large.phys.0, large.page_size), (0xa0_0061_2345, 0x20_0000));
    assert_eq!(rights(&large), "wuxg");

    domain.put64(root, T1 | P | PS);
    let error = target.translate(space, GuestVirtAddr(0x1000)).unwrap_err();
    assert_eq!(
        error.fault.to_string(),
        "PDPTE at 0x1060 has reserved bits set: 0x2081"
    );
}

#[test]
fn two_levels_of_32_bit_entries() {
    let (domain, target) = target();
    let (with, without) = (
        PagingMode::Bits32 { pse: true },
        PagingMode::Bits32 { pse: false },
    );
    domain.put32(ROOT + 0x300 * 4, (T1 | P | W) as u32);
    domain.put32(T1 + 0x101 * 4, 0xfff8_9000 | PWU as u32);
    for mode in [with, without] {
        assert_eq!(
            found(&target, mode, 0xc010_1fff),
            (0xfff8_9fff, 0x1000, "wx".into())
        );
    }
    // Bits 20:13 are bits 39:32 of the address (PSE-36).
    domain.put32(ROOT + 0x301 * 4, 0x0080_0000 | 0xab << 13 | (PWU | PS) as u32);
    assert_eq!(
        found(&target, with, 0xc052_3456),
        (0xab_0092_3456, 0x40_0000, "wux".into())
    );
    domain.put32(ROOT + 0x302 * 4, 0x0080_0000 | 1 << 21 | (PWU | PS) as u32);
    assert_eq!(
        fault(&target, with, 0xc080_0000),
        "PDE at 0x1c08 has reserved bits set: 0xa00087"
    );
    // Without CR4.PSE the bit is ignored: the entry points to a table.
    domain.put32(ROOT + 0x303 * 4, (T1 | PWU | PS) as u32);
    assert_eq!(found(&target, without, 0xc0d0_1000).0, 0xfff8_9000);
}

#[test]
fn rights_are_those_that_all_levels_give() {
    let (domain, target) = target();
    let mode = PagingMode::Level4;
    let case = |entries: [u64; 4]| {
        let tables = [(ROOT, T1), (T1, T2), (T2, T3), (T3, 0x9000)];
        for ((at, next), bits) in tables.into_iter().zip(entries) {
            domain.put64(at, next | bits);
        }
        found(&target, mode, 0).2
    };
    assert_eq!(case([PWU, PWU, PWU, PWU]), "wux");
    assert_eq!(case([P | U, PWU, PWU, PWU]), "ux");
    assert_eq!(case([PWU, P | W, PWU, PWU]), "wx");
    assert_eq!(case([PWU, PWU, PWU | NX, PWU]), "wu");
    assert_eq!(case([PWU, PWU | G, PWU, PWU | G]), "wuxg");
    assert_eq!(case([PWU, PWU | G, PWU, P]), "x");
}

#[test]
fn addresses_outside_the_mode_are_refused() {
    let (_, target) = target();
    for (mode, bits, low, high) in [
        (PagingMode::Level4, 48, 0x8000_0000_0000, 0xffff_7fff_ffff_ffff),
        (
            PagingMode::Level5,
            57,
            0x100_0000_0000_0000,
            0xfeff_ffff_ffff_ffff,
        ),
    ] {
        for address in [low, high] {
            let why = format!("not canonical: not a sign-extended {bits}-bit address");
            assert_eq!(fault(&target, mode, address), why);
        }
        assert_eq!(
            fault(&target, mode, low - 1).split_once(' ').unwrap().1,
            "not present"
        );
        assert_eq!(
            fault(&target, mode, high + 1).split_once(' ').unwrap().1,
            "not present"
        );
    }
    for mode in [PagingMode::Pae, PagingMode::Bits32 { pse: true }] {
        assert!(matches!(
            target
                .translate(space(mode), GuestVirtAddr(1 << 32))
                .unwrap_err()
                .fault,
            Fault::Beyond4GiB
        ));
    }
}

#[test]
fn a_failed_walk_shows_how_far_it_came() {
    let (domain, target) = target();
    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, T2 | PWU);
    domain.put64(T2, 0x1234_0000 | W);
    let error = target
        .translate(space(PagingMode::Level4), GuestVirtAddr(0x1000))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot translate 0x1000 (page tables at 0x1000): PDE not present"
    );
    let names: Vec<_> = error
        .levels
        .iter()
        .map(|level| (level.name, level.entry))
        .collect();
    assert_eq!(
        names,
        [("PML4E", T1 | PWU), ("PDPTE", T2 | PWU), ("PDE", 0x1234_0000 | W)]
    );

    domain.put64(T2, 0x7777_0000 | PWU);
    let error = target
        .translate(space(PagingMode::Level4), GuestVirtAddr(0x1000))
        .unwrap_err();
    assert_eq!(
        error.fault.to_string(),
        "no memory at guest-physical 0x77770008, where the PTE should be"
    );
    assert_eq!(error.levels.len(), 3);
}

#[test]
fn reserved_bits_stop_a_walk() {
    let (domain, target) = target();
    let mode = PagingMode::Level4;
    domain.put64(ROOT, T1 | PWU | PS);
    assert_eq!(
        fault(&target, mode, 0),
        "PML4E at 0x1000 has reserved bits set: 0x2087"
    );
    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, 1 << 29 | PWU | PS);
    assert_eq!(
        fault(&target, mode, 0),
        "PDPTE at 0x2000 has reserved bits set: 0x20000087"
    );
    domain.put64(T1, T2 | PWU);
    domain.put64(T2, 1 << 13 | PWU | PS);
    assert_eq!(
        fault(&target, mode, 0),
        "PDE at 0x3000 has reserved bits set: 0x2087"
    );
}

#[test]
fn tables_that_point_at_themselves_end() {
    let (domain, target) = target();
    domain.put64(ROOT, ROOT | PWU);
    for mode in [PagingMode::Level4, PagingMode::Level5] {
        let t = target.translate(space(mode), GuestVirtAddr(0x123)).unwrap();
        assert_eq!(t.phys, GuestPhysAddr(ROOT + 0x123));
    }
}

#[test]
fn garbage_tables_never_panic() {
    let (domain, target) = target();
    let mut random = scripted::Random::new(1);
    for _ in 0..2000 {
        for _ in 0..64 {
            let at = (ROOT + random.below(T4 - ROOT)) & !7;
            let wild = random.below(u64::MAX) << 16 | random.below(0x1_0000);
            let near = random.below(6) << 12 | random.below(0x1000) & !PS | P;
            domain.put64(at, if random.below(4) == 0 { wild } else { near });
        }
        let root = GuestPhysAddr(random.below(u64::MAX));
        let address = GuestVirtAddr(random.below(u64::MAX) << 16);
        for mode in [
            PagingMode::None,
            PagingMode::Bits32 {
                pse: random.below(2) == 0,
            },
            PagingMode::Pae,
            PagingMode::Level4,
            PagingMode::Level5,
        ] {
            for root in [root, GuestPhysAddr(ROOT)] {
                for address in [
                    address,
                    GuestVirtAddr(address.0 >> 32),
                    GuestVirtAddr(u64::MAX - 7),
                ] {
                    let space = AddressSpace::Root(mode, root);
                    let _ = target.translate(space, address);
                    let _ = target.read_virtual(space, address, &mut [0; 64]);
                    let _ = target.write_virtual(space, address, &[1; 64]);
                }
            }
        }
    }
}

#[test]
fn the_mode_follows_from_the_registers() {
    let mode = |cr0, cr4, efer| {
        PagingMode::of(&Registers {
            cr0,
            cr4,
            efer,
            ..Registers::at_reset(true)
        })
    };
    assert_eq!(mode(cr0::PE, cr4::PAE, efer::LME), PagingMode::None);
    assert_eq!(mode(cr0::PE | cr0::PG, 0, 0), PagingMode::Bits32 { pse: false });
    assert_eq!(
        mode(cr0::PE | cr0::PG, cr4::PSE, 0),
        PagingMode::Bits32 { pse: true }
    );
    assert_eq!(mode(cr0::PE | cr0::PG, cr4::PAE, efer::NXE), PagingMode::Pae);
    assert_eq!(mode(cr0::PE | cr0::PG, cr4::PAE, efer::LMA), PagingMode::Level4);
    assert_eq!(
        mode(cr0::PE | cr0::PG, cr4::PAE | cr4::LA57, efer::LMA),
        PagingMode::Level5
    );
}
