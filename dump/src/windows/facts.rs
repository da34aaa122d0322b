//! What a dump's header tells of the guest, and what its pages must say so that readers find it: learned from a
//! guest that stands still, and patched into the file's copy of its memory.

use super::kdbg::{Address, DebuggerBlock, PrcbOffset};
use super::write::Options;
use crate::source::Source;
use crate::{Error, Result};
use hv_core::regs::Registers;
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::windows::{Arch, Bugcheck, DebuggerData, Field, Global, Guest, SharedData, Windows, state};
use introspect::{AddressSpace, PageTables, PagingMode};

/// LIVE_SYSTEM_DUMP: what stands in place of a bugcheck that didn't happen.
const LIVE_SYSTEM_DUMP: u32 = 0x161;
/// The process that maps the kernel and nothing else.
const SYSTEM_PID: u64 = 4;

/// All of it.
pub(super) struct Facts {
    pub arch: Arch,
    pub mode: PagingMode,
    /// System's page tables.
    pub root: GuestPhysAddr,
    pub major: u16,
    pub build: u32,
    pub secondary_version: u8,
    /// The block, or where it is missing its empty likeness.
    pub debugger_data: Option<DebuggerData>,
    pub module_list: GuestVirtAddr,
    pub process_list: GuestVirtAddr,
    pub processors: u32,
    pub bugcheck: Bugcheck,
    /// It is a bugcheck, and not a system that lived.
    pub crashed: bool,
    /// Of the processor that reports.
    pub registers: Registers,
    pub shared: Option<SharedData>,
    pub boot_id: u32,
    /// Other page tables: of processes and of what the vCPUs run now.
    pub roots: Vec<GuestPhysAddr>,
    pub warnings: Vec<String>,
}

impl Facts {
    /// Looks at the guest, and lets `source` differ where the file must.
    pub(super) fn gather(
        guest: Guest<'_>,
        windows: &Windows,
        options: &Options,
        source: &mut Source<'_>,
    ) -> Result<Facts> {
        let registers = |vcpu| {
            guest
                .vcpus
                .registers(vcpu)
                .map_err(|error| Error::WrongGuest(error.to_string()))
        };
        let AddressSpace::Root(mode, any_root) = windows
            .kernel_space(guest, VcpuId(0))
            .map_err(|error| Error::WrongGuest(error.to_string()))?
        else {
            return Err(Error::WrongGuest(
                "the guest doesn't translate addresses".to_owned(),
            ));
        };
        let mut warnings = Vec::new();
        let processes = windows.processes(guest).map_or_else(
            |error| {
                warnings.push(format!("processes: {error}"));
                Vec::new()
            },
            |walk| walk.items,
        );
        let system = processes.iter().find(|process| process.pid == SYSTEM_PID);
        let maps_kernel = |root: &GuestPhysAddr| {
            PageTables::new(guest.memory, mode, *root)
                .translate(windows.kernel().base)
                .is_ok()
        };
        let root = system
            .map(|system| system.root)
            .filter(maps_kernel)
            .unwrap_or(any_root);
        let vcpus: Vec<(VcpuId, Registers)> = (0..guest.vcpus.vcpu_count())
            .map(|index| Ok((VcpuId(index), registers(VcpuId(index))?)))
            .collect::<Result<_>>()?;
        let mut roots: Vec<GuestPhysAddr> = vec![root, any_root];
        roots.extend(processes.iter().map(|process| process.root));
        roots.extend(processes.iter().filter_map(|process| process.user_root));
        roots.extend(vcpus.iter().map(|(_, registers)| mode.root(registers.cr3)));
        roots.sort();
        roots.dedup();
        // A process without tables.
        roots.retain(|root| root.0 != 0);

        let mut look = Look {
            windows,
            guest,
            tables: PageTables::new(guest.memory, mode, root),
            source,
            warnings,
        };
        let debugger_data = look.debugger_data();
        let shared = windows.shared_data(guest);
        let boot_id = shared
            .as_ref()
            .ok()
            .and_then(|shared| look.u32(shared.address.wrapping_add(0x2c4)));
        let version = windows.version_block(guest);
        let (reason, reporter) = look.reason(options, &vcpus);
        let processors = look.processors(debugger_data.as_ref(), &vcpus);
        for error in [shared.as_ref().err(), version.as_ref().err()]
            .into_iter()
            .flatten()
        {
            look.warnings.push(error.to_string());
        }
        let known = |global| windows.global(global).unwrap_or_default();
        let list = |field, global| {
            let block = debugger_data.as_ref();
            let block = block.and_then(|data| DebuggerBlock::new(windows.arch(), &data.bytes));
            block
                .and_then(|block| block.address(field))
                .unwrap_or_else(|| known(global))
        };
        let index = reporter.index().min(vcpus.len().saturating_sub(1));
        Ok(Facts {
            arch: windows.arch(),
            mode,
            root,
            major: version.as_ref().map_or(0xf, |version| version.major),
            build: windows
                .build()
                .or_else(|| version.as_ref().ok().map(|version| u32::from(version.minor)))
                .unwrap_or_default(),
            secondary_version: version.as_ref().map_or(0, |version| version.bytes[5]),
            module_list: list(Address::ModuleList, Global::PsLoadedModuleList),
            process_list: list(Address::ProcessList, Global::PsActiveProcessHead),
            debugger_data,
            processors,
            bugcheck: reason.unwrap_or(Bugcheck {
                code: LIVE_SYSTEM_DUMP,
                parameters: [0; 4],
            }),
            crashed: reason.is_some(),
            registers: match vcpus.into_iter().nth(index) {
                Some((_, registers)) => registers,
                None => return Err(Error::WrongGuest("the domain has no vCPU".to_owned())),
            },
            shared: shared.ok(),
            boot_id: boot_id.unwrap_or_default(),
            roots,
            warnings: look.warnings,
        })
    }

