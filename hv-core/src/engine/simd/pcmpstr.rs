//! The string comparisons of SSE4.2: PCMPESTRI/M and PCMPISTRI/M (SDM vol. 2B, 4.1).

use super::Vector;
use crate::regs::rflags;

/// What a comparison gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// IntRes2: a bit for each element of the second operand.
    pub bits: u16,
    /// CF, ZF, SF, OF; AF and PF are cleared.
    pub flags: u64,
    elements: u32,
    imm: u8,
}

/// The length PCMPESTRx reads from EAX or EDX (RAX or RDX with REX.W): its magnitude, at most the element count.
pub fn explicit_length(register: i64, imm: u8) -> usize {
    register.unsigned_abs().min(elements(imm) as u64) as usize
}

/// The length PCMPISTRx finds: the elements before the first zero.
pub fn implicit_length(a: u128, imm: u8) -> usize {
    let values = unpack(a, imm);
    let count = elements(imm);
    values[..count].iter().position(|&v| v == 0).unwrap_or(count)
}

fn elements(imm: u8) -> usize {
    if imm & 1 != 0 { 8 } else { 16 }
}

/// The elements, extended so that plain comparison of `i32` has the signedness imm8 bit 1 asks for.
fn unpack(a: u128, imm: u8) -> [i32; 16] {
    let (bytes, words) = (a.u8s(), a.u16s());
    core::array::from_fn(|i| match imm & 3 {
        0 => bytes[i] as i32,
        1 => words[i & 7] as i32,
        2 => bytes[i] as i8 as i32,
        _ => words[i & 7] as i16 as i32,
    })
}

/// Compares `a` (the first operand) with `b`, of which the first `len_a` and `len_b` elements are valid.
pub fn compare(a: u128, b: u128, len_a: usize, len_b: usize, imm: u8) -> Compared {
    let count = elements(imm);
    let (len_a, len_b) = (len_a.min(count), len_b.min(count));
    let (va, vb) = (unpack(a, imm), unpack(b, imm));
    let mut result = 0u32;
    for j in 0..count {
        let valid = j < len_b;
        let hit = match imm >> 2 & 3 {
            // Equal any.
            0 => valid && va[..len_a].contains(&vb[j]),
            // Ranges: pairs of bounds; an odd last one counts not.
            1 => {
                valid
                    && va[..len_a & !1]
                        .chunks_exact(2)
                        .any(|r| r[0] <= vb[j] && vb[j] <= r[1])
            }
            // Equal each: two ends compare equal.
            2 => match (j < len_a, valid) {
                (true, true) => va[j] == vb[j],
                (false, false) => true,
                _ => false,
            },
            // Equal ordered: `a` as a substring of `b` at j; past the register's end it matches.
            _ => (0..len_a.min(count - j)).all(|i| j + i < len_b && va[i] == vb[j + i]),
        };
        result |= (hit as u32) << j;
    }
    let all = (1u32 << count) - 1;
    let bits = match imm >> 4 & 3 {
        1 => result ^ all,
        3 => result ^ ((1u32 << len_b) - 1),
        _ => result,
    };
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let flags = flag(bits != 0, rflags::CF)
        | flag(len_b < count, rflags::ZF)
        | flag(len_a < count, rflags::SF)
        | flag(bits & 1 != 0, rflags::OF);
    Compared {
        bits: bits as u16,
        flags,
        elements: count as u32,
        imm,
    }
}

impl Compared {
    /// ECX of the I forms: the lowest or highest set bit, the element count if none.
    pub fn index(&self) -> u32 {
        if self.bits == 0 {
            self.elements
        } else if self.imm & 0x40 != 0 {
            15 - self.bits.leading_zeros()
        } else {
            self.bits.trailing_zeros()
        }
    }

    /// XMM0 of the M forms: the bits, or a mask of whole elements.
    pub fn mask(&self) -> u128 {
        let bits = self.bits;
        match (self.imm & 0x40 != 0, self.imm & 1 != 0) {
            (false, _) => bits as u128,
            (true, false) => u128::gen8(|i| if bits >> i & 1 != 0 { !0 } else { 0 }),
            (true, true) => u128::gen16(|i| if bits >> i & 1 != 0 { !0 } else { 0 }),
        }
    }
}
