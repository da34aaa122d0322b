//! What a debugger sees of a guest in one session, kept: a domain without a machine that plays it back.
//!
//! ```text
//!  a real domain ── Recorder ──► Tape ──► a file ──► Tape ── Player ──► KdSession ── Driven ◄── a host's bytes
//!                  (notes every page, register and stop that it passes on)
//! ```
//! A tape is a list of moments, in each of which the guest stood still: the vCPUs' registers, and those pages that
//! were looked at. Between two of them the guest ran, and what ended that (a stop, a step, a pause) is the later
//! one's cause. So no clock and no thread decides what a debugger sees of a [`Player`].

mod driven;
mod player;
mod recorder;

pub use driven::Driven;
pub use player::Player;
pub use recorder::Recorder;

use hv_core::introspect::{
    AccessKind, Breakpoint, BreakpointId, BreakpointKind, CrashReason, Place, StepOutcome, StopReason,
};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

/// A page's size.
const PAGE: usize = 4096;
/// A tape is never longer, unpacked.
const LONGEST: u64 = 64 << 20;

/// What was seen of a guest.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Tape {
    /// RAM and ROM: start, length, whether it can be written.
    regions: Vec<(u64, u64, bool)>,
    moments: Vec<Moment>,
}

/// The guest while it stood still.
#[derive(Clone, Serialize, Deserialize)]
struct Moment {
    cause: Cause,
    /// By vCPU.
    registers: Vec<Registers>,
    /// By vCPU and number.
    msrs: BTreeMap<(u32, u32), Option<u64>>,
    /// By frame: those that were read, and aren't as they were when they were last read.
    pages: BTreeMap<u64, Vec<u8>>,
    /// What the debugger had asked to be stopped at, while the guest ran.
    breakpoints: BTreeSet<Wanted>,
}

/// Why the guest stands still.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Cause {
    Start,
    /// The debugger paused it.
    Paused,
    /// It stopped by itself.
    Stopped(u32, Reason),
    /// It died.
    Crashed(CrashReason),
    /// The debugger stepped this vCPU.
    Stepped(u32, Outcome),
}

/// [`StepOutcome`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Outcome {
    Stepped,
    Stopped(u32, Reason),
    Waiting,
    Ended,
}

/// [`StopReason`], with places for ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Reason {
    Breakpoint(Vec<Wanted>, u64),
    Watchpoint(Wanted, u64, Access),
    Crashed(CrashReason),
    PageAccess(u64, Option<Access>),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
enum Access {
    Read,
    Write,
    Both,
}

/// [`Breakpoint`]: where, and for a watchpoint its length and access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct Wanted(Where, Option<(u64, Access)>);

/// [`Place`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
enum Where {
    Virtual(u64),
    InAddressSpace(u64, u64),
    Physical(u64),
}

impl Tape {
    /// Writes it, packed.
    ///
    /// # Errors
    /// The writer's.
    pub fn save(&self, writer: impl Write) -> std::io::Result<()> {
        let bytes = postcard::to_stdvec(self).map_err(std::io::Error::other)?;
        let mut packer = flate2::write::DeflateEncoder::new(writer, flate2::Compression::best());
        packer.write_all(&bytes)?;
        packer.finish()?.flush()
    }

    /// From a packed one.
    ///
    /// # Errors
    /// The reader's, and one if it isn't a tape.
    pub fn load(reader: impl Read) -> std::io::Result<Tape> {
        let mut bytes = Vec::new();
        flate2::read::DeflateDecoder::new(reader)
            .take(LONGEST)
            .read_to_end(&mut bytes)?;
        postcard::from_bytes(&bytes).map_err(std::io::Error::other)
    }

    /// How many moments there are.
    pub fn length(&self) -> usize {
        self.moments.len()
    }

    /// Gives every page of every moment to `change`, by frame.
    pub fn change_pages(&mut self, mut change: impl FnMut(u64, &mut [u8])) {
        for moment in &mut self.moments {
            for (frame, page) in &mut moment.pages {
                change(*frame, page);
            }
        }
    }

