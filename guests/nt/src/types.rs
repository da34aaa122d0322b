//! The C types of NT's fields, and the structures of a profile completed with what is the same in every version.

use crate::NtError;
use crate::profile::{Arch, Fields, Profile};
use std::collections::{BTreeMap, BTreeSet};

const FIELDS: &str = include_str!("fields.txt");
const STRUCTS: &str = include_str!("structs.txt");
const KDBG: &str = include_str!("kdbg.txt");
const STABLE: &str = include_str!("stable.json");

/// A C type as the tables write it: `KTHREAD*`, `LIST_ENTRY[2]`, `PTR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CType {
    pub base: String,
    pub pointer: bool,
    pub count: Option<u32>,
}

impl CType {
    pub fn parse(text: &str) -> CType {
        let (text, count) = match text.split_once('[') {
            Some((base, rest)) => (base, rest.trim_end_matches(']').parse().ok()),
            None => (text, None),
        };
        let base = text.trim_end_matches('*');
        CType {
            base: base.to_owned(),
            pointer: base != text,
            count,
        }
    }

    pub fn bytes(count: u32) -> CType {
        CType {
            base: "UINT8".to_owned(),
            pointer: false,
            count: Some(count),
        }
    }

    /// Declares `name` with this type.
    pub fn declare(&self, name: &str) -> String {
        let base = if self.base == "PTR" {
            "ULONG_PTR"
        } else {
            &self.base
        };
        // Structures by their tag, so that their order doesn't matter to pointers.
        let base = if scalar_size(&self.base, 8).is_some() {
            base.to_owned()
        } else {
            format!("struct _{base}")
        };
        let star = if self.pointer { " *" } else { " " };
        match self.count {
            Some(count) => format!("{base}{star}{name}[{count}]"),
            None => format!("{base}{star}{name}"),
        }
    }

    /// The structure that it contains, if it does.
    pub fn embeds(&self) -> Option<String> {
        (!self.pointer && scalar_size(&self.base, 8).is_none()).then(|| format!("_{}", self.base))
    }
}

fn scalar_size(base: &str, pointer: u32) -> Option<u32> {
    Some(match base {
        "UINT8" | "INT8" | "CHAR" => 1,
        "UINT16" | "INT16" | "WCHAR" => 2,
        "UINT32" | "INT32" => 4,
        "UINT64" | "INT64" => 8,
        "PTR" | "PVOID" => pointer,
        _ => return None,
    })
}

/// A field with its place and type.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub name: String,
    pub offset: u32,
    pub size: u32,
    pub ctype: CType,
}

/// A structure: fields in order of their offsets.
#[derive(Clone, Debug)]
pub(crate) struct Struct {
    pub size: u32,
    pub fields: Vec<Field>,
}

/// All structures of a profile, by name (`_EPROCESS`).
pub(crate) struct Types {
    arch: Arch,
    pub structs: BTreeMap<String, Struct>,
}

/// The lines of a table for an architecture, without comments and without the mark of the architecture.
pub(crate) fn lines(table: &str, arch: Arch) -> impl Iterator<Item = &str> {
    table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .filter_map(move |line| {
            for mark in [Arch::X64, Arch::X86] {
                if let Some(rest) = line
                    .strip_prefix(mark.name())
                    .and_then(|rest| rest.strip_prefix(' '))
                {
                    return (mark == arch).then_some(rest);
                }
            }
            Some(line)
        })
}

/// What is to be laid out: fields at given offsets, and the size if it is given.
type Wanted = BTreeMap<String, (Option<u32>, Fields)>;

impl Types {
    /// Lays out the structures of a profile.
    pub fn new(profile: &Profile) -> Result<Types, NtError> {
        let mut types = Types {
            arch: profile.arch,
            structs: BTreeMap::new(),
        };
        types
            .structs
            .insert("_KDDEBUGGER_DATA64".to_owned(), kdbg(profile.kdbg_size()));
        types
            .structs
            .insert("_DBGKD_DEBUG_DATA_HEADER64".to_owned(), kdbg_header());
        let wanted = complete(profile)?;
        let natural: Vec<&str> = lines(STRUCTS, profile.arch)
            .map(|line| line.split(' ').next().unwrap_or_default())
            .collect();
        let mut open = BTreeSet::new();
        for name in wanted.keys().map(String::as_str).chain(natural) {
            types.lay_out(name, &wanted, profile, &mut open)?;
        }
        Ok(types)
    }

