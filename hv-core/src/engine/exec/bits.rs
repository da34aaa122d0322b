//! Bit tests and counts: BT to BTC, BSF, BSR, TZCNT, LZCNT, POPCNT, and BMI1 and BMI2.

use super::operand::by_width;
use crate::engine::bus::Bus;
use crate::engine::flags::Width;
use crate::engine::vcpu::{Exec, Vcpu};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// BT, BTS, BTR, BTC. A register offset of a memory operand is signed and moves the address; the other flags are
/// undefined and kept.
pub(crate) fn bit_test(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let bits = 8 * size as u64;
    let offset = cpu.read_operand(bus, i, 1)?;
    let writes = i.mnemonic() != Mnemonic::Bt;
    let bit = 1u64 << (offset & (bits - 1));
    let change = |value: u64| match i.mnemonic() {
        Mnemonic::Bts => value | bit,
        Mnemonic::Btr => value & !bit,
        Mnemonic::Btc => value ^ bit,
        _ => value,
    };
    let value = if i.op0_kind() == OpKind::Memory {
        let mut address = cpu.effective_address(i);
        if i.op1_kind() == OpKind::Register {
            let signed = by_width!(size, T => T::from_u64(offset).sign_extend() as i64);
            let units = signed >> bits.trailing_zeros();
            address = address.wrapping_add((units * size as i64) as u64);
            address = cpu.wrap_address(i, address);
        }
        let linear = cpu.linear(cpu.memory_segment(i), address, size, writes)?;
        if writes {
            let value = by_width!(size, T => cpu.load_for_write::<T>(bus, linear)?.to_u64());
            cpu.store_sized(bus, linear, size, change(value))?;
            value
        } else {
            cpu.load_sized(bus, linear, size)?
        }
    } else {
        let value = cpu.get_register(i.op0_register());
        if writes {
            cpu.set_register(i.op0_register(), change(value));
        }
        value
    };
    cpu.flags.set_cf(value & bit != 0);
    Ok(())
}

/// BSF, BSR, TZCNT, LZCNT, POPCNT. A zero source leaves the destination of BSF and BSR unchanged.
pub(crate) fn count(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let bits = 8 * size as u64;
    let value = cpu.read_operand(bus, i, 1)?;
    let (tzcnt, lzcnt) = (cpu.model.has_bmi1(), cpu.model.has_lzcnt());
    let trailing = value.trailing_zeros() as u64;
    let leading = value.leading_zeros() as u64;
    match i.mnemonic() {
        Mnemonic::Popcnt => {
            let n = value.count_ones() as u64;
            cpu.set_register(i.op0_register(), n);
            by_width!(size, T => cpu.flags.set_logic(T::from_u64(value)));
            // Only ZF can be set: any non-zero value without parity and sign.
            cpu.flags = crate::engine::flags::Flags::from_rflags(if value == 0 {
                crate::regs::rflags::ZF
            } else {
                0
            });
        }
        Mnemonic::Tzcnt if tzcnt => {
            let n = trailing.min(bits);
            cpu.set_register(i.op0_register(), n);
            set_count_flags(cpu, value == 0, n == 0);
        }
        Mnemonic::Lzcnt if lzcnt => {
            let n = leading - (64 - bits);
            cpu.set_register(i.op0_register(), n);
            set_count_flags(cpu, value == 0, n == 0);
        }
        mnemonic => {
            if value == 0 {
                // The destination is left as it is, upper half included.
                let f = cpu.flags.to_rflags() | crate::regs::rflags::ZF;
                cpu.flags = crate::engine::flags::Flags::from_rflags(f);
            } else {
                let n = if matches!(mnemonic, Mnemonic::Bsf | Mnemonic::Tzcnt) {
                    trailing
                } else {
                    63 - leading
                };
                cpu.set_register(i.op0_register(), n);
                let f = cpu.flags.to_rflags() & !crate::regs::rflags::ZF;
                cpu.flags = crate::engine::flags::Flags::from_rflags(f);
            }
        }
    }
    Ok(())
}

fn set_count_flags(cpu: &mut Vcpu, cf: bool, zf: bool) {
    use crate::regs::rflags;
    let kept = cpu.flags.to_rflags() & !(rflags::CF | rflags::ZF);
    let value = kept | if cf { rflags::CF } else { 0 } | if zf { rflags::ZF } else { 0 };
    cpu.flags = crate::engine::flags::Flags::from_rflags(value);
}

