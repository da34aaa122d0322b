//! Fork of a paused domain all of whose memory is in use, up to the first instruction of the child.

use super::report::{Bar, Figure, Unit};
use super::{Options, program};
use anyhow::{Context, Result, ensure};
use hv_core::introspect::{
    ControlRun, Introspect, ReadRegisters, StepMode, StepOutcome, WriteMemory, WriteRegisters,
};
use hv_core::{DomainConfig, GuestPhysAddr, Hypervisor, VcpuId};
use std::time::Instant;

const MEMORY: u64 = 512 << 20;
const FORKS: u32 = 100;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let hypervisor = Hypervisor::new();
    let parent = hypervisor.create(DomainConfig {
        name: None,
        machine: program::machine(MEMORY),
        paused: true,
        throttle: false,
    })?;
    let page = [0x5a; 4096];
    for region in parent_ram(&*parent) {
        for address in region.step_by(page.len()) {
            parent.write_physical(GuestPhysAddr(address), &page)?;
        }
    }
    for (address, bytes) in program::writes(program::LOAD_STORE_LOOP) {
        parent.write_physical(GuestPhysAddr(address), &bytes)?;
    }
    let mut registers = parent.registers(VcpuId(0))?;
    program::enter(&mut registers);
    parent.set_registers(VcpuId(0), &registers)?;
    // Up to the first store, which then moves a page of the child's.
    for _ in 0..2 {
        parent.step(VcpuId(0), StepMode::Schedule)?;
    }
    let mut seconds = Vec::new();
    for n in 0..FORKS * options.repeat {
        let start = Instant::now();
        let child = Introspect::fork(&*parent)
            .context("no forks")?
            .fork(&format!("child-{n}"))?;
        let control = child.control_run().context("no run control")?;
        let outcome = control.step(VcpuId(0), StepMode::Schedule)?;
        seconds.push(start.elapsed().as_secs_f64());
        ensure!(
            outcome == StepOutcome::Stepped,
            "the child did not step: {outcome:?}"
        );
        control.destroy()?;
    }
    seconds.sort_by(f64::total_cmp);
    Ok(vec![Figure {
        work: "fork of a paused 512 MiB domain, first instruction of the child".into(),
        unit: Unit::Seconds,
        ours: seconds[seconds.len() / 2],
        reference: None,
        bar: Bar::AtMost {
            must: 1e-3,
            aim: 100e-6,
        },
        note: format!("median of {}, least {:.0} µs", seconds.len(), seconds[0] * 1e6),
    }])
}

fn parent_ram(domain: &dyn Introspect) -> Vec<std::ops::Range<u64>> {
    let regions = domain.memory_regions();
    regions
        .iter()
        .filter(|r| r.writable)
        .map(|r| r.start.0..r.start.0 + r.length)
        .collect()
}
