//! Reading and writing virtual memory: over pages, up to where it ends, and what is said then.

mod scripted;

use hv_core::regs::{cr0, cr4, efer};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::{AddressSpace, Fault, PagingMode, Target};
use scripted::Scripted;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const P: u64 = 1;
const PWU: u64 = 0b111;
const PS: u64 = 1 << 7;

/// Where the tests put their tables, from the root down.
const ROOT: u64 = 0x1000;
const T1: u64 = 0x2000;
const T2: u64 = 0x3000;
const T3: u64 = 0x4000;
/// A page of data.
const DATA: u64 = 0x5000;

fn target() -> (Arc<Scripted>, Arc<Target>) {
    let domain = Scripted::new();
    domain.map(0, &[0; 0x6000]);
    (domain.clone(), Target::new(domain))
}

fn space(mode: PagingMode) -> AddressSpace {
    AddressSpace::Root(mode, GuestPhysAddr(ROOT))
}

#[test]
fn a_vcpus_space_is_what_its_registers_say() {
    let (domain, target) = target();
    let space = AddressSpace::Vcpu(VcpuId(1));
    domain.put64(0x5008, 0x1122_3344);
    let mut bytes = [0; 8];
    assert_eq!(
        target.read_virtual(space, GuestVirtAddr(0x5008), &mut bytes),
        Ok(8)
    );
    assert_eq!(u64::from_le_bytes(bytes), 0x1122_3344, "paging is off");

    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, T2 | PWU);
    domain.put64(T2, T3 | PWU);
    domain.put64(T3 + 8, DATA | PWU);
    let mut registers = domain.registers.lock().unwrap();
    registers[1].cr0 |= cr0::PG;
    registers[1].cr4 |= cr4::PAE | cr4::PCIDE;
    registers[1].efer |= efer::LMA;
    registers[1].cr3 = ROOT | 0x7 | 1 << 63; // a PCID, and the bit that keeps its entries
    drop(registers);
    assert_eq!(
        target.translate(space, GuestVirtAddr(0x1008)).unwrap().phys.0,
        0x5008
    );

    let absent = AddressSpace::Vcpu(VcpuId(2));
    assert_eq!(
        target
            .read_virtual(absent, GuestVirtAddr(0x10), &mut bytes)
            .unwrap_err()
            .to_string(),
        "cannot read 8 bytes at 0x10 (vcpu 2): domain 00000000000000d0: no vCPU 2; it has 2"
    );
    domain.put64(ROOT + 511 * 8, T1 | PWU);
    domain.put64(T1 + 0x40 * 8, T2 | PWU);
    domain.put64(T2 + 0x80 * 8, T3 | PWU);
    assert_eq!(
        target
            .read_virtual(space, GuestVirtAddr(0xffff_ff90_1000_5ff8), &mut [0; 16])
            .unwrap_err()
            .to_string(),
        "cannot read 16 bytes at 0xffffff9010005ff8 (vcpu 1): PTE not present"
    );
}

/// Virtual pages 0, 1, 2 … are frames 0x100, 0x102, 0x104 …, up to page `count`, each filled with its number.
fn scattered_pages(domain: &Scripted, count: u64) {
    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, T2 | PWU);
    for table in 0..count.div_ceil(512) {
        domain.put64(T2 + table * 8, (0x10_0000_0000 + table * 0x1000) | PWU);
    }
    for page in 0..count {
        let phys = (0x100 + 2 * page) << 12;
        domain.put64(0x10_0000_0000 + page * 8, phys | P);
        domain.map(phys, &[page as u8; 4096]);
    }
}

#[test]
fn a_read_goes_over_pages_and_stops_at_the_first_that_is_not_there() {
    let (domain, target) = target();
    scattered_pages(&domain, 3);
    let space = space(PagingMode::Level4);
    let mut bytes = [0xee; 0x4000];
    assert_eq!(
        target.read_virtual(space, GuestVirtAddr(0xff0), &mut bytes),
        Ok(0x2010)
    );
    assert!(bytes[..0x10].iter().all(|b| *b == 0));
    assert!(bytes[0x10..0x1010].iter().all(|b| *b == 1));
    assert!(bytes[0x1010..0x2010].iter().all(|b| *b == 2));
    assert!(bytes[0x2010..].iter().all(|b| *b == 0xee));
    let error = target
        .read_virtual(space, GuestVirtAddr(0x3000), &mut bytes[..1])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read 1 byte at 0x3000 (page tables at 0x1000): PTE not present"
    );
    assert_eq!(target.read_virtual(space, GuestVirtAddr(0x3000), &mut []), Ok(0));
}