    /// Size of a type in bytes, once what it contains is laid out.
    pub fn size_of(&self, ctype: &CType) -> u32 {
        let one = if ctype.pointer {
            self.arch.pointer()
        } else {
            scalar_size(&ctype.base, self.arch.pointer()).unwrap_or_else(|| {
                self.structs
                    .get(&format!("_{}", ctype.base))
                    .map_or(1, |found| found.size)
            })
        };
        one.saturating_mul(ctype.count.unwrap_or(1))
    }

    /// Alignment that a type wants in bytes.
    pub fn align_of(&self, ctype: &CType) -> u32 {
        if ctype.pointer {
            return self.arch.pointer();
        }
        if let Some(size) = scalar_size(&ctype.base, self.arch.pointer()) {
            return size;
        }
        let found = self.structs.get(&format!("_{}", ctype.base));
        found.map_or(1, |found| {
            found
                .fields
                .iter()
                .map(|field| self.align_of(&field.ctype))
                .max()
                .unwrap_or(1)
        })
    }

    fn is_integer(&self, ctype: &CType) -> bool {
        !ctype.pointer && ctype.base != "PVOID" && scalar_size(&ctype.base, self.arch.pointer()).is_some()
    }

    fn lay_out(
        &mut self,
        name: &str,
        wanted: &Wanted,
        profile: &Profile,
        open: &mut BTreeSet<String>,
    ) -> Result<(), NtError> {
        if self.structs.contains_key(name) {
            return Ok(());
        }
        if !open.insert(name.to_owned()) {
            return Err(profile.error(format!("{name} contains itself")));
        }
        let laid_out = if let Some((size, offsets)) = wanted.get(name) {
            let mut fields = Vec::new();
            for (field, &offset) in offsets {
                fields.push((field.clone(), offset, field_type(name, field, self.arch)));
            }
            fields.sort_by_key(|&(_, offset, _)| offset);
            for ctype in fields.iter().filter_map(|(_, _, ctype)| ctype.as_ref()) {
                self.need(ctype, wanted, profile, open)?;
            }
            self.at_offsets(fields, *size)
        } else if let Some(line) = lines(STRUCTS, self.arch).find(|line| line.split(' ').next() == Some(name))
        {
            let fields: Vec<_> = line
                .split(' ')
                .skip(1)
                .filter_map(|field| field.split_once(':'))
                .collect();
            let fields: Vec<_> = fields
                .into_iter()
                .map(|(field, ctype)| (field, CType::parse(ctype)))
                .collect();
            for (_, ctype) in &fields {
                self.need(ctype, wanted, profile, open)?;
            }
            self.in_order(&fields)
        } else {
            return Err(profile.error(format!(
                "a field needs the structure {name}, which the profile lacks"
            )));
        };
        self.structs.insert(name.to_owned(), laid_out);
        open.remove(name);
        Ok(())
    }

    fn need(
        &mut self,
        ctype: &CType,
        wanted: &Wanted,
        profile: &Profile,
        open: &mut BTreeSet<String>,
    ) -> Result<(), NtError> {
        match ctype.embeds() {
            Some(inner) => self.lay_out(&inner, wanted, profile, open),
            None => Ok(()),
        }
    }

