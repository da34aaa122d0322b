//! What one session knows of its domain, and what it asked for.

use crate::agent::Printer;
use crate::breakpoints::{PlaceMode, Table};
use crate::files::{Files, Told};
use crate::hex;
use crate::inferior::{Inferior, Machine};
use crate::packets::lldb_threads;
use crate::process::Process;
use crate::process::end::EndWatch;
use crate::registers::{EXPEDITED, RegisterSet, TABLE};
use crate::resume::{Actions, Plan};
use crate::tasks::{Stopped, Tasks};
use crate::thread::{Thread, ThreadId};
use crate::threads;
use hv_core::addr::{GuestVirtAddr, VcpuId};
use hv_core::introspect::Introspect;
use introspect::{AddressSpace, Session, Target};
use std::sync::Arc;
use symbols::synthetic::cache::Cache;

/// gdb's number for a trap, and for "nothing in particular".
pub const SIGTRAP: u8 = 5;

/// Takes a fork of a domain into the service, and says in a line where it is found.
pub type Adopt = Arc<dyn Fn(Arc<dyn Introspect>) -> Result<String, String> + Send + Sync>;

/// What the service lends to its sessions.
#[derive(Clone, Default)]
pub struct Options {
    /// For `monitor fork`, which can't be done without.
    pub adopt: Option<Adopt>,
    /// Where symbol files of guests' kernels are kept; without, they are made anew for each guest.
    pub symbols: Option<Arc<Cache>>,
    /// The process that is debugged, by its pid; the whole machine if `None`.
    pub process: Option<u32>,
}

/// What happens to this session when another debugger stops the guest by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OtherStops {
    /// A line of text; the client goes on waiting.
    #[default]
    Note,
    /// The client stops as well.
    Stop,
}

/// What the client said it understands (`qSupported`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    /// `swbreak` as a stop reason.
    pub swbreak: bool,
    /// `hwbreak` as a stop reason.
    pub hwbreak: bool,
    /// It is gdb: it is told of a register `system`, and takes reasons for errors.
    pub gdb: bool,
    /// It is lldb, whose memory packets mean the vCPU that stopped and not the one whose registers it read last.
    pub lldb: bool,
    /// It wants all threads in every stop reply.
    pub lists_threads: bool,
    /// It takes reasons for errors as lldb does.
    pub error_strings: bool,
    /// It uses `extended-remote`: a detach leaves the connection open.
    pub extended: bool,
    /// Nothing is acknowledged any more.
    pub no_acks: bool,
}

/// The state that packets read and change.
pub struct Guest {
    /// The domain and its debuggers.
    pub target: Arc<Target>,
    /// Our part in its run control.
    pub session: Session,
    /// What the client takes for its program.
    pub inferior: Box<dyn Inferior>,
    /// The tasks of a Linux guest.
    pub listed: Tasks,
    /// The thread whose registers are meant (`Hg`).
    pub selected: Thread,
    /// The thread whose address space is meant: the selected one, but see [`Client::lldb`].
    pub viewed: Thread,
    /// The thread that the client stepped last.
    pub asked: Option<Thread>,
    /// The vCPU that stopped last.
    pub stopped: VcpuId,
    /// The client detached but stayed (`extended-remote`): there is no process for it until it attaches again.
    pub detached: bool,
    /// Why the last packet is refused, for clients that print it.
    pub refusal: Option<String>,
    /// The thread that the old packet `s` steps (`Hc`); the selected one if `None`.
    pub stepped: Option<Thread>,
    /// Addresses are guest-physical (`monitor physical on`).
    pub physical: bool,
    /// What new breakpoints mean by an address, where the user said so.
    pub place: Option<PlaceMode>,
    /// Where the commands of breakpoints print.
    pub printer: Arc<Printer>,
    /// Our breakpoints.
    pub breakpoints: Table,
    /// See [`OtherStops`].
    pub other_stops: OtherStops,
    /// See [`Client`].
    pub client: Client,
    /// The resume request that is being received.
    pub actions: Actions,
    /// A whole one, to be carried out.
    pub requested: Option<Plan>,
    /// The list of threads that the client is reading.
    pub document: String,
    /// The body of the last stop reply, until the guest is resumed.
    pub last_stop: Option<Vec<u8>>,
    /// How the guest ended, if it did.
    pub exited: Option<u8>,
    /// What tells that the process ends that is debugged.
    pub end_watch: EndWatch,
    /// What the service lends to monitor commands.
    pub options: Options,
    /// The files that the client has open.
    pub files: Files,
    /// The modules that the client knows of, if it asked for them.
    pub told_modules: Option<Told>,
}

