//! VMCOREINFO, the kernel's own description of itself (Documentation/admin-guide/kdump/vmcoreinfo.rst).

/// VMCOREINFO's text: lines of `key=value`.
#[derive(Clone, Copy, Debug)]
pub struct Vmcoreinfo<'a> {
    text: &'a [u8],
}

impl<'a> Vmcoreinfo<'a> {
    /// Any bytes will do: keys that aren't there are `None`.
    pub const fn new(text: &'a [u8]) -> Vmcoreinfo<'a> {
        Vmcoreinfo { text }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let lines = self.text.split(|&byte| byte == b'\n' || byte == 0);
        let value = lines.filter_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="));
        value.filter_map(|value| std::str::from_utf8(value).ok()).next()
    }

    /// `NUMBER(name)`. Kernels print some as hexadecimal with `0x`, the others as signed decimals.
    pub fn number(&self, name: &str) -> Option<i64> {
        let value = self.get(&format!("NUMBER({name})"))?.trim();
        match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok().map(u64::cast_signed),
            None => value.parse().ok(),
        }
    }

    /// `SYMBOL(name)`: the address that the symbol has while the kernel runs.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?.trim(), 16).ok()
    }

    /// The kernel's release.
    pub fn release(&self) -> Option<&'a str> {
        self.get("OSRELEASE")
    }

    /// When the kernel crashed, seconds since 1970. The line is there after a panic only.
    pub fn crash_time(&self) -> Option<u64> {
        self.get("CRASHTIME")?.trim().parse().ok()
    }

    /// Physical address of the kernel's page-table root.
    pub fn root(&self) -> Option<u64> {
        let root = self
            .symbol("init_top_pgt")
            .or_else(|| self.symbol("swapper_pg_dir"))?;
        let offset = root.checked_sub(super::KERNEL_MAP)?;
        let physical = offset.checked_add_signed(self.number("phys_base").unwrap_or(0))?;
        (physical < 1 << 52 && physical % 0x1000 == 0).then_some(physical)
    }

    /// Whether the kernel uses five levels of page tables.
    pub fn five_levels(&self) -> bool {
        self.number("pgtable_l5_enabled") == Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"OSRELEASE=6.1.0-56-cloud-amd64\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff89a10000\n\
        NUMBER(phys_base)=67108864\nNUMBER(pgtable_l5_enabled)=0\nKERNELOFFSET=6a00000\nCRASHTIME=1700000000\n";

    #[test]
    fn numbers_are_decimal_unless_marked_and_may_be_negative() {
        assert_eq!(Vmcoreinfo::new(TEXT).number("phys_base"), Some(0x400_0000));
        let odd = Vmcoreinfo::new(b"NUMBER(a)=0x10\nNUMBER(b)=-4096\nNUMBER(c)=x\n");
        assert_eq!(
            ["a", "b", "c"].map(|name| odd.number(name)),
            [Some(16), Some(-4096), None]
        );
    }

    #[test]
    fn the_root_is_where_phys_base_moves_it() {
        assert_eq!(Vmcoreinfo::new(TEXT).root(), Some(0x9a1_0000 + 0x400_0000));
        assert_eq!(Vmcoreinfo::new(b"SYMBOL(swapper_pg_dir)=1000\n").root(), None);
    }

    #[test]
    fn a_key_is_a_whole_word_at_the_start_of_a_line() {
        let text = Vmcoreinfo::new(b"XOSRELEASE=no\nOSRELEASES=no\nOSRELEASE=yes\n");
        assert_eq!(text.release(), Some("yes"));
        assert_eq!(Vmcoreinfo::new(TEXT).crash_time(), Some(1_700_000_000));
    }
}
