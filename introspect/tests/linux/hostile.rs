//! Guests that lie: memory with spoilt page tables, symbols, logs, lists. Nothing panics, and all of it ends.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use hv_core::introspect::{Introspect, MemoryRegion, ReadMemory};
use hv_core::{Domain, GuestPhysAddr, GuestVirtAddr};
use introspect::linux::{Guest, Linux, PageKind};
use introspect::{AddressSpace, Target};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One look at a spoilt guest, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(20);

/// A guest's memory with other words at some places.
struct Spoilt<'a> {
    domain: &'a Domain,
    words: BTreeMap<u64, u64>,
}

impl ReadMemory for Spoilt<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
        self.domain.read_physical(address, buffer)?;
        let end = address.0.saturating_add(buffer.len() as u64);
        for (at, word) in self.words.range(address.0.saturating_sub(7)..end) {
            for (byte, at) in word.to_le_bytes().into_iter().zip(*at..) {
                if (address.0..end).contains(&at) {
                    buffer[(at - address.0) as usize] = byte;
                }
            }
        }
        Ok(())
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.domain.memory_regions()
    }
}

/// xorshift64*: the same spoils in every run.
struct Random(Cell<u64>);

impl Random {
    fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Asks for everything.
fn ask(linux: &Linux, memory: &dyn ReadMemory) {
    let _ = linux.log(memory).map(|log| log.records.len());
    let _ = linux.crash(memory);
    let mut unwinder = linux.unwinder(memory);
    let tasks = linux.tasks(memory).map_or_else(|_| Vec::new(), |walk| walk.items);
    for mm in tasks.iter().take(200).filter_map(|task| task.mm) {
        ask_process(linux, memory, mm);
    }
    for task in tasks {
        let _ = linux.user_registers(memory, &task);
        let _ = linux.user_space(memory, &task);
        if let Ok(registers) = linux.task_registers(memory, &task) {
            assert!(unwinder.stack(&registers).items.len() <= 64);
        }
    }
    for module in linux
        .modules(memory)
        .map_or_else(|_| Vec::new(), |walk| walk.items)
    {
        let _ = linux.module_symbols(memory, &module).map(|symbols| symbols.len());
        let _ = linux
            .module_sections(memory, &module)
            .map(|sections| sections.len());
        let _ = linux.module_orc(memory, &module);
        let _ = linux.module_btf(memory, &module);
    }
    let _ = linux.command_line(memory);
    let _ = linux.uptime(memory);
    let _ = linux.cpus(memory).map(|cpus| cpus.len());
    if let Ok(mut reader) = linux.page_kinds(memory) {
        let mut kinds = vec![PageKind::Kernel; 0x8000];
        reader.kinds(GuestPhysAddr(0), &mut kinds);
        reader.kinds(GuestPhysAddr(u64::MAX), &mut kinds[..3]);
    }
    let _ = linux.is_still_there(memory);
}

/// Asks for everything of a process.
fn ask_process(linux: &Linux, memory: &dyn ReadMemory, mm: GuestVirtAddr) {
    let mappings = linux.mappings(memory, mm).map(|walk| walk.items);
    for mapping in mappings.unwrap_or_default().iter().take(20) {
        let _ = mapping.file.map(|file| linux.file(memory, file));
    }
    if let Ok(Some(program)) = linux.program(memory, mm) {
        let mut bytes = [0; 0x2001];
        for offset in [0, 0x7fff, program.size.saturating_sub(1), u64::MAX] {
            let _ = linux.read_file(memory, &program, offset, &mut bytes);
        }
    }
    let _ = linux.auxiliary_vector(memory, mm);
    let _ = linux.arguments(memory, mm);
    let _ = linux
        .page_tables(memory, mm)
        .map(|tables| linux.user_page_tables(memory, tables));
}

/// Memory that notes what of it is read.
struct Noting<'a>(&'a Domain, RefCell<BTreeSet<u64>>);

