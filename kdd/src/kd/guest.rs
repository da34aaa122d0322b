//! The guest as a session has it: its target, its kernel, and what is worked out once for each stop.

use super::kernel::{Kernel, Recogniser};
use hv_core::introspect::{Introspect, Result as DomainResult};
use hv_core::regs::{Activity, Registers, efer};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::windows::{Arch, DebuggerData, Processor};
use introspect::{AddressSpace, PagingMode, Session, Target};
use std::sync::Arc;

/// The guest of one session.
pub(super) struct Guest {
    pub target: Arc<Target>,
    pub session: Session,
    recogniser: Recogniser,
    pub kernel: Option<Box<dyn Kernel>>,
    /// The vCPU that reported, or that the host switched to: whose memory is read.
    pub current: VcpuId,
    /// Worked out at the first need in each stop.
    spaces: Option<Spaces>,
    processors: Option<u32>,
    /// The kernel's debugger data, and whether it is of this stop.
    data: Option<DebuggerData>,
    data_is_fresh: bool,
    /// What the host reads at an address in this stop, instead of what is there.
    pub shown: Option<(GuestVirtAddr, Vec<u8>)>,
}

/// Whose page tables hold which half of the addresses.
#[derive(Clone, Copy)]
struct Spaces {
    user: AddressSpace,
    kernel: AddressSpace,
}

impl Guest {
    pub fn new(target: Arc<Target>, session: Session, recogniser: Recogniser) -> Guest {
        Guest {
            target,
            session,
            recogniser,
            kernel: None,
            current: VcpuId(0),
            spaces: None,
            processors: None,
            data: None,
            data_is_fresh: false,
            shown: None,
        }
    }

    pub fn domain(&self) -> &dyn Introspect {
        &**self.target.domain()
    }

    pub fn registers(&self, vcpu: VcpuId) -> DomainResult<Registers> {
        self.domain().registers(vcpu)
    }

    /// The kernel's machine; while none is recognised, that of the vCPU's mode.
    pub fn arch(&self) -> Arch {
        match &self.kernel {
            Some(kernel) => kernel.arch(),
            None => match self.registers(self.current) {
                Ok(registers) if registers.efer & efer::LMA != 0 => Arch::X64,
                _ => Arch::X86,
            },
        }
    }

    /// How many processors the host is told of: those that are up.
    pub fn processors(&mut self) -> u32 {
        match self.processors {
            Some(count) => count,
            None => *self.processors.insert(self.count_processors()),
        }
    }

    fn count_processors(&self) -> u32 {
        let up = |n: &u32| {
            let registers = self.registers(VcpuId(*n));
            registers.is_ok_and(|registers| registers.activity != Activity::WaitForSipi)
        };
        (0..self.domain().vcpu_count())
            .rev()
            .find(up)
            .map_or(1, |last| last + 1)
    }

    /// The vCPU that a request names, if it is one the host knows of.
    pub fn vcpu(&mut self, processor: u16) -> Option<VcpuId> {
        let vcpu = u32::from(processor);
        (vcpu < self.processors()).then_some(VcpuId(vcpu))
    }

    /// Looks for a kernel. The sentence says why there is none.
    pub fn recognise(&mut self) -> Result<(), String> {
        if self.kernel.is_none() {
            self.kernel = Some((self.recogniser)(&self.target)?);
            self.data_is_fresh = false;
        }
        Ok(())
    }

    /// Whether the kernel that was recognised isn't there any more. The guest stands still.
    pub fn is_kernel_gone(&self) -> bool {
        let gone = |kernel: &dyn Kernel| !kernel.is_still_there(&self.target);
        self.kernel.as_deref().is_some_and(gone)
    }

    pub fn forget_kernel(&mut self) {
        self.kernel = None;
        self.data = None;
        self.data_is_fresh = false;
        self.spaces = None;
    }

