//! A breakpoint with a false condition on a kernel function that is called all the time, against QEMU's stub.
//!
//! The guest's own progress counts: `dd` with blocks of one byte enters read(2) once for each.

use super::guest::{BOTH, Guest, Host};
use super::report::{Bar, Figure, Unit};
use super::{Options, gdb, most};
use anyhow::Result;
use std::time::Instant;

const FUNCTION: &str = "__x64_sys_read";

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let (mut hits, mut free) = ([vec![], vec![]], [vec![], vec![]]);
    for (n, host) in BOTH.into_iter().enumerate() {
        let (slow, fast) = match host {
            Host::Kdd => (200_000, 200_000),
            Host::Qemu => (2_000, 200_000),
        };
        for _ in 0..options.repeat {
            // Anew each time: QEMU's guest stands still for ever once a gdb was killed that had a breakpoint in it.
            let mut guest = Guest::booted(host, "cryptomgr.notests nokaslr")?;
            let address = guest.symbol(FUNCTION)?;
            free[n].push(reads_per_second(&mut guest, fast)?);
            let script = format!(
                "break *{address:#x} if $rdi == 0x123456789\npython print('ARMED', flush=True)\ncontinue"
            );
            let mut gdb = gdb::start(&guest.gdb, &script)?;
            gdb.wait_for("ARMED")?;
            hits[n].push(reads_per_second(&mut guest, slow)?);
        }
    }
    Ok(vec![Figure {
        work: "a conditional breakpoint that is false, hits/s".into(),
        unit: Unit::PerSecond,
        ours: most(&hits[0]),
        reference: Some(most(&hits[1])),
        bar: Bar::AtLeast {
            must: 100.0,
            aim: 1000.0,
        },
        note: format!(
            "without the breakpoint the function is called {:.0} and {:.0} times a second",
            most(&free[0]),
            most(&free[1])
        ),
    }])
}

fn reads_per_second(guest: &mut Guest, count: u32) -> Result<f64> {
    guest.send(&format!(
        "echo be''gin; dd if=/dev/zero of=/dev/null bs=1 count={count} 2>/dev/null; echo e''nd\n"
    ))?;
    guest.wait_for("begin\r\n")?;
    let begin = Instant::now();
    guest.wait_for("end\r\n")?;
    let speed = f64::from(count) / begin.elapsed().as_secs_f64();
    guest.wait_for_prompt()?;
    Ok(speed)
}
