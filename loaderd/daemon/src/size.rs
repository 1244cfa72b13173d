//! Sizes as people write and read them: `512M`, `4GiB`, `65536`.
//!
//! Enters: text, or bytes. Leaves: the other.

/// Parses a size in bytes; K, M, G and T are powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" | "kb" => 1,
        "m" | "mib" | "mb" => 2,
        "g" | "gib" | "gb" => 3,
        "t" | "tib" | "tb" => 4,
        unit => {
            return Err(format!(
                "`{unit}` is no unit of size: use K, M, G or T (powers of 1024)"
            ));
        }
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1024u64.pow(power)))
        .ok_or_else(|| format!("`{text}` is not a size, e.g. 512M or 4G"))
}

/// A size in words: `1.5 GiB`.
pub(crate) fn show(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("65536", 65536),
            ("4K", 4096),
            ("1GiB", 1 << 30),
            ("2mb", 2 << 20),
        ] {
            assert_eq!(super::parse(text), Ok(bytes));
        }
        for wrong in ["", "G", "4X", "-1", "99999999999999T"] {
            assert!(super::parse(wrong).is_err(), "{wrong}");
        }
    }
}
