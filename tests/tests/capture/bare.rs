//! Guests of a few instructions, as multiboot kernels: 32-bit code without paging.

use super::{Guest, text};
use std::fs;
use tests::{Scratch, until};

/// Where the counter is that is counted first, and the other one, far behind it.
pub const FIRST: u64 = 0x20_0000;
pub const SECOND: u64 = 0x3f0_0000;

/// Where the image lies; its code begins behind the header.
const LOAD: u32 = 0x10_0000;

/// A kernel: a multiboot header with its addresses (version 1, flag 16), and the code.
pub fn kernel(code: &[u8]) -> Vec<u8> {
    let (magic, flags) = (0x1bad_b002_u32, 1_u32 << 16);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let entry = LOAD + 32;
    let header = [magic, flags, checksum, LOAD, LOAD, 0, 0, entry];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code);
    image
}

/// Counts at two places, the first always one ahead or equal, for ever.
pub fn counting() -> Vec<u8> {
    let mut code = Vec::new();
    for place in [FIRST, SECOND] {
        code.extend([0xff, 0x05]); // inc dword [place]
        code.extend((place as u32).to_le_bytes());
    }
    code.extend([0xeb, 0xf2]); // back to the first
    code
}

/// Fills memory from 4 MiB on with something, counts once, then spins.
pub fn filling(bytes: u32) -> Vec<u8> {
    let mut code = vec![0xfc, 0xbf]; // cld; mov edi, 4 MiB
    code.extend(0x40_0000_u32.to_le_bytes());
    code.push(0xb9); // mov ecx
    code.extend((bytes / 4).to_le_bytes());
    code.extend([0xb8, 0x78, 0x56, 0x34, 0x12]); // mov eax, 12345678h
    code.extend([0xf3, 0xab]); // rep stosd
    code.extend([0xff, 0x05]); // inc dword [FIRST]
    code.extend((FIRST as u32).to_le_bytes());
    code.extend([0xeb, 0xfe]);
    code
}

/// An empty IDT, and an exception: a triple fault.
pub const TRIPLE_FAULT: &[u8] = &[0x0f, 0x01, 0x1d, 0, 0, 0x30, 0, 0xcc];
/// `cli; hlt`.
pub const HALT: &[u8] = &[0xfa, 0xf4];
/// Counts once, then spins.
pub const COUNT_ONCE: &[u8] = &[0xff, 0x05, 0, 0, 0x20, 0, 0xeb, 0xfe];
/// Tells pvpanic, then counts.
pub const PVPANIC: &[u8] = &[0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xeb, 0xfe];
/// The PC's reset port, after a loop.
pub const RESET: &[u8] = &[
    0xb9, 0x00, 0x00, 0x40, 0x00, 0xe2, 0xfe, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xfe,
];

/// A paused domain `vm` with this code.
#[track_caller]
pub fn guest(code: &[u8], memory: &str) -> Guest {
    let files = Scratch::default();
    let path = files.file("kernel", &kernel(code));
    assert!(fs::metadata(&path).is_ok());
    Guest::create(&["--kernel", &text(&path), "--memory", memory, "--paused"])
}

/// The same, which runs.
#[track_caller]
pub fn running(code: &[u8], memory: &str) -> Guest {
    let guest = guest(code, memory);
    guest.service.kdd(&["unpause", "vm"]).done();
    guest
}

/// Powers off, after a loop.
pub const POWER_OFF: &[u8] = &[
    0xb9, 0x00, 0x00, 0x40, 0x00, 0xe2, 0xfe, 0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef,
    0xeb, 0xfe,
];

/// A guest whose memory is full of something: its dump takes a moment.
#[track_caller]
pub fn full(bytes: u32) -> Guest {
    let guest = running(&filling(bytes), "768M");
    until_it_counted(&guest);
    guest
}

/// A guest that is counting: it has begun.
#[track_caller]
pub fn counting_guest(memory: &str) -> Guest {
    let guest = running(&counting(), memory);
    until_it_counted(&guest);
    guest
}

/// Waits until the first counter isn't zero.
#[track_caller]
fn until_it_counted(guest: &Guest) {
    let first = format!("{FIRST:x}");
    until("the guest to count", || {
        let read = guest
            .service
            .kdd(&["mem", "read", "vm", &first, "4", "--phys", "-o", "-"]);
        read.stdout.iter().any(|byte| *byte != 0)
    });
}
