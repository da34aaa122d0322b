//! Recognising Windows and walking its lists, in the memory of a recorded guest with damage.
//!
//! The first byte chooses the guest, the second how much is damaged besides memory; changes follow.

use super::Target;
use crate::input::Input;
use crate::patch::Patch;
use crate::tapes;
use hv_core::VcpuId;
use hv_core::introspect::{Introspect, ReadRegisters};
use introspect::windows::{Guest, Windows};
use std::sync::Arc;
use symbols::SymbolPath;
use tests::tape::Player;

/// See the module.
pub const TARGET: Target = Target {
    name: "windows",
    run,
    seeds,
    words: &[
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x60\x08\x86\x05\xf8\xff\xff",
        b"\x00\x00\x01\x80",
    ],
    longest: 2048,
};

fn seeds() -> Vec<Vec<u8>> {
    let guests = (0..tapes::COUNT as u8).flat_map(|guest| (0..6).map(move |mode| vec![guest, mode]));
    let mut seeds: Vec<Vec<u8>> = guests.collect();
    for how in 0..64_u8 {
        seeds.push(vec![
            how,
            0,
            how,
            how.wrapping_mul(77),
            how,
            how.wrapping_mul(5),
            0xff,
            0xff,
            0xff,
            0x7f,
        ]);
    }
    seeds
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut tape = (**tapes::tape(usize::from(input.u8()))).clone();
    let mode = input.u8();
    let patches = Patch::all(&mut input);
    let mut frames = Vec::new();
    tape.change_pages(|frame, _| frames.push(frame));
    let chosen: Vec<u64> = patches
        .iter()
        .filter_map(|patch| frames.get(patch.choice(frames.len())).copied())
        .collect();
    tape.change_pages(|frame, page| {
        for (patch, chosen) in patches.iter().zip(&chosen) {
            if frame == *chosen {
                patch.apply(page);
            }
        }
    });
    let value = patches
        .first()
        .map_or(0x1234, |patch| patch.choice(0x1000) as u64);
    tape.change_registers(|registers| match mode {
        1 => registers.msrs.lstar ^= value,
        2 => registers.cr3 ^= value << 12,
        3 => registers.idtr.base ^= value,
        4 => registers.cr0 &= !(1 << 31),
        5 => registers.efer ^= 1 << 8 | 1 << 10,
        _ => {}
    });
    let player = Player::new(&Arc::new(tape));
    let guest = Guest::from(&*player as &dyn Introspect);
    let Ok(windows) = Windows::recognise(guest, &SymbolPath::default()) else {
        return;
    };
    let _ = windows.description();
    let _ = windows.report().to_string();
    let _ = windows.is_still_there(guest);
    let _ = windows.debugger_data(guest);
    let _ = windows.version_block(guest);
    let _ = windows.modules(guest);
    let _ = windows.unloaded_modules(guest);
    let _ = windows.bugcheck(guest);
    let _ = windows.shared_data(guest);
    let _ = windows.physical_runs(guest);
    for vcpu in (0..player.vcpu_count()).map(VcpuId) {
        let _ = windows.kernel_space(guest, vcpu);
        let _ = windows.processor(guest, vcpu);
        let _ = windows.current_process(guest, vcpu);
    }
    if let Ok(processes) = windows.processes(guest) {
        for process in processes.items {
            let _ = windows.threads(guest, process.address);
        }
    }
}
