//! Object files: the sections they bring and the names they export (Microsoft's PE Format, "COFF File Header").

use crate::bytes::{index, slice, text, u16_at, u32_at};

const IMAGE_SCN_MEM_EXECUTE: u32 = 0x2000_0000;
const IMAGE_SCN_MEM_WRITE: u32 = 0x8000_0000;
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
