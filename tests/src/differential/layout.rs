//! Where things are for the code under test: the same in the traced child and in the engine's guest.

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A mapped range.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Pages.
    pub pages: u64,
    /// Whether user code may write it.
    pub writable: bool,
    /// Whether user code may execute it.
    pub executable: bool,
}

impl Region {
    /// Bytes.
    pub const fn len(&self) -> usize {
        (self.pages * PAGE) as usize
    }
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }
    /// One past the last address.
    pub const fn end(&self) -> u64 {
        self.start + self.pages * PAGE
    }
    /// Whether an address lies in it.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end()
    }
}

/// The code under test; INT3 where there is none.
pub const CODE: Region = Region {
    start: 0x1000_0000,
    pages: 2,
    writable: false,
    executable: true,
};
/// Operands. Before it nothing is mapped.
pub const DATA: Region = Region {
    start: 0x2000_0000,
    pages: 2,
    writable: true,
    executable: false,
};
/// Right behind [`DATA`]; behind it nothing is mapped.
pub const READ_ONLY: Region = Region {
    start: DATA.end(),
    pages: 1,
    writable: false,
    executable: false,
};
/// The stack, with nothing mapped on either side.
pub const STACK: Region = Region {
    start: 0x3000_0000,
    pages: 2,
    writable: true,
    executable: false,
};

/// Everything that a case's memory image covers, in this order.
pub const IMAGE: [Region; 3] = [DATA, READ_ONLY, STACK];

/// Bytes of a memory image.
pub const IMAGE_BYTES: usize = DATA.len() + READ_ONLY.len() + STACK.len();

/// The offset in the memory image of an address.
pub fn image_offset(address: u64) -> Option<usize> {
    let mut before = 0;
    for region in IMAGE {
        if region.contains(address) {
            return Some(before + (address - region.start) as usize);
        }
        before += region.len();
    }
    None
}

/// The address of an offset in the memory image.
pub fn image_address(offset: usize) -> u64 {
    let mut left = offset;
    for region in IMAGE {
        if left < region.len() {
            return region.start + left as u64;
        }
        left -= region.len();
    }
    u64::MAX
}

/// Selectors as Linux gives them to its processes.
pub mod selector {
    /// 32-bit user code.
    pub const USER_CODE_32: u16 = 0x23;
    /// User data and stack.
    pub const USER_DATA: u16 = 0x2b;
    /// 64-bit user code.
    pub const USER_CODE_64: u16 = 0x33;
}
