//! The driver's output: `driver.cpp` says how it is made.

/// DEBUG_OUTPUT_ERROR and DEBUG_OUTPUT_WARNING.
const COMPLAINTS: u32 = 2 | 4;

/// What the engine printed, piece by piece, each with its kind: DEBUG_OUTPUT_*.
fn pieces(text: &str) -> Vec<(u32, String)> {
    let mut pieces = Vec::new();
    let mut kind = 1;
    let mut rest = text;
    while let Some(at) = rest.find(['\x1d', '\x1e']) {
        let (before, mark) = rest.split_at(at);
        push(&mut pieces, kind, before);
        let end = if mark.starts_with('\x1d') { '\x1d' } else { '\n' };
        let (mark, after) = mark[1..].split_once(end).unwrap_or((&mark[1..], ""));
        if end == '\x1d' {
            kind = u32::from_str_radix(mark, 16).unwrap_or(1);
        }
        rest = after;
    }
    push(&mut pieces, kind, rest);
    pieces
}

fn push(pieces: &mut Vec<(u32, String)>, kind: u32, text: &str) {
    match pieces.last_mut() {
        Some((last, before)) if *last == kind => before.push_str(text),
        _ => pieces.push((kind, text.to_owned())),
    }
}

/// Without the driver's marks.
pub(super) fn plain(text: &str) -> String {
    pieces(text).into_iter().map(|(_, text)| text).collect()
}

/// The lines that the engine printed as errors or warnings, without its report that the symbol path is all right.
pub(super) fn complaints(text: &str) -> Vec<String> {
    let pieces = pieces(text).into_iter();
    let complaints = pieces.filter(|(kind, _)| kind & COMPLAINTS != 0);
    complaints
        .flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| !line.trim().is_empty() && !summary(line))
        .collect()
}

fn summary(line: &str) -> bool {
    ["************* Symbol Path validation", "Response  ", "OK  "]
        .iter()
        .any(|start| line.starts_with(start))
}
