//! PCLMULQDQ: multiplication without carries.

/// The product of the halves of `a` and `b` that bits 0 and 4 of `imm` choose.
pub fn pclmulqdq(a: u128, b: u128, imm: u8) -> u128 {
    let a = if imm & 1 != 0 { a >> 64 } else { a as u64 as u128 };
    let b = if imm & 0x10 != 0 {
        b >> 64
    } else {
        b as u64 as u128
    };
    (0..64).fold(0, |product, i| {
        product ^ (a << i) & 0u128.wrapping_sub(b >> i & 1)
    })
}
