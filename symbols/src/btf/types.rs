//! Types, their parts, and the place of a member in a structure.

use super::{Btf, TypeId};
use std::borrow::Cow;

/// Types between a typedef or qualifier and what it means.
const MAX_CHAIN: usize = 64;
/// Members that are looked at for one name; unnamed ones in unnamed ones could be any number.
const MAX_MEMBERS: usize = 1 << 18;
/// Unnamed members inside unnamed members.
const MAX_NESTING: usize = 16;
/// Bytes of every type before what belongs to its kind.
const COMMON: usize = 12;

/// What a type is (`BTF_KIND_…`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Int,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Forward,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Function,
    Prototype,
    Variable,
    Section,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    fn of(info: u32) -> Option<Kind> {
        Some(match info >> 24 & 0x1f {
            1 => Kind::Int,
            2 => Kind::Pointer,
            3 => Kind::Array,
            4 => Kind::Struct,
            5 => Kind::Union,
            6 => Kind::Enum,
            7 => Kind::Forward,
            8 => Kind::Typedef,
            9 => Kind::Volatile,
            10 => Kind::Const,
            11 => Kind::Restrict,
            12 => Kind::Function,
            13 => Kind::Prototype,
            14 => Kind::Variable,
            15 => Kind::Section,
            16 => Kind::Float,
            17 => Kind::DeclTag,
            18 => Kind::TypeTag,
            19 => Kind::Enum64,
            _ => return None,
        })
    }

    /// Bytes behind the common ones: for the type, and for each of its parts.
    fn extra(self) -> (usize, usize) {
        match self {
            Kind::Int | Kind::Variable | Kind::DeclTag => (4, 0),
            Kind::Array => (12, 0),
            Kind::Struct | Kind::Union | Kind::Section | Kind::Enum64 => (0, 12),
            Kind::Enum | Kind::Prototype => (0, 8),
            _ => (0, 0),
        }
    }
}

/// Bytes of the type at an offset.
pub(super) fn size(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    let info = u32_at(bytes, at + 4).ok_or("it is cut off")?;
    let kind = Kind::of(info).ok_or("its kind isn't known")?;
    let (own, each) = kind.extra();
    let size = COMMON + own + each * (info & 0xffff) as usize;
    if at + size <= bytes.len() {
        Ok(size)
    } else {
        Err("it is cut off")
    }
}

/// A type.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    btf: &'a Btf,
    id: TypeId,
    kind: Kind,
    /// How many parts, and the flag (bit 31).
    info: u32,
    name: u32,
    size_or_type: u32,
    /// Where what belongs to its kind is.
    extra: usize,
}

/// A part of a type as it is written: a member, a value of an enumeration, a parameter, a variable of a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Where its name is in the strings.
    pub(crate) name_offset: u32,
    /// The words behind the name, or all three of a section's variable.
    pub words: [u32; 2],
}

/// A function's parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter<'a> {
    /// Its name; empty in many prototypes.
    pub name: Cow<'a, str>,
    /// Its type.
    pub of: TypeId,
}

/// A function's prototype.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function<'a> {
    /// What it returns.
    pub returns: TypeId,
    /// What it takes; a last one of type `void` stands for `...`.
    pub parameters: Vec<Parameter<'a>>,
}

impl<'a> Type<'a> {
    pub(super) fn read(btf: &'a Btf, id: TypeId, at: usize) -> Option<Type<'a>> {
        let info = u32_at(&btf.bytes, at + 4)?;
        Some(Type {
            btf,
            id,
            kind: Kind::of(info)?,
            info,
            name: u32_at(&btf.bytes, at)?,
            size_or_type: u32_at(&btf.bytes, at + 8)?,
            extra: at + COMMON,
        })
    }

    /// Its id.
    pub fn id(&self) -> TypeId {
        self.id
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The flag of its kind: bit fields in a structure, signed values in an enumeration, a union declared forward.
    pub fn flag(&self) -> bool {
        self.info >> 31 != 0
    }

    /// Its name, without `struct`; empty where it has none.
    pub fn name(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.name_bytes())
    }

    pub(crate) fn name_bytes(&self) -> &'a [u8] {
        self.btf.string(self.name)
    }

    /// Where its name is in the strings.
    pub(crate) fn name_offset(&self) -> u32 {
        self.name
    }

    /// The word that is a size in bytes for some kinds, and a type for others.
    pub(crate) fn size_or_type(&self) -> u32 {
        self.size_or_type
    }

    /// The type that a pointer, a typedef, a qualifier, a function or a variable refers to.
    pub fn target(&self) -> Option<TypeId> {
        match self.kind {
            Kind::Pointer
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Function
            | Kind::Prototype
            | Kind::Variable
            | Kind::DeclTag
            | Kind::TypeTag => Some(TypeId(self.size_or_type)),
            _ => None,
        }
    }

