//! What a session needs to know of the guest's kernel, behind a trait: Windows as it is recognised from outside, or
//! a made-up one in tests.

use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::windows::{Arch, DebuggerData, Guest as Look, Module, Processor, VersionBlock, Windows};
use introspect::{AddressSpace, Target};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use symbols::{PdbId, SymbolPath};

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
    /// The page-table roots of the process that the vCPU is in, where those of its programs aren't the kernel's.
    fn roots(&self, target: &Target, vcpu: VcpuId) -> Vec<GuestPhysAddr> {
        let _ = (target, vcpu);
        Vec::new()
    }
}

/// Looks for a kernel; the error is a sentence for people. The guest may run meanwhile: what is found is looked at
/// again once it stands still.
pub type Recogniser = Arc<dyn Fn(&Target) -> Result<Box<dyn Kernel>, String> + Send + Sync>;

/// A recogniser of Windows, with symbols from a path. Symbols that are on a server are fetched behind its back: once they
/// are there, the kernel that was recognised without them counts as gone, and is recognised anew.
pub fn windows(symbols: SymbolPath) -> Recogniser {
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    Arc::new(move |target| {
        let local = symbols.local();
        let windows = Windows::recognise(Look::from(target), &local).map_err(|why| why.to_string())?;
        let arrived = Arc::new(AtomicBool::new(false));
        if let (None, Some(id), true) = (windows.pdb(), &windows.kernel().pdb, symbols.has_servers()) {
            let first = asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id.to_string());
            if first {
                fetch(symbols.clone(), id.clone(), arrived.clone());
            }
        }
        Ok(Box::new(Recognised { windows, arrived }))
    })
}

/// Asks the servers, on a thread of its own: they may take long.
fn fetch(symbols: SymbolPath, id: PdbId, arrived: Arc<AtomicBool>) {
    let ask = move || match symbols.locate(&id) {
        Ok(found) => {
            tracing::info!(path = %found.path.display(), "symbols of the guest's kernel");
            arrived.store(true, Ordering::Relaxed);
        }
        Err(error) => tracing::info!(%error, "no symbols of the guest's kernel"),
    };
    if let Err(error) = std::thread::Builder::new().name("symbols".into()).spawn(ask) {
        tracing::warn!(%error, "symbols can't be fetched");
    }
}

struct Recognised {
    windows: Windows,
    /// There are symbols now that it was recognised without.
    arrived: Arc<AtomicBool>,
}

impl Kernel for Recognised {
    fn arch(&self) -> Arch {
        self.windows.arch()
    }
    fn description(&self) -> String {
        self.windows.description()
    }
    fn image(&self) -> (GuestVirtAddr, u32) {
        let image = self.windows.kernel();
        (image.base, image.size)
    }
    fn is_still_there(&self, target: &Target) -> bool {
        !self.arrived.load(Ordering::Relaxed) && self.windows.is_still_there(target.into())
    }
    fn space(&self, target: &Target, vcpu: VcpuId) -> Option<AddressSpace> {
        said(self.windows.kernel_space(target.into(), vcpu))
    }
    fn processor(&self, target: &Target, vcpu: VcpuId) -> Option<Processor> {
        said(self.windows.processor(target.into(), vcpu))
    }
    fn version_block(&self, target: &Target) -> Option<VersionBlock> {
        said(self.windows.version_block(target.into()))
    }
    fn build(&self) -> Option<u32> {
        self.windows.build()
    }
    fn loaded_module_list(&self) -> Option<GuestVirtAddr> {
        self.windows.loaded_module_list().ok()
    }
    fn debugger_data(&self, target: &Target) -> Option<DebuggerData> {
        said(self.windows.debugger_data(target.into()))
    }
    fn modules(&self, target: &Target) -> Option<Vec<Module>> {
        let walk = said(self.windows.modules(target.into()))?;
        match walk.broken {
            None => Some(walk.items),
            Some(broken) => {
                tracing::debug!(%broken, "the list of modules");
                None
            }
        }
    }
    fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        self.windows.symbol(name)
    }
    fn roots(&self, target: &Target, vcpu: VcpuId) -> Vec<GuestPhysAddr> {
        let thread = self.processor(target, vcpu).and_then(|it| it.current_thread);
        let process = thread
            .and_then(|thread| said(self.windows.thread(target.into(), thread)))
            .and_then(|thread| thread.process)
            .and_then(|process| said(self.windows.process(target.into(), process)));
        let roots = process.map(|process| [Some(process.root), process.user_root]);
        roots.into_iter().flatten().flatten().collect()
    }
}

fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| tracing::debug!(%error, "not known of this guest"))
        .ok()
}
