//! Kernel images: whatever the file, an error or registers, and no write beyond the guest's memory.

use super::Target;
use crate::input::Input;
use crate::lab;
use hv_core::GuestPhysAddr;
use hv_core::load::{LoadContext, OutOfRange, load};
use std::io::Write;

/// See the module.
pub const TARGET: Target = Target {
    name: "loader",
    run,
    seeds,
    words: WORDS,
    longest: 16384,
};

const WORDS: &[&[u8]] = &[
    b"\x7fELF\x02\x01\x01",
    b"\x7fELF\x01\x01\x01",
    b"HdrS",
    b"\x0f\x02",
    b"\x55\xaa",
    &[0x02, 0xb0, 0xad, 0x1b],
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x1f, 0x8b, 0x08],
    &[0x28, 0xb5, 0x2f, 0xfd],
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
    b"BZh9",
];

const KERNEL: u64 = 0x100_0000;

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A vmlinux of two segments.
fn elf64() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &[2, 0, 62, 0]);
    put(&mut file, 24, &KERNEL.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &[56, 0, 2, 0]);
    for (n, size) in [0x1000_u64, 0x10_0000].into_iter().enumerate() {
        let (header, address) = (64 + 56 * n, KERNEL + 0x20_0000 * n as u64);
        let virtual_address = 0xffff_ffff_8000_0000 + address;
        put(&mut file, header, &[1, 0, 0, 0]);
        let fields = [176 + 16 * n as u64, virtual_address, address, 16, size, 0x1000];
        for (k, field) in fields.into_iter().enumerate() {
            put(&mut file, header + 8 + 8 * k, &field.to_le_bytes());
        }
        put(&mut file, 176 + 16 * n, b"sixteen bytes of");
    }
    file
}

/// A multiboot kernel as ELF.
fn elf32() -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"\x7fELF\x01\x01\x01");
    put(&mut file, 16, &[2, 0, 3, 0]);
    put(&mut file, 24, &0x10_000cu32.to_le_bytes());
    put(&mut file, 28, &52u32.to_le_bytes());
    put(&mut file, 42, &[32, 0, 1, 0]);
    for (k, field) in [1u32, 84, 0xc010_0000, 0x10_0000, 16, 0x2000]
        .into_iter()
        .enumerate()
    {
        put(&mut file, 52 + 4 * k, &field.to_le_bytes());
    }
    let header = [0x1bad_b002_u32, 3, 0u32.wrapping_sub(0x1bad_b005), 0];
    for (k, word) in header.into_iter().enumerate() {
        put(&mut file, 84 + 4 * k, &word.to_le_bytes());
    }
    file
}

/// A bzImage of protocol 2.15.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 1024 + 0x240, payload);
    let size = (file.len() - 1024).next_multiple_of(16);
    put(&mut file, 1024 + size - 1, &[0]);
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS\x0f\x02");
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x234, &[1, 21, 0x7f, 0]);
    let words = [
        (0x1f4, size as u32 / 16),
        (0x22c, 0x7fff_ffff),
        (0x230, 0x20_0000),
        (0x238, 2047),
        (0x248, 0x240),
        (0x24c, payload.len() as u32),
        (0x258, KERNEL as u32),
        (0x260, 4 << 20),
    ];
    for (offset, word) in words {
        put(&mut file, offset, &word.to_le_bytes());
    }
    file
}

fn payloads() -> Vec<Vec<u8>> {
    let vmlinux = elf64();
    let size = (vmlinux.len() as u32).to_le_bytes();
    let block = lz4_flex::block::compress(&vmlinux);
    let block_size = (block.len() as u32).to_le_bytes();
    let lz4 = [&[0x02, 0x21, 0x4c, 0x18], &block_size[..], &block, &size].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let gzip = gzip
        .write_all(&vmlinux)
        .and_then(|()| gzip.finish())
        .unwrap_or_default();
    // One raw block each, made by hand.
    let raw_block = ((vmlinux.len() as u32) << 3 | 1).to_le_bytes();
    let zstd = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58][..],
        &raw_block[..3],
        &vmlinux,
        &size,
    ]
    .concat();
    let xz = [
        &[0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1, 0x69, 0x22, 0xde, 0x36][..],
        &[
            0x02, 0x00, 0x21, 0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3,
        ],
        &[0x01, 0x00, 0x03, b'a', b'b', b'c', b'd', 0x00],
        &size,
    ]
    .concat();
    vec![lz4, gzip, zstd, xz]
}

fn seeds() -> Vec<Vec<u8>> {
    let mut files = vec![elf64(), elf32(), lab::multiboot(&[0xf4]), bzimage(b"unknown")];
    files.extend(payloads().iter().map(|payload| bzimage(payload)));
    let with = |file: Vec<u8>, head: [u8; 3]| [&head[..], &file].concat();
    files
        .iter()
        .flat_map(|file| [with(file.clone(), [0, 0, 5]), with(file.clone(), [1, 9, 7])])
        .collect()
}

/// Runs a case: three bytes that say how it is loaded, and the file.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (flags, initrd, memory) = (input.u8(), input.u8(), input.u8());
    let memory_bytes = 1 << (20 + memory % 14);
    let kernel = input.rest();
    let initrd = vec![0x55; usize::from(initrd) * 1000];
    let command_line = "x".repeat(if flags & 4 != 0 { 3000 } else { 20 });
    let mut written = 0;
    let mut write = |address: GuestPhysAddr, bytes: &[u8]| {
        let inside = |start: u64, end: u64| {
            address.0 >= start
                && address
                    .0
                    .checked_add(bytes.len() as u64)
                    .is_some_and(|last| last <= end)
        };
        written += bytes.len();
        if inside(0, memory_bytes.min(3 << 30))
            || inside(4 << 30, (4 << 30) + memory_bytes.saturating_sub(3 << 30))
        {
            Ok(())
        } else {
            Err(OutOfRange {
                address,
                length: bytes.len(),
            })
        }
    };
    let mut context = LoadContext {
        memory_bytes,
        write: &mut write,
        rsdp: Some(GuestPhysAddr(0xe_0000)),
        random_seed: [1; 32],
        unpack: flags & 1 == 0,
    };
    let initrd = (flags & 2 != 0).then_some(&initrd[..]);
    let _ = load(kernel, initrd, &command_line, &mut context);
    assert!(
        written as u64 <= memory_bytes + (1 << 20),
        "{written} bytes written"
    );
}
