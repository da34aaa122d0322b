//! Conversions between singles, doubles and integers in XMM, MMX and general registers.

use super::Operation::{self, Float, Special};
use super::{source, under_mxcsr, xmm};
use crate::engine::bus::Bus;
use crate::engine::exec::mmx;
use crate::engine::simd::convert;
use crate::engine::simd::scalar::{F32, F64};
use crate::engine::vcpu::{Exec, Vcpu};
use iced_x86::{Instruction, Mnemonic as M, OpKind};

pub(super) fn operation(m: M) -> Option<Operation> {
    Some(match m {
        M::Cvtps2pd => Float(|e, _, b| convert::cvtps2pd(e, b)),
        M::Cvtpd2ps => Float(|e, _, b| convert::cvtpd2ps(e, b)),
        M::Cvtdq2ps => Float(|e, _, b| convert::cvtdq2ps(e, b)),
        M::Cvtdq2pd => Float(|e, _, b| convert::cvtdq2pd(e, b as u64)),
        M::Cvtps2dq => Float(|e, _, b| convert::cvtps2dq(e, b, false)),
        M::Cvttps2dq => Float(|e, _, b| convert::cvtps2dq(e, b, true)),
        M::Cvtpd2dq => Float(|e, _, b| convert::cvtpd2dq(e, b, false) as u128),
        M::Cvttpd2dq => Float(|e, _, b| convert::cvtpd2dq(e, b, true) as u128),
        M::Cvtss2sd => Float(|e, a, b| low64(a, convert::f32_to_f64(e, b as u32))),
        M::Cvtsd2ss => Float(|e, a, b| low32(a, convert::f64_to_f32(e, b as u64))),
        M::Cvtss2si | M::Cvttss2si | M::Cvtsd2si | M::Cvttsd2si => Special(to_general),
        M::Cvtsi2ss | M::Cvtsi2sd => Special(from_general),
        M::Cvtpi2ps | M::Cvtpi2pd => Special(from_mmx),
        M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi => Special(to_mmx),
        _ => return None,
    })
}

fn low32(a: u128, low: u32) -> u128 {
    a & !0xffff_ffff | low as u128
}

fn low64(a: u128, low: u64) -> u128 {
    a >> 64 << 64 | low as u128
}

fn to_general(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let b = source(cpu, bus, i, 1)?;
    let m = i.mnemonic();
    let bits = 8 * i.op0_register().size() as u32;
    let truncate = matches!(m, M::Cvttss2si | M::Cvttsd2si);
    let value = under_mxcsr(cpu, |e| match m {
        M::Cvtss2si | M::Cvttss2si => convert::to_integer::<F32>(e, b as u32 as u64, bits, truncate),
        _ => convert::to_integer::<F64>(e, b as u64, bits, truncate),
    })?;
    cpu.set_register(i.op0_register(), value as u64);
    Ok(())
}

fn from_general(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let raw = cpu.read_operand(bus, i, 1)?;
    let value = if Vcpu::operand_size(i, 1) == 8 {
        raw as i64
    } else {
        raw as i32 as i64
    };
    let single = i.mnemonic() == M::Cvtsi2ss;
    let a = cpu.r.xmm[xmm(i, 0)];
    let result = under_mxcsr(cpu, |e| {
        if single {
            low32(a, convert::from_integer::<F32>(e, value) as u32)
        } else {
            low64(a, convert::from_integer::<F64>(e, value))
        }
    })?;
    cpu.r.xmm[xmm(i, 0)] = result;
    Ok(())
}

/// CVTPI2PS, CVTPI2PD; the latter leaves the x87 alone when its source is memory.
fn from_mmx(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let single = i.mnemonic() == M::Cvtpi2ps;
    let enters = single || i.op_kind(1) == OpKind::Register;
    if enters {
        mmx::check(cpu)?;
    }
    let b = mmx::read(cpu, bus, i, 1)?;
    // The transition comes before the conversion: also if that faults.
    if enters {
        cpu.r.x87.enter_mmx();
    }
    let a = cpu.r.xmm[xmm(i, 0)];
    let result = under_mxcsr(cpu, |e| {
        if single {
            low64(a, convert::cvtpi2ps(e, b))
        } else {
            convert::cvtdq2pd(e, b)
        }
    })?;
    cpu.r.xmm[xmm(i, 0)] = result;
    Ok(())
}

fn to_mmx(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    mmx::check(cpu)?;
    let b = source(cpu, bus, i, 1)?;
    cpu.r.x87.enter_mmx();
    let m = i.mnemonic();
    let truncate = matches!(m, M::Cvttps2pi | M::Cvttpd2pi);
    let value = under_mxcsr(cpu, |e| match m {
        M::Cvtps2pi | M::Cvttps2pi => convert::cvtps2pi(e, b as u64, truncate),
        _ => convert::cvtpd2dq(e, b, truncate),
    })?;
    cpu.r.x87.set_mmx(mmx::mm(i, 0), value);
    Ok(())
}
