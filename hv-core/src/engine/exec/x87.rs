//! x87 instructions: operands and memory around the methods of [`engine::x87`](crate::engine::x87).
//!
//! A pending unmasked exception raises #MF whatever CR0.NE says: the external reporting of the first PCs isn't there.
//! FOP stays as it was, as on processors that keep it for unmasked exceptions only.

use crate::engine::bus::Bus;
use crate::engine::flags::Flags;
use crate::engine::float::Format;
use crate::engine::vcpu::{Exec, Mode, Vcpu, vector};
use crate::engine::x87::arith::Arith;
use crate::engine::x87::environment::{ENVIRONMENT_MAX, Layout, REGISTERS};
use crate::engine::x87::load_store::Constant;
use crate::engine::x87::state::Source;
use crate::engine::x87::trigonometric::Trigonometric;
use crate::regs::{X87, cr0, rflags, seg};
use iced_x86::{Instruction, MemorySize, Mnemonic as M, OpKind, Register};

/// Instructions that don't check for a pending exception.
const fn is_non_waiting(m: M) -> bool {
    use M::*;
    matches!(
        m,
        Fnclex | Fninit | Fnsave | Fnstcw | Fnstenv | Fnstsw | Fneni | Fndisi | Fnsetpm
    )
}

/// Instructions that leave the last instruction and data pointers as they are.
const fn is_control(m: M) -> bool {
    use M::*;
    is_non_waiting(m)
        || matches!(
            m,
            Fclex | Finit | Fsave | Fstcw | Fstenv | Fstsw | Fldcw | Fldenv | Frstor | Wait | Feni | Fdisi
        )
}

/// Whether `m` is an x87 instruction.
pub(crate) const fn is_x87(m: M) -> bool {
    use M::*;
    is_control(m)
        || matches!(
            m,
            F2xm1
                | Fabs
                | Fadd
                | Faddp
                | Fbld
                | Fbstp
                | Fchs
                | Fcmovb
                | Fcmovbe
                | Fcmove
                | Fcmovnb
                | Fcmovnbe
                | Fcmovne
                | Fcmovnu
                | Fcmovu
                | Fcom
                | Fcomi
                | Fcomip
                | Fcomp
                | Fcompp
                | Fcos
                | Fdecstp
                | Fdiv
                | Fdivp
                | Fdivr
                | Fdivrp
                | Ffree
                | Ffreep
                | Fiadd
                | Ficom
                | Ficomp
                | Fidiv
                | Fidivr
                | Fild
                | Fimul
                | Fincstp
                | Fist
                | Fistp
                | Fisttp
                | Fisub
                | Fisubr
                | Fld
                | Fld1
                | Fldl2e
                | Fldl2t
                | Fldlg2
                | Fldln2
                | Fldpi
                | Fldz
                | Fmul
                | Fmulp
                | Fnop
                | Fpatan
                | Fprem
                | Fprem1
                | Fptan
                | Frndint
                | Frstpm
                | Fscale
                | Fsetpm
                | Fsin
                | Fsincos
                | Fsqrt
                | Fst
                | Fstp
                | Fstpnce
                | Fsub
                | Fsubp
                | Fsubr
                | Fsubrp
                | Ftst
                | Fucom
                | Fucomi
                | Fucomip
                | Fucomp
                | Fucompp
                | Fxam
                | Fxch
                | Fxtract
                | Fyl2x
                | Fyl2xp1
        )
}

