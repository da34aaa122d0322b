//! A PDB file: a real linker's with damage, or any bytes.

use super::Target;
use crate::input::Input;
use crate::patch::Patch;
use std::sync::Once;
use symbols::Pdb;

/// See the module.
pub const TARGET: Target = Target {
    name: "pdb",
    run,
    seeds,
    words: &[
        b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\x00\x10\0\0",
    ],
    longest: 4096,
};

const SAMPLE: &[u8] = include_bytes!("../../../symbols/tests/data/sample.pdb");

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1]];
    // Single changes, all over the file and in every way.
    seeds.extend((0..48_u8).map(|how| vec![0, how, how.wrapping_mul(77), how, 0, 0xff, 0xff, 0xff, 0x7f]));
    seeds
}

/// Assertions of the `pdb` crate are caught, and are no news.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_theirs = panic.location().is_some_and(|at| at.file().contains("/pdb-0."));
            if !is_theirs {
                others(panic);
            }
        }));
    });
}

/// Runs a case.
pub fn run(data: &[u8]) {
    hush();
    let mut input = Input::new(data);
    let mode = input.u8();
    let mut bytes = match mode & 3 {
        3 => input.bytes(usize::MAX).to_vec(),
        _ => SAMPLE.to_vec(),
    };
    if mode & 3 == 2 {
        bytes.truncate(usize::from(input.u16()) * 2);
    }
    for patch in Patch::all(&mut input) {
        // Pages of a file are chosen first, so that small ones are hit as often as large ones.
        let pages = bytes.len().div_ceil(4096);
        let page = patch.choice(pages) * 4096;
        let end = (page + 4096).min(bytes.len());
        patch.apply(&mut bytes[page..end]);
    }
    let Ok(pdb) = Pdb::parse(bytes, None) else {
        return;
    };
    for (name, rva) in pdb.names().take(2000) {
        assert!(pdb.rva(name).is_some(), "{name} is listed and not found");
        let (_, start) = pdb.nearest(rva).unwrap_or(("", u32::MAX));
        assert_eq!(start, rva, "{name} isn't nearest to itself");
    }
    for name in ["_EPROCESS", "Sample", "_SAMPLE", "Node"] {
        if let Some(structure) = pdb.structure(name) {
            let _ = structure.field("ActiveProcessLinks");
        }
    }
}
