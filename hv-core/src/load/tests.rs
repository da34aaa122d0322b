//! What a guest finds in its memory and registers, and what bad images are told.

use super::testing::*;
use super::{Image, LoadError, identify, may_unpack};
use crate::regs::{cr0, cr4, efer, gpr, rflags, seg};
use proptest::prelude::*;

const BOOT_PARAMS: u64 = 0x7000;

#[test]
fn images_are_told_apart_by_their_content() {
    assert_eq!(identify(&bzimage(b"")), Ok(Image::BzImage));
    assert_eq!(identify(&vmlinux()), Ok(Image::Vmlinux));
    assert_eq!(identify(&multiboot_kernel(0)), Ok(Image::Multiboot));
}

#[test]
fn a_bzimage_is_entered_in_64_bit_mode_as_the_boot_protocol_says() {
    let mut guest = Guest::new(64 * MIB);
    let registers = guest.load(&bzimage(b""), None, "console=ttyS0").unwrap();

    assert_eq!(registers.rip, 0x10_0200);
    assert_eq!(guest.read(0x10_0200, 12), b"64-bit entry");
    assert_eq!(registers.gpr[gpr::RSI], BOOT_PARAMS);
    assert_eq!(registers.cr0, cr0::PE | cr0::ET | cr0::PG);
    assert_eq!(registers.cr4, cr4::PAE);
    assert_eq!(registers.efer, efer::LME | efer::LMA);
    assert_eq!(registers.rflags & rflags::IF, 0);
    let code = registers.segments[seg::CS];
    assert_eq!(
        (code.selector, code.long(), code.default_big(), registers.cpl()),
        (0x10, true, false, 0)
    );
    for index in [seg::DS, seg::ES, seg::SS] {
        let data = registers.segments[index];
        assert_eq!((data.selector, data.base, data.limit), (0x18, 0, 0xffff_ffff));
    }
}