impl ReadMemory for Noting<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
        // Of larger reads the words that structures have, not the contents of files.
        let words = (0..buffer.len().min(0x200) as u64).step_by(8);
        self.1.borrow_mut().extend(words.map(|at| address.0 + at));
        self.0.read_physical(address, buffer)
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.0.memory_regions()
    }
}

#[test]
fn a_process_whose_structures_are_spoilt_ends_every_walk() {
    for kind in [&guest::STABLE_FIXED, &guest::NEWER] {
        let Some(machine) = Machine::new(kind) else {
            return;
        };
        machine.paused(|domain| {
            let linux = recognise(domain);
            let init = linux.process(domain, "1").expect("tasks").expect("init");
            let mm = init.mm.expect("a process");
            let noting = Noting(domain, RefCell::default());
            ask_process(&linux, &noting, mm);
            let places: Vec<u64> = noting.1.into_inner().into_iter().collect();
            assert!(places.len() > 100, "{}", places.len());
            let random = Random(Cell::new(0x9e37_79b9_7f4a_7c15));
            for case in 0..400 {
                let spoil = |_| {
                    let place = places[random.below(places.len() as u64) as usize];
                    let mut word = [0; 8];
                    domain
                        .read_physical(GuestPhysAddr(place), &mut word)
                        .expect("it was read");
                    let other = places[random.below(places.len() as u64) as usize];
                    let word = match random.below(6) {
                        0 => 0,
                        1 => u64::MAX,
                        2 => random.next(),
                        3 => u64::from_le_bytes(word) ^ 1 << random.below(64),
                        4 => u64::from_le_bytes(word).wrapping_add(8 << random.below(10)),
                        _ => linux.regions().direct_map.0.wrapping_add(other),
                    };
                    (place, word)
                };
                let words = (0..1 + random.below(3)).map(spoil).collect();
                let start = Instant::now();
                ask_process(&linux, &Spoilt { domain, words }, mm);
                assert!(start.elapsed() < LIMIT, "case {case}");
            }
        });
    }
}

#[test]
fn spoilt_memory_neither_panics_nor_hangs() {
    spoilt_memory(&guest::NEWER);
}

#[test]
fn spoilt_modules_neither_panic_nor_hang() {
    spoilt_memory(&guest::NEWER_MODULES);
}

