//! Shifts and rotates: SHL to SAR, ROL to RCR, SHLD, SHRD, and the flagless BMI2 forms.

use super::operand::by_width;
use crate::engine::bus::Bus;
use crate::engine::flags::{Flags, Width};
use crate::engine::vcpu::{Exec, Vcpu};
use iced_x86::{Instruction, Mnemonic};

/// The shifts and rotates; SAL is SHL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// Shifts or rotates by `count`; a masked count of zero changes no flag. OF for counts other than one is
/// undefined; it gets what real CPUs compute: the top bit's change of the last step.
#[inline(always)]
pub(crate) fn shift<T: Width>(flags: &mut Flags, op: Shift, value: T, count: u8) -> T {
    let bits = T::BITS;
    let count = (count & if bits == 64 { 63 } else { 31 }) as u32;
    if count == 0 {
        return value;
    }
    let v = value.to_u64();
    let top = bits - 1;
    match op {
        Shift::Shl => {
            let wide = (v as u128) << count;
            let r = T::from_u64(wide as u64);
            let cf = (wide >> bits) & 1 != 0;
            let of = cf != (r.to_u64() >> top & 1 != 0);
            flags.set_result(r, cf, of);
            r
        }
        Shift::Shr => {
            let r = T::from_u64(v.checked_shr(count).unwrap_or(0));
            let cf = v.checked_shr(count - 1).unwrap_or(0) & 1 != 0;
            let of = if count == 1 {
                v >> top & 1 != 0
            } else {
                (r.to_u64() ^ r.to_u64() << 1) >> top & 1 != 0
            };
            flags.set_result(r, cf, of);
            r
        }
        Shift::Sar => {
            let signed = value.sign_extend() as i64;
            let r = T::from_u64((signed >> count.min(63)) as u64);
            let cf = signed >> (count - 1).min(63) & 1 != 0;
            flags.set_result(r, cf, false);
            r
        }
        Shift::Rol => {
            let n = count % bits;
            let r = if n == 0 {
                value
            } else {
                T::from_u64(v << n | v >> (bits - n))
            };
            let cf = r.to_u64() & 1 != 0;
            flags.set_cf_of(cf, cf != (r.to_u64() >> top & 1 != 0));
            r
        }
        Shift::Ror => {
            let n = count % bits;
            let r = if n == 0 {
                value
            } else {
                T::from_u64(v >> n | v << (bits - n))
            };
            let cf = r.to_u64() >> top & 1 != 0;
            flags.set_cf_of(cf, cf != (r.to_u64() >> (top - 1) & 1 != 0));
            r
        }
        Shift::Rcl | Shift::Rcr => {
            let n = count % (bits + 1);
            if n == 0 {
                return value;
            }
            let wide = (flags.cf() as u128) << bits | v as u128;
            let total = bits + 1;
            let m = (1u128 << total) - 1;
            let left = if op == Shift::Rcl { n } else { total - n };
            let r = (wide << left | wide >> (total - left)) & m;
            let cf = r >> bits & 1 != 0;
            let value = T::from_u64(r as u64);
            let high = value.to_u64() >> top & 1 != 0;
            let of = if op == Shift::Rcl {
                cf != high
            } else {
                high != (value.to_u64() >> (top - 1) & 1 != 0)
            };
            flags.set_cf_of(cf, of);
            value
        }
    }
}

pub(crate) fn by_mnemonic(mnemonic: Mnemonic) -> Shift {
    match mnemonic {
        Mnemonic::Rol => Shift::Rol,
        Mnemonic::Ror => Shift::Ror,
        Mnemonic::Rcl => Shift::Rcl,
        Mnemonic::Rcr => Shift::Rcr,
        Mnemonic::Shr => Shift::Shr,
        Mnemonic::Sar => Shift::Sar,
        _ => Shift::Shl,
    }
}

pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let count = cpu.read_operand(bus, i, 1)? as u8;
    let value = cpu.read_operand_for_write(bus, i, 0)?;
    let mut flags = cpu.flags;
    let op = by_mnemonic(i.mnemonic());
    let r =
        by_width!(Vcpu::operand_size(i, 0), T => shift(&mut flags, op, T::from_u64(value), count).to_u64());
    cpu.write_operand(bus, i, 0, r)?;
    cpu.flags = flags;
    Ok(())
}

/// SHLD and SHRD. For a 16-bit operand and a count over 16 the result is undefined; it is what a rotating
/// 48-bit shifter gives.
pub(crate) fn double(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let bits = 8 * size as u32;
    let count = cpu.read_operand(bus, i, 2)? as u32 & if size == 8 { 63 } else { 31 };
    let fill = cpu.read_operand(bus, i, 1)?;
    let value = cpu.read_operand_for_write(bus, i, 0)?;
    if count == 0 {
        // The destination is still written: a 32-bit register loses its upper half.
        return cpu.write_operand(bus, i, 0, value);
    }
    let left = i.mnemonic() == Mnemonic::Shld;
    let (r, cf) = if bits == 16 {
        let triple = (value as u128) << 32 | (fill as u128) << 16 | value as u128;
        if left {
            let shifted = triple << count;
            ((shifted >> 32) as u64 & 0xffff, shifted >> 48 & 1 != 0)
        } else {
            ((triple >> count) as u64 & 0xffff, triple >> (count - 1) & 1 != 0)
        }
    } else if left {
        let wide = (value as u128) << bits | fill as u128;
        let shifted = wide << count;
        let cf = value >> (bits - count) & 1 != 0;
        ((shifted >> bits) as u64, cf)
    } else {
        let wide = (fill as u128) << bits | value as u128;
        ((wide >> count) as u64, value >> (count - 1) & 1 != 0)
    };
    let mut flags = cpu.flags;
    by_width!(size, T => {
        let (before, after) = (T::from_u64(value), T::from_u64(r));
        let of = (before.sign_extend() ^ after.sign_extend()) >> 63 != 0;
        flags.set_result(after, cf, of);
    });
    cpu.write_operand(bus, i, 0, r)?;
    cpu.flags = flags;
    Ok(())
}

/// RORX, SARX, SHLX, SHRX: no flags.
pub(crate) fn without_flags(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let value = cpu.read_operand(bus, i, 1)?;
    let count = cpu.read_operand(bus, i, 2)? as u8;
    let op = match i.mnemonic() {
        Mnemonic::Rorx => Shift::Ror,
        Mnemonic::Sarx => Shift::Sar,
        Mnemonic::Shlx => Shift::Shl,
        _ => Shift::Shr,
    };
    let mut flags = Flags::default();
    let r = by_width!(size, T => shift(&mut flags, op, T::from_u64(value), count).to_u64());
    cpu.set_register(i.op0_register(), r);
    Ok(())
}
