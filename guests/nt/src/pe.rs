//! Images as the linker leaves them: read, and finished with what the linker can't do (Microsoft's PE Format).

use crate::bytes::{index, put, slice, text, u16_at, u32_at};
use crate::place::Plan;

const IMAGE_SCN_CNT_UNINITIALIZED_DATA: u32 = 0x80;
const IMAGE_SCN_MEM_DISCARDABLE: u32 = 0x0200_0000;
const IMAGE_DEBUG_TYPE_CODEVIEW: u32 = 2;
const DIRECTORY_DEBUG: usize = 6;

/// Where the headers of an image are.
struct Headers {
    /// Offset of the signature.
    nt: usize,
    /// Offset of the data directories.
    directories: usize,
    /// Offset and number of the section headers.
    sections: (usize, usize),
}

/// A section of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub name: String,
    pub rva: u32,
    pub size: u32,
    raw_size: u32,
    raw_offset: u32,
}

fn headers(image: &[u8]) -> Option<Headers> {
    let nt = index(u32_at(image, 0x3c)?);
    (slice(image, nt, 4)? == b"PE\0\0").then_some(())?;
    let optional = nt.checked_add(24)?;
    let optional_size = usize::from(u16_at(image, nt.checked_add(20)?)?);
    let wide = u16_at(image, optional)? == 0x20b;
    Some(Headers {
        nt,
        directories: optional + if wide { 112 } else { 96 },
        sections: (optional + optional_size, usize::from(u16_at(image, nt + 6)?)),
    })
}

/// The sections of an image, in its order.
pub(crate) fn sections(image: &[u8]) -> Option<Vec<Section>> {
    let (start, count) = headers(image)?.sections;
    (0..count)
        .map(|number| {
            let header = slice(image, start + number * 40, 40)?;
            Some(Section {
                name: text(header.get(..8)?),
                size: u32_at(header, 8)?,
                rva: u32_at(header, 12)?,
                raw_size: u32_at(header, 16)?,
                raw_offset: u32_at(header, 20)?,
            })
        })
        .collect()
}

fn file_offset(image: &[u8], rva: u32) -> Option<usize> {
    let sections = sections(image)?;
    let section = sections
        .iter()
        .find(|section| rva >= section.rva && rva - section.rva < section.raw_size)?;
    Some(index(section.raw_offset) + index(rva - section.rva))
}

/// Offset in the file of the RSDS record.
fn rsds(image: &[u8]) -> Option<usize> {
    let directory = headers(image)?.directories + DIRECTORY_DEBUG * 8;
    let entry = file_offset(image, u32_at(image, directory)?)?;
    (u32_at(image, entry + 12)? == IMAGE_DEBUG_TYPE_CODEVIEW).then_some(())?;
    let record = index(u32_at(image, entry + 24)?);
    (slice(image, record, 4)? == b"RSDS").then_some(record)
}

/// GUID in bytes and age of the RSDS record.
pub(crate) fn identity(image: &[u8]) -> Option<([u8; 16], u32)> {
    let record = rsds(image)?;
    Some((
        slice(image, record + 4, 16)?.try_into().ok()?,
        u32_at(image, record + 20)?,
    ))
}

/// What is written into an image after linking.
pub(crate) struct Finish<'a> {
    /// The sections' own names and which are pads, where they were linked by number.
    pub plan: Option<&'a Plan>,
    /// GUID and age of the PDB, where they aren't the linker's choice.
    pub identity: Option<([u8; 16], u32)>,
    /// Version of Windows: major and minor.
    pub version: (u16, u16),
}

/// Finishes an image. `None` if it isn't one.
pub(crate) fn finish(image: &mut [u8], with: &Finish) -> Option<()> {
    let found = headers(image)?;
    if let Some((guid, age)) = with.identity {
        let record = rsds(image)?;
        put(image, record + 4, &guid)?;
        put(image, record + 20, &age.to_le_bytes())?;
    }
    let (start, count) = found.sections;
    for number in 0..count {
        let at = start + number * 40;
        section_header(image.get_mut(at..at + 40)?, with.plan)?;
    }
    // Versions of the operating system, the image and the subsystem.
    for field in [40, 44, 48] {
        put(image, found.nt + 24 + field, &with.version.0.to_le_bytes())?;
        put(image, found.nt + 24 + field + 2, &with.version.1.to_le_bytes())?;
    }
    let at = found.nt + 24 + 64;
    put(image, at, &[0; 4])?;
    let sum = checksum(image);
    put(image, at, &sum.to_le_bytes())
}

/// Gives a section header the name that it has in the image. The PDB keeps a copy of the headers.
pub(crate) fn section_header(header: &mut [u8], plan: Option<&Plan>) -> Option<()> {
    let name = text(header.get(..8)?);
    let sections = plan.map(|plan| plan.sections.as_slice()).unwrap_or_default();
    if let Some(section) = sections.iter().find(|section| section.link_name == name) {
        let mut new = [0; 8];
        put(&mut new, 0, section.name.as_bytes())?;
        put(header, 0, &new)?;
        if section.is_pad() {
            let flags = IMAGE_SCN_CNT_UNINITIALIZED_DATA | IMAGE_SCN_MEM_DISCARDABLE;
            put(header, 36, &flags.to_le_bytes())?;
        }
    }
    Some(())
}

/// The checksum of a PE file: the sum of its 16-bit words with the carry added, and its length.
fn checksum(image: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in image.chunks(2) {
        let word = pair
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
        sum += word;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum.wrapping_add(u32::try_from(image.len()).unwrap_or(0))
}
