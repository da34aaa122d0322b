//! A KD endpoint for an NT-shaped guest in a folder: `kd_nt FOLDER ADDR`. For trials by hand.

use hv_core::load::{NtBoot, NtFile};
use hv_core::machine::{GuestImage, MachineConfig};
use hv_core::{DomainConfig, Hypervisor};
use introspect::Target;
use std::path::Path;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}
fn read(folder: &Path, name: &str, path: &str) -> std::io::Result<NtFile> {
    Ok(NtFile {
        path: path.to_string(),
        bytes: std::fs::read(folder.join(name))?.into(),
    })
}
fn boot_files(folder: &Path) -> std::io::Result<NtBoot> {
    let mut names: Vec<String> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut images = Vec::new();
    for name in ["ntoskrnl.exe", "hal.dll"] {
        images.push(read(folder, name, &format!("\\SystemRoot\\system32\\{name}"))?);
    }
    let mut files = Vec::new();
    for name in &names {
        let driver = |name: &str| format!("\\SystemRoot\\System32\\drivers\\{name}");
        if let Some(short) = name.strip_prefix("boot-").filter(|name| name.ends_with(".sys")) {
            images.push(read(folder, name, &driver(short))?);
        } else if name.ends_with(".sys") {
            files.push(read(folder, name, &driver(name))?);
        } else if name.ends_with(".exe") && name != "ntoskrnl.exe" {
            files.push(read(folder, name, &format!("\\SystemRoot\\System32\\{name}"))?);
        }
    }
    Ok(NtBoot {
        images,
        files,
        options: std::env::var("OPTIONS").unwrap_or_else(|_| " NODEBUG".to_string()),
        large_aligned: std::env::var("ALIGN").as_deref() != Ok("4k"),
        random_pte_base: std::env::var("PTE_BASE").as_deref() != Ok("fixed"),
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("KDD_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let folder = std::env::args().nth(1).ok_or("usage: kd_nt FOLDER ADDR")?;
    let address = std::env::args().nth(2).ok_or("usage: kd_nt FOLDER ADDR")?;
    let hypervisor = Hypervisor::new();
    let domain = hypervisor.create(DomainConfig {
        name: Some("nt".into()),
        machine: MachineConfig {
            memory_bytes: number("MEMORY", 128) << 20,
            vcpus: number("VCPUS", 1) as u32,
            seed: number("SEED", 1),
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Nt(boot_files(Path::new(&folder))?),
        },
        paused: false,
        throttle: true,
    })?;
    use hv_core::introspect::{Event, Events};
    domain.subscribe(Box::new(|event| {
        if let Event::Console { bytes, .. } = event {
            use std::io::Write;
            let _ = std::io::stdout().write_all(bytes);
            let _ = std::io::stdout().flush();
        }
    }));
    let input = domain.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            input.console_input(0, format!("{line}\r").as_bytes());
        }
    });
    let target = Target::new(domain.clone());
    let symbols = std::env::var("SYMBOLS")
        .unwrap_or_else(|_| folder.clone())
        .parse()?;
    let endpoint =
        kdd::kd::server::listen(target, address.parse()?, kdd::kd::kernel::windows(symbols)).await?;
    eprintln!("listening {}", endpoint.address);
    std::future::pending::<()>().await;
    Ok(())
}
