//! Durations as Go writes and reads them: `1h2m0.5s`, `100ms`.
//! Unaware of health checks and of clocks.

use super::quote::go_quote;

const NANOSECOND: u64 = 1;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Reads `[+-]` and numbers with units (`ns us µs ms s m h`), or `0`; gives nanoseconds.
pub fn parse_go(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (value, scale, after) = leading_number(rest).ok_or_else(invalid)?;
        let end = after.find(|ch: char| ch == '.' || ch.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", go_quote(text)));
        }
        let unit_ns = unit_ns(unit).ok_or_else(|| format!("time: unknown unit {} in duration {}", go_quote(unit), go_quote(text)))?;
        let part = whole_and_fraction(value, scale, unit_ns).ok_or_else(invalid)?;
        total = total.checked_add(part).filter(|total| *total <= 1 << 63).ok_or_else(invalid)?;
        rest = next;
    }
    if negative {
        return Ok((total as i64).wrapping_neg());
    }
    i64::try_from(total).map_err(|_| invalid())
}

/// Whole part, fraction digits as `(digits, their count)`, and what follows.
fn leading_number(text: &str) -> Option<(u64, (u64, u32), &str)> {
    let digits = |text: &str| text.len() - text.trim_start_matches(|ch: char| ch.is_ascii_digit()).len();
    let whole_end = digits(text);
    let whole = &text[..whole_end];
    let mut rest = &text[whole_end..];
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let end = digits(after);
        fraction = &after[..end];
        rest = &after[end..];
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|whole| *whole <= 1 << 63)? };
    // Digits beyond a nanosecond of an hour carry nothing.
    let kept = &fraction[..fraction.len().min(18)];
    let fraction = if kept.is_empty() { (0, 0) } else { (kept.parse().ok()?, kept.len() as u32) };
    Some((whole, fraction, rest))
}

fn whole_and_fraction(whole: u64, (fraction, digits): (u64, u32), unit_ns: u64) -> Option<u64> {
    let whole = whole.checked_mul(unit_ns).filter(|ns| *ns <= 1 << 63)?;
    let fraction = u128::from(fraction) * u128::from(unit_ns) / 10u128.pow(digits);
    whole.checked_add(u64::try_from(fraction).ok()?).filter(|ns| *ns <= 1 << 63)
}

fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => NANOSECOND,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// `0s`, `1.5s`, `100ms`, `2m0s`: as history entries show durations.
pub fn format_go(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let ns = nanoseconds.unsigned_abs();
    if ns == 0 {
        return "0s".to_owned();
    }
    if ns < SECOND {
        let (unit, name) = match ns {
            ..MICROSECOND => (NANOSECOND, "ns"),
            MICROSECOND..MILLISECOND => (MICROSECOND, "µs"),
            _ => (MILLISECOND, "ms"),
        };
        return format!("{sign}{}{name}", decimal(ns, unit));
    }
    let seconds = decimal(ns % MINUTE, SECOND);
    match (ns / HOUR, ns / MINUTE % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `ns / unit` without trailing zeros.
fn decimal(ns: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", ns % unit);
    let fraction = if digits == 0 { "" } else { fraction.trim_end_matches('0') };
    if fraction.is_empty() { (ns / unit).to_string() } else { format!("{}.{fraction}", ns / unit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_go_durations() {
        for (text, ns, formatted) in [
            ("0", 0, "0s"),
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("2m", 120_000_000_000, "2m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("100ms", 100_000_000, "100ms"),
            ("1us", 1_000, "1µs"),
            ("1ns", 1, "1ns"),
            (".5h", 1_800_000_000_000, "30m0s"),
            ("-5s", -5_000_000_000, "-5s"),
            ("1h0m1s", 3_601_000_000_000, "1h0m1s"),
        ] {
            assert_eq!(parse_go(text), Ok(ns), "{text}");
            assert_eq!(format_go(ns), formatted);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("x", "time: invalid duration \"x\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("99999999999h", "time: invalid duration \"99999999999h\""),
            (".s", "time: invalid duration \".s\""),
        ] {
            assert_eq!(parse_go(text), Err(error.to_owned()));
        }
        for ns in [i64::MIN, i64::MAX] {
            assert!(parse_go(&format_go(ns)).is_ok() || ns == i64::MIN);
        }
    }
}
