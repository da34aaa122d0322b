//! Files that are cut off and files with wrong bits: an error or a dump, and nothing else.

use super::{Dump, KINDS, booted, options};
use dump::{Error, FileBytes, Image, PAGE_SIZE, Pfn};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

/// A generator of numbers: the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Opens it, and looks at what is there.
fn look(path: &std::path::Path) -> Result<(), Error> {
    let dump = dump::windows::open(FileBytes::open(path)?)?;
    let mut page = [0; PAGE_SIZE];
    for range in dump.ram() {
        for pfn in [range.first, Pfn(range.end().0 - 1), range.end()] {
            let _ = dump.read_page(pfn, &mut page);
        }
    }
    assert!(dump.processors().len() <= 2048);
    Ok(())
}

fn spoil(profile: &str) {
    let Some((nt, windows)) = booted(profile) else {
        return;
    };
    for kind in KINDS {
        let dump = Dump::of(&nt, &windows, &options(kind));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&dump.path)
            .unwrap();
        let length = file.metadata().unwrap().len();
        look(&dump.path).unwrap();
        let mut numbers = Numbers(0x1234_5678_9abc_def1);
        let mut refused = 0;
        for n in 0..1500 {
            // Mostly where something is said.
            let (start, end) = match n % 8 {
                0 => (0, length),
                1 => (0, 0x3000),
                2 | 3 => (0xf88, 0xfb0),
                4 => (0x1000, 0x1058),
                5 | 6 => (0x2000, 0x2038),
                _ => (0, 0xb0),
            };
            let mut old = Vec::new();
            for _ in 0..=numbers.below(4) {
                let at = start + numbers.below(end - start);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                old.push((at, byte));
                let new = match numbers.below(3) {
                    0 => byte[0] ^ 1 << numbers.below(8),
                    1 => 0xff,
                    _ => numbers.below(256) as u8,
                };
                file.write_all_at(&[new], at).unwrap();
            }
            refused += u32::from(look(&dump.path).is_err());
            for (at, byte) in old.into_iter().rev() {
                file.write_all_at(&byte, at).unwrap();
            }
        }
        assert!(refused > 10, "{refused}");
        look(&dump.path).unwrap();
        let mut cuts: Vec<u64> = (0..300).map(|_| numbers.below(length)).collect();
        cuts.extend(0..100);
        cuts.extend((0x1000..0x3100).step_by(8));
        cuts.sort_unstable();
        for cut in cuts.into_iter().rev() {
            file.set_len(cut).unwrap();
            let error = look(&dump.path).expect_err("it isn't all there");
            assert!(
                matches!(
                    error,
                    Error::Truncated { .. } | Error::Damaged { .. } | Error::Unknown(_)
                ),
                "{cut:#x}: {error}"
            );
        }
    }
}

#[test]
fn spoiled_64_bit_dumps_do_no_harm() {
    spoil("win10-19041-x64");
}

#[test]
fn spoiled_32_bit_dumps_do_no_harm() {
    spoil("win7-x86");
}
