//! The memory images: FSTENV, FLDENV, FSAVE, FRSTOR (SDM vol. 1, 8.1.10) and the x87 part of FXSAVE, FXRSTOR and
//! XSAVE (SDM vol. 1, 10.5.1).

use crate::regs::X87;

/// The four layouts of the environment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// A 32-bit operand size: 28 bytes and not 14.
    pub wide: bool,
    /// Protected mode: selectors and offsets, not linear addresses.
    pub protected: bool,
}

/// The environment's size at most.
pub const ENVIRONMENT_MAX: usize = 28;
/// The eight registers of FSAVE.
pub const REGISTERS: usize = 80;
/// The x87 part of an FXSAVE image, up to and with the registers.
pub const FXSAVE_X87: usize = 160;

impl Layout {
    /// The environment's size.
    pub const fn size(&self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// What an alignment check asks of its address.
    pub const fn alignment(&self) -> usize {
        if self.wide { 4 } else { 2 }
    }
}

/// Little-endian fields of an image, one after the other.
struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
    step: usize,
}

impl Fields<'_> {
    /// A word in a field of its own; the upper half of a 32-bit field is ones, as processors write it.
    fn word(&mut self, value: u16) {
        self.whole(value as u32 | 0xffff_0000);
    }
    fn whole(&mut self, value: u32) {
        if let Some(to) = self.bytes.get_mut(self.at..self.at + self.step) {
            to.copy_from_slice(&value.to_le_bytes()[..self.step]);
        }
        self.at += self.step;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u16_at(bytes, at) as u32 | (u16_at(bytes, at + 2) as u32) << 16
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at + 4) as u64) << 32
}
fn f80_at(bytes: &[u8], at: usize) -> u128 {
    u64_at(bytes, at) as u128 | (u16_at(bytes, at + 8) as u128) << 64
}

impl X87 {
    /// FNSTENV's image; the first `Layout::size` bytes count. The instruction then masks all exceptions: see
    /// [`X87::mask_all`].
    pub fn environment(&self, layout: Layout) -> [u8; ENVIRONMENT_MAX] {
        let mut bytes = [0; ENVIRONMENT_MAX];
        let mut fields = Fields {
            bytes: &mut bytes,
            at: 0,
            step: if layout.wide { 4 } else { 2 },
        };
        fields.word(self.fcw);
        fields.word(self.fsw);
        fields.word(self.ftw);
        let (fip, fdp, fop) = (self.fip as u32, self.fdp as u32, self.fop as u32 & 0x7ff);
        if layout.protected {
            fields.whole(fip);
            fields.whole(self.fcs as u32 | if layout.wide { fop << 16 } else { 0 });
            fields.whole(fdp);
            fields.word(self.fds);
        } else {
            let fip = fip.wrapping_add((self.fcs as u32) << 4);
            let fdp = fdp.wrapping_add((self.fds as u32) << 4);
            fields.whole(fip & 0xffff);
            fields.whole(
                if layout.wide {
                    fip >> 16 << 12
                } else {
                    fip >> 16 << 12 & 0xf000
                } | fop,
            );
            fields.whole(fdp & 0xffff);
            fields.whole(if layout.wide {
                fdp >> 16 << 12
            } else {
                fdp >> 16 << 12 & 0xf000
            });
        }
        bytes
    }

    /// What FNSTENV does after storing.
    pub fn mask_all(&mut self) {
        self.set_fcw(self.fcw | 0x3f);
    }

