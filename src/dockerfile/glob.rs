//! Slash-separated paths and patterns for them, by the rules of Go's `path.Clean` and `filepath.Match`.
//! Unaware of file systems. Patterns with `**` and exceptions are [`super::ignore`]'s.

/// The shortest equal path: no `.`, no `//`, `..` resolved where it can be; `.` for nothing.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Whether a COPY source is a pattern: an unescaped `*`, `?` or `[`.
pub fn has_wildcard(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

/// `text` with its escapes taken away: the literal name that a pattern without wildcards stands for.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(ch) = chars.next() {
        out.push(if ch == '\\' { chars.next().unwrap_or(ch) } else { ch });
    }
    out
}

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Itself.
    Literal(char),
    /// `?`: one character, no slash.
    One,
    /// `*`: any characters, no slash.
    Star,
    /// `[a-z]`.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, ch: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == ch,
            Self::One | Self::Star => ch != '/',
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&ch)) != *negated,
        }
    }
}

/// Splits a pattern; None when a class or an escape isn't finished.
pub(super) fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(ch) = chars.next() {
        tokens.push(match ch {
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Literal(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                Token::Class { negated, ranges: class_ranges(&mut chars)? }
            }
            _ => Token::Literal(ch),
        });
    }
    Some(tokens)
}

/// Reads `a-zA-Z]`.
fn class_ranges(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Vec<(char, char)>> {
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(ranges);
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        ch => Some(ch),
    }
}

/// A pattern that is not well-formed: `[a`, or a `\` at the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A pattern of Go's `filepath.Match`: `*` and `?` do not cross slashes, and the whole path must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

impl Glob {
    /// Reads a pattern.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        tokens(pattern).map(Self).ok_or(BadPattern)
    }

    /// Whether the whole of `path` matches. Costs at most pattern times path, whatever the stars.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let (mut token, mut at) = (0, 0);
        // Where to go on when the last star must take one more character.
        let mut retry = None;
        loop {
            match self.0.get(token) {
                Some(Token::Star) => {
                    retry = Some((token, at));
                    token += 1;
                }
                Some(single) if path.get(at).is_some_and(|ch| single.takes(*ch)) => {
                    token += 1;
                    at += 1;
                }
                None if at == path.len() => return true,
                _ => match retry {
                    Some((star, from)) if path.get(from).is_some_and(|ch| *ch != '/') => {
                        retry = Some((star, from + 1));
                        (token, at) = (star + 1, from + 1);
                    }
                    _ => return false,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_paths() {
        for (path, expected) in [
            ("", "."),
            ("a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("/../a", "/a"),
            ("/", "/"),
            ("a/..", "."),
            ("a/../../b", "../b"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn matches_as_go_does() {
        for (pattern, path, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a?b", "a/b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "a[", "\\", "[\\"] {
            assert_eq!(Glob::new(pattern), Err(BadPattern), "{pattern}");
        }
    }

    #[test]
    fn many_stars_stay_cheap() {
        let glob = Glob::new(&"*a".repeat(2000)).unwrap();
        assert!(!glob.matches(&"a".repeat(1999)));
        assert!(!Glob::new(&format!("{}b", "*a".repeat(50))).unwrap().matches(&"a".repeat(10_000)));
    }

    #[test]
    fn wildcards_may_be_escaped() {
        assert!(has_wildcard("a*") && has_wildcard("a[b") && has_wildcard("\\\\?"));
        assert!(!has_wildcard("a\\*") && !has_wildcard("a]"));
        assert_eq!(unescape("a\\*b\\\\"), "a*b\\");
    }
}
