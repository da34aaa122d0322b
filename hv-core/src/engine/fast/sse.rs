//! Fast forms of the SSE2 instructions that string functions and compilers use most.

use super::{Op, ea, immediate, is_memory, is_register, memory_op, plain, reg};
use crate::engine::block::{Handler, handler};
use crate::engine::bus::Bus;
use crate::engine::exec::Flow;
use crate::engine::exec::sse::{check, xmm};
use crate::engine::simd::{integer as int, shift, shuffle};
use crate::engine::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M};

#[inline(always)]
fn get(cpu: &Vcpu, n: u8) -> u128 {
    cpu.r.xmm[(n & 15) as usize]
}

#[inline(always)]
fn put(cpu: &mut Vcpu, n: u8, value: u128) {
    cpu.r.xmm[(n & 15) as usize] = value;
}

/// Reads 16 bytes; `ALIGNED` ones fault elsewhere than on a multiple of 16.
#[inline(always)]
fn load<const ALIGNED: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Result<u128, Flow> {
    let linear = ea(cpu, op);
    if ALIGNED && linear & 15 != 0 {
        return Err(misaligned(cpu));
    }
    cpu.load_u128(bus, linear).map_err(|_| Flow::Abort)
}

#[cold]
fn misaligned(cpu: &mut Vcpu) -> Flow {
    let _ = cpu.general_protection();
    Flow::Abort
}

#[inline(always)]
fn move_rr(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    put(cpu, op.dst, get(cpu, op.src));
    Flow::Next
}

#[inline(always)]
fn move_rm<const ALIGNED: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let value = attempt!(load::<ALIGNED>(cpu, bus, op));
    put(cpu, op.dst, value);
    Flow::Next
}

#[inline(always)]
fn move_mr<const ALIGNED: bool>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let linear = ea(cpu, op);
    if ALIGNED && linear & 15 != 0 {
        return misaligned(cpu);
    }
    attempt!(cpu.store_u128(bus, linear, get(cpu, op.src)));
    Flow::Next
}

/// MOVQ and MOVSD from memory, MOVQ between registers and from a general one; `u32` for MOVD and MOVSS.
#[inline(always)]
fn low_rm<T: super::Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let value = attempt!(cpu.load::<T>(bus, ea(cpu, op)));
    put(cpu, op.dst, value.to_u64() as u128);
    Flow::Next
}

#[inline(always)]
fn low_mr<T: super::Width>(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let value = T::from_u64(get(cpu, op.src) as u64);
    attempt!(cpu.store::<T>(bus, ea(cpu, op), value));
    Flow::Next
}

#[inline(always)]
fn low_rr(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    put(cpu, op.dst, get(cpu, op.src) as u64 as u128);
    Flow::Next
}

#[inline(always)]
fn from_general<T: super::Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let value = T::from_u64(reg(cpu, op.src)).to_u64();
    put(cpu, op.dst, value as u128);
    Flow::Next
}

#[inline(always)]
fn to_general<T: super::Width>(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let value = T::from_u64(get(cpu, op.src) as u64);
    super::put::<T>(cpu, op.dst, value);
    Flow::Next
}

#[inline(always)]
fn pmovmskb(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    attempt!(check(cpu));
    let mask = int::pmovmskb(get(cpu, op.src));
    super::put::<u64>(cpu, op.dst, mask as u64);
    Flow::Next
}

#[inline(always)]
fn binary_rr(cpu: &mut Vcpu, op: &Op, f: impl FnOnce(u128, u128) -> u128) -> Flow {
    attempt!(check(cpu));
    put(cpu, op.dst, f(get(cpu, op.dst), get(cpu, op.src)));
    Flow::Next
}

#[inline(always)]
fn binary_rm(cpu: &mut Vcpu, bus: &mut Bus, op: &Op, f: impl FnOnce(u128, u128) -> u128) -> Flow {
    attempt!(check(cpu));
    let b = attempt!(load::<true>(cpu, bus, op));
    put(cpu, op.dst, f(get(cpu, op.dst), b));
    Flow::Next
}

/// The register and the memory form of `dst = f(dst, source, immediate)`.
macro_rules! forms {
    (|$a:ident, $b:ident, $imm:ident| $f:expr) => {{
        fn rr(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
            let $imm = op.imm;
            let _ = $imm;
            binary_rr(cpu, op, |$a, $b| $f)
        }
        fn rm(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
            let $imm = op.imm;
            let _ = $imm;
            binary_rm(cpu, bus, op, |$a, $b| $f)
        }
        (handler!(rr), handler!(rm))
    }};
    ($f:path) => {
        forms!(|a, b, _imm| $f(a, b))
    };
}