    /// Fields at given offsets; those of unknown type fill what is free up to the next.
    fn at_offsets(&self, wanted: Vec<(String, u32, Option<CType>)>, size: Option<u32>) -> Struct {
        let end = wanted
            .iter()
            .map(|(_, offset, ctype)| offset + ctype.as_ref().map_or(1, |ctype| self.size_of(ctype)));
        let size = size.unwrap_or_else(|| end.max().unwrap_or(1).next_multiple_of(self.arch.pointer()));
        let mut fields = Vec::new();
        for (name, offset, ctype) in &wanted {
            let next = wanted
                .iter()
                .map(|&(_, other, _)| other)
                .filter(|other| other > offset)
                .min();
            let room = next.unwrap_or(size) - offset;
            // Integers and arrays of them reach to the next field at most: some grew over the versions.
            let limit = |ctype: &CType| {
                if self.is_integer(ctype) {
                    room
                } else {
                    size - offset
                }
            };
            let ctype = match ctype {
                Some(ctype) if self.size_of(ctype) <= limit(ctype) => ctype.clone(),
                Some(CType {
                    base,
                    count: Some(count),
                    ..
                }) if self.size_of(&CType::parse(base)) <= room => {
                    let count = (room / self.size_of(&CType::parse(base)).max(1)).min(*count);
                    CType {
                        base: base.clone(),
                        pointer: false,
                        count: Some(count),
                    }
                }
                // Also where what it should be doesn't fit.
                _ => match room {
                    1 => CType::parse("UINT8"),
                    2 => CType::parse("UINT16"),
                    4 => CType::parse("UINT32"),
                    8 => CType::parse("UINT64"),
                    _ => CType::bytes(room),
                },
            };
            fields.push(Field {
                name: name.clone(),
                offset: *offset,
                size: self.size_of(&ctype),
                ctype,
            });
        }
        Struct { size, fields }
    }

    /// Fields one behind the other, each aligned to what it wants; `name@offset` places one.
    fn in_order(&self, wanted: &[(&str, CType)]) -> Struct {
        let (mut end, mut align) = (0u32, 1);
        let mut fields = Vec::new();
        for (name, ctype) in wanted {
            let (name, offset) = match name.split_once('@') {
                Some((name, at)) => (name, at.parse().unwrap_or(0)),
                None => (*name, end.next_multiple_of(self.align_of(ctype))),
            };
            align = align.max(self.align_of(ctype));
            let size = self.size_of(ctype);
            end = end.max(offset + size);
            fields.push(Field {
                name: name.to_owned(),
                offset,
                size,
                ctype: ctype.clone(),
            });
        }
        fields.sort_by_key(|field| field.offset);
        Struct {
            size: end.next_multiple_of(align),
            fields,
        }
    }
}

/// The type of a field, if the table has it.
fn field_type(name: &str, field: &str, arch: Arch) -> Option<CType> {
    let exact = format!("{name}.{field} ");
    let any = format!("*.{field} ");
    let find = |wanted: &str| lines(FIELDS, arch).find_map(|line| line.strip_prefix(wanted));
    find(&exact).or_else(|| find(&any)).map(CType::parse)
}

/// The profile's structures with their dotted names resolved, completed with what is the same in every version.
fn complete(profile: &Profile) -> Result<Wanted, NtError> {
    let mut wanted = Wanted::new();
    for (name, fields) in &profile.structs {
        let entry = wanted.entry(name.clone()).or_default();
        for (field, &offset) in fields {
            if field == "_size" {
                entry.0 = Some(offset);
            } else if !field.contains('.') {
                entry.1.insert(field.clone(), offset);
            }
        }
    }
    for (name, fields) in &profile.structs {
        for (path, &offset) in fields.iter().filter(|(path, _)| path.contains('.')) {
            nested(profile, &mut wanted, name, path, offset)?;
        }
    }
    let stable: BTreeMap<String, BTreeMap<String, Fields>> =
        serde_json::from_str(STABLE).map_err(|error| profile.error(error.to_string()))?;
    for (name, fields) in stable.get(profile.arch.name()).into_iter().flatten() {
        let entry = wanted.entry(name.clone()).or_default();
        // A layout that differs in what both have isn't the one that stays the same.
        let agrees = entry
            .1
            .iter()
            .all(|(field, offset)| fields.get(field).is_none_or(|known| known == offset));
        if !agrees || (entry.0.is_some() && fields.get("_size").is_some_and(|size| Some(*size) != entry.0)) {
            continue;
        }
        if entry.0.is_none() {
            entry.0 = fields.get("_size").copied();
        }
        for (field, &offset) in fields.iter().filter(|(field, _)| *field != "_size") {
            let end = offset + field_size_hint(name, field, profile.arch);
            if entry.0.is_none_or(|size| end <= size) {
                entry.1.entry(field.clone()).or_insert(offset);
            }
        }
    }
    fill_in(profile, &mut wanted)?;
    usual(profile, &mut wanted);
    Ok(wanted)
}

