//! A PE image in memory: a real linker's with damage, or any bytes.

use super::Target;
use crate::input::Input;
use crate::patch::Patch;
use symbols::pe::{self, Exports, Headers};

/// See the module.
pub const TARGET: Target = Target {
    name: "pe",
    run,
    seeds,
    words: &[
        b"MZ",
        b"PE\0\0",
        b"RSDS",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\x0b\x01",
        b"\x0b\x02",
    ],
    longest: 4096,
};

const SAMPLE: &[u8] = include_bytes!("../../../symbols/tests/data/sample.exe");

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], [&[3], &SAMPLE[..2048]].concat()];
    seeds.extend((0..48_u8).map(|how| vec![0, how, how.wrapping_mul(77), how, 0, 0xff, 0xff, 0xff, 0x7f]));
    seeds
}

/// The file as it is in memory, each section at its RVA.
fn image() -> Vec<u8> {
    let Ok(headers) = Headers::parse(SAMPLE) else {
        return SAMPLE.to_vec();
    };
    let mut memory = vec![0; headers.size_of_image as usize];
    let long = |at: usize| {
        let bytes = SAMPLE.get(at..at + 4).and_then(|it| it.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default()) as usize
    };
    let mut copy = |to: usize, from: usize, length: usize| {
        if let (Some(to), Some(from)) = (memory.get_mut(to..to + length), SAMPLE.get(from..from + length)) {
            to.copy_from_slice(from);
        }
    };
    copy(0, 0, headers.size_of_headers as usize);
    for section in &headers.sections {
        // The entry of the section table (IMAGE_SECTION_HEADER): the size in the file at 16, the place there at 20.
        let entry = (0..0x400)
            .find(|&at| SAMPLE[at..].starts_with(&section.name) && long(at + 12) == section.rva as usize);
        if let Some(entry) = entry {
            copy(
                section.rva as usize,
                long(entry + 20),
                long(entry + 16).min(0x1000),
            );
        }
    }
    memory
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bytes = match input.u8() & 3 {
        3 => input.bytes(usize::MAX).to_vec(),
        _ => image(),
    };
    for patch in Patch::all(&mut input) {
        let pages = bytes.len().div_ceil(4096);
        let page = patch.choice(pages) * 4096;
        let end = (page + 4096).min(bytes.len());
        patch.apply(&mut bytes[page..end]);
    }
    let read = |rva: u32, buffer: &mut [u8]| {
        let start = rva as usize;
        match bytes.get(start..start.saturating_add(buffer.len())) {
            Some(there) => {
                buffer.copy_from_slice(there);
                true
            }
            None => false,
        }
    };
    let Ok(headers) = Headers::parse(&bytes[..bytes.len().min(4096)]) else {
        return;
    };
    for index in 0..20 {
        let _ = headers.directory(index);
    }
    let _ = headers.section_of(headers.size_of_image / 2);
    let _ = pe::code_view(&headers, &read);
    if let Ok(exports) = Exports::open(&headers, &read) {
        let _ = exports.image_name();
        let all: Vec<_> = exports.iter().take(10_000).collect();
        for export in all.iter().take(50) {
            let _ = exports.find(&export.name);
        }
    }
}
