//! Sizes: `512M`, `2G`, `4096K`, `0x1000`.

/// Bytes of a domain's memory; a bare number is refused, because nobody agrees on its unit.
///
/// # Errors
/// A sentence for the user.
pub fn memory_size(text: &str) -> Result<u64, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return Err(format!("'{text}' has no unit: write {text}M, or K, G"));
    }
    match length(text)? {
        0 => Err("a domain needs memory".into()),
        bytes => Ok(bytes),
    }
}

/// A count of bytes: decimal or `0x` hex, with an optional K, M, G or T.
///
/// # Errors
/// A sentence for the user.
pub fn length(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size: write 4096, 0x1000, 64K, 512M or 2G");
    let trimmed = text
        .strip_suffix("iB")
        .or_else(|| text.strip_suffix('B').filter(|t| !t.starts_with("0x")))
        .unwrap_or(text);
    let (digits, shift) = match trimmed.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&trimmed[..at], 10),
        Some((at, 'm' | 'M')) => (&trimmed[..at], 20),
        Some((at, 'g' | 'G')) => (&trimmed[..at], 30),
        Some((at, 't' | 'T')) => (&trimmed[..at], 40),
        _ => (trimmed, 0),
    };
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16),
        None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse(),
        _ => return Err(wrong()),
    }
    .map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is more than 2^64 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_units_are_powers_of_two() {
        assert_eq!(memory_size("512M"), Ok(512 << 20));
        assert_eq!(memory_size("2G"), Ok(2 << 30));
        assert_eq!(memory_size("4096K"), Ok(4 << 20));
        assert_eq!(memory_size("1GiB"), Ok(1 << 30));
        assert_eq!(memory_size("256MB"), Ok(256 << 20));
    }

    #[test]
    fn lengths_may_be_bare_or_hex() {
        assert_eq!(length("100"), Ok(100));
        assert_eq!(length("0x100"), Ok(0x100));
        assert_eq!(length("0x1bB"), Ok(0x1bb));
        assert_eq!(length("0x4K"), Ok(0x1000));
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for text in [
            "",
            "M",
            "x",
            "-1M",
            "+1M",
            "1.5G",
            "0x",
            "1 G",
            "99999999999999999999",
            "é",
            "1é",
        ] {
            assert!(length(text).is_err(), "{text}");
        }
        assert!(length("99999999999G").unwrap_err().contains("2^64"));
        assert!(memory_size("256").unwrap_err().contains("256M"));
        assert!(memory_size("0M").is_err());
    }
}
