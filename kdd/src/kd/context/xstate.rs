//! The extended part of a CONTEXT, which GetContextEx reads on into: CONTEXT_EX and the header of the XSAVE area.
//!
//! The processors have x87 and SSE and nothing beyond (no AVX), and a CONTEXT holds all of that itself. So the header
//! names those two, and no component follows it. Guests that don't use XSAVE have none of this.

use hv_core::regs::{Registers, cr4};
use introspect::windows::Arch;
use protocol::context::xstate::{ALIGNMENT, Chunk, Extension, FLAG, Header};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The components that a CONTEXT holds: x87 and SSE (SDM vol. 1, 13.1).
const LEGACY: u64 = 3;

/// Appends it to a CONTEXT and says so in its flags, if the guest uses XSAVE.
pub(super) fn append(context: &mut Vec<u8>, arch: Arch, registers: &Registers) {
    if registers.cr4 & cr4::OSXSAVE == 0 {
        return;
    }
    let size = context.len();
    let area = area_at(size);
    let whole = area + size_of::<Header>();
    let chunk = |offset: usize, length: usize| Chunk {
        // A CONTEXT is small.
        offset: (offset as i32 - size as i32).into(),
        length: (length as u32).into(),
    };
    let extension = Extension {
        all: chunk(0, whole),
        legacy: chunk(0, size),
        xstate: chunk(area, size_of::<Header>()),
    };
    let mut header = Header::new_zeroed();
    header.mask = (registers.xcr0 & LEGACY).into();
    context.extend_from_slice(extension.as_bytes());
    context.resize(area, 0);
    context.extend_from_slice(header.as_bytes());
    let at = match arch {
        Arch::X64 => 0x30,
        Arch::X86 => 0,
    };
    if let Some(byte) = context.get_mut(at) {
        *byte |= FLAG as u8;
    }
}

/// Whether what a host wrote behind a CONTEXT of `size` bytes names nothing that isn't there.
pub(super) fn is_possible(whole: &[u8], size: usize) -> bool {
    let header = whole.get(area_at(size)..).map(Header::read_from_prefix);
    match header {
        Some(Ok((header, _))) => header.mask.get() & !LEGACY == 0 && header.compaction_mask.get() == 0,
        _ => true,
    }
}

fn area_at(size: usize) -> usize {
    (size + size_of::<Extension>()).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_what_the_context_holds_and_nothing_follows_it() {
        let mut registers = Registers::at_reset(true);
        let mut context = vec![0; 0x4d0];
        append(&mut context, Arch::X64, &registers);
        assert_eq!(context, [0; 0x4d0], "without XSAVE there is none");
        registers.cr4 |= cr4::OSXSAVE;
        registers.xcr0 = 3;
        append(&mut context, Arch::X64, &registers);
        assert_eq!((context.len(), context[0x30]), (0x540, 0x40));
        let (extension, _) = Extension::read_from_prefix(&context[0x4d0..]).unwrap();
        let chunk = |chunk: Chunk| (chunk.offset.get(), chunk.length.get());
        assert_eq!(chunk(extension.all), (-0x4d0, 0x540));
        assert_eq!(chunk(extension.legacy), (-0x4d0, 0x4d0));
        assert_eq!(chunk(extension.xstate), (0x30, 64));
        assert_eq!(context[0x500..0x508], 3_u64.to_le_bytes());
        assert!(is_possible(&context, 0x4d0));
        context[0x500] = 7;
        assert!(!is_possible(&context, 0x4d0), "there is no AVX");
    }

    #[test]
    fn a_32_bit_context_has_its_own_places() {
        let mut registers = Registers::at_reset(true);
        registers.cr4 |= cr4::OSXSAVE;
        let mut context = vec![0; 0x2cc];
        append(&mut context, Arch::X86, &registers);
        assert_eq!((context.len(), context[0], context[0x300]), (0x340, 0x40, 1));
    }
}
