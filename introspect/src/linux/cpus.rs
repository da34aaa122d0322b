//! The kernel's CPUs: per-CPU variables, and the task that each runs.

use super::error::Error;
use super::space::Space;
use super::{Guest, Linux};
use hv_core::introspect::ReadMemory;
use hv_core::regs::seg;
use hv_core::{GuestVirtAddr, VcpuId};

/// The most CPUs that are believed (NR_CPUS is 8192 at most).
const MAX_CPUS: u32 = 8192;

/// A CPU as the kernel numbers them. A hypervisor's vCPUs may be numbered otherwise; see [`Linux::cpu_of`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its number.
    pub number: u32,
    /// It is up.
    pub online: bool,
    /// What is added to a per-CPU variable's address (`__per_cpu_offset`), and its GS base in the kernel.
    pub base: GuestVirtAddr,
    /// The task whose stack it is on.
    pub current: Option<GuestVirtAddr>,
}

impl Linux {
    /// The possible CPUs.
    ///
    /// # Errors
    /// [`Error`] if the kernel's variables aren't known or can't be read.
    pub fn cpus(&self, memory: &dyn ReadMemory) -> Result<Vec<Cpu>, Error> {
        let space = self.space(memory);
        let count = self.cpu_count(&space)?;
        let mut online = vec![0; count.div_ceil(8) as usize];
        space.bytes(
            "__cpu_online_mask",
            self.needed("__cpu_online_mask")?,
            &mut online,
        )?;
        (0..count)
            .map(|number| {
                let base = self.per_cpu_base(&space, number)?;
                let online = online[number as usize / 8] >> (number % 8) & 1 != 0;
                Ok(Cpu {
                    number,
                    online,
                    base,
                    current: if online { self.current(&space, base) } else { None },
                })
            })
            .collect()
    }

    /// The kernel's number of the CPU that a vCPU is: by its GS base, whichever half of the kernel's entry it is in.
    ///
    /// # Errors
    /// [`Error`] as [`Linux::cpus`].
    pub fn cpu_of(&self, guest: Guest<'_>, vcpu: VcpuId) -> Result<Option<u32>, Error> {
        let Ok(registers) = guest.vcpus.registers(vcpu) else {
            return Ok(None);
        };
        let bases = [registers.segments[seg::GS].base, registers.msrs.kernel_gs_base];
        let cpus = self.cpus(guest.memory)?;
        let found = cpus
            .iter()
            .find(|cpu| bases.contains(&cpu.base.0) && cpu.base.0 != 0);
        Ok(found.map(|cpu| cpu.number))
    }

    /// `nr_cpu_ids`; a kernel for one CPU has no such variable.
    fn cpu_count(&self, space: &Space<'_>) -> Result<u32, Error> {
        match self.symbol("nr_cpu_ids") {
            Some(variable) => Ok(space.u32("nr_cpu_ids", variable)?.clamp(1, MAX_CPUS)),
            None => Ok(1),
        }
    }

    fn per_cpu_base(&self, space: &Space<'_>, number: u32) -> Result<GuestVirtAddr, Error> {
        let table = self.needed("__per_cpu_offset")?;
        let entry = table.wrapping_add(u64::from(number) * 8);
        space.u64("__per_cpu_offset", entry).map(GuestVirtAddr)
    }

    /// `current_task`; in `pcpu_hot` from 6.2 to 6.14.
    fn current(&self, space: &Space<'_>, base: GuestVirtAddr) -> Option<GuestVirtAddr> {
        let in_hot = || {
            let hot = self.symbol("pcpu_hot")?;
            Some(hot.wrapping_add(self.offset("pcpu_hot", "current_task").unwrap_or(0)))
        };
        let variable = in_hot().or_else(|| self.symbol("current_task"))?;
        space.pointer("current_task", base.wrapping_add(variable.0)).ok()
    }

    /// The tasks that CPUs run when there is nothing to do; those of all CPUs but the first are on no list.
    pub(super) fn idle_tasks(&self, space: &Space<'_>) -> Vec<GuestVirtAddr> {
        let Some(variable) = self.symbol("idle_threads") else {
            return Vec::new();
        };
        let count = self.cpu_count(space).unwrap_or(1);
        let of_cpu = |number| {
            let base = self.per_cpu_base(space, number).ok()?;
            space.pointer("idle_threads", base.wrapping_add(variable.0)).ok()
        };
        (0..count).filter_map(of_cpu).collect()
    }
}

/// What each CPU runs, by nothing but symbols: `pcpu_hot` begins with it.
pub(super) fn current_tasks(
    space: &Space<'_>,
    symbol: &dyn Fn(&str) -> Option<GuestVirtAddr>,
) -> Vec<GuestVirtAddr> {
    let variable = symbol("pcpu_hot").or_else(|| symbol("current_task"));
    let (Some(variable), Some(table)) = (variable, symbol("__per_cpu_offset")) else {
        return Vec::new();
    };
    let count = symbol("nr_cpu_ids").and_then(|at| space.u32("nr_cpu_ids", at).ok());
    let of_cpu = |number: u32| {
        let base = space.u64("__per_cpu_offset", table.wrapping_add(u64::from(number) * 8));
        let base = GuestVirtAddr(base.ok()?);
        space.pointer("current_task", base.wrapping_add(variable.0)).ok()
    };
    let count = count.unwrap_or(1).clamp(1, MAX_CPUS);
    (0..count).filter_map(of_cpu).collect()
}