impl Guest {
    /// At the start of a connection: nothing is asked, and the guest goes on.
    pub fn new(target: Arc<Target>, session: Session, options: Options, printer: Arc<Printer>) -> Guest {
        let inferior: Box<dyn Inferior> = match options.process {
            Some(pid) => Box::new(Process(pid)),
            None => Box::new(Machine),
        };
        let first = inferior.first();
        Guest {
            target,
            session,
            inferior,
            listed: Tasks::default(),
            selected: first,
            viewed: first,
            asked: None,
            stopped: VcpuId(0),
            detached: false,
            refusal: None,
            stepped: None,
            physical: false,
            place: None,
            printer,
            breakpoints: Table::default(),
            other_stops: OtherStops::default(),
            client: Client::default(),
            actions: Actions::default(),
            requested: None,
            document: String::new(),
            last_stop: None,
            exited: None,
            end_watch: EndWatch::default(),
            options,
            files: Files::default(),
            told_modules: None,
        }
    }

    /// The domain.
    pub fn domain(&self) -> &dyn Introspect {
        self.target.domain().as_ref()
    }

    /// The address space that addresses in packets mean now.
    pub fn space(&self) -> AddressSpace {
        if self.physical {
            AddressSpace::Physical
        } else {
            self.virtual_space()
        }
    }

    /// The address space of the thread that is looked at.
    pub fn virtual_space(&self) -> AddressSpace {
        self.inferior.space(self, self.viewed)
    }

    /// The vCPU that is looked at: the one that stopped last, while a task is that no vCPU runs.
    pub fn vcpu(&self) -> VcpuId {
        self.vcpu_of(self.viewed).unwrap_or(self.stopped)
    }

    /// The vCPU that a thread is, or is on.
    ///
    /// # Errors
    /// A sentence that says why it is on none.
    pub fn vcpu_of(&self, thread: Thread) -> Result<VcpuId, String> {
        match thread {
            _ if !self.inferior.has(self, thread) => Err(format!("there is no thread {}", thread.id())),
            Thread::Vcpu(vcpu) => Ok(vcpu),
            Thread::Task(pid) => {
                let Stopped { tasks, task } = self.task(pid).ok_or("there is no such task")?;
                tasks
                    .vcpu_of(&task)
                    .ok_or_else(|| format!("task {pid} ({}, {}) is on no vCPU", task.name, task.state))
            }
        }
    }

    /// The thread that a packet means, the selected one for all and any; `None` if there is none of that number.
    pub fn meant(&self, id: ThreadId) -> Option<Thread> {
        match id {
            ThreadId::All | ThreadId::Any => Some(self.selected),
            ThreadId::One(id) => Thread::of(id).filter(|thread| self.inferior.has(self, *thread)),
        }
    }

    /// The thread that stops when a vCPU does.
    pub fn thread_on(&self, vcpu: VcpuId) -> Thread {
        self.inferior.thread_on(self, vcpu)
    }

