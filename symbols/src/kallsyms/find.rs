//! Finding the tables by what they must look like.
//!
//! The table of tokens is the anchor: digits always stand for themselves, and the index that follows it says the lengths
//! of all 256 strings once more. The markers lie before it, and lead to the names, which hit every marker; the addresses
//! are before the names (until 6.3) or behind the index, and rise.

use super::decode::{self, Addresses, element_size, u16_at, u32_at, u64_at};
use super::{Addressing, Kallsyms, KallsymsError, MAX_SYMBOLS, Tables};
use memchr::memmem;
use std::cell::Cell;
use std::ops::Range;

/// The tokens of codes 0x30 to 0x39.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// Bytes in the longest token.
pub(super) const MAX_TOKEN: usize = 128;
/// Hits of the digits that are looked into.
const MAX_HITS: usize = 64;
/// Bytes between the table of tokens and its index.
const MAX_GAP: usize = 64;
/// Names between markers.
const STRIDE: u32 = 256;
/// Fewer markers prove nothing.
const MIN_MARKERS: usize = 8;
/// Bytes of 256 entries of the table of names.
const CHUNK: Range<u64> = 512..65536;
/// Starts of a run of markers that are looked into, for one table of tokens.
const MAX_RUNS: usize = 64;
/// Of a thousand symbols, those that may lie before the one before them.
const FALLING_PER_MILLE: usize = 1;
/// Elements and entries that are looked at in all. A kernel's tables take a million; a guest could make them fit each
/// other in millions of ways that fail at the end.
const MAX_WORK: u64 = 64 << 20;

/// What is left of [`MAX_WORK`].
struct Budget(Cell<u64>);

impl Budget {
    fn spend(&self, work: u64) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(work));
        left >= work
    }
}

pub(super) fn find(
    image: &[u8],
    base: Option<u64>,
    accept: &dyn Fn(&Kallsyms) -> bool,
) -> Result<Kallsyms, KallsymsError> {
    let mut closest = KallsymsError::NoTokens(image.len());
    let budget = Budget(Cell::new(MAX_WORK));
    for hit in memmem::find_iter(image, DIGITS).take(MAX_HITS) {
        let Some((token_table, token_index)) = tokens(image, hit) else {
            continue;
        };
        if matches!(closest, KallsymsError::NoTokens(_)) {
            closest = KallsymsError::NoNames;
        }
        for names in names(image, token_table, &budget) {
            closest = KallsymsError::NoAddresses(names.count);
            for tables in addresses(image, &names, token_table, token_index) {
                let work = u64::from(names.count);
                if !budget.spend(work) || !rises(image, base, &tables) || !budget.spend(work * 8) {
                    continue;
                }
                match decode::decode(image, base, &tables) {
                    Ok(symbols) if accept(&symbols) => return Ok(symbols),
                    Ok(_) => {}
                    Err(error) => closest = error,
                }
            }
        }
    }
    Err(closest)
}

/// The starts of the token table and its index, if the digits at `hit` are tokens of one.
fn tokens(image: &[u8], hit: usize) -> Option<(usize, usize)> {
    // Back over codes 0x2f to 1. Where token 0 starts is for the index to say.
    let mut first = hit;
    for _ in 1..0x30 {
        let end = first.checked_sub(1)?;
        let window = end.saturating_sub(MAX_TOKEN + 1);
        if image[end] != 0 {
            return None;
        }
        first = window + memchr::memrchr(0, &image[window..end])? + 1;
    }
    let mut starts = [0; 256];
    let mut at = first;
    for start in starts.iter_mut().skip(1) {
        *start = at - first;
        let rest = &image[at..image.len().min(at + MAX_TOKEN + 1)];
        at += memchr::memchr(0, rest)? + 1;
    }
    let index = (at..at + MAX_GAP).find(|&index| {
        let entry = |code: usize| u16_at(image, index + 2 * code).map(usize::from);
        let Some(length) = entry(1).filter(|&length| (1..=MAX_TOKEN + 1).contains(&length)) else {
            return false;
        };
        entry(0) == Some(0) && (1..256).all(|code| entry(code) == Some(length + starts[code]))
    })?;
    let table = first.checked_sub(usize::from(u16_at(image, index + 2)?))?;
    Some((table, index))
}

/// A table of names, and what is before it.
#[derive(Clone, Copy)]
struct Names {
    count: u32,
    /// Where the count is.
    count_at: usize,
    start: usize,
}

/// The tables of names whose markers lie before the table of tokens.
fn names<'a>(image: &'a [u8], token_table: usize, budget: &'a Budget) -> impl Iterator<Item = Names> + 'a {
    // Between markers and tokens may be the numbers of the symbols sorted by name, 3 bytes each (6.2, 6.3, 6.1.y).
    let from = token_table.saturating_sub(MAX_SYMBOLS as usize * 4);
    let runs = (from.next_multiple_of(4)..token_table)
        .step_by(4)
        .rev()
        .take_while(|_| budget.spend(1))
        .filter_map(move |at| {
            // Nearly every place fails here.
            let second = image.get(at..at + 8)?;
            if second[..4] != [0; 4] {
                return None;
            }
            [Width::Four, Width::Eight]
                .into_iter()
                .find_map(|width| Markers::at(image, at, width, token_table))
        })
        .take(MAX_RUNS);
    runs.filter_map(move |markers| markers.names(image, budget))
}

