//! Straight loops: what the engine does when nothing else is to be done.

use super::report::{Bar, Figure, Unit};
use super::{Options, most, program, usage};
use anyhow::{Context, Result, ensure};
use hv_core::machine::{Machine, RunExit, RunLimit};
use hv_core::{GuestPhysAddr, VcpuId};
use std::sync::atomic::AtomicBool;

/// Instructions of one measurement.
const TICKS: u64 = 200_000_000;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    [
        ("register loop", program::REGISTER_LOOP),
        ("load/store loop", program::LOAD_STORE_LOOP),
    ]
    .into_iter()
    .map(|(name, code)| {
        let speeds = (0..options.repeat)
            .map(|_| measure(code))
            .collect::<Result<Vec<_>>>()?;
        Ok(Figure {
            work: format!("{name}, guest instructions/s"),
            unit: Unit::PerSecond,
            ours: most(&speeds),
            reference: None,
            bar: Bar::AtLeast {
                must: 100e6,
                aim: 200e6,
            },
            note: String::new(),
        })
    })
    .collect()
}

fn measure(code: &[u8]) -> Result<f64> {
    let mut machine = Machine::new(&program::machine(64 << 20))?;
    for (address, bytes) in program::writes(code) {
        machine.write_physical(GuestPhysAddr(address), &bytes);
    }
    let mut registers = machine.registers(VcpuId(0));
    program::enter(&mut registers);
    machine
        .set_registers(VcpuId(0), &registers)
        .ok()
        .context("the registers are refused")?;
    let interrupt = AtomicBool::new(false);
    let (before, retired) = (usage::thread_cpu_seconds(), machine.retired());
    let exit = machine.run(
        &RunLimit {
            ticks: TICKS,
            step: None,
        },
        &interrupt,
    );
    let seconds = usage::thread_cpu_seconds() - before;
    ensure!(exit == RunExit::Limit, "the loop ended: {exit:?}");
    Ok((machine.retired() - retired) as f64 / seconds)
}
