//! A tiny machine that the targets share: 2 MiB, and a multiboot kernel of a few instructions.

use hv_core::machine::{GuestImage, MachineConfig};

/// Where the kernel is.
pub const KERNEL: u64 = 0x10_0000;
/// Its memory.
pub const MEMORY: u64 = 2 << 20;

/// Counts in EAX, stores the count, and does so for ever.
const LOOP: &[u8] = &[
    0xbb, 0x00, 0x80, 0x00, 0x00, // mov ebx, 8000h
    0x40, // inc eax
    0x89, 0x03, // mov [ebx], eax
    0x8b, 0x0b, // mov ecx, [ebx]
    0x90, // nop
    0xeb, 0xf8, // jmp to the inc
];

/// A multiboot kernel with the "a.out kludge" addresses around this code.
pub fn multiboot(code: &[u8]) -> Vec<u8> {
    let (magic, flags) = (0x1bad_b002_u32, 1_u32 << 16);
    let start = KERNEL as u32;
    let header = [
        magic,
        flags,
        0u32.wrapping_sub(magic).wrapping_sub(flags),
        start,
        start,
        0,
        0,
        start + 32,
    ];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend_from_slice(code);
    file
}

/// The configuration of a machine that runs the loop.
pub fn config(vcpus: u32) -> MachineConfig {
    MachineConfig {
        memory_bytes: MEMORY,
        vcpus,
        seed: 1,
        cpu_model: String::new(),
        debug_exit: Some(0xf4),
        guest: GuestImage::Linux {
            kernel: multiboot(LOOP).into(),
            initrd: None,
            command_line: String::new(),
        },
    }
}
