//! `.debug_info` of BTF: types, functions and variables (DWARF 4, which both gdb 13 and lldb 14 read whole).
//!
//! A type is one entry; names are where they are in BTF, whose strings are `.debug_str`. What a guest says that no compiler
//! would (types in circles, members outside of their structure) is left out, see [`super::graph`].

use super::abbrev::{Abbreviations, has, tag};
use super::elf::{SHT_PROGBITS, Section};
use super::globals::{GLOBALS, LOG, Shape};
use super::out::{Out, printable};
use super::symtab::Symbols;
use super::{SyntheticError, graph};
use crate::btf::{Btf, Kind, Type, TypeId};
use std::collections::{HashMap, HashSet};

/// Bytes of `.debug_info`. Distributions' kernels have 4 MB.
const MAX_INFO: usize = 128 << 20;
/// Parameters of a function; C promises 127.
const MAX_PARAMETERS: usize = 255;
/// Bytes of a variable whose end only the next symbol tells: what gdb shows at most (`max-value-size`).
const MAX_ARRAY: u64 = 1 << 16;
/// Type tags in a row.
const MAX_CHAIN: usize = 64;
const DW_LANG_C99: u8 = 0x0c;
const DW_OP_ADDR: u8 = 0x03;

/// Writes `.debug_info` and what belongs to it.
pub(super) fn sections(symbols: &Symbols<'_>, btf: &Btf) -> Result<Vec<Section>, SyntheticError> {
    let mut strings = Out::default();
    let text = btf.strings().iter();
    strings.bytes.extend(text.map(|&byte| match byte {
        0 => 0,
        _ => printable(byte),
    }));
    strings.u8(0);
    let mut info = Info {
        btf,
        symbols,
        broken: graph::broken(btf),
        out: Out::default(),
        abbreviations: Abbreviations::new(),
        entries: vec![0; btf.len() + 1],
        references: Vec::new(),
        variables: HashSet::new(),
    };
    info.kernel_unit()?;
    info.log_unit();
    let aranges = aranges(symbols);
    let abbreviations = info.abbreviations.section();
    let section = |name, out| Section::new(name, SHT_PROGBITS, out);
    Ok(vec![
        section(".debug_info", info.out),
        section(".debug_abbrev", abbreviations),
        section(".debug_str", strings),
        section(".debug_aranges", aranges),
    ])
}

struct Info<'a> {
    btf: &'a Btf,
    symbols: &'a Symbols<'a>,
    /// Types whose own references are left out.
    broken: Vec<bool>,
    out: Out,
    abbreviations: Abbreviations,
    /// Where each type's entry is; 0 for those without one.
    entries: Vec<u32>,
    /// Where types' numbers stand in place of their entries' offsets.
    references: Vec<usize>,
    /// Variables that there are.
    variables: HashSet<&'a [u8]>,
}

impl<'a> Info<'a> {
    fn kernel_unit(&mut self) -> Result<(), SyntheticError> {
        let begin = self.unit();
        let image = self.symbols.image.clone();
        self.entry(
            tag::COMPILE_UNIT,
            has::PRODUCER | has::LANGUAGE | has::TEXT | has::RANGE | has::CHILDREN,
        );
        self.out.string(b"kdd, of the kernel's own kallsyms and BTF");
        self.out.u8(DW_LANG_C99);
        self.out.string(b"vmlinux");
        self.out.moving(image.start);
        self.out
            .u32((image.end - image.start).min(u64::from(u32::MAX)) as u32);

        let signed = self.btf.iter().all(|it| it.kind() != Kind::Enum || !it.flag());
        for of in self.btf.iter() {
            if self.out.len() > MAX_INFO {
                return Err(SyntheticError::TooLarge(self.out.len() as u64));
            }
            self.entries[of.id().0 as usize] = self.out.len() as u32;
            if !self.of_type(of, signed) {
                self.entries[of.id().0 as usize] = 0;
            }
        }
        self.functions();
        for of in self.btf.iter().filter(|it| it.kind() == Kind::Variable) {
            if let Some(symbol) = self.symbols.only(of.name_bytes())
                && let Some(target) = of.target().and_then(|it| self.target(it))
                && self.variables.insert(symbol.name)
            {
                self.variable(symbol.name, symbol.address, Some(target), None);
            }
        }
        self.globals();
        self.out.u8(0);
        self.end_unit(begin);
        for at in &self.references {
            let number = self.out.bytes.get(*at..at + 4).map(|it| {
                let bytes = it.try_into().unwrap_or_default();
                u32::from_le_bytes(bytes) as usize
            });
            let entry = number.and_then(|number| self.entries.get(number));
            self.out.set_u32(*at, entry.copied().unwrap_or(0));
        }
        Ok(())
    }

