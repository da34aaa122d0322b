//! ADD to CMP, INC, DEC, NEG, NOT, MUL, IMUL, DIV, IDIV, sign extension, ADCX and ADOX, and the BCD instructions.

use super::operand::by_width;
use crate::engine::bus::Bus;
use crate::engine::flags::{Flags, Width};
use crate::engine::vcpu::{Exec, Vcpu, vector};
use crate::regs::{gpr, rflags};
use iced_x86::{Instruction, Mnemonic, Register};

/// The two-operand ALU operations in the order of their opcodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// Computes `a op b` and sets the flags.
#[inline(always)]
pub(crate) fn alu<T: Width>(flags: &mut Flags, op: Alu, a: T, b: T) -> T {
    let (x, y) = (a.to_u64(), b.to_u64());
    match op {
        Alu::Add => {
            let r = T::from_u64(x.wrapping_add(y));
            flags.set_add(a, b, r);
            r
        }
        Alu::Adc => {
            let r = T::from_u64(x.wrapping_add(y).wrapping_add(flags.cf() as u64));
            flags.set_add(a, b, r);
            r
        }
        Alu::Sub | Alu::Cmp => {
            let r = T::from_u64(x.wrapping_sub(y));
            flags.set_sub(a, b, r);
            r
        }
        Alu::Sbb => {
            let r = T::from_u64(x.wrapping_sub(y).wrapping_sub(flags.cf() as u64));
            flags.set_sub(a, b, r);
            r
        }
        Alu::And | Alu::Or | Alu::Xor => {
            let r = T::from_u64(match op {
                Alu::And => x & y,
                Alu::Or => x | y,
                _ => x ^ y,
            });
            flags.set_logic(r);
            r
        }
    }
}

/// INC or DEC: CF is kept.
#[inline(always)]
pub(crate) fn increment<T: Width>(flags: &mut Flags, a: T, down: bool) -> T {
    let carry = flags.cf();
    let r = alu(flags, if down { Alu::Sub } else { Alu::Add }, a, T::from_u64(1));
    flags.set_cf(carry);
    r
}

pub(crate) fn binary(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, op: Alu) -> Exec {
    let b = cpu.read_operand(bus, i, 1)?;
    if op == Alu::Cmp {
        let a = cpu.read_operand(bus, i, 0)?;
        by_width!(Vcpu::operand_size(i, 0), T => {
            alu::<T>(&mut cpu.flags, op, T::from_u64(a), T::from_u64(b));
        });
        return Ok(());
    }
    let a = cpu.read_operand_for_write(bus, i, 0)?;
    let before = cpu.flags;
    let r = by_width!(Vcpu::operand_size(i, 0), T => alu::<T>(&mut cpu.flags, op, T::from_u64(a), T::from_u64(b)).to_u64());
    let after = std::mem::replace(&mut cpu.flags, before);
    cpu.write_operand(bus, i, 0, r)?;
    cpu.flags = after;
    Ok(())
}

pub(crate) fn test(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let (a, b) = (cpu.read_operand(bus, i, 0)?, cpu.read_operand(bus, i, 1)?);
    by_width!(Vcpu::operand_size(i, 0), T => cpu.flags.set_logic(T::from_u64(a & b)));
    Ok(())
}

/// INC, DEC, NEG, NOT.
pub(crate) fn unary(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let a = cpu.read_operand_for_write(bus, i, 0)?;
    let mut flags = cpu.flags;
    let r = by_width!(Vcpu::operand_size(i, 0), T => {
        let a = T::from_u64(a);
        match i.mnemonic() {
            Mnemonic::Inc => increment(&mut flags, a, false),
            Mnemonic::Dec => increment(&mut flags, a, true),
            Mnemonic::Neg => alu(&mut flags, Alu::Sub, T::from_u64(0), a),
            _ => !a,
        }
        .to_u64()
    });
    cpu.write_operand(bus, i, 0, r)?;
    cpu.flags = flags;
    Ok(())
}

fn sign_extend(value: u64, size: usize) -> i64 {
    by_width!(size, T => T::from_u64(value).sign_extend() as i64)
}