/// Executes an x87 instruction.
pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let m = i.mnemonic();
    if m == M::Wait {
        let both = cr0::MP | cr0::TS;
        if cpu.r.cr0 & both == both {
            return Err(cpu.raise(vector::NM));
        }
    } else if cpu.r.cr0 & (cr0::EM | cr0::TS) != 0 {
        return Err(cpu.raise(vector::NM));
    }
    if !is_non_waiting(m) && cpu.r.x87.pending() {
        return Err(cpu.raise(vector::MF));
    }
    if is_control(m) {
        return control(cpu, bus, i);
    }
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if memory {
        with_memory(cpu, bus, i)?
    } else {
        with_stack(cpu, i)?
    }
    let f = &mut cpu.r.x87;
    (f.fip, f.fcs) = (i.ip(), cpu.r.segments[seg::CS].selector);
    if memory {
        let (offset, selector) = (cpu.effective_address(i), cpu.get_register(i.memory_segment()));
        (cpu.r.x87.fdp, cpu.r.x87.fds) = (offset, selector as u16);
    }
    Ok(())
}

/// FNINIT, FNSTENV and their like.
fn control(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let protected = !matches!(cpu.mode, Mode::Real | Mode::Virtual8086);
    let wide = matches!(i.memory_size(), MemorySize::FpuEnv28 | MemorySize::FpuState108);
    let layout = Layout { wide, protected };
    match i.mnemonic() {
        M::Fninit | M::Finit => cpu.r.x87.init(),
        M::Fnclex | M::Fclex => cpu.r.x87.clear_exceptions(),
        M::Fnstcw | M::Fstcw => return cpu.write_operand(bus, i, 0, cpu.r.x87.fcw as u64),
        M::Fnstsw | M::Fstsw => return cpu.write_operand(bus, i, 0, cpu.r.x87.fsw as u64),
        M::Fldcw => {
            let value = cpu.read_operand(bus, i, 0)?;
            cpu.r.x87.set_fcw(value as u16);
        }
        M::Fnstenv | M::Fstenv => {
            let image = cpu.r.x87.environment(layout);
            let linear = cpu.memory_operand(i, layout.size(), true)?;
            cpu.check_alignment(linear, layout.alignment())?;
            cpu.store_bytes(bus, linear, &image[..layout.size()])?;
            cpu.r.x87.mask_all();
        }
        M::Fldenv => {
            let mut image = [0; ENVIRONMENT_MAX];
            let linear = cpu.memory_operand(i, layout.size(), false)?;
            cpu.check_alignment(linear, layout.alignment())?;
            cpu.load_bytes(bus, linear, &mut image[..layout.size()])?;
            cpu.r.x87.load_environment(layout, &image);
        }
        M::Fnsave | M::Fsave => {
            let mut image = [0; ENVIRONMENT_MAX + REGISTERS];
            let (environment, total) = (layout.size(), layout.size() + REGISTERS);
            image[..environment].copy_from_slice(&cpu.r.x87.environment(layout)[..environment]);
            image[environment..total].copy_from_slice(&cpu.r.x87.registers());
            let linear = cpu.memory_operand(i, total, true)?;
            cpu.check_alignment(linear, layout.alignment())?;
            cpu.store_bytes(bus, linear, &image[..total])?;
            cpu.r.x87.init();
        }
        M::Frstor => {
            let mut image = [0; ENVIRONMENT_MAX + REGISTERS];
            let (environment, total) = (layout.size(), layout.size() + REGISTERS);
            let linear = cpu.memory_operand(i, total, false)?;
            cpu.check_alignment(linear, layout.alignment())?;
            cpu.load_bytes(bus, linear, &mut image[..total])?;
            cpu.r.x87.load_environment(layout, &image);
            cpu.r.x87.load_registers(&image[environment..total]);
        }
        // FWAIT has done its check; the 8087's and 287's own controls do nothing.
        _ => {}
    }
    Ok(())
}

/// The operation of FADD, FADDP, FIADD and so on.
const fn arithmetic(m: M) -> Option<Arith> {
    Some(match m {
        M::Fadd | M::Faddp | M::Fiadd => Arith::Add,
        M::Fmul | M::Fmulp | M::Fimul => Arith::Mul,
        M::Fsub | M::Fsubp | M::Fisub => Arith::Sub,
        M::Fsubr | M::Fsubrp | M::Fisubr => Arith::SubR,
        M::Fdiv | M::Fdivp | M::Fidiv => Arith::Div,
        M::Fdivr | M::Fdivrp | M::Fidivr => Arith::DivR,
        _ => return None,
    })
}

