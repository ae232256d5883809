//! The forms in which a value is searched for. Pure.
//!
//! | Form | What |
//! |---|---|
//! | value | the bytes without white space around them; of a long value its middle |
//! | part | the longest lines of a value of several, and words like tokens at the end of a line (`password=..`) |
//! | base64 | at all three alignments, in both alphabets; of a long value two neighbouring pieces, one of which no line break of 64 or 76 columns can cut |
//! | URL-encoded | with capital and small digits, and as JavaScript's encodeURIComponent leaves it |
//! | JSON | as it stands inside a JSON string |
//!
//! Values below [`MIN_BYTES`] are everywhere by chance and are not searched for. What was compressed, encrypted or cut
//! in pieces before it was written is not found either.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Shorter values can't be searched for.
pub const MIN_BYTES: usize = 8;
/// Parts of a value are only searched for from here on: a line of a file may well be a word of everyday use.
const MIN_PART_BYTES: usize = 16;
/// As much of a long value is searched for.
const WINDOW_BYTES: usize = 256;
/// What fits on one line of 76 columns of base64.
const BASE64_LINE_BYTES: usize = 57;
const BASE64_PIECE_BYTES: usize = 24;
/// So many lines, and so many tokens, of one value.
const MAX_PARTS: usize = 16;
const MAX_TOKENS: usize = 4;

/// How a value was written where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Value,
    /// A line or token of it.
    Part,
    /// Base64.
    Base64,
    /// Percent-encoded.
    Url,
    /// Escaped as in JSON.
    Json,
}

impl Form {
    /// Completes "holds the value of secret X"; empty for the value itself.
    pub fn describe(self) -> &'static str {
        match self {
            Form::Value => "",
            Form::Part => " (a part of it)",
            Form::Base64 => " (as base64)",
            Form::Url => " (URL-encoded)",
            Form::Json => " (as JSON)",
        }
    }
}

/// All that a value is searched as, without repetitions; None when it is too short.
pub fn forms(value: &[u8]) -> Option<Vec<(Form, Vec<u8>)>> {
    let whole = value.trim_ascii();
    if whole.len() < MIN_BYTES {
        return None;
    }
    let mut all: Vec<(Form, Vec<u8>)> = Vec::new();
    add_all_forms(whole, Form::Value, &mut all);
    let tokens = tokens(whole);
    tokens.iter().for_each(|token| add_all_forms(token, Form::Part, &mut all));
    all.extend(long_lines(whole).into_iter().map(|line| (Form::Part, middle(line).to_vec())));
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|(_, pattern)| seen.insert(pattern.clone()));
    Some(all)
}

fn add_all_forms(value: &[u8], form: Form, all: &mut Vec<(Form, Vec<u8>)>) {
    let shown = middle(value);
    all.push((form, shown.to_vec()));
    all.extend(base64_pieces(value).into_iter().map(|piece| (Form::Base64, piece)));
    all.extend(url_encodings(shown).into_iter().filter(|text| text != shown).map(|text| (Form::Url, text)));
    if let Ok(text) = std::str::from_utf8(shown) {
        let quoted = serde_json::to_string(text).expect("a string has a JSON form");
        all.push((Form::Json, quoted.as_bytes()[1..quoted.len() - 1].to_vec()));
    }
}

/// The whole of a short value; a long one begins and ends as many others of its kind do.
fn middle(value: &[u8]) -> &[u8] {
    let start = value.len().saturating_sub(WINDOW_BYTES) / 2;
    &value[start..value.len().min(start + WINDOW_BYTES)]
}

fn base64_pieces(value: &[u8]) -> Vec<Vec<u8>> {
    let pieces = if value.len() <= BASE64_LINE_BYTES {
        vec![value]
    } else {
        let start = value.len() / 2 - BASE64_PIECE_BYTES;
        value[start..start + 2 * BASE64_PIECE_BYTES].chunks(BASE64_PIECE_BYTES).collect()
    };
    let mut all = Vec::new();
    for piece in pieces {
        for before in 0..3 {
            let padded = [&[0; 2][..before], piece].concat();
            // Characters that hold bits of the neighbours too are left out.
            let (first, last) = ([0, 2, 3][before], padded.len() * 8 / 6);
            for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                all.push(text.as_bytes()[first..last].to_vec());
            }
        }
    }
    all
}

