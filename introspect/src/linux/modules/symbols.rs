//! What a loaded module keeps of its file: symbols, the addresses of its sections, tables for unwinding, types.

use super::Module;
use crate::linux::error::Error;
use crate::linux::list::Ring;
use crate::linux::{Linux, Unknown};
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use symbols::btf::Btf;
use symbols::kallsyms::Symbol;
use symbols::synthetic::Orc;

/// The most symbols that are read. The largest modules (graphics) have some 40,000.
const MAX_SYMBOLS: u64 = 1 << 18;
/// The most bytes of their names.
const MAX_NAMES: u64 = 16 << 20;
/// KSYM_NAME_LEN, from 6.1 on.
const MAX_NAME: usize = 512;
/// `Elf64_Sym`.
const SYMBOL: usize = 24;
/// The most sections that are read.
const MAX_SECTIONS: u64 = 1024;
/// The longest name of a section that is read.
const MAX_SECTION_NAME: usize = 128;
/// The most rows for unwinding of a module.
const MAX_ROWS: u64 = 1 << 20;
/// Bytes of a row.
const ROW: u64 = 6;
/// The most bytes of a module's types.
const MAX_BTF: u64 = 16 << 20;
/// The most modules that have types.
const MAX_BTF_MODULES: usize = 8192;

/// A symbol of a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleSymbol {
    /// Where it is.
    pub address: GuestVirtAddr,
    /// Bytes; 0 where nobody said.
    pub size: u64,
    /// The letter that `nm` would show.
    pub kind: char,
    /// Its name, as bytes: a guest may put anything there.
    pub name: Vec<u8>,
}

impl ModuleSymbol {
    /// In the form of the kernel's symbols.
    pub fn as_symbol(&self) -> Symbol<'_> {
        Symbol {
            address: self.address.0,
            kind: self.kind,
            name: &self.name,
        }
    }
}

/// A section of a module's file, where it was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleSection {
    /// Its name: `.text`, `.rodata.str1.1`.
    pub name: String,
    /// Its first byte. What was only needed to initialise the module isn't there any more.
    pub address: GuestVirtAddr,
}