#[test]
fn a_read_stops_where_the_domain_has_no_memory() {
    let (domain, target) = target();
    let space = space(PagingMode::Level4);
    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, T2 | PWU);
    domain.put64(T2, PWU | PS); // 2 MiB from 0 on, of which 0x6000 bytes are there
    assert_eq!(
        target.read_virtual(space, GuestVirtAddr(0x5ffc), &mut [0; 16]),
        Ok(4)
    );
    assert_eq!(
        target
            .read_virtual(space, GuestVirtAddr(0x6004), &mut [0; 16])
            .unwrap_err()
            .fault,
        Fault::NoMemory(GuestPhysAddr(0x6004))
    );
    let physical = AddressSpace::Physical;
    assert_eq!(
        target.read_virtual(physical, GuestVirtAddr(0x5ffc), &mut [0; 16]),
        Ok(4)
    );
    assert_eq!(
        target
            .read_virtual(physical, GuestVirtAddr(0x6000), &mut [0; 16])
            .unwrap_err()
            .to_string(),
        "cannot read 16 bytes at 0x6000 (physical): no memory at guest-physical 0x6000"
    );
}

#[test]
fn a_read_ends_with_the_address_space() {
    let (domain, target) = target();
    domain.put32(ROOT + 0x3ff * 4, (T1 | PWU) as u32);
    domain.put32(T1 + 0x3ff * 4, (DATA | PWU) as u32);
    domain.put32(ROOT, (T1 | PWU) as u32);
    domain.put32(T1, (DATA | PWU) as u32);
    let top = GuestVirtAddr(0xffff_fff8);
    let bits32 = space(PagingMode::Bits32 { pse: true });
    assert_eq!(target.read_virtual(bits32, top, &mut [0; 16]), Ok(8));

    domain.put64(ROOT + 511 * 8, T2 | PWU);
    domain.put64(T2 + 511 * 8, T3 | PWU);
    domain.put64(T3 + 511 * 8, DATA | PWU);
    domain.put64(DATA + 511 * 8, DATA | PWU);
    let top = GuestVirtAddr(u64::MAX - 7);
    assert_eq!(
        target.read_virtual(space(PagingMode::Level4), top, &mut [0; 16]),
        Ok(8)
    );
}

#[test]
fn a_write_ignores_the_guests_protection_but_not_rom() {
    let (domain, target) = target();
    scattered_pages(&domain, 3);
    domain.make_rom(0x104 << 12);
    let space = space(PagingMode::Level4);
    let bytes = [0xab; 0x20];
    assert_eq!(
        target.write_virtual(space, GuestVirtAddr(0xff8), &bytes),
        Ok(0x20)
    );
    assert_eq!(target.write_virtual(space, GuestVirtAddr(0x1ff8), &bytes), Ok(8));
    let error = target
        .write_virtual(space, GuestVirtAddr(0x2000), &bytes)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write 32 bytes at 0x2000 (page tables at 0x1000): guest-physical 0x104000 can't be written"
    );
    let mut back = [0; 0x20];
    target
        .read_virtual(space, GuestVirtAddr(0xff8), &mut back)
        .unwrap();
    assert_eq!(back, bytes);
    assert!(
        target
            .write_virtual(space, GuestVirtAddr(0x3000), &bytes)
            .is_err()
    );
}

#[test]
fn a_large_read_asks_for_registers_and_for_each_table_once() {
    let (domain, target) = target();
    scattered_pages(&domain, 1024);
    {
        let mut registers = domain.registers.lock().unwrap();
        registers[0].cr0 |= cr0::PG;
        registers[0].cr4 |= cr4::PAE;
        registers[0].efer |= efer::LMA;
        registers[0].cr3 = ROOT;
    }
    let mut bytes = vec![0; 4 << 20];
    let space = AddressSpace::Vcpu(VcpuId(0));
    assert_eq!(
        target.read_virtual(space, GuestVirtAddr(0), &mut bytes),
        Ok(4 << 20)
    );
    assert!((0..1024).all(|page| bytes[page << 12] == page as u8));
    assert_eq!(domain.register_reads.load(Ordering::Relaxed), 1);
    // The pages; four levels down to the first one, and the rest of its table; the next PDE, its first entry, the rest.
    assert_eq!(domain.memory_reads.load(Ordering::Relaxed), 1024 + 4 + 1 + 3);
}

