//! Jumps, calls, returns, near and far, and interrupts by instruction.

use super::Flow;
use super::segment::{Descriptor, selector_error};
use super::stack::size_of_stack_operation;
use super::system::after_interrupt_flag;
use crate::engine::bus::Bus;
use crate::engine::interrupt::Source;
use crate::engine::mmu::is_canonical;
use crate::engine::task::SwitchKind;
use crate::engine::vcpu::{Abort, Exec, Mode, Pending, Vcpu, vector};
use crate::regs::{gpr, seg};
use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind};

impl Vcpu {
    /// Checks a near target and jumps to it.
    pub(crate) fn jump_near(&mut self, target: u64) -> Exec<Flow> {
        self.check_target(target)?;
        self.rip = target;
        Ok(Flow::Branch)
    }

    fn check_target(&mut self, target: u64) -> Exec {
        let bad = if self.mode == Mode::Long {
            !is_canonical(target)
        } else {
            target > self.r.segments[seg::CS].limit as u64
        };
        if bad {
            Err(self.general_protection())
        } else {
            Ok(())
        }
    }

    /// #GP(0) for a target that the code segment of `code` can't hold.
    pub(crate) fn check_far_target(&mut self, code: &Descriptor, target: u64) -> Exec {
        let bad = if self.long_mode() && code.long() {
            !is_canonical(target)
        } else {
            target > code.limit() as u64
        };
        if bad {
            return Err(self.general_protection());
        }
        Ok(())
    }
}

/// The operand size of a near branch, from the size of its target.
fn branch_mask(cpu: &Vcpu, i: &Instruction) -> u64 {
    match i.op0_kind() {
        OpKind::NearBranch16 => 0xffff,
        OpKind::NearBranch32 => 0xffff_ffff,
        OpKind::NearBranch64 => u64::MAX,
        _ => match Vcpu::operand_size(i, 0) {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ if cpu.mode == Mode::Long => u64::MAX,
            _ => 0xffff_ffff,
        },
    }
}

pub(crate) fn jump(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let target = cpu.read_operand(bus, i, 0)? & branch_mask(cpu, i);
    cpu.jump_near(target)
}

pub(crate) fn call(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let target = cpu.read_operand(bus, i, 0)? & branch_mask(cpu, i);
    cpu.check_target(target)?;
    cpu.push(bus, i.next_ip(), size_of_stack_operation(i))?;
    cpu.rip = target;
    Ok(Flow::Branch)
}

pub(crate) fn ret(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let size = match i.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let target = cpu.peek(bus, 0, size)?;
    cpu.check_target(target)?;
    let extra = if i.op_count() == 1 {
        i.immediate16() as u64
    } else {
        0
    };
    cpu.set_stack_pointer(cpu.gpr[gpr::RSP].wrapping_add(size as u64 + extra));
    cpu.rip = target;
    Ok(Flow::Branch)
}

pub(crate) fn conditional(cpu: &mut Vcpu, i: &Instruction) -> Exec<Flow> {
    let taken = cpu.flags.condition(condition_code(i.condition_code()));
    cpu.jump_near(if taken {
        i.near_branch_target()
    } else {
        i.next_ip()
    })
}

/// The 4-bit condition code of the opcode.
pub(crate) fn condition_code(c: ConditionCode) -> u8 {
    match c {
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        _ => 15,
    }
}

/// LOOP, LOOPE, LOOPNE, JCXZ, JECXZ, JRCXZ.
pub(crate) fn count_branch(cpu: &mut Vcpu, i: &Instruction) -> Exec<Flow> {
    let m = match i.code() {
        Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32 => 0xffff,
        Code::Jecxz_rel8_16 | Code::Jecxz_rel8_32 | Code::Jecxz_rel8_64 => 0xffff_ffff,
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 0xffff,
        Code::Loop_rel8_16_ECX
        | Code::Loop_rel8_32_ECX
        | Code::Loop_rel8_64_ECX
        | Code::Loope_rel8_16_ECX
        | Code::Loope_rel8_32_ECX
        | Code::Loope_rel8_64_ECX
        | Code::Loopne_rel8_16_ECX
        | Code::Loopne_rel8_32_ECX
        | Code::Loopne_rel8_64_ECX => 0xffff_ffff,
        _ => u64::MAX,
    };
    let mut count = cpu.gpr[gpr::RCX] & m;
    let taken = match i.mnemonic() {
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => count == 0,
        mnemonic => {
            count = count.wrapping_sub(1) & m;
            count != 0
                && match mnemonic {
                    Mnemonic::Loope => cpu.flags.zf(),
                    Mnemonic::Loopne => !cpu.flags.zf(),
                    _ => true,
                }
        }
    };
    let target = if taken {
        i.near_branch_target()
    } else {
        i.next_ip()
    };
    cpu.check_target(target)?;
    if !matches!(i.mnemonic(), Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz) {
        cpu.gpr[gpr::RCX] = match m {
            0xffff => cpu.gpr[gpr::RCX] & !0xffff | count,
            _ => count,
        };
    }
    cpu.rip = target;
    Ok(Flow::Branch)
}

