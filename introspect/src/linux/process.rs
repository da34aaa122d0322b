//! A process's memory: what is mapped where, its program, its auxiliary vector, its page tables.

use super::error::Error;
use super::file::File;
use super::maple::MapleTree;
use super::space::Space;
use super::{Broken, Linux, Walk};
use hv_core::introspect::ReadMemory;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use std::collections::HashSet;

/// The most mappings that are read: twice the usual `vm.max_map_count`.
const MAX_MAPPINGS: usize = 1 << 17;
/// The most words of an auxiliary vector.
const MAX_AUXILIARY: usize = 128;
/// The most bytes of arguments.
const MAX_ARGUMENTS: u64 = 0x1000;

/// A mapping of a process: a line of /proc/PID/maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Its first address.
    pub start: GuestVirtAddr,
    /// The address behind its last one.
    pub end: GuestVirtAddr,
    /// VM_READ, VM_WRITE, VM_EXEC, VM_SHARED … (include/linux/mm.h).
    pub flags: u64,
    /// Where it begins in its file, in bytes.
    pub offset: u64,
    /// The `struct file` that is mapped.
    pub file: Option<GuestVirtAddr>,
}

impl Mapping {
    /// `r-xp`.
    pub fn rights(&self) -> String {
        let letter = |bit: u64, yes, no| if self.flags & bit != 0 { yes } else { no };
        [
            letter(1, 'r', '-'),
            letter(2, 'w', '-'),
            letter(4, 'x', '-'),
            letter(8, 's', 'p'),
        ]
        .iter()
        .collect()
    }
}

/// Where everything is in `struct vm_area_struct`.
struct Layout {
    start: u64,
    end: u64,
    flags: u64,
    offset: u64,
    file: u64,
}

impl Layout {
    fn of(linux: &Linux) -> Result<Layout, Error> {
        let member = |name| linux.offset("vm_area_struct", name);
        Ok(Layout {
            start: member("vm_start")?,
            end: member("vm_end")?,
            flags: member("vm_flags")?,
            offset: member("vm_pgoff")?,
            file: member("vm_file")?,
        })
    }

    fn read(&self, space: &Space<'_>, area: GuestVirtAddr) -> Result<Mapping, Error> {
        let word = |offset| space.u64("vm_area_struct", area.wrapping_add(offset));
        let file = Some(GuestVirtAddr(word(self.file)?)).filter(|&file| space.is_kernel(file));
        // Without a file it has another meaning.
        let offset = file.map_or(Ok(0), |_| word(self.offset))?;
        let mapping = Mapping {
            start: GuestVirtAddr(word(self.start)?),
            end: GuestVirtAddr(word(self.end)?),
            flags: word(self.flags)?,
            offset: offset.wrapping_mul(0x1000),
            file,
        };
        if mapping.start < mapping.end && !space.is_kernel(mapping.start) {
            return Ok(mapping);
        }
        Err(Error::Implausible {
            what: "mapping",
            address: area,
            why: format!("{} to {}", mapping.start, mapping.end),
        })
    }
}

impl Linux {
    /// What a process has mapped, by rising addresses; `mm` is [`super::Task::mm`].
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or the first structure can't be read.
    pub fn mappings(&self, memory: &dyn ReadMemory, mm: GuestVirtAddr) -> Result<Walk<Mapping>, Error> {
        let space = self.space(memory);
        let layout = Layout::of(self)?;
        match self.offset("mm_struct", "mm_mt") {
            Ok(tree) => {
                let tree = mm.wrapping_add(tree);
                let (entries, mut error) = MapleTree::of(self)?.entries(&space, tree, MAX_MAPPINGS)?;
                let mut items = Vec::with_capacity(entries.len());
                for entry in entries {
                    match layout.read(&space, GuestVirtAddr(entry.value)) {
                        Ok(mapping) => items.push(mapping),
                        Err(first) => {
                            error = Some(first);
                            break;
                        }
                    }
                }
                let broken = error.map(|error| Broken {
                    list: "mappings",
                    at: tree,
                    read: items.len(),
                    why: error.to_string(),
                });
                Ok(Walk { items, broken })
            }
            // A list before 6.1.
            Err(_) => self.mapping_list(&space, &layout, mm),
        }
    }

    fn mapping_list(
        &self,
        space: &Space<'_>,
        layout: &Layout,
        mm: GuestVirtAddr,
    ) -> Result<Walk<Mapping>, Error> {
        let next = self.offset("vm_area_struct", "vm_next")?;
        let head = mm.wrapping_add(self.offset("mm_struct", "mmap")?);
        let mut at = GuestVirtAddr(space.u64("mm_struct", head)?);
        let (mut items, mut seen) = (Vec::new(), HashSet::new());
        let why = loop {
            if at.0 == 0 {
                break None;
            }
            if items.len() >= MAX_MAPPINGS || !space.is_kernel(at) || !seen.insert(at) {
                break Some("it doesn't end".to_owned());
            }
            let step = layout.read(space, at).and_then(|mapping| {
                items.push(mapping);
                space.u64("vm_area_struct", at.wrapping_add(next))
            });
            match step {
                Ok(next) => at = GuestVirtAddr(next),
                Err(error) => break Some(error.to_string()),
            }
        };
        let broken = why.map(|why| Broken {
            list: "mappings",
            at,
            read: items.len(),
            why,
        });
        Ok(Walk { items, broken })
    }