    /// The address of MmPfnDatabase.
    pub(super) fn pfn_database(&self) -> GuestVirtAddr {
        let data = self.debugger_data.as_ref();
        let block = data.and_then(|data| DebuggerBlock::new(self.arch, &data.bytes));
        block
            .and_then(|block| block.address(Address::PfnDatabase))
            .unwrap_or_default()
    }
}

/// A look at the guest through System's page tables, that leaves patches.
struct Look<'a, 's, 'm> {
    windows: &'a Windows,
    guest: Guest<'a>,
    tables: PageTables<'a>,
    source: &'s mut Source<'m>,
    warnings: Vec<String>,
}

impl Look<'_, '_, '_> {
    fn arch(&self) -> Arch {
        self.windows.arch()
    }

    fn u32(&mut self, address: GuestVirtAddr) -> Option<u32> {
        let mut bytes = [0; 4];
        self.tables.read(address, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn pointer(&mut self, address: GuestVirtAddr) -> Option<GuestVirtAddr> {
        let mut bytes = [0; 8];
        let size = self.arch().pointer_size();
        self.tables.read(address, &mut bytes[..size]).ok()?;
        Some(GuestVirtAddr(u64::from_le_bytes(bytes)))
    }

    /// Lets virtual memory differ in the file, if all of it is there.
    fn patch(&mut self, what: &str, address: GuestVirtAddr, bytes: &[u8]) {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            match self.tables.translate(address.wrapping_add(done as u64)) {
                Ok((phys, left)) => {
                    let size = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len() - done);
                    pieces.push((phys, done..done + size));
                    done += size;
                }
                Err(fault) => {
                    self.warnings.push(format!("{what} at {address}: {fault}"));
                    return;
                }
            }
        }
        for (phys, range) in pieces {
            if let Err(error) = self.source.patch(phys, &bytes[range]) {
                self.warnings.push(format!("{what} at {address}: {error}"));
            }
        }
    }

    /// The block, decoded in the file.
    fn debugger_data(&mut self) -> Option<DebuggerData> {
        let data = match self.windows.debugger_data(self.guest) {
            Ok(data) => data,
            Err(error) => {
                self.warnings
                    .push(format!("{error}: debuggers will see no modules and no processes"));
                return None;
            }
        };
        if !data.is_plain() {
            self.patch("KDDEBUGGER_DATA64", data.address, &data.bytes);
        }
        if let Some(head) = data.list_head.filter(|_| !data.list_head_readable) {
            let size = self.arch().pointer_size();
            let link = &data.address.0.to_le_bytes()[..size];
            self.patch("KdpDebuggerDataListHead", head, &[link, link].concat());
        }
        Some(data)
    }

    /// The bugcheck that the dump is of, and the vCPU that reports it.
    fn reason(&mut self, options: &Options, vcpus: &[(VcpuId, Registers)]) -> (Option<Bugcheck>, VcpuId) {
        let entry = self.windows.global(Global::KeBugCheckEx).ok();
        let at_entry = vcpus.iter().find(|(_, registers)| {
            entry.is_some_and(|entry| self.arch().address(registers.rip) == entry && registers.cpl() == 0)
        });
        let arch = self.arch();
        let noticed = at_entry.and_then(|(vcpu, registers)| {
            let read = |address, buffer: &mut [u8]| self.tables.read(address, buffer).is_ok();
            Some((*vcpu, Bugcheck::at_entry(arch, registers, read)?))
        });
        let recorded = match self.windows.bugcheck(self.guest) {
            Ok(recorded) => recorded,
            Err(error) => {
                self.warnings.push(error.to_string());
                None
            }
        };
        let reason = options
            .bugcheck
            .or(recorded)
            .or(noticed.map(|(_, bugcheck)| bugcheck));
        // The kernel is about to write it down; readers look there.
        if let Some(reason) = reason.filter(|reason| recorded != Some(*reason))
            && let Ok(data) = self.windows.global(Global::KiBugCheckData)
        {
            self.patch("KiBugCheckData", data, &reason.data(arch));
        }
        let reporter = options.vcpu.or(noticed.map(|(vcpu, _)| vcpu));
        (reason, reporter.unwrap_or_default())
    }

    /// Writes each vCPU's registers where debuggers look for them; how many processors they will look at.
    fn processors(&mut self, data: Option<&DebuggerData>, vcpus: &[(VcpuId, Registers)]) -> u32 {
        let block = data.and_then(|data| DebuggerBlock::new(self.windows.arch(), &data.bytes));
        let places = PrcbPlaces::new(self.windows, block.as_ref());
        let list = block
            .and_then(|block| block.address(Address::ProcessorBlock))
            .or_else(|| self.windows.global(Global::KiProcessorBlock).ok());
        let size = self.arch().pointer_size() as u64;
        let mut listed = Vec::new();
        while listed.len() < vcpus.len()
            && let Some(list) = list
            && let Some(prcb) = self.pointer(list.wrapping_add(listed.len() as u64 * size))
            && prcb.0 != 0
        {
            listed.push(prcb);
        }
        let mut written = vec![false; listed.len()];
        let mut alive = 0;
        for (vcpu, registers) in vcpus {
            let Ok(processor) = self.windows.processor(self.guest, *vcpu) else {
                continue;
            };
            alive += 1;
            match listed.iter().position(|&prcb| prcb == processor.kprcb) {
                Some(index) => written[index] = true,
                None => self.warnings.push(format!(
                    "vCPU {vcpu}: KiProcessorBlock doesn't list its KPRCB at {}",
                    processor.kprcb
                )),
            }
            self.prcb(&places, *vcpu, processor.kprcb, registers);
        }
        for (index, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
            self.warnings.push(format!(
                "processor {index}: no vCPU is known to be it; its registers in the dump are old"
            ));
        }
        match listed.len() {
            0 => alive.max(1),
            count => count as u32,
        }
    }

    /// Writes a vCPU's registers to its KPRCB.
    fn prcb(&mut self, places: &PrcbPlaces, vcpu: VcpuId, prcb: GuestVirtAddr, registers: &Registers) {
        let context = state::context(self.arch(), registers);
        let pointer = places
            .context
            .and_then(|offset| self.pointer(prcb.wrapping_add(offset)));
        match pointer {
            Some(at) if at.0 != 0 => self.patch("KPRCB.Context", at, &context),
            _ => self
                .warnings
                .push(format!("vCPU {vcpu}: KPRCB.Context isn't known")),
        }
        if let Some(offset) = places.context_frame {
            self.patch(
                "KPRCB.ProcessorState.ContextFrame",
                prcb.wrapping_add(offset),
                &context,
            );
        }
        if let Some(offset) = places.special_registers {
            let special = state::special(self.arch(), registers);
            // Older versions have fewer, and what follows is not theirs.
            let room = places
                .context_frame
                .and_then(|frame| frame.checked_sub(offset))
                .map_or(special.len(), |room| room as usize);
            let special = &special[..special.len().min(room)];
            self.patch(
                "KPRCB.ProcessorState.SpecialRegisters",
                prcb.wrapping_add(offset),
                special,
            );
        }
    }
}

/// Where a KPRCB keeps registers.
struct PrcbPlaces {
    /// A pointer to a CONTEXT.
    context: Option<u64>,
    context_frame: Option<u64>,
    special_registers: Option<u64>,
}

impl PrcbPlaces {
    /// As the debugger data block says, since that is what readers go by.
    fn new(windows: &Windows, block: Option<&DebuggerBlock<'_>>) -> PrcbPlaces {
        let layout = |field| windows.layout().get(field).ok().map(u64::from);
        let in_state = |field| Some(layout(Field::KprcbProcessorState)? + layout(field)?);
        let told = |offset| block.and_then(|block| block.offset(offset));
        PrcbPlaces {
            context: told(PrcbOffset::Context).or_else(|| layout(Field::KprcbContext)),
            context_frame: told(PrcbOffset::ContextFrame).or_else(|| in_state(Field::StateContextFrame)),
            special_registers: told(PrcbOffset::SpecialRegisters)
                .or_else(|| in_state(Field::StateSpecialRegisters)),
        }
    }
}
