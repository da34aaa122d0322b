//! The benchmarks behind docs/performance.md.
//!
//! ```text
//! main ─► rows, one file each ─► Guest (guest.rs: kdd or QEMU, a process) ─► Gdb (gdb.rs) ─► Figure (report.rs)
//!              └───────────────► Program (program.rs: a few instructions in a machine of this process)
//! ```
//! A row measures ours and its reference in turns, a few times, and reports the best of each: what other users of
//! the host take away is noise, and only ever makes things slower. Nothing here is a test: a figure that misses its bar
//! is shown, and the exit status is 0.

mod attach;
mod boot;
mod condition;
mod dump;
mod fork;
mod gdb;
mod guest;
mod idle;
mod kd;
mod linux;
mod live;
mod loops;
mod open;
mod program;
mod recognise;
mod report;
mod rsp;
mod step;
mod usage;
mod vmcore;

use anyhow::{Result, bail};
use report::Figure;

/// What the rows are told.
pub(crate) struct Options {
    /// How often each thing is measured; the best counts.
    pub(crate) repeat: u32,
}

type Row = fn(&Options) -> Result<Vec<Figure>>;

/// Every row by its name on the command line.
const ROWS: [(&str, Row); 14] = [
    ("boot", boot::run),
    ("dump", dump::run),
    ("step", step::run),
    ("condition", condition::run),
    ("loops", loops::run),
    ("fork", fork::run),
    ("idle", idle::run),
    ("recognise", recognise::run),
    ("kd", kd::run),
    ("vmcore", vmcore::run),
    ("live", live::run),
    ("open", open::run),
    ("attach", attach::run),
    ("linux", linux::run),
];

/// Runs the rows that are named, or all.
///
/// # Errors
/// Unknown arguments; a guest, a debugger or a file that isn't there or doesn't answer. The other rows are shown then.
pub fn main(arguments: impl Iterator<Item = String>) -> Result<()> {
    let (mut json, mut options, mut wanted) = (false, Options { repeat: 3 }, Vec::new());
    for argument in arguments {
        match argument.as_str() {
            "--json" => json = true,
            "--once" => options.repeat = 1,
            name => match ROWS.iter().find(|(row, _)| *row == name) {
                Some(row) => wanted.push(*row),
                None => {
                    let names: Vec<_> = ROWS.iter().map(|(name, _)| *name).collect();
                    bail!(
                        "no row '{name}'; usage: bench [--json] [--once] [ROW...], rows: {}",
                        names.join(", ")
                    );
                }
            },
        }
    }
    if wanted.is_empty() {
        wanted.extend(ROWS);
    }
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for (name, row) in wanted {
        eprintln!("bench: {name}");
        match row(&options) {
            Ok(measured) => figures.extend(measured),
            Err(error) => {
                eprintln!("bench: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if json {
        figures.iter().for_each(|figure| println!("{}", figure.json()));
    } else {
        print!("{}", report::table(&figures));
    }
    if !failed.is_empty() {
        bail!("no figures for: {}", failed.join(", "));
    }
    Ok(())
}

/// The best of several measurements of which less is better.
pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The best of several measurements of which more is better.
pub(crate) fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