    /// The program that a process runs; `None` where it has none.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or it can't be read.
    pub fn program(&self, memory: &dyn ReadMemory, mm: GuestVirtAddr) -> Result<Option<File>, Error> {
        let space = self.space(memory);
        let file = space.u64(
            "mm_struct",
            mm.wrapping_add(self.offset("mm_struct", "exe_file")?),
        )?;
        match file {
            0 => Ok(None),
            file => self.file(memory, GuestVirtAddr(file)).map(Some),
        }
    }

    /// What the kernel told the process at its start (`/proc/PID/auxv`), with its end.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or it can't be read.
    pub fn auxiliary_vector(&self, memory: &dyn ReadMemory, mm: GuestVirtAddr) -> Result<Vec<u8>, Error> {
        let space = self.space(memory);
        let at = mm.wrapping_add(self.offset("mm_struct", "saved_auxv")?);
        let mut bytes = Vec::new();
        for number in 0..MAX_AUXILIARY as u64 / 2 {
            let mut pair = [0; 16];
            space.bytes("auxiliary vector", at.wrapping_add(16 * number), &mut pair)?;
            bytes.extend_from_slice(&pair);
            // AT_NULL.
            if pair[..8] == [0; 8] {
                break;
            }
        }
        Ok(bytes)
    }

    /// What the process was started with: its arguments, as far as they are in memory.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or the structure can't be read.
    pub fn arguments(&self, memory: &dyn ReadMemory, mm: GuestVirtAddr) -> Result<Vec<String>, Error> {
        let space = self.space(memory);
        let word = |name| space.u64("mm_struct", mm.wrapping_add(self.offset("mm_struct", name)?));
        let (start, end) = (word("arg_start")?, word("arg_end")?);
        let size = end.saturating_sub(start).min(MAX_ARGUMENTS) as usize;
        let mut bytes = vec![0; size];
        let user = Space::new(memory, self.mode, self.page_tables(memory, mm)?);
        let read = user.read_some(GuestVirtAddr(start), &mut bytes);
        if read == 0 {
            return Ok(Vec::new());
        }
        let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        let parts = text.split(|&byte| byte == 0);
        Ok(parts.map(|part| super::space::printable(part, false)).collect())
    }

    /// The page tables of a process, its half of them and the kernel's; where there are two (PTI), those that the kernel has.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or they can't be found.
    pub fn page_tables(&self, memory: &dyn ReadMemory, mm: GuestVirtAddr) -> Result<GuestPhysAddr, Error> {
        let space = self.space(memory);
        let address = mm.wrapping_add(self.offset("mm_struct", "pgd")?);
        let tables = space.pointer("mm_struct.pgd", address)?;
        match space.physical(tables) {
            Some(root) if root.page_offset() == 0 => Ok(root),
            _ => Err(Error::Implausible {
                what: "mm_struct.pgd",
                address,
                why: format!("{tables} is no page of page tables"),
            }),
        }
    }

    /// The page tables that a process has in user mode: others than [`Linux::page_tables`] where the kernel keeps its own apart
    /// (PTI, arch/x86/mm/pti.c). The second page of the pair then has the same user half, but for the no-execute bit.
    pub fn user_page_tables(&self, memory: &dyn ReadMemory, tables: GuestPhysAddr) -> GuestPhysAddr {
        let user = GuestPhysAddr(tables.0 | 0x1000);
        if user == tables {
            return tables;
        }
        let half = |at: GuestPhysAddr| {
            let mut bytes = vec![0; 0x800];
            memory.read_physical(at, &mut bytes).ok()?;
            let entries = bytes.as_chunks::<8>().0.iter().map(|it| u64::from_le_bytes(*it));
            // Accessed bits of the two differ too.
            let entries: Vec<u64> = entries.map(|it| it & 0x000f_ffff_ffff_f001).collect();
            entries.iter().any(|&entry| entry & 1 != 0).then_some(entries)
        };
        match (half(tables), half(user)) {
            (Some(kernel), Some(both)) if kernel == both => user,
            _ => tables,
        }
    }

    /// The process of a pid, or the first of a name; its main thread.
    ///
    /// # Errors
    /// [`Error`] if the list can't be read; `Ok(None)` if it has none such.
    pub fn process(&self, memory: &dyn ReadMemory, name: &str) -> Result<Option<super::Task>, Error> {
        let tasks = self.tasks(memory)?.items;
        let mut leaders = tasks
            .into_iter()
            .filter(|task| task.pid == task.tgid && task.pid != 0);
        Ok(match name.parse::<u32>() {
            Ok(pid) => leaders.find(|task| task.pid == pid),
            Err(_) => leaders.find(|task| task.name == name),
        })
    }
}
