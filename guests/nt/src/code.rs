//! The code of the kernel's functions: the sources', which lies at the profile's addresses where it fits, and the few
//! functions that the builder makes.

use crate::profile::Arch;
use crate::symbols::Symbol;
use std::collections::{BTreeMap, BTreeSet};

/// The functions that the sources bring for the profile's symbols.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    /// These lie at the profile's place: name and size.
    pub placed: BTreeMap<String, u32>,
    /// For these there is no room: at the profile's place is a jump, and the function is `NAME_impl`, anywhere.
    pub moved: BTreeSet<String>,
    /// These may lie anywhere.
    pub free: BTreeSet<String>,
}

impl Code {
    /// What becomes of functions of these sizes.
    pub fn new(symbols: &[Symbol], sizes: &BTreeMap<String, u32>, arch: Arch) -> Code {
        let mut code = Code::default();
        for symbol in symbols.iter().filter(|symbol| symbol.kind.is_code()) {
            let Some(&size) = sizes
                .get(&symbol.name)
                .filter(|_| body(&symbol.name, arch).is_none())
            else {
                continue;
            };
            let Some(rva) = symbol.rva else {
                code.free.insert(symbol.name.clone());
                continue;
            };
            let others = || symbols.iter().filter_map(|other| Some((other.rva?, &other.name)));
            let next = others().map(|(at, _)| at).filter(|&at| at > rva).min();
            let last_there = others().filter(|&(at, _)| at == rva).map(|(_, name)| name).max();
            if last_there == Some(&symbol.name) && next.is_none_or(|next| next - rva >= size) {
                code.placed.insert(symbol.name.clone(), size);
            } else {
                code.moved.insert(symbol.name.clone());
            }
        }
        code
    }
}

/// A function of an object that becomes a piece of a section: its name, the piece's, and whether it can be written.
pub(crate) struct Piece {
    pub function: String,
    pub section: String,
    pub write: bool,
}

/// The name of a function that isn't where its symbol is.
pub(crate) fn moved_name(name: &str) -> String {
    format!("{name}_impl")
}

/// Functions that are their few instructions themselves: the assembly, and its bytes.
pub(crate) fn body(name: &str, arch: Arch) -> Option<(&'static str, u32)> {
    // The debug service: class in EAX, arguments in (R|E)CX, (R|E)DX, R8, R9; the int3 behind it is skipped.
    Some(match (name, arch) {
        ("DbgBreakPoint" | "DbgBreakPointWithStatus" | "RtlpBreakWithStatusInstruction", Arch::X64) => {
            ("int3\n ret", 2)
        }
        ("DebugService2", Arch::X64) => ("movl %r8d, %eax\n int $0x2d\n int3\n ret", 7),
        ("DebugPrint", Arch::X64) => (
            "movl %r8d, %r9d\n movl %edx, %r8d\n movzwl (%rcx), %edx\n movq 8(%rcx), %rcx\n movl $1, %eax\n int $0x2d\n int3\n ret",
            22,
        ),
        ("DbgBreakPoint" | "RtlpBreakWithStatusInstruction", Arch::X86) => ("int3\n ret", 2),
        ("DbgBreakPointWithStatus", Arch::X86) => ("movl 4(%esp), %eax\n int3\n ret", 6),
        ("DebugService2", Arch::X86) => (
            "movl 12(%esp), %eax\n movl 4(%esp), %ecx\n movl 8(%esp), %edx\n int $0x2d\n int3\n ret",
            16,
        ),
        ("DebugPrint", Arch::X86) => (
            "movl 4(%esp), %edx\n movl 4(%edx), %ecx\n movzwl (%edx), %edx\n movl $1, %eax\n int $0x2d\n int3\n ret",
            19,
        ),
        _ => return None,
    })
}