    /// The log's ring, in the file where the kernel's scripts look for it.
    fn log_unit(&mut self) {
        let (file, name, of) = LOG;
        let symbol = self.symbols.only(name.as_bytes());
        let target = self.btf.structure(of).map(|it| it.as_type().id());
        let (Some(symbol), Some(target)) = (symbol, target) else {
            return;
        };
        let Some(&entry) = self.entries.get(target.0 as usize).filter(|&&at| at != 0) else {
            return;
        };
        let begin = self.unit();
        let attributes = has::PRODUCER | has::LANGUAGE | has::TEXT | has::CHILDREN;
        self.entry(tag::COMPILE_UNIT, attributes);
        self.out.string(b"kdd, of the kernel's own kallsyms and BTF");
        self.out.u8(DW_LANG_C99);
        self.out.string(file.as_bytes());
        let pointer = (self.out.len() - begin) as u32;
        self.entry(tag::POINTER, has::FAR_TYPE | has::BYTE_SIZE);
        self.out.u32(entry);
        self.out.uleb(8);
        self.entry(tag::VARIABLE, has::TEXT | has::TYPE | has::LOCATION);
        self.out.string(name.as_bytes());
        self.out.u32(pointer);
        self.location(symbol.address);
        self.out.u8(0);
        self.end_unit(begin);
    }

    /// The header of a unit (7.5.1.1); where it begins.
    fn unit(&mut self) -> usize {
        let begin = self.out.len();
        self.out.u32(0);
        self.out.u16(4);
        self.out.u32(0);
        self.out.u8(8);
        begin
    }

    fn end_unit(&mut self, begin: usize) {
        let length = self.out.len() - begin - 4;
        self.out.set_u32(begin, length as u32);
    }

    fn entry(&mut self, tag: u16, attributes: u32) {
        let code = self.abbreviations.code(tag, attributes);
        self.out.uleb(code);
    }

    /// What a reference leads to: nothing for `void` and for what can't be followed.
    fn target(&self, mut id: TypeId) -> Option<TypeId> {
        for _ in 0..MAX_CHAIN {
            let of = self.btf.get(id)?;
            match of.kind() {
                Kind::TypeTag if !self.broken(of) => id = of.target()?,
                Kind::TypeTag | Kind::Function | Kind::Variable | Kind::Section | Kind::DeclTag => {
                    return None;
                }
                _ => return Some(id),
            }
        }
        None
    }

    fn broken(&self, of: Type<'_>) -> bool {
        self.broken.get(of.id().0 as usize).copied().unwrap_or(true)
    }

    /// Its name's place, if it has one.
    fn name(&self, offset: u32) -> Option<u32> {
        let first = self.btf.strings().get(offset as usize)?;
        (*first != 0).then_some(offset)
    }

    /// An entry with a name and a type, each if there is one, and what `more` writes: it is told the bits before which its
    /// values come in order.
    fn named(&mut self, tag: u16, attributes: u32, name: u32, target: Option<TypeId>) {
        let name = self.name(name);
        let with_name = name.map_or(0, |_| has::NAME);
        let with_type = target.map_or(0, |_| has::TYPE);
        self.entry(tag, attributes | with_name | with_type);
        if attributes & has::SIBLING != 0 {
            self.out.u32(0);
        }
        if let Some(name) = name {
            self.out.u32(name);
        }
        if let Some(target) = target {
            self.reference(target);
        }
    }

    fn reference(&mut self, target: TypeId) {
        self.references.push(self.out.len());
        self.out.u32(target.0);
    }

    /// Ends the children of an entry that began here with its code and sibling.
    fn end_children(&mut self, begin: usize) {
        self.out.u8(0);
        let sibling = self.out.len() as u32;
        let code = self.out.bytes[begin..]
            .iter()
            .take_while(|byte| **byte & 0x80 != 0);
        let at = begin + code.count() + 1;
        self.out.set_u32(at, sibling);
    }