/// The selector and offset of a far operand, and the operand size.
fn far_operand(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<(u16, u64, usize)> {
    match i.op0_kind() {
        OpKind::FarBranch16 => Ok((i.far_branch_selector(), i.far_branch16() as u64, 2)),
        OpKind::FarBranch32 => Ok((i.far_branch_selector(), i.far_branch32() as u64, 4)),
        _ => {
            let size = match i.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            };
            let linear = cpu.memory_operand(i, size + 2, false)?;
            let offset = cpu.load_sized(bus, linear, size)?;
            let selector = cpu.load_sized(bus, linear.wrapping_add(size as u64), 2)?;
            Ok((selector as u16, offset, size))
        }
    }
}

/// Far JMP and CALL.
pub(crate) fn far_transfer(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, is_call: bool) -> Exec<Flow> {
    let (selector, offset, size) = far_operand(cpu, bus, i)?;
    if !cpu.protected() || cpu.mode == Mode::Virtual8086 {
        if offset > cpu.r.segments[seg::CS].limit as u64 {
            return Err(cpu.general_protection());
        }
        if is_call {
            let (cs, sp) = (cpu.r.segments[seg::CS].selector as u64, cpu.gpr[gpr::RSP]);
            cpu.push(bus, cs, size)?;
            if let Err(abort) = cpu.push(bus, i.next_ip(), size) {
                cpu.gpr[gpr::RSP] = sp;
                return Err(abort);
            }
        }
        cpu.r.segments[seg::CS].selector = selector;
        cpu.r.segments[seg::CS].base = (selector as u64) << 4;
        cpu.rip = offset;
        cpu.update_mode();
        return Ok(Flow::Branch);
    }
    if selector & !3 == 0 {
        return Err(cpu.general_protection());
    }
    let (mut d, address) = cpu.read_descriptor(bus, selector, vector::GP)?;
    let error = selector_error(selector);
    if !d.is_code_or_data() {
        return through_system_descriptor(cpu, bus, i, d, selector, is_call);
    }
    let rpl = (selector & 3) as u8;
    let allowed = if d.conforming() {
        d.dpl() <= cpu.cpl
    } else {
        rpl <= cpu.cpl && d.dpl() == cpu.cpl
    };
    if !d.is_code() || !allowed || (cpu.long_mode() && d.long() && d.big()) {
        return Err(cpu.raise_error(vector::GP, error));
    }
    if !d.present() {
        return Err(cpu.raise_error(vector::NP, error));
    }
    cpu.check_far_target(&d, offset)?;
    cpu.mark_accessed(bus, &mut d, address)?;
    if is_call {
        let (cs, sp) = (cpu.r.segments[seg::CS].selector as u64, cpu.gpr[gpr::RSP]);
        cpu.push(bus, cs, size)?;
        if let Err(abort) = cpu.push(bus, i.next_ip(), size) {
            cpu.gpr[gpr::RSP] = sp;
            return Err(abort);
        }
    }
    let cpl = cpu.cpl;
    cpu.set_code_segment(d, selector, cpl);
    cpu.rip = offset;
    Ok(Flow::Branch)
}

fn switch_task(
    cpu: &mut Vcpu,
    bus: &mut Bus,
    i: &Instruction,
    selector: u16,
    kind: SwitchKind,
) -> Exec<Flow> {
    if !cpu.precise {
        // The new task may trap at once.
        cpu.pending = Pending::Precise;
        return Err(Abort);
    }
    let start = std::mem::replace(&mut cpu.rip, i.next_ip());
    if let Err(abort) = cpu.switch_task(bus, selector, kind, 0) {
        cpu.rip = start;
        return Err(abort);
    }
    Ok(after_interrupt_flag(cpu))
}

