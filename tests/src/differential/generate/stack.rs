//! A stack pointer for those that use the stack.

use super::Builder;
use crate::differential::layout::STACK;
use iced_x86::{Code, Mnemonic as M, OpCodeOperandKind as K};

fn is_segment(kind: K) -> bool {
    matches!(kind, K::es | K::ss | K::ds | K::fs | K::gs)
}

impl Builder {
    /// What must hold before an instruction of this form, whatever its operands.
    pub(super) fn prepare(&mut self, code: Code) {
        let info = code.op_code();
        if info.is_stack_instruction()
            || matches!(info.mnemonic(), M::Ret | M::Retf | M::Iret | M::Iretd | M::Iretq)
        {
            let good =
                self.known[4].is_some_and(|rsp| (STACK.start + 0x400..STACK.end() - 0x400).contains(&rsp));
            // Far returns read their words in an order that is the CPU's own, POPA may be half done, and CALL may push before
            // it looks at its target: they must not fault.
            let whole = matches!(
                info.mnemonic(),
                M::Call | M::Popa | M::Popad | M::Retf | M::Iret | M::Iretd | M::Iretq
            );
            if self.rng.chance(10) && !whole {
                let edge = self.rng.pick(&[STACK.start, STACK.start + 0x1000, STACK.end()]);
                let mut rsp = edge + self.rng.below(24);
                rsp -= self.rng.below(24);
                self.force(4, rsp);
            } else if !good {
                let rsp = STACK.start + 0x1000 + self.rng.below(64) * 8;
                self.force(4, rsp);
            }
            if info.mnemonic() == M::Pop && info.op_count() == 1 && is_segment(info.op_kind(0)) {
                let (rsp, value) = (self.value_of(4), self.selector());
                self.patch(rsp, &(value as u64).to_le_bytes());
            }
            if matches!(info.mnemonic(), M::Enter | M::Leave) && self.rng.chance(80) {
                let rbp = STACK.start + 0x1000 + self.rng.below(128) * 8;
                self.force(5, rbp);
            }
        }
    }
}
