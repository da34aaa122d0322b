//! Small images, built by hand, and a guest memory that keeps what is written to it.

use super::{LoadContext, LoadError, OutOfRange, load};
use crate::addr::GuestPhysAddr;
use crate::regs::Registers;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const SEED: [u8; 32] = [0x5a; 32];
pub(super) const RSDP: u64 = 0xe_0000;
/// Where the test kernels go.
pub(super) const KERNEL: u64 = 0x100_0000;
pub(super) const INIT_SIZE: u64 = 4 * MIB;

/// A guest's memory.
pub(super) struct Guest {
    pub(super) memory_bytes: u64,
    pub(super) unpack: bool,
    writes: Vec<(u64, Vec<u8>)>,
}

impl Guest {
    pub(super) fn new(memory_bytes: u64) -> Guest {
        Guest {
            memory_bytes,
            unpack: false,
            writes: Vec::new(),
        }
    }

    pub(super) fn unpacking(memory_bytes: u64) -> Guest {
        Guest {
            unpack: true,
            ..Guest::new(memory_bytes)
        }
    }

    pub(super) fn load(
        &mut self,
        kernel: &[u8],
        initrd: Option<&[u8]>,
        command_line: &str,
    ) -> Result<Registers, LoadError> {
        let (memory_bytes, writes) = (self.memory_bytes, &mut self.writes);
        let mut write = |address: GuestPhysAddr, bytes: &[u8]| {
            let end = address.0.checked_add(bytes.len() as u64);
            if end.is_none_or(|end| end > memory_bytes.min(3 << 30)) {
                return Err(OutOfRange {
                    address,
                    length: bytes.len(),
                });
            }
            writes.push((address.0, bytes.to_vec()));
            Ok(())
        };
        let mut ctx = LoadContext {
            memory_bytes,
            write: &mut write,
            rsdp: Some(GuestPhysAddr(RSDP)),
            random_seed: SEED,
            unpack: self.unpack,
        };
        load(kernel, initrd, command_line, &mut ctx)
    }

    /// Bytes of the guest's memory.
    pub(super) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (start, written) in &self.writes {
            for (index, byte) in written.iter().enumerate() {
                let at = start + index as u64;
                if at >= address && at < address + length as u64 {
                    bytes[(at - address) as usize] = *byte;
                }
            }
        }
        bytes
    }

    pub(super) fn u64(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.read(address, 8));
        u64::from_le_bytes(bytes)
    }

    pub(super) fn u32(&self, address: u64) -> u64 {
        self.u64(address) & 0xffff_ffff
    }

    /// The NUL-terminated string at `address`.
    pub(super) fn string(&self, address: u64) -> String {
        let bytes = self.read(address, 256);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(256);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// The address ranges written, in order.
    pub(super) fn written(&self) -> impl Iterator<Item = (u64, u64)> {
        self.writes
            .iter()
            .map(|(start, bytes)| (*start, start + bytes.len() as u64))
    }
}

/// Writes `bytes` at `offset`, growing the file.
pub(super) fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A segment for [`elf64`] and [`elf32`]: virtual and physical address, data, bytes in memory.
pub(super) type TestSegment<'a> = (u64, u64, &'a [u8], u64);

pub(super) fn elf64(kind: u16, machine: u16, entry: u64, segments: &[TestSegment<'_>]) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &kind.to_le_bytes());
    put(&mut file, 18, &machine.to_le_bytes());
    put(&mut file, 24, &entry.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &56u16.to_le_bytes());
    put(&mut file, 56, &(segments.len() as u16).to_le_bytes());
    put(&mut file, 63, &[0]);
    let mut data_offset = 64 + 56 * segments.len();
    for (index, (vaddr, paddr, data, memory)) in segments.iter().enumerate() {
        let header = 64 + 56 * index;
        put(&mut file, header, &1u32.to_le_bytes());
        let fields = [
            data_offset as u64,
            *vaddr,
            *paddr,
            data.len() as u64,
            *memory,
            0x1000,
        ];
        for (field, value) in fields.iter().enumerate() {
            put(&mut file, header + 8 + field * 8, &value.to_le_bytes());
        }
        put(&mut file, data_offset, data);
        data_offset += data.len();
    }
    file
}

pub(super) fn elf32(entry: u64, segments: &[TestSegment<'_>]) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"\x7fELF\x01\x01\x01");
    put(&mut file, 16, &2u16.to_le_bytes());
    put(&mut file, 18, &3u16.to_le_bytes());
    put(&mut file, 24, &(entry as u32).to_le_bytes());
    put(&mut file, 28, &52u32.to_le_bytes());
    put(&mut file, 42, &32u16.to_le_bytes());
    put(&mut file, 44, &(segments.len() as u16).to_le_bytes());
    put(&mut file, 51, &[0]);
    let mut data_offset = 52 + 32 * segments.len();
    for (index, (vaddr, paddr, data, memory)) in segments.iter().enumerate() {
        let header = 52 + 32 * index;
        let fields = [1, data_offset as u64, *vaddr, *paddr, data.len() as u64, *memory];
        for (field, value) in fields.iter().enumerate() {
            put(&mut file, header + field * 4, &(*value as u32).to_le_bytes());
        }
        put(&mut file, data_offset, data);
        data_offset += data.len();
    }
    file
}

/// A kernel of two segments, as vmlinux has them.
pub(super) fn vmlinux() -> Vec<u8> {
    let base = 0xffff_ffff_8000_0000;
    elf64(
        2,
        62,
        KERNEL,
        &[
            (base + KERNEL, KERNEL, b"kernel text", 0x1000),
            (base + KERNEL + 0x20_0000, KERNEL + 0x20_0000, b"data", 0x10_0000),
        ],
    )
}

/// A bzImage of protocol 2.15 around a payload.
pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
    const CODE: usize = 2 * 512;
    const PAYLOAD: usize = 0x240;
    let mut file = Vec::new();
    put(&mut file, CODE, b"32-bit entry");
    put(&mut file, CODE + 0x200, b"64-bit entry");
    put(&mut file, CODE + PAYLOAD, payload);
    let size = (file.len() - CODE).next_multiple_of(16);
    put(&mut file, CODE + size - 1, &[0]);
    let mut u32_at = |offset: usize, value: u64| put(&mut file, offset, &(value as u32).to_le_bytes());
    u32_at(0x1f4, size as u64 / 16);
    u32_at(0x22c, 0x7fff_ffff);
    u32_at(0x230, 0x20_0000);
    u32_at(0x238, 2047);
    u32_at(0x248, PAYLOAD as u64);
    u32_at(0x24c, payload.len() as u64);
    u32_at(0x258, KERNEL);
    u32_at(0x260, INIT_SIZE);
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS\x0f\x02");
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x234, &[1, 21, 0x7f, 0]);
    file
}

/// An LZ4 legacy frame with the size appended, as Linux's build makes it.
pub(super) fn lz4_payload(data: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(data);
    let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
    payload.extend_from_slice(&(block.len() as u32).to_le_bytes());
    payload.extend_from_slice(&block);
    payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
    payload
}

/// A multiboot header; with addresses if there are five.
pub(super) fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    [magic, flags, checksum]
        .iter()
        .chain(addresses)
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

/// A multiboot kernel of one segment.
pub(super) fn multiboot_kernel(flags: u32) -> Vec<u8> {
    let mut text = multiboot_header(flags, &[]);
    text.extend_from_slice(b"code");
    elf32(0xc010_000c, &[(0xc010_0000, 0x10_0000, &text, 0x2800)])
}
