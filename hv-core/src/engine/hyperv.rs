//! The Microsoft hypervisor interface, as little of it as lets a guest report its crash (Hypervisor Top-Level
//! Functional Specification, TLFS). Only the CPU models that say so have it.
//!
//! What "Hv#1" promises is there: the guest's identity, a hypercall page and VP indexes. No hypercall is implemented: the page
//! answers each of them, without leaving the guest, with HV_STATUS_INVALID_HYPERCALL_CODE. Beyond that there are the
//! crash registers and the announcement of an invariant TSC, which keeps Linux from taking the TSC for unstable.

use super::bus::Bus;
use super::cpuid::{CpuModel, Leaf};
use crate::addr::{GuestPhysAddr, VcpuId};
use crate::introspect::GuestCrash;
use crate::memory::Backing;
use serde::{Deserialize, Serialize};

/// CPUID leaves.
pub(crate) const FIRST_LEAF: u32 = 0x4000_0000;
pub(crate) const LAST_LEAF: u32 = 0x4000_0005;
/// MSRs.
pub(crate) const FIRST_MSR: u32 = 0x4000_0000;
pub(crate) const LAST_MSR: u32 = TSC_INVARIANT_CONTROL;

const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;
const VP_INDEX: u32 = 0x4000_0002;
const VP_ASSIST_PAGE: u32 = 0x4000_0073;
const CRASH_P0: u32 = 0x4000_0100;
const CRASH_P4: u32 = 0x4000_0104;
const CRASH_CTL: u32 = 0x4000_0105;
const TSC_INVARIANT_CONTROL: u32 = 0x4000_0118;

// CPUID.40000003:EAX, the partition's privileges.
const ACCESS_HYPERCALL_MSRS: u32 = 1 << 5;
const ACCESS_VP_INDEX: u32 = 1 << 6;
const ACCESS_TSC_INVARIANT: u32 = 1 << 15;
// CPUID.40000003:EDX.
const GUEST_CRASH_MSRS: u32 = 1 << 10;

const HYPERCALL_ENABLE: u64 = 1 << 0;
const HYPERCALL_LOCKED: u64 = 1 << 1;
const CRASH_NOTIFY: u64 = 1 << 63;
/// P3 is the guest-physical address of a text, P4 its length.
const CRASH_MESSAGE: u64 = 1 << 62;
/// Bytes of such a text: a page.
const MAX_MESSAGE: u64 = 4096;

/// mov eax, HV_STATUS_INVALID_HYPERCALL_CODE; ret. The result is RAX.
const INVALID_HYPERCALL_64: [u8; 6] = [0xb8, 2, 0, 0, 0, 0xc3];
/// The same with xor edx, edx: the result is EDX:EAX.
const INVALID_HYPERCALL_32: [u8; 8] = [0xb8, 2, 0, 0, 0, 0x31, 0xd2, 0xc3];

/// What CPUID answers from [`FIRST_LEAF`] to [`LAST_LEAF`] (TLFS, "Feature and Interface Discovery").
pub(crate) fn cpuid(leaf: u32, vcpus: u32) -> Leaf {
    let word = u32::from_le_bytes;
    match leaf - FIRST_LEAF {
        0 => Leaf {
            eax: LAST_LEAF,
            ebx: word(*b"Micr"),
            ecx: word(*b"osof"),
            edx: word(*b"t Hv"),
        },
        1 => Leaf {
            eax: word(*b"Hv#1"),
            ..Leaf::default()
        },
        3 => Leaf {
            eax: ACCESS_HYPERCALL_MSRS | ACCESS_VP_INDEX | ACCESS_TSC_INVARIANT,
            edx: GUEST_CRASH_MSRS,
            ..Leaf::default()
        },
        // Nothing is recommended; never tell the hypervisor of long waits for a spinlock.
        4 => Leaf {
            ebx: u32::MAX,
            ..Leaf::default()
        },
        5 => Leaf {
            eax: vcpus,
            ebx: vcpus,
            ..Leaf::default()
        },
        // The version: none.
        _ => Leaf::default(),
    }
}

/// The interface's state: one for all vCPUs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HyperV {
    guest_os_id: u64,
    hypercall: u64,
    /// Kept as written: nothing assists.
    vp_assist: [u64; 8],
    crash_parameters: [u64; 5],
    tsc_invariant: u64,
    message: Option<Vec<u8>>,
}

impl HyperV {
    /// The interface after a reset, if the model has it.
    pub(crate) fn of(model: &CpuModel) -> Option<HyperV> {
        model.hyperv.then(HyperV::default)
    }

