//! The bytes of a section, and which of them are addresses.

/// A section that is being written.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    /// Where the addresses are that move with the kernel, each of eight bytes.
    pub(super) moving: Vec<u32>,
}

impl Out {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// An address in the kernel's image.
    pub(super) fn moving(&mut self, address: u64) {
        self.moving.push(self.bytes.len() as u32);
        self.u64(address);
    }

    /// An address that moves if it is in the image.
    pub(super) fn address(&mut self, address: u64, image: &std::ops::Range<u64>) {
        if image.contains(&address) {
            self.moving(address);
        } else {
            self.u64(address);
        }
    }

    /// Bytes and a NUL.
    pub(super) fn string(&mut self, text: &[u8]) {
        self.bytes.extend(text.iter().map(|&byte| printable(byte)));
        self.bytes.push(0);
    }

    /// Overwrites four bytes.
    pub(super) fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn uleb(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub(super) fn sleb(&mut self, mut value: i64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if (value == 0 && low & 0x40 == 0) || (value == -1 && low & 0x40 != 0) {
                self.bytes.push(low);
                return;
            }
            self.bytes.push(low | 0x80);
        }
    }
}

/// Names come from the guest, and debuggers print them as they are: nothing in them may be a terminal's command.
pub(super) fn printable(byte: u8) -> u8 {
    if byte.is_ascii_graphic() || byte == b' ' {
        byte
    } else {
        b'?'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_lengths_that_dwarf_says() {
        // DWARF 4, tables 25 and 26 (7.6).
        let unsigned = |value| {
            let mut out = Out::default();
            out.uleb(value);
            out.bytes
        };
        assert_eq!(unsigned(127), [127]);
        assert_eq!(unsigned(128), [0x80, 1]);
        assert_eq!(unsigned(12857), [57 | 0x80, 100]);
        let signed = |value| {
            let mut out = Out::default();
            out.sleb(value);
            out.bytes
        };
        assert_eq!(signed(2), [2]);
        assert_eq!(signed(-2), [0x7e]);
        assert_eq!(signed(127), [127 | 0x80, 0]);
        assert_eq!(signed(-128), [0x80, 0x7f]);
        assert_eq!(signed(-129), [0x7f | 0x80, 0x7e]);
    }

    #[test]
    fn a_name_can_not_command_a_terminal() {
        let mut out = Out::default();
        out.string(b"a\x1b[2Jb\xff");
        assert_eq!(out.bytes, b"a?[2Jb?\0");
    }
}
