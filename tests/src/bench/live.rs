//! How long a guest stands still that is dumped while it runs.

use super::Options;
use super::report::{Bar, Figure, Unit};
use crate::{Service, until};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

const MEMORY: u64 = 2 << 30;
/// From here up to a MiB below its end, memory is filled.
const FROM: u32 = 4 << 20;
/// Counts when all is filled.
const COUNTER: u32 = 0x20_0000;
const DUMPS: u32 = 3;

/// A multiboot kernel that fills memory, and then writes for ever.
fn kernel() -> Vec<u8> {
    let (magic, flags, base) = (0x1bad_b002_u32, 1_u32 << 16, 0x10_0000_u32);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, base, base, 0, 0, base + 32];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    let count = (MEMORY as u32 - FROM - (1 << 20)) / 4;
    image.extend([0xfc, 0xbf]); // cld; mov edi, FROM
    image.extend(FROM.to_le_bytes());
    image.push(0xb9); // mov ecx, count
    image.extend(count.to_le_bytes());
    image.extend([0xb8, 0x78, 0x56, 0x34, 0x12, 0xf3, 0xab]); // mov eax, 12345678h; rep stosd
    image.extend([0xff, 0x05]); // inc dword [COUNTER]
    image.extend(COUNTER.to_le_bytes());
    image.extend([0xeb, 0xf8]); // back to the inc
    image
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let service = Service::serve(&[] as &[&str]);
    let path = service.scratch().file("kernel", &kernel());
    let path = path.to_string_lossy();
    let create = [
        "create",
        "--name",
        "vm",
        "--kernel",
        &path,
        "--memory",
        "2G",
        "--no-throttle",
    ];
    service.kdd(&create).done();
    let counter = format!("{COUNTER:x}");
    until("the guest to fill its memory", || {
        let read = service.kdd(&["mem", "read", "vm", &counter, "4", "--phys", "-o", "-"]);
        read.stdout.iter().any(|byte| *byte != 0)
    });
    let mut seconds = Vec::new();
    for _ in 0..DUMPS * options.repeat {
        let output = Command::new(crate::kdd())
            .args(["dump", "vm", "--live", "--json", "--format", "elf", "-o", "-"])
            .env("KDD_CONTROL", service.control())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kdd dump: {text}");
        let report = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find_map(|line| find(&line, "paused_microseconds"));
        seconds.push(report.with_context(|| format!("no report: {text}"))? * 1e-6);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(vec![Figure {
        work: "pause of a running 2 GiB guest that is dumped with --live".into(),
        unit: Unit::Seconds,
        ours: seconds[seconds.len() / 2],
        reference: None,
        bar: Bar::AtMost {
            must: 5e-3,
            aim: 0.5e-3,
        },
        note: format!(
            "median of {}, least {:.0} µs, most {:.0} µs",
            seconds.len(),
            seconds[0] * 1e6,
            seconds[seconds.len() - 1] * 1e6
        ),
    }])
}

/// A number by its name, wherever it is in an object.
fn find(value: &serde_json::Value, name: &str) -> Option<f64> {
    let object = value.as_object()?;
    let here = object.get(name).and_then(serde_json::Value::as_f64);
    here.or_else(|| object.values().find_map(|value| find(value, name)))
}
