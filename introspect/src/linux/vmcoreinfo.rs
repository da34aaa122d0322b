//! VMCOREINFO: the lines that a kernel keeps for the readers of its dumps
//! (Documentation/admin-guide/kdump/vmcoreinfo.rst).

use super::space::Space;
use hv_core::GuestVirtAddr;
use std::collections::HashMap;

/// The most bytes of it; kernels keep them in one page.
const MAX_TEXT: usize = 0x1_0000;
/// How it begins.
pub(super) const START: &[u8] = b"OSRELEASE=";
/// The note's name, in the 12 bytes that it takes.
pub(super) const NOTE_NAME: &[u8; 12] = b"VMCOREINFO\0\0";

/// VMCOREINFO.
#[derive(Clone, Debug)]
pub struct VmcoreInfo {
    text: Vec<u8>,
    values: HashMap<String, String>,
}

impl VmcoreInfo {
    /// Reads the text: lines of `KEY=VALUE`, of which the first is `OSRELEASE`.
    pub fn parse(text: &[u8]) -> Option<VmcoreInfo> {
        let end = memchr::memchr(0, text).unwrap_or(text.len()).min(MAX_TEXT);
        let text = &text[..end];
        if !text.starts_with(START) {
            return None;
        }
        let lines = std::str::from_utf8(text).ok()?.lines();
        let values = lines
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some(VmcoreInfo {
            text: text.to_vec(),
            values,
        })
    }

    /// Reads it where the kernel's variables say that it is.
    pub(super) fn read(space: &Space<'_>, data: GuestVirtAddr, size: GuestVirtAddr) -> Option<VmcoreInfo> {
        let size = space.u64("vmcoreinfo_size", size).ok()?;
        let size = usize::try_from(size)
            .ok()
            .filter(|size| (1..=MAX_TEXT).contains(size))?;
        // A pointer, or the array itself before 4.13.
        let places = [space.pointer("vmcoreinfo_data", data).ok(), Some(data)];
        places.into_iter().flatten().find_map(|at| {
            let mut text = vec![0; size];
            space.read(at, &mut text).ok()?;
            VmcoreInfo::parse(&text)
        })
    }

    /// The text as the kernel holds it, without a NUL.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The whole ELF note: header, name, text, with padding; as PT_NOTE segments of dumps hold it.
    pub fn note(&self) -> Vec<u8> {
        let mut note = Vec::with_capacity(24 + self.text.len() + 4);
        let name = "VMCOREINFO\0".len() as u32;
        for word in [name, self.text.len() as u32, 0] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        note.extend_from_slice(NOTE_NAME);
        note.extend_from_slice(&self.text);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    /// A line's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// `SYMBOL(name)`: an address.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        hex(self.get(&format!("SYMBOL({name})"))?)
    }

    /// `NUMBER(name)`; some are addresses.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(_) => hex(text),
            // Signed ones wrap: phys_base is one.
            None => text
                .parse()
                .ok()
                .or_else(|| text.parse().ok().map(|signed: i64| signed as u64)),
        }
    }

    /// `OFFSET(structure.member)`, in bytes.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        self.get(&format!("OFFSET({structure}.{member})"))?.parse().ok()
    }

    /// `SIZE(structure)`, in bytes.
    pub fn size(&self, structure: &str) -> Option<u64> {
        self.get(&format!("SIZE({structure})"))?.parse().ok()
    }

    /// `LENGTH(array)`, in elements.
    pub fn length(&self, array: &str) -> Option<u64> {
        self.get(&format!("LENGTH({array})"))?.parse().ok()
    }

    /// `KERNELOFFSET`: how far KASLR moved the kernel.
    pub fn kernel_offset(&self) -> Option<u64> {
        hex(self.get("KERNELOFFSET")?)
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"OSRELEASE=6.1.0-56-cloud-amd64\nPAGESIZE=4096\nSYMBOL(_stext)=ffffffffafe00000\n\
        OFFSET(list_head.next)=0\nSIZE(page)=64\nLENGTH(zone.free_area)=11\nNUMBER(phys_base)=-620756992\n\
        NUMBER(VMALLOC_START)=0xffffd15840000000\nKERNELOFFSET=2ee00000\n\0\0garbage=1";

    #[test]
    fn every_kind_of_line_is_read() {
        let info = VmcoreInfo::parse(TEXT).expect("it is one");
        assert_eq!(info.get("OSRELEASE"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(info.symbol("_stext"), Some(0xffff_ffff_afe0_0000));
        assert_eq!(info.offset("list_head", "next"), Some(0));
        assert_eq!(info.size("page"), Some(64));
        assert_eq!(info.length("zone.free_area"), Some(11));
        assert_eq!(info.number("phys_base"), Some(0xffff_ffff_db00_0000));
        assert_eq!(info.number("VMALLOC_START"), Some(0xffff_d158_4000_0000));
        assert_eq!(info.kernel_offset(), Some(0x2ee0_0000));
        assert_eq!(info.get("garbage"), None, "the text ends at its NUL");
    }

    #[test]
    fn the_note_is_as_dumps_hold_it() {
        let info = VmcoreInfo::parse(b"OSRELEASE=6\n").expect("it is one");
        assert_eq!(
            info.note(),
            b"\x0b\0\0\0\x0c\0\0\0\0\0\0\0VMCOREINFO\0\0OSRELEASE=6\n"
        );
    }

    #[test]
    fn what_does_not_begin_like_it_is_none() {
        assert!(VmcoreInfo::parse(b"PAGESIZE=4096\nOSRELEASE=6\n").is_none());
        assert!(VmcoreInfo::parse(b"OSRELEASE=\xff\n").is_none());
    }
}