impl Linux {
    /// The symbols of a module, in the order of /proc/kallsyms. Letters of what is seen outside its file are capitals; the
    /// kernel itself shows those of what is exported so.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known, or the tables can't be read.
    pub fn module_symbols(
        &self,
        memory: &dyn ReadMemory,
        module: &Module,
    ) -> Result<Vec<ModuleSymbol>, Error> {
        let space = self.space(memory);
        let at = module.address.wrapping_add(self.offset("module", "kallsyms")?);
        let table = space.pointer("module.kallsyms", at)?;
        let member = |name| {
            let offset = self.offset("mod_kallsyms", name)?;
            Ok::<_, Unknown>(table.wrapping_add(offset))
        };
        let count = u64::from(space.u32("mod_kallsyms", member("num_symtab")?)?);
        if count > MAX_SYMBOLS {
            return Err(implausible(
                "mod_kallsyms",
                table,
                format!("it has {count} symbols"),
            ));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let symbols = space.pointer("mod_kallsyms.symtab", member("symtab")?)?;
        let names = space.pointer("mod_kallsyms.strtab", member("strtab")?)?;
        let mut symbol_bytes = vec![0; count as usize * SYMBOL];
        space.bytes("a module's symbols", symbols, &mut symbol_bytes)?;
        // From 5.2 on letters have a table of their own.
        let mut letters = Vec::new();
        if let Ok(place) = member("typetab") {
            letters.resize(count as usize, 0);
            let table = space.pointer("mod_kallsyms.typetab", place)?;
            space.bytes("a module's symbols", table, &mut letters)?;
        }
        let symbols: Vec<ElfSymbol> = symbol_bytes.as_chunks().0.iter().map(ElfSymbol::read).collect();
        // Nothing says how long the table of names is.
        let last = symbols.iter().map(|symbol| u64::from(symbol.name)).max();
        let length = last.unwrap_or(0) + MAX_NAME as u64;
        if length > MAX_NAMES {
            return Err(implausible(
                "mod_kallsyms",
                table,
                format!("it has {length} bytes of names"),
            ));
        }
        let mut name_bytes = vec![0; length as usize];
        space.read_some(names, &mut name_bytes);
        let one = |(number, symbol): (usize, &ElfSymbol)| {
            let name = name_bytes.get(symbol.name as usize..)?;
            let name = &name[..memchr::memchr(0, name)?.min(MAX_NAME)];
            (symbol.section != 0 && !name.is_empty()).then(|| ModuleSymbol {
                address: GuestVirtAddr(symbol.value),
                size: symbol.size,
                kind: symbol.letter(letters.get(number).copied()),
                name: name.to_vec(),
            })
        };
        Ok(symbols.iter().enumerate().filter_map(one).collect())
    }

    /// The sections of a module, where the kernel keeps their names for /sys/module.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known, or the table can't be read.
    pub fn module_sections(
        &self,
        memory: &dyn ReadMemory,
        module: &Module,
    ) -> Result<Vec<ModuleSection>, Error> {
        let space = self.space(memory);
        let at = module.address.wrapping_add(self.offset("module", "sect_attrs")?);
        if space.u64("module.sect_attrs", at)? == 0 {
            return Ok(Vec::new());
        }
        let table = space.pointer("module.sect_attrs", at)?;
        let first = table.wrapping_add(self.offset("module_sect_attrs", "attrs")?);
        // Until 6.13 with their number, and each with its address beside; since then they end with what has no name.
        let (count, element, address) = match self.offset("module_sect_attrs", "nsections") {
            Ok(offset) => {
                let count = space.u32("module_sect_attrs", table.wrapping_add(offset))?;
                let address = self.offset("module_sect_attr", "address")?;
                (u64::from(count), self.size("module_sect_attr")?, address)
            }
            Err(_) => {
                let address = self.offset("bin_attribute", "private")?;
                (MAX_SECTIONS, self.size("bin_attribute")?, address)
            }
        };
        let name = self
            .offset("module_sect_attr", "name")
            .or_else(|_| self.offset("module_sect_attr", "battr.attr.name"))
            .or_else(|_| self.offset("bin_attribute", "attr.name"))?;
        if count > MAX_SECTIONS {
            return Err(implausible(
                "module_sect_attrs",
                table,
                format!("it has {count} sections"),
            ));
        }
        let mut sections = Vec::new();
        for number in 0..count {
            let at = first.wrapping_add(number * element);
            let name = GuestVirtAddr(space.u64("a module's section", at.wrapping_add(name))?);
            if !space.is_kernel(name) {
                break;
            }
            sections.push(ModuleSection {
                name: space.string("a section's name", name, MAX_SECTION_NAME)?,
                address: GuestVirtAddr(space.u64("a module's section", at.wrapping_add(address))?),
            });
        }
        Ok(sections)
    }

    /// The tables by which the kernel unwinds a module's frames, where there are any.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known, or the tables can't be read.
    pub fn module_orc(&self, memory: &dyn ReadMemory, module: &Module) -> Result<Option<Orc>, Error> {
        let space = self.space(memory);
        let member = |name| {
            let offset = self.offset("module", name)?;
            Ok::<_, Unknown>(module.address.wrapping_add(offset))
        };
        let count = u64::from(space.u32("module.arch", member("arch.num_orcs")?)?);
        if count > MAX_ROWS {
            return Err(implausible(
                "module.arch",
                module.address,
                format!("it has {count} rows of ORC"),
            ));
        }
        let Some(version) = self.orc_version(memory).filter(|_| count != 0) else {
            return Ok(None);
        };
        let start = space.pointer("module.arch", member("arch.orc_unwind_ip")?)?;
        let table = space.pointer("module.arch", member("arch.orc_unwind")?)?;
        let mut ips = vec![0; 4 * count as usize];
        let mut rows = vec![0; (ROW * count) as usize];
        space.bytes("a module's ORC", start, &mut ips)?;
        space.bytes("a module's ORC", table, &mut rows)?;
        Ok(Some(Orc {
            start: start.0,
            ips,
            rows,
            version,
        }))
    }

    /// The types of a module, which go on where the kernel's end; `None` if it has none of its own.
    ///
    /// # Errors
    /// [`Error`] if the kernel has no types, or they can't be read.
    pub fn module_btf(&self, memory: &dyn ReadMemory, module: &Module) -> Result<Option<Btf>, Error> {
        let space = self.space(memory);
        let list = self.offset("btf_module", "list")?;
        let owner = self.offset("btf_module", "module")?;
        let types = self.offset("btf_module", "btf")?;
        let ring = Ring {
            name: "list of modules' types",
            head: self.needed("btf_modules")?,
            link: list,
            limit: MAX_BTF_MODULES,
        };
        let mut found = None;
        let walk = ring.walk(&space, |entry| {
            if space.u64("btf_module", entry.wrapping_add(owner))? == module.address.0 {
                found = Some(space.pointer("btf_module", entry.wrapping_add(types))?);
            }
            Ok(())
        })?;
        let (Some(btf), Some(base)) = (found, &self.btf) else {
            return match walk.broken {
                Some(broken) => Err(implausible("btf_modules", broken.at, broken.why)),
                None => Ok(None),
            };
        };
        let data = space.pointer("btf.data", btf.wrapping_add(self.offset("btf", "data")?))?;
        let size = u64::from(space.u32(
            "btf.data_size",
            btf.wrapping_add(self.offset("btf", "data_size")?),
        )?);
        if size > MAX_BTF {
            return Err(implausible("btf", btf, format!("it has {size} bytes")));
        }
        let mut bytes = vec![0; size as usize];
        space.bytes("a module's BTF", data, &mut bytes)?;
        Btf::parse_split(bytes, base.clone())
            .map(Some)
            .map_err(|error| implausible("a module's BTF", data, error.to_string()))
    }
}

/// `Elf64_Sym` (System V gABI, figure 4-16).
struct ElfSymbol {
    name: u32,
    info: u8,
    section: u16,
    value: u64,
    size: u64,
}

impl ElfSymbol {
    fn read(bytes: &[u8; SYMBOL]) -> ElfSymbol {
        let [n0, n1, n2, n3, info, _, s0, s1, rest @ ..] = *bytes;
        let words = rest.as_chunks().0;
        ElfSymbol {
            name: u32::from_le_bytes([n0, n1, n2, n3]),
            info,
            section: u16::from_le_bytes([s0, s1]),
            value: words.first().map_or(0, |word| u64::from_le_bytes(*word)),
            size: words.last().map_or(0, |word| u64::from_le_bytes(*word)),
        }
    }