fn binary(m: M) -> Option<(Handler, Handler)> {
    Some(match m {
        M::Pxor | M::Xorps | M::Xorpd => forms!(int::pxor),
        M::Por | M::Orps | M::Orpd => forms!(int::por),
        M::Pand | M::Andps | M::Andpd => forms!(int::pand),
        M::Pandn | M::Andnps | M::Andnpd => forms!(int::pandn),
        M::Pcmpeqb => forms!(int::pcmpeqb),
        M::Pcmpeqw => forms!(int::pcmpeqw),
        M::Pcmpeqd => forms!(int::pcmpeqd),
        M::Pcmpgtb => forms!(int::pcmpgtb),
        M::Paddb => forms!(int::paddb),
        M::Paddd => forms!(int::paddd),
        M::Paddq => forms!(int::paddq),
        M::Psubb => forms!(int::psubb),
        M::Psubd => forms!(int::psubd),
        M::Pminub => forms!(int::pminub),
        M::Pmaxub => forms!(int::pmaxub),
        M::Pshufb => forms!(shuffle::pshufb),
        M::Punpcklbw => forms!(shuffle::punpcklbw),
        M::Punpcklwd => forms!(shuffle::punpcklwd),
        M::Punpckldq | M::Unpcklps => forms!(shuffle::punpckldq),
        M::Punpcklqdq | M::Unpcklpd => forms!(shuffle::punpcklqdq),
        M::Punpckhqdq | M::Unpckhpd => forms!(shuffle::punpckhqdq),
        M::Pshufd => forms!(|_a, b, imm| shuffle::pshufd(b, imm as u8)),
        _ => return None,
    })
}

/// Shifts by an immediate; only the register form exists.
fn shifts(m: M) -> Option<Handler> {
    let (rr, _) = match m {
        M::Pslldq => forms!(|a, _b, imm| shift::pslldq(a, imm as u8)),
        M::Psrldq => forms!(|a, _b, imm| shift::psrldq(a, imm as u8)),
        M::Pslld => forms!(|a, _b, imm| shift::pslld(a, imm)),
        M::Psrld => forms!(|a, _b, imm| shift::psrld(a, imm)),
        M::Psllq => forms!(|a, _b, imm| shift::psllq(a, imm)),
        M::Psrlq => forms!(|a, _b, imm| shift::psrlq(a, imm)),
        _ => return None,
    };
    Some(rr)
}

/// The XMM register operand `n`.
fn register(i: &Instruction, n: u32) -> Option<u8> {
    (is_register(i, n) && i.op_register(n).is_xmm()).then(|| xmm(i, n) as u8)
}

/// The fast form of an SSE instruction in 64-bit mode.
pub(super) fn lower(i: &Instruction) -> Option<Op> {
    let m = i.mnemonic();
    match m {
        M::Movaps | M::Movapd | M::Movdqa => whole(i, handler!(move_rm::<true>), handler!(move_mr::<true>)),
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => {
            whole(i, handler!(move_rm::<false>), handler!(move_mr::<false>))
        }
        M::Movsd | M::Movq if i.op_count() == 2 => low(i, true, m == M::Movq),
        M::Movss | M::Movd => low(i, false, m == M::Movd),
        M::Pmovmskb => Some(Op {
            dst: plain(i.op0_register())?,
            src: register(i, 1)?,
            ..Op::new(handler!(pmovmskb))
        }),
        _ => {
            let dst = register(i, 0)?;
            if let Some(imm) = immediate(i, 1) {
                return Some(Op {
                    dst,
                    imm,
                    ..Op::new(shifts(m)?)
                });
            }
            let (rr, rm) = binary(m)?;
            let imm = if i.op_count() == 3 { immediate(i, 2)? } else { 0 };
            if is_memory(i, 1) {
                return Some(Op {
                    dst,
                    imm,
                    ..memory_op(i, rm)?
                });
            }
            Some(Op {
                dst,
                src: register(i, 1)?,
                imm,
                ..Op::new(rr)
            })
        }
    }
}

fn whole(i: &Instruction, load: Handler, store: Handler) -> Option<Op> {
    if is_memory(i, 0) {
        return Some(Op {
            src: register(i, 1)?,
            ..memory_op(i, store)?
        });
    }
    let dst = register(i, 0)?;
    if is_memory(i, 1) {
        return Some(Op {
            dst,
            ..memory_op(i, load)?
        });
    }
    Some(Op {
        dst,
        src: register(i, 1)?,
        ..Op::new(handler!(move_rr))
    })
}

macro_rules! by_wide {
    ($wide:expr, $f:ident) => {
        if $wide {
            handler!($f::<u64>)
        } else {
            handler!($f::<u32>)
        }
    };
}

/// MOVQ, MOVD (`whole_register`), MOVSD and MOVSS. Between XMM registers the last two merge, and have no fast form.
fn low(i: &Instruction, wide: bool, whole_register: bool) -> Option<Op> {
    match (register(i, 0), register(i, 1)) {
        (Some(dst), Some(src)) if whole_register => Some(Op {
            dst,
            src,
            ..Op::new(handler!(low_rr))
        }),
        (Some(dst), None) if is_memory(i, 1) => Some(Op {
            dst,
            ..memory_op(i, by_wide!(wide, low_rm))?
        }),
        (Some(dst), None) if whole_register => Some(Op {
            dst,
            src: super::register(i, 1)?,
            ..Op::new(by_wide!(wide, from_general))
        }),
        (None, Some(src)) if is_memory(i, 0) => Some(Op {
            src,
            ..memory_op(i, by_wide!(wide, low_mr))?
        }),
        (None, Some(src)) if whole_register => Some(Op {
            dst: super::register(i, 0)?,
            src,
            ..Op::new(by_wide!(wide, to_general))
        }),
        _ => None,
    }
}
