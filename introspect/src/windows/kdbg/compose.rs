//! Composing a KDDEBUGGER_DATA64 from known symbols and offsets, for a guest whose own can't be decoded.

use super::layout::{
    ADDRESSES, KERN_BASE, OFFSET_KTHREAD_APC_PROCESS, OFFSET_PRCB_DPC_ROUTINE,
    OFFSET_PRCB_PROC_STATE_CONTEXT, OFFSET_PRCB_PROC_STATE_SPECIAL_REG, OFFSETS_16, OFFSETS_32, OWNER_TAG,
    PAE_ENABLED, PAGE_SIZE, PTE_BASE, SELECTORS, SELECTORS_X64, SELECTORS_X86, SIZE, TAG, size_of_build,
};
use crate::paging::PagingMode;
use crate::windows::Windows;
use crate::windows::error::Unknown;
use crate::windows::facts::Arch;
use crate::windows::field::{Field, Global};
use crate::windows::space::Space;
use hv_core::GuestVirtAddr;

/// The block, with what is known of this kernel; other fields are zero. On x86 its addresses are zero-extended, as the
/// kernel's own are, and unlike the version block's.
pub(crate) fn compose(
    windows: &Windows,
    space: &Space<'_>,
    list_head: Option<GuestVirtAddr>,
) -> Result<Vec<u8>, Unknown> {
    // Without it a debugger sees no modules, and the block is of no use.
    windows.global(Global::PsLoadedModuleList)?;
    let arch = windows.arch();
    let mut block = Block {
        bytes: vec![0; size_of_build(windows.build().unwrap_or_default())],
    };
    if let Some(head) = list_head {
        // A LIST_ENTRY of the kernel's own width, in front of 16 bytes.
        let width = arch.pointer_size();
        let head = &head.0.to_le_bytes()[..width];
        block.set(0, head);
        block.set(width, head);
    }
    let size = block.bytes.len() as u32;
    block.set(OWNER_TAG, &TAG.to_le_bytes());
    block.set(SIZE, &size.to_le_bytes());
    block.set(KERN_BASE, &windows.kernel().base.0.to_le_bytes());
    block.set(
        PAE_ENABLED,
        &u16::from(!matches!(windows.mode, PagingMode::Bits32 { .. })).to_le_bytes(),
    );
    block.set(PAGE_SIZE, &0x1000u64.to_le_bytes());
    for &(at, global) in ADDRESSES {
        if let Some((address, _)) = windows.find_global(global) {
            block.set(at, &address.0.to_le_bytes());
        }
    }
    if let Ok(variable) = windows.global(Global::MmPteBase)
        && let Ok(base) = space.word("MmPteBase", variable)
    {
        block.set(PTE_BASE, &base.to_le_bytes());
    }
    compose_offsets(windows, &mut block);
    let selectors = match arch {
        Arch::X64 => SELECTORS_X64,
        Arch::X86 => SELECTORS_X86,
    };
    for (index, selector) in selectors.into_iter().enumerate() {
        block.set(SELECTORS + 2 * index, &selector.to_le_bytes());
    }
    Ok(block.bytes)
}

fn compose_offsets(windows: &Windows, block: &mut Block) {
    let offset = |field| windows.layout().get(field).ok();
    for &(at, field) in OFFSETS_16 {
        block.set_u16(at, offset(field));
    }
    for &(at, field) in OFFSETS_32 {
        if let Some(offset) = offset(field) {
            block.set(at, &offset.to_le_bytes());
        }
    }
    let sum = |a, b| Some(offset(a)? + offset(b)?);
    let in_apc_state = 4 * windows.arch().pointer_size() as u32;
    block.set_u16(
        OFFSET_KTHREAD_APC_PROCESS,
        offset(Field::KthreadApcState).map(|state| state + in_apc_state),
    );
    block.set_u16(
        OFFSET_PRCB_PROC_STATE_CONTEXT,
        sum(Field::KprcbProcessorState, Field::StateContextFrame),
    );
    block.set_u16(
        OFFSET_PRCB_PROC_STATE_SPECIAL_REG,
        sum(Field::KprcbProcessorState, Field::StateSpecialRegisters),
    );
    block.set_u16(OFFSET_PRCB_DPC_ROUTINE, offset(Field::KprcbDpcRoutineActive));
}

struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// Sets a field, if the block of this version has it.
    fn set(&mut self, at: usize, value: &[u8]) {
        if let Some(field) = self.bytes.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    }

    fn set_u16(&mut self, at: usize, value: Option<u32>) {
        if let Some(value) = value.and_then(|value| u16::try_from(value).ok()) {
            self.set(at, &value.to_le_bytes());
        }
    }
}
