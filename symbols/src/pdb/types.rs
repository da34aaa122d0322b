//! Type layouts of a PDB file.

use super::{Field, File_, PdbError, Structure};
use pdb::{FallibleIterator, Item, TypeData, TypeFinder, TypeIndex};
use std::collections::HashMap;

/// The kind of a list of arguments (cvinfo.h).
const LF_ARGLIST: u16 = 0x1201;
/// The most pieces of one structure's field list.
const MAX_PIECES: usize = 1024;
/// How deep a type's name goes: pointers to arrays to …
const MAX_DEPTH: u32 = 8;
/// The longest type name, in bytes.
const MAX_TYPE_NAME: usize = 256;
/// The most bytes of type names of one file.
const MAX_TYPE_NAMES: usize = 64 << 20;

/// All named structures, classes and unions that are defined.
pub(super) fn structures(file: &mut File_<'_>) -> Result<HashMap<String, Structure>, PdbError> {
    let information = file.type_information()?;
    let mut finder = information.finder();
    let mut found = Vec::new();
    let mut types = information.iter();
    while let Some(item) = types.next()? {
        finder.update(&types);
        let (name, fields, size) = match parse(&item) {
            Ok(TypeData::Class(it)) if !it.properties.forward_reference() => (it.name, it.fields, it.size),
            Ok(TypeData::Union(it)) if !it.properties.forward_reference() => {
                (it.name, Some(it.fields), it.size)
            }
            _ => continue,
        };
        let name = name.to_string();
        if !name.starts_with('<') {
            found.push((name.into_owned(), fields, size));
        }
    }
    let mut reader = Reader {
        finder,
        budget: MAX_TYPE_NAMES,
    };
    let mut structures = HashMap::new();
    for (name, list, size) in found {
        structures.entry(name).or_insert_with(|| Structure {
            size,
            fields: list.map_or_else(Vec::new, |list| reader.fields(list)),
        });
    }
    Ok(structures)
}

/// Parses what has a name or fields. For a list of arguments the `pdb` crate takes as much memory as the list claims to
/// need, and that can be all there is.
fn parse<'t>(item: &Item<'t, TypeIndex>) -> pdb::Result<TypeData<'t>> {
    match item.raw_kind() {
        LF_ARGLIST => Err(pdb::Error::UnimplementedTypeKind(LF_ARGLIST)),
        _ => item.parse(),
    }
}

struct Reader<'t> {
    finder: TypeFinder<'t>,
    budget: usize,
}

impl Reader<'_> {
    fn fields(&mut self, list: TypeIndex) -> Vec<Field> {
        let mut fields = Vec::new();
        let mut next = Some(list);
        for _ in 0..MAX_PIECES {
            let Some(piece) = next.take() else { break };
            let Ok(TypeData::FieldList(piece)) = self.finder.find(piece).and_then(|item| parse(&item)) else {
                break;
            };
            for member in &piece.fields {
                if let TypeData::Member(member) = member {
                    let mut type_name = self.type_name(member.field_type, MAX_DEPTH);
                    if type_name.len() > self.budget {
                        type_name.clear();
                    }
                    self.budget -= type_name.len();
                    fields.push(Field {
                        name: member.name.to_string().into_owned(),
                        offset: member.offset,
                        type_name,
                    });
                }
            }
            next = piece.continuation;
        }
        fields
    }

    /// A type as C writes it, roughly.
    fn type_name(&self, index: TypeIndex, depth: u32) -> String {
        let item = self.finder.find(index);
        let Some(depth) = depth.checked_sub(1) else {
            return "…".to_owned();
        };
        let inner = |index| self.type_name(index, depth);
        let mut name = match item.and_then(|item| parse(&item)) {
            Ok(TypeData::Primitive(it)) => {
                let pointer = if it.indirection.is_some() { "*" } else { "" };
                format!("{}{pointer}", primitive(it.kind))
            }
            Ok(TypeData::Class(it)) => it.name.to_string().into_owned(),
            Ok(TypeData::Union(it)) => it.name.to_string().into_owned(),
            Ok(TypeData::Enumeration(it)) => it.name.to_string().into_owned(),
            Ok(TypeData::Pointer(it)) => format!("{}*", inner(it.underlying_type)),
            Ok(TypeData::Modifier(it)) => inner(it.underlying_type),
            Ok(TypeData::Bitfield(it)) => format!("{} : {}", inner(it.underlying_type), it.length),
            Ok(TypeData::Array(it)) => {
                let bytes = it.dimensions.last().copied().unwrap_or_default();
                format!("{}[{bytes} bytes]", inner(it.element_type))
            }
            Ok(TypeData::Procedure(_)) => "function".to_owned(),
            _ => "?".to_owned(),
        };
        let cut = (0..=MAX_TYPE_NAME).rev().find(|&at| name.is_char_boundary(at));
        name.truncate(cut.unwrap_or_default());
        name
    }
}

fn primitive(kind: pdb::PrimitiveKind) -> &'static str {
    use pdb::PrimitiveKind as K;
    match kind {
        K::Void => "void",
        K::Char | K::RChar => "char",
        K::UChar => "unsigned char",
        K::WChar => "wchar_t",
        K::I8 => "int8",
        K::U8 => "uint8",
        K::Short | K::I16 => "int16",
        K::UShort | K::U16 => "uint16",
        K::Long | K::I32 => "int32",
        K::ULong | K::U32 => "uint32",
        K::Quad | K::I64 => "int64",
        K::UQuad | K::U64 => "uint64",
        K::Bool8 | K::Bool16 | K::Bool32 | K::Bool64 => "bool",
        K::F32 => "float",
        K::F64 => "double",
        _ => "?",
    }
}
