//! What was measured, beside its bar.

use serde_json::{Value, json};
use std::fmt::Write;

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Seconds,
    /// Bytes a second.
    BytesPerSecond,
    /// Of anything, a second.
    PerSecond,
    Bytes,
    /// Of one core.
    Share,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds if value < 1e-3 => format!("{:.0} µs", value * 1e6),
            Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::BytesPerSecond => format!("{:.1} MiB/s", value / f64::from(1 << 20)),
            Unit::PerSecond if value >= 1e6 => format!("{:.1} million/s", value / 1e6),
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Unit::Share => format!("{:.2} %", value * 100.0),
        }
    }
}

/// What must be reached, and what is aimed for: of the ratio where there is a reference, else of the value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtMost { must: f64, aim: f64 },
    AtLeast { must: f64, aim: f64 },
}

impl Bar {
    fn verdict(self, value: f64) -> &'static str {
        let (must, aim) = match self {
            Bar::AtMost { must, aim } => (value <= must, value <= aim),
            Bar::AtLeast { must, aim } => (value >= must, value >= aim),
        };
        match (must, aim) {
            (_, true) => "aim",
            (true, false) => "bar",
            (false, false) => "missed",
        }
    }

    fn show(self, show: impl Fn(f64) -> String) -> String {
        match self {
            Bar::AtMost { must, aim } if must == aim => format!("≤ {}", show(must)),
            Bar::AtLeast { must, aim } if must == aim => format!("≥ {}", show(must)),
            Bar::AtMost { must, aim } => format!("≤ {}, aim {}", show(must), show(aim)),
            Bar::AtLeast { must, aim } => format!("≥ {}, aim {}", show(must), show(aim)),
        }
    }
}

/// One measured thing.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) work: String,
    pub(crate) unit: Unit,
    pub(crate) ours: f64,
    pub(crate) reference: Option<f64>,
    pub(crate) bar: Bar,
    /// What helps to understand it.
    pub(crate) note: String,
}

impl Figure {
    /// Ours to the reference's.
    fn ratio(&self) -> Option<f64> {
        self.reference.map(|reference| self.ours / reference)
    }

    fn judged(&self) -> f64 {
        self.ratio().unwrap_or(self.ours)
    }

    /// As one line for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "work": self.work,
            "unit": format!("{:?}", self.unit),
            "ours": self.ours,
            "reference": self.reference,
            "ratio": self.ratio(),
            "verdict": self.bar.verdict(self.judged()),
            "note": self.note,
        })
    }
}

fn ratio(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}x")
    } else {
        format!("{value:.2}x")
    }
}

/// The table for docs/performance.md.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| work | ours | reference | ratio | bar | reached | note |\n|---|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let reference = figure.reference.map(|value| figure.unit.show(value));
        let bar = match figure.reference {
            Some(_) => figure.bar.show(ratio),
            None => figure.bar.show(|value| figure.unit.show(value)),
        };
        // Writing to a string doesn't fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {bar} | {} | {} |",
            figure.work,
            figure.unit.show(figure.ours),
            reference.as_deref().unwrap_or("-"),
            figure.ratio().map_or("-".to_owned(), ratio),
            figure.bar.verdict(figure.judged()),
            figure.note,
        );
    }
    text
}
