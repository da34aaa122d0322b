//! The meaning of every instruction, in any mode: the reference that the fast forms in [`super::fast`] must agree
//! with. One file a group; [`execute`] dispatches on the mnemonic.

pub(crate) mod arith;
mod bits;
pub(crate) mod control;
mod data;
mod integer_vectors;
mod io;
mod mmx;
pub(crate) mod operand;
pub(crate) mod segment;
pub(crate) mod shift;
pub(crate) mod sse;
mod stack;
mod string;
pub(crate) mod system;
mod x87;
mod xsave;

use super::bus::Bus;
use super::vcpu::{Exec, Vcpu};
use arith::Alu;
use iced_x86::{Instruction, Mnemonic as M};

/// The bits of MXCSR that may be set.
pub(crate) const fn mxcsr_mask() -> u32 {
    xsave::MXCSR_MASK
}

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Flow {
    /// The next one.
    Next,
    /// RIP is set.
    Branch,
    /// RIP is set, and devices, interrupts or modes must be looked at.
    Leave,
    /// The instruction didn't complete: see [`Vcpu::pending`].
    Abort,
    /// An execution breakpoint is before this instruction.
    Break,
}

fn next(result: Exec) -> Exec<Flow> {
    result.map(|()| Flow::Next)
}

/// Executes `i`, which is number `index` of its block. `cpu.rip` is not advanced for [`Flow::Next`].
pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, index: u16) -> Exec<Flow> {
    match i.mnemonic() {
        M::Mov
            if i.op0_register().is_cr()
                || i.op1_register().is_cr()
                || i.op0_register().is_dr()
                || i.op1_register().is_dr() =>
        {
            system::mov_special(cpu, bus, i)
        }
        M::Mov => next(data::mov(cpu, bus, i)),
        M::Add => next(arith::binary(cpu, bus, i, Alu::Add)),
        M::Or => next(arith::binary(cpu, bus, i, Alu::Or)),
        M::Adc => next(arith::binary(cpu, bus, i, Alu::Adc)),
        M::Sbb => next(arith::binary(cpu, bus, i, Alu::Sbb)),
        M::And => next(arith::binary(cpu, bus, i, Alu::And)),
        M::Sub => next(arith::binary(cpu, bus, i, Alu::Sub)),
        M::Xor => next(arith::binary(cpu, bus, i, Alu::Xor)),
        M::Cmp => next(arith::binary(cpu, bus, i, Alu::Cmp)),
        M::Test => next(arith::test(cpu, bus, i)),
        M::Inc | M::Dec | M::Neg | M::Not => next(arith::unary(cpu, bus, i)),
        M::Mul => next(arith::multiply(cpu, bus, i, false)),
        M::Imul if i.op_count() == 1 => next(arith::multiply(cpu, bus, i, true)),
        M::Imul => next(arith::imul_truncated(cpu, bus, i)),
        M::Div => next(arith::divide(cpu, bus, i, false)),
        M::Idiv => next(arith::divide(cpu, bus, i, true)),
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => {
            arith::extend_accumulator(cpu, i.mnemonic());
            Ok(Flow::Next)
        }
        M::Adcx | M::Adox => next(arith::add_with_one_flag(cpu, bus, i)),
        M::Daa | M::Das | M::Aaa | M::Aas | M::Aam | M::Aad => next(arith::decimal(cpu, i)),
        M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shl | M::Sal | M::Shr | M::Sar => {
            next(shift::execute(cpu, bus, i))
        }
        M::Shld | M::Shrd => next(shift::double(cpu, bus, i)),
        M::Rorx | M::Sarx | M::Shlx | M::Shrx => next(shift::without_flags(cpu, bus, i)),
        M::Bt | M::Bts | M::Btr | M::Btc => next(bits::bit_test(cpu, bus, i)),
        M::Bsf | M::Bsr | M::Tzcnt | M::Lzcnt | M::Popcnt => next(bits::count(cpu, bus, i)),
        M::Andn | M::Blsi | M::Blsmsk | M::Blsr | M::Bextr | M::Bzhi | M::Pdep | M::Pext | M::Mulx => {
            next(bits::bmi(cpu, bus, i))
        }
        M::Lea => {
            let address = cpu.effective_address(i);
            cpu.set_register(i.op0_register(), address);
            Ok(Flow::Next)
        }
        M::Movzx => next(data::move_zero_extended(cpu, bus, i)),
        M::Movsx | M::Movsxd => next(data::move_sign_extended(cpu, bus, i)),
        M::Xchg => next(data::xchg(cpu, bus, i)),
        M::Xadd => next(data::xadd(cpu, bus, i)),
        M::Cmpxchg => next(data::cmpxchg(cpu, bus, i)),
        M::Cmpxchg8b | M::Cmpxchg16b => next(data::cmpxchg_pair(cpu, bus, i)),
        M::Bswap => {
            data::bswap(cpu, i);
            Ok(Flow::Next)
        }
        M::Movbe => next(data::movbe(cpu, bus, i)),
        M::Xlatb => next(data::xlat(cpu, bus, i)),
        M::Lahf | M::Sahf | M::Clc | M::Stc | M::Cmc | M::Cld | M::Std | M::Salc | M::Clac | M::Stac => {
            next(data::flag(cpu, i))
        }
        M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs => next(data::load_far_pointer(cpu, bus, i)),
        M::Push => next(stack::push(cpu, bus, i)),
        M::Pop => next(stack::pop(cpu, bus, i)),
        M::Pusha | M::Pushad | M::Popa | M::Popad => next(stack::all_registers(cpu, bus, i)),
        M::Pushf | M::Pushfd | M::Pushfq => next(stack::push_flags(cpu, bus, i)),
        M::Popf | M::Popfd | M::Popfq => {
            stack::pop_flags(cpu, bus, i)?;
            cpu.rip = i.next_ip();
            Ok(system::after_interrupt_flag(cpu))
        }
        M::Enter => next(stack::enter(cpu, bus, i)),
        M::Leave => next(stack::leave(cpu, bus, i)),
        M::Bound => next(stack::bound(cpu, bus, i)),
        M::Jmp if is_far(i) => control::far_transfer(cpu, bus, i, false),
        M::Call if is_far(i) => control::far_transfer(cpu, bus, i, true),
        M::Jmp => control::jump(cpu, bus, i),
        M::Call => control::call(cpu, bus, i),
        M::Ret => control::ret(cpu, bus, i),
        M::Retf => control::far_return(cpu, bus, i),
        M::Iret | M::Iretd | M::Iretq => control::iret(cpu, bus, i),
        M::Int | M::Int3 | M::Into | M::Int1 => control::interrupt(cpu, bus, i),
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => control::count_branch(cpu, i),
        M::In | M::Out => io::execute(cpu, bus, i, cpu.now(index)),
        M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => next(system::descriptor_table(cpu, bus, i)),
        M::Sldt | M::Str | M::Lldt | M::Ltr | M::Smsw | M::Lmsw | M::Clts => {
            system::task_registers(cpu, bus, i)
        }
        M::Arpl => next(segment::adjust_privilege(cpu, bus, i)),
        M::Lar | M::Lsl | M::Verr | M::Verw => next(segment::inspect(cpu, bus, i)),
        M::Cpuid => {
            system::cpuid(cpu, bus);
            Ok(Flow::Next)
        }
        M::Rdtsc | M::Rdtscp => next(system::read_tsc(cpu, bus, i, cpu.now(index))),
        M::Rdpid => {
            let value = cpu.r.msrs.tsc_aux;
            cpu.set_register(i.op0_register(), value);
            Ok(Flow::Next)
        }
        M::Rdmsr | M::Wrmsr => system::msr(cpu, bus, i, cpu.now(index)),
        M::Syscall | M::Sysret | M::Sysretq | M::Sysenter | M::Sysexit | M::Sysexitq => {
            system::system_call(cpu, i)
        }
        M::Cli | M::Sti => system::interrupt_flag(cpu, i),
        M::Hlt => system::halt(cpu, i),
        M::Swapgs => next(system::swapgs(cpu)),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => next(system::segment_base(cpu, i)),
        M::Invlpg | M::Invpcid => system::invalidate(cpu, bus, i),
        M::Invd | M::Wbinvd => {
            cpu.require_cpl0()?;
            Ok(Flow::Next)
        }
        M::Rdrand | M::Rdseed => next(system::random(cpu, i)),
        M::Pause => {
            if bus.vcpus > 1 {
                cpu.yield_slice = true;
                cpu.rip = i.next_ip();
                return Ok(Flow::Leave);
            }
            Ok(Flow::Next)
        }
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => next(xsave::fxsave(cpu, bus, i)),
        M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaves
        | M::Xsaves64
        | M::Xrstor
        | M::Xrstor64
        | M::Xrstors
        | M::Xrstors64 => next(xsave::xsave(cpu, bus, i)),
        M::Xgetbv | M::Xsetbv => next(xsave::xcr(cpu, i)),
        M::Nop
        | M::Reservednop
        | M::Endbr32
        | M::Endbr64
        | M::Rdsspd
        | M::Rdsspq
        | M::Lfence
        | M::Mfence
        | M::Sfence
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetch => Ok(Flow::Next),
        M::Clflush | M::Clflushopt => {
            let linear = cpu.memory_operand(i, 1, false)?;
            cpu.load::<u8>(bus, linear)?;
            Ok(Flow::Next)
        }
        _ if i.is_jcc_short_or_near() => control::conditional(cpu, i),
        _ if is_cmovcc(i) => next(data::conditional_move(cpu, bus, i)),
        _ if is_setcc(i) => next(data::set_on_condition(cpu, bus, i)),
        _ if i.is_string_instruction() && !is_string_lookalike(i) => string::execute(cpu, bus, i, index),
        m if x87::is_x87(m) => next(x87::execute(cpu, bus, i)),
        _ => next(sse::execute(cpu, bus, i)),
    }
}

fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_call_far() || i.is_jmp_far_indirect() || i.is_call_far_indirect()
}

fn is_cmovcc(i: &Instruction) -> bool {
    (M::Cmova as u32..=M::Cmovs as u32).contains(&(i.mnemonic() as u32))
}

fn is_setcc(i: &Instruction) -> bool {
    (M::Seta as u32..=M::Sets as u32).contains(&(i.mnemonic() as u32))
        && i.condition_code() != iced_x86::ConditionCode::None
}

/// MASKMOVQ and MASKMOVDQU address memory as string instructions do.
fn is_string_lookalike(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu)
}
