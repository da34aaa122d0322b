//! A place in the guest's memory: an address, or a symbol of its kernel.

use super::address;
use std::fmt;
use std::str::FromStr;

/// The longest name of a symbol (KSYM_NAME_LEN is 512).
const MAX_NAME: usize = 1024;

/// Where something is. Written as an address in hex, or as `do_sys_openat2`, `do_sys_openat2+0x10`, `nt!KeBugCheckEx`.
/// What can be read as hex is an address: `add+0` is the symbol of that name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// An address.
    Address(u64),
    /// A symbol of the guest's kernel.
    Symbol {
        /// Its name, without a module's.
        name: String,
        /// Bytes behind it.
        offset: u64,
    },
}

impl Place {
    /// So many bytes behind it; `None` past the end of the address space.
    pub fn checked_add(&self, bytes: u64) -> Option<Place> {
        Some(match self {
            Place::Address(address) => Place::Address(address.checked_add(bytes)?),
            Place::Symbol { name, offset } => Place::Symbol {
                name: name.clone(),
                offset: offset.checked_add(bytes)?,
            },
        })
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let bare = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit() || c == '`');
        if bare.is_some() || is_hex(text) {
            return address(text).map(Place::Address);
        }
        let (name, offset) = match text.rsplit_once('+') {
            Some((name, offset)) => (name, address(offset)?),
            None => (text, 0),
        };
        let name = ["nt!", "vmlinux!"]
            .iter()
            .find_map(|module| name.strip_prefix(module))
            .unwrap_or(name);
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with('-') || name.contains(odd) {
            return Err(format!(
                "'{text}' is no address: write it in hex, with or without 0x, or as a symbol of the kernel: do_exit+0x10"
            ));
        }
        Ok(Place::Symbol {
            name: name.to_owned(),
            offset,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Address(address) => write!(f, "{address:#x}"),
            Place::Symbol { name, offset: 0 } if Place::is_plain(name) => f.write_str(name),
            Place::Symbol { name, offset } => write!(f, "{name}+{offset:#x}"),
        }
    }
}

impl Place {
    /// Whether a name alone is read back as a symbol.
    fn is_plain(name: &str) -> bool {
        matches!(name.parse(), Ok(Place::Symbol { .. }))
    }
}

super::serde_as_string!(Place);

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str, offset: u64) -> Place {
        Place::Symbol {
            name: name.into(),
            offset,
        }
    }

    #[test]
    fn a_place_is_an_address_or_a_symbol_with_an_offset() {
        for (text, place) in [
            ("fffff803`12400000", Place::Address(0xffff_f803_1240_0000)),
            ("0x10", Place::Address(0x10)),
            ("add", Place::Address(0xadd)),
            ("add+0", symbol("add", 0)),
            ("do_sys_openat2", symbol("do_sys_openat2", 0)),
            ("do_sys_openat2+0x10", symbol("do_sys_openat2", 0x10)),
            ("nt!KeBugCheckEx+1f", symbol("KeBugCheckEx", 0x1f)),
            ("vmlinux!__x64_sys_read.cold", symbol("__x64_sys_read.cold", 0)),
        ] {
            assert_eq!(text.parse(), Ok(place.clone()), "{text}");
            assert_eq!(place.to_string().parse(), Ok(place), "{text}");
        }
    }

    #[test]
    fn what_is_neither_says_so() {
        for text in [
            "",
            "0x",
            "`",
            "-1",
            "+1",
            "1 2",
            "nt!",
            "a b",
            "0xnothing",
            "x+y",
            "a\u{1b}[m",
        ] {
            assert!(
                text.parse::<Place>().unwrap_err().contains("no address"),
                "{text}"
            );
        }
        let long = "10000000000000000".parse::<Place>();
        assert!(long.unwrap_err().contains("64 bits"));
    }

    #[test]
    fn bytes_behind_a_place_stay_in_the_address_space() {
        assert_eq!(symbol("a_b", 1).checked_add(2), Some(symbol("a_b", 3)));
        assert_eq!(Place::Address(u64::MAX).checked_add(1), None);
    }
}