/// Fields that all kernels have at the same place, or beside another field, but profiles don't list: they are added where
/// nothing else is. (Public PDBs of 7 to 11.)
fn usual(profile: &Profile, wanted: &mut Wanted) {
    let versions = match profile.arch {
        Arch::X64 => [0x118, 0x11c, 0x120],
        Arch::X86 => [0xa4, 0xa8, 0xac],
    };
    let mut add = |name: &str, field: &str, offset: u32| {
        let Some((Some(size), fields)) = wanted.get_mut(name) else {
            return;
        };
        let end = offset + field_size_hint(name, field, profile.arch);
        let is_free = fields
            .iter()
            .all(|(other, &start)| start >= end || start + field_size(profile, name, other) <= offset);
        if end <= *size && is_free {
            fields.entry(field.to_owned()).or_insert(offset);
        }
    };
    for (field, offset) in ["OSMajorVersion", "OSMinorVersion", "OSBuildNumber"]
        .into_iter()
        .zip(versions)
    {
        add("_PEB", field, offset);
    }
    let vad_root = profile
        .structs
        .get("_EPROCESS")
        .and_then(|fields| fields.get("VadRoot"));
    if let Some(before) = vad_root.and_then(|at| at.checked_sub(4)) {
        add("_EPROCESS", "ExitStatus", before);
    }
}

/// What a profile lacks but the guest's code may use: whole structures as the nearest built-in profile has them, and
/// fields that all of those have, where they fit.
fn fill_in(profile: &Profile, wanted: &mut Wanted) -> Result<(), NtError> {
    if Profile::names().any(|name| name == profile.name) {
        return Ok(());
    }
    let mut known = Vec::new();
    for name in Profile::names() {
        known.push(Profile::built_in(name)?);
    }
    known.retain(|other| other.arch == profile.arch);
    known.sort_by_key(Profile::build);
    let older = known.iter().rfind(|other| other.build() <= profile.build());
    let Some(nearest) = older.or(known.first()) else {
        return Ok(());
    };
    for (name, fields) in &nearest.structs {
        let plain = || {
            fields
                .iter()
                .filter(|(field, _)| *field != "_size" && !field.contains('.'))
        };
        let entry = wanted.entry(name.clone()).or_default();
        let whole = !profile.structs.contains_key(name);
        if entry.0.is_none() {
            entry.0 = fields.get("_size").copied();
        }
        let size = entry.0.unwrap_or(u32::MAX);
        for (field, &offset) in plain() {
            let common = || {
                known
                    .iter()
                    .all(|other| other.structs.get(name).is_some_and(|s| s.contains_key(field)))
            };
            if entry.1.contains_key(field) || !(whole || common()) {
                continue;
            }
            let wide = field_size(nearest, name, field);
            let is_free = |at: u32| {
                at.saturating_add(wide) <= size
                    && entry.1.iter().all(|(other, &start)| {
                        start >= at + wide || start + field_size(profile, name, other) <= at
                    })
            };
            let holes = || (0..size.saturating_sub(wide)).step_by(8);
            let Some(place) = Some(offset)
                .filter(|&at| whole || is_free(at))
                .or_else(|| holes().find(|&at| is_free(at)))
            else {
                return Err(profile.error(format!("{name} lacks {field}, and has no room for it")));
            };
            entry.1.insert(field.clone(), place);
        }
    }
    Ok(())
}

