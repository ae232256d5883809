//! PAX records: exact reading (each record counted by its own length, whatever bytes its value holds) and writing.
//! Unaware of headers and files.

use base64::Engine;

use super::{Timestamp, Xattrs};

const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// All records, in order.
pub(super) fn records(mut data: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut list = Vec::new();
    while !data.is_empty() {
        let (key, value, rest) = record(data).ok_or("a malformed PAX record")?;
        list.push((key, value));
        data = rest;
    }
    Ok(list)
}

fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    let (whole, rest) = data.split_at_checked(length)?;
    let text = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&text[..equals], &text[equals + 1..], rest))
}

/// Appends one record.
pub(crate) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut length = body + body.to_string().len();
    if length.to_string().len() > body.to_string().len() {
        length += 1;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The numbers that change how the archive is framed, or who owns what, must be plain decimals.
pub(super) fn check_numbers(records: &[Record<'_>]) -> Result<(), String> {
    for (key, value) in records {
        if matches!(*key, b"size" | b"uid" | b"gid") && decimal(value).is_none() {
            return Err(format!("its PAX {} is not a number", String::from_utf8_lossy(key)));
        }
    }
    Ok(())
}

/// The last `mtime`, with its fraction; may be negative.
pub(super) fn mtime(records: &[Record<'_>]) -> Result<Option<Timestamp>, String> {
    match records.iter().rev().find(|(key, _)| *key == b"mtime") {
        Some((_, value)) if !value.is_empty() => time(value).map(Some).ok_or_else(|| "its PAX mtime is not a time".to_owned()),
        _ => Ok(None),
    }
}

fn time(text: &[u8]) -> Option<Timestamp> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0, |sum, index| sum * 10 + u32::from(fraction.get(index).unwrap_or(&b'0') - b'0'));
    Some(match (is_negative, nanoseconds) {
        (false, _) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp { seconds: -seconds, nanoseconds },
        (true, _) => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Extended attributes in both spellings; where both name the same one, SCHILY's bytes win over LIBARCHIVE's text.
pub(super) fn xattrs(records: &[Record<'_>]) -> Result<Xattrs, String> {
    let mut list = Xattrs::new();
    let mut set = |name: Vec<u8>, value: Vec<u8>| match list.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => list.push((name, value)),
    };
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
            let value = base64::engine::general_purpose::GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                base64::engine::GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
            )
            .decode(value)
            .map_err(|_| "an extended attribute is not base64")?;
            set(percent_decoded(name), value);
        }
    }
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
            set(name.to_vec(), value.to_vec());
        }
    }
    match list.iter().any(|(name, _)| name.is_empty() || name.contains(&0)) {
        true => Err("an extended attribute without a name".to_owned()),
        false => Ok(list),
    }
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut index = 0;
    while index < text.len() {
        let hex = text.get(index + 1..index + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if text[index] == b'%' => {
                out.push(byte);
                index += 3;
            }
            _ => {
                out.push(text[index]);
                index += 1;
            }
        }
    }
    out
}

fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_their_length_not_by_newlines() {
        let mut data = Vec::new();
        push_record(&mut data, b"SCHILY.xattr.user.x", b"x\n22 linkpath=/etc/evil\n");
        push_record(&mut data, b"path", b"p");
        let records = records(&data).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].1, b"x\n22 linkpath=/etc/evil\n");
        assert_eq!(records[1], (&b"path"[..], &b"p"[..]));
    }

    #[test]
    fn lengths_count_their_own_digits() {
        for size in [0, 1, 5, 80, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 980, 990, 991, 992, 993, 994, 9980, 9990, 9995] {
            let mut data = Vec::new();
            push_record(&mut data, b"k", &vec![b'v'; size]);
            assert_eq!(records(&data).unwrap()[0].1.len(), size);
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in ["x", "5 a=b", "7 a=b\n", "6 a=bc\n", "-6 a=b\n", "6 =ab\n", "99999999999999999999 a=b\n", "5 ab\n", " a=b\n"] {
            assert!(records(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        let cases = [("0", 0, 0), ("12.5", 12, 500_000_000), ("-1", -1, 0), ("-1.5", -2, 500_000_000), ("1.1234567899", 1, 123_456_789)];
        for (text, seconds, nanoseconds) in cases {
            assert_eq!(time(text.as_bytes()), Some(Timestamp { seconds, nanoseconds }), "{text}");
        }
        for text in ["", "x", "1.x", "+1", "--1", "1e3", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn xattrs_in_both_spellings() {
        let list =
            xattrs(&[(b"LIBARCHIVE.xattr.user.a%3db", b"YQ"), (b"SCHILY.xattr.user.c", b"\n"), (b"LIBARCHIVE.xattr.user.c", b"YQ==")]);
        assert_eq!(list.unwrap(), [(b"user.a=b".to_vec(), b"a".to_vec()), (b"user.c".to_vec(), b"\n".to_vec())]);
    }
}
