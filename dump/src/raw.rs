//! Raw memory: the bytes as they are, with nothing that says so.

use crate::image::{Absent, Description, Format, Image, Problem};
use crate::pages::{PAGE_SIZE, Page, PageRange, Pfn};
use crate::spans::{Span, Spans};
use crate::{Error, FileBytes, Result};
use hv_core::GuestPhysAddr;
use hv_core::regs::Registers;

/// Addresses below 4 GiB at which a machine has devices and not RAM. A file that leaves them out goes on behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// The first address without RAM.
    pub start: GuestPhysAddr,
    /// Where RAM goes on: 4 GiB on PCs.
    pub end: GuestPhysAddr,
}

impl Hole {
    /// QEMU's `pc`: 3 GiB of RAM below the hole.
    pub const PC: Hole = Hole {
        start: GuestPhysAddr(0xc000_0000),
        end: GuestPhysAddr(1 << 32),
    };
    /// QEMU's `q35`: 2 GiB of RAM below the hole.
    pub const Q35: Hole = Hole {
        start: GuestPhysAddr(0x8000_0000),
        end: GuestPhysAddr(1 << 32),
    };
}

/// A raw file that was opened. It has no processors.
pub struct RawImage {
    bytes: FileBytes,
    description: Description,
    spans: Spans,
}

/// Opens a file as raw memory. Nothing in it tells whether its writer left out the hole below 4 GiB: without `hole` each
/// byte is at the address that is its place, as in those of QEMU's `pmemsave`.
///
/// # Errors
/// [`Error::Unknown`] for a file that isn't whole pages, [`Error::Damaged`] for a hole that isn't one or a file too long.
pub fn open(bytes: FileBytes, hole: Option<Hole>) -> Result<RawImage> {
    let length = bytes.len();
    if length == 0 || !length.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Error::Unknown(format!(
            "{length} bytes are no whole pages of raw memory"
        )));
    }
    let whole = |address: GuestPhysAddr| address.0.is_multiple_of(PAGE_SIZE as u64);
    if hole.is_some_and(|hole| hole.end < hole.start || !whole(hole.start) || !whole(hole.end)) {
        return Err(Error::damaged(
            0,
            "the hole isn't whole pages from its start to its end",
        ));
    }
    let low = hole.map_or(length, |hole| hole.start.0.min(length));
    let mut spans = vec![Span {
        start: 0,
        end: low,
        offset: 0,
    }];
    if let Some(hole) = hole.filter(|_| low < length) {
        let end = hole.end.0.checked_add(length - low).filter(|&end| end <= 1 << 52);
        spans.push(Span {
            start: hole.end.0,
            end: end.ok_or_else(|| Error::damaged(low, "the memory behind the hole has no addresses"))?,
            offset: low,
        });
    } else if length > 1 << 52 {
        return Err(Error::damaged(1 << 52, "more memory than addresses"));
    }
    let mut description = Description::new(Format::Raw);
    description.pages = length / PAGE_SIZE as u64;
    description.problems.push(Problem {
        what: "no processor's registers, and nothing that tells which system it is".into(),
        readers: vec!["crash", "drgn", "gdb", "makedumpfile"],
    });
    if hole.is_none() && length > Hole::Q35.start.0 {
        description.problems.push(Problem {
            what: "memory beyond 2 GiB is right only if the file has the hole for devices below 4 GiB".into(),
            readers: Vec::new(),
        });
    }
    Ok(RawImage {
        bytes,
        description,
        spans: Spans::new(spans),
    })
}

impl Image for RawImage {
    fn description(&self) -> &Description {
        &self.description
    }

    fn ram(&self) -> &[PageRange] {
        self.spans.ram()
    }

    fn read_page(&self, pfn: Pfn, page: &mut Page) -> std::result::Result<(), Absent> {
        self.spans.read_page(&self.bytes, pfn, page)
    }

    fn processors(&self) -> &[Registers] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::file_of;

    fn pages(numbers: &[u8]) -> FileBytes {
        let bytes: Vec<u8> = numbers.iter().flat_map(|&n| [n; PAGE_SIZE]).collect();
        file_of(&bytes)
    }

    #[test]
    fn each_byte_is_at_its_place() {
        let image = open(pages(&[1, 2, 3]), None).unwrap();
        let mut page = [0; PAGE_SIZE];
        image.read_page(Pfn(2), &mut page).unwrap();
        assert_eq!((page[0], page[4095], image.description().pages), (3, 3, 3));
        assert!(matches!(
            image.read_page(Pfn(3), &mut page),
            Err(Absent::NoMemory)
        ));
    }

    #[test]
    fn behind_a_hole_memory_goes_on() {
        let hole = Hole {
            start: GuestPhysAddr(0x2000),
            end: GuestPhysAddr(0x8000),
        };
        let image = open(pages(&[1, 2, 3]), Some(hole)).unwrap();
        let mut page = [0; PAGE_SIZE];
        image.read_page(Pfn(8), &mut page).unwrap();
        assert_eq!(page[0], 3);
        assert!(matches!(
            image.read_page(Pfn(2), &mut page),
            Err(Absent::NoMemory)
        ));
        // A small machine doesn't reach it.
        assert_eq!(open(pages(&[1]), Some(hole)).unwrap().ram().len(), 1);
    }

    #[test]
    fn what_isnt_pages_is_no_memory() {
        assert!(matches!(open(file_of(&[0; 100]), None), Err(Error::Unknown(_))));
        assert!(matches!(open(file_of(&[]), None), Err(Error::Unknown(_))));
        let hole = Hole {
            start: GuestPhysAddr(0x2000),
            end: GuestPhysAddr(0x1000),
        };
        assert!(open(pages(&[1]), Some(hole)).is_err());
    }
}
