//! DUMP_HEADER64 and DUMP_HEADER32, and what they are made of (Windows SDK `mindumpdef.h`; QEMU `win_dump_defs.h`).
//!
//! The kernel fills the header with the word `PAGE` before it writes fields, and readers take a field that still holds
//! that for one that was never written: [`FILLER`].

use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first four bytes of every dump.
pub const SIGNATURE: [u8; 4] = *b"PAGE";
/// What follows in a 64-bit dump.
pub const VALID64: [u8; 4] = *b"DU64";
/// What follows in a 32-bit dump.
pub const VALID32: [u8; 4] = *b"DUMP";
/// `PAGE` as a number: a field that was never written.
pub const FILLER: u32 = u32::from_le_bytes(SIGNATURE);

/// DumpType: what follows the header. Names of 1 to 7 are the SDK's; 8 to 10 are what newer debuggers write.
#[allow(missing_docs)]
pub mod dump_type {
    pub const FULL: u32 = 1;
    pub const SUMMARY: u32 = 2;
    pub const HEADER: u32 = 3;
    pub const TRIAGE: u32 = 4;
    pub const BITMAP_FULL: u32 = 5;
    pub const BITMAP_KERNEL: u32 = 6;
    pub const AUTOMATIC: u32 = 7;
    pub const LIVE_KERNEL: u32 = 8;
    pub const LIVE_KERNEL_AND_USER: u32 = 9;
    pub const LIVE_FULL: u32 = 10;
}

/// Attributes.
#[allow(missing_docs)]
pub mod attributes {
    pub const INSUFFICIENT_DUMPFILE_SIZE: u32 = 1 << 2;
    pub const LIVE_DUMP_GENERATED_DUMP: u32 = 1 << 4;
    pub const DUMP_IS_GENERATED_OFFLINE: u32 = 1 << 5;
    pub const ENCRYPTED_DUMP_DATA: u32 = 1 << 8;
    pub const DECRYPTED_DUMP: u32 = 1 << 9;
}

macro_rules! assert_size {
    ($($type:ty = $size:expr),+ $(,)?) => {
        $(const _: () = assert!(::std::mem::size_of::<$type>() == $size);)+
    };
}
pub(super) use assert_size;

/// PHYSICAL_MEMORY_RUN of a 64-bit dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Run64 {
    pub base_page: U64,
    pub page_count: U64,
}
assert_size!(Run64 = 16);

/// PHYSICAL_MEMORY_RUN of a 32-bit dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Run32 {
    pub base_page: U32,
    pub page_count: U32,
}
assert_size!(Run32 = 8);

/// Runs that fit the 700 bytes of a 64-bit dump's PhysicalMemoryBlock.
pub const MAX_RUNS64: usize = 42;
/// Runs that fit those of a 32-bit one.
pub const MAX_RUNS32: usize = 86;

/// PHYSICAL_MEMORY_DESCRIPTOR of a 64-bit dump, in its union of 704 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct MemoryBlock64 {
    pub number_of_runs: U32,
    pub padding: U32,
    pub number_of_pages: U64,
    /// One more than fits the documented 700 bytes: some write it.
    pub runs: [Run64; MAX_RUNS64 + 1],
}
assert_size!(MemoryBlock64 = 704);

/// The same of a 32-bit dump, of 700 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct MemoryBlock32 {
    pub number_of_runs: U32,
    pub number_of_pages: U32,
    pub runs: [Run32; MAX_RUNS32],
    pub rest: [u8; 4],
}
assert_size!(MemoryBlock32 = 700);

/// EXCEPTION_RECORD64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ExceptionRecord64 {
    pub code: U32,
    pub flags: U32,
    pub record: U64,
    pub address: U64,
    pub number_parameters: U32,
    pub padding: U32,
    pub information: [U64; 15],
}
assert_size!(ExceptionRecord64 = 152);

/// EXCEPTION_RECORD32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ExceptionRecord32 {
    pub code: U32,
    pub flags: U32,
    pub record: U32,
    pub address: U32,
    pub number_parameters: U32,
    pub information: [U32; 15],
}
assert_size!(ExceptionRecord32 = 80);

/// DUMP_HEADER64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Header64 {
    pub signature: [u8; 4],
    pub valid_dump: [u8; 4],
    /// 15 free, 12 checked build.
    pub major_version: U32,
    /// The build.
    pub minor_version: U32,
    /// Page-table root of the kernel.
    pub directory_table_base: U64,
    /// The address of MmPfnDatabase, the variable.
    pub pfn_database: U64,
    pub ps_loaded_module_list: U64,
    pub ps_active_process_head: U64,
    pub machine_image_type: U32,
    pub number_processors: U32,
    pub bug_check_code: U32,
    pub padding1: U32,
    pub bug_check_parameters: [U64; 4],
    pub version_user: [u8; 32],
    /// The address of a KDDEBUGGER_DATA64 that isn't encoded.
    pub kd_debugger_data_block: U64,
    pub memory: MemoryBlock64,
    /// CONTEXT of the processor that reports.
    pub context: [u8; 3000],
    pub exception: ExceptionRecord64,
    pub dump_type: U32,
    pub padding2: U32,
    /// The file's length.
    pub required_dump_space: I64,
    /// 100 ns since 1601.
    pub system_time: I64,
    pub comment: [u8; 128],
    /// 100 ns since boot.
    pub system_up_time: I64,
    pub mini_dump_fields: U32,
    pub secondary_data_state: U32,
    pub product_type: U32,
    pub suite_mask: U32,
    pub writer_status: U32,
    pub unused1: u8,
    pub kd_secondary_version: u8,
    pub unused2: [u8; 2],
    pub attributes: U32,
    pub boot_id: U32,
    pub reserved: [u8; 4008],
}
assert_size!(Header64 = 0x2000);

