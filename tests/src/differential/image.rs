//! The program that the traced child runs: an ELF file whose segments are the pages of [`super::layout`], and a page with
//! a SYSCALL instruction by which the tracer makes system calls in the child's name.

use super::layout::{CODE, DATA, PAGE, READ_ONLY, Region, STACK};

/// A page with [`GADGET_CODE`].
pub const GADGET: Region = Region {
    start: 0x0c5e_7000,
    pages: 1,
    writable: false,
    executable: true,
};
/// SYSCALL, INT3; PUSH 2, POPFQ, INT3.
pub const GADGET_CODE: [u8; 7] = [0x0f, 0x05, 0xcc, 0x6a, 0x02, 0x9d, 0xcc];
/// Where the flags are cleared.
pub const CLEAR_FLAGS: u64 = GADGET.start + 3;

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;

/// The ELF file.
pub fn program() -> Vec<u8> {
    let regions = [GADGET, CODE, DATA, READ_ONLY, STACK];
    let mut file = vec![0; PAGE as usize];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(16, &2u16.to_le_bytes()); // ET_EXEC
    put(18, &62u16.to_le_bytes()); // EM_X86_64
    put(20, &1u32.to_le_bytes());
    put(24, &(GADGET.start + 2).to_le_bytes());
    put(32, &(HEADER_BYTES as u64).to_le_bytes());
    put(52, &(HEADER_BYTES as u16).to_le_bytes());
    put(54, &(SEGMENT_BYTES as u16).to_le_bytes());
    put(56, &(regions.len() as u16).to_le_bytes());
    let mut offset = PAGE;
    for (index, region) in regions.iter().enumerate() {
        let at = HEADER_BYTES + index * SEGMENT_BYTES;
        let flags = 4 | (region.writable as u32) << 1 | region.executable as u32;
        put(at, &1u32.to_le_bytes()); // PT_LOAD
        put(at + 4, &flags.to_le_bytes());
        let length = region.len() as u64;
        for (field, value) in [offset, region.start, region.start, length, length, PAGE]
            .iter()
            .enumerate()
        {
            put(at + 8 + field * 8, &value.to_le_bytes());
        }
        offset += length;
    }
    for region in regions {
        let fill = if region.executable { 0xcc } else { 0 };
        file.resize(file.len() + region.len(), fill);
    }
    file[PAGE as usize..PAGE as usize + GADGET_CODE.len()].copy_from_slice(&GADGET_CODE);
    file
}
