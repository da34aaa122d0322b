//! Random descriptors for the guest's `random.s`: `KDD_SYSTEM_CASES` of them, of the seed `KDD_SYSTEM_SEED`.

use std::fmt::Write as _;
use tests::differential::rng::Rng;

/// A taste of every kind, in seconds.
const DEFAULT_CASES: u64 = 12;

/// What fits below the pages whose rights the guest changes.
const MOST_CASES: u64 = 10_000;

/// What may be done with a descriptor, as `random.s` says.
const MAY_ENTER_32: u32 = 0x1_0000;
const MAY_ENTER_64: u32 = 0x2_0000;
const IS_GATE: u32 = 0x4_0000;
/// QEMU's LAR, LSL and LTR take the types 1, 3, 4 and 5 in long mode too, where they are reserved (SDM vol. 3A, 3.5).
const NOT_IN_64: u32 = 0x8_0000;

/// Selectors of `system.s`.
const RANDOM: u32 = 0xa0;
const CODE32: u64 = 0x08;
const DATA32: u64 = 0x10;
const CODE64: u64 = 0x18;
const UCODE32: u64 = 0x23;

/// A descriptor and how it is asked for.
#[derive(Clone, Copy)]
struct Case {
    descriptor: u64,
    upper: u32,
    selector: u32,
}

/// The text of the guest's random.inc.
pub fn descriptors() -> String {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("KDD_SYSTEM_SEED").unwrap_or(1);
    let cases = number("KDD_SYSTEM_CASES")
        .unwrap_or(DEFAULT_CASES)
        .clamp(1, MOST_CASES);
    println!("KDD_SYSTEM_SEED={seed} KDD_SYSTEM_CASES={cases}");
    let mut rng = Rng::new(seed);
    let mut text = "        .data\n        .align 8\nrandom:\n".to_owned();
    for _ in 0..cases {
        let Case {
            descriptor,
            upper,
            selector,
        } = case(&mut rng);
        let _ = writeln!(
            text,
            "        .quad {descriptor:#x}\n        .long {selector:#x}, {upper:#x}"
        );
    }
    text + "random_end:\n"
}

fn case(rng: &mut Rng) -> Case {
    let level = |rng: &mut Rng| rng.pick(&[0, 0, 0, 3, 3, 1, 2]);
    let (kind, dpl) = (rng.below(16), level(rng));
    let plain = rng.chance(65);
    let present = u64::from(rng.chance(88));
    let access = kind | u64::from(plain) << 4 | dpl << 5 | present << 7;
    let selector = RANDOM | level(rng) as u32;
    let upper = if rng.chance(80) { 0 } else { rng.bits() as u32 };
    if !plain && matches!(kind, 4 | 12) {
        let to = rng.pick(&[CODE32, CODE64, DATA32, UCODE32, 0, 0x7ff8]);
        // 64-bit code can't be entered from 32-bit code, nor anything by the 16 bits of an offset.
        let from_32 = kind == 12 && to != CODE64;
        return Case {
            descriptor: to << 16 | access << 40,
            upper,
            selector: selector
                | IS_GATE
                | MAY_ENTER_64
                | if from_32 { MAY_ENTER_32 } else { 0 }
                | if kind == 4 { NOT_IN_64 } else { 0 },
        };
    }
    // AVL, L, D, G
    let flags = rng.below(16);
    let limit = if rng.chance(50) {
        0xf_ffff
    } else {
        rng.below(0x10_0000)
    };
    let base = if rng.chance(50) { 0 } else { rng.below(1 << 32) };
    let (long, big) = (flags & 2 != 0, flags & 4 != 0);
    let mut may = 0;
    // QEMU's IRET looks at no limit, and its far call finds another error code.
    let far = flags & 8 != 0 && limit > 0x1000;
    if base == 0 && plain && (far || kind & 8 == 0) {
        may |= if big { MAY_ENTER_32 } else { 0 };
        // Not both: QEMU takes that, too.
        may |= if long != big { MAY_ENTER_64 } else { 0 };
    }
    if !plain {
        // From 32-bit code that would be a task switch.
        may |= MAY_ENTER_64;
        may |= if matches!(kind, 1 | 3 | 5) { NOT_IN_64 } else { 0 };
    }
    Case {
        descriptor: limit & 0xffff
            | (base & 0xff_ffff) << 16
            | access << 40
            | (limit >> 16) << 48
            | flags << 52
            | (base >> 24) << 56,
        upper,
        selector: selector | may,
    }
}