/// ANDN, BLSI, BLSMSK, BLSR, BEXTR, BZHI, PDEP, PEXT, MULX.
pub(crate) fn bmi(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let size = Vcpu::operand_size(i, 0);
    let bits = 8 * size as u32;
    let ones = u64::MAX >> (64 - bits);
    match i.mnemonic() {
        Mnemonic::Andn => {
            let (a, b) = (cpu.read_operand(bus, i, 1)?, cpu.read_operand(bus, i, 2)?);
            let r = !a & b & ones;
            by_width!(size, T => cpu.flags.set_result(T::from_u64(r), false, false));
            cpu.set_register(i.op0_register(), r);
        }
        Mnemonic::Blsi | Mnemonic::Blsmsk | Mnemonic::Blsr => {
            let a = cpu.read_operand(bus, i, 1)?;
            let (r, cf) = match i.mnemonic() {
                Mnemonic::Blsi => (a.wrapping_neg() & a, a != 0),
                Mnemonic::Blsmsk => (a.wrapping_sub(1) ^ a, a == 0),
                _ => (a.wrapping_sub(1) & a, a == 0),
            };
            let r = r & ones;
            by_width!(size, T => cpu.flags.set_result(T::from_u64(r), cf, false));
            cpu.set_register(i.op0_register(), r);
        }
        Mnemonic::Bextr => {
            let (a, control) = (cpu.read_operand(bus, i, 1)?, cpu.read_operand(bus, i, 2)?);
            let (start, length) = (control as u8 as u32, (control >> 8) as u8 as u32);
            let shifted = a.checked_shr(start).unwrap_or(0);
            let r = if length >= 64 {
                shifted
            } else {
                shifted & ((1 << length) - 1)
            } & ones;
            by_width!(size, T => cpu.flags.set_result(T::from_u64(r), false, false));
            cpu.set_register(i.op0_register(), r);
        }
        Mnemonic::Bzhi => {
            let (a, index) = (
                cpu.read_operand(bus, i, 1)?,
                cpu.read_operand(bus, i, 2)? as u8 as u32,
            );
            let r = if index < bits {
                a & ((1u64 << index) - 1)
            } else {
                a
            };
            by_width!(size, T => cpu.flags.set_result(T::from_u64(r), index >= bits, false));
            cpu.set_register(i.op0_register(), r);
        }
        Mnemonic::Pdep | Mnemonic::Pext => {
            let (a, mut mask) = (cpu.read_operand(bus, i, 1)?, cpu.read_operand(bus, i, 2)?);
            let deposit = i.mnemonic() == Mnemonic::Pdep;
            let (mut r, mut k) = (0u64, 0);
            while mask != 0 {
                let low = mask & mask.wrapping_neg();
                if deposit {
                    if a >> k & 1 != 0 {
                        r |= low;
                    }
                } else if a & low != 0 {
                    r |= 1 << k;
                }
                mask ^= low;
                k += 1;
            }
            cpu.set_register(i.op0_register(), r);
        }
        _ => {
            let b = cpu.read_operand(bus, i, 2)?;
            let a = cpu.gpr[crate::regs::gpr::RDX] & ones;
            let product = a as u128 * b as u128;
            // The high half wins where both destinations are one register.
            cpu.set_register(i.op1_register(), product as u64 & ones);
            cpu.set_register(i.op0_register(), (product >> bits) as u64 & ones);
        }
    }
    Ok(())
}

impl Vcpu {
    /// Wraps an offset at the address size of the instruction's memory operand.
    pub(crate) fn wrap_address(&self, i: &Instruction, address: u64) -> u64 {
        let base = i.memory_base();
        let index = i.memory_index();
        let size = if base != iced_x86::Register::None {
            base.size()
        } else if index != iced_x86::Register::None {
            index.size()
        } else if self.mode == crate::engine::vcpu::Mode::Long {
            8
        } else {
            i.memory_displ_size() as usize
        };
        match size {
            2 => address & 0xffff,
            4 => address & 0xffff_ffff,
            _ => address,
        }
    }
}