    /// Gives the registers of every vCPU in every moment to `change`.
    pub fn change_registers(&mut self, mut change: impl FnMut(&mut Registers)) {
        for moment in &mut self.moments {
            moment.registers.iter_mut().for_each(&mut change);
        }
    }
}

impl From<AccessKind> for Access {
    fn from(access: AccessKind) -> Access {
        match access {
            AccessKind::Read => Access::Read,
            AccessKind::Write => Access::Write,
            AccessKind::ReadWrite => Access::Both,
        }
    }
}

impl From<Access> for AccessKind {
    fn from(access: Access) -> AccessKind {
        match access {
            Access::Read => AccessKind::Read,
            Access::Write => AccessKind::Write,
            Access::Both => AccessKind::ReadWrite,
        }
    }
}

impl From<&Breakpoint> for Wanted {
    fn from(breakpoint: &Breakpoint) -> Wanted {
        let place = match breakpoint.place {
            Place::Virtual(address) => Where::Virtual(address.0),
            Place::InAddressSpace(address, root) => Where::InAddressSpace(address.0, root.0),
            Place::Physical(address) => Where::Physical(address.0),
        };
        let watch = match breakpoint.kind {
            BreakpointKind::Execute => None,
            BreakpointKind::Watch { length, access } => Some((length, access.into())),
        };
        Wanted(place, watch)
    }
}

/// The breakpoints that there are.
type Live = BTreeMap<BreakpointId, Wanted>;

impl Reason {
    fn of(reason: &StopReason, live: &Live) -> Option<Reason> {
        let place = |id: &BreakpointId| live.get(id).copied();
        Some(match reason {
            StopReason::Breakpoint { ids, address } => {
                Reason::Breakpoint(ids.iter().filter_map(place).collect(), address.0)
            }
            StopReason::Watchpoint { id, address, access } => {
                Reason::Watchpoint(place(id)?, *address, (*access).into())
            }
            StopReason::Crashed(reason) => Reason::Crashed(reason.clone()),
            StopReason::PageAccess { frame, access } => Reason::PageAccess(frame.0, access.map(Into::into)),
        })
    }

    /// With the ids of this time; `None` if nobody asked for it.
    fn now(&self, live: &Live) -> Option<StopReason> {
        let id = |wanted: &Wanted| live.iter().find(|(_, it)| *it == wanted).map(|(id, _)| *id);
        Some(match self {
            Reason::Breakpoint(wanted, address) => {
                let ids: Vec<BreakpointId> = wanted.iter().filter_map(id).collect();
                (!ids.is_empty()).then_some(())?;
                StopReason::Breakpoint {
                    ids,
                    address: GuestVirtAddr(*address),
                }
            }
            Reason::Watchpoint(wanted, address, access) => StopReason::Watchpoint {
                id: id(wanted)?,
                address: *address,
                access: (*access).into(),
            },
            Reason::Crashed(reason) => StopReason::Crashed(reason.clone()),
            Reason::PageAccess(frame, access) => StopReason::PageAccess {
                frame: GuestPhysAddr(*frame),
                access: access.map(Into::into),
            },
        })
    }
}

impl Outcome {
    fn of(outcome: &StepOutcome, live: &Live) -> Option<Outcome> {
        Some(match outcome {
            StepOutcome::Stepped => Outcome::Stepped,
            StepOutcome::Stopped { vcpu, reason } => Outcome::Stopped(vcpu.0, Reason::of(reason, live)?),
            StepOutcome::Waiting => Outcome::Waiting,
            StepOutcome::Ended => Outcome::Ended,
        })
    }

    fn now(&self, live: &Live) -> Option<StepOutcome> {
        Some(match self {
            Outcome::Stepped => StepOutcome::Stepped,
            Outcome::Stopped(vcpu, reason) => StepOutcome::Stopped {
                vcpu: VcpuId(*vcpu),
                reason: reason.now(live)?,
            },
            Outcome::Waiting => StepOutcome::Waiting,
            Outcome::Ended => StepOutcome::Ended,
        })
    }
}