    /// The entry of a type; whether there is one.
    fn of_type(&mut self, of: Type<'_>, signed: bool) -> bool {
        let broken = self.broken(of);
        let target = of
            .target()
            .filter(|_| !broken)
            .and_then(|target| self.target(target));
        let size = u64::from(of.size_or_type());
        let name = of.name_offset();
        let begin = self.out.len();
        match of.kind() {
            Kind::Int | Kind::Float => {
                self.named(tag::BASE, has::ENCODING | has::BYTE_SIZE, name, None);
                self.out.u8(encoding(of));
                self.out.uleb(size);
            }
            Kind::Pointer => {
                self.named(tag::POINTER, has::BYTE_SIZE, 0, target);
                self.out.uleb(8);
            }
            Kind::Typedef => self.named(tag::TYPEDEF, 0, name, target),
            Kind::Const => self.named(tag::CONST, 0, 0, target),
            Kind::Volatile => self.named(tag::VOLATILE, 0, 0, target),
            Kind::Restrict => self.named(tag::RESTRICT, 0, 0, target),
            Kind::Forward => {
                let tag = if of.flag() { tag::UNION } else { tag::STRUCTURE };
                self.named(tag, has::DECLARATION, name, None);
            }
            Kind::Array => {
                let (element, count) = of.array().unwrap_or((TypeId(0), 0));
                let target = Some(element)
                    .filter(|_| !broken)
                    .and_then(|element| self.target(element));
                self.array(target, u64::from(count));
            }
            Kind::Struct | Kind::Union => {
                let tag = match of.kind() {
                    Kind::Union => tag::UNION,
                    _ => tag::STRUCTURE,
                };
                if broken {
                    self.named(tag, has::DECLARATION, name, None);
                } else {
                    self.named(tag, has::SIBLING | has::BYTE_SIZE | has::CHILDREN, name, None);
                    self.out.uleb(size);
                    self.members(of, size);
                    self.end_children(begin);
                }
            }
            Kind::Enum | Kind::Enum64 => {
                self.named(
                    tag::ENUMERATION,
                    has::SIBLING | has::BYTE_SIZE | has::CHILDREN,
                    name,
                    None,
                );
                self.out.uleb(size);
                self.values(of, signed);
                self.end_children(begin);
            }
            Kind::Prototype => {
                let attributes = has::SIBLING | has::PROTOTYPED | has::CHILDREN;
                self.named(tag::SUBROUTINE, attributes, 0, target);
                if !broken {
                    self.parameters(of, false);
                }
                self.end_children(begin);
            }
            Kind::Function | Kind::Variable | Kind::Section | Kind::DeclTag | Kind::TypeTag => return false,
        }
        true
    }

    fn array(&mut self, target: Option<TypeId>, count: u64) {
        self.named(tag::ARRAY, has::CHILDREN, 0, target);
        self.entry(tag::SUBRANGE, has::COUNT);
        self.out.uleb(count);
        self.out.u8(0);
    }

    fn members(&mut self, of: Type<'_>, size: u64) {
        let Some(structure) = of.structure() else { return };
        for (member, item) in structure.members().zip(of.items()) {
            let Some(target) = self.target(member.of) else {
                continue;
            };
            let bits = match member.bits {
                Some(bits) => Some(u64::from(bits)),
                None => member.size().and_then(|size| size.checked_mul(8)),
            };
            let end = bits.and_then(|bits| member.bit_offset.checked_add(bits));
            if end.is_none_or(|end| end > size * 8) {
                continue;
            }
            match member.bits {
                Some(bits) => {
                    let attributes = has::BIT_SIZE | has::BIT_OFFSET;
                    self.named(tag::MEMBER, attributes, item.name_offset, Some(target));
                    self.out.uleb(u64::from(bits));
                    self.out.uleb(member.bit_offset);
                }
                None => {
                    self.named(tag::MEMBER, has::OFFSET, item.name_offset, Some(target));
                    self.out.uleb(member.offset());
                }
            }
        }
    }

    fn values(&mut self, of: Type<'_>, all_signed: bool) {
        let signed = of.flag() || all_signed && of.kind() == Kind::Enum;
        for item in of.items() {
            let [low, high] = item.words;
            let value = match of.kind() {
                Kind::Enum64 => u64::from(high) << 32 | u64::from(low),
                _ if signed => i64::from(low as i32) as u64,
                _ => u64::from(low),
            };
            let attribute = if signed { has::SIGNED_VALUE } else { has::VALUE };
            self.named(tag::ENUMERATOR, attribute, item.name_offset, None);
            match signed {
                true => self.out.sleb(value as i64),
                false => self.out.uleb(value),
            }
        }
    }

    fn parameters(&mut self, prototype: Type<'_>, names: bool) {
        let count = prototype.items().len();
        for (number, item) in prototype.items().enumerate().take(MAX_PARAMETERS) {
            let [of, _] = item.words;
            if of == 0 && number + 1 == count {
                self.entry(tag::UNSPECIFIED_PARAMETERS, 0);
                continue;
            }
            let name = if names { item.name_offset } else { 0 };
            let target = self.target(TypeId(of));
            self.named(tag::PARAMETER, 0, name, target);
        }
    }

