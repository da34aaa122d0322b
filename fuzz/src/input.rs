//! Structure out of bytes: what has run out reads as zero, so every byte string is an input.

/// The bytes of a case, read from the front.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// Two bytes, little-endian as all here.
    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) | u16::from(self.u8()) << 8
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number below `limit`, from one byte.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.u8()) % limit.max(1)
    }

    /// Up to `length` bytes.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