#[test]
fn adjacent_pages_in_adjacent_frames_are_read_at_once() {
    let (domain, target) = target();
    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, T2 | PWU);
    domain.put64(T2, T3 | PWU);
    // Frames 0x100, 0x101, 0x102, then 0x110.
    for (page, frame) in [0x100u64, 0x101, 0x102, 0x110].into_iter().enumerate() {
        domain.put64(T3 + page as u64 * 8, frame << 12 | P);
        domain.map(frame << 12, &[page as u8; 4096]);
    }
    let mut bytes = vec![0xee; 0x4000];
    let before = domain.memory_reads.load(Ordering::Relaxed);
    let space = space(PagingMode::Level4);
    assert_eq!(
        target.read_virtual(space, GuestVirtAddr(0x10), &mut bytes),
        Ok(0x3ff0)
    );
    assert!((0..4).all(|page| bytes[(page << 12) + 0xfef] == page as u8));
    assert_eq!(&bytes[0x3ff0..], [0xee; 0x10]);
    // Four levels to the first page, the other entries, two pieces.
    assert_eq!(domain.memory_reads.load(Ordering::Relaxed) - before, 4 + 1 + 2);
}

#[test]
fn a_visit_sees_what_a_read_gives_and_ends_when_it_has_enough() {
    let (domain, target) = target();
    scattered_pages(&domain, 3);
    let space = space(PagingMode::Level4);
    let mut seen = Vec::new();
    let visited = target.visit_virtual(space, GuestVirtAddr(0xff0), 0x4000, &mut |bytes| {
        seen.extend_from_slice(bytes);
        ControlFlow::Continue(())
    });
    let mut read = vec![0; 0x2010];
    assert_eq!(
        target.read_virtual(space, GuestVirtAddr(0xff0), &mut read),
        Ok(0x2010)
    );
    assert_eq!(visited, Ok(0x2010));
    assert!(seen == read);

    let mut pieces = 0;
    let visited = target.visit_virtual(space, GuestVirtAddr(0xff0), 0x4000, &mut |_| {
        pieces += 1;
        ControlFlow::Break(())
    });
    assert_eq!((visited, pieces), (Ok(0x10), 1));
    let nowhere = target.visit_virtual(
        space,
        GuestVirtAddr(0x3000),
        1,
        &mut |_| ControlFlow::Continue(()),
    );
    assert_eq!(
        nowhere.unwrap_err().to_string(),
        "cannot read 1 byte at 0x3000 (page tables at 0x1000): PTE not present"
    );
}

#[test]
fn a_region_is_what_is_mapped_alike() {
    let (domain, target) = target();
    let region = |address: u64| {
        let found = target
            .region(space(PagingMode::Level4), GuestVirtAddr(address))
            .unwrap();
        let rights = found.rights.map(|r| (r.writable, r.executable, r.user));
        (found.start.0, found.last.0, rights)
    };
    domain.put64(ROOT, T1 | PWU);
    domain.put64(T1, T2 | PWU);
    domain.put64(T2, T3 | PWU);
    domain.put64(T2 + 8, PWU | PS); // 2 MiB
    domain.put64(T3 + 8, DATA | PWU);
    domain.put64(T3 + 16, DATA | PWU);
    domain.put64(T3 + 24, DATA | P);
    let (all, code) = (Some((true, true, true)), Some((false, true, false)));
    assert_eq!(region(0x1fff), (0x1000, 0x2fff, all));
    assert_eq!(
        region(0x2000),
        (0x2000, 0x2fff, all),
        "what is below isn't looked at"
    );
    assert_eq!(region(0x3000), (0x3000, 0x3fff, code));
    assert_eq!(region(0x4000), (0x4000, 0x1f_ffff, None));
    assert_eq!(region(0x20_0000), (0x20_0000, 0x3f_ffff, all));
    // What isn't mapped and what isn't canonical are one hole.
    assert_eq!(region(0x40_0000), (0x40_0000, u64::MAX, None));
    assert_eq!(region(0x8000_0000_0000).0, 0x8000_0000_0000);
    let beyond = target
        .region(space(PagingMode::Pae), GuestVirtAddr(1 << 40))
        .unwrap();
    assert_eq!((beyond.start.0, beyond.last.0), (1 << 32, u64::MAX));
}
