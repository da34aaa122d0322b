//! 1000 `stepi` of gdb in a script's loop, against QEMU's stub.

use super::guest::{Guest, Host};
use super::report::{Bar, Figure, Unit};
use super::{Options, gdb, least};
use anyhow::Result;

const STEPS: u32 = 1000;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let append = "cryptomgr.notests nokaslr";
    let mut guests = [
        Guest::booted(Host::Kdd, append)?,
        Guest::booted(Host::Qemu, append)?,
    ];
    for guest in &mut guests {
        // An idle guest has nothing to step.
        guest.send("while :; do :; done\n")?;
    }
    let script = format!("define steps\nset $i = 0\nwhile $i < {STEPS}\nstepi\nset $i = $i + 1\nend\nend");
    let (mut wall, mut gdb_cpu) = ([vec![], vec![]], [vec![], vec![]]);
    // Short, and so at the mercy of whoever else uses the host: more tries.
    for _ in 0..4 * options.repeat {
        for (n, guest) in guests.iter().enumerate() {
            let taken = gdb::measure(&guest.gdb, &script, "steps")?;
            wall[n].push(taken.wall);
            gdb_cpu[n].push(taken.gdb_cpu);
        }
    }
    let speed = |n: usize| f64::from(STEPS) / least(&wall[n]);
    Ok(vec![Figure {
        work: format!("{STEPS} stepi by gdb"),
        unit: Unit::PerSecond,
        ours: speed(0),
        reference: Some(speed(1)),
        bar: Bar::AtLeast { must: 2.0, aim: 5.0 },
        note: format!(
            "gdb itself computes {:.2} s and {:.2} s",
            least(&gdb_cpu[0]),
            least(&gdb_cpu[1])
        ),
    }])
}