    /// What stands behind typedefs and qualifiers.
    pub fn resolved(&self) -> Option<Type<'a>> {
        let mut at = *self;
        for _ in 0..MAX_CHAIN {
            match at.kind {
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    at = self.btf.get(TypeId(at.size_or_type))?;
                }
                _ => return Some(at),
            }
        }
        None
    }

    /// Bytes of a value of this type.
    pub fn size(&self) -> Option<u64> {
        let mut count = 1_u64;
        let mut at = *self;
        for _ in 0..MAX_CHAIN {
            at = at.resolved()?;
            match at.kind {
                Kind::Pointer => return count.checked_mul(8),
                Kind::Array => {
                    let (element, length) = at.array()?;
                    count = count.checked_mul(u64::from(length))?;
                    at = self.btf.get(element)?;
                }
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                    return count.checked_mul(u64::from(at.size_or_type));
                }
                _ => return None,
            }
        }
        None
    }

    /// An array's element and length.
    pub fn array(&self) -> Option<(TypeId, u32)> {
        if self.kind != Kind::Array {
            return None;
        }
        Some((TypeId(self.word(0)?), self.word(2)?))
    }

    /// An integer's encoding word: bits in 7:0, offset in 23:16, signed 24, char 25, bool 26.
    pub fn encoding(&self) -> Option<u32> {
        (self.kind == Kind::Int).then(|| self.word(0))?
    }

    /// Its parts: members, values, parameters, variables.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item<'a>> + use<'a> {
        let (_, each) = self.kind.extra();
        let count = if each == 0 {
            0
        } else {
            (self.info & 0xffff) as usize
        };
        let (btf, start) = (self.btf, self.extra);
        (0..count).map(move |number| {
            let word = |n: usize| u32_at(&btf.bytes, start + number * each + 4 * n).unwrap_or(0);
            Item {
                name: btf.string(word(0)),
                name_offset: word(0),
                words: [word(1), if each == 12 { word(2) } else { 0 }],
            }
        })
    }

    /// As a structure or union.
    pub fn structure(&self) -> Option<Structure<'a>> {
        matches!(self.kind, Kind::Struct | Kind::Union).then_some(Structure {
            btf: self.btf,
            of: *self,
        })
    }

    /// A function's or a prototype's parameters and result.
    pub fn function(&self) -> Option<Function<'a>> {
        let prototype = match self.kind {
            Kind::Function => self.btf.get(TypeId(self.size_or_type))?,
            _ => *self,
        };
        (prototype.kind == Kind::Prototype).then(|| Function {
            returns: TypeId(prototype.size_or_type),
            parameters: prototype
                .items()
                .map(|item| Parameter {
                    name: String::from_utf8_lossy(item.name),
                    of: TypeId(item.words[0]),
                })
                .collect(),
        })
    }

    fn word(&self, number: usize) -> Option<u32> {
        u32_at(&self.btf.bytes, self.extra + 4 * number)
    }
}

/// A structure or union.
#[derive(Clone, Copy, Debug)]
pub struct Structure<'a> {
    btf: &'a Btf,
    of: Type<'a>,
}

/// A member, placed in the structure that it was asked of.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Bits from the start of the structure.
    pub bit_offset: u64,
    /// Bits of a bit field.
    pub bits: Option<u32>,
    /// Its type.
    pub of: TypeId,
    btf: &'a Btf,
}

impl<'a> Structure<'a> {
    /// Its type.
    pub fn as_type(&self) -> Type<'a> {
        self.of
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.of.size_or_type)
    }

    /// Its own members, unnamed ones too.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let (btf, fields) = (self.btf, self.of.flag());
        self.of.items().map(move |item| {
            let [of, offset] = item.words;
            let (bits, offset) = if fields {
                (offset >> 24, offset & 0xff_ffff)
            } else {
                (0, offset)
            };
            Member {
                name: item.name,
                bit_offset: u64::from(offset),
                bits: (bits != 0).then_some(bits),
                of: TypeId(of),
                btf,
            }
        })
    }

    /// A member by its path, `thread.sp`: through members that have no name, and through structures.
    pub fn member(&self, path: &str) -> Option<Member<'a>> {
        let mut names = path.split('.');
        let mut left = MAX_MEMBERS;
        let mut found = self.named(names.next()?, MAX_NESTING, &mut left)?;
        for name in names {
            let inner = found.structure()?.named(name, MAX_NESTING, &mut left)?;
            found = Member {
                bit_offset: found.bit_offset + inner.bit_offset,
                ..inner
            };
        }
        Some(found)
    }

    /// A member's offset in bytes.
    pub fn offset(&self, path: &str) -> Option<u64> {
        self.member(path).map(|member| member.offset())
    }

    fn named(&self, name: &str, nesting: usize, left: &mut usize) -> Option<Member<'a>> {
        *left = left.checked_sub(self.of.items().len())?;
        if let Some(found) = self.members().find(|member| member.name == name.as_bytes()) {
            return Some(found);
        }
        let nesting = nesting.checked_sub(1)?;
        for unnamed in self.members().filter(|member| member.name.is_empty()) {
            let Some(inside) = unnamed.structure() else {
                continue;
            };
            if let Some(inner) = inside.named(name, nesting, left) {
                return Some(Member {
                    bit_offset: unnamed.bit_offset + inner.bit_offset,
                    ..inner
                });
            }
        }
        None
    }
}

impl<'a> Member<'a> {
    /// Bytes from the start of the structure, rounded down for a bit field.
    pub fn offset(&self) -> u64 {
        self.bit_offset / 8
    }

    /// Its type, behind typedefs and qualifiers.
    pub fn resolved(&self) -> Option<Type<'a>> {
        self.btf.get(self.of)?.resolved()
    }

    /// Bytes of its value.
    pub fn size(&self) -> Option<u64> {
        self.btf.get(self.of)?.size()
    }

    /// The structure that it is, or that it is an array of.
    pub fn structure(&self) -> Option<Structure<'a>> {
        let mut at = self.resolved()?;
        for _ in 0..MAX_CHAIN {
            match at.array() {
                Some((element, _)) => at = self.btf.get(element)?.resolved()?,
                None => break,
            }
        }
        at.structure()
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(4)?)?;
    part.try_into().ok().map(u32::from_le_bytes)
}
