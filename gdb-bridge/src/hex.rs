//! Hexadecimal, by table: memory reads are mostly this.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two digits of every byte.
static PAIRS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = [DIGITS[i >> 4], DIGITS[i & 15]];
        i += 1;
    }
    table
};

/// The value of every digit; 0xff for what is none.
static VALUES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut i = 0;
    while i < 10 {
        table[b'0' as usize + i] = i as u8;
        i += 1;
    }
    let mut i = 0;
    while i < 6 {
        table[b'a' as usize + i] = 10 + i as u8;
        table[b'A' as usize + i] = 10 + i as u8;
        i += 1;
    }
    table
};

/// The two digits of a byte.
pub fn pair(byte: u8) -> [u8; 2] {
    PAIRS[byte as usize]
}

/// The value of one digit.
pub fn digit(byte: u8) -> Option<u8> {
    let value = VALUES[byte as usize];
    (value != 0xff).then_some(value)
}

/// Appends `bytes` as digits.
pub fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() * 2);
    for &byte in bytes {
        out.extend_from_slice(&PAIRS[byte as usize]);
    }
}

/// As [`encode`], with runs of a digit shortened (`0* ` is `0000`): much of a guest's memory is zeros, and a client
/// looks at every character that it receives.
pub fn encode_runs(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() * 2);
    let mut rest = bytes;
    while let [byte, ..] = *rest {
        let [digit, low] = PAIRS[byte as usize];
        let length = if digit == low { run(rest) } else { 1 };
        if length == 1 {
            out.extend_from_slice(&[digit, low]);
        } else {
            put_run(out, digit, length * 2);
        }
        rest = &rest[length..];
    }
}

/// How many bytes at the start are equal; `bytes` isn't empty.
fn run(bytes: &[u8]) -> usize {
    let first = bytes[0];
    let wide = [first; 32];
    let (chunks, _) = bytes.as_chunks::<32>();
    let whole = chunks.iter().take_while(|chunk| **chunk == wide).count() * 32;
    whole + bytes[whole..].iter().take_while(|&&b| b == first).count()
}

/// Appends a digit `count` times.
fn put_run(out: &mut Vec<u8>, digit: u8, mut count: usize) {
    while count > 0 {
        // `~` (126) is the last printable count, 97 repeats; `#` and `$` (6 and 7) can't be counts.
        let repeats = match (count - 1).min(97) {
            0..=2 => 0,
            6 | 7 => 5,
            n => n,
        };
        out.push(digit);
        if repeats > 0 {
            out.extend_from_slice(&[b'*', repeats as u8 + 29]);
        }
        count -= 1 + repeats;
    }
}

/// The bytes that an even number of digits stands for.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

/// A number of 1 to 16 significant digits.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &byte| {
        let digit = digit(byte)?;
        (value >> 60 == 0).then_some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_back_as_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        let mut text = Vec::new();
        encode(&mut text, &all);
        assert_eq!(decode(&text).as_deref(), Some(&all[..]));
        assert_eq!(&text[..6], b"000102");
    }

    #[test]
    fn shortened_runs_expand_to_what_they_were() {
        for length in 1..400 {
            for byte in [0, 0xff, 0x10] {
                let bytes = [&[1, 2][..], &vec![byte; length], &[3, 0, 0, 4]].concat();
                let mut short = Vec::new();
                encode_runs(&mut short, &bytes);
                assert!(!short.contains(&b'#') && !short.contains(&b'$'));
                let mut long: Vec<u8> = Vec::new();
                let mut characters = short.iter();
                while let Some(&character) = characters.next() {
                    match (character, long.last()) {
                        (b'*', Some(&last)) => {
                            let repeats = characters.next().map_or(0, |n| n - 29);
                            long.extend(std::iter::repeat_n(last, repeats.into()));
                        }
                        _ => long.push(character),
                    }
                }
                assert_eq!(decode(&long), Some(bytes));
            }
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(number(b"ffffffff81000000"), Some(0xffff_ffff_8100_0000));
        assert_eq!(number(b"00000ffffffff81000000"), Some(0xffff_ffff_8100_0000));
        assert_eq!(number(b"1ffffffff81000000"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"12g"), None);
        assert_eq!(decode(b"123"), None);
        assert_eq!(decode(b"0x"), None);
    }
}
