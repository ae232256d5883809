//! Ignore files and `--exclude`: which paths of a context a list of patterns keeps out.
//! Unaware of file systems: paths are text, relative, with slashes.
//!
//! The last pattern that matches decides, `!` patterns let in again, and a pattern that matches a directory matches
//! everything below it. For a walk over a tree, [`Matcher::enter`] remembers per directory what matched there, so that
//! each path is compared once with each pattern at most:
//!
//! ```
//! use rbuild::dockerfile::ignore::Matcher;
//! let matcher = Matcher::new(["node_modules", "!node_modules/keep"]).unwrap();
//! let (ignored, below) = matcher.enter("node_modules", &matcher.root());
//! assert!(ignored && matcher.matches_below("node_modules/a.js", &below) && !matcher.matches_below("node_modules/keep", &below));
//! ```

mod pattern;

use super::glob::clean;
use pattern::Pattern;

/// A list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    rules: Vec<Rule>,
    exceptions: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    /// Begins with `!`.
    exception: bool,
    /// As given, `!` included.
    text: String,
    /// Its place in the list it came from.
    index: usize,
}

/// Which patterns match a directory or one above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below(Vec<u64>);

impl Below {
    fn get(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn set(&mut self, index: usize) {
        let word = index / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (index % 64);
    }
}

impl Matcher {
    /// Compiles patterns, as `--exclude` gives them.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let mut matcher = Self::default();
        for (index, text) in patterns.into_iter().enumerate() {
            matcher.push(text.as_ref(), index)?;
        }
        Ok(matcher)
    }

    fn push(&mut self, text: &str, index: usize) -> Result<(), String> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(());
        }
        let cleaned = clean(trimmed);
        let (exception, pattern) = match cleaned.strip_prefix('!') {
            Some("") => return Err("illegal exclusion pattern: \"!\"".to_owned()),
            Some(rest) => (true, rest),
            None => (false, cleaned.as_str()),
        };
        self.exceptions |= exception;
        self.rules.push(Rule { pattern: Pattern::new(pattern)?, exception, text: trimmed.to_owned(), index });
        Ok(())
    }

    /// No patterns at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Some pattern begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.exceptions
    }

    /// The patterns as written.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }

    /// Whether `path` is kept out. The context's root never is.
    pub fn matches(&self, path: &str) -> bool {
        self.decide(path).is_some_and(|rule| !rule.exception)
    }

    /// The index (in the list given) and text of the pattern that decides about `path`: the one that keeps it out, or the
    /// exception that lets it in; None when no pattern has a say.
    pub fn deciding(&self, path: &str) -> Option<(usize, &str)> {
        self.decide(path).map(|rule| (rule.index, rule.text.as_str()))
    }

    fn decide(&self, path: &str) -> Option<&Rule> {
        let path = clean(path);
        let path = path.strip_prefix('/').unwrap_or(&path);
        if path.is_empty() || path == "." {
            return None;
        }
        // As a walk comes to it: an exception has a say about a directory only when something kept that directory out.
        let mut below = self.root();
        for (at, _) in path.match_indices('/') {
            below = self.enter(&path[..at], &below).1;
        }
        let mut decided = None;
        self.walk(path, &below, |index| decided = Some(&self.rules[index]));
        decided
    }

    /// The state to begin a walk with.
    pub fn root(&self) -> Below {
        Below::default()
    }

    /// Whether the directory `path` is kept out, and the state for what is below it. `parent` is the state of its parent.
    pub fn enter(&self, path: &str, parent: &Below) -> (bool, Below) {
        let mut below = Below::default();
        let matched = self.walk(path, parent, |index| below.set(index));
        (matched, below)
    }

    /// Whether the file `path` is kept out. `parent` is the state of its directory.
    pub fn matches_below(&self, path: &str, parent: &Below) -> bool {
        self.walk(path, parent, |_| {})
    }

    fn walk(&self, path: &str, parent: &Below, mut note: impl FnMut(usize)) -> bool {
        let mut matched = false;
        for (index, rule) in self.rules.iter().enumerate() {
            if parent.get(index) || (rule.exception == matched && rule.pattern.matches(path)) {
                note(index);
                matched = !rule.exception;
            }
        }
        matched
    }

    /// Whether the directory `path` is kept out and no exception can let in anything below it.
    pub fn can_skip_directory(&self, path: &str) -> bool {
        self.matches(path) && !self.may_except_below(path)
    }

    /// Whether an exception might match below the directory `path`. For walks that know already that it is kept out.
    pub fn may_except_below(&self, path: &str) -> bool {
        self.exceptions && self.rules.iter().any(|rule| rule.exception && rule.pattern.may_match_below(path))
    }
}

/// A whole ignore file: patterns that remember their lines.
#[derive(Debug, Clone, Default)]
pub struct IgnoreFile {
    matcher: Matcher,
    /// Line number and text per pattern.
    lines: Vec<(usize, String)>,
}

impl IgnoreFile {
    /// Reads the text of a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut file = Self::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            file.matcher.push(&normalize(line.trim()), file.lines.len())?;
            file.lines.push((number + 1, line.trim().to_owned()));
        }
        Ok(file)
    }

    /// The patterns.
    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// Whether `path` is kept out.
    pub fn matches(&self, path: &str) -> bool {
        self.matcher.matches(path)
    }

    /// Line number (1-based) and text of the line that decides about `path`.
    pub fn deciding_line(&self, path: &str) -> Option<(usize, &str)> {
        let (index, _) = self.matcher.deciding(path)?;
        self.lines.get(index).map(|(number, text)| (*number, text.as_str()))
    }
}

/// Cleans a line and makes it relative: `! /a//b` -> `!a/b`.
fn normalize(line: &str) -> String {
    let (exception, pattern) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if pattern.is_empty() {
        return exception.to_owned();
    }
    let cleaned = clean(pattern);
    let relative = if cleaned.len() > 1 { cleaned.strip_prefix('/').unwrap_or(&cleaned) } else { &cleaned };
    format!("{exception}{relative}")
}

#[cfg(test)]
mod tests;
