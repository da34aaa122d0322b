//! Boots an NT-shaped guest on the bare machine: `nt FOLDER`, where FOLDER holds `ntoskrnl.exe`, `hal.dll`, and what
//! of `bootdrv.sys` (a boot driver), `*.sys` and `*.exe` (files kept in memory) there is. Its console is printed; what
//! is typed comes from `INPUT`, one line after each prompt. It ends after the last line's prompt.
//!
//! Environment: `VCPUS`, `MEMORY` (MiB), `SEED`, `OPTIONS`, `LIMIT` (ticks), `PTE_BASE=fixed`, `ALIGN=4k`;
//! `DUMP` names a file for the RAM below 3 GiB as it is at the end.

use hv_core::load::{NtBoot, NtFile};
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

const PROMPT: &[u8] = b"nt> ";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
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
        if name == "bootdrv.sys" {
            images.push(read(folder, name, &driver(name))?);
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: nt FOLDER")?;
    let mut machine = Machine::new(&MachineConfig {
        memory_bytes: number("MEMORY", 128) << 20,
        vcpus: number("VCPUS", 1) as u32,
        seed: number("SEED", 1),
        cpu_model: std::env::var("MODEL").unwrap_or_default(),
        debug_exit: None,
        guest: GuestImage::Nt(boot_files(Path::new(&folder))?),
    })?;
    let input = std::env::var("INPUT").unwrap_or_default();
    let mut lines = input.lines();
    let limit = number("LIMIT", 2_000_000_000);
    let start = Instant::now();
    let never = AtomicBool::new(false);
    let mut seen = Vec::new();
    let end = loop {
        let exit = machine.run(
            &RunLimit {
                ticks: 200_000,
                step: None,
            },
            &never,
        );
        let out = machine.take_console_output(0);
        std::io::stdout().write_all(&out)?;
        std::io::stdout().flush()?;
        seen.extend_from_slice(&out);
        if seen.ends_with(PROMPT) {
            seen.clear();
            match lines.next() {
                Some(line) => {
                    machine.console_input(0, format!("{line}\r").as_bytes());
                }
                None => break "the last prompt".to_string(),
            }
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
    println!("\n-- {end}");
    for n in 0..machine.vcpu_count() {
        let r = machine.registers(hv_core::VcpuId(n));
        println!(
            "-- vCPU {n}: rip {:#x} rsp {:#x} cr2 {:#x} cr3 {:#x} cr8 {} cpl {} {:?}",
            r.rip,
            r.gpr[4],
            r.cr2,
            r.cr3,
            r.cr8,
            r.cpl(),
            r.activity
        );
    }
    if let Ok(path) = std::env::var("DUMP") {
        let mut ram = vec![0; (number("MEMORY", 128).min(3072) << 20) as usize];
        for (n, page) in ram.chunks_mut(0x1000).enumerate() {
            machine.read_physical(hv_core::GuestPhysAddr(n as u64 * 0x1000), page);
        }
        std::fs::write(path, ram)?;
    }
    println!(
        "-- {} ticks, {} retired, {:.2} s, {} MiB touched",
        machine.now().0,
        machine.retired(),
        start.elapsed().as_secs_f64(),
        machine.touched_memory() >> 20
    );
    Ok(())
}