/// MUL and one-operand IMUL: CF and OF tell whether the upper half is needed.
pub(crate) fn multiply(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, signed: bool) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let b = cpu.read_operand(bus, i, 0)?;
    let bits = 8 * size as u32;
    let a = cpu.gpr[gpr::RAX] & (u64::MAX >> (64 - bits));
    let product = if signed {
        (sign_extend(a, size) as i128 * sign_extend(b, size) as i128) as u128
    } else {
        a as u128 * b as u128
    };
    let low = product as u64 & (u64::MAX >> (64 - bits));
    let high = (product >> bits) as u64 & (u64::MAX >> (64 - bits));
    match size {
        1 => cpu.set_register(Register::AX, product as u64 & 0xffff),
        2 => {
            cpu.set_register(Register::AX, low);
            cpu.set_register(Register::DX, high);
        }
        4 => {
            cpu.gpr[gpr::RAX] = low;
            cpu.gpr[gpr::RDX] = high;
        }
        _ => {
            cpu.gpr[gpr::RAX] = low;
            cpu.gpr[gpr::RDX] = high;
        }
    }
    let overflow = if signed {
        product as i128 != sign_extend(low, size) as i128
    } else {
        high != 0
    };
    by_width!(size, T => cpu.flags.set_result(T::from_u64(low), overflow, overflow));
    Ok(())
}

/// The truncated product and whether it overflowed.
#[inline(always)]
pub(crate) fn imul<T: Width>(flags: &mut Flags, a: T, b: T) -> T {
    let product = a.sign_extend() as i64 as i128 * b.sign_extend() as i64 as i128;
    let r = T::from_u64(product as u64);
    let overflow = r.sign_extend() as i64 as i128 != product;
    flags.set_result(r, overflow, overflow);
    r
}

/// IMUL with two or three operands.
pub(crate) fn imul_truncated(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let (a, b) = if i.op_count() == 3 {
        (cpu.read_operand(bus, i, 1)?, cpu.read_operand(bus, i, 2)?)
    } else {
        (cpu.read_operand(bus, i, 0)?, cpu.read_operand(bus, i, 1)?)
    };
    let r = by_width!(Vcpu::operand_size(i, 0), T => imul(&mut cpu.flags, T::from_u64(a), T::from_u64(b)).to_u64());
    cpu.set_register(i.op0_register(), r);
    Ok(())
}

/// DIV and IDIV: #DE on zero or when the quotient doesn't fit. Flags are undefined; they are kept.
pub(crate) fn divide(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, signed: bool) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let divisor = cpu.read_operand(bus, i, 0)?;
    let bits = 8 * size as u32;
    let m = u64::MAX >> (64 - bits);
    let dividend = if size == 1 {
        (cpu.gpr[gpr::RAX] & 0xffff) as u128
    } else {
        ((cpu.gpr[gpr::RDX] & m) as u128) << bits | (cpu.gpr[gpr::RAX] & m) as u128
    };
    if divisor == 0 {
        return Err(cpu.raise(vector::DE));
    }
    let (quotient, remainder) = if signed {
        let shift = 128 - 2 * bits;
        let a = (dividend << shift) as i128 >> shift;
        let b = sign_extend(divisor, size) as i128;
        let Some(q) = a.checked_div(b) else {
            return Err(cpu.raise(vector::DE));
        };
        let (min, max) = (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1);
        if q < min || q > max {
            return Err(cpu.raise(vector::DE));
        }
        (q as u64, (a % b) as u64)
    } else if let (Ok(a), true) = (u64::try_from(dividend), size >= 4) {
        (a / divisor, a % divisor)
    } else {
        let q = dividend / divisor as u128;
        if q > m as u128 {
            return Err(cpu.raise(vector::DE));
        }
        (q as u64, (dividend % divisor as u128) as u64)
    };
    if !signed && quotient > m {
        return Err(cpu.raise(vector::DE));
    }
    match size {
        1 => cpu.set_register(Register::AX, (remainder & 0xff) << 8 | quotient & 0xff),
        2 => {
            cpu.set_register(Register::AX, quotient);
            cpu.set_register(Register::DX, remainder);
        }
        _ => {
            cpu.gpr[gpr::RAX] = quotient & m;
            cpu.gpr[gpr::RDX] = remainder & m;
        }
    }
    Ok(())
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub(crate) fn extend_accumulator(cpu: &mut Vcpu, mnemonic: Mnemonic) {
    let a = cpu.gpr[gpr::RAX];
    match mnemonic {
        Mnemonic::Cbw => cpu.set_register(Register::AX, a as i8 as u64),
        Mnemonic::Cwde => cpu.set_register(Register::EAX, a as i16 as u64),
        Mnemonic::Cdqe => cpu.gpr[gpr::RAX] = a as i32 as u64,
        Mnemonic::Cwd => cpu.set_register(Register::DX, ((a as i16) >> 15) as u64),
        Mnemonic::Cdq => cpu.set_register(Register::EDX, ((a as i32) >> 31) as u64),
        _ => cpu.gpr[gpr::RDX] = ((a as i64) >> 63) as u64,
    }
}

