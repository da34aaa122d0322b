//! Names out of tokens, addresses out of offsets.

use super::{Addressing, Entry, Kallsyms, KallsymsError, MAX_NAME, MAX_NAMES, Tables};
use std::sync::OnceLock;

/// What each of the 256 codes stands for.
pub(super) struct Tokens<'a> {
    tokens: Vec<&'a [u8]>,
}

impl<'a> Tokens<'a> {
    /// The strings of the table, by their offsets.
    pub(super) fn read(image: &'a [u8], tables: &Tables) -> Option<Tokens<'a>> {
        let tokens = (0..256)
            .map(|code| {
                let offset = usize::from(u16_at(image, tables.token_index + 2 * code)?);
                let rest = image.get(tables.token_table.checked_add(offset)?..)?;
                let end = rest
                    .iter()
                    .take(super::find::MAX_TOKEN + 1)
                    .position(|&byte| byte == 0)?;
                Some(&rest[..end])
            })
            .collect::<Option<_>>()?;
        Some(Tokens { tokens })
    }
}

/// An entry of the table of names: where its codes are, and where the next entry is. The length has one byte or, since
/// 6.1, two (ULEB128); no entry of older kernels has 128 codes.
pub(super) fn entry(image: &[u8], at: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let low = usize::from(*image.get(at)?);
    let (start, length) = if low & 0x80 == 0 {
        (at + 1, low)
    } else {
        (at + 2, (low & 0x7f) | usize::from(*image.get(at + 1)?) << 7)
    };
    let end = start + length;
    (length > 0 && end <= image.len()).then_some((start..end, end))
}

/// Decodes everything.
pub(super) fn decode(image: &[u8], base: Option<u64>, tables: &Tables) -> Result<Kallsyms, KallsymsError> {
    let tokens = Tokens::read(image, tables).ok_or(KallsymsError::Broken("a token has no end"))?;
    let addresses = Addresses::new(image, base, tables).ok_or(KallsymsError::NoAddresses(tables.count))?;
    let mut text = Vec::with_capacity(tables.count as usize * 16);
    let mut entries = Vec::with_capacity(tables.count as usize);
    let mut at = tables.names;
    for number in 0..tables.count {
        let (codes, next) = entry(image, at).ok_or(KallsymsError::Broken("an entry has no end"))?;
        let start = text.len();
        for &code in &image[codes] {
            text.extend_from_slice(tokens.tokens[usize::from(code)]);
        }
        let length = text.len() - start;
        if length == 0 || length > MAX_NAME || text.len() > MAX_NAMES {
            return Err(KallsymsError::Broken("a name is too long or empty"));
        }
        entries.push(Entry {
            address: addresses
                .get(number as usize)
                .ok_or(KallsymsError::NoAddresses(tables.count))?,
            // The letter of its type comes first.
            kind: text[start],
            name: (start + 1) as u32,
            length: (length - 1) as u16,
        });
        at = next;
    }
    let mut by_address: Vec<u32> = (0..tables.count).collect();
    let rising = entries.windows(2).all(|pair| pair[0].address <= pair[1].address);
    if !rising {
        by_address.sort_by_key(|&number| entries[number as usize].address);
    }
    Ok(Kallsyms {
        text,
        entries,
        by_address,
        by_name: OnceLock::new(),
        tables: *tables,
    })
}

/// The table of addresses.
pub(super) struct Addresses<'a> {
    elements: &'a [u8],
    addressing: Addressing,
    /// The base of offsets, or the address of the first element.
    base: u64,
}

impl<'a> Addresses<'a> {
    pub(super) fn new(image: &'a [u8], base: Option<u64>, tables: &Tables) -> Option<Addresses<'a>> {
        let size = element_size(tables.addressing);
        let bytes = tables.count as usize * size;
        let elements = image.get(tables.addresses..tables.addresses.checked_add(bytes)?)?;
        let base = match tables.addressing {
            Addressing::Absolute => 0,
            Addressing::PlaceRelative => base?.wrapping_add(tables.addresses as u64),
            Addressing::PercpuAbsolute | Addressing::BaseRelative => {
                u64_at(image, (tables.addresses + bytes).next_multiple_of(8))?
            }
        };
        Some(Addresses {
            elements,
            addressing: tables.addressing,
            base,
        })
    }

    pub(super) fn get(&self, number: usize) -> Option<u64> {
        if self.addressing == Addressing::Absolute {
            return u64_at(self.elements, number * 8);
        }
        let offset = u32_at(self.elements, number * 4)?;
        let signed = i64::from(offset as i32);
        Some(match self.addressing {
            Addressing::PercpuAbsolute if signed >= 0 => u64::from(offset),
            Addressing::PercpuAbsolute => self.base.wrapping_add((-1 - signed) as u64),
            Addressing::PlaceRelative => self
                .base
                .wrapping_add(number as u64 * 4)
                .wrapping_add(signed as u64),
            _ => self.base.wrapping_add(u64::from(offset)),
        })
    }
}

/// Bytes in an element of the table of addresses.
pub(super) fn element_size(addressing: Addressing) -> usize {
    match addressing {
        Addressing::Absolute => 8,
        _ => 4,
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let part = bytes.get(at..at.checked_add(2)?)?;
    part.try_into().ok().map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(4)?)?;
    part.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(8)?)?;
    part.try_into().ok().map(u64::from_le_bytes)
}
