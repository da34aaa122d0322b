//! The Linux guest on a bare machine of this process, at its shell's prompt, and what a dump must be told of its kernel:
//! found with the help of no reader under test.

use crate::guest;
use dump::linux::{LinuxFacts, Utsname, Vmcoreinfo};
use hv_core::introspect::{Error, MemoryRegion, ReadMemory, Result};
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use std::sync::atomic::AtomicBool;

/// The kernel's image without KASLR, and with `phys_base` 0.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// The shell waits for a command.
const PROMPT: &[u8] = b"/root # ";
/// Enough for any boot; a guest that needs more hangs.
const MOST_TICKS: u64 = 60_000_000_000;

/// A machine that stands still.
pub struct LinuxMachine(Machine);

impl LinuxMachine {
    /// Boots the guest. `None`, and it is said, if set-up hasn't run.
    ///
    /// # Panics
    /// If it doesn't come to its prompt.
    #[track_caller]
    pub fn boot(memory_bytes: u64, vcpus: u32) -> Option<LinuxMachine> {
        let guest = guest(None)?;
        let read = |path| std::fs::read(path).unwrap_or_else(|error| panic!("{error}"));
        let mut machine = Machine::new(&MachineConfig {
            memory_bytes,
            vcpus,
            seed: 7,
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Linux {
                kernel: read(&guest.kernel).into(),
                initrd: Some(read(&guest.initrd).into()),
                command_line: "console=ttyS0 cryptomgr.notests".into(),
            },
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let (never, mut seen) = (AtomicBool::new(false), Vec::new());
        let slice = RunLimit {
            ticks: 2_000_000,
            step: None,
        };
        while !seen.windows(PROMPT.len()).any(|window| window == PROMPT) {
            match machine.run(&slice, &never) {
                RunExit::Limit => {}
                RunExit::Idle { until } if until != Ticks::NEVER => machine.advance_idle(until),
                other => panic!("the guest ended before its prompt: {other:?}"),
            }
            seen.extend(machine.take_console_output(0));
            assert!(
                machine.now().0 < MOST_TICKS,
                "no prompt: {}",
                String::from_utf8_lossy(&seen)
            );
        }
        Some(LinuxMachine(machine))
    }

    /// The registers of every processor.
    pub fn processors(&self) -> Vec<Registers> {
        let ids = (0..self.0.vcpu_count()).map(VcpuId);
        ids.map(|id| self.0.registers(id)).collect()
    }

    /// All RAM: where each range starts, and its bytes.
    pub fn ram(&self) -> Vec<(u64, Vec<u8>)> {
        let regions = self
            .0
            .memory_regions()
            .into_iter()
            .filter(|region| region.writable);
        regions
            .map(|region| (region.start.0, self.bytes(region.start.0, region.length as usize)))
            .collect()
    }

    /// Bytes of physical memory.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn bytes(&self, physical: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let done = self.0.read_physical(GuestPhysAddr(physical), &mut bytes);
        assert_eq!(done, length, "memory at {physical:#x}");
        bytes
    }

    /// What the kernel says of itself.
    ///
    /// # Panics
    /// If it says nothing.
    #[track_caller]
    pub fn facts(&self) -> LinuxFacts {
        let vmcoreinfo = self.vmcoreinfo().expect("VMCOREINFO is in memory");
        let info = Vmcoreinfo::new(&vmcoreinfo);
        let phys_base = info.number("phys_base").expect("VMCOREINFO has phys_base");
        let symbol = info.symbol("init_uts_ns").expect("VMCOREINFO has init_uts_ns");
        let name = info
            .get("OFFSET(uts_namespace.name)")
            .and_then(|text| text.parse::<u64>().ok());
        let names =
            (symbol - KERNEL_MAP).wrapping_add_signed(phys_base) + name.expect("and where the name is in it");
        let mut utsname: Utsname = [[0; 65]; 6];
        for (field, bytes) in utsname.iter_mut().zip(self.bytes(names, 6 * 65).chunks(65)) {
            field.copy_from_slice(bytes);
        }
        let root = info.root().expect("VMCOREINFO has the page tables' root");
        LinuxFacts {
            page_offset_base: self.direct_map(root),
            phys_base: Some(phys_base),
            utsname: Some(utsname),
            vmcoreinfo: Some(vmcoreinfo),
            ..LinuxFacts::default()
        }
    }

    /// The note: the head of one named VMCOREINFO, then its text.
    fn vmcoreinfo(&self) -> Option<Vec<u8>> {
        const NAME: &[u8] = b"\0\0\0\0VMCOREINFO\0\0OSRELEASE=";
        for (_, bytes) in self.ram() {
            for (at, _) in bytes
                .windows(NAME.len())
                .enumerate()
                .filter(|(_, window)| *window == NAME)
            {
                let head = at.checked_sub(8)?;
                let length = u32::from_le_bytes(bytes[head + 4..head + 8].try_into().ok()?) as usize;
                let text = head + 24;
                if bytes[head..head + 4] == 11_u32.to_le_bytes() && length <= 4096 {
                    return bytes.get(text..text + length).map(<[u8]>::to_vec);
                }
            }
        }
        None
    }

    /// The first gigabyte that the kernel's half maps, behind the room for LDTs.
    fn direct_map(&self, root: u64) -> Option<GuestVirtAddr> {
        let first = |table: u64, from: usize| {
            let entries = self.bytes(table, 4096);
            let (entries, _) = entries.as_chunks::<8>();
            let entries = entries.iter().map(|entry| u64::from_le_bytes(*entry)).enumerate();
            entries.skip(from).find(|(_, entry)| entry & 1 != 0)
        };
        let (top, entry) = first(root, 273)?;
        let (next, _) = first(entry & 0x000f_ffff_ffff_f000, 0)?;
        Some(GuestVirtAddr(
            0xffff << 48 | (top as u64) << 39 | (next as u64) << 30,
        ))
    }
}

impl ReadMemory for LinuxMachine {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let done = self.0.read_physical(address, buffer);
        if done == buffer.len() {
            return Ok(());
        }
        Err(Error::NoMemory {
            domain: DomId(0),
            address: GuestPhysAddr(address.0 + done as u64),
            done,
            wanted: buffer.len(),
        })
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.0.memory_regions()
    }
}
