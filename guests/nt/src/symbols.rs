//! The kernel's own symbols: which are code, which are variables, and of what type.

use crate::profile::{Arch, Profile};
use crate::types::{CType, lines};
use std::collections::BTreeMap;

const SYMBOLS: &str = include_str!("symbols.txt");

/// What a symbol stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Code of the kernel.
    Code,
    /// Code in the part that user page tables map.
    Kvas,
    /// A variable that nobody writes.
    Const(CType),
    /// A variable.
    Data(CType),
}

impl Kind {
    pub fn is_code(&self) -> bool {
        matches!(self, Kind::Code | Kind::Kvas)
    }

    pub fn variable(&self) -> Option<&CType> {
        match self {
            Kind::Const(ctype) | Kind::Data(ctype) => Some(ctype),
            _ => None,
        }
    }
}

/// A symbol with its place, if the profile gives one.
#[derive(Clone, Debug)]
pub(crate) struct Symbol {
    pub name: String,
    pub kind: Kind,
    pub rva: Option<u32>,
    /// What a variable holds from the start; zeros behind it.
    pub initial: Vec<u8>,
}

/// What the version's own variables hold.
fn initial(profile: &Profile, name: &str) -> Vec<u8> {
    match name {
        "NtBuildNumber" => (0xf000_0000 | profile.build()).to_le_bytes().to_vec(),
        "NtBuildLab" | "NtBuildLabEx" => profile.build_lab().into_bytes(),
        _ => Vec::new(),
    }
}

/// All symbols of a profile's kernel: the profile's, and those that every kernel has.
pub(crate) fn symbols(profile: &Profile) -> Vec<Symbol> {
    let mut table = BTreeMap::new();
    for line in lines(SYMBOLS, profile.arch) {
        let mut words = line.splitn(3, ' ');
        let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let ctype = CType::parse(&words.next().unwrap_or("UINT64").replace([' ', '@'], ""));
        let kind = match kind {
            "code" => Kind::Code,
            "kvas" => Kind::Kvas,
            "const" => Kind::Const(ctype),
            _ => Kind::Data(ctype),
        };
        table.insert(name.to_owned(), kind);
    }
    if profile.arch == Arch::X64 && !profile.kva_shadow() {
        table.retain(|name, kind| *kind != Kind::Kvas || profile.rvas.contains_key(name));
    }
    if !profile.pte_base_random() && !profile.rvas.contains_key("MmPteBase") {
        table.remove("MmPteBase");
    }
    if profile.kpcr_in_image() {
        table.insert("KiInitialPCR".to_owned(), Kind::Data(CType::parse("KPCR")));
    }
    if profile.build() < 10240 {
        // Before Windows 10 these are among the constants.
        for (name, kind) in &mut table {
            if let Kind::Data(ctype) = kind
                && name.starts_with("NtBuild")
            {
                *kind = Kind::Const(ctype.clone());
            }
        }
    }
    for name in profile.rvas.keys() {
        table
            .entry(name.clone())
            .or_insert_with(|| Kind::Data(CType::bytes(8)));
    }
    table
        .into_iter()
        .map(|(name, kind)| Symbol {
            rva: profile.rvas.get(&name).copied(),
            initial: initial(profile, &name),
            name,
            kind,
        })
        .collect()
}
