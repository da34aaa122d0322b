//! For tests: memory without a guest, files that are damaged at random, and what every reader must bear.

use crate::output::{Sink, Stream};
use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::{Absent, FileBytes, Image};
use hv_core::GuestPhysAddr;
use hv_core::introspect::{Error, MemoryRegion, ReadMemory, Result};
use hv_core::regs::{Registers, cr0, cr4, efer, seg};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;

/// RAM of which some pages aren't zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeMemory {
    pub(crate) ram: Vec<PageRange>,
    /// The page's bytes are made of its seed.
    pub(crate) seeds: BTreeMap<u64, u64>,
}

impl FakeMemory {
    /// Ranges in rising order with gaps, of which about half of the pages hold something.
    pub(crate) fn any() -> impl Strategy<Value = FakeMemory> {
        let ranges = prop::collection::vec((1..40_u64, 1..40_u64), 1..6);
        (ranges, any::<u64>()).prop_map(|(ranges, seed)| {
            let mut memory = FakeMemory::default();
            let mut next = seed % 3;
            for (count, gap) in ranges {
                memory.ram.push(PageRange {
                    first: Pfn(next),
                    count,
                });
                for pfn in next..next + count {
                    let page = seed.wrapping_mul(pfn + 1).rotate_left(13);
                    if page % 2 == 0 {
                        memory.seeds.insert(pfn, page | 1);
                    }
                }
                next += count + gap;
            }
            memory
        })
    }

    pub(crate) fn page(&self, pfn: Pfn) -> Page {
        let mut page = [0; PAGE_SIZE];
        let Some(&seed) = self.seeds.get(&pfn.0) else {
            return page;
        };
        let mut state = seed;
        // Half of each page repeats, so that it can be compressed, unless the seed says otherwise.
        let random = if seed % 8 == 1 { PAGE_SIZE } else { PAGE_SIZE / 2 };
        for byte in &mut page[..random] {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        page[random..].fill(seed as u8);
        page
    }
}

impl ReadMemory for FakeMemory {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let wanted = buffer.len();
        for (n, chunk) in buffer.chunks_mut(PAGE_SIZE).enumerate() {
            let pfn = Pfn(address.0 / PAGE_SIZE as u64 + n as u64);
            if !self.ram.iter().any(|range| range.contains(pfn)) {
                return Err(Error::NoMemory {
                    domain: hv_core::DomId(1),
                    address,
                    done: n * PAGE_SIZE,
                    wanted,
                });
            }
            chunk.copy_from_slice(&self.page(pfn)[..chunk.len()]);
        }
        Ok(())
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        let region = |range: &PageRange| MemoryRegion {
            start: range.first.address(),
            length: range.count * PAGE_SIZE as u64,
            writable: true,
        };
        self.ram.iter().map(region).collect()
    }
}

/// A processor in the kernel, in long mode.
pub(crate) fn in_long_mode(n: u64) -> Registers {
    let mut cpu = Registers::at_reset(true);
    cpu.gpr = std::array::from_fn(|register| n << 32 | register as u64);
    (cpu.rip, cpu.rflags) = (0xffff_ffff_8100_0000 + n, 0x246);
    (cpu.cr0, cpu.cr2, cpu.cr3) = (cr0::PE | cr0::PG | cr0::WP, n, 0x1000 * (n + 1));
    cpu.cr4 = cr4::PAE;
    cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    cpu.segments[seg::CS].selector = 0x10;
    cpu.segments[seg::CS].attributes = 0xa09b;
    cpu.segments[seg::GS].base = 0xffff_8880_0000_0000 + n;
    cpu
}

/// A sink that is a buffer and can be rewritten.
#[derive(Default)]
pub(crate) struct Buffer(pub(crate) Vec<u8>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink for Buffer {
    fn zeros(&mut self, length: u64) -> std::io::Result<()> {
        Stream(&mut self.0).zeros(length)
    }

    fn rewrite(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn can_rewrite(&self) -> bool {
        true
    }
}

/// Bytes as a file.
pub(crate) fn file_of(bytes: &[u8]) -> FileBytes {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    FileBytes::open(file.path()).unwrap()
}

/// That an image has exactly the memory, page by page.
pub(crate) fn assert_same_memory(image: &dyn Image, memory: &FakeMemory) {
    let expected = PageRange::normalise(memory.ram.clone());
    assert_eq!(image.ram(), expected);
    let mut page = [1; PAGE_SIZE];
    for range in &expected {
        for pfn in (range.first.0..range.end().0).map(Pfn) {
            image.read_page(pfn, &mut page).unwrap();
            assert!(page == memory.page(pfn), "page {pfn}");
        }
        let after = range.end();
        assert!(
            matches!(image.read_page(after, &mut page), Err(Absent::NoMemory)),
            "page {after}"
        );
    }
}

/// Files that are cut or have bits or whole words changed, each opened and read: nothing may panic or take for ever.
/// Most changes hit the first `head` bytes, where the tables are.
pub(crate) fn damage<I: Image>(whole: &[u8], head: usize, open: impl Fn(FileBytes) -> crate::Result<I>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let (mut opened, mut refused) = (0, 0);
    for round in 0..3000 {
        let mut bytes = whole.to_vec();
        let area = if round % 4 == 0 {
            bytes.len()
        } else {
            head.min(bytes.len())
        };
        match round % 3 {
            0 => bytes.truncate(random(area)),
            1 => {
                for _ in 0..1 + random(4) {
                    bytes[random(area)] ^= 1 << random(8);
                }
            }
            _ => {
                let at = random(area.saturating_sub(8));
                let value = [0, u64::MAX, 1 << 63, whole.len() as u64, 1 << 40, 0xffff_ffff][random(6)];
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        match open(file_of(&bytes)) {
            Ok(image) => {
                opened += 1;
                exercise(&image);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        opened > 100 && refused > 100,
        "{opened} opened, {refused} refused"
    );
}

fn exercise(image: &dyn Image) {
    let mut page = [0; PAGE_SIZE];
    for range in image.ram().iter().take(32) {
        assert!(
            range
                .first
                .0
                .checked_add(range.count)
                .is_some_and(|end| end <= 1 << 52)
        );
        let last = range.end().0 - 1;
        for pfn in [
            range.first.0,
            range.first.0 + 1,
            range.first.0 + range.count / 2,
            last,
            last + 1,
        ] {
            // An error is an answer.
            let _ = image.read_page(Pfn(pfn), &mut page);
        }
    }
    let _ = image.read_page(Pfn(u64::MAX), &mut page);
    assert!(image.processors().len() <= 4096 && image.description().fields.len() < 100);
}
