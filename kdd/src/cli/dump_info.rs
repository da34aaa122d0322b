//! `kdd dump-info`: what a dump file holds.

use super::output;
use crate::Failure;
use dump::{DumpDomain, Image, PAGE_SIZE};
use hv_core::DomId;
use introspect::linux::Linux;
use introspect::windows::{Guest, Windows};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Explain a crash dump: what it is, of what, when, what is missing, and who will refuse it
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd dump-info memory.dmp")]
pub(super) struct Args {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON: one object, sizes in bytes, addresses as hex strings
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(args: &Args) -> Result<(), Failure> {
    let image = dump::open(&args.file).map_err(|error| {
        Failure::new(
            format_args!("dump {}", args.file.display()),
            error,
            "it is damaged, or no dump that is known here: Windows .dmp, ELF vmcore, kdump, LiME, raw",
        )
    })?;
    let facts = Facts::of(&args.file, image);
    if args.json {
        output::print_json(&facts)
    } else {
        output::print(&facts.words())
    }
}

/// What is told; the field names are the contract of `--json`.
#[derive(Serialize)]
struct Facts {
    path: PathBuf,
    format: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    memory_bytes: u64,
    pages: u64,
    ranges: Vec<Range>,
    processors: Vec<Processor>,
    fields: Vec<Field>,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Range {
    start: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Processor {
    number: usize,
    rip: String,
    rsp: String,
    cr3: String,
}

#[derive(Serialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Serialize)]
struct Problem {
    what: String,
    readers: Vec<&'static str>,
}

impl Facts {
    fn of(path: &Path, image: Box<dyn Image>) -> Facts {
        let description = image.description().clone();
        let hex = |value: u64| format!("{value:#x}");
        let ranges = image.ram().iter().map(|range| Range {
            start: hex(range.first.address().0),
            bytes: range.count.saturating_mul(PAGE_SIZE as u64),
        });
        let ranges: Vec<_> = ranges.collect();
        let processors = image.processors().iter().enumerate();
        let processors = processors
            .map(|(number, registers)| Processor {
                number,
                rip: hex(registers.rip),
                rsp: hex(registers.gpr[hv_core::regs::gpr::RSP]),
                cr3: hex(registers.cr3),
            })
            .collect();
        // What the file doesn't say of its system, its memory may.
        let (mut os, mut crash) = (description.os, description.crash);
        if os.is_none() || crash.is_none() {
            let (found_os, found_crash) = recognised(image);
            os = os.or(found_os);
            crash = crash.or(found_crash);
        }
        Facts {
            path: path.to_owned(),
            format: description.format.name(),
            bytes: path.metadata().map_or(0, |facts| facts.len()),
            arch: description.arch,
            os,
            time: description.time,
            uptime_ms: description
                .uptime
                .map(|uptime| u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)),
            crash,
            root: description.root.map(|root| hex(root.0)),
            memory_bytes: ranges.iter().map(|range| range.bytes).sum(),
            pages: description.pages,
            ranges,
            processors,
            fields: description
                .fields
                .into_iter()
                .map(|(name, value)| Field { name, value })
                .collect(),
            problems: description
                .problems
                .into_iter()
                .map(|problem| Problem {
                    what: problem.what,
                    readers: problem.readers,
                })
                .collect(),
        }
    }

    fn words(&self) -> String {
        let mut text = format!("{}\n", self.path.display());
        let mut row = |name: &str, value: String| text += &format!("  {name:<12} {value}\n");
        row("format", self.format.to_owned());
        row("size", format!("{} bytes", output::grouped(self.bytes)));
        let unknown = || "not known".to_owned();
        let arch = self.arch.map_or_else(String::new, |arch| format!(", {arch}"));
        row(
            "system",
            format!("{}{arch}", self.os.clone().unwrap_or_else(unknown)),
        );
        if let Some(time) = self.time {
            row("taken", crate::time::rfc3339(time));
        }
        if let Some(uptime) = self.uptime_ms {
            row("up for", format!("{:?}", Duration::from_millis(uptime)));
        }
        row(
            "crash",
            self.crash.clone().unwrap_or_else(|| "none is told".to_owned()),
        );
        row(
            "memory",
            format!(
                "{} in {} ranges; {} of {} pages are in the file",
                output::size(self.memory_bytes),
                self.ranges.len(),
                output::grouped(self.pages),
                output::grouped(self.memory_bytes / PAGE_SIZE as u64)
            ),
        );
        for range in &self.ranges {
            row(
                "",
                format!("{:>14}  {} bytes", range.start, output::grouped(range.bytes)),
            );
        }
        if let Some(root) = &self.root {
            row("page tables", format!("at {root}"));
        }
        for processor in &self.processors {
            row(
                &format!("processor {}", processor.number),
                format!(
                    "rip {}  rsp {}  cr3 {}",
                    processor.rip, processor.rsp, processor.cr3
                ),
            );
        }
        for field in &self.fields {
            row(&field.name, field.value.clone());
        }
        for problem in &self.problems {
            let readers = match problem.readers.as_slice() {
                [] => String::new(),
                readers => format!(" (refused or read badly by {})", readers.join(", ")),
            };
            row("problem", format!("{}{readers}", problem.what));
        }
        text
    }
}

/// The operating system in an image's memory, and why it crashed, if it did.
fn recognised(image: Box<dyn Image>) -> (Option<String>, Option<String>) {
    let domain = DumpDomain::new(DomId(0), String::new(), image);
    let guest = Guest::new(&domain, &domain);
    if let Ok(windows) = Windows::recognise(guest, &symbols::SymbolPath::default()) {
        return (Some(windows.description()), None);
    }
    let Ok(linux) = Linux::recognise(guest) else {
        return (None, None);
    };
    let crash = linux.crash(&domain).ok();
    let message = crash.and_then(|crash| crash.message().map(str::to_owned));
    (Some(linux.description()), message)
}
