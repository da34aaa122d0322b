//! Differences in which the manual is on hv-core's side, or on no side.

use crate::Told;
use crate::state::State;
use hv_core::regs::rflags;

/// A register in which the two may differ.
struct Known {
    /// The register.
    name: &'static str,
    /// Whether this is it: our value, QEMU's.
    is: fn(&Situation, u128, u128) -> bool,
    /// What the manual says.
    why: &'static str,
}

/// Where a difference was seen.
struct Situation<'a> {
    told: &'a Told,
    ours: &'a State,
}

impl Situation<'_> {
    /// Whether a handler has just begun on the stack of the interrupt stack table.
    fn on_ist(&self) -> bool {
        let rsp = self.ours["rsp"] as u64;
        (self.told.ist - 48..self.told.ist).contains(&rsp)
    }
}

const KNOWN: &[Known] = &[
    Known {
        name: "rax",
        is: |_, ours, theirs| (ours ^ theirs) & !0xf_0000 == 0 && ours & 0xff == 0,
        why: "LAR (SDM vol. 2): bits 16 to 19 of the access rights are undefined",
    },
    Known {
        name: "rdx",
        is: |_, ours, theirs| ours == theirs | 1 && theirs & 8 != 0,
        why: "page faults (SDM vol. 3A, 4.7): RSVD is never set without P",
    },
    Known {
        name: "rdx",
        is: |_, ours, theirs| is_gate_error(ours, theirs),
        why: GATE_ERROR,
    },
    Known {
        name: "rflags",
        is: |_, ours, theirs| ours == theirs | u128::from(rflags::RF),
        why: PUSHED_RF,
    },
    Known {
        name: "cs.attributes",
        is: |_, ours, theirs| ours == theirs | 1,
        why: ACCESSED,
    },
    Known {
        name: "ss.attributes",
        is: |_, ours, theirs| ours == theirs | 1,
        why: ACCESSED,
    },
    Known {
        name: "ss",
        is: |here, _, theirs| here.on_ist() && theirs == 0,
        why: IST,
    },
    Known {
        name: "ss.attributes",
        is: |here, _, theirs| here.on_ist() && theirs == 0,
        why: IST,
    },
    Known {
        name: "ss.limit",
        is: |here, _, theirs| here.on_ist() && theirs == 0,
        why: IST,
    },
    Known {
        name: "tr.attributes",
        is: |_, ours, theirs| ours == theirs | 2,
        why: "the task register (SDM vol. 3A, 2.4.4 and 7.2.2): a loaded TSS is busy, in the hidden part too",
    },
];

/// A step of QEMU after which everything is as before.
pub const STEP_OF_NOTHING: &str = "a step in which QEMU does nothing: before the handler of a #DB of the debug registers, and now and then when something interrupts it";

const PUSHED_RF: &str =
    "RF (SDM vol. 3B, 17.3.1.1): a fault pushes it set, and IRET loads it for one instruction";

const GATE_ERROR: &str =
    "error codes that name a gate (SDM vol. 3A, 6.13): the vector is in bits 3 to 15 in every mode";

const IST: &str = "SS (SDM vol. 3A, 6.14.4): an interrupt that changes no ring leaves it alone, with the interrupt stack table too";

const ACCESSED: &str = "accessed bits (SDM vol. 3A, 3.4.5.1): every load of a code or stack segment sets it; QEMU leaves out IRET, gates, and more";

/// Why a register may differ: our state, its name, our value, QEMU's.
pub fn in_register(told: &Told, state: &State, name: &str, ours: u128, theirs: u128) -> Option<&'static str> {
    let here = Situation { told, ours: state };
    let mut known = KNOWN.iter();
    known
        .find(|known| known.name == name && (known.is)(&here, ours, theirs))
        .map(|known| known.why)
}

/// Why four bytes of memory may differ: their address, ours, QEMU's.
pub fn in_memory(told: &Told, address: u64, ours: u32, theirs: u32) -> Option<&'static str> {
    if told.gdt.contains(&address) {
        let access = address % 8 == 4 && theirs & 0x9000 == 0x9000;
        (access && ours == theirs | 0x100).then_some(ACCESSED)
    } else if told.pointers.contains(&address) {
        let low = address.is_multiple_of(8) && theirs == ours | 0x20;
        low.then_some("PAE (SDM vol. 3A, table 4-8): page-directory pointers have no accessed bit")
    } else if told.stacks.contains(&address) {
        if ours == theirs | rflags::RF as u32 {
            Some(PUSHED_RF)
        } else {
            is_gate_error(ours.into(), theirs.into()).then_some(GATE_ERROR)
        }
    } else {
        None
    }
}

/// Whether these are error codes that name a gate, the second as QEMU counts in long mode.
fn is_gate_error(ours: u128, theirs: u128) -> bool {
    ours & 7 == 2 && theirs == (ours - 2) * 2 + 2
}
