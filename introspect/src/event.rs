//! What a session is told.

use hv_core::VcpuId;
use hv_core::introspect::{CrashReason, GuestCrash, ResetCause, StopReason};

/// Receives a session's events: one at a time, in order, on whichever thread caused them (often the domain's own),
/// without locks held. It must be quick, and hand run control to another thread: a `stop` from here would wait for
/// the very thread it runs on. It isn't called for events after the session's end, but a call that is under way at
/// that moment is completed.
pub type EventSink = Box<dyn Fn(&TargetEvent) + Send + Sync>;

/// Something happened to the domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetEvent {
    /// The domain stopped by itself, or while another session stepped it. The session now holds it, whether or not
    /// it did before.
    Stopped {
        /// The vCPU at which it stopped.
        vcpu: VcpuId,
        /// Why.
        reason: StopReason,
        /// One of the breakpoints is this session's.
        mine: bool,
    },
    /// Another session or the operator paused the domain. The session doesn't hold it.
    OtherStopped,
    /// The domain runs again after [`TargetEvent::OtherStopped`], or after it was found paused at the session's
    /// start.
    OtherResumed,
    /// The domain died; its state can be looked at.
    Crashed(CrashReason),
    /// The guest was reset. Breakpoints and holds stay.
    Reset(ResetCause),
    /// The guest says that it crashed, and runs on.
    GuestCrash(GuestCrash),
    /// The domain ended.
    ShutDown,
    /// The guest wrote this to its debug-exit device.
    DebugExit(u32),
    /// Console output.
    Console {
        /// The serial port, 0 is COM1.
        port: usize,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A vCPU came up.
    VcpuUp(VcpuId),
    /// Nothing happened to the domain, and no target says so: a sink's owner wakes itself with it from another thread.
    Woken,
}
