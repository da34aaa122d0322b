//! Tasks and CPUs, against /proc.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use hv_core::VcpuId;
use hv_core::introspect::{Introspect, ReadRegisters};
use introspect::linux::Guest;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// pid → name, parent, of /proc/PID/task/TID/stat: `1 (init) S 0 …`.
fn stats(text: &str) -> BTreeMap<u32, (String, u32)> {
    let one = |line: &str| {
        let (pid, rest) = line.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let parent = rest.split(' ').nth(1)?.parse().ok()?;
        Some((pid.trim().parse().ok()?, (name.to_owned(), parent)))
    };
    text.lines().filter_map(one).collect()
}

fn tasks_are_those_of_proc(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    machine.command("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done");
    let before = stats(&machine.command("cat /proc/[0-9]*/task/*/stat"));
    let (names, tasks) = machine.paused(|domain| {
        let linux = recognise(domain);
        let start = Instant::now();
        let walk = linux.tasks(domain).expect("tasks");
        println!("{} tasks in {:?}", walk.items.len(), start.elapsed());
        assert_eq!(walk.broken, None);
        let cpus = linux.cpus(domain).expect("CPUs");
        assert_eq!(cpus.iter().filter(|cpu| cpu.online).count(), kind.vcpus as usize);
        let guest = Guest::from(domain as &dyn Introspect);
        let mut seen = Vec::new();
        for vcpu in (0..domain.vcpu_count()).map(VcpuId) {
            let number = linux
                .cpu_of(guest, vcpu)
                .expect("it is known")
                .expect("one of them");
            let cpu = cpus.iter().find(|cpu| cpu.number == number).expect("it is there");
            let current = linux
                .task(domain, cpu.current.expect("it runs something"))
                .expect("a task");
            assert!(current.on_cpu, "{current:?}");
            assert!(walk.items.contains(&current));
            // In the kernel, its stack is the vCPU's; interrupts have their own.
            seen.push(number);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..kind.vcpus).collect::<Vec<_>>());
        assert!(linux.modules(domain).expect("modules").items.is_empty());
        let idle = walk.items.iter().filter(|task| task.pid == 0).count();
        assert_eq!(idle, kind.vcpus as usize, "an idle task for each CPU");
        for task in &walk.items {
            assert!(
                task.stack_pointer.0.wrapping_sub(task.stack.0) < 0x4000,
                "{task:?}"
            );
        }
        let names: Vec<_> = walk.items.iter().map(|task| task.name.clone()).collect();
        (names, walk.items)
    });
    let after = stats(&machine.command("cat /proc/[0-9]*/task/*/stat"));
    println!("{names:?}");
    // Those that lived through both looks.
    let steady: Vec<_> = before
        .iter()
        .filter(|(pid, task)| after.get(pid) == Some(task))
        .collect();
    assert!(steady.len() > 40, "{}", steady.len());
    for (pid, (name, parent)) in steady {
        let task = tasks.iter().find(|task| task.pid == *pid);
        let task = task.unwrap_or_else(|| panic!("{pid} ({name}) is missing"));
        // /proc knows longer names of kernel threads.
        let full = name.starts_with(&task.name) || task.mm.is_none() && task.name.starts_with("kworker");
        assert!(full, "{name} {task:?}");
        assert_eq!(task.parent, Some(*parent), "{task:?}");
    }
    let sleeping = tasks.iter().filter(|task| task.name == "sleep");
    assert_eq!(sleeping.filter(|task| task.state.letter() == 'S').count(), 8);
    for task in &tasks {
        assert!(
            task.pid == 0 || before.contains_key(&task.pid) || after.contains_key(&task.pid),
            "{task:?} is nobody's"
        );
    }
}

#[test]
fn tasks_of_6_1() {
    tasks_are_those_of_proc(&guest::STABLE);
}

#[test]
fn tasks_of_6_12() {
    tasks_are_those_of_proc(&guest::NEWER);
}

/// A list that is shown again and again mustn't hold the guest for long.
#[test]
fn a_thousand_tasks_are_listed_quickly() {
    const LIMIT: Duration = Duration::from_millis(20);
    let Some(mut machine) = Machine::new(&guest::STABLE) else {
        return;
    };
    machine.command("i=0; while [ $i -lt 1000 ]; do sleep 10000 & i=$((i+1)); done >/dev/null 2>&1");
    machine.paused(|domain| {
        let linux = recognise(domain);
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            let walk = linux.tasks(domain).expect("tasks");
            best = best.min(start.elapsed());
            assert!(walk.items.len() > 1000 && walk.broken.is_none());
        }
        println!("a thousand tasks in {best:?}");
        assert!(best < LIMIT, "{best:?}");
    });
}
