//! Offsets in the code of exported functions that only return a field: `mov rax, [rcx+offset]; ret`.

use crate::windows::Windows;
use crate::windows::facts::Arch;
use crate::windows::field::{Field, Source};
use crate::windows::space::Space;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use symbols::pe::{Exports, ReadImage};

/// Bytes of a function that are looked at.
const CODE: usize = 32;
/// Instructions of it.
const INSTRUCTIONS: usize = 10;
/// Larger offsets are no structure's.
const MAX_OFFSET: u64 = 0x4000;

/// Functions, what they return, and whether it is the field or its address.
const ACCESSORS: &[(&str, Field, Returns)] = &[
    ("PsGetProcessId", Field::EprocessUniqueProcessId, Returns::Value),
    (
        "PsGetProcessImageFileName",
        Field::EprocessImageFileName,
        Returns::Address,
    ),
    (
        "PsGetProcessInheritedFromUniqueProcessId",
        Field::EprocessParentId,
        Returns::Value,
    ),
    ("PsGetProcessPeb", Field::EprocessPeb, Returns::Value),
    (
        "PsGetProcessSectionBaseAddress",
        Field::EprocessSectionBaseAddress,
        Returns::Value,
    ),
    (
        "PsGetProcessCreateTimeQuadPart",
        Field::EprocessCreateTime,
        Returns::Value,
    ),
    (
        "PsGetProcessWow64Process",
        Field::EprocessWow64Process,
        Returns::Value,
    ),
    ("PsGetThreadProcessId", Field::EthreadCid, Returns::Value),
    ("PsGetThreadTeb", Field::KthreadTeb, Returns::Value),
    ("PsGetThreadProcess", Field::KthreadProcess, Returns::Value),
    ("IoThreadToProcess", Field::KthreadProcess, Returns::Value),
];

/// What an accessor returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Returns {
    /// The field's value.
    Value,
    /// The field's address.
    Address,
}

impl Windows {
    pub(super) fn learn_from_code(&mut self, space: &Space<'_>) {
        let Some(headers) = self.headers.clone() else {
            return;
        };
        let image = space.image(self.image.base);
        let Ok(exports) = Exports::open(&headers, &image) else {
            return;
        };
        let mut learned = Vec::new();
        for &(name, field, returns) in ACCESSORS {
            if self.layout.find(field).is_some() {
                continue;
            }
            let offset = exports.find(name).and_then(|rva| {
                let mut code = [0; CODE];
                image
                    .read(rva, &mut code)
                    .then(|| accessor(self.arch, &code, returns))?
            });
            if let Some(offset) = offset {
                self.layout.learn(field, offset, Source::Code);
                learned.push(name);
            }
        }
        if learned.is_empty() {
            self.report
                .missing("code", "no exported accessor has a simple form");
        } else {
            self.report.found("code", learned.join(", "));
        }
    }
}

/// The offset that a function adds to its only argument, if it does nothing but return the field there.
fn accessor(arch: Arch, code: &[u8], returns: Returns) -> Option<u32> {
    let bits = match arch {
        Arch::X64 => 64,
        Arch::X86 => 32,
    };
    // x64 passes the argument in RCX; on x86 it is loaded from the stack first.
    let mut argument = (arch == Arch::X64).then_some(Register::RCX);
    let mut offset = None;
    for instruction in Decoder::new(bits, code, DecoderOptions::NONE)
        .iter()
        .take(INSTRUCTIONS)
    {
        match instruction.mnemonic() {
            Mnemonic::Ret => return offset,
            Mnemonic::Push | Mnemonic::Pop | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Nop => {}
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
                // `mov edi, edi` and `mov ebp, esp`.
                let to = instruction.op0_register().full_register();
                if !matches!(to, Register::RDI | Register::RBP) {
                    return None;
                }
            }
            Mnemonic::Mov | Mnemonic::Lea if offset.is_none() && instruction.op1_kind() == OpKind::Memory => {
                match argument {
                    None if is_stack_argument(&instruction) => argument = Some(instruction.op0_register()),
                    Some(base) => offset = Some(field(&instruction, base, returns)?),
                    None => return None,
                }
            }
            Mnemonic::Add if returns == Returns::Address && offset.is_none() => {
                offset = Some(added(&instruction, argument?)?);
            }
            _ => return None,
        }
    }
    None
}

