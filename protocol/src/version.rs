//! The answer to GetVersion: DBGKD_GET_VERSION64 (nt kernel public PDB 10.0.19041; wdbgexts.h).

use crate::assert_size;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// DBGKD_GET_VERSION64. The kernel's own copy is its variable KdVersionBlock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Version {
    /// 0xF a free build, 0xC a checked one; the high byte is the family, 0 NT.
    pub major: U16,
    /// The build number's low 16 bits.
    pub minor: U16,
    /// [`PROTOCOL_VERSION`].
    pub protocol: u8,
    /// 2 with today's CONTEXT of AMD64, 0 on x86.
    pub secondary: u8,
    /// [`flags`].
    pub flags: U16,
    /// [`MACHINE_AMD64`] or [`MACHINE_X86`].
    pub machine: U16,
    /// [`crate::packet::PACKET_TYPE_MAX`].
    pub max_packet_type: u8,
    /// State changes known.
    pub max_state_change: u8,
    /// Requests known: one more than the last, from [`crate::api::API_MINIMUM`].
    pub max_manipulate: u8,
    /// 0.
    pub simulation: u8,
    /// 0.
    pub unused: U16,
    /// Where the kernel's image is.
    pub kernel_base: U64,
    /// The head of the list of modules.
    pub loaded_module_list: U64,
    /// The head of the list of debugger data blocks, or 0.
    pub debugger_data_list: U64,
}
assert_size!(Version = 40);

/// DBGKD_64BIT_PROTOCOL_VERSION2.
pub const PROTOCOL_VERSION: u8 = 6;
/// IMAGE_FILE_MACHINE_AMD64.
pub const MACHINE_AMD64: u16 = 0x8664;
/// IMAGE_FILE_MACHINE_I386.
pub const MACHINE_X86: u16 = 0x14c;
/// State changes known: exception, load symbols, command string.
pub const MAX_STATE_CHANGE: u8 = 3;
/// What is announced for [`Version::max_manipulate`]: up to SetContextEx.
pub const MAX_MANIPULATE: u8 = 0x31;

/// DBGKD_VERS_FLAG_…
#[allow(missing_docs)] // as wdbgexts.h says
pub mod flags {
    pub const MP: u16 = 1;
    pub const DATA: u16 = 2;
    pub const PTR64: u16 = 4;
    pub const NOMM: u16 = 8;
    pub const HSS: u16 = 0x10;
    pub const PARTITIONS: u16 = 0x20;
    pub const HAL_IN_NTOS: u16 = 0x40;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_windows_10_version_block_reads_as_it_was_reported() {
        let bytes: Vec<u8> = [0xfu16, 0x4a61]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .chain([6, 2, 0x47, 0, 0x64, 0x86, 12, 3, 0x31, 0, 0, 0])
            .chain([1u64, 2, 3].iter().flat_map(|q| q.to_le_bytes()))
            .collect();
        let version = Version::read_from_bytes(&bytes).unwrap();
        assert_eq!(version.minor.get(), 19041);
        assert_eq!(
            version.flags.get(),
            flags::MP | flags::DATA | flags::PTR64 | flags::HAL_IN_NTOS
        );
        assert_eq!(version.machine.get(), MACHINE_AMD64);
        assert_eq!(version.debugger_data_list.get(), 3);
    }
}
