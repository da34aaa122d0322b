//! `kdd dump`: a crash dump of a domain, to a file or to standard output.

use super::common::{Common, unexpected};
use super::destination::Destination;
use super::output;
use crate::Failure;
use crate::control::message::{Compression, DumpFormat, DumpReport, DumpRequest, Progress, Reply, Request};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;

/// Write a crash dump of a domain
///
/// The guest stands still while it is written; with --live only while it is forked, which takes less than a millisecond.
/// Nothing is needed in the guest, and nothing of it is changed. The file appears when it is complete.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  kdd dump web -o memory.dmp\n  kdd dump web --live --format kdump -o vmcore\n  \
                        kdd dump web -o - | ssh archive 'cat > web.vmcore'"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// The file; '-' is standard output, a named pipe gets the dump as a stream
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The format [default: windows for a Windows guest, elf for others]
    #[arg(long, value_name = "FORMAT")]
    format: Option<DumpFormat>,
    /// Let the guest run on: what is written is the instant at which it was asked for
    #[arg(long)]
    live: bool,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    /// How pages of a kdump file are compressed [default: zlib]
    #[arg(long, value_name = "HOW")]
    compress: Option<Compression>,
    /// Kinds of pages to leave out of a kdump file, added up: 1 zero, 2 cache, 4 private cache, 8 user, 16 free
    #[arg(short = 'd', long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..32))]
    level: u8,
    /// Make an ELF dump in which gdb alone finds the kernel's variables; other readers don't take it
    #[arg(long)]
    for_gdb: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let output = Destination::new("dump", &args.output)?;
    let to_stdout = output.is_stdout();
    let path = output.path();
    let mut bar = Bar::new(args.common.json);
    let request = DumpRequest {
        domain: args.domain,
        path,
        format: args.format,
        live: args.live,
        force: args.force,
        compression: args.compress,
        level: args.level,
        for_gdb: args.for_gdb,
        progress: bar.is_shown(),
    };
    let asked = args
        .common
        .client()?
        .ask_and_watch(Request::Dump(Box::new(request)), |progress| bar.show(&progress));
    bar.clear();
    let copied = output.finish();
    let report = match asked? {
        Reply::Dumped(report) => report,
        other => return Err(unexpected(&other)),
    };
    copied?;
    for warning in &report.warnings {
        eprintln!("kdd: warning: {warning}");
    }
    output::print_report(&report, args.common.json, to_stdout, words)
}

fn words(report: &DumpReport) -> String {
    let mut text = format!(
        "{} ({} bytes, {} pages",
        report.path.display(),
        output::grouped(report.bytes),
        output::grouped(report.pages)
    );
    if report.excluded_pages > 0 {
        text += &format!(", {} left out", output::grouped(report.excluded_pages));
    }
    text += &format!(
        ")\n  of {}",
        report.os.as_deref().unwrap_or("an operating system not known")
    );
    if let Some(crash) = &report.crash {
        text += &format!(", crashed: {crash}");
    }
    if report.paused_microseconds > 0 {
        text += &format!(
            "; it stood still for {:.3} ms",
            report.paused_microseconds as f64 / 1000.0
        );
    }
    text + "\n"
}

/// Progress: a line on a terminal, or JSON objects.
struct Bar {
    json: bool,
    terminal: bool,
    begun: Instant,
}

impl Bar {
    fn new(json: bool) -> Bar {
        Bar {
            json,
            terminal: io::stderr().is_terminal(),
            begun: Instant::now(),
        }
    }

    fn is_shown(&self) -> bool {
        self.json || self.terminal
    }

    fn show(&mut self, progress: &Progress) {
        let Progress::Dump { done, total } = *progress else {
            return;
        };
        if self.json {
            // Standard error, so that standard output has one object: the result.
            eprintln!(
                "{}",
                serde_json::json!({"progress": {"done": done, "total": total}})
            );
        } else if self.terminal {
            eprint!(
                "\r\x1b[K{}",
                line(done, total, self.begun.elapsed().as_secs_f64())
            );
        }
    }

    fn clear(&self) {
        if self.terminal && !self.json {
            eprint!("\r\x1b[K");
        }
    }
}

/// `[#####.....]  50 %, 512 MiB/s, 3 s left`.
fn line(done: u64, total: u64, seconds: f64) -> String {
    const WIDTH: u64 = 40;
    let filled = (done.min(total) * WIDTH).checked_div(total).unwrap_or(WIDTH) as usize;
    let percent = (done.min(total) * 100).checked_div(total).unwrap_or(100);
    let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
    let left = if rate > 0.0 {
        format!(", {:.0} s left", (total.saturating_sub(done)) as f64 / rate)
    } else {
        String::new()
    };
    format!(
        "[{}{}] {percent:3} %, {:.0} MiB/s{left}",
        "#".repeat(filled),
        ".".repeat(WIDTH as usize - filled),
        rate / f64::from(1 << 20)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_how_far_it_is_at_what_rate_and_how_long_it_takes() {
        let half = line(1 << 30, 2 << 30, 2.0);
        assert_eq!(
            half,
            format!(
                "[{}{}]  50 %, 512 MiB/s, 2 s left",
                "#".repeat(20),
                ".".repeat(20)
            )
        );
        assert!(line(0, 0, 0.0).contains("100 %"));
    }
}