    /// What RDMSR gives; `None` is #GP(0).
    pub(super) fn read_msr(&self, vcpu: VcpuId, msr: u32) -> Option<u64> {
        Some(match msr {
            GUEST_OS_ID => self.guest_os_id,
            HYPERCALL => self.hypercall,
            VP_INDEX => vcpu.0.into(),
            VP_ASSIST_PAGE => *self.vp_assist.get(vcpu.index())?,
            CRASH_P0..=CRASH_P4 => self.crash_parameters[(msr - CRASH_P0) as usize],
            // What is understood.
            CRASH_CTL => CRASH_NOTIFY | CRASH_MESSAGE,
            TSC_INVARIANT_CONTROL => self.tsc_invariant,
            _ => return None,
        })
    }

    /// What WRMSR of `vcpu` does, which is in 64-bit mode or not; `None` is #GP(0), also where the interface isn't there.
    pub(super) fn write_msr(bus: &mut Bus, vcpu: VcpuId, long: bool, msr: u32, value: u64) -> Option<()> {
        let hyperv = bus.hyperv.as_mut()?;
        match msr {
            GUEST_OS_ID => {
                hyperv.guest_os_id = value;
                if value == 0 {
                    hyperv.hypercall &= !HYPERCALL_ENABLE;
                }
            }
            HYPERCALL => return Self::write_hypercall(bus, long, value),
            VP_ASSIST_PAGE => *hyperv.vp_assist.get_mut(vcpu.index())? = value,
            CRASH_P0..=CRASH_P4 => hyperv.crash_parameters[(msr - CRASH_P0) as usize] = value,
            CRASH_CTL if value & CRASH_NOTIFY != 0 => {
                // Read now: the guest may change it before the machine looks.
                let [.., address, length] = hyperv.crash_parameters;
                hyperv.message = (value & CRASH_MESSAGE != 0).then(|| {
                    let mut text = vec![0; length.min(MAX_MESSAGE) as usize];
                    let done = bus.memory.read(GuestPhysAddr(address), &mut text);
                    text.truncate(done);
                    text
                });
                bus.platform.report_guest_crash(vcpu);
            }
            CRASH_CTL => {}
            TSC_INVARIANT_CONTROL if value & !1 == 0 => hyperv.tsc_invariant = value,
            _ => return None,
        }
        Some(())
    }

    /// TLFS, "Establishing the Hypercall Interface". The page is the guest's own, as if it had written the code there itself.
    fn write_hypercall(bus: &mut Bus, long: bool, value: u64) -> Option<()> {
        let hyperv = bus.hyperv.as_mut()?;
        if hyperv.hypercall & HYPERCALL_LOCKED != 0 {
            return Some(());
        }
        let page = GuestPhysAddr(value & !0xfff);
        let enable = value & HYPERCALL_ENABLE != 0 && hyperv.guest_os_id != 0;
        if enable && bus.memory.backing(page.frame()) == Backing::None {
            return None;
        }
        hyperv.hypercall = if enable { value } else { value & !HYPERCALL_ENABLE };
        if enable {
            let code: &[u8] = if long {
                &INVALID_HYPERCALL_64
            } else {
                &INVALID_HYPERCALL_32
            };
            bus.write_physical(page, code);
        }
        Some(())
    }

    /// What the guest said of its crash last.
    pub(crate) fn report(&self, vcpu: VcpuId) -> GuestCrash {
        GuestCrash::Reported {
            vcpu,
            parameters: self.crash_parameters,
            message: self.message.as_deref().map(readable),
        }
    }
}

/// A guest's text up to its end, for terminals and logs: no control characters but line ends.
fn readable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    let shown = |c: char| match c {
        '\n' => '\n',
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaves_name_microsofts_interface_and_no_more_than_is_there() {
        let first = cpuid(FIRST_LEAF, 2);
        let name: Vec<u8> = [first.ebx, first.ecx, first.edx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!((first.eax, &*name), (0x4000_0005, &b"Microsoft Hv"[..]));
        let features = cpuid(FIRST_LEAF + 3, 2);
        assert_eq!((features.eax, features.edx), (0x8060, 0x400));
        assert_eq!(cpuid(FIRST_LEAF + 5, 2).eax, 2);
    }

    #[test]
    fn a_text_is_made_harmless() {
        assert_eq!(
            readable(b"a\x1b[31m\r\nb\tc\xff\0d"),
            "a\u{fffd}[31m\u{fffd}\nb c\u{fffd}"
        );
    }
}
