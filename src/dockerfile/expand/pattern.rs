//! The patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/text}`: `*`, `?` and escapes.
//! Unaware of how they were found in a word.

use regex::Regex;

/// `${name#pattern}` and its kin: `operator` is `#` or `%`; the pattern begins with a second one when the longest match goes.
pub(super) fn trim(operator: char, pattern: &str, value: &str) -> Result<String, String> {
    let (greedy, pattern) = match pattern.strip_prefix(operator) {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    if operator == '#' {
        return trim_prefix(pattern, value, greedy);
    }
    // The shortest match at the end is the shortest at the beginning of everything reversed.
    let trimmed = trim_prefix(&reverse_pattern(pattern), &reverse(value), greedy)?;
    Ok(reverse(&trimmed))
}

/// `${name/pattern/replacement}`, or `//` for all matches.
pub(super) fn replace(pattern: &str, replacement: &str, all: bool, value: &str) -> Result<String, String> {
    let regex = to_regex(pattern, true, false).map_err(|error| invalid(pattern, &error))?;
    if all {
        return Ok(regex.replace_all(value, replacement).into_owned());
    }
    Ok(match regex.find(value) {
        Some(found) => format!("{}{replacement}{}", &value[..found.start()], &value[found.end()..]),
        None => value.to_owned(),
    })
}

fn trim_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, String> {
    let regex = to_regex(pattern, greedy, true).map_err(|error| invalid(pattern, &error))?;
    Ok(regex.find(value).map_or(value, |found| &value[found.end()..]).to_owned())
}

fn invalid(pattern: &str, error: &str) -> String {
    format!("invalid pattern ({pattern}) in substitution: {error}")
}

fn to_regex(pattern: &str, greedy: bool, anchored: bool) -> Result<Regex, String> {
    let mut out = String::with_capacity(pattern.len() + 4);
    if anchored {
        out.push('^');
    }
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        match ch {
            '*' => out.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => out.push('.'),
            // `}` and `/` are escaped for `${}`'s sake, not for the pattern's.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\')) => out.extend(['\\', escaped]),
                other => return Err(format!("invalid escape '\\{}'", other.unwrap_or(char::REPLACEMENT_CHARACTER))),
            },
            _ => out.push_str(&regex::escape(ch.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&out).map_err(|error| error.to_string())
}

/// `a\*c` -> `c\*a`.
fn reverse_pattern(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let length = if chars[at] == '\\' && at + 1 < chars.len() { 2 } else { 1 };
        pieces.push(&chars[at..at + length]);
        at += length;
    }
    pieces.into_iter().rev().flatten().collect()
}

fn reverse(text: &str) -> String {
    text.chars().rev().collect()
}
