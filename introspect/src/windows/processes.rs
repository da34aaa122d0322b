//! Processes: the active list, and one EPROCESS.

use super::Windows;
use super::error::Error;
use super::facts::{Process, Walk};
use super::field::{Field, Global};
use super::guest::Guest;
use super::list::List;
use super::space::Space;
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};

/// The most processes.
const MAX_PROCESSES: usize = 0x1_0000;
/// Bytes in EPROCESS.ImageFileName.
const NAME_BYTES: usize = 15;
/// DISPATCHER_HEADER.Type of a process and of a thread, in every version (nt kernel public PDBs).
pub(super) const PROCESS_OBJECT: u8 = 3;
pub(super) const THREAD_OBJECT: u8 = 6;

impl Windows {
    /// Processes on the active list; at most 65536.
    ///
    /// # Errors
    /// [`Error`] if not even the head can be read.
    pub fn processes(&self, guest: Guest<'_>) -> Result<Walk<Process>, Error> {
        let space = self.space(guest)?;
        let list = List {
            name: "PsActiveProcessHead",
            head: self.process_list_head(&space)?,
            link: u64::from(self.layout.get(Field::EprocessActiveProcessLinks)?),
            limit: MAX_PROCESSES,
        };
        list.walk(&space, |address| self.process_in(&space, address))
    }

    /// PsActiveProcessHead isn't exported: it is before the System process on the list.
    fn process_list_head(&self, space: &Space<'_>) -> Result<GuestVirtAddr, Error> {
        let unknown = match self.global(Global::PsActiveProcessHead) {
            Ok(head) => return Ok(head),
            Err(unknown) => unknown,
        };
        let system = self.system_process(space)?.ok_or(unknown)?;
        let links = system.wrapping_add(u64::from(self.layout.get(Field::EprocessActiveProcessLinks)?));
        let back = links.wrapping_add(self.arch.pointer_size() as u64);
        let head = space.pointer("System's ActiveProcessLinks", back)?;
        if self.image.contains(head) {
            Ok(head)
        } else {
            Err(unknown.into())
        }
    }

    /// The System process.
    pub(super) fn system_process(&self, space: &Space<'_>) -> Result<Option<GuestVirtAddr>, Error> {
        space.kernel_pointer(
            "PsInitialSystemProcess",
            self.global(Global::PsInitialSystemProcess)?,
        )
    }

    /// The process at an address.
    ///
    /// # Errors
    /// [`Error::Implausible`] if none is there.
    pub fn process(&self, guest: Guest<'_>, address: GuestVirtAddr) -> Result<Process, Error> {
        self.process_in(&self.space(guest)?, address)
    }

    /// The process whose thread the vCPU runs: of its address space, where the thread is attached to another.
    ///
    /// # Errors
    /// [`Error`] if the vCPU's thread or its process can't be told.
    pub fn current_process(&self, guest: Guest<'_>, vcpu: VcpuId) -> Result<Process, Error> {
        let processor = self.processor(guest, vcpu)?;
        let thread = processor.current_thread.ok_or_else(|| Error::NoProcessor {
            vcpu,
            why: "its KPRCB names no current thread".to_owned(),
        })?;
        let space = self.space_of(guest, &guest.vcpus.registers(vcpu)?)?;
        let apc_state = u64::from(self.layout.get(Field::KthreadApcState)?);
        // KAPC_STATE: two lists, then Process.
        let attached = apc_state + 4 * self.arch.pointer_size() as u64;
        let process = space.kernel_pointer("KTHREAD.ApcState.Process", thread.wrapping_add(attached))?;
        match process {
            Some(process) => self.process_in(&space, process),
            None => Err(Error::Implausible {
                what: "KTHREAD",
                address: thread,
                why: "it has no process".to_owned(),
            }),
        }
    }

    pub(super) fn process_in(&self, space: &Space<'_>, address: GuestVirtAddr) -> Result<Process, Error> {
        const WHAT: &str = "EPROCESS";
        let kind = space.u8(WHAT, address)?;
        // The low 7 bits: newer kernels keep a flag above them.
        if kind & 0x7f != PROCESS_OBJECT {
            return Err(Error::Implausible {
                what: WHAT,
                address,
                why: format!("its type is {kind:#x}, a process has {PROCESS_OBJECT}"),
            });
        }
        let at = |field| Ok::<_, Error>(address.wrapping_add(u64::from(self.layout.get(field)?)));
        let word = |field| space.word(WHAT, at(field).ok()?).ok();
        let root = |value: u64| self.mode.root(value);
        let user_root = word(Field::KprocessUserDirectoryTableBase)
            .filter(|&value| value >= 0x1000)
            .map(root);
        Ok(Process {
            address,
            pid: space.word(WHAT, at(Field::EprocessUniqueProcessId)?)?,
            parent: word(Field::EprocessParentId),
            name: match at(Field::EprocessImageFileName) {
                Ok(name) => space.text(WHAT, name, NAME_BYTES)?,
                Err(_) => String::new(),
            },
            root: at(Field::KprocessDirectoryTableBase)
                .and_then(|at| space.word(WHAT, at))
                .map_or(GuestPhysAddr(0), root),
            user_root,
            peb: word(Field::EprocessPeb).map(GuestVirtAddr),
            wow64: word(Field::EprocessWow64Process).map(|process| process != 0),
            create_time: at(Field::EprocessCreateTime)
                .and_then(|at| space.u64(WHAT, at))
                .ok(),
            exit_time: at(Field::EprocessExitTime)
                .and_then(|at| space.u64(WHAT, at))
                .ok(),
            active_threads: at(Field::EprocessActiveThreads)
                .and_then(|at| space.u32(WHAT, at))
                .ok(),
        })
    }
}
