//! Evaluation of a checked expression.

use super::decode::{Binary, Op, Program};
use super::{MOST_TEXT, STACK, STEPS};
use crate::registers::Slot;
use hv_core::addr::GuestVirtAddr;
use hv_core::introspect::StopContext;

/// Why an expression has no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failed {
    /// More than [`STACK`] numbers, or one too few.
    #[error("its stack is too small, or holds too little")]
    Stack,
    /// More than [`STEPS`] operations.
    #[error("it takes more than {STEPS} operations")]
    Steps,
    /// More than [`MOST_TEXT`] bytes printed.
    #[error("it prints too much")]
    Text,
    /// The program ran past its end.
    #[error("it has no end")]
    NoEnd,
    /// Division by zero.
    #[error("division by zero")]
    Division,
    /// Memory that isn't mapped.
    #[error("no memory at {0:#x}")]
    Memory(u64),
}

struct Stack {
    numbers: [u64; STACK],
    depth: usize,
}

impl Stack {
    fn push(&mut self, value: u64) -> Result<(), Failed> {
        *self.numbers.get_mut(self.depth).ok_or(Failed::Stack)? = value;
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) -> Result<u64, Failed> {
        self.depth = self.depth.checked_sub(1).ok_or(Failed::Stack)?;
        Ok(self.numbers[self.depth])
    }

    /// The number `below` the top.
    fn pick(&mut self, below: usize) -> Result<&mut u64, Failed> {
        let index = self.depth.checked_sub(below + 1).ok_or(Failed::Stack)?;
        Ok(&mut self.numbers[index])
    }
}

impl Program {
    /// The value at `at`.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn evaluate(&self, at: &mut dyn StopContext) -> Result<u64, Failed> {
        self.run(at, &mut String::new())
    }

    /// Evaluates a command of a breakpoint, and appends what it prints to `text`.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(&self, at: &mut dyn StopContext, text: &mut String) -> Result<u64, Failed> {
        let mut stack = Stack {
            numbers: [0; STACK],
            depth: 0,
        };
        let mut next = 0;
        for _ in 0..STEPS {
            let op = *self.ops.get(next).ok_or(Failed::NoEnd)?;
            next += 1;
            match op {
                Op::Const(value) => stack.push(value)?,
                Op::Register(slot) => stack.push(register(at, slot))?,
                Op::Ref(bytes) => {
                    let address = stack.pop()?;
                    let mut buffer = [0; 8];
                    if !at.read_virtual(GuestVirtAddr(address), &mut buffer[..bytes]) {
                        return Err(Failed::Memory(address));
                    }
                    stack.push(u64::from_le_bytes(buffer))?;
                }
                Op::SignExtend(bits) => {
                    let top = stack.pick(0)?;
                    *top = (((*top << (64 - bits)) as i64) >> (64 - bits)) as u64;
                }
                Op::ZeroExtend(bits) => *stack.pick(0)? &= u64::MAX >> (64 - bits),
                Op::Binary(op) => {
                    let right = stack.pop()?;
                    let left = stack.pop()?;
                    stack.push(op.apply(left, right)?)?;
                }
                Op::LogNot => {
                    let top = stack.pick(0)?;
                    *top = u64::from(*top == 0);
                }
                Op::BitNot => {
                    let top = stack.pick(0)?;
                    *top = !*top;
                }
                Op::Goto(target) => next = target,
                Op::IfGoto(target) => {
                    if stack.pop()? != 0 {
                        next = target;
                    }
                }
                Op::Dup => {
                    let top = *stack.pick(0)?;
                    stack.push(top)?;
                }
                Op::Pop => {
                    stack.pop()?;
                }
                Op::Swap => {
                    let (top, below) = (stack.pop()?, stack.pop()?);
                    stack.push(top)?;
                    stack.push(below)?;
                }
                // a b c => c a b
                Op::Rot => {
                    let (c, b, a) = (stack.pop()?, stack.pop()?, stack.pop()?);
                    stack.push(c)?;
                    stack.push(a)?;
                    stack.push(b)?;
                }
                Op::Pick(below) => {
                    let value = *stack.pick(below)?;
                    stack.push(value)?;
                }
                Op::Print(index) => {
                    // A function and its channel, which are the service's own choice, come before the values.
                    stack.pop()?;
                    stack.pop()?;
                    let format = self.formats.get(index).ok_or(Failed::Stack)?;
                    let values = (0..format.values())
                        .map(|_| stack.pop())
                        .collect::<Result<Vec<_>, _>>()?;
                    format.print(&values, at, text);
                    if text.len() > MOST_TEXT {
                        return Err(Failed::Text);
                    }
                }
                // A command leaves nothing.
                Op::End if stack.depth == 0 && !self.formats.is_empty() => return Ok(0),
                Op::End => return stack.pop(),
            }
        }
        Err(Failed::Steps)
    }
}

impl Binary {
    fn apply(self, left: u64, right: u64) -> Result<u64, Failed> {
        let (signed_left, signed_right) = (left as i64, right as i64);
        let shift = u32::try_from(right).unwrap_or(u32::MAX);
        Ok(match self {
            Binary::Add => left.wrapping_add(right),
            Binary::Sub => left.wrapping_sub(right),
            Binary::Mul => left.wrapping_mul(right),
            Binary::DivSigned | Binary::DivUnsigned | Binary::RemSigned | Binary::RemUnsigned
                if right == 0 =>
            {
                return Err(Failed::Division);
            }
            Binary::DivSigned => signed_left.wrapping_div(signed_right) as u64,
            Binary::DivUnsigned => left / right,
            Binary::RemSigned => signed_left.wrapping_rem(signed_right) as u64,
            Binary::RemUnsigned => left % right,
            Binary::Lsh => left.checked_shl(shift).unwrap_or(0),
            Binary::RshSigned => (signed_left >> shift.min(63)) as u64,
            Binary::RshUnsigned => left.checked_shr(shift).unwrap_or(0),
            Binary::And => left & right,
            Binary::Or => left | right,
            Binary::Xor => left ^ right,
            Binary::Equal => u64::from(left == right),
            Binary::LessSigned => u64::from(signed_left < signed_right),
            Binary::LessUnsigned => u64::from(left < right),
        })
    }
}