/// Call gates, task gates and TSS selectors (SDM vol. 3A, 5.8.3 to 5.8.5 and 7.3).
fn through_system_descriptor(
    cpu: &mut Vcpu,
    bus: &mut Bus,
    i: &Instruction,
    d: Descriptor,
    selector: u16,
    is_call: bool,
) -> Exec<Flow> {
    let error = selector_error(selector);
    let rpl = (selector & 3) as u8;
    if d.dpl() < cpu.cpl || d.dpl() < rpl {
        return Err(cpu.raise_error(vector::GP, error));
    }
    let task_kind = if is_call {
        SwitchKind::Nest
    } else {
        SwitchKind::Jump
    };
    match d.kind() {
        9 if !cpu.long_mode() => {
            return switch_task(cpu, bus, i, selector, task_kind);
        }
        5 if !cpu.long_mode() => {
            if !d.present() {
                return Err(cpu.raise_error(vector::NP, error));
            }
            return switch_task(cpu, bus, i, d.gate_selector(), task_kind);
        }
        4 if !cpu.long_mode() => {}
        12 => {}
        _ => return Err(cpu.raise_error(vector::GP, error)),
    }
    if !d.present() {
        return Err(cpu.raise_error(vector::NP, error));
    }
    let size = if cpu.long_mode() {
        8
    } else if d.kind() == 12 {
        4
    } else {
        2
    };
    let target = match size {
        8 => d.gate_offset32() | d.base_high << 32,
        4 => d.gate_offset32(),
        _ => d.raw & 0xffff,
    };
    let code_selector = d.gate_selector();
    if code_selector & !3 == 0 {
        return Err(cpu.general_protection());
    }
    let (mut code, address) = cpu.read_descriptor(bus, code_selector, vector::GP)?;
    let code_error = selector_error(code_selector);
    let allowed = if is_call || code.conforming() {
        code.dpl() <= cpu.cpl
    } else {
        code.dpl() == cpu.cpl
    };
    if !code.is_code() || !allowed || (size == 8 && (!code.long() || code.big())) {
        return Err(cpu.raise_error(vector::GP, code_error));
    }
    if !code.present() {
        return Err(cpu.raise_error(vector::NP, code_error));
    }
    cpu.check_far_target(&code, target)?;
    let inner = is_call && !code.conforming() && code.dpl() < cpu.cpl;
    let new_cpl = if inner { code.dpl() } else { cpu.cpl };
    if is_call {
        push_gate_frame(cpu, bus, i, d.raw >> 32 & 0x1f, size, new_cpl, inner)?;
    }
    cpu.mark_accessed(bus, &mut code, address)?;
    cpu.set_code_segment(code, code_selector, new_cpl);
    cpu.rip = target;
    Ok(Flow::Branch)
}

fn push_gate_frame(
    cpu: &mut Vcpu,
    bus: &mut Bus,
    i: &Instruction,
    parameters: u64,
    size: usize,
    new_cpl: u8,
    inner: bool,
) -> Exec {
    let (old_ss, old_sp, old_cpl) = (cpu.r.segments[seg::SS], cpu.gpr[gpr::RSP], cpu.cpl);
    let cs = cpu.r.segments[seg::CS].selector as u64;
    let body = |cpu: &mut Vcpu, bus: &mut Bus| -> Exec {
        if inner {
            let mut copied = [0u64; 31];
            if size == 8 {
                let mut bytes = [0; 8];
                let at = cpu.r.tr.base.wrapping_add(4 + 8 * new_cpl as u64);
                cpu.load_system(bus, at, &mut bytes)?;
                let mut null = cpu.null_segment(new_cpl as u16);
                null.attributes |= (new_cpl as u32) << 5;
                cpu.r.segments[seg::SS] = null;
                cpu.cpl = new_cpl;
                cpu.update_mode();
                cpu.mode = Mode::Long;
                cpu.gpr[gpr::RSP] = u64::from_le_bytes(bytes);
            } else {
                for (k, value) in copied.iter_mut().take(parameters as usize).enumerate() {
                    *value = cpu.peek(bus, (k * size) as u64, size)?;
                }
                let (ss, sp) = cpu.tss_stack_protected(bus, new_cpl)?;
                let stack = cpu.check_stack_segment(bus, ss, new_cpl, vector::TS)?;
                cpu.r.segments[seg::SS] = stack;
                cpu.cpl = new_cpl;
                cpu.update_mode();
                cpu.set_stack_pointer(sp);
            }
            cpu.push(bus, old_ss.selector as u64, size)?;
            cpu.push(bus, old_sp, size)?;
            if size != 8 {
                for value in copied[..parameters as usize].iter().rev() {
                    cpu.push(bus, *value, size)?;
                }
            }
        }
        cpu.push(bus, cs, size)?;
        cpu.push(bus, i.next_ip(), size)
    };
    let result = body(cpu, bus);
    if result.is_err() {
        cpu.r.segments[seg::SS] = old_ss;
        cpu.gpr[gpr::RSP] = old_sp;
        cpu.cpl = old_cpl;
        cpu.update_mode();
    }
    result
}