fn load_f80(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<u128> {
    let linear = cpu.memory_operand(i, 10, false)?;
    let mut bytes = [0; 16];
    cpu.check_alignment(linear, 8)?;
    cpu.load_bytes(bus, linear, &mut bytes[..10])?;
    Ok(u128::from_le_bytes(bytes))
}

/// A single, double or integer operand.
fn load_source(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec<Source> {
    let size = i.memory_size().size();
    let linear = cpu.memory_operand(i, size, false)?;
    let raw = cpu.load_sized(bus, linear, size)?;
    Ok(match i.memory_size() {
        MemorySize::Float32 => Source::f32(raw as u32),
        MemorySize::Float64 => Source::f64(raw),
        MemorySize::Int16 => Source::integer(raw as i16 as i64),
        MemorySize::Int32 => Source::integer(raw as i32 as i64),
        _ => Source::integer(raw as i64),
    })
}

/// Stores a value the FPU gives, if it gives one; its state changes only once the store is done.
fn store(
    cpu: &mut Vcpu,
    bus: &mut Bus,
    i: &Instruction,
    value: impl FnOnce(&mut X87) -> Option<u128>,
) -> Exec {
    let size = i.memory_size().size();
    let linear = cpu.memory_operand(i, size, true)?;
    cpu.check_alignment(linear, size.min(8))?;
    let mut after = cpu.r.x87.clone();
    if let Some(value) = value(&mut after) {
        cpu.store_bytes(bus, linear, &value.to_le_bytes()[..size])?;
    } else {
        cpu.check_writable(bus, linear, size)?;
    }
    cpu.r.x87 = after;
    Ok(())
}

fn with_memory(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    let m = i.mnemonic();
    if let Some(op) = arithmetic(m) {
        let source = load_source(cpu, bus, i)?;
        cpu.r.x87.arith_memory(op, source);
        return Ok(());
    }
    let bits = 8 * i.memory_size().size() as u32;
    match m {
        M::Fld if i.memory_size() == MemorySize::Float80 => {
            let value = load_f80(cpu, bus, i)?;
            cpu.r.x87.load(value);
        }
        M::Fld | M::Fild => {
            let source = load_source(cpu, bus, i)?;
            cpu.r.x87.load_converted(source);
        }
        M::Fbld => {
            let value = load_f80(cpu, bus, i)?;
            cpu.r.x87.load_bcd(value);
        }
        M::Fcom | M::Fcomp | M::Ficom | M::Ficomp => {
            let source = load_source(cpu, bus, i)?;
            cpu.r
                .x87
                .compare_memory(source, matches!(m, M::Fcomp | M::Ficomp));
        }
        M::Fbstp => return store(cpu, bus, i, X87::store_bcd),
        M::Fst | M::Fstp => {
            return store(cpu, bus, i, |f| match i.memory_size() {
                MemorySize::Float32 => f.store_float(Format::F32, m == M::Fstp).map(u128::from),
                MemorySize::Float64 => f.store_float(Format::F64, m == M::Fstp).map(u128::from),
                _ => f.store_f80(),
            });
        }
        M::Fist | M::Fistp | M::Fisttp => {
            return store(cpu, bus, i, |f| {
                f.store_integer(bits, m == M::Fisttp, m != M::Fist)
                    .map(|value| value as u128)
            });
        }
        _ => return Err(cpu.undefined()),
    }
    Ok(())
}

/// The number of the stack register that operand `n` is.
fn stack_register(i: &Instruction, n: u32) -> usize {
    (i.op_register(n) as usize).wrapping_sub(Register::ST0 as usize) & 7
}

fn with_stack(cpu: &mut Vcpu, i: &Instruction) -> Exec {
    let m = i.mnemonic();
    // The register that isn't the implied ST(0): the last operand of `st, st(i)`, the first one of `st(i), st`.
    let (first, last) = (stack_register(i, 0), stack_register(i, i.op_count().max(1) - 1));
    let flags = cpu.rflags();
    let set = |flag: u64| flags & flag != 0;
    let f = &mut cpu.r.x87;
    if let Some(op) = arithmetic(m) {
        let pop = matches!(
            m,
            M::Faddp | M::Fmulp | M::Fsubp | M::Fsubrp | M::Fdivp | M::Fdivrp
        );
        f.arith_stack(op, first, last, pop);
        return Ok(());
    }
    match m {
        M::Fld => f.load_stack(first),
        M::Fst => f.store_stack(first, false),
        M::Fstp | M::Fstpnce => f.store_stack(first, true),
        M::Fxch => f.exchange(last),
        M::Ffree => f.free(first),
        M::Ffreep => {
            f.free(first);
            f.pop();
        }
        M::Fincstp => f.increment_top(),
        M::Fdecstp => f.decrement_top(),
        M::Fchs => f.change_sign(true),
        M::Fabs => f.change_sign(false),
        M::Fsqrt => f.sqrt(),
        M::Frndint => f.round_to_integer(),
        M::Fscale => f.scale(),
        M::Fxtract => f.extract(),
        M::Fprem => f.remainder(false),
        M::Fprem1 => f.remainder(true),
        M::Fld1 => f.load_constant(Constant::One),
        M::Fldl2t => f.load_constant(Constant::Log2Ten),
        M::Fldl2e => f.load_constant(Constant::Log2E),
        M::Fldpi => f.load_constant(Constant::Pi),
        M::Fldlg2 => f.load_constant(Constant::Log10Two),
        M::Fldln2 => f.load_constant(Constant::LnTwo),
        M::Fldz => f.load_constant(Constant::Zero),
        M::Fcom => f.compare_stack(last, false, 0),
        M::Fcomp => f.compare_stack(last, false, 1),
        M::Fcompp => f.compare_stack(1, false, 2),
        M::Fucom => f.compare_stack(last, true, 0),
        M::Fucomp => f.compare_stack(last, true, 1),
        M::Fucompp => f.compare_stack(1, true, 2),
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => {
            let quiet = matches!(m, M::Fucomi | M::Fucomip);
            let pop = matches!(m, M::Fcomip | M::Fucomip);
            let status = f.compare_flags(last, quiet, pop);
            cpu.flags = Flags::from_rflags(status);
        }
        M::Ftst => f.test(),
        M::Fxam => f.examine(),
        M::Fcmovb => f.conditional_move(set(rflags::CF), last),
        M::Fcmove => f.conditional_move(set(rflags::ZF), last),
        M::Fcmovbe => f.conditional_move(set(rflags::CF | rflags::ZF), last),
        M::Fcmovu => f.conditional_move(set(rflags::PF), last),
        M::Fcmovnb => f.conditional_move(!set(rflags::CF), last),
        M::Fcmovne => f.conditional_move(!set(rflags::ZF), last),
        M::Fcmovnbe => f.conditional_move(!set(rflags::CF | rflags::ZF), last),
        M::Fcmovnu => f.conditional_move(!set(rflags::PF), last),
        M::F2xm1 => f.exp2_minus_1(),
        M::Fyl2x => f.y_log2(false),
        M::Fyl2xp1 => f.y_log2(true),
        M::Fpatan => f.arc_tangent(),
        M::Fsin => f.trigonometric(Trigonometric::Sine),
        M::Fcos => f.trigonometric(Trigonometric::Cosine),
        M::Fsincos => f.trigonometric(Trigonometric::SineCosine),
        M::Fptan => f.trigonometric(Trigonometric::Tangent),
        M::Fnop | M::Fsetpm | M::Frstpm => {}
        _ => return Err(cpu.undefined()),
    }
    Ok(())
}
