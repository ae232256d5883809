//! Splitting the text of one joined line: keyword, flags, words, JSON arrays.
//! Unaware of instructions; offsets are into the text it is given.

use std::ops::Range;

/// What separates the arguments of an instruction.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// A piece of the text and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// The first word and, when there is more, where the rest begins.
pub(super) fn split_first(text: &str) -> (&str, Option<usize>) {
    match text.find(BLANKS) {
        None => (text, None),
        Some(end) => {
            let blanks = text[end..].len() - text[end..].trim_start_matches(BLANKS).len();
            (&text[..end], Some(end + blanks))
        }
    }
}

/// All words between blanks. Quotes and escapes mean nothing here.
pub(super) fn split_blanks(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        let (word, next) = split_first(&text[at..]);
        pieces.push(Piece { text: word.to_owned(), range: at..at + word.len() });
        match next {
            Some(next) => at += next,
            None => return pieces,
        }
    }
}

/// The range of `text` without blanks (of any script) at its ends.
pub(super) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let inner = &text[range.clone()];
    let start = range.start + (inner.len() - inner.trim_start().len());
    start..start + inner.trim().len()
}

/// The leading `--flag` words, without quotes and escapes, and where the arguments begin.
pub(super) fn split_flags(text: &str, escape: char) -> (Vec<Piece>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at = text.len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let flag = read_flag(text, at, escape);
        let end = flag.range.end;
        if flag.text == "--" {
            // Only a `--` with something behind it is the end of the flags; alone it is nothing.
            return (flags, end);
        }
        flags.push(flag);
        at = end;
    }
}

fn read_flag(text: &str, start: usize, escape: char) -> Piece {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    let mut end = text.len();
    while let Some((offset, ch)) = chars.next() {
        if quote == Some(ch) {
            quote = None;
        } else if quote.is_none() && ch.is_whitespace() {
            end = start + offset;
            break;
        } else if quote.is_none() && (ch == '\'' || ch == '"') {
            quote = Some(ch);
        } else if ch == escape {
            word.extend(chars.next().map(|(_, escaped)| escaped));
        } else {
            word.push(ch);
        }
    }
    Piece { text: word, range: start..end }
}

/// Words of ENV, LABEL and ARG: blanks in quotes or after an escape belong to the word. Quotes and escapes stay.
pub(super) fn split_quoted(text: &str, escape: char) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        at = text.len() - text[at..].trim_start().len();
        if at == text.len() {
            return pieces;
        }
        let piece = read_quoted(text, at, escape);
        at = piece.range.end;
        if !piece.text.is_empty() {
            pieces.push(piece);
        }
    }
}

fn read_quoted(text: &str, start: usize, escape: char) -> Piece {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    let mut end = text.len();
    while let Some((offset, ch)) = chars.next() {
        match quote {
            None if ch.is_whitespace() => {
                end = start + offset;
                break;
            }
            None if ch == '\'' || ch == '"' => quote = Some(ch),
            Some(open) if open == ch => quote = None,
            _ => {}
        }
        // Nothing is escaped within single quotes; an escape at the very end is dropped.
        if ch == escape && quote != Some('\'') {
            if let Some((_, escaped)) = chars.next() {
                word.extend([ch, escaped]);
            }
            continue;
        }
        word.push(ch);
    }
    Piece { text: word, range: start..end }
}

/// What a text that might be a JSON array turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// An array of strings.
    Strings(Vec<Piece>),
    /// An array with something else in it.
    OtherMembers,
    /// No JSON array: the text is a plain one.
    None,
}

/// Reads `["a", "b"]`.
pub(super) fn read_json(text: &str) -> Json {
    let trimmed = text.trim_start();
    if !trimmed.starts_with('[') {
        return Json::None;
    }
    let Ok(serde_json::Value::Array(members)) = serde_json::from_str(&replace_lone_surrogates(trimmed)) else {
        return Json::None;
    };
    let ranges = string_ranges(text);
    let strings = members.into_iter().enumerate().map(|(index, member)| match member {
        serde_json::Value::String(text) => Some(Piece { text, range: ranges.get(index).cloned().unwrap_or(0..0) }),
        _ => None,
    });
    match strings.collect() {
        Some(pieces) => Json::Strings(pieces),
        None => Json::OtherMembers,
    }
}