    /// The letter: in a table of its own from 5.2 on, in `st_size` in 5.0 and 5.1, in `st_info` before.
    fn letter(&self, in_table: Option<u8>) -> char {
        let in_size = u8::try_from(self.size).unwrap_or(0);
        let letter = in_table
            .or_else(|| self.info.is_ascii_alphabetic().then_some(self.info))
            .unwrap_or(in_size);
        let letter = if letter.is_ascii_alphabetic() {
            letter
        } else {
            b'?'
        };
        const GLOBAL: u8 = 1;
        char::from(if self.info >> 4 == GLOBAL {
            letter.to_ascii_uppercase()
        } else {
            letter
        })
    }
}

fn implausible(what: &'static str, address: GuestVirtAddr, why: String) -> Error {
    Error::Implausible { what, address, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(info: u8, size: u64) -> ElfSymbol {
        let mut bytes = [0; SYMBOL];
        bytes[..8].copy_from_slice(&[1, 0, 0, 0, info, 0, 2, 0]);
        bytes[8..16].copy_from_slice(&0xffff_ffff_c000_1000_u64.to_le_bytes());
        bytes[16..].copy_from_slice(&size.to_le_bytes());
        ElfSymbol::read(&bytes)
    }

    #[test]
    fn a_symbols_letter_is_where_its_kernel_keeps_it() {
        let it = symbol(0x02, 0x30);
        assert_eq!(
            (it.name, it.section, it.value, it.size),
            (1, 2, 0xffff_ffff_c000_1000, 0x30)
        );
        assert_eq!(it.letter(Some(b't')), 't', "from 5.2 on");
        assert_eq!(symbol(0x12, 0x30).letter(Some(b't')), 'T', "a global one");
        assert_eq!(symbol(0x02, u64::from(b'd')).letter(None), 'd', "5.0");
        assert_eq!(symbol(b'b', 0x30).letter(None), 'b', "4.14");
        assert_eq!(symbol(0x02, 0x1b).letter(None), '?', "no command for a terminal");
    }
}
