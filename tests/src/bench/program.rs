//! A few instructions in 64-bit mode, in a machine without anything else.

use hv_core::machine::{GuestImage, MachineConfig};
use hv_core::regs::{Registers, Segment, cr0, cr4, efer, gpr, rflags, seg};

const PAGE_TABLES: u64 = 0x1_0000;
const CODE: u64 = 0x20_0000;
/// Where the load/store loop reads; it writes 1 MiB above.
const DATA: u64 = 0x40_0000;

const LARGE_PAGE: u64 = 0x83;
const TABLE: u64 = 0x3;

/// Registers only.
pub(crate) const REGISTER_LOOP: &[u8] = &[
    0x48, 0x01, 0xd8, // add rax, rbx
    0x48, 0x31, 0xc2, // xor rdx, rax
    0x48, 0x8d, 0x74, 0x56, 0x01, // lea rsi, [rsi + rdx*2 + 1]
    0x48, 0xc1, 0xea, 0x03, // shr rdx, 3
    0x48, 0x29, 0xf7, // sub rdi, rsi
    0x49, 0xff, 0xc0, // inc r8
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xe6, // jnz to the start
];

/// Two loads and two stores of nine instructions, through 64 KiB.
pub(crate) const LOAD_STORE_LOOP: &[u8] = &[
    0x48, 0x8b, 0x06, // mov rax, [rsi]
    0x48, 0x01, 0xd8, // add rax, rbx
    0x48, 0x89, 0x86, 0x00, 0x00, 0x10, 0x00, // mov [rsi + 0x100000], rax
    0x8b, 0x56, 0x08, // mov edx, [rsi + 8]
    0x89, 0x96, 0x08, 0x00, 0x10, 0x00, // mov [rsi + 0x100008], edx
    0x83, 0xc6, 0x10, // add esi, 16
    0x81, 0xe6, 0xff, 0xff, 0x40, 0x00, // and esi, 0x40ffff
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xdc, // jnz to the start
];

/// A machine with a guest that would halt at once.
pub(crate) fn machine(memory_bytes: u64) -> MachineConfig {
    // Multiboot Specification 0.6.96, section 3.1, with the addresses in the header; then `hlt`.
    let (magic, flags, base) = (0x1bad_b002_u32, 1_u32 << 16, 0x10_0000_u32);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let mut kernel: Vec<u8> = [magic, flags, checksum, base, base, 0, 0, base + 32]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    kernel.push(0xf4);
    MachineConfig {
        memory_bytes,
        vcpus: 1,
        seed: 0,
        cpu_model: String::new(),
        debug_exit: None,
        guest: GuestImage::Linux {
            kernel: kernel.into(),
            initrd: None,
            command_line: String::new(),
        },
    }
}

/// What to write where: page tables that map the first GiB to itself, and the code.
pub(crate) fn writes(code: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let table = |entries: &[u64]| entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let directory: Vec<u64> = (0..512).map(|n| n << 21 | LARGE_PAGE).collect();
    vec![
        (PAGE_TABLES, table(&[(PAGE_TABLES + 0x1000) | TABLE])),
        (PAGE_TABLES + 0x1000, table(&[(PAGE_TABLES + 0x2000) | TABLE])),
        (PAGE_TABLES + 0x2000, table(&directory)),
        (CODE, code.to_vec()),
    ]
}

/// Puts a vCPU at the first instruction of the code.
pub(crate) fn enter(registers: &mut Registers) {
    let flat = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    registers.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::WP;
    registers.cr3 = PAGE_TABLES;
    registers.cr4 = cr4::PAE;
    registers.efer = efer::LME | efer::LMA;
    registers.rflags = rflags::FIXED;
    registers.rip = CODE;
    // Present, 64-bit code; present, data.
    registers.segments[seg::CS] = flat(8, 0xa09b);
    for data in [seg::DS, seg::ES, seg::SS] {
        registers.segments[data] = flat(16, 0xc093);
    }
    registers.gpr[gpr::RSI] = DATA;
    registers.gpr[gpr::RBX] = 3;
    registers.gpr[gpr::RCX] = u64::MAX;
}
