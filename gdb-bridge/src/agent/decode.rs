//! From the bytes of an expression to checked operations.

use super::LONGEST;
use super::format::Format;
use crate::registers::{Slot, TABLE};

/// Why bytes are no expression that can be evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The list in the packet is malformed.
    #[error("the list of expressions is malformed")]
    List,
    /// An empty or too long program.
    #[error("an expression has {0} bytes")]
    Length(usize),
    /// The program ends in the middle of an operation.
    #[error("an expression ends in the middle of an operation")]
    Truncated,
    /// An operation that makes no sense in a condition, or none at all.
    #[error("operation {0:#04x} isn't supported")]
    Operation(u8),
    /// A jump to where no operation begins.
    #[error("a jump to {0}, where no operation begins")]
    Jump(usize),
    /// A register that isn't in the target description, or one wider than 64 bits.
    #[error("there is no register {0} of at most 64 bits")]
    Register(usize),
    /// A width that no number here has.
    #[error("{0} bits")]
    Width(u8),
    /// A `printf` in a condition, or one whose format can't be printed.
    #[error("a format can't be printed")]
    Format,
}

/// A checked operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Const(u64),
    Register(Slot),
    /// Bytes to read from memory.
    Ref(usize),
    /// Keeps the low bits, the sign bit copied up.
    SignExtend(u32),
    ZeroExtend(u32),
    Binary(Binary),
    LogNot,
    BitNot,
    /// An index into the operations.
    Goto(usize),
    IfGoto(usize),
    Dup,
    Pop,
    Swap,
    Rot,
    Pick(usize),
    /// Prints by the format of this index.
    Print(usize),
    End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    DivSigned,
    DivUnsigned,
    RemSigned,
    RemUnsigned,
    Lsh,
    RshSigned,
    RshUnsigned,
    And,
    Or,
    Xor,
    Equal,
    LessSigned,
    LessUnsigned,
}

/// A checked expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    pub(super) ops: Vec<Op>,
    pub(super) formats: Vec<Format>,
}

impl Program {
    /// Checks an expression. The codes are those of gdb's `ax.def`.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(code: &[u8]) -> Result<Program, DecodeError> {
        let program = Program::decode_command(code)?;
        if program.formats.is_empty() {
            Ok(program)
        } else {
            Err(DecodeError::Format)
        }
    }

    /// The same for a command of a breakpoint, which may print.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode_command(code: &[u8]) -> Result<Program, DecodeError> {
        if code.is_empty() || code.len() > LONGEST {
            return Err(DecodeError::Length(code.len()));
        }
        let mut ops = Vec::with_capacity(code.len());
        // The operation that begins at each byte.
        let mut starts = vec![None; code.len()];
        let mut reader = Reader {
            code,
            at: 0,
            formats: Vec::new(),
        };
        while reader.at < code.len() {
            starts[reader.at] = Some(ops.len());
            ops.push(reader.operation()?);
        }
        for op in &mut ops {
            if let Op::Goto(target) | Op::IfGoto(target) = op {
                *target = starts
                    .get(*target)
                    .copied()
                    .flatten()
                    .ok_or(DecodeError::Jump(*target))?;
            }
        }
        Ok(Program {
            ops,
            formats: reader.formats,
        })
    }
}

struct Reader<'a> {
    code: &'a [u8],
    at: usize,
    formats: Vec<Format>,
}

impl Reader<'_> {
    /// The next `N` bytes, a big-endian number.
    fn number<const N: usize>(&mut self) -> Result<u64, DecodeError> {
        let bytes = self
            .code
            .get(self.at..self.at + N)
            .ok_or(DecodeError::Truncated)?;
        self.at += N;
        Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn width(&mut self) -> Result<u32, DecodeError> {
        match self.number::<1>()? as u8 {
            bits @ 1..=64 => Ok(bits.into()),
            bits => Err(DecodeError::Width(bits)),
        }
    }

    fn register(&mut self) -> Result<Op, DecodeError> {
        let number = self.number::<2>()? as usize;
        match TABLE.get(number) {
            Some(register) if register.bits <= 64 && !matches!(register.slot, Slot::OtherMsr(_)) => {
                Ok(Op::Register(register.slot))
            }
            _ => Err(DecodeError::Register(number)),
        }
    }

    /// The number of values, the length of the format with its final 0, the format.
    fn print(&mut self) -> Result<Op, DecodeError> {
        let values = self.number::<1>()? as usize;
        let length = self.number::<2>()? as usize;
        let rest = self.code.get(self.at..).unwrap_or(&[]);
        let text = rest.get(..length).ok_or(DecodeError::Truncated)?;
        let text = text.strip_suffix(&[0]).ok_or(DecodeError::Format)?;
        self.at += length;
        self.formats
            .push(Format::parse(text, values).ok_or(DecodeError::Format)?);
        Ok(Op::Print(self.formats.len() - 1))
    }

    fn operation(&mut self) -> Result<Op, DecodeError> {
        Ok(match self.number::<1>()? as u8 {
            0x02 => Op::Binary(Binary::Add),
            0x03 => Op::Binary(Binary::Sub),
            0x04 => Op::Binary(Binary::Mul),
            0x05 => Op::Binary(Binary::DivSigned),
            0x06 => Op::Binary(Binary::DivUnsigned),
            0x07 => Op::Binary(Binary::RemSigned),
            0x08 => Op::Binary(Binary::RemUnsigned),
            0x09 => Op::Binary(Binary::Lsh),
            0x0a => Op::Binary(Binary::RshSigned),
            0x0b => Op::Binary(Binary::RshUnsigned),
            0x0e => Op::LogNot,
            0x0f => Op::Binary(Binary::And),
            0x10 => Op::Binary(Binary::Or),
            0x11 => Op::Binary(Binary::Xor),
            0x12 => Op::BitNot,
            0x13 => Op::Binary(Binary::Equal),
            0x14 => Op::Binary(Binary::LessSigned),
            0x15 => Op::Binary(Binary::LessUnsigned),
            0x16 => Op::SignExtend(self.width()?),
            0x17 => Op::Ref(1),
            0x18 => Op::Ref(2),
            0x19 => Op::Ref(4),
            0x1a => Op::Ref(8),
            0x20 => Op::IfGoto(self.number::<2>()? as usize),
            0x21 => Op::Goto(self.number::<2>()? as usize),
            0x22 => Op::Const(self.number::<1>()?),
            0x23 => Op::Const(self.number::<2>()?),
            0x24 => Op::Const(self.number::<4>()?),
            0x25 => Op::Const(self.number::<8>()?),
            0x26 => self.register()?,
            0x27 => Op::End,
            0x28 => Op::Dup,
            0x29 => Op::Pop,
            0x2a => Op::ZeroExtend(self.width()?),
            0x2b => Op::Swap,
            0x32 => Op::Pick(self.number::<1>()? as usize),
            0x33 => Op::Rot,
            0x34 => self.print()?,
            other => return Err(DecodeError::Operation(other)),
        })
    }
}
