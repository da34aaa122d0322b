//! `Z` without a condition, and `z`.

use super::REFUSED;
use crate::breakpoints::{Key, Kind};
use crate::guest::Guest;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
    WatchKind,
};
use gdbstub::target::{TargetError, TargetResult};

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl Guest {
    fn insert(&mut self, kind: Kind, address: u64, length: u64) -> TargetResult<bool, Self> {
        let key = Key {
            kind,
            address,
            length,
        };
        let place = self.place_of_new();
        self.breakpoints
            .insert(&self.session, key, place, None)
            .map_err(|why| {
                tracing::info!(%why, ?key, "a breakpoint isn't set");
                TargetError::Errno(REFUSED)
            })?;
        Ok(true)
    }

    /// Removing what isn't there is fine: a client may repeat itself.
    fn remove(&mut self, kind: Kind, address: u64, length: u64) -> TargetResult<bool, Self> {
        let key = Key {
            kind,
            address,
            length,
        };
        self.breakpoints.remove(&self.session, key);
        Ok(true)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.insert(Kind::Software, address, kind as u64)
    }
    fn remove_sw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove(Kind::Software, address, kind as u64)
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.insert(Kind::Hardware, address, kind as u64)
    }
    fn remove_hw_breakpoint(&mut self, address: u64, kind: usize) -> TargetResult<bool, Self> {
        self.remove(Kind::Hardware, address, kind as u64)
    }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        self.insert(watched(kind), address, length)
    }
    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        self.remove(watched(kind), address, length)
    }
}

fn watched(kind: WatchKind) -> Kind {
    match kind {
        WatchKind::Write => Kind::Write,
        WatchKind::Read => Kind::Read,
        WatchKind::ReadWrite => Kind::Access,
    }
}
