//! What devices ask of the machine: NMI, INIT, start-up, reset, power-off.

use super::{Machine, RunExit};
use crate::addr::VcpuId;
use crate::devices::{RESET_CONTROL, Signal};
use crate::introspect::{CrashReason, GuestCrash, ResetCause};
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
                Signal::Reset => exit = exit.or(Some(reset_by(RESET_CONTROL))),
                Signal::ResetBy(port) => exit = exit.or(Some(reset_by(port))),
                Signal::PowerOff => exit = exit.or(Some(RunExit::PowerOff)),
                Signal::Panic => {
                    self.crashed = Some(CrashReason::Panic);
                    exit = exit.or(Some(RunExit::Crashed(CrashReason::Panic)));
                }
                Signal::CrashKernel => self.guest_crashes.push(GuestCrash::CrashKernel),
                Signal::GuestCrash(vcpu) => {
                    let report = self.bus.hyperv.as_ref().map(|hyperv| hyperv.report(vcpu));
                    self.guest_crashes.extend(report);
                }
                Signal::DebugExit(value) => exit = exit.or(Some(RunExit::DebugExit(value))),
            }
        }
        exit
    }

    /// [`Machine::handle_signals`] in a run, which also ends if there is something to tell.
    pub(super) fn handle_signals_of_run(&mut self) -> Option<RunExit> {
        let told = self.guest_crashes.len();
        let exit = self.handle_signals();
        exit.or((self.guest_crashes.len() > told).then_some(RunExit::Interrupted))
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

fn reset_by(port: u16) -> RunExit {
    RunExit::Reset(ResetCause::Port(port))
}
