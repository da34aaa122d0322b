//! Names and addresses: the parts of the image, and the symbol table.

use super::elf::{Area, Form, SHF_EXECINSTR, SHF_WRITE, SHT_STRTAB, SHT_SYMTAB, Section};
use super::out::Out;
use crate::kallsyms::Symbol;
use std::collections::HashMap;
use std::ops::Range;

/// The last symbol of a part may be followed by a gap: more than this belongs to no symbol.
const MAX_SIZE: u64 = 1 << 20;
const SHN_ABS: u16 = 0xfff1;

/// Where each part of the image begins (arch/x86/kernel/vmlinux.lds.S), in this order. They leave no gaps: lldb makes a
/// section of its own for every symbol outside of all sections.
const STARTS: [(&str, &str, u64); 4] = [
    (".rodata", "_etext", 0),
    (".data", "_sdata", SHF_WRITE),
    (".init.text", "_sinittext", SHF_EXECINSTR),
    (".bss", "_einittext", SHF_WRITE),
];

/// The symbols with what the other writers ask of them.
pub(super) struct Symbols<'a> {
    /// In the order of the kernel's table.
    all: &'a [Symbol<'a>],
    pub(super) image: Range<u64>,
    pub(super) areas: Vec<Area>,
    /// Every address, in rising order, each once.
    addresses: Vec<u64>,
    /// The number of a name's first symbol, and how many there are.
    by_name: HashMap<&'a [u8], (u32, u32)>,
}

impl<'a> Symbols<'a> {
    /// Of a kernel, whose parts its symbols tell.
    pub(super) fn new(all: &'a [Symbol<'a>], image: Range<u64>) -> Symbols<'a> {
        let mut symbols = Symbols::of_areas(all, image.clone(), Vec::new());
        let mut areas = vec![Area {
            name: ".text",
            range: image.clone(),
            flags: SHF_EXECINSTR,
        }];
        for (name, start, flags) in STARTS {
            let Some(start) = symbols.first(start.as_bytes()).map(|it| it.address) else {
                continue;
            };
            if let Some(last) = areas.last_mut()
                && last.range.start < start
                && start < image.end
            {
                last.range.end = start;
                areas.push(Area {
                    name,
                    range: start..image.end,
                    flags,
                });
            }
        }
        symbols.areas = areas;
        symbols
    }

    /// Of anything, whose parts are known.
    pub(super) fn of_areas(all: &'a [Symbol<'a>], image: Range<u64>, areas: Vec<Area>) -> Symbols<'a> {
        let mut by_name: HashMap<&[u8], (u32, u32)> = HashMap::with_capacity(all.len());
        for (number, symbol) in (0..).zip(all) {
            by_name.entry(symbol.name).or_insert((number, 0)).1 += 1;
        }
        let mut addresses: Vec<u64> = all.iter().map(|it| it.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Symbols {
            all,
            image,
            areas,
            addresses,
            by_name,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a Symbol<'a>> + use<'a> {
        self.all.iter()
    }

    /// The first symbol of a name.
    pub(super) fn first(&self, name: &[u8]) -> Option<&'a Symbol<'a>> {
        let (number, _) = self.by_name.get(name)?;
        self.all.get(*number as usize)
    }

    /// The only symbol of a name: of several nobody knows which one is meant.
    pub(super) fn only(&self, name: &[u8]) -> Option<&'a Symbol<'a>> {
        match self.by_name.get(name)? {
            (number, 1) => self.all.get(*number as usize),
            _ => None,
        }
    }

    /// The number of the area that an address is in.
    pub(super) fn area(&self, address: u64) -> Option<usize> {
        self.areas.iter().position(|area| area.range.contains(&address))
    }

    /// Whether it is in a part of the image with code.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.area(address)
            .is_some_and(|area| self.areas[area].flags & SHF_EXECINSTR != 0)
    }

    /// Bytes up to the next symbol.
    pub(super) fn size(&self, address: u64) -> u64 {
        let next = self.addresses.partition_point(|&it| it <= address);
        let next = self.addresses.get(next).copied();
        let end = self.area(address).map(|area| self.areas[area].range.end);
        let end = match (next, end) {
            (Some(next), Some(end)) => next.min(end),
            (Some(end), None) | (None, Some(end)) => end,
            (None, None) => address,
        };
        (end - address).min(MAX_SIZE)
    }

    /// `.symtab` and `.strtab`.
    pub(super) fn sections(&self, form: Form) -> [Section; 2] {
        let (mut table, mut strings) = (Out::default(), Out::default());
        table.bytes.reserve(24 * (self.all.len() + 1));
        table.bytes.resize(24, 0);
        strings.u8(0);
        let mut first_global = 1;
        // Local symbols come first, says the ABI.
        for local in [true, false] {
            for symbol in self.all {
                let binding = binding(symbol.kind);
                if (binding == 0) != local {
                    continue;
                }
                first_global += local as u32;
                table.u32(strings.len() as u32);
                strings.string(symbol.name);
                table.u8(binding << 4 | kind(symbol.kind));
                table.u8(0);
                match self.area(symbol.address) {
                    Some(area) => {
                        table.u16(area as u16 + 1);
                        match form {
                            Form::Executable => table.moving(symbol.address),
                            Form::Relocatable => table.u64(symbol.address - self.areas[area].range.start),
                        }
                    }
                    None => {
                        table.u16(SHN_ABS);
                        table.u64(symbol.address);
                    }
                }
                table.u64(self.size(symbol.address));
            }
        }
        let mut table = Section::new(".symtab", SHT_SYMTAB, table);
        table.first_global = first_global;
        [table, Section::new(".strtab", SHT_STRTAB, strings)]
    }
}

/// STB_LOCAL, STB_GLOBAL or STB_WEAK by the letter of nm(1).
fn binding(letter: char) -> u8 {
    match letter {
        'w' | 'W' | 'v' | 'V' => 2,
        _ if letter.is_ascii_uppercase() => 1,
        _ => 0,
    }
}

/// STT_NOTYPE, STT_OBJECT or STT_FUNC.
fn kind(letter: char) -> u8 {
    match letter.to_ascii_lowercase() {
        't' | 'w' => 2,
        'd' | 'b' | 'r' | 'v' | 'g' | 's' => 1,
        _ => 0,
    }
}
