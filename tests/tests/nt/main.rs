//! The KD stub and its judges: Microsoft's debugger engine, and a debugger of our own that shares no code with it.

mod client;
mod dumps;
mod engine;
mod kernel_calls;
mod memprocfs;
mod nopae;
mod prompt;
mod radare2;
mod replay;
mod stub;
mod variations;
mod windows;

/// Bytes, written as pairs of digits.
fn hex(text: &str) -> Vec<u8> {
    let digits = text
        .split_whitespace()
        .map(|pair| u8::from_str_radix(pair, 16).expect("hex"));
    digits.collect()
}

/// The report of the worked example: two CPUs, a break-in at fffff80312345678.
fn report() -> Vec<u8> {
    let mut report = hex("30 30 00 00 06 00 00 00 02 00 00 00 00 00 00 00
        00 94 aa 12 03 f8 ff ff 78 56 34 12 03 f8 ff ff
        03 00 00 80 00 00 00 00 00 00 00 00 00 00 00 00
        78 56 34 12 03 f8 ff ff 01 00 00 00 00 00 00 00");
    report.extend_from_slice(&[0; 120]);
    report.extend(hex("01 00 00 00 00 00 00 00
        f0 0f ff ff 00 00 00 00 00 04 00 00 00 00 00 00
        46 02 00 00 10 00 03 00 c3 90 90 90 90 90 90 90
        0f 1f 84 00 00 00 00 00 10 00 2b 00 2b 00 53 00"));
    report
}

/// The version of the worked example: a kernel of build 19041.
const VERSION: &str = "0f 00 61 4a 06 02 47 00 64 86 0c 03 31 00 00 00
    00 00 00 12 03 f8 ff ff 90 a2 c2 12 03 f8 ff ff 20 0b c0 12 03 f8 ff ff";
