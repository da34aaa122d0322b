//! Addresses as people type them: `0xffffffff81000000`, `rip`, `$rsp + 0x18`, `gs_base-8`.
//!
//! gdb hands the words of `monitor` over as they are, so registers are known here. Symbols are gdb's own knowledge.

use crate::guest::Guest;
use crate::registers::{TABLE, View};

/// A sum of hexadecimal numbers and registers of the vCPU that is looked at.
pub fn address(guest: &Guest, words: &[&str]) -> Result<u64, String> {
    let text = words.concat();
    let mut sum: u64 = 0;
    let mut rest = text.as_str();
    let mut minus = false;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let (term, tail) = rest.split_at(end);
        let value = term_value(guest, term)?;
        sum = if minus {
            sum.wrapping_sub(value)
        } else {
            sum.wrapping_add(value)
        };
        match tail.split_at_checked(1) {
            Some((sign, more)) => (minus, rest) = (sign == "-", more),
            None => return Ok(sum),
        }
    }
}

fn term_value(guest: &Guest, term: &str) -> Result<u64, String> {
    if let Ok(value) = number(term) {
        return Ok(value);
    }
    let name = term.trim_start_matches(['$', '%']).to_ascii_lowercase();
    let name = match name.as_str() {
        "pc" => "rip",
        "sp" => "rsp",
        "fp" => "rbp",
        other => other,
    };
    let Some(register) = TABLE.iter().find(|r| r.name == name && r.bits <= 64) else {
        return Err(format!(
            "'{term}' is neither a hexadecimal number nor a register; for a symbol let gdb put its address in: \
             eval \"monitor translate %#lx\", &{}",
            if term.is_empty() { "symbol" } else { term }
        ));
    };
    let view = View::read(guest.domain(), guest.vcpu()).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    view.put(register, &mut bytes);
    bytes.resize(8, 0);
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// A number, hexadecimal with or without `0x`.
pub fn number(text: &str) -> Result<u64, String> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    crate::hex::number(digits.as_bytes()).ok_or_else(|| format!("'{text}' is no hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_register_looks_like_a_number() {
        for register in TABLE {
            assert!(number(register.name).is_err(), "{}", register.name);
        }
    }
}
