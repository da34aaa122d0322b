//! A kernel that isn't in the table: layouts of similar kernels, tested against this guest's memory, and what the
//! links of processes and threads show by themselves.

use crate::windows::Windows;
use crate::windows::entry::maps_kuser;
use crate::windows::error::Error;
use crate::windows::field::{Field, Global, Source};
use crate::windows::known::KnownLayout;
use crate::windows::processes::{PROCESS_OBJECT, THREAD_OBJECT};
use crate::windows::space::Space;
use hv_core::GuestVirtAddr;

/// The fields that [`Windows::fits`] proves.
const PROVED: [Field; 8] = [
    Field::EprocessUniqueProcessId,
    Field::EprocessActiveProcessLinks,
    Field::EprocessImageFileName,
    Field::EprocessThreadListHead,
    Field::EthreadThreadListEntry,
    Field::EthreadCid,
    Field::KthreadProcess,
    Field::KprocessDirectoryTableBase,
];
/// The process id of System, in every version.
const SYSTEM_ID: u64 = 4;
/// Where KTHREAD.ThreadListEntry may be.
const THREAD_LINKS: std::ops::Range<u64> = 0x100..0x900;

impl Windows {
    /// Takes the layout of a known kernel that memory agrees with: all of it from a kernel of the same build, from
    /// others only what is proved.
    pub(super) fn learn_from_similar(&mut self, space: &Space<'_>) {
        let mut candidates: Vec<&KnownLayout> = KnownLayout::all()
            .iter()
            .filter(|layout| layout.arch == self.arch)
            .collect();
        let build = self.build.unwrap_or_default();
        candidates.sort_by_key(|layout| layout.build.abs_diff(build));
        let mut last = None;
        for candidate in candidates {
            match self.fits(space, candidate) {
                Ok(()) if candidate.build == build => {
                    candidate.teach(&mut self.layout, Source::Similar);
                    self.report.found(
                        "similar kernel",
                        format!("all of {}, of the same build and tested", candidate.name),
                    );
                    return;
                }
                Ok(()) => {
                    for field in PROVED {
                        if let Some(offset) = candidate.get(field) {
                            self.layout.learn(field, offset, Source::Similar);
                        }
                    }
                    self.report.found(
                        "similar kernel",
                        format!("what could be tested of {}", candidate.name),
                    );
                    return;
                }
                Err(error) => last.get_or_insert(error),
            };
        }
        let why = last.map_or("none of this architecture".to_owned(), |error| error.to_string());
        self.report.missing("similar kernel", why);
    }

    /// Whether the System process and its first thread look as a layout says.
    fn fits(&self, space: &Space<'_>, candidate: &KnownLayout) -> Result<(), Error> {
        for (field, offset, _) in self.layout.iter() {
            if let Some(other) = candidate.get(field).filter(|&other| other != offset) {
                return Err(Error::Implausible {
                    what: candidate.name,
                    address: self.image.base,
                    why: format!("{field} is at {offset:#x} and not {other:#x}"),
                });
            }
        }
        let offset = |field| {
            candidate
                .get(field)
                .map(u64::from)
                .ok_or(crate::windows::Unknown::Field(field))
        };
        let pointer_size = self.arch.pointer_size() as u64;
        let system = self.find_system(space, offset(Field::EprocessActiveProcessLinks)?)?;
        let wrong = |address, why: &str| Error::Implausible {
            what: candidate.name,
            address,
            why: why.to_owned(),
        };
        let at = |field| Ok::<_, Error>(system.wrapping_add(offset(field)?));
        if space.u8("EPROCESS", system)? & 0x7f != PROCESS_OBJECT {
            return Err(wrong(system, "no process is there"));
        }
        let id = at(Field::EprocessUniqueProcessId)?;
        if space.word("EPROCESS", id)? != SYSTEM_ID {
            return Err(wrong(id, "System's id isn't there"));
        }
        let name = at(Field::EprocessImageFileName)?;
        if space.text("EPROCESS", name, 15)? != "System" {
            return Err(wrong(name, "System's name isn't there"));
        }
        closes(space, at(Field::EprocessActiveProcessLinks)?)?;
        let root = space.word("EPROCESS", at(Field::KprocessDirectoryTableBase)?)?;
        if !maps_kuser(&space.with_root(root)) {
            return Err(wrong(system, "System's page tables aren't there"));
        }
        let threads = at(Field::EprocessThreadListHead)?;
        let first = closes(space, threads)?;
        let thread = GuestVirtAddr(first.0.wrapping_sub(offset(Field::EthreadThreadListEntry)?));
        let field = |field| Ok::<_, Error>(thread.wrapping_add(offset(field)?));
        let cid = field(Field::EthreadCid)?;
        let is_thread = first != threads
            && space.u8("ETHREAD", thread)? & 0x7f == THREAD_OBJECT
            && space.pointer("ETHREAD", field(Field::KthreadProcess)?)? == system
            && space.word("ETHREAD", cid)? == SYSTEM_ID
            && is_id(space.word("ETHREAD", cid.wrapping_add(pointer_size))?);
        if is_thread {
            Ok(())
        } else {
            Err(wrong(thread, "no thread of System is there"))
        }
    }

