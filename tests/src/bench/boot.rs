//! Boot of the stock kernel to its shell: CPU time against QEMU's translator.

use super::guest::{BOTH, Guest, Host};
use super::report::{Bar, Figure, Unit};
use super::{Options, least};
use anyhow::Result;

const LINES: [(&str, &str); 2] = [
    ("cryptomgr.notests", "with `cryptomgr.notests`"),
    ("", "without it"),
];

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (append, name) in LINES {
        let (mut cpu, mut wall, mut instructions) = ([vec![], vec![]], [vec![], vec![]], 0.0);
        for _ in 0..options.repeat {
            for (n, host) in BOTH.into_iter().enumerate() {
                let mut guest = Guest::start(host, append)?;
                guest.wait_for_prompt()?;
                wall[n].push(guest.age().as_secs_f64());
                cpu[n].push(guest.cpu_seconds()?);
                if host == Host::Kdd {
                    instructions = guest.info("retired_instructions")?;
                }
            }
        }
        let ours = least(&cpu[0]);
        figures.push(Figure {
            work: format!("boot to the shell, {name}, CPU time"),
            unit: Unit::Seconds,
            ours,
            reference: Some(least(&cpu[1])),
            bar: Bar::AtMost { must: 5.0, aim: 2.5 },
            note: format!("wall {:.1} s and {:.1} s", least(&wall[0]), least(&wall[1])),
        });
        figures.push(Figure {
            work: format!("the same, {name}, guest instructions/s"),
            unit: Unit::PerSecond,
            ours: instructions / ours,
            reference: None,
            bar: Bar::AtLeast {
                must: 80e6,
                aim: 80e6,
            },
            note: format!("{:.0} million instructions", instructions / 1e6),
        });
    }
    Ok(figures)
}
