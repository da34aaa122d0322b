//! Threads: the list of a process, and one ETHREAD.

use super::Windows;
use super::error::Error;
use super::facts::{Thread, ThreadState, Walk};
use super::field::Field;
use super::guest::Guest;
use super::list::List;
use super::processes::THREAD_OBJECT;
use super::space::Space;
use hv_core::{GuestVirtAddr, VcpuId};

/// The most threads of a process.
const MAX_THREADS: usize = 0x1_0000;

/// Which thread each vCPU runs.
pub(super) struct Running(Vec<(GuestVirtAddr, VcpuId)>);

impl Windows {
    /// The threads of a process; at most 65536.
    ///
    /// # Errors
    /// [`Error`] if not even the head can be read.
    pub fn threads(&self, guest: Guest<'_>, process: GuestVirtAddr) -> Result<Walk<Thread>, Error> {
        let space = self.space(guest)?;
        let running = self.running(guest);
        let list = self.thread_list(process)?;
        list.walk(&space, |address| self.thread_in(&space, address, &running))
    }

    /// The executive's list where its offsets are known, else the scheduler's: both name the same threads.
    fn thread_list(&self, process: GuestVirtAddr) -> Result<List, Error> {
        let offsets = |head, link| Ok::<_, Error>((self.layout.get(head)?, self.layout.get(link)?));
        let executive = offsets(Field::EprocessThreadListHead, Field::EthreadThreadListEntry);
        let (head, link) = match executive {
            Ok(found) => found,
            Err(_) => offsets(Field::KprocessThreadListHead, Field::KthreadThreadListEntry)?,
        };
        Ok(List {
            name: "ThreadListHead",
            head: process.wrapping_add(u64::from(head)),
            link: u64::from(link),
            limit: MAX_THREADS,
        })
    }

    /// The thread at an address.
    ///
    /// # Errors
    /// [`Error::Implausible`] if none is there.
    pub fn thread(&self, guest: Guest<'_>, address: GuestVirtAddr) -> Result<Thread, Error> {
        self.thread_in(&self.space(guest)?, address, &self.running(guest))
    }

    /// What the vCPUs run. A vCPU that can't be told is left out.
    fn running(&self, guest: Guest<'_>) -> Running {
        let vcpus = (0..guest.vcpus.vcpu_count()).map(VcpuId);
        Running(
            vcpus
                .filter_map(|vcpu| Some((self.processor(guest, vcpu).ok()?.current_thread?, vcpu)))
                .collect(),
        )
    }

    fn thread_in(
        &self,
        space: &Space<'_>,
        address: GuestVirtAddr,
        running: &Running,
    ) -> Result<Thread, Error> {
        const WHAT: &str = "ETHREAD";
        let kind = space.u8(WHAT, address)?;
        if kind & 0x7f != THREAD_OBJECT {
            return Err(Error::Implausible {
                what: WHAT,
                address,
                why: format!("its type is {kind:#x}, a thread has {THREAD_OBJECT}"),
            });
        }
        let at = |field| Ok::<_, Error>(address.wrapping_add(u64::from(self.layout.get(field)?)));
        let pointer = |field| space.pointer(WHAT, at(field).ok()?).ok();
        let byte = |field| space.u8(WHAT, at(field).ok()?).ok();
        let cid = at(Field::EthreadCid)?;
        let pointer_size = self.arch.pointer_size() as u64;
        Ok(Thread {
            address,
            pid: space.word(WHAT, cid)?,
            tid: space.word(WHAT, cid.wrapping_add(pointer_size))?,
            process: pointer(Field::KthreadProcess),
            state: byte(Field::KthreadState).map(ThreadState),
            wait_reason: byte(Field::KthreadWaitReason),
            priority: byte(Field::KthreadPriority).map(|byte| byte as i8),
            teb: pointer(Field::KthreadTeb),
            start: pointer(Field::EthreadStartAddress),
            win32_start: pointer(Field::EthreadWin32StartAddress),
            stack_base: pointer(Field::KthreadStackBase),
            stack_limit: pointer(Field::KthreadStackLimit),
            kernel_stack: pointer(Field::KthreadKernelStack),
            running_on: running
                .0
                .iter()
                .find(|(thread, _)| *thread == address)
                .map(|(_, vcpu)| *vcpu),
        })
    }
}