    /// Functions by their symbols: one for each address, the first global one. Of static ones that share a name BTF
    /// doesn't say which it means.
    fn functions(&mut self) {
        let mut places: HashMap<u64, (Type<'a>, bool)> = HashMap::new();
        let mut order = Vec::new();
        for of in self.btf.iter().filter(|it| it.kind() == Kind::Function) {
            let Some(symbol) = self.symbols.only(of.name_bytes()) else {
                continue;
            };
            if !symbol.is_function() || !self.symbols.is_code(symbol.address) {
                continue;
            }
            let global = symbol.kind.is_ascii_uppercase();
            let place = places.entry(symbol.address).or_insert_with(|| {
                order.push(symbol.address);
                (of, global)
            });
            if global && !place.1 {
                *place = (of, global);
            }
        }
        for address in order {
            let Some((of, global)) = places.get(&address).copied() else {
                continue;
            };
            let prototype = of.target().and_then(|it| self.btf.get(it));
            let Some(prototype) = prototype.filter(|it| it.kind() == Kind::Prototype) else {
                continue;
            };
            if self.out.len() > MAX_INFO {
                break;
            }
            let returns = prototype.target().and_then(|it| self.target(it));
            let begin = self.out.len();
            let external = if global { has::EXTERNAL } else { 0 };
            self.named(
                tag::SUBPROGRAM,
                has::SIBLING | has::RANGE | has::PROTOTYPED | external | has::CHILDREN,
                of.name_offset(),
                returns,
            );
            self.out.moving(address);
            self.out.u32(self.symbols.size(address) as u32);
            self.parameters(prototype, true);
            self.end_children(begin);
        }
    }

    fn globals(&mut self) {
        for (name, shape) in GLOBALS {
            let Some(symbol) = self.symbols.first(name.as_bytes()) else {
                continue;
            };
            let (Shape::One(of) | Shape::Pointer(of) | Shape::Array(of)) = shape;
            let Some(of) = self.find(of) else { continue };
            if !self.variables.insert(symbol.name) {
                continue;
            }
            let at = self.out.len() as u32;
            match shape {
                Shape::One(_) => self.variable(symbol.name, symbol.address, Some(of.id()), None),
                Shape::Pointer(_) => {
                    self.named(tag::POINTER, has::BYTE_SIZE, 0, Some(of.id()));
                    self.out.uleb(8);
                    self.variable(symbol.name, symbol.address, None, Some(at));
                }
                Shape::Array(_) => {
                    let size = of.size().filter(|&size| size != 0).unwrap_or(1);
                    let count = self.symbols.size(symbol.address).min(MAX_ARRAY) / size;
                    self.array(Some(of.id()), count);
                    self.variable(symbol.name, symbol.address, None, Some(at));
                }
            }
        }
    }

    /// A type by its name: what can be a variable.
    fn find(&self, name: &str) -> Option<Type<'a>> {
        let found = self.btf.of_name(name).find(|it| {
            matches!(
                it.kind(),
                Kind::Struct | Kind::Union | Kind::Int | Kind::Enum | Kind::Typedef
            )
        });
        found.filter(|it| self.entries.get(it.id().0 as usize).is_some_and(|&at| at != 0))
    }

    /// A variable, of a type of BTF or of one whose entry is at an offset.
    fn variable(&mut self, name: &[u8], address: u64, of: Option<TypeId>, entry: Option<u32>) {
        let attributes = has::TEXT | has::TYPE | has::LOCATION | has::EXTERNAL;
        self.entry(tag::VARIABLE, attributes);
        self.out.string(name);
        match of {
            Some(of) => self.reference(of),
            None => self.out.u32(entry.unwrap_or(0)),
        }
        self.location(address);
    }

    fn location(&mut self, address: u64) {
        self.out.uleb(9);
        self.out.u8(DW_OP_ADDR);
        self.out.address(address, &self.symbols.image);
    }
}

/// DW_ATE_….
fn encoding(of: Type<'_>) -> u8 {
    if of.kind() == Kind::Float {
        return 4;
    }
    let bits = of.encoding().unwrap_or(0);
    let (signed, char, bool) = (bits >> 24 & 1 != 0, bits >> 25 & 1 != 0, bits >> 26 & 1 != 0);
    let char = char || of.size_or_type() == 1 && of.name_bytes().ends_with(b"char");
    match (bool, char, signed) {
        (true, ..) => 2,
        (_, true, true) => 6,
        (_, true, false) if of.name_bytes() == b"char" => 6,
        (_, true, false) => 8,
        (_, false, true) => 5,
        (_, false, false) => 7,
    }
}

/// `.debug_aranges`: the whole image is the kernel's unit (6.1.2).
fn aranges(symbols: &Symbols<'_>) -> Out {
    let mut out = Out::default();
    out.u32(44);
    out.u16(2);
    out.u32(0);
    out.u8(8);
    out.u8(0);
    out.u32(0); // To a multiple of a pair.
    out.moving(symbols.image.start);
    out.u64(symbols.image.end - symbols.image.start);
    out.u64(0);
    out.u64(0);
    out
}