fn url_encodings(value: &[u8]) -> [Vec<u8>; 3] {
    let encode = |kept: &[u8], lower: bool| {
        let mut text = Vec::with_capacity(value.len());
        for byte in value {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(*byte),
                byte if kept.contains(byte) => text.push(*byte),
                byte if lower => text.extend(format!("%{byte:02x}").bytes()),
                byte => text.extend(format!("%{byte:02X}").bytes()),
            }
        }
        text
    };
    [encode(b"", false), encode(b"", true), encode(b"!*'()", false)]
}

/// The longest lines of a value that has several. Marks around keys and comments are the same in many files.
fn long_lines(value: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).collect();
    if lines.len() < 2 {
        return Vec::new();
    }
    lines.retain(|line| line.len() >= MIN_PART_BYTES && !line.starts_with(b"-----") && !line.starts_with(b"#"));
    lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
    lines.truncate(MAX_PARTS);
    lines
}

/// The last words of lines such as `//host/:_authToken=..`, `"password": ".."`, `login x password ..`, if they look like
/// tokens: long, with letters and digits.
fn tokens(value: &[u8]) -> Vec<&[u8]> {
    let mut found: Vec<&[u8]> = Vec::new();
    for line in value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let ends = |byte: &u8| matches!(byte, b'"' | b'\'' | b',' | b';' | b'}' | b']') || byte.is_ascii_whitespace();
        let end = line.iter().rposition(|byte| !ends(byte)).map_or(0, |at| at + 1);
        let start = line[..end].iter().rposition(|byte| matches!(byte, b'=' | b':' | b'"' | b'\'') || byte.is_ascii_whitespace());
        let Some(start) = start else { continue };
        let word = &line[start + 1..end];
        let looks_secret = word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic);
        if word.len() >= MIN_PART_BYTES && looks_secret && found.len() < MAX_TOKENS {
            found.push(word);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(value: &[u8], text: &[u8]) -> bool {
        forms(value).unwrap().iter().any(|(_, pattern)| text.windows(pattern.len()).any(|part| part == *pattern))
    }

    #[test]
    fn base64_is_found_at_every_alignment_and_across_line_breaks() {
        let short = b"hunter2-is-no-password";
        let long: Vec<u8> = (0..400u32).map(|number| b'!' + (number * 7 % 90) as u8).collect();
        for value in [&short[..], &long] {
            for before in 0..5 {
                for after in 0..4 {
                    let text = [&b"xxxxx"[..before], value, &b"yyyy"[..after]].concat();
                    for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                        assert!(finds(value, encoded.as_bytes()), "{before} {after}");
                        for columns in [64, 76] {
                            let lines: Vec<&[u8]> = encoded.as_bytes().chunks(columns).collect();
                            let is_whole = value.len() > BASE64_LINE_BYTES;
                            assert!(!is_whole || finds(value, &lines.join(&b'\n')), "{before} {after} {columns}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn url_and_json_encodings_are_found() {
        let value = b"p@ss wo\"rd/+\xc3\xa9!\n";
        assert!(finds(value, b"https://u:p%40ss%20wo%22rd%2F%2B%C3%A9%21@host"));
        assert!(finds(value, b"https://u:p%40ss%20wo%22rd%2f%2b%c3%a9%21@host"));
        assert!(finds(value, b"u:p%40ss%20wo%22rd%2F%2B%C3%A9!"));
        assert!(finds(value, "{\"a\":\"p@ss wo\\\"rd/+é!\"}".as_bytes()));
        assert!(!finds(value, b"p@ss wo"));
    }

    #[test]
    fn tokens_and_lines_of_files_are_found_alone() {
        let npmrc = b"registry=https://npm.example/\n//npm.example/:_authToken=npm_0123456789abcdefXYZ\n";
        assert!(finds(npmrc, b"curl -H 'Bearer npm_0123456789abcdefXYZ'"));
        let json = b"{\n  \"user\": \"me\",\n  \"token\": \"glpat-0123456789abcdef\"\n}\n";
        assert!(finds(json, b"glpat-0123456789abcdef"));
        let key = b"-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ\nC7VJTUt9Us8cKjMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3\n-----END KEY-----\n";
        assert!(finds(key, b"C7VJTUt9Us8cKjMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3"));
        assert!(!finds(key, b"-----BEGIN KEY-----\n"));
        assert!(!finds(b"mode=production\nlevel=informational-only", b"production"));
    }

    #[test]
    fn short_values_are_not_searched_for() {
        assert_eq!(forms(b" hunter2\n"), None);
        assert!(forms(b"hunter22").is_some());
    }
}
