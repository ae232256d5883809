//! One pattern of an ignore file: Go's file patterns and `**`, matched against whole slash-separated paths.
//! Unaware of the other patterns and of exceptions.

use super::super::glob::{Token, tokens};
use regex::Regex;

/// How a path is compared: most patterns need no regular expression.
#[derive(Debug, Clone)]
enum Kind {
    /// The path itself.
    Exact(String),
    /// `x/**`: everything that begins so.
    Prefix(String),
    /// `**/x`: everything that ends so, and (when it begins with a slash) that name itself.
    Suffix(String),
    /// All others. `slashes` is how many a matching path has, where the pattern tells.
    Regex { regex: Regex, slashes: Option<usize> },
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    kind: Kind,
    /// Its directories, for telling whether something below a directory may match.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    /// Has a wildcard: assumed to match any name.
    Wild,
    /// Has `**` or a class that might take a slash: anything may follow.
    Anything,
}

impl Pattern {
    /// Compiles a cleaned pattern without `!`.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let bad = || "syntax error in pattern".to_owned();
        let tokens = tokens(text).ok_or_else(bad)?;
        let kind = simple_kind(&tokens).map_or_else(|| regex_kind(&tokens).map_err(|_| bad()), Ok)?;
        Ok(Self { kind, parts: text.split('/').map(part).collect() })
    }

    /// Whether the whole of `path` matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact(text) => path == text,
            Kind::Prefix(text) => path.starts_with(text.as_str()),
            Kind::Suffix(text) => path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path),
            Kind::Regex { regex, slashes } => {
                slashes.is_none_or(|slashes| path.bytes().filter(|byte| *byte == b'/').count() == slashes) && regex.is_match(path)
            }
        }
    }

    /// Whether a path below `directory` might match.
    pub(super) fn may_match_below(&self, directory: &str) -> bool {
        let mut parts = self.parts.iter();
        for name in directory.split('/') {
            match parts.next() {
                Some(Part::Anything) => return true,
                Some(Part::Literal(literal)) if literal != name => return false,
                Some(_) => {}
                None => return false,
            }
        }
        parts.next().is_some()
    }
}

fn part(text: &str) -> Part {
    if text.contains("**") || text.contains('[') {
        Part::Anything
    } else if text.contains(['*', '?', '\\']) {
        Part::Wild
    } else {
        Part::Literal(text.to_owned())
    }
}

fn literal(tokens: &[Token]) -> Option<String> {
    tokens.iter().map(|token| if let Token::Literal(ch) = token { Some(*ch) } else { None }).collect()
}

/// The kinds without a regular expression. `**/x` is `**x` but for `x` itself: a `/` after `**` may be nothing.
fn simple_kind(tokens: &[Token]) -> Option<Kind> {
    if let Some(text) = literal(tokens) {
        return Some(Kind::Exact(text));
    }
    match tokens {
        [Token::Star, Token::Star, rest @ ..] => literal(rest).map(Kind::Suffix),
        [rest @ .., Token::Star, Token::Star] => literal(rest).map(Kind::Prefix),
        _ => None,
    }
}

fn regex_kind(tokens: &[Token]) -> Result<Kind, regex::Error> {
    let mut pattern = String::from("^");
    let mut slashes = Some(0);
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token {
            Token::Star if rest.first() == Some(&Token::Star) => {
                rest = &rest[1..];
                rest = rest.strip_prefix(&[Token::Literal('/')]).unwrap_or(rest);
                slashes = None;
                pattern.push_str(if rest.is_empty() { ".*" } else { "(?:.*/)?" });
            }
            Token::Star => pattern.push_str("[^/]*"),
            Token::One => pattern.push_str("[^/]"),
            Token::Literal(ch) => {
                slashes = slashes.map(|count| count + usize::from(*ch == '/'));
                pattern.push_str(&regex::escape(ch.encode_utf8(&mut [0; 4])));
            }
            Token::Class { negated, ranges } => {
                slashes = None;
                push_class(&mut pattern, *negated, ranges);
            }
        }
    }
    pattern.push('$');
    Ok(Kind::Regex { regex: Regex::new(&pattern)?, slashes })
}

fn push_class(pattern: &mut String, negated: bool, ranges: &[(char, char)]) {
    pattern.push_str(if negated { "[^" } else { "[" });
    for (low, high) in ranges {
        pattern.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", u32::from(*low), u32::from(*high)));
    }
    pattern.push(']');
}
