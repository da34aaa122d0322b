//! What KdVersionBlock and KDDEBUGGER_DATA64 teach.

use crate::windows::Windows;
use crate::windows::facts::Arch;
use crate::windows::field::{Field, Global, Source};
use crate::windows::kdbg::layout::{
    ADDRESSES, OFFSET_KTHREAD_APC_PROCESS, OFFSET_PRCB_DPC_ROUTINE, OFFSET_PRCB_PROC_STATE_CONTEXT,
    OFFSET_PRCB_PROC_STATE_SPECIAL_REG, OFFSETS_16, OFFSETS_32, u16_at, u32_at, u64_at,
};
use crate::windows::kdbg::read::Read;
use crate::windows::kdbg::version;
use crate::windows::space::Space;
use hv_core::GuestVirtAddr;

/// Larger offsets are no structure's.
const MAX_OFFSET: u32 = 0x2_0000;

impl Windows {
    pub(super) fn learn_from_version_block(&mut self, space: &Space<'_>) {
        let by_symbol = self
            .find_global(Global::KdVersionBlock)
            .and_then(|(address, source)| version::read(space, &self.image, address, source).ok());
        let by_shape = || version::search(space, &self.image, self.headers.as_ref()?);
        let Some(block) = by_symbol.or_else(by_shape) else {
            // A symbol that leads to something else helps nobody.
            self.globals[Global::KdVersionBlock as usize] = None;
            self.report
                .missing("KdVersionBlock", "neither by symbol nor by its shape");
            return;
        };
        self.report.found(
            "KdVersionBlock",
            format!("{}, by {}", block.address, block.source),
        );
        self.globals[Global::KdVersionBlock as usize] = Some((block.address, block.source));
        self.learn_global(
            Global::PsLoadedModuleList,
            block.loaded_module_list,
            Source::VersionBlock,
        );
        self.learn_global(
            Global::KdpDebuggerDataListHead,
            block.debugger_data_list,
            Source::VersionBlock,
        );
        self.build.get_or_insert(u32::from(block.minor));
    }

    pub(super) fn learn_from_debugger_data(&mut self, space: &Space<'_>) {
        match self.read_debugger_data(space) {
            Ok(read) => {
                self.report.found(
                    "debugger data",
                    format!(
                        "{}, {:#x} bytes, {}",
                        read.address,
                        read.bytes.len(),
                        read.encoding
                    ),
                );
                self.learn_from_block(&read.bytes);
                // Where no symbol names it, the place that was found is as good.
                self.learn_global(Global::KdDebuggerDataBlock, read.address, Source::Structure);
            }
            Err(why) => self.report.missing("debugger data", why),
        }
    }

    fn read_debugger_data(&self, space: &Space<'_>) -> Result<Read, String> {
        let around = self.surroundings(space);
        let symbol = self
            .find_global(Global::KdDebuggerDataBlock)
            .map(|(address, _)| address);
        let mut why = "nothing says where it is".to_owned();
        for address in [around.first_on_list(), symbol].into_iter().flatten() {
            match around.read(address) {
                Ok(read) => return Ok(read),
                Err(error) => why = error,
            }
        }
        let headers = self.headers.as_ref().ok_or_else(|| why.clone())?;
        around.search(headers).ok_or(why)
    }

    fn learn_from_block(&mut self, block: &[u8]) {
        const SOURCE: Source = Source::DebuggerData;
        for &(at, global) in ADDRESSES {
            if let Some(value) = u64_at(block, at).filter(|&value| value != 0) {
                let address: GuestVirtAddr = self.arch.address(value);
                self.learn_global(global, address, SOURCE);
            }
        }
        let half = |at| u16_at(block, at).map(u32::from).filter(|&value| value != 0);
        let mut offsets: Vec<(Field, Option<u32>)> = Vec::new();
        offsets.extend(OFFSETS_16.iter().map(|&(at, field)| (field, half(at))));
        offsets.extend(
            OFFSETS_32
                .iter()
                .map(|&(at, field)| (field, u32_at(block, at).filter(|&value| value != 0))),
        );
        offsets.push((Field::KprcbDpcRoutineActive, half(OFFSET_PRCB_DPC_ROUTINE)));
        let in_apc_state = 4 * self.arch.pointer_size() as u32;
        offsets.push((
            Field::KthreadApcState,
            half(OFFSET_KTHREAD_APC_PROCESS).and_then(|process| process.checked_sub(in_apc_state)),
        ));
        if let (Some(context), Some(special)) = (
            half(OFFSET_PRCB_PROC_STATE_CONTEXT),
            half(OFFSET_PRCB_PROC_STATE_SPECIAL_REG),
        ) {
            // x64 has the special registers first, x86 the context.
            let state = context.min(special);
            let ordered = (special < context) == (self.arch == Arch::X64);
            if ordered {
                offsets.push((Field::KprcbProcessorState, Some(state)));
                offsets.push((Field::StateSpecialRegisters, Some(special - state)));
                offsets.push((Field::StateContextFrame, Some(context - state)));
            }
        }
        for (field, offset) in offsets {
            if let Some(offset) = offset.filter(|&offset| offset < MAX_OFFSET) {
                self.layout.learn(field, offset, SOURCE);
            }
        }
    }
}
