//! Kernel stacks, against /proc/PID/stack.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use crate::synthetic::{equal, stacks};
use hv_core::VcpuId;
use hv_core::introspect::ReadRegisters;
use introspect::linux::TaskRegisters;
use std::time::Instant;

fn stacks_are_those_of_proc(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    machine.command("for i in 1 2 3 4; do sleep 1000 & done");
    let look = "for p in /proc/[0-9]*; do echo \"@$p\"; cat $p/stack 2>/dev/null; done";
    let text = machine.command(look);
    let (linux, frames) = machine.paused(|domain| {
        let linux = recognise(domain);
        let tasks = linux.tasks(domain).expect("tasks").items;
        let sleeping: Vec<_> = tasks
            .iter()
            .filter(|task| task.pid != 0 && !task.on_cpu)
            .collect();
        let start = Instant::now();
        let mut unwinder = linux.unwinder(domain);
        println!("tables for unwinding in {:?}", start.elapsed());
        let start = Instant::now();
        let mut all = Vec::new();
        for task in sleeping {
            let registers = linux.task_registers(domain, task).expect("registers");
            let stack = unwinder.stack(&registers);
            assert_eq!(stack.broken, None, "{task:?}");
            assert_eq!(stack, linux.kernel_stack(domain, &registers));
            // The outermost frame is where every task enters the kernel, or where it began.
            let last = stack.items.last().expect("a frame");
            let (name, _) = linux.nearest_symbol(last.call()).expect("the kernel's code");
            let name = name.text();
            assert!(
                name.starts_with("entry_SYSCALL_64") || name.starts_with("ret_from_fork"),
                "{name}"
            );
            all.push((task.pid, stack.items.iter().map(|frame| frame.rip.0).collect()));
        }
        println!("{} stacks in {:?}", all.len(), start.elapsed());
        (linux, all)
    });
    let (same, compared) = equal(&stacks(&text, &linux), &frames);
    println!("{same} of {compared} stacks");
    assert!(compared > 40 && same + 2 >= compared, "{same} of {compared}");
}

#[test]
fn stacks_of_6_1() {
    stacks_are_those_of_proc(&guest::STABLE);
}

#[test]
fn stacks_of_6_12() {
    stacks_are_those_of_proc(&guest::NEWER);
}

/// At any instruction of the kernel: every stack ends where it must, or says why it doesn't.
#[test]
fn stacks_of_running_vcpus() {
    let Some(mut machine) = Machine::new(&guest::STABLE) else {
        return;
    };
    machine.command("(while :; do cat /proc/self/stat >/dev/null; done) & true");
    let (mut whole, mut broken) = (0, Vec::new());
    for _ in 0..60 {
        machine.runs_a_little();
        machine.paused(|domain| {
            let linux = recognise(domain);
            for vcpu in (0..domain.vcpu_count()).map(VcpuId) {
                let registers = domain.registers(vcpu).expect("it is there");
                let known = TaskRegisters::from(&registers);
                let stack = linux.kernel_stack(domain, &known);
                if registers.cpl() == 3 {
                    assert!(known.is_user() && stack.items.is_empty() && stack.broken.is_some());
                    continue;
                }
                assert_eq!(stack.items[0].rip.0, registers.rip);
                match stack.broken {
                    None => whole += 1,
                    Some(why) => broken.push((stack.items, why.to_string())),
                }
            }
        });
    }
    println!("{whole} whole, broken: {broken:x?}");
    assert!(whole > 20 && broken.len() * 10 <= whole, "{whole}, {broken:x?}");
}
