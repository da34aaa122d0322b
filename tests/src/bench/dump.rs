//! gdb's `dump binary memory` of 16 MiB, against QEMU's stub.

use super::guest::{Guest, Host};
use super::report::{Bar, Figure, Unit};
use super::{Options, gdb, least, usage};
use anyhow::Result;

const LENGTH: u64 = 16 << 20;
/// Without KASLR the kernel sees physical memory from here on (Documentation/x86/x86_64/mm.rst).
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// The kernel's text and read-only data, with what it left unused between them.
const DENSE: u64 = DIRECT_MAP + (16 << 20);
/// Memory that nothing has been given yet: zeros.
const SPARSE: u64 = DIRECT_MAP + (128 << 20);

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let append = "cryptomgr.notests nokaslr";
    let guests = [
        Guest::booted(Host::Kdd, append)?,
        Guest::booted(Host::Qemu, append)?,
    ];
    let mut figures = Vec::new();
    for (address, name) in [(DENSE, "kernel text and data"), (SPARSE, "free memory")] {
        let command = format!(
            "dump binary memory /dev/null {address:#x} {:#x}",
            address + LENGTH
        );
        let (mut wall, mut gdb_cpu, mut stub_cpu) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
        for _ in 0..2 * options.repeat {
            for (n, guest) in guests.iter().enumerate() {
                let before = usage::cpu_seconds(guest.pid())?;
                let taken = gdb::measure(&guest.gdb, "", &command)?;
                wall[n].push(taken.wall);
                gdb_cpu[n].push(taken.gdb_cpu);
                stub_cpu[n].push(usage::cpu_seconds(guest.pid())? - before);
            }
        }
        let speed = |n: usize| LENGTH as f64 / least(&wall[n]);
        figures.push(Figure {
            work: format!("gdb reads 16 MiB, {name}"),
            unit: Unit::BytesPerSecond,
            ours: speed(0),
            reference: Some(speed(1)),
            bar: Bar::AtLeast { must: 5.0, aim: 10.0 },
            note: format!(
                "gdb itself computes {:.2} s and {:.2} s, the stubs {:.2} s and {:.2} s",
                least(&gdb_cpu[0]),
                least(&gdb_cpu[1]),
                least(&stub_cpu[0]),
                least(&stub_cpu[1])
            ),
        });
    }
    Ok(figures)
}
