//! Domain names.

/// A name for a domain: short, printable, and not to be taken for an id.
///
/// # Errors
/// A sentence for the user.
pub fn domain_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 {
        return Err("a name has 1 to 64 characters".into());
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        || text.starts_with('-')
    {
        return Err(format!(
            "'{text}' is no name: letters, digits, '.', '_' and '-' make one, and it doesn't start with '-'"
        ));
    }
    if looks_like_an_id(text) {
        return Err(format!("'{text}' looks like a domain's id: choose another name"));
    }
    Ok(text.to_owned())
}

/// Whether a word is in the form of a domain's id: 16 hex digits.
pub fn looks_like_an_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert_eq!(domain_name("web-1.test_x").as_deref(), Ok("web-1.test_x"));
        for text in ["", "a b", "-x", "a/b", "é", "0123456789abcdef", &"x".repeat(65)] {
            assert!(domain_name(text).is_err(), "{text}");
        }
    }
}
