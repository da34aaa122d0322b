//! The AES round instructions (FIPS 197; the state is a column-major 4 by 4 matrix of bytes, SDM vol. 1, 12.13).

use super::Vector;

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// The S-box: the inverse in GF(2^8), then an affine map. 3 generates the field, so the walk over its powers `p`
/// with `q = 1 / p` visits every pair.
const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = multiply(p, 3);
        q = multiply(q, 0xf6);
        table[p as usize] =
            q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

const fn multiples(by: u8) -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = multiply(i as u8, by);
        i += 1;
    }
    table
}
static X2: [u8; 256] = multiples(2);
static X3: [u8; 256] = multiples(3);
static X9: [u8; 256] = multiples(9);
static X11: [u8; 256] = multiples(11);
static X13: [u8; 256] = multiples(13);
static X14: [u8; 256] = multiples(14);

/// SubBytes after ShiftRows: byte `i` comes from row `i % 4` shifted left by its number.
fn shift_sub(state: u128) -> u128 {
    let s = state.u8s();
    u128::gen8(|i| SBOX[s[(i + 4 * (i % 4)) % 16] as usize])
}

fn inverse_shift_sub(state: u128) -> u128 {
    let s = state.u8s();
    u128::gen8(|i| INVERSE_SBOX[s[(i + 12 * (i % 4)) % 16] as usize])
}

fn mix_columns(state: u128) -> u128 {
    let s = state.u8s();
    u128::gen8(|i| {
        let row = |n: usize| s[i / 4 * 4 + (i + n) % 4] as usize;
        X2[row(0)] ^ X3[row(1)] ^ row(2) as u8 ^ row(3) as u8
    })
}

/// AESENC.
pub fn aesenc(state: u128, key: u128) -> u128 {
    mix_columns(shift_sub(state)) ^ key
}
/// AESENCLAST.
pub fn aesenclast(state: u128, key: u128) -> u128 {
    shift_sub(state) ^ key
}
/// AESDEC.
pub fn aesdec(state: u128, key: u128) -> u128 {
    aesimc(inverse_shift_sub(state)) ^ key
}
/// AESDECLAST.
pub fn aesdeclast(state: u128, key: u128) -> u128 {
    inverse_shift_sub(state) ^ key
}

/// AESIMC: InvMixColumns.
pub fn aesimc(state: u128) -> u128 {
    let s = state.u8s();
    u128::gen8(|i| {
        let row = |n: usize| s[i / 4 * 4 + (i + n) % 4] as usize;
        X14[row(0)] ^ X11[row(1)] ^ X13[row(2)] ^ X9[row(3)]
    })
}

/// AESKEYGENASSIST.
pub fn aeskeygenassist(key: u128, round: u8) -> u128 {
    let words = key.u32s();
    let sub = |w: u32| u32::from_le_bytes(w.to_le_bytes().map(|b| SBOX[b as usize]));
    let (x1, x3) = (sub(words[1]), sub(words[3]));
    let round = round as u32;
    u128::gen32(|i| [x1, x1.rotate_right(8) ^ round, x3, x3.rotate_right(8) ^ round][i])
}
