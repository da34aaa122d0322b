//! A domain in short and in full.

use super::{Managed, guest_crash, lock};
use crate::Failure;
use crate::control::message::{DomainInfo, DomainSummary, VcpuInfo};
use hv_core::VcpuId;
use hv_core::engine::cpuid::CpuModel;
use hv_core::introspect::DomainState;
use hv_core::regs::{Activity, Registers, cr0, efer, rflags, seg};
use std::fmt::Write;
use std::sync::Arc;
use symbols::SymbolPath;

impl Managed {
    /// As in a list.
    pub fn summary(&self) -> DomainSummary {
        let domain = self.domain();
        let (state, pauses, crash) = match domain.state() {
            DomainState::Running => ("running", 0, None),
            DomainState::Paused(pauses) => ("paused", pauses, None),
            DomainState::Crashed(reason) => ("crashed", 0, Some(reason.to_string())),
            DomainState::ShutDown => ("shut-down", 0, None),
        };
        DomainSummary {
            id: domain.id().to_string(),
            name: domain.name(),
            state: state.into(),
            pauses,
            crash,
            vcpus: domain.vcpu_count(),
            memory_bytes: self.hardware().memory_bytes,
            uptime_instructions: domain.uptime().0,
            endpoints: lock(&self.endpoints).iter().map(|e| e.info.clone()).collect(),
        }
    }

    /// In full, with what its operating system looks like from outside; `hash` asks for the hash of its state, for which it is held.
    pub fn info(self: &Arc<Self>, hash: bool, symbols: &SymbolPath) -> Result<DomainInfo, Failure> {
        let domain = self.domain();
        let state_hash = if hash {
            let _held = self.hold()?;
            domain.state_hash().map(|hash| {
                hash.iter().fold(String::new(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                })
            })
        } else {
            None
        };
        let vcpu_states = (0..domain.vcpu_count())
            .filter_map(|vcpu| Some(vcpu_info(vcpu, &domain.registers(VcpuId(vcpu)).ok()?)))
            .collect();
        let sessions = self.target().sessions().into_iter().map(|session| {
            let holds = if session.holds { ", holds it" } else { "" };
            let breakpoints = match session.breakpoints {
                0 => String::new(),
                n => format!(", {n} breakpoints"),
            };
            format!("{}{holds}{breakpoints}", session.description)
        });
        Ok(DomainInfo {
            summary: self.summary(),
            guest: self.guest().to_owned(),
            cpu: cpu_model(&self.hardware().cpu_model),
            seed: self.hardware().seed,
            console: self.console().clone(),
            operator_pauses: self.operator_pauses(),
            waits_for_debugger: self.target().waits_for_debugger(),
            uptime_nanoseconds: domain.uptime().nanoseconds(),
            retired_instructions: domain.retired_instructions(),
            touched_bytes: domain.touched_memory(),
            vcpu_states,
            sessions: sessions.collect(),
            os: self.os_info(symbols),
            guest_crash: domain.guest_crash().as_ref().map(guest_crash::words),
            state_hash,
        })
    }
}

/// The model's name; the default's where none was chosen.
fn cpu_model(name: &str) -> String {
    CpuModel::by_name(name)
        .map_or(name, |model| model.name)
        .to_owned()
}

/// A vCPU in short.
pub(super) fn vcpu_info(vcpu: u32, registers: &Registers) -> VcpuInfo {
    VcpuInfo {
        vcpu,
        activity: match registers.activity {
            Activity::Running => "running",
            Activity::Halted => "halted",
            Activity::WaitForSipi => "wait-for-sipi",
        }
        .into(),
        mode: mode(registers).into(),
        cpl: registers.cpl(),
        rip: registers.rip.into(),
    }
}

/// The operating mode (SDM vol. 3A, 2.2).
fn mode(registers: &Registers) -> &'static str {
    let code = &registers.segments[seg::CS];
    if registers.cr0 & cr0::PE == 0 {
        "real"
    } else if registers.rflags & rflags::VM != 0 {
        "vm86"
    } else if registers.efer & efer::LMA != 0 {
        if code.long() { "long" } else { "compatibility" }
    } else if code.default_big() {
        "protected-32"
    } else {
        "protected-16"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_follow_the_manual() {
        let mut registers = Registers::at_reset(true);
        assert_eq!(mode(&registers), "real");
        registers.cr0 |= cr0::PE;
        assert_eq!(mode(&registers), "protected-16");
        registers.segments[seg::CS].attributes |= 1 << 14;
        assert_eq!(mode(&registers), "protected-32");
        registers.efer |= efer::LMA;
        assert_eq!(mode(&registers), "compatibility");
        registers.segments[seg::CS].attributes |= 1 << 13;
        assert_eq!(mode(&registers), "long");
    }
}
