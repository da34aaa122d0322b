//! A Windows kernel recognised from outside: its base, its build, and its modules. The guest is the NT-shaped one.

use super::report::{Bar, Figure, Unit};
use super::{Options, least};
use crate::BOOT_LIMIT;
use crate::tools::cache_folder;
use anyhow::{Context, Result, bail, ensure};
use hv_core::introspect::{ControlRun, Event, Events};
use hv_core::load::{NtBoot, NtFile};
use hv_core::machine::{GuestImage, MachineConfig};
use hv_core::{Domain, DomainConfig, Hypervisor};
use introspect::Target;
use introspect::windows::{Guest, Windows};
use nt_guest::Manifest;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Instant;
use symbols::SymbolPath;

pub(super) const PROFILE: &str = "win10-19041-x64";
/// Most of the larger one is never touched, and takes no memory of the host.
const SIZES: [(&str, u64); 2] = [("512 MiB", 512 << 20), ("16 GiB", 16 << 30)];
const TRIES: u32 = 50;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let folder = cache_folder().join("nt").join(PROFILE);
    let pdb: SymbolPath = folder.display().to_string().parse()?;
    let mut figures = Vec::new();
    for (size, memory_bytes) in SIZES {
        let hypervisor = Hypervisor::new();
        let domain = booted(&hypervisor, &folder, memory_bytes)?;
        let target = Target::new(domain.clone());
        for (how, symbols) in [
            ("without symbols", &SymbolPath::default()),
            ("with its PDB", &pdb),
        ] {
            let mut medians = Vec::new();
            let mut modules = 0;
            for _ in 0..options.repeat {
                let mut seconds = Vec::new();
                for _ in 0..TRIES {
                    let start = Instant::now();
                    modules = recognise(Guest::from(&*target), symbols)?;
                    seconds.push(start.elapsed().as_secs_f64());
                }
                seconds.sort_by(f64::total_cmp);
                medians.push(seconds[seconds.len() / 2]);
            }
            figures.push(Figure {
                work: format!("recognise Windows in {size}, {how}"),
                unit: Unit::Seconds,
                ours: least(&medians),
                reference: None,
                bar: Bar::AtMost {
                    must: 50e-3,
                    aim: 10e-3,
                },
                note: format!("base, build and {modules} modules; median of {TRIES}"),
            });
        }
        domain.destroy();
    }
    Ok(figures)
}

/// From the first call to base, build and modules: how many modules there are.
pub(super) fn recognise(guest: Guest<'_>, symbols: &SymbolPath) -> Result<usize> {
    let windows = Windows::recognise(guest, symbols)?;
    let modules = windows.modules(guest)?;
    ensure!(modules.broken.is_none(), "the list of modules is broken");
    ensure!(
        windows.build() == Some(19041),
        "its build is {:?}",
        windows.build()
    );
    let kernel = modules.items.first().context("no modules")?;
    ensure!(
        kernel.base == windows.kernel().base,
        "the first module isn't the kernel"
    );
    Ok(modules.items.len())
}

/// A domain at its prompt, paused.
pub(super) fn booted(hypervisor: &Hypervisor, folder: &Path, memory_bytes: u64) -> Result<Arc<Domain>> {
    let domain = hypervisor.create(DomainConfig {
        name: None,
        machine: MachineConfig {
            memory_bytes,
            vcpus: 1,
            seed: 1,
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Nt(boot_files(folder)?),
        },
        paused: true,
        throttle: false,
    })?;
    let (output, console) = mpsc::channel();
    domain.subscribe(Box::new(move |event| {
        if let Event::Console { port: 0, bytes } = event {
            // Nobody listens once the prompt is there.
            let _ = output.send(bytes.clone());
        }
    }));
    domain.unpause()?;
    let mut shown = Vec::new();
    while !shown.ends_with(b"nt> ") {
        let Ok(bytes) = console.recv_timeout(BOOT_LIMIT) else {
            bail!("no prompt after:\n{}", String::from_utf8_lossy(&shown));
        };
        shown.extend(bytes);
    }
    domain.pause()?;
    Ok(domain)
}

fn boot_files(folder: &Path) -> Result<NtBoot> {
    let manifest = Manifest::read(folder).context("setup/guest-nt.sh builds the guest")?;
    let mut boot = NtBoot {
        images: Vec::new(),
        files: Vec::new(),
        options: " NODEBUG".to_owned(),
        large_aligned: manifest.large_aligned,
        random_pte_base: manifest.random_pte_base,
    };
    for image in manifest.images {
        let file = NtFile {
            path: image.path,
            bytes: std::fs::read(folder.join(&image.file))?.into(),
        };
        if image.boot {
            boot.images.push(file);
        } else {
            boot.files.push(file);
        }
    }
    Ok(boot)
}