/// ADCX and ADOX: one carry chain each, the other flags untouched.
pub(crate) fn add_with_one_flag(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let (a, b) = (cpu.read_operand(bus, i, 0)?, cpu.read_operand(bus, i, 1)?);
    let adcx = i.mnemonic() == Mnemonic::Adcx;
    let carry = if adcx { cpu.flags.cf() } else { cpu.flags.of() };
    let bits = 8 * Vcpu::operand_size(i, 0) as u32;
    let sum = a as u128 + b as u128 + carry as u128;
    let out = sum >> bits != 0;
    cpu.set_register(i.op0_register(), sum as u64);
    let (cf, of) = (cpu.flags.cf(), cpu.flags.of());
    if adcx {
        cpu.flags.set_cf_of(out, of);
    } else {
        cpu.flags.set_cf_of(cf, out);
    }
    Ok(())
}

/// DAA, DAS, AAA, AAS, AAM, AAD (SDM vol. 2); only decoded outside 64-bit mode.
pub(crate) fn decimal(cpu: &mut Vcpu, i: &Instruction) -> Exec {
    let al = cpu.gpr[gpr::RAX] as u8;
    let ah = (cpu.gpr[gpr::RAX] >> 8) as u8;
    let (cf, af) = (cpu.flags.cf(), cpu.flags.af());
    match i.mnemonic() {
        Mnemonic::Daa | Mnemonic::Das => {
            let subtract = i.mnemonic() == Mnemonic::Das;
            let mut r = al;
            let adjust_low = al & 15 > 9 || af;
            let adjust_high = al > 0x99 || cf;
            let mut carry = false;
            if adjust_low {
                carry = if subtract { r < 6 } else { r > 0xf9 };
                r = if subtract {
                    r.wrapping_sub(6)
                } else {
                    r.wrapping_add(6)
                };
                carry |= cf;
            }
            if adjust_high {
                r = if subtract {
                    r.wrapping_sub(0x60)
                } else {
                    r.wrapping_add(0x60)
                };
                carry = true;
            } else if !subtract {
                carry = false;
            }
            cpu.set_register(Register::AL, r as u64);
            set_decimal_flags(cpu, r, carry, adjust_low);
        }
        Mnemonic::Aaa | Mnemonic::Aas => {
            let adjust = al & 15 > 9 || af;
            let ax = cpu.gpr[gpr::RAX] as u16;
            let mut r = ax;
            if adjust {
                r = if i.mnemonic() == Mnemonic::Aaa {
                    ax.wrapping_add(0x106)
                } else {
                    ax.wrapping_sub(6).wrapping_sub(0x100)
                };
            }
            r &= 0xff0f;
            cpu.set_register(Register::AX, r as u64);
            set_decimal_flags(cpu, r as u8, adjust, adjust);
        }
        Mnemonic::Aam => {
            let base = i.immediate8();
            if base == 0 {
                return Err(cpu.raise(vector::DE));
            }
            let r = (al / base) as u64 * 256 + (al % base) as u64;
            cpu.set_register(Register::AX, r);
            set_decimal_flags(cpu, r as u8, false, false);
        }
        _ => {
            let r = al.wrapping_add(ah.wrapping_mul(i.immediate8()));
            cpu.set_register(Register::AX, r as u64);
            set_decimal_flags(cpu, r, false, false);
        }
    }
    Ok(())
}

fn set_decimal_flags(cpu: &mut Vcpu, result: u8, cf: bool, af: bool) {
    cpu.flags.set_result(result, cf, false);
    if af {
        let value = cpu.flags.to_rflags() | rflags::AF;
        cpu.flags = Flags::from_rflags(value);
    }
}
