//! A symbol file made of a small kernel's own tables: kallsyms and ORC with damage, BTF of any types.
//!
//! The first byte says how the tables are laid out, the second how many changes to kallsyms and ORC follow; then come types.

use super::Target;
use crate::input::Input;
use crate::patch::Patch;
use std::sync::OnceLock;
use symbols::btf::{Btf, TypeId};
use symbols::kallsyms::Kallsyms;
use symbols::synthetic::cache::Fingerprint;
use symbols::synthetic::{Kernel, Orc};

/// See the module.
pub const TARGET: Target = Target {
    name: "symbol_file",
    run,
    seeds,
    words: &[
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x02\x02\x02\x02",
        b"\x04\x03\x04\x05",
        b"\x0f\x0f\x0d\x0d",
    ],
    longest: 4096,
};

const BASE: u64 = 0xffff_ffff_8100_0000;
/// Symbols of the small kernel.
const COUNT: u64 = 2200;
/// Rows of its ORC.
const ROWS: u64 = 64;
/// Types of one case.
const MAX_TYPES: usize = 600;
/// Names of types and members; some make a difference, some must be cleaned.
const NAMES: [&str; 14] = [
    "",
    "int",
    "char",
    "list_head",
    "task_struct",
    "orc_entry",
    "signal",
    "end",
    "vfs_read",
    "init_task",
    "runqueues",
    "bad\x1b[0m name",
    "\u{fffd}\u{202e}",
    "a_name_that_is_longer_than_it_has_any_right_to_be_and_goes_on_for_a_while",
];

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for layout in 0..4_u8 {
        seeds.push(vec![layout, 0]);
        for how in 0..32_u8 {
            let changes = [
                how,
                how.wrapping_mul(77),
                how,
                how.wrapping_mul(5),
                0xff,
                how,
                0xff,
                0x7f,
            ];
            let types: Vec<u8> = (0..200_u8).map(|n| n.wrapping_mul(how | 1) ^ how >> 2).collect();
            seeds.push([&[layout, how & 3][..], &changes, &types].concat());
        }
    }
    seeds
}

/// What of the small kernel differs.
#[derive(Clone, Copy)]
struct Layout {
    /// Addresses stand before the names (until 6.3).
    first: bool,
    /// Offsets from a base are negative (until 6.14).
    negative: bool,
}

const LAYOUTS: [Layout; 3] = [
    Layout {
        first: true,
        negative: true,
    },
    Layout {
        first: false,
        negative: true,
    },
    Layout {
        first: false,
        negative: false,
    },
];

/// An image with kallsyms (scripts/kallsyms.c) and ORC tables.
fn image(layout: Layout) -> Vec<u8> {
    // Code 1 stands for a longer text; digits, letters and `_` for themselves.
    let token = |code: u8| match code {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => vec![code],
        1 => b"function_".to_vec(),
        _ => format!("x{code}").into_bytes(),
    };
    let orc = 0x2000_u64;
    let mut symbols = vec![
        (0, 'T', "_text".to_owned()),
        (0, 'T', "_stext".to_owned()),
        (0x40, 'T', "vfs_read".to_owned()),
        (0x80, 'T', "asm_exc_page_fault".to_owned()),
        (0x1000, 'T', "_etext".to_owned()),
        (0x1010, 'R', "linux_banner".to_owned()),
        (orc, 'D', "__start_orc_unwind_ip".to_owned()),
        (orc + 4 * ROWS, 'D', "__stop_orc_unwind_ip".to_owned()),
        (orc + 4 * ROWS, 'D', "__start_orc_unwind".to_owned()),
        (orc + 10 * ROWS, 'D', "__stop_orc_unwind".to_owned()),
        (0x3000, 'D', "init_task".to_owned()),
    ];
    let rest = COUNT - symbols.len() as u64;
    symbols.extend((0..rest).map(|n| {
        (
            0x3800 + 16 * n,
            if n % 2 == 0 { 'T' } else { 't' },
            format!("\u{1}{n}"),
        )
    }));
    let mut image = vec![0x90; 0x2000];
    for row in 0..ROWS {
        let (from, to) = (orc + 4 * row, 0x10 * row);
        image.extend((to.wrapping_sub(from) as u32).to_le_bytes());
    }
    for row in 0..ROWS as u8 {
        image.extend([8 + row % 3 * 8, 0, 0xf0, 0xff, 0x15 ^ row & 0x21, 2 | row & 1]);
    }
    let align = |image: &mut Vec<u8>| image.resize(image.len().next_multiple_of(8), 0);
    let addresses = |image: &mut Vec<u8>| {
        align(image);
        for (offset, ..) in &symbols {
            let value = if layout.negative {
                -1 - *offset as i32
            } else {
                *offset as i32
            };
            image.extend(value.to_le_bytes());
        }
        align(image);
        image.extend(BASE.to_le_bytes());
    };
    if layout.first {
        addresses(&mut image);
    }
    align(&mut image);
    image.extend((symbols.len() as u32).to_le_bytes());
    align(&mut image);
    let (start, mut markers) = (image.len(), Vec::new());
    for (number, (_, letter, name)) in symbols.iter().enumerate() {
        if number % 256 == 0 {
            markers.push(image.len() - start);
        }
        image.push(name.len() as u8 + 1);
        image.push(*letter as u8);
        image.extend(name.bytes());
    }
    align(&mut image);
    markers
        .iter()
        .for_each(|marker| image.extend((*marker as u32).to_le_bytes()));
    align(&mut image);
    let (table, mut index) = (image.len(), Vec::new());
    for code in 0..=255 {
        index.push(image.len() - table);
        image.extend(token(code));
        image.push(0);
    }
    align(&mut image);
    index
        .iter()
        .for_each(|offset| image.extend((*offset as u16).to_le_bytes()));
    if !layout.first {
        addresses(&mut image);
    }
    image.extend([0xcc; 4096]);
    image
}

fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| LAYOUTS.iter().map(|layout| image(*layout)).collect())
}

/// BTF of types that the bytes choose (include/uapi/linux/btf.h).
fn types(input: &mut Input<'_>) -> Vec<u8> {
    let (mut strings, mut names) = (vec![0], vec![0]);
    for name in &NAMES[1..] {
        names.push(strings.len() as u32);
        strings.extend(name.bytes());
        strings.push(0);
    }
    let mut types = Vec::new();
    let mut count = 0;
    while !input.is_empty() && count < MAX_TYPES {
        count += 1;
        let (kind, few) = (u32::from(input.u8()) % 21, u32::from(input.u8()));
        let name = names[input.below(names.len())];
        // Nearly always a type that is there, itself or a later one among them; sometimes any number.
        let id = |input: &mut Input<'_>| match input.u8() {
            0xff => input.u32(),
            near => (count as u32 + 8).saturating_sub(u32::from(near) / 4),
        };
        let members = few & 7;
        let flag = few >> 7 << 31;
        let mut words = vec![name];
        match kind {
            1 => words.extend([1 << 24, u32::from(input.u8()), few << 24 | u32::from(input.u16())]),
            3 => words.extend([
                3 << 24,
                0,
                id(input),
                id(input),
                if few == 255 { u32::MAX } else { few },
            ]),
            4 | 5 => {
                words.extend([flag | kind << 24 | members, few * 4]);
                for _ in 0..members {
                    words.extend([names[input.below(names.len())], id(input), u32::from(input.u16())]);
                }
            }
            6 => {
                words.extend([flag | 6 << 24 | members, 1 << (few >> 3 & 3)]);
                for _ in 0..members {
                    words.extend([names[input.below(names.len())], input.u32()]);
                }
            }
            13 => {
                words.extend([13 << 24 | members, id(input)]);
                for _ in 0..members {
                    words.extend([names[input.below(names.len())], id(input)]);
                }
            }
            14 => words.extend([14 << 24, id(input), few & 3]),
            15 => {
                words.extend([15 << 24 | members, few * 64]);
                for _ in 0..members {
                    words.extend([id(input), u32::from(input.u16()), few]);
                }
            }
            17 => words.extend([17 << 24, id(input), few]),
            19 => {
                words.extend([flag | 19 << 24 | members, 8]);
                for _ in 0..members {
                    words.extend([names[input.below(names.len())], input.u32(), input.u32()]);
                }
            }
            _ => words.extend([flag | kind << 24, id(input)]),
        }
        types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    let length = types.len() as u32;
    for word in [24, 0, length, length, strings.len() as u32] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (layout, changes) = (input.u8(), input.below(32));
    let images = images();
    let mut image = images[usize::from(layout) % images.len()].clone();
    let mut head = Input::new(input.bytes(changes * 8));
    for patch in Patch::all(&mut head) {
        let page = patch.choice(image.len() / 4096) * 4096;
        patch.apply(&mut image[page..page + 4096]);
    }
    let mut bytes = types(&mut input);
    if layout & 0x80 != 0 {
        // Damage to what was well-formed, too.
        let mut tail = Input::new(&data[data.len() / 2..]);
        Patch::all(&mut tail)
            .iter()
            .take(8)
            .for_each(|patch| patch.apply(&mut bytes));
    }
    let btf = Btf::parse(bytes).ok();
    if let Some(btf) = &btf {
        ask(btf);
    }
    let Ok(kallsyms) = Kallsyms::find(&image, Some(BASE), |_| true) else {
        return;
    };
    let _ = kallsyms.nearest(BASE + 0x45);
    let _ = kallsyms.end_of(BASE + 0x45);
    let _ = kallsyms.address("vfs_read");
    let read = |at: u64, buffer: &mut [u8]| {
        let start = at.checked_sub(BASE).and_then(|at| usize::try_from(at).ok());
        let part = start.and_then(|start| image.get(start..start.checked_add(buffer.len())?));
        part.is_some_and(|part| {
            buffer.copy_from_slice(part);
            true
        })
    };
    let orc = Orc::find(&kallsyms, btf.as_ref(), read);
    let kernel = Kernel {
        image: BASE..BASE + 0x1_0000,
        symbols: kallsyms.iter().collect(),
        btf: btf.as_ref(),
        orc: orc.as_ref(),
        build_id: Some(&[0xab; 20]),
    };
    let _ = Fingerprint::of(&kernel);
    if let Ok(file) = kernel.symbol_file() {
        let there = file.clone().moved_to(BASE + 0x2ee0_0000);
        assert!(
            there.moved_to(BASE) == file,
            "a file that moves there and back is the same"
        );
    }
}

/// Asks types for everything.
fn ask(btf: &Btf) {
    for it in btf.iter().take(MAX_TYPES) {
        let _ = (it.name(), it.target(), it.size(), it.array(), it.encoding());
        let _ = it.resolved().map(|it| it.id());
        let _ = it.items().len();
        if let Some(structure) = it.structure() {
            for member in structure.members() {
                let _ = (
                    member.offset(),
                    member.size(),
                    member.resolved().map(|it| it.id()),
                );
            }
            let _ = structure.offset("signal");
            let _ = structure.member("end.int.char").map(|it| it.offset());
        }
    }
    let _ = btf.structure("task_struct").map(|it| it.size());
    let _ = btf.get(TypeId(u32::MAX)).map(|it| it.id());
}
