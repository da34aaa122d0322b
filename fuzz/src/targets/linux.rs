//! Recognising Linux and walking its lists, in the memory of a real guest with damage: wild pointers, cycles, giant counts, in
//! page tables, kallsyms, BTF, ORC, the log, tasks, modules and page frames.
//!
//! The first byte says what is asked of the damaged guest, the second what else is damaged; changes follow.

use super::Target;
use crate::input::Input;
use crate::linux;
use crate::patch::Patch;
use hv_core::introspect::{ReadMemory, ReadRegisters};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::linux::{Guest, Linux, PageKind};
use symbols::synthetic::{Kernel, Orc};

/// See the module.
pub const TARGET: Target = Target {
    name: "linux",
    run,
    seeds,
    words: &[
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\0\0\0\x81\xff\xff\xff\xff",
        b"\xc3\0\0\0",
    ],
    longest: 2048,
};

/// What is looked at is cheap in half of the cases: what was known of the guest before it lied.
fn seeds() -> Vec<Vec<u8>> {
    if linux::guest().is_none() {
        return Vec::new();
    }
    let mut seeds: Vec<Vec<u8>> = (0..16).map(|mode| vec![mode, 0]).collect();
    seeds.extend((0..6).map(|other| vec![1, other]));
    for how in 0..=255_u8 {
        let wide = [
            how,
            how.wrapping_mul(77),
            how.wrapping_mul(31),
            how.wrapping_mul(5),
        ];
        seeds.push(
            [
                &[how & 0xf, 0][..],
                &wide,
                &[how, 0xff, how, 0x7f],
                &wide,
                &[how; 4],
            ]
            .concat(),
        );
    }
    seeds
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, other) = (input.u8() & 0xf, input.u8());
    let patches = Patch::all(&mut input);
    let Some((guest, known)) = linux::guest().and_then(|guest| Some((guest, guest.linux()?))) else {
        return;
    };
    let mut damaged = guest.damaged(&patches);
    let value = patches
        .first()
        .map_or(0x1234, |patch| patch.choice(0x1000) as u64);
    for registers in &mut damaged.registers {
        match other {
            1 => registers.msrs.lstar ^= value,
            2 => registers.cr3 ^= value << 12,
            3 => registers.idtr.base ^= value,
            4 => registers.cr4 ^= 1 << 12,
            5 => registers.segments[hv_core::regs::seg::GS].base ^= value,
            _ => {}
        }
    }
    match mode {
        0..=9 => ask(known, &damaged),
        10..=12 => {
            if let Ok(linux) = Linux::recognise(Guest::new(&damaged, &damaged)) {
                ask(&linux, &damaged);
            }
        }
        13 => {
            if let Ok(linux) = Linux::recognise_in_memory(&damaged) {
                ask(&linux, &damaged);
            }
        }
        14 => {
            let info = known.vmcoreinfo();
            if let Some(Ok(linux)) = info.map(|info| Linux::recognise_by_vmcoreinfo(&damaged, info)) {
                ask(&linux, &damaged);
            }
        }
        _ => {
            if let Ok(linux) = Linux::recognise(Guest::new(&damaged, &damaged)) {
                make_symbols(&linux, &damaged);
            }
        }
    }
}

/// Asks for everything.
fn ask<M: ReadMemory + ReadRegisters>(linux: &Linux, guest: &M) {
    let _ = linux.description();
    let _ = linux.report().to_string();
    let _ = linux.is_still_there(guest);
    let _ = linux
        .log(guest)
        .map(|log| log.records.iter().map(|it| it.to_string().len()).sum::<usize>());
    let _ = linux.crash(guest);
    let _ = linux.crash_entries();
    let _ = linux.utsname(guest);
    if let Ok(tasks) = linux.tasks(guest) {
        for task in tasks.items.iter().take(8) {
            let _ = linux.task(guest, task.address);
            let _ = linux.nearest_symbol(task.stack_pointer);
        }
    }
    let _ = linux
        .modules(guest)
        .map(|walk| walk.items.iter().map(|module| module.size()).sum::<u64>());
    let _ = linux.cpus(guest);
    for vcpu in (0..guest.vcpu_count()).map(VcpuId) {
        let _ = linux.cpu_of(Guest::new(guest, guest), vcpu);
    }
    if let Ok(mut reader) = linux.page_kinds(guest) {
        let mut kinds = vec![PageKind::Kernel; 0x2000];
        reader.kinds(GuestPhysAddr(0), &mut kinds);
        reader.kinds(GuestPhysAddr(u64::MAX), &mut kinds[..3]);
        let _ = reader.kind(GuestPhysAddr(0x10_0000));
    }
    let _ = linux.nearest_symbol(GuestVirtAddr(linux.kernel().base.0 + 0x1234));
}

/// The symbol file of what was recognised.
fn make_symbols(linux: &Linux, memory: &dyn ReadMemory) {
    let Some(kallsyms) = linux.kallsyms() else {
        return;
    };
    let btf = linux.btf().map(|btf| &**btf);
    let read = |at: u64, buffer: &mut [u8]| {
        let place = linux.kernel().physical_of(GuestVirtAddr(at));
        place.is_some_and(|place| memory.read_physical(place, buffer).is_ok())
    };
    let orc = Orc::find(kallsyms, btf, read);
    let image = linux.kernel();
    let kernel = Kernel {
        image: image.base.0..image.base.0.saturating_add(image.size),
        symbols: kallsyms.iter().collect(),
        btf,
        orc: orc.as_ref(),
        build_id: Some(&[1; 20]),
    };
    let _ = kernel
        .symbol_file()
        .map(|file| file.moved_to(0xffff_ffff_9000_0000));
}