/// Bytes of a field, also of a structure that the profile has.
fn field_size(profile: &Profile, name: &str, field: &str) -> u32 {
    let inner = field_type(name, field, profile.arch).and_then(|ctype| ctype.embeds());
    let structure = inner.and_then(|inner| profile.structs.get(&inner)?.get("_size").copied());
    // Of the small ones none is larger than this.
    structure.unwrap_or_else(|| {
        match field_type(name, field, profile.arch).and_then(|ctype| ctype.embeds()) {
            Some(_) => 64,
            None => field_size_hint(name, field, profile.arch),
        }
    })
}

/// At least this many bytes does a field have.
fn field_size_hint(name: &str, field: &str, arch: Arch) -> u32 {
    let ctype = field_type(name, field, arch);
    ctype.map_or(1, |ctype| {
        let one = if ctype.pointer {
            Some(arch.pointer())
        } else {
            scalar_size(&ctype.base, arch.pointer())
        };
        one.unwrap_or(1) * ctype.count.unwrap_or(1)
    })
}

/// `Outer.Inner` at an offset: checked against the inner structure, or a field more there.
fn nested(
    profile: &Profile,
    wanted: &mut Wanted,
    name: &str,
    path: &str,
    offset: u32,
) -> Result<(), NtError> {
    let (mut holder, mut base) = (name.to_owned(), 0u32);
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    for parent in parents.split('.') {
        let at = wanted
            .get(&holder)
            .and_then(|(_, fields)| fields.get(parent).copied());
        let inner = field_type(&holder, parent, profile.arch).and_then(|ctype| ctype.embeds());
        let (Some(at), Some(inner)) = (at, inner) else {
            return Err(profile.error(format!("{name}.{path}: {holder} has no structure {parent}")));
        };
        base += at;
        holder = inner;
    }
    let Some(relative) = offset.checked_sub(base) else {
        return Err(profile.error(format!(
            "{name}.{path} at {offset} lies before {parents}, which is at {base}"
        )));
    };
    if lines(STRUCTS, profile.arch).any(|line| line.split(' ').next() == Some(&holder)) {
        return Ok(()); // Checked by the header's assertions.
    }
    let (size, fields) = wanted.entry(holder.clone()).or_default();
    if size.is_some_and(|size| relative >= size) {
        return Err(profile.error(format!("{name}.{path} at {offset} lies behind {holder}")));
    }
    let known = *fields.entry(last.to_owned()).or_insert(relative);
    if known != relative {
        return Err(profile.error(format!(
            "{name}.{path} is at {offset}, but {holder}.{last} at {known} behind {base}"
        )));
    }
    Ok(())
}

fn kdbg_header() -> Struct {
    let mut fields = Vec::new();
    for (name, offset, ctype) in [
        ("List", 0, "LIST_ENTRY64"),
        ("OwnerTag", 0x10, "UINT32"),
        ("Size", 0x14, "UINT32"),
    ] {
        let size = if offset == 0 { 16 } else { 4 };
        fields.push(Field {
            name: name.to_owned(),
            offset,
            size,
            ctype: CType::parse(ctype),
        });
    }
    Struct { size: 0x18, fields }
}

/// KDDEBUGGER_DATA64 as far as a kernel has it.
fn kdbg(size: u32) -> Struct {
    let mut fields = vec![Field {
        name: "Header".into(),
        offset: 0,
        size: 0x18,
        ctype: CType::parse("DBGKD_DEBUG_DATA_HEADER64"),
    }];
    for line in lines(KDBG, Arch::X64) {
        let mut words = line.split(' ');
        let offset = words
            .next()
            .and_then(|word| u32::from_str_radix(word, 16).ok())
            .unwrap_or(0);
        let ctype = CType::parse(words.next().unwrap_or_default());
        let bytes = scalar_size(&ctype.base, 8).unwrap_or(8);
        if offset + bytes <= size {
            fields.push(Field {
                name: words.next().unwrap_or_default().to_owned(),
                offset,
                size: bytes,
                ctype,
            });
        }
    }
    Struct { size, fields }
}
