//! Kernels whose types are withheld: layouts by what the structures look like, against those that BTF says.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use hv_core::introspect::{MemoryRegion, ReadMemory};
use hv_core::{Domain, GuestPhysAddr};
use introspect::linux::{Guest, Linux, Source};
use std::time::Instant;

/// Memory in which no BTF begins.
struct WithoutTypes<'a>(&'a Domain);

impl ReadMemory for WithoutTypes<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
        const HEADER: &[u8] = b"\x9f\xeb\x01\x00\x18\x00\x00\x00";
        self.0.read_physical(address, buffer)?;
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&buffer[at..], HEADER) {
            buffer[at + found] = 0;
            at += found + HEADER.len();
        }
        Ok(())
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.0.memory_regions()
    }
}

/// What tasks, modules and their like are read by.
const TASK: [&str; 14] = [
    "comm",
    "tasks",
    "pid",
    "tgid",
    "real_parent",
    "stack",
    "__state",
    "on_cpu",
    "thread.sp",
    "thread.fsbase",
    "signal",
    "thread_node",
    "mm",
    "exit_state",
];

fn layouts_are_found_without_types(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    machine.command("for i in 1 2 3 4; do sleep 1000 & done; (while :; do :; done) & true");
    for name in kind.modules {
        machine.command(&format!("insmod /root/{name}.ko"));
    }
    machine.paused(|domain| {
        let with = recognise(domain);
        let memory = WithoutTypes(domain);
        let start = Instant::now();
        let without = Linux::recognise(Guest::new(&memory, domain)).expect("it is Linux");
        println!("without types in {:?}\n{}", start.elapsed(), without.report());
        assert!(without.btf().is_none());
        let same = |structure: &str, member: &str| {
            let by_btf = with.offset_of(structure, member).map(|(offset, _)| offset);
            let by_looks = without.offset_of(structure, member);
            assert!(by_btf.is_some(), "{structure}.{member}");
            assert_eq!(
                by_looks,
                by_btf.map(|offset| (offset, Source::Inferred)),
                "{structure}.{member}"
            );
        };
        for member in TASK {
            same("task_struct", member);
        }
        same("signal_struct", "thread_head");
        same("mm_struct", "pgd");
        let tasks = with.tasks(domain).expect("tasks");
        let mut expected = tasks.clone();
        // Where a task's CPU is written isn't told by its looks.
        expected.items.iter_mut().for_each(|task| task.cpu = None);
        assert_eq!(without.tasks(&memory), Ok(expected));
        for task in &tasks.items {
            assert_eq!(
                without.task_registers(&memory, task),
                with.task_registers(domain, task)
            );
            assert_eq!(without.user_space(&memory, task), with.user_space(domain, task));
        }
        let modules = with.modules(domain).expect("modules").items;
        assert_eq!(modules.len(), kind.modules.len());
        if !modules.is_empty() {
            let mut expected = modules.clone();
            // Nor who uses a module.
            for module in &mut expected {
                (module.references, module.users) = (None, Vec::new());
            }
            assert_eq!(without.modules(&memory).expect("modules").items, expected);
            for module in &modules {
                assert_eq!(
                    without.module_symbols(&memory, module),
                    with.module_symbols(domain, module)
                );
            }
        }
    });
}

#[test]
fn layouts_of_6_1_without_types() {
    layouts_are_found_without_types(&guest::STABLE);
}

#[test]
fn layouts_of_6_12_without_types() {
    layouts_are_found_without_types(&guest::NEWER);
}

#[test]
fn layouts_of_6_1_with_modules_without_types() {
    layouts_are_found_without_types(&guest::STABLE_MODULES);
}

#[test]
fn layouts_of_6_12_with_modules_without_types() {
    layouts_are_found_without_types(&guest::NEWER_MODULES);
}