fn spoilt_memory(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    for name in kind.modules {
        machine.command(&format!("insmod /root/{name}.ko"));
    }
    machine.paused(|domain| {
        let linux = recognise(domain);
        let target = Target::new(machine.domain.clone() as Arc<dyn Introspect>);
        let space = AddressSpace::Root(linux.paging_mode(), linux.root());
        let physical = |address: GuestVirtAddr| target.translate(space, address).ok().map(|it| it.phys.0);
        // Where a wrong word does something: the tables of pages, the variables that everything starts from, and what
        // they point to.
        let mut places = vec![linux.root().0 + 511 * 8, linux.root().0 + 256 * 8];
        let names = [
            "init_task",
            "modules",
            "prb",
            "nr_cpu_ids",
            "__per_cpu_offset",
            "vmcoreinfo_data",
            "vmcoreinfo_size",
            "page_offset_base",
            "vmemmap_base",
            "panic_cpu",
            "printk_rb_static",
            "linux_banner",
            "__start_BTF",
            "phys_base",
            "kexec_crash_image",
            "btf_modules",
            "init_mm",
            "saved_command_line",
            "jiffies_64",
            "tick_nsec",
            "__start_orc_unwind_ip",
            "__start_orc_unwind",
        ];
        for name in names {
            let address = linux.symbol(name).unwrap_or_else(|| panic!("{name}"));
            places.extend(physical(address));
        }
        for (level, index) in target
            .translate(space, linux.kernel().base)
            .expect("it is mapped")
            .levels
            .iter()
            .zip(0..)
        {
            places.push(level.entry_addr.0 + index % 2 * 8);
        }
        let tasks = linux.tasks(domain).expect("tasks").items;
        for task in &tasks {
            places.extend(physical(task.address));
            places.extend(physical(task.stack_pointer));
        }
        let types = linux.symbol("__start_BTF").and_then(physical).expect("types");
        for module in linux.modules(domain).expect("modules").items {
            // All of its pages: what leads to its symbols, sections and ORC.
            let parts = module.parts.iter().flat_map(|part| {
                (0..part.size)
                    .step_by(0x1000)
                    .map(|at| part.base.0 + u64::from(at))
            });
            let tables = parts.filter_map(|at| physical(GuestVirtAddr(at)));
            places.extend(tables);
            places.extend(physical(module.address));
        }
        let tables = *linux.kallsyms().expect("symbols").tables();
        let kallsyms = linux.kernel().physical.0;
        let random = Random(Cell::new(0x9e37_79b9_7f4a_7c15));
        let cases = std::env::var("KDD_HOSTILE_CASES")
            .ok()
            .and_then(|cases| cases.parse().ok());
        let mut recognised = 0;
        for case in 0..cases.unwrap_or(60) {
            let mut words = BTreeMap::new();
            // Some have no types, and their layouts are told by their looks.
            if case % 3 == 0 {
                words.insert(types, 0);
            }
            for _ in 0..1 + random.below(20) {
                let place = match random.below(4) {
                    0 => places[random.below(places.len() as u64) as usize],
                    1 => places[random.below(places.len() as u64) as usize] + random.below(0x800) * 8,
                    2 => {
                        let starts = [
                            tables.names,
                            tables.token_table,
                            tables.token_index,
                            tables.addresses,
                        ];
                        kallsyms + starts[random.below(4) as usize] as u64 + random.below(0x400)
                    }
                    _ => kallsyms + random.below(linux.kernel().size),
                };
                let word = match random.below(7) {
                    0 => random.next(),
                    1 => 0,
                    2 => u64::MAX,
                    3 => places[random.below(places.len() as u64) as usize] | 0x63,
                    4 => tasks[random.below(tasks.len() as u64) as usize].address.0 + random.below(0x200) * 8,
                    5 => random.below(0x1_0000),
                    _ => 1 << random.below(64),
                };
                words.insert(place, word);
            }
            let spoilt = Spoilt { domain, words };
            let start = Instant::now();
            // What is known of the guest before it lies, and what it lets itself be taken for.
            ask(&linux, &spoilt);
            let found = Linux::recognise(Guest::new(&spoilt, domain));
            let alone = Linux::recognise_in_memory(&spoilt);
            recognised += u32::from(found.is_ok());
            for linux in [found, alone].iter().flatten() {
                ask(linux, &spoilt);
            }
            let took = start.elapsed();
            assert!(took < LIMIT, "case {case} took {took:?}: {:x?}", spoilt.words);
        }
        println!("{recognised} recognised all the same");
    });
}

#[test]
fn what_is_no_linux_is_told_so() {
    /// Memory of one word, again and again.
    struct Filled(u64);
    impl ReadMemory for Filled {
        fn read_physical(&self, _: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
            for part in buffer.chunks_mut(8) {
                part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
            }
            Ok(())
        }
        fn memory_regions(&self) -> Vec<MemoryRegion> {
            vec![MemoryRegion {
                start: GuestPhysAddr(0),
                length: 64 << 20,
                writable: true,
            }]
        }
    }
    // Zeros; page tables that lead to themselves; the start of kallsyms' tokens; of VMCOREINFO.
    for word in [
        0,
        0x67,
        u64::MAX,
        u64::from_le_bytes(*b"0\x001\x002\x003\x00"),
        u64::from_le_bytes(*b"OSRELEAS"),
    ] {
        assert!(Linux::recognise_in_memory(&Filled(word)).is_err());
    }
}
