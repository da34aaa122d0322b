//! The formats of `dprintf`: those of C's `printf`, for numbers, characters and strings of the guest.
//!
//! A format comes as it stands in the user's command, with its escapes. It is checked once, when the breakpoint is
//! inserted; printing is bounded whatever the widths and strings are.

use hv_core::addr::GuestVirtAddr;
use hv_core::introspect::StopContext;
use std::fmt::Write;

/// The longest string of the guest that is printed.
const LONGEST_STRING: u64 = 512;
/// Nothing is padded or has more digits than this.
const WIDEST: usize = 256;

/// A checked format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Format(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    /// A value.
    Value(Conversion),
}

/// `%`, flags, width, precision, length, and a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Conversion {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    bits: u32,
    letter: u8,
}

impl Format {
    /// Checks a format for so many values; `None` if it doesn't fit them, or has what can't be printed here.
    pub fn parse(text: &[u8], values: usize) -> Option<Format> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let [first, tail @ ..] = rest {
            rest = tail;
            match first {
                b'\\' => plain.push(escape(&mut rest)?),
                b'%' if rest.first() == Some(&b'%') => {
                    plain.push(b'%');
                    rest = &rest[1..];
                }
                b'%' => {
                    pieces.push(Piece::Text(String::from_utf8_lossy(&plain).into_owned()));
                    plain.clear();
                    pieces.push(Piece::Value(Conversion::parse(&mut rest)?));
                }
                other => plain.push(*other),
            }
        }
        pieces.push(Piece::Text(String::from_utf8_lossy(&plain).into_owned()));
        let format = Format(pieces);
        (format.values() == values).then_some(format)
    }

    /// How many values it takes.
    pub fn values(&self) -> usize {
        self.0.iter().filter(|p| matches!(p, Piece::Value(_))).count()
    }

    /// Prints; strings are read from the guest at `at`.
    pub fn print(&self, values: &[u64], at: &mut dyn StopContext, text: &mut String) {
        let mut values = values.iter();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Value(conversion) => {
                    conversion.print(values.next().copied().unwrap_or(0), at, text);
                }
            }
        }
    }
}

/// What follows a backslash.
fn escape(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(match first {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'v' => 11,
        b'e' => 27,
        b'0'..=b'7' => {
            let digits = tail
                .iter()
                .take(2)
                .take_while(|d| (b'0'..=b'7').contains(d))
                .count();
            let mut value = u32::from(first - b'0');
            for digit in &tail[..digits] {
                value = value * 8 + u32::from(digit - b'0');
            }
            *rest = &tail[digits..];
            u8::try_from(value).ok()?
        }
        other => *other,
    })
}

impl Conversion {
    /// What follows the `%`.
    fn parse(rest: &mut &[u8]) -> Option<Conversion> {
        let mut c = Conversion {
            bits: 32,
            ..Conversion::default()
        };
        while let Some(flag) = take(rest, |b| b"-0+ #'".contains(&b)) {
            match flag {
                b'-' => c.left = true,
                b'0' => c.zero = true,
                b'+' => c.plus = true,
                b' ' => c.space = true,
                b'#' => c.alternate = true,
                _ => {}
            }
        }
        c.width = number(rest)?;
        if take(rest, |b| b == b'.').is_some() {
            c.precision = Some(number(rest)?);
        }
        while let Some(length) = take(rest, |b| b"hlLqjzt".contains(&b)) {
            c.bits = match (length, c.bits) {
                (b'h', 32) => 16,
                (b'h', _) => 8,
                _ => 64,
            };
        }
        c.letter = take(rest, |_| true)?;
        match c.letter {
            b'd' | b'i' | b'u' | b'x' | b'X' | b'o' => {}
            b'c' if c.bits == 32 => {}
            b's' if c.bits == 32 => c.bits = 64,
            b'p' => (c.bits, c.alternate) = (64, true),
            _ => return None,
        }
        Some(c)
    }

    fn print(self, value: u64, at: &mut dyn StopContext, text: &mut String) {
        let unused = 64 - self.bits;
        let unsigned = value << unused >> unused;
        let signed = (value << unused) as i64 >> unused;
        let (sign, digits) = match self.letter {
            b's' => return self.pad("", &self.string(value, at), false, text),
            b'c' => return self.pad("", &char::from(value as u8).to_string(), false, text),
            b'd' | b'i' => {
                let sign = match signed {
                    ..0 => "-",
                    _ if self.plus => "+",
                    _ if self.space => " ",
                    _ => "",
                };
                (sign, signed.unsigned_abs().to_string())
            }
            b'u' => ("", unsigned.to_string()),
            b'o' if self.alternate => ("0", format!("{unsigned:o}")),
            b'o' => ("", format!("{unsigned:o}")),
            b'X' if self.alternate && unsigned != 0 => ("0X", format!("{unsigned:X}")),
            b'X' => ("", format!("{unsigned:X}")),
            _ if self.alternate && (unsigned != 0 || self.letter == b'p') => ("0x", format!("{unsigned:x}")),
            _ => ("", format!("{unsigned:x}")),
        };
        let least = self.precision.unwrap_or(1);
        let digits = format!("{digits:0>least$}");
        self.pad(sign, &digits, self.zero && self.precision.is_none(), text);
    }