/// RETF.
pub(crate) fn far_return(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let size = match i.code() {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    };
    let word = size as u64;
    let extra = if i.op_count() == 1 {
        i.immediate16() as u64
    } else {
        0
    };
    let offset = cpu.peek(bus, 0, size)?;
    let selector = cpu.peek(bus, word, size)? as u16;
    if !cpu.protected() || cpu.mode == Mode::Virtual8086 {
        if offset > cpu.r.segments[seg::CS].limit as u64 {
            return Err(cpu.general_protection());
        }
        cpu.set_stack_pointer(cpu.gpr[gpr::RSP].wrapping_add(2 * word + extra));
        cpu.r.segments[seg::CS].selector = selector;
        cpu.r.segments[seg::CS].base = (selector as u64) << 4;
        cpu.rip = offset;
        cpu.update_mode();
        return Ok(Flow::Branch);
    }
    let rpl = (selector & 3) as u8;
    if selector & !3 == 0 {
        return Err(cpu.general_protection());
    }
    let (mut code, address) = cpu.read_descriptor(bus, selector, vector::GP)?;
    let error = selector_error(selector);
    let dpl_ok = if code.conforming() {
        code.dpl() <= rpl
    } else {
        code.dpl() == rpl
    };
    if !code.is_code() || rpl < cpu.cpl || !dpl_ok {
        return Err(cpu.raise_error(vector::GP, error));
    }
    if !code.present() {
        return Err(cpu.raise_error(vector::NP, error));
    }
    cpu.check_far_target(&code, offset)?;
    let to_long = cpu.long_mode() && code.long();
    if rpl == cpu.cpl {
        cpu.mark_accessed(bus, &mut code, address)?;
        cpu.set_stack_pointer(cpu.gpr[gpr::RSP].wrapping_add(2 * word + extra));
        cpu.set_code_segment(code, selector, rpl);
        cpu.rip = offset;
        return Ok(Flow::Branch);
    }
    let sp = cpu.peek(bus, 2 * word + extra, size)?;
    let ss = cpu.peek(bus, 3 * word + extra, size)? as u16;
    let stack = if ss & !3 == 0 && to_long && rpl < 3 {
        let mut s = cpu.null_segment(ss);
        s.attributes |= (rpl as u32) << 5;
        s
    } else {
        cpu.check_stack_segment(bus, ss, rpl, vector::GP)?
    };
    cpu.mark_accessed(bus, &mut code, address)?;
    cpu.set_code_segment(code, selector, rpl);
    cpu.r.segments[seg::SS] = stack;
    cpu.update_mode();
    cpu.rip = offset;
    cpu.set_stack_pointer(sp.wrapping_add(extra));
    cpu.drop_inner_segments();
    Ok(Flow::Branch)
}

pub(crate) fn interrupt(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let vector = match i.mnemonic() {
        Mnemonic::Int3 => vector::BP,
        Mnemonic::Into => {
            if !cpu.flags.of() {
                return Ok(Flow::Next);
            }
            vector::OF
        }
        Mnemonic::Int1 if !cpu.precise => {
            cpu.pending = Pending::Precise;
            return Err(Abort);
        }
        Mnemonic::Int1 => {
            let start = std::mem::replace(&mut cpu.rip, i.next_ip());
            if let Err(abort) = cpu.interrupt(bus, vector::DB, None, Source::Exception) {
                cpu.rip = start;
                return Err(abort);
            }
            return Ok(after_interrupt_flag(cpu));
        }
        _ => i.immediate8(),
    };
    if cpu.mode == Mode::Virtual8086
        && i.mnemonic() == Mnemonic::Int
        && cpu.rflags & crate::regs::rflags::IOPL != crate::regs::rflags::IOPL
    {
        return Err(cpu.general_protection());
    }
    let start = cpu.rip;
    cpu.rip = i.next_ip();
    if let Err(abort) = cpu.interrupt(bus, vector, None, Source::Software) {
        cpu.rip = start;
        return Err(abort);
    }
    Ok(after_interrupt_flag(cpu))
}

pub(crate) fn iret(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Flow> {
    let size = match i.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        _ => 8,
    };
    let nested = cpu.protected() && cpu.rflags & crate::regs::rflags::NT != 0;
    if nested && !cpu.precise {
        cpu.pending = Pending::Precise;
        return Err(Abort);
    }
    // A task that is returned from goes on behind its IRET.
    let start = std::mem::replace(&mut cpu.rip, i.next_ip());
    if let Err(abort) = cpu.iret(bus, size) {
        cpu.rip = start;
        return Err(abort);
    }
    Ok(Flow::Leave)
}
