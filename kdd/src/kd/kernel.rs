//! What a session needs to know of the guest's kernel, behind a trait: Windows as it is recognised from outside, or
//! a made-up one in tests.

use hv_core::{GuestVirtAddr, VcpuId};
use introspect::windows::{Arch, DebuggerData, Guest as Look, Module, Processor, VersionBlock, Windows};
use introspect::{AddressSpace, Target};
use std::sync::Arc;
use symbols::SymbolPath;

/// A kernel that was recognised. All calls are made while the guest stands still.
pub trait Kernel: Send {
    /// Its machine.
    fn arch(&self) -> Arch;
    /// A line for people.
    fn description(&self) -> String;
    /// Where its image is, and how long that is.
    fn image(&self) -> (GuestVirtAddr, u32);
    /// Whether it is still the kernel that runs.
    fn is_still_there(&self, target: &Target) -> bool;
    /// The page tables that map all of it, in the process that the vCPU is in.
    fn space(&self, target: &Target, vcpu: VcpuId) -> Option<AddressSpace>;
    /// The vCPU's KPCR, KPRCB and thread.
    fn processor(&self, target: &Target, vcpu: VcpuId) -> Option<Processor>;
    /// Its KdVersionBlock.
    fn version_block(&self, target: &Target) -> Option<VersionBlock>;
    /// Its build number.
    fn build(&self) -> Option<u32>;
    /// The head of its list of modules.
    fn loaded_module_list(&self) -> Option<GuestVirtAddr>;
    /// Its debugger data block, decoded.
    fn debugger_data(&self, target: &Target) -> Option<DebuggerData>;
    /// Its modules, itself first; `None` if the list can't be read to its end.
    fn modules(&self, target: &Target) -> Option<Vec<Module>>;
    /// The address of one of its names.
    fn symbol(&self, name: &str) -> Option<GuestVirtAddr>;
}

/// Looks for a kernel; the error is a sentence for people. The guest may run meanwhile: what is found is looked at
/// again once it stands still.
pub type Recogniser = Arc<dyn Fn(&Target) -> Result<Box<dyn Kernel>, String> + Send + Sync>;

/// A recogniser of Windows, with symbols from a path.
pub fn windows(symbols: SymbolPath) -> Recogniser {
    Arc::new(move |target| {
        let windows = Windows::recognise(Look::from(target), &symbols).map_err(|why| why.to_string())?;
        Ok(Box::new(windows))
    })
}

impl Kernel for Windows {
    fn arch(&self) -> Arch {
        Windows::arch(self)
    }
    fn description(&self) -> String {
        Windows::description(self)
    }
    fn image(&self) -> (GuestVirtAddr, u32) {
        let image = self.kernel();
        (image.base, image.size)
    }
    fn is_still_there(&self, target: &Target) -> bool {
        Windows::is_still_there(self, target.into())
    }
    fn space(&self, target: &Target, vcpu: VcpuId) -> Option<AddressSpace> {
        said(self.kernel_space(target.into(), vcpu))
    }
    fn processor(&self, target: &Target, vcpu: VcpuId) -> Option<Processor> {
        said(Windows::processor(self, target.into(), vcpu))
    }
    fn version_block(&self, target: &Target) -> Option<VersionBlock> {
        said(Windows::version_block(self, target.into()))
    }
    fn build(&self) -> Option<u32> {
        Windows::build(self)
    }
    fn loaded_module_list(&self) -> Option<GuestVirtAddr> {
        Windows::loaded_module_list(self).ok()
    }
    fn debugger_data(&self, target: &Target) -> Option<DebuggerData> {
        said(Windows::debugger_data(self, target.into()))
    }
    fn modules(&self, target: &Target) -> Option<Vec<Module>> {
        let walk = said(Windows::modules(self, target.into()))?;
        match walk.broken {
            None => Some(walk.items),
            Some(broken) => {
                tracing::debug!(%broken, "the list of modules");
                None
            }
        }
    }
    fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        Windows::symbol(self, name)
    }
}

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| tracing::debug!(%error, "not known of this guest"))
        .ok()
}