/// Where the string literals of a JSON text stand, quotes included.
fn string_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut open = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (byte, open) {
            (b'"', None) => open = Some(at),
            (b'"', Some(start)) => {
                ranges.push(start..at + 1);
                open = None;
            }
            (b'\\', Some(_)) => {
                bytes.next();
            }
            _ => {}
        }
    }
    ranges
}

/// Half of a UTF-16 pair is U+FFFD to BuildKit's reader and an error to ours.
fn replace_lone_surrogates(text: &str) -> String {
    let code =
        |at: usize| text.get(at..at + 6).and_then(|escape| escape.strip_prefix("\\u")).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(ch) = text[at..].chars().next() {
        match code(at) {
            Some(0xd800..=0xdbff) if matches!(code(at + 6), Some(0xdc00..=0xdfff)) => {
                out.push_str(&text[at..at + 12]);
                at += 12;
            }
            Some(0xd800..=0xdfff) => {
                out.push_str("\\ufffd");
                at += 6;
            }
            _ => {
                // `\\` must not be taken for the beginning of the next escape.
                let length = if ch == '\\' { 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8) } else { ch.len_utf8() };
                out.push_str(&text[at..at + length]);
                at += length;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pieces: &[Piece]) -> Vec<&str> {
        pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn flags_lose_their_quotes_and_end_at_the_first_other_word() {
        for (text, flags, rest) in [
            ("--a=b --c d --e", &["--a=b", "--c"][..], "d --e"),
            ("--a=\"b c\" d", &["--a=b c"], "d"),
            ("--a='b'\\ c d", &["--a=b c"], "d"),
            ("-- --a b", &[], " --a b"),
            ("--a -- --b", &["--a"], " --b"),
            ("--a", &["--a"], ""),
            ("--", &[], ""),
            ("-x", &[], "-x"),
            ("--é=ü x", &["--é=ü"], "x"),
        ] {
            let (found, at) = split_flags(text, '\\');
            assert_eq!((texts(&found), &text[at..]), (flags.to_vec(), rest), "{text}");
        }
    }

    #[test]
    fn quoted_words_keep_quotes_and_escapes() {
        for (text, words) in [
            ("a=b c=d", &["a=b", "c=d"][..]),
            ("a=\"b c\" d=e\\ f", &["a=\"b c\"", "d=e\\ f"]),
            ("a='b\\' c=d", &["a='b\\'", "c=d"]),
            ("a=\"b\\\" c\" d=", &["a=\"b\\\" c\"", "d="]),
            ("a=b\\", &["a=b"]),
            ("a=\"b c", &["a=\"b c"]),
        ] {
            assert_eq!(texts(&split_quoted(text, '\\')), words, "{text}");
        }
    }

    #[test]
    fn json_is_an_array_of_strings_or_nothing() {
        let strings = |text: &str| match read_json(text) {
            Json::Strings(pieces) => pieces.into_iter().map(|piece| (piece.text, piece.range)).collect::<Vec<_>>(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(strings(r#"["a\"b", "c"]"#), vec![("a\"b".to_owned(), 1..7), ("c".to_owned(), 9..12)]);
        assert_eq!(strings("[]"), vec![]);
        assert_eq!(strings(r#"["\ud800x\ud83d\ude00"]"#)[0].0, "\u{fffd}x😀");
        for text in ["['a']", "[\"a\"] b", "[\"a\"", "[]random", "\"a\"", "{}", ""] {
            assert_eq!(read_json(text), Json::None, "{text}");
        }
        for text in ["[1]", "[\"a\", [\"b\"]]", "[null]", "[\"a\", {}]"] {
            assert_eq!(read_json(text), Json::OtherMembers, "{text}");
        }
    }
}
