//! Which function an integer instruction on XMM registers is.

use super::Operation::{self, Binary, Blend, Immediate, Shift, Unary};
use crate::engine::exec::integer_vectors;
use crate::engine::simd::{aes, clmul, integer as int, shift, shuffle};
use iced_x86::Mnemonic as M;

pub(super) fn operation(m: M) -> Option<Operation> {
    let alike = integer_vectors::operation(m, Binary, Shift);
    if alike.is_some() {
        return alike;
    }
    Some(match m {
        M::Pcmpeqq => Binary(int::pcmpeqq),
        M::Pcmpgtq => Binary(int::pcmpgtq),
        M::Pminuw => Binary(int::pminuw),
        M::Pminud => Binary(int::pminud),
        M::Pminsb => Binary(int::pminsb),
        M::Pminsd => Binary(int::pminsd),
        M::Pmaxuw => Binary(int::pmaxuw),
        M::Pmaxud => Binary(int::pmaxud),
        M::Pmaxsb => Binary(int::pmaxsb),
        M::Pmaxsd => Binary(int::pmaxsd),
        M::Pmulld => Binary(int::pmulld),
        M::Pmuldq => Binary(int::pmuldq),
        M::Andps | M::Andpd => Binary(int::pand),
        M::Andnps | M::Andnpd => Binary(int::pandn),
        M::Orps | M::Orpd => Binary(int::por),
        M::Xorps | M::Xorpd => Binary(int::pxor),
        M::Unpcklps => Binary(shuffle::punpckldq),
        M::Punpcklqdq | M::Unpcklpd => Binary(shuffle::punpcklqdq),
        M::Unpckhps => Binary(shuffle::punpckhdq),
        M::Punpckhqdq | M::Unpckhpd => Binary(shuffle::punpckhqdq),
        M::Packusdw => Binary(shuffle::packusdw),
        M::Aesenc => Binary(aes::aesenc),
        M::Aesenclast => Binary(aes::aesenclast),
        M::Aesdec => Binary(aes::aesdec),
        M::Aesdeclast => Binary(aes::aesdeclast),

        M::Aesimc => Unary(aes::aesimc),
        M::Phminposuw => Unary(int::phminposuw),
        M::Movddup => Unary(shuffle::movddup),
        M::Movsldup => Unary(shuffle::movsldup),
        M::Movshdup => Unary(shuffle::movshdup),
        M::Pmovsxbw => Unary(shuffle::pmovsxbw),
        M::Pmovsxbd => Unary(shuffle::pmovsxbd),
        M::Pmovsxbq => Unary(shuffle::pmovsxbq),
        M::Pmovsxwd => Unary(shuffle::pmovsxwd),
        M::Pmovsxwq => Unary(shuffle::pmovsxwq),
        M::Pmovsxdq => Unary(shuffle::pmovsxdq),
        M::Pmovzxbw => Unary(shuffle::pmovzxbw),
        M::Pmovzxbd => Unary(shuffle::pmovzxbd),
        M::Pmovzxbq => Unary(shuffle::pmovzxbq),
        M::Pmovzxwd => Unary(shuffle::pmovzxwd),
        M::Pmovzxwq => Unary(shuffle::pmovzxwq),
        M::Pmovzxdq => Unary(shuffle::pmovzxdq),

        M::Pslldq => Shift(|a, count| shift::pslldq(a, count as u8)),
        M::Psrldq => Shift(|a, count| shift::psrldq(a, count as u8)),

        M::Pshufd => Immediate(|_, b, imm| shuffle::pshufd(b, imm)),
        M::Pshuflw => Immediate(|_, b, imm| shuffle::pshuflw(b, imm)),
        M::Pshufhw => Immediate(|_, b, imm| shuffle::pshufhw(b, imm)),
        M::Shufps => Immediate(shuffle::shufps),
        M::Shufpd => Immediate(shuffle::shufpd),
        M::Palignr => Immediate(shuffle::palignr),
        M::Pblendw => Immediate(shuffle::pblendw),
        M::Blendps => Immediate(shuffle::blendps),
        M::Blendpd => Immediate(shuffle::blendpd),
        M::Mpsadbw => Immediate(int::mpsadbw),
        M::Pclmulqdq => Immediate(clmul::pclmulqdq),
        M::Aeskeygenassist => Immediate(|_, b, imm| aes::aeskeygenassist(b, imm)),

        M::Pblendvb => Blend(shuffle::pblendvb),
        M::Blendvps => Blend(shuffle::blendvps),
        M::Blendvpd => Blend(shuffle::blendvpd),
        _ => return None,
    })
}
