//! Guest addresses, port numbers and bytes in hex.

/// A guest address: hex with or without `0x`, WinDbg's back-tick allowed (``fffff803`12400000``).
///
/// # Errors
/// A sentence for the user.
pub fn address(text: &str) -> Result<u64, String> {
    let bare = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    let digits: String = bare.chars().filter(|c| *c != '`').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!(
            "'{text}' is no address: write it in hex, with or without 0x"
        ));
    }
    u64::from_str_radix(&digits, 16).map_err(|_| format!("'{text}' is more than 64 bits"))
}

/// An I/O port: `0xf4` or `244`.
///
/// # Errors
/// A sentence for the user.
pub fn port(text: &str) -> Result<u16, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("'{text}' is no I/O port: write 0 to 0xffff"))
}

/// Bytes in hex, white space between them allowed: `90 90 cc`, `9090cc`.
///
/// # Errors
/// A sentence for the user.
pub fn hex_bytes(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| c.to_digit(16).map(|d| d as u8).ok_or(c))
        .collect::<Result<_, char>>()
        .map_err(|c| format!("'{c}' is no hex digit: write bytes as 90 90 cc"))?;
    if !digits.len().is_multiple_of(2) {
        return Err("an odd number of hex digits: write two for each byte".into());
    }
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hex_in_every_spelling() {
        assert_eq!(address("fffff803`12400000"), Ok(0xffff_f803_1240_0000));
        assert_eq!(address("0xffffffff81000000"), Ok(0xffff_ffff_8100_0000));
        assert_eq!(address("10"), Ok(0x10));
    }

    #[test]
    fn what_is_no_address_says_so() {
        for text in ["", "0x", "`", "do_sys_openat2", "-1", "+1", "1 2"] {
            assert!(address(text).unwrap_err().contains("no address"), "{text}");
        }
        assert!(address("10000000000000000").unwrap_err().contains("64 bits"));
    }

    #[test]
    fn bytes_may_be_spaced() {
        assert_eq!(hex_bytes("90 90\tCC"), Ok(vec![0x90, 0x90, 0xcc]));
        assert_eq!(hex_bytes(""), Ok(vec![]));
        assert!(hex_bytes("909").is_err());
        assert!(hex_bytes("9g").is_err());
    }

    #[test]
    fn ports_are_16_bits() {
        assert_eq!(port("0xf4"), Ok(0xf4));
        assert_eq!(port("244"), Ok(0xf4));
        assert!(port("0x10000").is_err());
    }
}
