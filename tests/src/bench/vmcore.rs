//! Dumps of a 512 MiB Linux guest to a file, against QEMU's `dump-guest-memory` of the same kernel.

use super::report::{Bar, Figure, Unit};
use super::{Options, least, usage};
use crate::{LinuxMachine, QemuMachine, Scratch};
use anyhow::{Context, Result};
use dump::elf::ElfOptions;
use dump::kdump::{Compression, KdumpOptions};
use dump::linux::{KeepAll, LinuxFacts};
use dump::{Ignore, NewFile, Source, Written};
use hv_core::regs::Registers;
use std::path::Path;
use std::time::Instant;

const MEMORY: u64 = 512 << 20;

/// What is written; `None` is ELF.
type Kind = Option<Compression>;

struct Ours {
    machine: LinuxMachine,
    processors: Vec<Registers>,
    facts: LinuxFacts,
}

impl Ours {
    /// Writes a file, which goes again: seconds, what was written, and what the writer needed of memory.
    fn write(&self, kind: Kind, path: &Path) -> Result<(f64, Written, u64)> {
        let source = Source::new(&self.machine);
        let (cpus, facts) = (&self.processors, &self.facts);
        let mut file = NewFile::create(path, true)?;
        let before = usage::forget_peak()?;
        let start = Instant::now();
        let written = match kind {
            None => dump::elf::write(
                &source,
                cpus,
                facts,
                &ElfOptions::default(),
                &mut file,
                &mut Ignore,
            )?,
            Some(compression) => {
                let options = KdumpOptions {
                    compression,
                    ..KdumpOptions::default()
                };
                dump::kdump::write(
                    &source,
                    cpus,
                    facts,
                    &options,
                    &mut KeepAll,
                    &mut file,
                    &mut Ignore,
                )?
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        Ok((seconds, written, usage::peak()?.saturating_sub(before)))
    }
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let scratch = Scratch::default();
    let machine = LinuxMachine::boot(MEMORY, 2).context("no guest")?;
    let ours = Ours {
        processors: machine.processors(),
        facts: machine.facts(),
        machine,
    };
    let mut qemu = QemuMachine::boot(&scratch, MEMORY).context("no guest")?;
    let kinds: [(&str, Kind, Option<&str>, Bar); 4] = [
        ("ELF", None, None, Bar::AtLeast { must: 1.0, aim: 2.0 }),
        (
            "kdump, zlib",
            Some(Compression::Zlib),
            Some("kdump-zlib"),
            Bar::AtLeast { must: 1.5, aim: 3.0 },
        ),
        (
            "kdump, zstd",
            Some(Compression::Zstd),
            Some("kdump-zlib"),
            Bar::AtLeast { must: 1.5, aim: 3.0 },
        ),
        (
            "kdump, snappy",
            Some(Compression::Snappy),
            Some("kdump-zlib"),
            Bar::AtLeast { must: 1.5, aim: 3.0 },
        ),
    ];
    let (mut figures, mut memory) = (Vec::new(), 0);
    for (name, kind, format, bar) in kinds {
        let (mut our_times, mut their_times, mut lengths) = (Vec::new(), Vec::new(), (0, 0));
        // The first one of ours touches pages that nobody touched before, and buffers that later ones find there.
        let (_, _, needed) = ours.write(kind, &scratch.path("ours"))?;
        memory = memory.max(needed);
        for _ in 0..2 * options.repeat {
            let (seconds, written, needed) = ours.write(kind, &scratch.path("ours"))?;
            our_times.push(seconds);
            memory = memory.max(needed);
            let theirs = scratch.path("theirs");
            let start = Instant::now();
            qemu.dump(&theirs, format);
            their_times.push(start.elapsed().as_secs_f64());
            lengths = (written.length, std::fs::metadata(&theirs)?.len());
            std::fs::remove_file(&theirs)?;
        }
        let speed = |times: &[f64]| MEMORY as f64 / least(times);
        figures.push(Figure {
            work: format!("dump of 512 MiB, {name}"),
            unit: Unit::BytesPerSecond,
            ours: speed(&our_times),
            reference: Some(speed(&their_times)),
            bar,
            note: format!(
                "files of {:.1} and {:.1} MB",
                lengths.0 as f64 / 1e6,
                lengths.1 as f64 / 1e6
            ),
        });
    }
    figures.push(Figure {
        work: "memory of the dump writer".into(),
        unit: Unit::Bytes,
        ours: memory as f64,
        reference: None,
        bar: Bar::AtMost {
            must: f64::from(64 << 20),
            aim: f64::from(16 << 20),
        },
        note: "growth of the resident set, the most of all the dumps".into(),
    });
    Ok(figures)
}
