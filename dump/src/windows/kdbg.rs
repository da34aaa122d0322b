//! The fields of KDDEBUGGER_DATA64 (wdbgexts.h) that writers and readers of dumps need. One layout for x86 and x64.

use hv_core::GuestVirtAddr;
use introspect::windows::Arch;

/// The smallest block, of Windows 2000, and the largest that is believed.
const SIZES: std::ops::RangeInclusive<usize> = 0x208..=0x1000;
/// Bytes that tell a block and its size.
pub const HEADER: usize = 0x18;

/// A decoded block.
pub struct DebuggerBlock<'a> {
    arch: Arch,
    bytes: &'a [u8],
}

/// Fields that hold the address of a variable, or an address.
#[derive(Clone, Copy)]
pub enum Address {
    /// Of the kernel's image.
    KernelBase = 0x18,
    /// PsLoadedModuleList.
    ModuleList = 0x48,
    /// PsActiveProcessHead.
    ProcessList = 0x50,
    /// MmPfnDatabase.
    PfnDatabase = 0xc0,
    /// NtBuildLab.
    BuildLab = 0x208,
    /// KiProcessorBlock: pointers to the KPRCBs.
    ProcessorBlock = 0x218,
}

/// Fields that hold an offset in the KPRCB.
#[derive(Clone, Copy)]
pub enum PrcbOffset {
    /// ProcessorState.ContextFrame.
    ContextFrame = 0x2bc,
    /// ProcessorState.SpecialRegisters.
    SpecialRegisters = 0x2f2,
    /// Context: a pointer to the processor's CONTEXT, from Windows 7 on.
    Context = 0x338,
}

impl<'a> DebuggerBlock<'a> {
    /// A block, if the bytes are one.
    pub fn new(arch: Arch, bytes: &'a [u8]) -> Option<DebuggerBlock<'a>> {
        let size = Self::size(bytes)?;
        let bytes = bytes.get(..size)?;
        Some(DebuggerBlock { arch, bytes })
    }

    /// The size that a block's first [`HEADER`] bytes tell; `None` if it is none, or encoded.
    pub fn size(bytes: &[u8]) -> Option<usize> {
        let tag = bytes.get(0x10..0x14)?;
        let size = usize::try_from(u32::from_le_bytes(bytes.get(0x14..0x18)?.try_into().ok()?)).ok()?;
        (tag == b"KDBG" && SIZES.contains(&size)).then_some(size)
    }

    /// A field that isn't null.
    pub fn address(&self, field: Address) -> Option<GuestVirtAddr> {
        let at = field as usize;
        let bytes = self.bytes.get(at..at + 8)?.try_into().ok()?;
        let address = self.arch.address(u64::from_le_bytes(bytes));
        (address.0 != 0).then_some(address)
    }

    /// A field that isn't zero: nothing of what is asked for begins a KPRCB.
    pub fn offset(&self, field: PrcbOffset) -> Option<u64> {
        self.word(field as usize)
    }

    fn word(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at + 2)?.try_into().ok()?;
        let offset = u64::from(u16::from_le_bytes(bytes));
        (offset != 0).then_some(offset)
    }

    /// SizeEThread.
    pub fn thread_size(&self) -> Option<u64> {
        self.word(0x2c0)
    }

    /// SizeEProcess.
    pub fn process_size(&self) -> Option<u64> {
        self.word(0x2a8)
    }

    /// OffsetKThreadApcProcess: of the process whose address space a thread is in.
    pub fn apc_process(&self) -> Option<u64> {
        self.word(0x2a0)
    }

    /// OffsetPcrContainedPrcb: of the KPRCB in the KPCR.
    pub fn prcb_in_pcr(&self) -> Option<u64> {
        self.word(0x2e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_block_of_a_known_size_is_one() {
        let mut bytes = vec![0; 0x340];
        assert!(DebuggerBlock::new(Arch::X64, &bytes).is_none());
        bytes[0x10..0x14].copy_from_slice(b"KDBG");
        bytes[0x14..0x18].copy_from_slice(&0x340u32.to_le_bytes());
        bytes[0x218..0x220].copy_from_slice(&0xffff_ffff_8123_0000u64.to_le_bytes());
        bytes[0x338..0x33a].copy_from_slice(&0x5c0u16.to_le_bytes());
        let block = DebuggerBlock::new(Arch::X86, &bytes).unwrap();
        assert_eq!(
            block.address(Address::ProcessorBlock),
            Some(GuestVirtAddr(0x8123_0000))
        );
        assert_eq!(block.offset(PrcbOffset::Context), Some(0x5c0));
        assert_eq!(block.address(Address::ModuleList), None);
        assert!(DebuggerBlock::new(Arch::X86, &bytes[..0x330]).is_none());
        bytes[0x14..0x18].copy_from_slice(&0x2000u32.to_le_bytes());
        assert!(DebuggerBlock::size(&bytes).is_none());
    }
}
