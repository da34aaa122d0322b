//! The kernel of a guest, whichever it is.

use hv_core::GuestVirtAddr;
use hv_core::introspect::Introspect;
use introspect::linux::Linux;
use introspect::windows::Windows;
use std::sync::Arc;

/// A kernel that was recognised.
#[derive(Clone)]
pub(super) enum Kernel {
    Windows(Arc<Windows>),
    Linux(Arc<Linux>),
}

impl Kernel {
    /// A line for people.
    pub fn name(&self) -> String {
        match self {
            Kernel::Windows(windows) => windows.description(),
            Kernel::Linux(linux) => linux.description(),
        }
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        match self {
            Kernel::Windows(windows) => windows.symbol(name),
            Kernel::Linux(linux) => linux.symbol(name),
        }
    }

    /// Whether it is still the one that runs.
    pub fn is_still_there(&self, domain: &dyn Introspect) -> bool {
        match self {
            Kernel::Windows(windows) => windows.is_still_there(domain.into()),
            Kernel::Linux(linux) => linux.is_still_there(domain),
        }
    }
}