/// Bytes of a marker: 8 before 4.20.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Four,
    Eight,
}

/// A run of markers.
struct Markers {
    at: usize,
    width: Width,
    /// Elements that rise; the last ones may be what follows.
    length: usize,
}

impl Markers {
    fn at(image: &[u8], at: usize, width: Width, end: usize) -> Option<Markers> {
        let mut markers = Markers { at, width, length: 1 };
        let step = if width == Width::Four { 4 } else { 8 };
        let limit = ((end - at) / step).min((MAX_SYMBOLS / STRIDE) as usize);
        let mut last = markers.get(image, 0)?;
        while markers.length < limit {
            let next = markers.get(image, markers.length)?;
            if !next.checked_sub(last).is_some_and(|size| CHUNK.contains(&size)) {
                break;
            }
            last = next;
            markers.length += 1;
        }
        (markers.length >= MIN_MARKERS).then_some(markers)
    }

    fn get(&self, image: &[u8], number: usize) -> Option<u64> {
        match self.width {
            Width::Four => u32_at(image, self.at + number * 4).map(u64::from),
            Width::Eight => u64_at(image, self.at + number * 8),
        }
    }

    /// The table of names that ends before these markers and hits them all.
    fn names(&self, image: &[u8], budget: &Budget) -> Option<Names> {
        // What follows the markers may look like one more of them.
        (0..2).find_map(|more| {
            let length = self.length - more;
            let last = usize::try_from(self.get(image, length - 1)?).ok()?;
            let end = self.at.checked_sub(last)?;
            let counts = (length as u32 - 1) * STRIDE + 1..=length as u32 * STRIDE;
            (end.saturating_sub(CHUNK.end as usize + 8)..end)
                .rev()
                .filter(|start| start.is_multiple_of(4))
                .find_map(|start| {
                    let fits = |count: u32| counts.contains(&count) && count <= MAX_SYMBOLS;
                    // Aligned to 8, with zeros between (or a count of 8 bytes before 4.20); to 4 from 7.0 on.
                    let count_at =
                        [start.checked_sub(8)?, start.checked_sub(4)?]
                            .into_iter()
                            .find(|&at| {
                                u32_at(image, at).is_some_and(fits)
                                    && image[at + 4..start].iter().all(|&byte| byte == 0)
                            })?;
                    let count = u32_at(image, count_at)?;
                    self.hits(image, start, count, budget).then_some(Names {
                        count,
                        count_at,
                        start,
                    })
                })
        })
    }

    fn hits(&self, image: &[u8], start: usize, count: u32, budget: &Budget) -> bool {
        let mut at = start;
        for number in 0..count {
            if number % STRIDE == 0
                && (!budget.spend(u64::from(STRIDE))
                    || self.get(image, (number / STRIDE) as usize) != Some((at - start) as u64))
            {
                return false;
            }
            match decode::entry(image, at) {
                Some((_, next)) if next <= self.at => at = next,
                _ => return false,
            }
        }
        self.at - at < 8
    }
}

/// The places where the addresses of these names can be, and the forms that they can have.
fn addresses(
    image: &[u8],
    names: &Names,
    token_table: usize,
    token_index: usize,
) -> impl Iterator<Item = Tables> {
    use Addressing::{Absolute, BaseRelative, PercpuAbsolute, PlaceRelative};
    let size = |addressing| names.count as usize * element_size(addressing);
    let offsets = size(PercpuAbsolute).next_multiple_of(8);
    let behind = token_index + 512;
    let places = [
        // The offsets, the base, the count, the names.
        (names.count_at.checked_sub(8 + offsets), PercpuAbsolute),
        (names.count_at.checked_sub(8 + offsets), BaseRelative),
        (names.count_at.checked_sub(size(Absolute)), Absolute),
        // The index, the offsets, the base.
        (Some(behind.next_multiple_of(8)), PercpuAbsolute),
        (Some(behind.next_multiple_of(8)), BaseRelative),
        (Some(behind.next_multiple_of(4)), PlaceRelative),
        (Some(behind.next_multiple_of(8)), Absolute),
    ];
    let (count, start, end) = (names.count, names.start, image.len());
    places.into_iter().filter_map(move |(place, addressing)| {
        Some(Tables {
            count,
            names: start,
            token_table,
            token_index,
            addresses: place.filter(|&place| place < end)?,
            addressing,
        })
    })
}

/// Whether these would be the addresses of a kernel's symbols: they are sorted, and most lie in the kernel's half.
fn rises(image: &[u8], base: Option<u64>, tables: &Tables) -> bool {
    let Some(addresses) = Addresses::new(image, base, tables) else {
        return false;
    };
    let count = tables.count as usize;
    let (mut falling, mut kernels, mut last) = (0, 0, 0);
    for number in 0..count {
        let Some(address) = addresses.get(number) else {
            return false;
        };
        falling += usize::from(address < last);
        kernels += usize::from(address >> 31 == KERNEL_IMAGE >> 31);
        if falling * 1000 > count * FALLING_PER_MILLE {
            return false;
        }
        last = address;
    }
    kernels * 2 > count
}

/// `__START_KERNEL_map` (arch/x86/include/asm/page_64_types.h): the kernel image and the modules are above it.
const KERNEL_IMAGE: u64 = 0xffff_ffff_8000_0000;