    /// A string of the guest, up to its 0 or to where it can't be read.
    fn string(self, address: u64, at: &mut dyn StopContext) -> String {
        let most = self.precision.map_or(LONGEST_STRING, |p| p as u64);
        let mut bytes = Vec::new();
        for offset in 0..most {
            let mut byte = [0];
            if !at.read_virtual(GuestVirtAddr(address.wrapping_add(offset)), &mut byte) {
                if bytes.is_empty() {
                    return format!("<no memory at {address:#x}>");
                }
                break;
            }
            if byte == [0] {
                break;
            }
            bytes.push(byte[0]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn pad(self, sign: &str, digits: &str, zeros: bool, text: &mut String) {
        let width = self.width.saturating_sub(sign.len());
        // Writing into a String can't fail.
        let _ = if self.left {
            write!(text, "{sign}{digits:<width$}")
        } else if zeros {
            write!(text, "{sign}{digits:0>width$}")
        } else {
            let width = self.width;
            write!(text, "{:>width$}", format!("{sign}{digits}"))
        };
    }
}

/// The first byte if it is one of those that are wanted.
fn take(rest: &mut &[u8], wanted: impl Fn(u8) -> bool) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    if !wanted(*first) {
        return None;
    }
    *rest = tail;
    Some(*first)
}

/// A decimal number, 0 if there is none; `None` if it is too wide.
fn number(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    while let Some(digit) = take(rest, |b| b.is_ascii_digit()) {
        value = value * 10 + usize::from(digit - b'0');
        if value > WIDEST {
            return None;
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::addr::VcpuId;
    use hv_core::regs::Registers;

    /// "kernel" at 0x1000, and no other memory.
    struct Context;

    impl StopContext for Context {
        fn vcpu(&self) -> VcpuId {
            VcpuId(0)
        }
        fn gpr(&self, _: usize) -> u64 {
            0
        }
        fn rip(&self) -> u64 {
            0
        }
        fn rflags(&self) -> u64 {
            2
        }
        fn registers(&self) -> Registers {
            Registers::at_reset(true)
        }
        fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
            let byte = address
                .0
                .checked_sub(0x1000)
                .and_then(|o| b"kernel\0".get(o as usize));
            match byte {
                Some(byte) => buffer.copy_from_slice(&[*byte]),
                None => return false,
            }
            true
        }
    }

    fn printed(format: &str, values: &[u64]) -> String {
        let mut text = String::new();
        let format = Format::parse(format.as_bytes(), values.len()).expect("a format");
        format.print(values, &mut Context, &mut text);
        text
    }

    #[test]
    fn numbers_are_printed_as_c_does() {
        assert_eq!(
            printed("%d %u %x", &[u64::MAX, u64::MAX, 0xabc]),
            "-1 4294967295 abc"
        );
        assert_eq!(printed("%ld %lx", &[u64::MAX, 1 << 40]), "-1 10000000000");
        assert_eq!(
            printed("[%5d|%-5d|%05d]", &[42, 42, (-42i64) as u64]),
            "[   42|42   |-0042]"
        );
        assert_eq!(printed("%#x %#lo %p %#X", &[255, 8, 0, 10]), "0xff 010 0x0 0XA");
        assert_eq!(printed("%.4d %+d % d", &[7, 7, 7]), "0007 +7  7");
        assert_eq!(printed("%hhu %hd", &[0x1ff, 0x8000]), "255 -32768");
    }

    #[test]
    fn characters_strings_and_escapes() {
        assert_eq!(printed(r"a\tb\n%c\x\101%%", &[b'z'.into()]), "a\tb\nzxA%");
        assert_eq!(
            printed("%s|%8s|%.3s", &[0x1000, 0x1003, 0x1000]),
            "kernel|     nel|ker"
        );
        assert_eq!(printed("%s", &[0x2000]), "<no memory at 0x2000>");
    }

    #[test]
    fn what_cannot_be_printed_is_refused() {
        for (format, values) in [
            ("%d", 0),
            ("%d", 2),
            ("%", 1),
            ("%f", 1),
            ("%ls", 1),
            ("%n", 1),
            ("%*d", 2),
            ("%999999999999999999999d", 1),
            (r"\", 0),
            (r"\777", 0),
        ] {
            assert_eq!(Format::parse(format.as_bytes(), values), None, "{format}");
        }
    }
}