    /// The guest stands still at a new place: what was worked out before counts no more. Why there is no kernel,
    /// if there is none.
    pub fn begin_stop(&mut self, vcpu: VcpuId) -> Result<(), String> {
        self.current = vcpu;
        self.processors = None;
        self.shown = None;
        self.memory_changed();
        self.recognise()
    }

    /// Registers that decide on translation may have changed.
    pub fn memory_changed(&mut self) {
        self.spaces = None;
        self.data_is_fresh = false;
    }

    /// Another vCPU's memory from now on.
    pub fn switch(&mut self, vcpu: VcpuId) {
        self.current = vcpu;
        self.spaces = None;
    }

    /// The page tables for an address.
    pub fn space(&mut self, address: GuestVirtAddr) -> AddressSpace {
        let spaces = match self.spaces {
            Some(spaces) => spaces,
            None => {
                let spaces = self.work_out_spaces();
                self.spaces = Some(spaces);
                spaces
            }
        };
        if is_user(self.arch_of(spaces), address) {
            spaces.user
        } else {
            spaces.kernel
        }
    }

    fn arch_of(&self, spaces: Spaces) -> Arch {
        match (&self.kernel, spaces.user) {
            (Some(kernel), _) => kernel.arch(),
            (None, AddressSpace::Root(PagingMode::Level4 | PagingMode::Level5, _)) => Arch::X64,
            (None, _) => Arch::X86,
        }
    }

    fn work_out_spaces(&self) -> Spaces {
        let Ok(registers) = self.registers(self.current) else {
            let physical = AddressSpace::Physical;
            return Spaces {
                user: physical,
                kernel: physical,
            };
        };
        let mode = PagingMode::of(&registers);
        let user = AddressSpace::Root(mode, GuestPhysAddr(registers.cr3));
        let kernel = self.kernel.as_ref();
        let kernel = kernel.and_then(|kernel| kernel.space(&self.target, self.current));
        Spaces {
            user,
            kernel: kernel.unwrap_or(user),
        }
    }

    /// A pointer of the kernel's size.
    pub fn read_word(&mut self, address: GuestVirtAddr) -> Option<u64> {
        let mut bytes = [0; 8];
        let size = self.arch().pointer_size();
        (self.read_virtual(address, &mut bytes[..size]) == size).then(|| u64::from_le_bytes(bytes))
    }

    /// What the kernel knows of a vCPU.
    pub fn processor(&self, vcpu: VcpuId) -> Option<Processor> {
        self.kernel.as_ref()?.processor(&self.target, vcpu)
    }

    /// The debugger data as it is in this stop, if bytes of it may be among these `length` from `address` on.
    pub fn debugger_data_at(&mut self, address: GuestVirtAddr, length: usize) -> Option<&DebuggerData> {
        let end = address.0.saturating_add(length as u64);
        let meets =
            |at: GuestVirtAddr, size: usize| at.0 < end && address.0 < at.0.saturating_add(size as u64);
        // Where it is doesn't change while the kernel is the same.
        if let Some(data) = &self.data
            && !meets(data.address, data.bytes.len())
            && !data.list_head.is_some_and(|head| meets(head, 16))
        {
            return None;
        }
        self.debugger_data()
    }

    /// The debugger data as it is in this stop.
    pub fn debugger_data(&mut self) -> Option<&DebuggerData> {
        if !self.data_is_fresh {
            self.data = self
                .kernel
                .as_ref()
                .and_then(|kernel| kernel.debugger_data(&self.target));
            self.data_is_fresh = true;
        }
        self.data.as_ref()
    }

    /// An address as it goes over the wire.
    pub fn wire(&self, address: GuestVirtAddr) -> u64 {
        self.arch().sign_extend(address)
    }
}

/// Whether an address is of the half that each process has for itself.
pub(super) fn is_user(arch: Arch, address: GuestVirtAddr) -> bool {
    match arch {
        Arch::X64 => address.0 < 1 << 63,
        Arch::X86 => address.0 < 1 << 31,
    }
}
