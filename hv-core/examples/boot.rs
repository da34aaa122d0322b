//! Boots a kernel on the bare machine and prints its console: `boot KERNEL [INITRD [COMMAND-LINE [VCPUS [MODEL]]]]`.
//! Stops at the first idle time without a timer, at the end of the guest, or when the console shows `--until TEXT`.

use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let kernel = std::fs::read(
        args.first()
            .ok_or("usage: boot KERNEL [INITRD [COMMAND-LINE [VCPUS [MODEL]]]]")?,
    )?;
    let initrd = args
        .get(1)
        .filter(|a| !a.is_empty())
        .map(std::fs::read)
        .transpose()?;
    let command_line = args.get(2).cloned().unwrap_or_else(|| "console=ttyS0".into());
    let vcpus = args.get(3).map_or(Ok(1), |n| n.parse())?;
    let mut machine = Machine::new(&MachineConfig {
        memory_bytes: 256 << 20,
        vcpus,
        seed: 1,
        cpu_model: args.get(4).cloned().unwrap_or_default(),
        debug_exit: None,
        guest: GuestImage::Linux {
            kernel: kernel.into(),
            initrd: initrd.map(Into::into),
            command_line,
        },
    })?;
    let until = std::env::var("UNTIL").unwrap_or_else(|_| "~ # ".into());
    let limit: u64 = std::env::var("LIMIT")
        .ok()
        .and_then(|l| l.parse().ok())
        .unwrap_or(4_000_000_000);
    let start = Instant::now();
    let never = AtomicBool::new(false);
    let mut seen = Vec::new();
    let end = loop {
        let exit = machine.run(
            &RunLimit {
                ticks: 2_000_000,
                step: None,
            },
            &never,
        );
        let out = machine.take_console_output(0);
        std::io::stdout().write_all(&out)?;
        std::io::stdout().flush()?;
        seen.extend_from_slice(&out);
        if seen.windows(until.len()).any(|w| w == until.as_bytes()) {
            break "text seen".to_string();
        }
        match exit {
            RunExit::Limit => {}
            RunExit::Idle { until } if until != hv_core::Ticks::NEVER => machine.advance_idle(until),
            other => break format!("{other:?}"),
        }
        if machine.now().0 > limit {
            break "limit".to_string();
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    println!("\n-- {end}");
    for n in 0..machine.vcpu_count() {
        let r = machine.registers(hv_core::VcpuId(n));
        println!(
            "-- vCPU {n}: rip {:#x} rsp {:#x} cr2 {:#x} cr3 {:#x} {:?}",
            r.rip, r.gpr[4], r.cr2, r.cr3, r.activity
        );
    }
    println!(
        "-- {} ticks, {} retired, {:.2} s, {:.1} M/s, {} MiB touched",
        machine.now().0,
        machine.retired(),
        seconds,
        machine.retired() as f64 / seconds / 1e6,
        machine.touched_memory() >> 20
    );
    Ok(())
}