/// What `add` adds to the argument where that is the result register already.
fn added(instruction: &Instruction, argument: Register) -> Option<u32> {
    let is_immediate = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8to32 | OpKind::Immediate32 | OpKind::Immediate8to64 | OpKind::Immediate32to64
    );
    let plain =
        is_immediate && instruction.op0_register() == argument && argument.full_register() == Register::RAX;
    let offset = plain.then(|| instruction.immediate(1))?;
    (offset < MAX_OFFSET && offset.is_multiple_of(4)).then_some(offset as u32)
}

/// `mov reg, [ebp+8]` or `mov reg, [esp+4]`.
fn is_stack_argument(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.memory_index() == Register::None
        && matches!(
            (instruction.memory_base(), instruction.memory_displacement64()),
            (Register::EBP, 8) | (Register::ESP, 4)
        )
}

/// The displacement of `mov` or `lea` to the result register from `[base+displacement]`.
fn field(instruction: &Instruction, base: Register, returns: Returns) -> Option<u32> {
    let wanted = match returns {
        Returns::Value => Mnemonic::Mov,
        Returns::Address => Mnemonic::Lea,
    };
    let offset = instruction.memory_displacement64();
    let plain = instruction.mnemonic() == wanted
        && instruction.op0_register().full_register() == Register::RAX
        && instruction.memory_base() == base
        && instruction.memory_index() == Register::None
        && offset < MAX_OFFSET
        && offset.is_multiple_of(4);
    plain.then_some(offset as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x64_accessors_are_read() {
        // mov rax, [rcx+440h]; ret
        let code = [0x48, 0x8b, 0x81, 0x40, 4, 0, 0, 0xc3];
        assert_eq!(accessor(Arch::X64, &code, Returns::Value), Some(0x440));
        // lea rax, [rcx+5A8h]; ret
        let code = [0x48, 0x8d, 0x81, 0xa8, 5, 0, 0, 0xc3];
        assert_eq!(accessor(Arch::X64, &code, Returns::Address), Some(0x5a8));
        assert_eq!(accessor(Arch::X64, &code, Returns::Value), None);
    }

    #[test]
    fn x86_accessors_are_read() {
        // mov edi, edi; push ebp; mov ebp, esp; mov eax, [ebp+8]; mov eax, [eax+0B4h]; pop ebp; ret 4
        let code = [
            0x8b, 0xff, 0x55, 0x8b, 0xec, 0x8b, 0x45, 8, 0x8b, 0x80, 0xb4, 0, 0, 0, 0x5d, 0xc2, 4, 0,
        ];
        assert_eq!(accessor(Arch::X86, &code, Returns::Value), Some(0xb4));
        // mov edi, edi; push ebp; mov ebp, esp; mov eax, [ebp+8]; add eax, 16Ch; pop ebp; ret 4
        let code = [
            0x8b, 0xff, 0x55, 0x8b, 0xec, 0x8b, 0x45, 8, 5, 0x6c, 1, 0, 0, 0x5d, 0xc2, 4, 0,
        ];
        assert_eq!(accessor(Arch::X86, &code, Returns::Address), Some(0x16c));
        assert_eq!(accessor(Arch::X86, &code, Returns::Value), None);
    }

    #[test]
    fn a_function_that_does_more_is_not_taken() {
        // mov rax, [rcx+440h]; test rax, rax; ret
        let code = [0x48, 0x8b, 0x81, 0x40, 4, 0, 0, 0x48, 0x85, 0xc0, 0xc3];
        assert_eq!(accessor(Arch::X64, &code, Returns::Value), None);
        assert_eq!(accessor(Arch::X64, &[0xcc; 32], Returns::Value), None);
        assert_eq!(accessor(Arch::X64, &[], Returns::Value), None);
    }
}
