//! Tasks' registers and address spaces, against /proc/PID/syscall and the code that made the system call.

use crate::guest::{self, Kind, Machine};
use crate::recognise::recognise;
use hv_core::introspect::{Introspect, ReadRegisters};
use hv_core::regs::gpr;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::Target;
use introspect::linux::{Error, TaskRegisters};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What /proc/PID/syscall says of a thread in a system call: its number, six arguments, stack pointer, address.
fn system_calls(text: &str) -> BTreeMap<u32, [u64; 9]> {
    let mut all = BTreeMap::new();
    let mut pid = None;
    for line in text.lines() {
        if let Some(path) = line.trim().strip_prefix("@/proc/") {
            pid = path.rsplit('/').next().and_then(|pid| pid.parse().ok());
            continue;
        }
        let words = line.split_whitespace().map(|word| match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        });
        let words: Option<Vec<u64>> = words.collect();
        if let Some(words) = words.and_then(|words| words.try_into().ok())
            && let Some(pid) = pid
        {
            all.insert(pid, words);
        }
    }
    all
}

/// The same of registers (System V ABI for the kernel's interface, A.2.1).
fn as_proc_says(registers: &TaskRegisters) -> Option<[u64; 9]> {
    let [rdi, rsi, rdx] = [gpr::RDI, gpr::RSI, gpr::RDX].map(|it| registers.gpr[it]);
    let [r10, r8, r9] = [10, 8, 9].map(|it| registers.gpr[it]);
    let rip = Some(registers.rip.0);
    let all = [
        registers.orig_rax,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        registers.gpr[gpr::RSP],
        rip,
    ];
    let known: Vec<u64> = all.into_iter().collect::<Option<_>>()?;
    known.try_into().ok()
}

fn registers_are_those_of_proc(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    machine.command("for i in 1 2 3 4 5; do sleep 1000 & done");
    let look = "for p in /proc/[0-9]*/task/*; do echo @$p; cat $p/syscall; done";
    let before = system_calls(&machine.command(look));
    let target = Target::new(machine.domain.clone() as Arc<dyn Introspect>);
    let tasks = machine.paused(|domain| {
        let linux = recognise(domain);
        let tasks = linux.tasks(domain).expect("tasks").items;
        let mut seen = Vec::new();
        for task in tasks {
            let user = linux.user_registers(domain, &task);
            let space = linux.user_space(domain, &task).expect("it is known");
            assert_eq!(space.is_some(), task.mm.is_some(), "{task:?}");
            if task.on_cpu {
                assert!(linux.task_registers(domain, &task).is_err(), "{task:?}");
                continue;
            }
            let kernel = linux
                .task_registers(domain, &task)
                .expect("they are on its stack");
            assert!(!kernel.is_user());
            let rsp = kernel.rsp().expect("it is known");
            assert!(
                rsp.0 > task.stack.0 && rsp.0 < task.stack.0 + 0x4000,
                "{kernel:?}"
            );
            assert_eq!(kernel.gpr[gpr::RAX], None, "what a call may change isn't known");
            let (name, _) = linux.nearest_symbol(kernel.rip).expect("the kernel's code");
            assert!(
                ["__schedule", "ret_from_fork_asm", "ret_from_fork"].contains(&&*name.text()),
                "{name:?}"
            );
            let Some(space) = space else {
                assert!(
                    matches!(user, Err(Error::NoRegisters { .. })),
                    "{task:?} {user:?}"
                );
                continue;
            };
            let user = user.expect("they are on its stack");
            assert!(user.is_user());
            // What it goes on with comes after `syscall`, and thread-local storage begins with its own address.
            let mut code = [0; 2];
            let got = target.read_virtual(space, GuestVirtAddr(user.rip.0 - 2), &mut code);
            assert_eq!((got, code), (Ok(2), [0x0f, 0x05]), "{task:?}");
            let fs = user.fs_base.expect("it is known");
            let mut itself = [0; 8];
            if fs != 0 {
                let got = target.read_virtual(space, GuestVirtAddr(fs), &mut itself);
                assert_eq!((got, u64::from_le_bytes(itself)), (Ok(8), fs), "{task:?}");
            }
            seen.push((task, user));
        }
        // A user's CR3 leads to the same page tables, apart from PTI's and PCID's bits.
        let cpus = linux.cpus(domain).expect("CPUs");
        for vcpu in (0..domain.vcpu_count()).map(VcpuId) {
            let registers = domain.registers(vcpu).expect("it is there");
            let current = cpus.iter().find_map(|cpu| linux.task(domain, cpu.current?).ok());
            if kind.vcpus == 1
                && let Some(Ok(Some(introspect::AddressSpace::Root(_, root)))) =
                    current.map(|task| linux.user_space(domain, &task))
            {
                assert_eq!(root.0, registers.cr3 & 0x000f_ffff_ffff_e000);
            }
        }
        seen
    });
    let after = system_calls(&machine.command(look));
    let mut same = 0;
    for (pid, call) in before.iter().filter(|(pid, call)| after.get(pid) == Some(call)) {
        // The shell that looks is waiting for what it started then.
        let found = tasks
            .iter()
            .find(|(task, _)| task.pid == *pid && task.name != "sh");
        let Some((task, user)) = found else {
            continue;
        };
        assert_eq!(as_proc_says(user), Some(*call), "{task:?}");
        same += 1;
    }
    println!("{same} threads' registers of user mode");
    assert!(same >= 5, "{same} of {before:?}");
}

#[test]
fn registers_of_6_1() {
    registers_are_those_of_proc(&guest::STABLE);
}

#[test]
fn registers_of_6_12_with_pti() {
    registers_are_those_of_proc(&guest::NEWER);
}

/// The processor makes the kernel isolate its page tables without being told to.
#[test]
fn registers_of_6_1_with_pti_by_itself() {
    if let Some(mut machine) = Machine::new(&guest::OLD_CPU) {
        let vulnerability = "cat /sys/devices/system/cpu/vulnerabilities/meltdown";
        assert_eq!(machine.command(vulnerability).trim(), "Mitigation: PTI");
    }
    registers_are_those_of_proc(&guest::OLD_CPU);
}
