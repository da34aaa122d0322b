//! From a dump's file to the first answer about the guest in it, which may not take longer the larger the guest is.

use super::report::{Bar, Figure, Unit};
use super::{Options, least, recognise};
use crate::Scratch;
use crate::tools::cache_folder;
use anyhow::Result;
use dump::elf::ElfOptions;
use dump::kdump::KdumpOptions;
use dump::linux::{KeepAll, LinuxFacts};
use dump::windows::{self, Kind};
use dump::{DumpDomain, Ignore, NewFile, Source};
use hv_core::introspect::{Introspect, ReadRegisters};
use hv_core::{DomId, Domain, Hypervisor, VcpuId};
use introspect::windows::{Guest, Windows};
use std::path::Path;
use std::time::Instant;
use symbols::SymbolPath;

const SIZES: [(&str, u64); 2] = [("1 GiB", 1 << 30), ("16 GiB", 16 << 30)];
const FORMATS: [&str; 4] = ["Windows, type 1", "Windows, type 5", "ELF", "kdump"];
const TRIES: u32 = 10;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let scratch = Scratch::default();
    let folder = cache_folder().join("nt").join(recognise::PROFILE);
    let mut figures = Vec::new();
    for (size, memory_bytes) in SIZES {
        let hypervisor = Hypervisor::new();
        let domain = recognise::booted(&hypervisor, &folder, memory_bytes)?;
        for format in FORMATS {
            let path = scratch.path("dump");
            write(&domain, format, &path)?;
            let (mut medians, mut modules) = (Vec::new(), 0);
            for _ in 0..options.repeat {
                let mut seconds = Vec::new();
                for _ in 0..TRIES {
                    let start = Instant::now();
                    let image = dump::open(&path)?;
                    let dump = DumpDomain::new(DomId(1), "dump".into(), image);
                    modules =
                        recognise::recognise((&dump as &dyn Introspect).into(), &SymbolPath::default())?;
                    seconds.push(start.elapsed().as_secs_f64());
                }
                seconds.sort_by(f64::total_cmp);
                medians.push(seconds[seconds.len() / 2]);
            }
            std::fs::remove_file(&path)?;
            figures.push(Figure {
                work: format!("open a dump of {size} to its modules: {format}"),
                unit: Unit::Seconds,
                ours: least(&medians),
                reference: None,
                bar: Bar::AtMost {
                    must: 100e-3,
                    aim: 20e-3,
                },
                note: format!("{modules} modules; median of {TRIES}"),
            });
        }
        domain.destroy();
    }
    Ok(figures)
}

/// Writes a paused domain to a file, with holes where it is zeros.
fn write(domain: &Domain, format: &str, path: &Path) -> Result<()> {
    let guest = Guest::from(domain as &dyn Introspect);
    let source = Source::new(domain);
    let registers = |vcpu| domain.registers(VcpuId(vcpu));
    let cpus = (0..domain.vcpu_count())
        .map(registers)
        .collect::<Result<Vec<_>, _>>()?;
    let facts = LinuxFacts::default();
    let mut file = NewFile::create(path, true)?;
    match format {
        "ELF" => dump::elf::write(
            &source,
            &cpus,
            &facts,
            &ElfOptions::default(),
            &mut file,
            &mut Ignore,
        )?,
        "kdump" => {
            let options = KdumpOptions::default();
            dump::kdump::write(
                &source,
                &cpus,
                &facts,
                &options,
                &mut KeepAll,
                &mut file,
                &mut Ignore,
            )?
        }
        _ => {
            let kind = if format.ends_with('1') {
                Kind::Full
            } else {
                Kind::BitmapFull
            };
            let options = windows::Options {
                kind,
                ..windows::Options::default()
            };
            let windows = Windows::recognise(guest, &SymbolPath::default())?;
            windows::write(guest, &windows, &options, &mut file, &mut Ignore)?
        }
    };
    Ok(file.commit()?)
}
