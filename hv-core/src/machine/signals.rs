//! What devices ask of the machine: NMI, INIT, start-up, reset, power-off.

use super::{Machine, RunExit};
use crate::addr::VcpuId;
use crate::devices::Signal;
use crate::introspect::CrashReason;
use crate::regs::{Activity, Registers, cr0, seg};

impl Machine {
    /// Handles what devices ask for; `Some` if the run ends.
    pub(super) fn handle_signals(&mut self) -> Option<RunExit> {
        let mut exit = None;
        for signal in self.bus.platform.take_signals() {
            match signal {
                Signal::Nmi(vcpu) => {
                    if let Some(runner) = self.runners.get_mut(vcpu.index()) {
                        runner.cpu.nmi_pending = true;
                    }
                }
                Signal::Init(vcpu) => self.init_vcpu(vcpu),
                Signal::StartUp(vcpu, page) => self.start_vcpu(vcpu, page),
                Signal::Reset => exit = exit.or(Some(RunExit::Reset)),
                Signal::PowerOff => exit = exit.or(Some(RunExit::PowerOff)),
                Signal::Panic => {
                    self.crashed = Some(CrashReason::Panic);
                    exit = exit.or(Some(RunExit::Crashed(CrashReason::Panic)));
                }
                Signal::DebugExit(value) => exit = exit.or(Some(RunExit::DebugExit(value))),
            }
        }
        exit
    }

    /// INIT (SDM vol. 3A, table 10-1): most of the reset state, with x87, SSE, MSRs, TSC and caches kept.
    fn init_vcpu(&mut self, vcpu: VcpuId) {
        let Some(runner) = self.runners.get_mut(vcpu.index()) else {
            return;
        };
        let old = runner.cpu.registers();
        let mut new = Registers::at_reset(vcpu.0 == 0);
        let cache = cr0::CD | cr0::NW;
        new.cr0 = new.cr0 & !cache | old.cr0 & cache;
        (new.x87, new.xmm, new.ymm_high, new.mxcsr) = (old.x87, old.xmm, old.ymm_high, old.mxcsr);
        (new.msrs, new.apic_base, new.xcr0) = (old.msrs, old.apic_base, old.xcr0);
        runner.cpu.load_registers(&new);
        runner.cpu.nmi_pending = false;
    }

    fn start_vcpu(&mut self, vcpu: VcpuId, page: u8) {
        let Some(runner) = self.runners.get_mut(vcpu.index()) else {
            return;
        };
        if runner.cpu.r.activity != Activity::WaitForSipi {
            return;
        }
        let cs = &mut runner.cpu.r.segments[seg::CS];
        cs.selector = (page as u16) << 8;
        cs.base = (page as u64) << 12;
        runner.cpu.rip = 0;
        runner.cpu.r.activity = Activity::Running;
        runner.cpu.update_mode();
        self.came_up.push(vcpu);
    }
}
