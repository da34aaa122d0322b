//! `g`, `G`, `p`, `P`, `T`, `qfThreadInfo`, `qThreadExtraInfo`, `qXfer:features:read`.

use super::arch::{RegisterFile, RegisterNumber, X86};
use super::{NO_THREAD, REFUSED, thread};
use crate::guest::Guest;
use crate::registers::{RegisterSet, Slot, TABLE, View, description};
use crate::threads;
use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::host_info::HostInfoOps;
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::process_info::ProcessInfoOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

impl Target for Guest {
    type Arch = X86;
    /// What makes gdbstub refuse a packet; a sentence for the log.
    type Error = String;

    fn base_ops(&mut self) -> BaseOps<'_, X86, String> {
        BaseOps::MultiThread(self)
    }
    fn use_rle(&self) -> bool {
        false
    }
    fn use_fork_stop_reason(&self) -> bool {
        false
    }
    fn use_vfork_stop_reason(&self) -> bool {
        false
    }
    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }
    fn use_lldb_register_info(&self) -> bool {
        false
    }
    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
    fn support_host_info(&mut self) -> Option<HostInfoOps<'_, Self>> {
        Some(self)
    }
    fn support_process_info(&mut self) -> Option<ProcessInfoOps<'_, Self>> {
        Some(self)
    }
}

impl Guest {
    fn refused(&mut self, why: String) -> TargetError<String> {
        tracing::info!(%why, "a register isn't written");
        self.refusal = Some(why);
        TargetError::Errno(REFUSED)
    }

    fn registers(&self, id: Tid) -> TargetResult<RegisterSet<'_>, Guest> {
        let thread = thread(self, id).ok_or(TargetError::Errno(NO_THREAD))?;
        self.registers_of(thread).map_err(|why| {
            tracing::info!(%why, %id, "there are no registers");
            TargetError::Errno(REFUSED)
        })
    }

    /// Changes registers by `change`, which says what is wrong with a value.
    fn change(
        &mut self,
        id: Tid,
        change: impl FnOnce(&mut View<'_>) -> Result<(), String>,
    ) -> TargetResult<(), Self> {
        self.hold();
        let changed = match self.registers(id)? {
            RegisterSet::Vcpu(mut view) => change(&mut view),
            RegisterSet::Saved(_) => Err(String::from(
                "no vCPU runs this task: its registers are in its kernel's memory, and can't be written as registers",
            )),
        };
        changed.map_err(|why| self.refused(why))
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(&mut self, file: &mut RegisterFile, thread: Tid) -> TargetResult<(), Self> {
        self.hold();
        let mut file_bytes = Vec::new();
        std::mem::swap(&mut file_bytes, &mut file.0);
        file_bytes.clear();
        let registers = self.registers(thread)?;
        let mut value = Vec::new();
        for register in TABLE {
            value.clear();
            if registers.put(register, &mut value) {
                file_bytes.extend(value.iter().copied().map(Some));
            } else {
                file_bytes.extend(std::iter::repeat_n(None, register.bytes()));
            }
        }
        file.0 = file_bytes;
        Ok(())
    }

    /// Only what differs is written.
    fn write_registers(&mut self, file: &RegisterFile, thread: Tid) -> TargetResult<(), Self> {
        let bytes: Vec<u8> = file.0.iter().map_while(|byte| *byte).collect();
        self.change(thread, |view| {
            view.set_changed(TABLE.iter(), &bytes)?;
            view.write()
        })
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    /// Not reached: memory is [`crate::packets`]' business.
    fn read_addrs(&mut self, _: u64, _: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        Err(TargetError::NonFatal)
    }

    /// Not reached either.
    fn write_addrs(&mut self, _: u64, _: &[u8], _: Tid) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn list_active_threads(&mut self, report: &mut dyn FnMut(Tid)) -> Result<(), String> {
        for thread in self.inferior.threads(self) {
            report(thread.id());
        }
        Ok(())
    }

    fn is_thread_alive(&mut self, id: Tid) -> Result<bool, String> {
        Ok(thread(self, id).is_some())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Guest {
    fn read_register(
        &mut self,
        thread: Tid,
        number: RegisterNumber,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        self.hold();
        let mut value = Vec::new();
        let registers = self.registers(thread)?;
        let available = match TABLE.get(number.0) {
            Some(register) => registers.put(register, &mut value),
            None => registers.put_system(&mut value),
        };
        if !available && self.client.lldb {
            // It takes `xx` for a value.
            return Err(TargetError::Errno(REFUSED));
        }
        buffer[..value.len()].copy_from_slice(&value);
        Ok(value.len())
    }

    fn write_register(
        &mut self,
        thread: Tid,
        number: RegisterNumber,
        value: &[u8],
    ) -> TargetResult<(), Self> {
        self.change(thread, |view| match TABLE.get(number.0) {
            // Written by its number already.
            Some(register) if matches!(register.slot, Slot::OtherMsr(_)) => view.set(register, value),
            Some(register) => view.set(register, value).and_then(|()| view.write()),
            None => view.set_system(value).and_then(|()| view.write()),
        })
    }
}

impl ThreadExtraInfo for Guest {
    fn thread_extra_info(&self, id: Tid, buffer: &mut [u8]) -> Result<usize, String> {
        let text = match thread(self, id) {
            Some(thread) => format!(
                "{}, {}",
                threads::name(self, thread),
                threads::extra(self, thread)
            ),
            None => String::from("no such thread"),
        };
        let length = text.len().min(buffer.len());
        buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
        Ok(length)
    }
}

impl TargetDescriptionXmlOverride for Guest {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::Errno(0));
        }
        let xml = description(self.client.gdb).as_bytes();
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|o| xml.get(o..))
            .unwrap_or(&[]);
        // Escapes may double what is written.
        let length = length.min(rest.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