    /// A thread's registers.
    ///
    /// # Errors
    /// A sentence that says why there are none.
    pub fn registers_of(&self, thread: Thread) -> Result<RegisterSet<'_>, String> {
        self.inferior.registers(self, thread)
    }

    /// What the address of a new breakpoint means.
    pub fn place_of_new(&self) -> PlaceMode {
        self.place.unwrap_or_else(|| self.inferior.place(self))
    }

    /// The bytes from `address` to the first absent page, `length` at most; `None` if there is none.
    pub fn read_memory(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        if length == 0 {
            return Some(Vec::new());
        }
        let mut bytes = vec![0; length];
        match self
            .target
            .read_virtual(self.space(), GuestVirtAddr(address), &mut bytes)
        {
            Ok(0) | Err(_) => None,
            Ok(done) => {
                bytes.truncate(done);
                Some(bytes)
            }
        }
    }

    /// Writes `bytes`; false if a part of them has no memory to go to.
    pub fn write_memory(&self, address: u64, bytes: &[u8]) -> bool {
        let space = self.space();
        bytes.is_empty()
            || self
                .target
                .write_virtual(space, GuestVirtAddr(address), bytes)
                .is_ok_and(|done| done == bytes.len())
    }

    /// Stops the guest for this session, if it didn't before.
    pub fn hold(&mut self) {
        if !self.session.holds()
            && let Err(error) = self.session.stop()
        {
            tracing::warn!(session = %self.session.id(), %error, "the guest can't be stopped");
        }
    }

    /// Lets go: no breakpoint and no hold of this session is left.
    pub fn release(&mut self) {
        std::mem::take(&mut self.end_watch).disarm(self);
        self.breakpoints.clear(&self.session);
        if self.session.holds()
            && let Err(error) = self.session.resume()
        {
            tracing::warn!(session = %self.session.id(), %error, "the guest can't be resumed");
        }
    }

    /// Before the guest runs: the end of the process that is debugged is to be noticed.
    pub fn watch_for_end(&mut self) {
        let mut watch = std::mem::take(&mut self.end_watch);
        if let Some(process) = self.inferior.process() {
            watch.arm(self, process);
        }
        self.end_watch = watch;
    }

    /// Stops the guest, and says why it is stopped, as a stop reply.
    pub fn present_stop(&mut self) -> Vec<u8> {
        if let Some(code) = self.exited {
            return format!("W{code:02x}").into_bytes();
        }
        self.detached = false;
        self.hold();
        if self.inferior.process().is_some() && !self.inferior.has(self, self.inferior.first()) {
            tracing::info!("the process has ended");
            self.exited = Some(0);
            return b"W00".to_vec();
        }
        match &self.last_stop {
            _ if self.client.lldb => {
                let mut body = self.stop_info(self.viewed);
                lldb_threads::put_list(self, &mut body);
                body
            }
            Some(body) => body.clone(),
            None => self.stop_reply(SIGTRAP, self.selected),
        }
    }

    /// Why a thread is stopped: as the last stop reply said if it was about this one, else because the others are.
    pub fn stop_info(&self, thread: Thread) -> Vec<u8> {
        let its_own = self.last_stop.as_ref().filter(|_| thread == self.viewed);
        let mut body = match its_own {
            Some(body) => body.clone(),
            None => self.stop_reply(if thread == self.viewed { SIGTRAP } else { 0 }, thread),
        };
        if !body.windows(5).any(|w| w == b"name:") {
            threads::put_name(self, thread, &mut body);
        }
        body
    }

    /// A stop reply of our own: a signal at a thread.
    fn stop_reply(&self, signal: u8, thread: Thread) -> Vec<u8> {
        let mut body = format!("T{signal:02x}thread:{:x};", thread.id()).into_bytes();
        if let Ok(registers) = self.registers_of(thread) {
            let mut value = Vec::new();
            for number in EXPEDITED {
                value.clear();
                if registers.put(&TABLE[number], &mut value) {
                    body.extend_from_slice(format!("{number:x}:").as_bytes());
                    hex::encode(&mut body, &value);
                    body.push(b';');
                }
            }
        }
        body
    }

    /// Resets the domain; it stays stopped for this session.
    ///
    /// # Errors
    /// A sentence that says why it isn't.
    pub fn reset(&mut self) -> Result<(), String> {
        self.detached = false;
        self.hold();
        let control = self.domain().control_run().ok_or("this domain can't be reset")?;
        control.reset().map_err(|error| error.to_string())?;
        self.last_stop = None;
        self.exited = None;
        self.listed.forget();
        Ok(())
    }
}