#[test]
fn the_gdt_in_memory_agrees_with_the_segment_registers() {
    let mut guest = Guest::new(64 * MIB);
    let registers = guest.load(&bzimage(b""), None, "").unwrap();
    assert_eq!(registers.gdtr.limit, 31);
    assert_eq!(guest.u64(registers.gdtr.base + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(guest.u64(registers.gdtr.base + 0x18), 0x00cf_9300_0000_ffff);
}

#[test]
fn the_low_4_gib_are_mapped_to_themselves() {
    let mut guest = Guest::new(64 * MIB);
    let registers = guest.load(&bzimage(b""), None, "").unwrap();
    for address in [
        0,
        0x10_0200,
        0x3fff_ffff,
        0x4000_0000,
        0xfee0_0000,
        0xffff_ffff_u64,
    ] {
        let pdpt = guest.u64(registers.cr3) & !0xfff;
        let directory = guest.u64(pdpt + (address >> 30) * 8) & !0xfff;
        let entry = guest.u64(directory + (address >> 21 & 0x1ff) * 8);
        assert_eq!(entry, address & !0x1f_ffff | 0x83, "at {address:#x}");
    }
}

#[test]
fn boot_params_carry_header_command_line_rsdp_and_seed() {
    let mut guest = Guest::new(64 * MIB);
    guest.load(&bzimage(b""), None, "console=ttyS0 quiet").unwrap();

    assert_eq!(guest.read(BOOT_PARAMS + 0x202, 6), b"HdrS\x0f\x02");
    assert_eq!(guest.read(BOOT_PARAMS + 0x210, 1), [0xff]);
    assert_eq!(
        guest.string(guest.u32(BOOT_PARAMS + 0x228)),
        "console=ttyS0 quiet"
    );
    assert_eq!(guest.u64(BOOT_PARAMS + 0x70), RSDP);
    let node = guest.u64(BOOT_PARAMS + 0x250);
    assert_eq!(
        (guest.u64(node), guest.u32(node + 8), guest.u32(node + 12)),
        (0, 9, 32)
    );
    assert_eq!(guest.read(node + 16, 32), SEED);
}

fn e820(guest: &Guest) -> Vec<(u64, u64, u64)> {
    (0..u64::from(guest.read(BOOT_PARAMS + 0x1e8, 1)[0]))
        .map(|index| BOOT_PARAMS + 0x2d0 + index * 20)
        .map(|entry| (guest.u64(entry), guest.u64(entry + 8), guest.u32(entry + 16)))
        .collect()
}

#[test]
fn the_memory_map_has_a_hole_below_4_gib() {
    let mut guest = Guest::new(64 * MIB);
    guest.load(&bzimage(b""), None, "").unwrap();
    let low = vec![(0, 0x9_f000, 1), (0x9_f000, 0x1000, 2), (0xe_0000, 0x2_0000, 2)];
    let mut expected = low.clone();
    expected.push((0x10_0000, 63 * MIB, 1));
    assert_eq!(e820(&guest), expected);

    let mut guest = Guest::new(5 << 30);
    guest.load(&bzimage(b""), None, "").unwrap();
    let mut expected = low;
    expected.push((0x10_0000, (3 << 30) - MIB, 1));
    expected.push((4 << 30, 2 << 30, 1));
    assert_eq!(e820(&guest), expected);
}

#[test]
fn nothing_is_written_where_the_map_says_reserved() {
    for kernel in [bzimage(b""), vmlinux(), multiboot_kernel(0)] {
        let mut guest = Guest::new(64 * MIB);
        guest.load(&kernel, Some(b"initrd"), "quiet").unwrap();
        for (start, end) in guest.written() {
            assert!(end <= 0x9_f000 || start >= 0x10_0000, "{start:#x}..{end:#x}");
        }
    }
}

#[test]
fn the_initrd_lies_at_the_top_of_memory_that_the_kernel_reaches() {
    for (memory, top) in [(64 * MIB, 64 * MIB), (5 << 30, 1 << 31)] {
        let mut guest = Guest::new(memory);
        guest.load(&bzimage(b""), Some(&[7; 0x1800]), "").unwrap();
        let start = guest.u32(BOOT_PARAMS + 0x218);
        assert_eq!((start, guest.u32(BOOT_PARAMS + 0x21c)), (top - 0x2000, 0x1800));
        assert_eq!(guest.read(start, 0x1800), vec![7; 0x1800]);
    }
}

#[test]
fn a_vmlinux_is_entered_at_its_own_entry() {
    let mut guest = Guest::new(64 * MIB);
    let registers = guest.load(&vmlinux(), None, "quiet").unwrap();
    assert_eq!(registers.rip, KERNEL);
    assert_eq!(guest.read(KERNEL, 11), b"kernel text");
    assert_eq!(guest.read(KERNEL + 0x20_0000, 4), b"data");
    assert_eq!(guest.read(BOOT_PARAMS + 0x202, 4), b"HdrS");
}

#[test]
fn an_entry_that_is_a_virtual_address_is_translated() {
    let base = 0xffff_ffff_8000_0000;
    let kernel = elf64(
        2,
        62,
        base + KERNEL + 4,
        &[(base + KERNEL, KERNEL, b"kernel text", 0x1000)],
    );
    let registers = Guest::new(64 * MIB).load(&kernel, None, "").unwrap();
    assert_eq!(registers.rip, KERNEL + 4);
}

fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd_payload(data: &[u8]) -> Vec<u8> {
    let mut payload = ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest);
    payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
    payload
}

#[test]
fn a_bzimage_is_unpacked_where_that_was_asked_for() {
    for payload in [
        lz4_payload(&vmlinux()),
        gzip(&vmlinux()),
        zstd_payload(&vmlinux()),
    ] {
        let image = bzimage(&payload);
        let mut guest = Guest::unpacking(64 * MIB);
        let registers = guest.load(&image, Some(b"initrd"), "nokaslr").unwrap();
        assert_eq!(registers.rip, KERNEL);
        assert_eq!(guest.read(KERNEL, 11), b"kernel text");
        assert_eq!(guest.read(guest.u32(BOOT_PARAMS + 0x218), 6), b"initrd");
        assert_eq!(
            Guest::new(64 * MIB).load(&image, None, "").unwrap().rip,
            0x10_0200
        );
    }
}

#[test]
fn xz_with_the_filters_of_linux_is_unpacked() {
    // printf 'kernel text' | xz --check=crc32 --x86 --lzma2=dict=32MiB, and the size as Linux's build appends it.
    let payload = include_bytes!("testdata/kernel-text.xz");
    let unpacked = super::unpack::unpack(&[payload.as_slice(), &[11, 0, 0, 0]].concat(), 1 << 20);
    assert_eq!(unpacked, Ok(Some(b"kernel text".to_vec())));
}

#[test]
fn an_unknown_compression_is_left_to_the_guest() {
    let image = bzimage(b"BZh9 and so on");
    let registers = Guest::unpacking(64 * MIB).load(&image, None, "").unwrap();
    assert_eq!(registers.rip, 0x10_0200);
}

#[test]
fn a_payload_that_unpacks_to_too_much_is_refused() {
    let bomb = vec![0; INIT_SIZE as usize + 1];
    for payload in [lz4_payload(&bomb), gzip(&bomb), zstd_payload(&bomb)] {
        let error = Guest::unpacking(64 * MIB).load(&bzimage(&payload), None, "");
        assert!(matches!(error, Err(LoadError::Unpack { .. })), "{error:?}");
    }
}

#[test]
fn unpacking_here_is_for_those_who_gave_up_kaslr() {
    assert!(may_unpack("console=ttyS0 nokaslr quiet"));
    for with_kaslr in ["", "quiet", "nokaslrx", "init=/bin/sh -- nokaslr"] {
        assert!(!may_unpack(with_kaslr), "{with_kaslr}");
    }
}

#[test]
fn a_multiboot_kernel_finds_its_information() {
    let mut guest = Guest::new(64 * MIB);
    let registers = guest
        .load(&multiboot_kernel(3), Some(b"module"), "hello world")
        .unwrap();

    assert_eq!(registers.rip, 0x10_000c);
    assert_eq!(registers.gpr[gpr::RAX], 0x2bad_b002);
    assert_eq!(registers.cr0, cr0::PE | cr0::ET);
    assert_eq!(registers.efer, 0);
    let code = registers.segments[seg::CS];
    assert!(code.default_big() && !code.long() && code.base == 0 && code.limit == 0xffff_ffff);

    let info = registers.gpr[gpr::RBX];
    assert_eq!(guest.u32(info), 0x24d);
    assert_eq!((guest.u32(info + 4), guest.u32(info + 8)), (636, 63 * 1024));
    assert_eq!(guest.string(guest.u32(info + 16)), "hello world");
    assert_eq!(guest.u32(info + 20), 1);
    let module = guest.u32(info + 24);
    let (start, end) = (guest.u32(module), guest.u32(module + 4));
    assert_eq!((start, end), (0x10_3000, 0x10_3006));
    assert_eq!(guest.read(start, 6), b"module");
    let (length, map) = (guest.u32(info + 44), guest.u32(info + 48));
    assert_eq!(length, 4 * 24);
    let last = map + 3 * 24;
    assert_eq!(
        (
            guest.u32(last),
            guest.u64(last + 4),
            guest.u64(last + 12),
            guest.u32(last + 20)
        ),
        (20, 0x10_0000, 63 * MIB, 1)
    );
}

/// A flat file of 0x40 bytes with its header at 0x10: load address, load end, bss end, entry.
fn flat_multiboot(load: u32, load_end: u32, bss_end: u32, entry: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let header = multiboot_header(1 << 16, &[0x20_0010, load, load_end, bss_end, entry]);
    put(&mut file, 0x10, &header);
    put(&mut file, 0x3c, b"code");
    file
}

#[test]
fn a_multiboot_header_may_bring_the_addresses_itself() {
    let mut guest = Guest::new(64 * MIB);
    let image = flat_multiboot(0x20_0000, 0, 0x20_8000, 0x20_003c);
    let registers = guest.load(&image, Some(b"module"), "").unwrap();
    assert_eq!(registers.rip, 0x20_003c);
    assert_eq!(guest.read(0x20_003c, 4), b"code");
    let info = registers.gpr[gpr::RBX];
    assert_eq!(guest.u32(guest.u32(info + 24)), 0x20_8000);

    // Loading may begin in the middle of the file, and end before its end.
    let mut guest = Guest::new(64 * MIB);
    guest
        .load(&flat_multiboot(0x20_0008, 0x20_0038, 0, 0x20_0030), None, "")
        .unwrap();
    assert!(guest.written().any(|range| range == (0x20_0008, 0x20_0038)));
}

fn message(guest: Guest, kernel: &[u8], initrd: Option<&[u8]>, command_line: &str) -> String {
    let mut guest = guest;
    guest.load(kernel, initrd, command_line).unwrap_err().to_string()
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let patched = |mut image: Vec<u8>, offset: usize, bytes: &[u8]| {
        put(&mut image, offset, bytes);
        image
    };
    let mut arm_image = vec![0; 64];
    put(&mut arm_image, 0x38, b"ARM\x64");
    let cases = [
        (vec![], "the kernel file is empty"),
        (
            b"#!/bin/sh\n".to_vec(),
            "not a kernel: the file is too short to be one; give a Linux bzImage (vmlinuz), an ELF vmlinux, or a \
             multiboot kernel",
        ),
        (
            [b"\x1f\x8b".as_slice(), &[0; 600]].concat(),
            "not a kernel: a gzip file: unpack it first (gzip -d); give a Linux bzImage (vmlinuz), an ELF vmlinux, or \
             a multiboot kernel",
        ),
        (
            arm_image,
            "wrong architecture: an arm64 Linux Image; this is an x86-64 machine",
        ),
        (
            elf64(2, 183, 0, &[]),
            "wrong architecture: an ELF file for arm64; this is an x86-64 machine",
        ),
        (
            elf32(0, &[]),
            "this ELF file can't be booted: it is a 32-bit kernel without a multiboot header; give a 64-bit kernel, \
             or one with a multiboot header in its first 8 KiB",
        ),
        (
            elf64(2, 62, 0x40_0000, &[(0x40_0000, 0x40_0000, b"main", 0x1000)]),
            "this ELF file can't be booted: it is a program for user space; give a kernel",
        ),
        (
            elf64(1, 62, 0, &[]),
            "this ELF file can't be booted: it is an object file or a kernel module; give the kernel itself",
        ),
        (
            patched(bzimage(b""), 0x206, &[0x0a, 0x02]),
            "boot protocol 2.10 is too old: entering a bzImage in 64-bit mode needs 2.12 (Linux 3.8); use a newer \
             kernel, or its ELF vmlinux",
        ),
        (
            patched(bzimage(b""), 0x236, &[0, 0]),
            "this bzImage has no 64-bit entry point: it is a 32-bit Linux kernel; use one built for x86-64",
        ),
        (
            bzimage(&[0; 4096])[..4096].to_vec(),
            "the kernel file is truncated: the protected-mode part needs 5696 bytes, the file has 4096; fetch it again",
        ),
        (
            bzimage(b"")[..0x220].to_vec(),
            "the kernel file is truncated: the setup header needs 620 bytes, the file has 544; fetch it again",
        ),
        (
            multiboot_kernel(0x8),
            "the multiboot header asks for what this loader can't give: flags 0x00000008, unknown 0x00000008",
        ),
    ];
    for (image, expected) in cases {
        assert_eq!(message(Guest::new(64 * MIB), &image, None, ""), expected);
    }
}

#[test]
fn errors_about_memory_name_the_amount_that_would_do() {
    assert_eq!(
        message(Guest::new(16 * MIB), &bzimage(b""), None, ""),
        "too little memory: this kernel needs at least 20 MiB, the guest has 16 MiB"
    );
    let initrd = vec![0; 3 << 20];
    assert_eq!(
        message(Guest::new(22 * MIB), &bzimage(b""), Some(&initrd), ""),
        "the initrd of 3145728 bytes doesn't fit: with this kernel it needs at least 23 MiB of memory, the guest has \
         22 MiB"
    );
    assert!(
        Guest::new(23 * MIB)
            .load(&bzimage(b""), Some(&initrd), "")
            .is_ok()
    );
    let mut image = bzimage(b"");
    put(&mut image, 0x22c, &0x150_0000u32.to_le_bytes());
    assert_eq!(
        message(Guest::new(64 * MIB), &image, Some(&initrd), ""),
        "the initrd of 3145728 bytes is too large: this kernel takes it only below 0x1500001, and itself ends at \
         0x1400000"
    );
    assert_eq!(
        message(
            Guest::new(64 * MIB),
            &multiboot_kernel(0),
            Some(&vec![0; 64 << 20]),
            ""
        ),
        "the initrd of 67108864 bytes doesn't fit: with this kernel it needs at least 66 MiB of memory, the guest has \
         64 MiB"
    );
}

#[test]
fn command_lines_are_checked() {
    let long = "x".repeat(2048);
    assert_eq!(
        message(Guest::new(64 * MIB), &bzimage(b""), None, &long),
        "the command line has 2048 bytes, this kernel takes at most 2047"
    );
    assert!(Guest::new(64 * MIB).load(&bzimage(b""), None, &long[1..]).is_ok());
    assert_eq!(
        message(Guest::new(64 * MIB), &bzimage(b""), None, "a\0b"),
        "the command line has a NUL byte at offset 1; the kernel would see only what is before it"
    );
}

#[test]
fn hostile_elf_headers_are_refused() {
    let high = 0xffff_ffff_8100_0000;
    let segment = |paddr: u64, memory: u64| elf64(2, 62, paddr, &[(high, paddr, b"text", memory)]);
    let patched = |offset: usize, value: u64| {
        let mut image = segment(KERNEL, 0x1000);
        put(&mut image, offset, &value.to_le_bytes());
        image
    };
    let overlapping = elf64(
        2,
        62,
        KERNEL,
        &[
            (high, KERNEL, b"text", 0x1000),
            (high, KERNEL + 0xfff, b"data", 4),
        ],
    );
    let cases = [
        segment(u64::MAX - 2, 4),
        segment(KERNEL, u64::MAX),
        segment(KERNEL, 1),
        segment(0x8000, 0x1000),
        segment(0xbfff_f000, 0x2000),
        segment(1 << 32, 0x1000),
        patched(24, 0x1234),
        patched(32, u64::MAX - 8),
        patched(64 + 8, u64::MAX - 2),
        patched(64 + 32, u64::MAX),
        overlapping,
    ];
    for (index, image) in cases.iter().enumerate() {
        let error = Guest::new(64 * MIB).load(image, None, "").unwrap_err();
        assert!(
            matches!(error, LoadError::BadHeader { .. } | LoadError::Truncated { .. }),
            "case {index}: {error}"
        );
    }
    let error = Guest::new(64 * MIB).load(&segment(0x400_0000, 0x1000), None, "");
    assert!(matches!(error, Err(LoadError::TooLittleMemory { .. })));
}

#[test]
fn hostile_multiboot_addresses_are_refused() {
    for image in [
        flat_multiboot(0x20_0011, 0, 0, 0x20_0020),
        flat_multiboot(0x1f_0000, 0, 0, 0x20_0020),
        flat_multiboot(0x20_0000, 0x1f_ffff, 0, 0x20_0020),
        flat_multiboot(0x20_0000, 0xffff_ffff, 0, 0x20_0020),
        flat_multiboot(0x20_0000, 0, 0xffff_ffff, 0x20_0020),
        flat_multiboot(0x20_0000, 0, 0, 0x10_0000),
    ] {
        let error = Guest::new(64 * MIB).load(&image, None, "").unwrap_err();
        assert!(
            matches!(error, LoadError::BadHeader { .. } | LoadError::Truncated { .. }),
            "{error}"
        );
    }
}

/// Loads damaged bytes in every way there is: the loader may refuse, but neither panic nor write outside of RAM.
fn survives(kernel: &[u8]) -> Result<(), TestCaseError> {
    for mut guest in [Guest::new(24 * MIB), Guest::unpacking(24 * MIB)] {
        let result = guest.load(kernel, Some(b"initrd"), "quiet");
        prop_assert!(!matches!(result, Err(LoadError::Memory(_))), "{result:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        survives(&bytes)?;
    }

    #[test]
    fn no_damaged_header_panics(
        which in 0..7usize,
        damage in proptest::collection::vec((0..1200usize, any::<[u8; 4]>(), 1..5usize), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut image = match which {
            0 => bzimage(&lz4_payload(&vmlinux())),
            1 => bzimage(&gzip(&vmlinux())),
            2 => bzimage(&zstd_payload(&vmlinux())),
            3 => bzimage(include_bytes!("testdata/kernel-text.xz")),
            4 => vmlinux(),
            5 => multiboot_kernel(3),
            _ => flat_multiboot(0x20_0000, 0x20_0040, 0x20_8000, 0x20_003c),
        };
        for (offset, bytes, length) in damage {
            let offset = offset % image.len();
            let end = (offset + length).min(image.len());
            image[offset..end].copy_from_slice(&bytes[..end - offset]);
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        survives(&image)?;
    }
}
