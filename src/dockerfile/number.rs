//! Numbers, sizes and truth values in the spelling that Go's library takes.
//! Unaware of what they count.

/// `1 t T TRUE true True` and their opposites.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Digits only: no sign, no underscores.
pub(super) fn parse_unsigned(text: &str, radix: u32) -> Option<u32> {
    if text.starts_with('+') { None } else { u32::from_str_radix(text, radix).ok() }
}

/// `64m`, `1.5 GiB`, `10kb`, `7`: bytes, units by 1024.
pub(super) fn parse_ram_bytes(text: &str) -> Option<u64> {
    let last = text.rfind(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == ' ')?;
    let (number, suffix) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.starts_with(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == '+') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let suffix = suffix.to_lowercase();
    let shift = match suffix.as_bytes() {
        [] | [b'b'] => 0,
        [unit] | [unit, b'b'] | [unit, b'i', b'b'] => 10 * (b"kmgtp".iter().position(|known| known == unit)? + 1),
        _ => return None,
    };
    let bytes = number * (1u64 << shift) as f64;
    (bytes.is_finite() && bytes < i64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        for (text, bytes) in [
            ("7", Some(7)),
            ("128m", Some(128 << 20)),
            ("1.5 GiB", Some(3 << 29)),
            ("10kb", Some(10240)),
            ("2B", Some(2)),
            ("1x", None),
            ("-1", None),
            ("m", None),
            ("", None),
            ("1kib2", None),
            ("1bb", None),
        ] {
            assert_eq!(parse_ram_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn reads_unsigned_numbers_without_sign() {
        assert_eq!(parse_unsigned("0755", 8), Some(0o755));
        for text in ["+1", "-1", "", "8", "1_0"] {
            assert_eq!(parse_unsigned(text, 8), None, "{text}");
        }
    }
}
