//! Printing: tables and lines for people, JSON for scripts.

use crate::Failure;
use serde::Serialize;
use std::io::{self, Write};

/// Prints to standard output. A reader that has seen enough (`kdd list | head -1`) is no failure.
///
/// # Errors
/// Standard output can't be written.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// As [`print`], for bytes.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new("standard output", e, "send it somewhere else"))
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object on a line.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line =
        serde_json::to_string(value).map_err(|e| Failure::new("standard output", e, "leave --json out"))?;
    line.push('\n');
    print(&line)
}

/// Tells of a file that was written: in words, or as JSON. Where standard output is the file's, JSON goes to standard error, and nobody reads
/// words.
pub(super) fn print_report<T: Serialize>(
    report: &T,
    json: bool,
    to_stdout: bool,
    words: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    match (to_stdout, json) {
        (true, true) => {
            let report = serde_json::to_string(report)
                .map_err(|error| Failure::new("standard error", error, "leave --json out"))?;
            eprintln!("{report}");
            Ok(())
        }
        (true, false) => Ok(()),
        (false, true) => print_json(report),
        (false, false) => print(&words(report)),
    }
}

/// Rows in columns, as wide as they have to be; the first row is the heading.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A value, or a dash where there is none.
pub(super) fn optional(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A line that says that a list isn't complete, if it isn't.
pub(super) fn broken(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!("not complete: {why}\n"))
}

/// A size for people: `512M`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{}G", b >> 30),
        b if b >= 1 << 20 => format!("{}M", b >> 20),
        b => format!("{}K", b >> 10),
    }
}

/// A large number for people: `563,012,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(
            table(&[row("NAME", "STATE"), row("a-long-name", "x")]),
            "NAME         STATE\na-long-name  x\n"
        );
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(size(256 << 20), "256M");
        assert_eq!(size(2 << 30), "2G");
        assert_eq!(grouped(563_012_345), "563,012,345");
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1000), "1,000");
    }
}
