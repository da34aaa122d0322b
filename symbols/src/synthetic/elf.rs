//! The ELF file around the sections (System V ABI, chapters 4 and 5; x86-64).

use super::out::Out;
use super::{MAX_FILE, SyntheticError};

pub(super) const SHT_PROGBITS: u32 = 1;
pub(super) const SHT_SYMTAB: u32 = 2;
pub(super) const SHT_STRTAB: u32 = 3;
pub(super) const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
pub(super) const SHF_WRITE: u64 = 1;
const SHF_ALLOC: u64 = 2;
pub(super) const SHF_EXECINSTR: u64 = 4;
const SHF_STRINGS: u64 = 0x20;

const ET_REL: u16 = 1;
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// What the addresses of a file mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What they are.
    Executable,
    /// Sections begin at 0; debuggers are told where they are.
    Relocatable,
}

/// A part of the image, in memory only: debuggers read it from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) name: &'static str,
    pub(super) range: std::ops::Range<u64>,
    /// SHF_WRITE or SHF_EXECINSTR.
    pub(super) flags: u64,
}

/// A section with contents, and not in memory.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) kind: u32,
    pub(super) contents: Out,
    /// For a symbol table: the number of its first global symbol.
    pub(super) first_global: u32,
}

impl Section {
    pub(super) fn new(name: &'static str, kind: u32, contents: Out) -> Section {
        Section {
            name,
            kind,
            contents,
            first_global: 0,
        }
    }

    fn entry_size(&self) -> u64 {
        match self.kind {
            SHT_SYMTAB => 24,
            _ => 0,
        }
    }
}

/// Puts a file together. Areas are sections 1 and up; a symbol table must have its strings behind it.
pub(super) fn file(form: Form, areas: &[Area], sections: Vec<Section>) -> Result<Out, SyntheticError> {
    let total: usize = sections.iter().map(|it| it.contents.len() + 16).sum();
    if total > MAX_FILE {
        return Err(SyntheticError::TooLarge(total as u64));
    }
    let mut names = Out::default();
    names.u8(0);
    let mut name = |text: &str| {
        let at = names.len() as u32;
        names.string(text.as_bytes());
        at
    };
    let area_names: Vec<u32> = areas.iter().map(|area| name(area.name)).collect();
    let section_names: Vec<u32> = sections.iter().map(|it| name(it.name)).collect();
    let own_name = name(".shstrtab");

    let count = 1 + areas.len() + sections.len() + 1;
    let loaded = if form == Form::Executable { areas } else { &[] };
    let first = HEADER + PROGRAM_HEADER * loaded.len();
    let mut at = first;
    let mut places = Vec::new();
    for section in &sections {
        at = at.next_multiple_of(8);
        places.push(at);
        at += section.contents.len();
    }
    let names_at = at;
    let headers_at = (names_at + names.len()).next_multiple_of(8);

    let mut out = Out::default();
    out.bytes.reserve(headers_at + SECTION_HEADER * count);
    out.bytes
        .extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.u16(match form {
        Form::Executable => ET_EXEC,
        Form::Relocatable => ET_REL,
    });
    out.u16(EM_X86_64);
    out.u32(1);
    out.u64(0); // No entry: nothing starts here.
    out.u64(if loaded.is_empty() { 0 } else { HEADER as u64 });
    out.u64(headers_at as u64);
    out.u32(0);
    let program_headers = loaded.len() as u16;
    for half in [
        HEADER as u16,
        PROGRAM_HEADER as u16,
        program_headers,
        SECTION_HEADER as u16,
    ] {
        out.u16(half);
    }
    out.u16(count as u16);
    out.u16(count as u16 - 1);

    for area in loaded {
        out.u32(PT_LOAD);
        let write = (area.flags & SHF_WRITE != 0) as u32;
        let execute = (area.flags & SHF_EXECINSTR != 0) as u32;
        out.u32(4 | write << 1 | execute);
        out.u64(first as u64);
        out.moving(area.range.start);
        out.moving(area.range.start);
        out.u64(0);
        out.u64(area.range.end - area.range.start);
        out.u64(0x1000);
    }
    for (section, place) in sections.iter().zip(&places) {
        out.bytes.resize(*place, 0);
        let moving = &section.contents.moving;
        out.moving.extend(moving.iter().map(|at| at + *place as u32));
        out.bytes.extend_from_slice(&section.contents.bytes);
    }
    out.bytes.extend_from_slice(&names.bytes);
    out.bytes.resize(headers_at + SECTION_HEADER, 0); // The null section.

    for (area, name) in areas.iter().zip(area_names) {
        out.u32(name);
        out.u32(SHT_NOBITS);
        out.u64(SHF_ALLOC | area.flags);
        match form {
            Form::Executable => out.moving(area.range.start),
            Form::Relocatable => out.u64(0),
        }
        out.u64(first as u64);
        out.u64(area.range.end - area.range.start);
        out.u64(0);
        out.u64(1);
        out.u64(0);
    }
    for (number, (section, name)) in sections.iter().zip(section_names).enumerate() {
        let strings = matches!(section.name, ".debug_str");
        let index = 1 + areas.len() + number;
        out.u32(name);
        out.u32(section.kind);
        out.u64(if strings { SHF_STRINGS } else { 0 });
        out.u64(0);
        out.u64(places[number] as u64);
        out.u64(section.contents.len() as u64);
        let linked = section.kind == SHT_SYMTAB;
        out.u32(if linked { index as u32 + 1 } else { 0 });
        out.u32(section.first_global);
        out.u64(if linked { 8 } else { 1 });
        out.u64(section.entry_size());
    }
    out.u32(own_name);
    out.u32(SHT_STRTAB);
    out.u64(0);
    out.u64(0);
    out.u64(names_at as u64);
    out.u64(names.len() as u64);
    out.u64(0);
    out.u64(1);
    out.u64(0);
    Ok(out)
}

/// `.note.gnu.build-id`.
pub(super) fn build_id_note(id: &[u8]) -> Out {
    let mut out = Out::default();
    out.u32(4);
    out.u32(id.len() as u32);
    out.u32(3); // NT_GNU_BUILD_ID
    out.bytes.extend_from_slice(b"GNU\0");
    out.bytes.extend_from_slice(id);
    out.bytes.resize(out.len().next_multiple_of(4), 0);
    out
}
