//! Checking an instruction's `--flags` against those it knows.
//! Unaware of what the values mean.

use super::super::diagnostic::Diagnostic;
use super::super::suggest::nearest;
use super::super::tree::{Span, Word};

/// How often a flag may come and whether it takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagKind {
    Bool,
    Text,
    List,
}

/// An instruction's flags, checked.
#[derive(Debug)]
pub(super) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// Checks names, counts and values.
    pub(super) fn parse(flags: &[Word], known: &[(&'static str, FlagKind)]) -> Result<Self, Diagnostic> {
        let mut used: Vec<(&'static str, Word)> = Vec::new();
        for flag in flags {
            let (full_name, value) = match flag.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.text.as_str(), None),
            };
            let name = full_name.strip_prefix("--").unwrap_or(full_name);
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == name).copied() else {
                return Err(unknown(flag.span, full_name, name, known));
            };
            if kind != FlagKind::List && used.iter().any(|(used, _)| *used == name) {
                return Err(Diagnostic::at(flag.span, format!("duplicate flag specified: {full_name}")));
            }
            used.push((name, checked_value(flag, full_name, value, kind)?));
        }
        Ok(Self(used))
    }

    /// A flag with a value; given without one (`--chown=`) it counts as not given.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.given(name).filter(|word| !word.text.is_empty()).cloned()
    }

    /// The same, but an empty value is a value.
    pub(super) fn given(&self, name: &str) -> Option<&Word> {
        self.0.iter().find(|(flag, _)| *flag == name).map(|(_, word)| word)
    }

    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.given(name).map(|word| word.text == "true")
    }

    pub(super) fn list(&self, name: &str) -> Vec<Word> {
        self.0.iter().filter(|(flag, _)| *flag == name).map(|(_, word)| word.clone()).collect()
    }
}

fn unknown(span: Span, full_name: &str, name: &str, known: &[(&'static str, FlagKind)]) -> Diagnostic {
    let error = Diagnostic::at(span, format!("unknown flag: {full_name}"));
    match nearest(name, known.iter().map(|(name, _)| *name)) {
        Some(suggestion) => error.with_hint(format!("did you mean {suggestion}?")),
        None => error,
    }
}

fn checked_value(flag: &Word, full_name: &str, value: Option<&str>, kind: FlagKind) -> Result<Word, Diagnostic> {
    let missing = || Diagnostic::at(flag.span, format!("missing a value on flag: {full_name}"));
    let text = match (kind, value) {
        (FlagKind::Bool, Some("")) | (FlagKind::Text | FlagKind::List, None) => return Err(missing()),
        (FlagKind::Bool, None) => "true".to_owned(),
        (FlagKind::Bool, Some(value)) => match value.to_lowercase().as_str() {
            text @ ("true" | "false") => text.to_owned(),
            _ => return Err(Diagnostic::at(flag.span, format!("expecting boolean value for flag {full_name}, not: {value}"))),
        },
        (_, Some(value)) => value.to_owned(),
    };
    // Quotes may have gone from the value, hardly ever from the name: `--name=` is as long in the file.
    let start = (flag.span.start + full_name.len() + 1).min(flag.span.end);
    let span = if value.is_some() { Span { start, end: flag.span.end } } else { flag.span };
    Ok(Word { text, span })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Flags, String> {
        let words: Vec<Word> =
            flags.iter().map(|flag| Word { text: (*flag).to_owned(), span: Span { start: 0, end: flag.len() } }).collect();
        let known = [("link", FlagKind::Bool), ("chown", FlagKind::Text), ("mount", FlagKind::List)];
        Flags::parse(&words, &known).map_err(|error| error.message + error.hint.as_deref().unwrap_or_default())
    }

    #[test]
    fn reads_values() {
        let flags = parse(&["--link=TRUE", "--mount=a", "--mount=b=c", "--chown=x"]).unwrap();
        assert_eq!(flags.bool("link"), Some(true));
        assert_eq!(flags.list("mount").iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), ["a", "b=c"]);
        assert_eq!(flags.text("chown").unwrap().span, Span { start: 8, end: 9 });
        assert_eq!(parse(&["--chown="]).unwrap().text("chown"), None);
    }

    #[test]
    fn errors_name_the_flag() {
        for (flags, error) in [
            (&["--mont=x"][..], "unknown flag: --montdid you mean mount?"),
            (&["--nothing"], "unknown flag: --nothing"),
            (&["--chown=a", "--chown=b"], "duplicate flag specified: --chown"),
            (&["--chown"], "missing a value on flag: --chown"),
            (&["--link="], "missing a value on flag: --link"),
            (&["--link=1"], "expecting boolean value for flag --link, not: 1"),
        ] {
            assert_eq!(parse(flags).unwrap_err(), error);
        }
    }
}
