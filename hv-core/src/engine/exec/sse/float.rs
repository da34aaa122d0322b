//! Which function a floating-point instruction is.

use super::Operation::{self, Float, FloatImmediate, Lanes, LanesImmediate, Special};
use super::{source, under_mxcsr};
use crate::engine::bus::Bus;
use crate::engine::flags::Flags;
use crate::engine::simd::packed::{self, LaneOp as L, Shape};
use crate::engine::simd::scalar::{self, F32, F64, Op};
use crate::engine::vcpu::{Exec, Vcpu};
use iced_x86::{Instruction, Mnemonic as M};

pub(super) fn operation(m: M) -> Option<Operation> {
    use Shape::{Pd, Ps, Sd, Ss};
    Some(match m {
        M::Addps => Lanes(Ps, L::Arithmetic(Op::Add)),
        M::Addpd => Lanes(Pd, L::Arithmetic(Op::Add)),
        M::Addss => Lanes(Ss, L::Arithmetic(Op::Add)),
        M::Addsd => Lanes(Sd, L::Arithmetic(Op::Add)),
        M::Subps => Lanes(Ps, L::Arithmetic(Op::Sub)),
        M::Subpd => Lanes(Pd, L::Arithmetic(Op::Sub)),
        M::Subss => Lanes(Ss, L::Arithmetic(Op::Sub)),
        M::Subsd => Lanes(Sd, L::Arithmetic(Op::Sub)),
        M::Mulps => Lanes(Ps, L::Arithmetic(Op::Mul)),
        M::Mulpd => Lanes(Pd, L::Arithmetic(Op::Mul)),
        M::Mulss => Lanes(Ss, L::Arithmetic(Op::Mul)),
        M::Mulsd => Lanes(Sd, L::Arithmetic(Op::Mul)),
        M::Divps => Lanes(Ps, L::Arithmetic(Op::Div)),
        M::Divpd => Lanes(Pd, L::Arithmetic(Op::Div)),
        M::Divss => Lanes(Ss, L::Arithmetic(Op::Div)),
        M::Divsd => Lanes(Sd, L::Arithmetic(Op::Div)),
        M::Minps => Lanes(Ps, L::Min),
        M::Minpd => Lanes(Pd, L::Min),
        M::Minss => Lanes(Ss, L::Min),
        M::Minsd => Lanes(Sd, L::Min),
        M::Maxps => Lanes(Ps, L::Max),
        M::Maxpd => Lanes(Pd, L::Max),
        M::Maxss => Lanes(Ss, L::Max),
        M::Maxsd => Lanes(Sd, L::Max),
        M::Sqrtps => Lanes(Ps, L::Sqrt),
        M::Sqrtpd => Lanes(Pd, L::Sqrt),
        M::Sqrtss => Lanes(Ss, L::Sqrt),
        M::Sqrtsd => Lanes(Sd, L::Sqrt),
        M::Rcpps => Lanes(Ps, L::Reciprocal),
        M::Rcpss => Lanes(Ss, L::Reciprocal),
        M::Rsqrtps => Lanes(Ps, L::ReciprocalSqrt),
        M::Rsqrtss => Lanes(Ss, L::ReciprocalSqrt),
        M::Cmpps => LanesImmediate(Ps, L::Compare),
        M::Cmppd => LanesImmediate(Pd, L::Compare),
        M::Cmpss => LanesImmediate(Ss, L::Compare),
        M::Cmpsd => LanesImmediate(Sd, L::Compare),
        M::Roundps => LanesImmediate(Ps, L::Round),
        M::Roundpd => LanesImmediate(Pd, L::Round),
        M::Roundss => LanesImmediate(Ss, L::Round),
        M::Roundsd => LanesImmediate(Sd, L::Round),
        M::Haddps => Float(|e, a, b| packed::horizontal_ps(e, Op::Add, a, b)),
        M::Hsubps => Float(|e, a, b| packed::horizontal_ps(e, Op::Sub, a, b)),
        M::Haddpd => Float(|e, a, b| packed::horizontal_pd(e, Op::Add, a, b)),
        M::Hsubpd => Float(|e, a, b| packed::horizontal_pd(e, Op::Sub, a, b)),
        M::Addsubps => Float(packed::addsubps),
        M::Addsubpd => Float(packed::addsubpd),
        M::Dpps => FloatImmediate(packed::dpps),
        M::Dppd => FloatImmediate(packed::dppd),
        M::Comiss | M::Ucomiss | M::Comisd | M::Ucomisd => Special(compare),
        _ => return None,
    })
}

/// COMISS, UCOMISS, COMISD, UCOMISD.
fn compare(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let m = i.mnemonic();
    let quiet = matches!(m, M::Ucomiss | M::Ucomisd);
    let b = source(cpu, bus, i, 1)?;
    let a = cpu.r.xmm[super::xmm(i, 0)];
    let flags = under_mxcsr(cpu, |e| match m {
        M::Comiss | M::Ucomiss => scalar::compare_flags::<F32>(e, a as u32 as u64, b as u32 as u64, quiet),
        _ => scalar::compare_flags::<F64>(e, a as u64, b as u64, quiet),
    })?;
    cpu.flags = Flags::from_rflags(flags);
    Ok(())
}