/// Reads a register the quick way where there is one.
fn register(at: &dyn StopContext, slot: Slot) -> u64 {
    match slot {
        Slot::Gpr(index) => at.gpr(index),
        Slot::Rip => at.rip(),
        Slot::Rflags => at.rflags(),
        slot => slot.get(&at.registers()) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::{DecodeError, Program};
    use super::*;
    use hv_core::addr::VcpuId;
    use hv_core::regs::Registers;

    /// rax is 7, rbx is -2; one page at 0x1000 that holds its own addresses.
    struct Context;

    impl StopContext for Context {
        fn vcpu(&self) -> VcpuId {
            VcpuId(0)
        }
        fn gpr(&self, index: usize) -> u64 {
            [7, 0, 0, -2i64 as u64].get(index).copied().unwrap_or(0)
        }
        fn rip(&self) -> u64 {
            0x1234
        }
        fn rflags(&self) -> u64 {
            2
        }
        fn registers(&self) -> Registers {
            let mut registers = Registers::at_reset(true);
            registers.cr3 = 0x5000;
            registers
        }
        fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
            if !(0x1000..0x1ff8).contains(&address.0) {
                return false;
            }
            let value = address.0.to_le_bytes();
            buffer.copy_from_slice(&value[..buffer.len()]);
            true
        }
    }

    fn run(code: &[u8]) -> Result<u64, Failed> {
        Program::decode(code).expect("decodes").evaluate(&mut Context)
    }

    #[test]
    fn registers_have_the_numbers_of_the_description() {
        assert_eq!(run(&[0x26, 0, 0, 0x27]), Ok(7));
        assert_eq!(run(&[0x26, 0, 1, 0x27]), Ok(-2i64 as u64));
        assert_eq!(run(&[0x26, 0, 0x10, 0x27]), Ok(0x1234));
        assert_eq!(run(&[0x26, 0, 0x1d, 0x27]), Ok(0x5000));
    }

    #[test]
    fn arithmetic_is_that_of_64_bits() {
        let binary = |left: u8, op: u8, right: u8| run(&[0x22, left, 0x22, right, op, 0x27]);
        assert_eq!(binary(3, 0x02, 4), Ok(7));
        assert_eq!(binary(3, 0x03, 4), Ok(-1i64 as u64));
        assert_eq!(binary(9, 0x06, 2), Ok(4));
        assert_eq!(binary(9, 0x08, 2), Ok(1));
        assert_eq!(binary(1, 0x09, 70), Ok(0));
        assert_eq!(binary(3, 0x15, 4), Ok(1));
        assert_eq!(binary(5, 0x06, 0), Err(Failed::Division));
        // rbx is negative: smaller signed, larger unsigned.
        assert_eq!(run(&[0x26, 0, 1, 0x22, 1, 0x14, 0x27]), Ok(1));
        assert_eq!(run(&[0x26, 0, 1, 0x22, 1, 0x15, 0x27]), Ok(0));
        // 0x8000000000000000 / -1 wraps.
        assert_eq!(
            run(&[0x25, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0x12, 0x05, 0x27]),
            Ok(1 << 63)
        );
    }

    #[test]
    fn memory_is_read_or_the_expression_fails() {
        assert_eq!(run(&[0x23, 0x10, 0x10, 0x18, 0x27]), Ok(0x1010));
        assert_eq!(run(&[0x22, 0, 0x1a, 0x27]), Err(Failed::Memory(0)));
    }

    #[test]
    fn extensions_keep_the_low_bits() {
        assert_eq!(run(&[0x22, 0xff, 0x16, 8, 0x27]), Ok(u64::MAX));
        assert_eq!(run(&[0x23, 0x12, 0xff, 0x2a, 8, 0x27]), Ok(0xff));
    }

    #[test]
    fn the_stack_is_shuffled_as_the_manual_says() {
        // 1 2 3 rot => 3 1 2; the top is 2, below it 1.
        assert_eq!(run(&[0x22, 1, 0x22, 2, 0x22, 3, 0x33, 0x27]), Ok(2));
        assert_eq!(run(&[0x22, 1, 0x22, 2, 0x22, 3, 0x33, 0x32, 2, 0x27]), Ok(3));
        assert_eq!(run(&[0x22, 1, 0x22, 2, 0x2b, 0x27]), Ok(1));
    }

    #[test]
    fn hostile_programs_end() {
        assert_eq!(run(&[0x21, 0, 0]), Err(Failed::Steps));
        assert_eq!(run(&[0x22, 1, 0x21, 0, 0]), Err(Failed::Stack));
        assert_eq!(run(&[0x29]), Err(Failed::Stack));
        assert_eq!(run(&[0x22, 1]), Err(Failed::NoEnd));
        assert_eq!(Program::decode(&[0x21, 0, 2, 0x27]), Err(DecodeError::Jump(2)));
        assert_eq!(Program::decode(&[0x25, 0]), Err(DecodeError::Truncated));
        assert_eq!(
            Program::decode(&[0x26, 0xff, 0xff]),
            Err(DecodeError::Register(0xffff))
        );
        assert_eq!(Program::decode(&[0xff]), Err(DecodeError::Operation(0xff)));
        assert_eq!(Program::decode(&[0x16, 65]), Err(DecodeError::Width(65)));
    }
}
