//! Object files: the sections they bring and the names they export, read and renamed (Microsoft's PE Format, "COFF File Header").

use crate::bytes::{index, put, slice, text, u16_at, u32_at};

const IMAGE_SCN_MEM_EXECUTE: u32 = 0x2000_0000;
const IMAGE_SCN_MEM_WRITE: u32 = 0x8000_0000;
const IMAGE_SCN_ALIGN_MASK: u32 = 0xf0_0000;
const IMAGE_SCN_ALIGN_1BYTES: u32 = 0x10_0000;
const IMAGE_SYM_CLASS_EXTERNAL: u8 = 2;
const IMAGE_SCN_LNK_INFO: u32 = 0x200;
const IMAGE_SCN_LNK_REMOVE: u32 = 0x800;

/// One section of an object.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub name: String,
    pub size: u32,
    pub align: u32,
    pub execute: bool,
    pub write: bool,
    /// Whether it becomes part of the image.
    pub linked: bool,
}

/// What an object brings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub sections: Vec<Section>,
    /// Exports asked for in the source: `name` or `name,DATA`.
    pub exports: Vec<String>,
}

/// Reads an object; `None` if it isn't one.
pub(crate) fn read(bytes: &[u8]) -> Option<Object> {
    let count = usize::from(u16_at(bytes, 2)?);
    let strings = index(u32_at(bytes, 8)?).checked_add(index(u32_at(bytes, 12)?).checked_mul(18)?)?;
    let table = 20 + usize::from(u16_at(bytes, 16)?);
    let mut object = Object::default();
    for number in 0..count {
        let header = slice(bytes, table + number * 40, 40)?;
        let name = text(header.get(..8)?);
        let name = match name.strip_prefix('/').and_then(|at| at.parse::<usize>().ok()) {
            Some(at) => text(bytes.get(strings.checked_add(at)?..)?),
            None => name,
        };
        let (size, start, flags) = (u32_at(header, 16)?, u32_at(header, 20)?, u32_at(header, 36)?);
        if name == ".drectve" {
            exports(
                &text(slice(bytes, index(start), index(size))?),
                &mut object.exports,
            );
        }
        object.sections.push(Section {
            linked: flags & (IMAGE_SCN_LNK_INFO | IMAGE_SCN_LNK_REMOVE) == 0 && !name.starts_with(".debug"),
            name,
            size,
            align: 1 << ((flags >> 20) & 15).saturating_sub(1),
            execute: flags & IMAGE_SCN_MEM_EXECUTE != 0,
            write: flags & IMAGE_SCN_MEM_WRITE != 0,
        });
    }
    Some(object)
}

/// Changes a section's name, and its rights with it: its contents may lie at any address then. `None` if it isn't there.
pub(crate) fn rename_section(bytes: &mut Vec<u8>, from: &str, to: &str, write: bool) -> Option<()> {
    let number = read(bytes)?
        .sections
        .iter()
        .position(|section| section.name == from)?;
    let header = 20 + usize::from(u16_at(bytes, 16)?) + number * 40;
    let name = format!("/{}", add_string(bytes, to)?);
    let mut field = [0; 8];
    field.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    put(bytes, header, &field)?;
    let mut flags = u32_at(bytes, header + 36)? & !IMAGE_SCN_ALIGN_MASK | IMAGE_SCN_ALIGN_1BYTES;
    if write {
        flags |= IMAGE_SCN_MEM_WRITE;
    }
    put(bytes, header + 36, &flags.to_le_bytes())
}

/// Changes the name of a symbol that the object defines. `None` if it defines none of that name.
pub(crate) fn rename_symbol(bytes: &mut Vec<u8>, from: &str, to: &str) -> Option<()> {
    let (start, count) = (index(u32_at(bytes, 8)?), index(u32_at(bytes, 12)?));
    let strings = start.checked_add(count.checked_mul(18)?)?;
    let mut number = 0;
    while number < count {
        let at = start + number * 18;
        let record = slice(bytes, at, 18)?;
        let name = match u32_at(record, 0)? {
            0 => text(bytes.get(strings.checked_add(index(u32_at(record, 4)?))?..)?),
            _ => text(record.get(..8)?),
        };
        let (section, class) = (u16_at(record, 12)?, *record.get(16)?);
        if name == from && class == IMAGE_SYM_CLASS_EXTERNAL && section != 0 {
            let place = add_string(bytes, to)?;
            put(bytes, at, &0u32.to_le_bytes())?;
            return put(bytes, at + 4, &place.to_le_bytes());
        }
        number += 1 + usize::from(*record.get(17)?);
    }
    None
}

/// Adds a string to the table at the object's end; returns its offset there.
fn add_string(bytes: &mut Vec<u8>, string: &str) -> Option<u32> {
    let start = index(u32_at(bytes, 8)?).checked_add(index(u32_at(bytes, 12)?).checked_mul(18)?)?;
    let length = u32_at(bytes, start)?;
    bytes.truncate(start.checked_add(index(length))?);
    bytes.extend_from_slice(string.as_bytes());
    bytes.push(0);
    let new = u32::try_from(bytes.len() - start).ok()?;
    put(bytes, start, &new.to_le_bytes())?;
    Some(length)
}

fn exports(directives: &str, names: &mut Vec<String>) {
    for word in directives.split_whitespace() {
        let word = word.trim_matches('"');
        if let Some(head) = word.get(..8)
            && head.eq_ignore_ascii_case("/export:")
        {
            names.push(word.get(8..).unwrap_or_default().replace('"', ""));
        }
    }
}