    /// FLDENV.
    pub fn load_environment(&mut self, layout: Layout, bytes: &[u8]) {
        let step = if layout.wide { 4 } else { 2 };
        let word = |n: usize| u16_at(bytes, n * step);
        let whole = |n: usize| {
            if layout.wide {
                u32_at(bytes, n * step)
            } else {
                word(n) as u32
            }
        };
        let tags = word(2);
        if layout.protected {
            self.fip = whole(3) as u64;
            self.fcs = word(4);
            if layout.wide {
                self.fop = (whole(4) >> 16) as u16 & 0x7ff;
            }
            self.fdp = whole(5) as u64;
            self.fds = word(6);
        } else {
            self.fip = (whole(3) & 0xffff | whole(4) >> 12 << 16) as u64;
            self.fop = whole(4) as u16 & 0x7ff;
            self.fdp = (whole(5) & 0xffff | whole(6) >> 12 << 16) as u64;
            (self.fcs, self.fds) = (0, 0);
        }
        self.set_fcw(word(0));
        self.set_fsw(word(1));
        self.retag(|at| tags >> (2 * at) & 3 == 3);
    }

    /// The eight registers from ST(0) on, ten bytes each, as FSAVE stores them behind the environment.
    pub fn registers(&self) -> [u8; REGISTERS] {
        let mut bytes = [0; REGISTERS];
        for (i, to) in bytes.chunks_exact_mut(10).enumerate() {
            to.copy_from_slice(&self.st(i).to_le_bytes()[..10]);
        }
        bytes
    }

    /// The registers of FRSTOR, after [`X87::load_environment`].
    pub fn load_registers(&mut self, bytes: &[u8]) {
        let tags = self.ftw;
        for i in 0..8 {
            let at = self.physical(i);
            self.r[at] = f80_at(bytes, 10 * i);
        }
        self.retag(|at| tags >> (2 * at) & 3 == 3);
    }

    /// The abridged tag byte: a one for each register that isn't empty.
    pub fn abridged_tags(&self) -> u8 {
        (0..8).fold(0, |byte, at| byte | ((self.ftw >> (2 * at) & 3 != 3) as u8) << at)
    }

    /// The first 160 bytes of an FXSAVE image but for MXCSR and its mask at 24 to 31, which stay zero. With `rex_w`
    /// pointers have 64 bits and no selectors.
    pub fn fxsave(&self, rex_w: bool) -> [u8; FXSAVE_X87] {
        let mut bytes = [0; FXSAVE_X87];
        bytes[0..2].copy_from_slice(&self.fcw.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.fsw.to_le_bytes());
        bytes[4] = self.abridged_tags();
        bytes[6..8].copy_from_slice(&(self.fop & 0x7ff).to_le_bytes());
        let pointer = |offset: u64, selector: u16| {
            if rex_w {
                offset
            } else {
                offset & 0xffff_ffff | (selector as u64) << 32
            }
        };
        bytes[8..16].copy_from_slice(&pointer(self.fip, self.fcs).to_le_bytes());
        bytes[16..24].copy_from_slice(&pointer(self.fdp, self.fds).to_le_bytes());
        for (i, to) in bytes[32..].chunks_exact_mut(16).enumerate() {
            to[..10].copy_from_slice(&self.st(i).to_le_bytes()[..10]);
        }
        bytes
    }

    /// The x87 part of FXRSTOR.
    pub fn fxrstor(&mut self, rex_w: bool, bytes: &[u8]) {
        let full = bytes.get(4).copied().unwrap_or(0);
        self.fop = u16_at(bytes, 6) & 0x7ff;
        if rex_w {
            self.fip = u64_at(bytes, 8);
            self.fdp = u64_at(bytes, 16);
            (self.fcs, self.fds) = (0, 0);
        } else {
            self.fip = u32_at(bytes, 8) as u64;
            self.fcs = u16_at(bytes, 12);
            self.fdp = u32_at(bytes, 16) as u64;
            self.fds = u16_at(bytes, 20);
        }
        self.set_fcw(u16_at(bytes, 0));
        self.set_fsw(u16_at(bytes, 2));
        for i in 0..8 {
            let at = self.physical(i);
            self.r[at] = f80_at(bytes, 32 + 16 * i);
        }
        self.retag(|at| full >> at & 1 == 0);
    }
}