/// DUMP_HEADER32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Header32 {
    pub signature: [u8; 4],
    pub valid_dump: [u8; 4],
    pub major_version: U32,
    pub minor_version: U32,
    /// With PAE the address of the four page-directory pointers.
    pub directory_table_base: U32,
    pub pfn_database: U32,
    pub ps_loaded_module_list: U32,
    pub ps_active_process_head: U32,
    pub machine_image_type: U32,
    pub number_processors: U32,
    pub bug_check_code: U32,
    pub bug_check_parameters: [U32; 4],
    pub version_user: [u8; 32],
    pub pae_enabled: u8,
    pub kd_secondary_version: u8,
    pub spare: [u8; 2],
    pub kd_debugger_data_block: U32,
    pub memory: MemoryBlock32,
    pub context: [u8; 1200],
    pub exception: ExceptionRecord32,
    pub comment: [u8; 128],
    pub attributes: U32,
    pub boot_id: U32,
    pub reserved1: [u8; 1760],
    pub dump_type: U32,
    pub mini_dump_fields: U32,
    pub secondary_data_state: U32,
    pub product_type: U32,
    pub suite_mask: U32,
    pub writer_status: U32,
    pub required_dump_space: I64,
    pub reserved2: [u8; 16],
    pub system_up_time: I64,
    pub system_time: I64,
    pub reserved3: [u8; 56],
}
assert_size!(Header32 = 0x1000);

/// A header with nothing written but the signature.
pub fn blank<T: FromBytes + IntoBytes + KnownLayout>() -> T {
    let mut header = T::new_zeroed();
    for word in header.as_mut_bytes().chunks_mut(4) {
        word.copy_from_slice(&SIGNATURE[..word.len()]);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn fields_of_the_64_bit_header_lie_where_the_sdk_has_them() {
        for (is, expected) in [
            (offset_of!(Header64, directory_table_base), 0x10),
            (offset_of!(Header64, machine_image_type), 0x30),
            (offset_of!(Header64, bug_check_code), 0x38),
            (offset_of!(Header64, bug_check_parameters), 0x40),
            (offset_of!(Header64, version_user), 0x60),
            (offset_of!(Header64, kd_debugger_data_block), 0x80),
            (offset_of!(Header64, memory), 0x88),
            (offset_of!(MemoryBlock64, number_of_pages), 8),
            (offset_of!(MemoryBlock64, runs), 0x10),
            (offset_of!(Header64, context), 0x348),
            (offset_of!(Header64, exception), 0xf00),
            (offset_of!(Header64, dump_type), 0xf98),
            (offset_of!(Header64, required_dump_space), 0xfa0),
            (offset_of!(Header64, system_time), 0xfa8),
            (offset_of!(Header64, comment), 0xfb0),
            (offset_of!(Header64, system_up_time), 0x1030),
            (offset_of!(Header64, secondary_data_state), 0x103c),
            (offset_of!(Header64, product_type), 0x1040),
            (offset_of!(Header64, writer_status), 0x1048),
            (offset_of!(Header64, kd_secondary_version), 0x104d),
            (offset_of!(Header64, attributes), 0x1050),
            (offset_of!(Header64, boot_id), 0x1054),
        ] {
            assert_eq!(is, expected);
        }
    }

    #[test]
    fn fields_of_the_32_bit_header_lie_where_the_sdk_has_them() {
        for (is, expected) in [
            (offset_of!(Header32, directory_table_base), 0x10),
            (offset_of!(Header32, machine_image_type), 0x20),
            (offset_of!(Header32, bug_check_parameters), 0x2c),
            (offset_of!(Header32, version_user), 0x3c),
            (offset_of!(Header32, pae_enabled), 0x5c),
            (offset_of!(Header32, kd_debugger_data_block), 0x60),
            (offset_of!(Header32, memory), 0x64),
            (offset_of!(MemoryBlock32, runs), 8),
            (offset_of!(Header32, context), 0x320),
            (offset_of!(Header32, exception), 0x7d0),
            (offset_of!(Header32, comment), 0x820),
            (offset_of!(Header32, attributes), 0x8a0),
            (offset_of!(Header32, dump_type), 0xf88),
            (offset_of!(Header32, writer_status), 0xf9c),
            (offset_of!(Header32, required_dump_space), 0xfa0),
            (offset_of!(Header32, system_up_time), 0xfb8),
            (offset_of!(Header32, system_time), 0xfc0),
        ] {
            assert_eq!(is, expected);
        }
    }

    #[test]
    fn a_blank_header_is_the_word_page_throughout() {
        let header: Header64 = blank();
        assert_eq!(header.memory.number_of_runs.get(), FILLER);
        assert_eq!(header.kd_secondary_version, b'A');
        assert!(header.as_bytes().chunks(4).all(|word| word == b"PAGE"));
    }
}
