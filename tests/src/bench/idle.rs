//! A guest at its prompt: what the service holds beside the guest's memory, and what it computes.

use super::Options;
use super::guest::{Guest, Host};
use super::report::{Bar, Figure, Unit};
use super::usage;
use anyhow::Result;
use std::time::Duration;

/// Until the kernel's last deferred work is done.
const SETTLE: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(10);

pub(crate) fn run(_: &Options) -> Result<Vec<Figure>> {
    let guest = Guest::booted(Host::Kdd, "cryptomgr.notests nokaslr")?;
    std::thread::sleep(SETTLE);
    let before = (
        usage::fine_cpu_seconds(guest.pid())?,
        guest.info("retired_instructions")?,
    );
    std::thread::sleep(WATCHED);
    let cpu = usage::fine_cpu_seconds(guest.pid())? - before.0;
    let instructions = guest.info("retired_instructions")? - before.1;
    let (resident, touched) = (usage::resident_bytes(guest.pid())?, guest.info("touched_bytes")?);
    let mib = f64::from(1 << 20);
    Ok(vec![
        Figure {
            work: "memory of the service above guest memory touched".into(),
            unit: Unit::Bytes,
            ours: resident - touched,
            reference: None,
            bar: Bar::AtMost {
                must: 64.0 * mib,
                aim: 32.0 * mib,
            },
            note: format!(
                "{:.0} MiB resident, {:.0} MiB of them the guest's",
                resident / mib,
                touched / mib
            ),
        },
        Figure {
            work: "CPU of a guest idle at its prompt, of one core".into(),
            unit: Unit::Share,
            ours: cpu / WATCHED.as_secs_f64(),
            reference: None,
            bar: Bar::AtMost {
                must: 0.02,
                aim: 0.005,
            },
            note: format!(
                "over 10 s; the guest runs {:.0} instructions a second",
                instructions / 10.0
            ),
        },
    ])
}