    /// The System process: exported, or the first on the active list.
    fn find_system(&self, space: &Space<'_>, links: u64) -> Result<GuestVirtAddr, Error> {
        match self.system_process(space) {
            Ok(Some(system)) => Ok(system),
            _ => {
                let head = self.global(Global::PsActiveProcessHead)?;
                let first = space.pointer("PsActiveProcessHead", head)?;
                Ok(GuestVirtAddr(first.0.wrapping_sub(links)))
            }
        }
    }

    /// What needs no layout: the links follow the process id, and the scheduler's list leads to threads.
    pub(super) fn learn_from_links(&mut self, space: &Space<'_>) {
        let Ok(Some(system)) = self.system_process(space) else {
            return;
        };
        let pointer_size = self.arch.pointer_size() as u32;
        if let Some((id, _)) = self.layout.find(Field::EprocessUniqueProcessId)
            && self.layout.find(Field::EprocessActiveProcessLinks).is_none()
        {
            let links = id + pointer_size;
            if space.word("EPROCESS", system.wrapping_add(u64::from(id))) == Ok(SYSTEM_ID)
                && closes(space, system.wrapping_add(u64::from(links))).is_ok()
            {
                self.layout
                    .learn(Field::EprocessActiveProcessLinks, links, Source::Structure);
                self.report
                    .found("process links", format!("at {links:#x}, behind the process id"));
            }
        }
        if self.layout.find(Field::KthreadThreadListEntry).is_none()
            && let Some(entry) = self.thread_link(space, system)
        {
            self.layout
                .learn(Field::KthreadThreadListEntry, entry, Source::Structure);
            self.report.found("thread links", format!("at {entry:#x}"));
        }
    }

    /// KTHREAD.ThreadListEntry: so far behind a thread of System is what KPROCESS.ThreadListHead points to. The
    /// thread's own pointer to its process must be known, so that no chance hit is taken.
    fn thread_link(&self, space: &Space<'_>, system: GuestVirtAddr) -> Option<u32> {
        let process = u64::from(self.layout.get(Field::KthreadProcess).ok()?);
        let head = u64::from(self.layout.get(Field::KprocessThreadListHead).ok()?);
        let threads = system.wrapping_add(head);
        let first = closes(space, threads).ok().filter(|&first| first != threads)?;
        THREAD_LINKS
            .step_by(self.arch.pointer_size())
            .find(|&link| {
                let thread = GuestVirtAddr(first.0.wrapping_sub(link));
                space
                    .u8("KTHREAD", thread)
                    .is_ok_and(|kind| kind & 0x7f == THREAD_OBJECT)
                    && space.pointer("KTHREAD", thread.wrapping_add(process)) == Ok(system)
            })
            .map(|link| link as u32)
    }
}

/// The next link, if it points back.
fn closes(space: &Space<'_>, links: GuestVirtAddr) -> Result<GuestVirtAddr, Error> {
    let next = space.pointer("LIST_ENTRY", links)?;
    let back = next.wrapping_add(space.arch.pointer_size() as u64);
    if space.is_kernel(next) && space.pointer("LIST_ENTRY", back)? == links {
        Ok(next)
    } else {
        Err(Error::Implausible {
            what: "LIST_ENTRY",
            address: links,
            why: "its Flink doesn't point back".to_owned(),
        })
    }
}

/// Whether a number can be a thread's id.
fn is_id(id: u64) -> bool {
    id != 0 && id < 1 << 31 && id.is_multiple_of(4)
}
