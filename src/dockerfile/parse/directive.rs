//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the very top of the file.
//! Unaware of what they ask for.

use super::super::diagnostic::Diagnostic;
use super::super::tree::{Directives, Span, Word};

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// Reads directives line by line until the first line that is none.
#[derive(Debug, Default)]
pub(super) struct DirectiveReader {
    done: bool,
    seen: Vec<&'static str>,
}

/// One directive line.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) key: &'static str,
    pub(super) value: Word,
}

impl DirectiveReader {
    /// The directive that `line` (which begins at byte `start`) is, if it is one and still may be.
    pub(super) fn read(&mut self, line: &str, start: usize) -> Result<Option<Directive>, Diagnostic> {
        if self.done {
            return Ok(None);
        }
        let Some((key, value)) = line.strip_prefix('#').and_then(split) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&key) {
            let span = Span { start, end: start + line.len() };
            return Err(Diagnostic::at(span, format!("only one {key} parser directive can be used")));
        }
        self.seen.push(key);
        let at = start + (value.as_ptr() as usize - line.as_ptr() as usize);
        Ok(Some(Directive { key, value: Word { text: value.to_owned(), span: Span { start: at, end: at + value.len() } } }))
    }
}

/// Splits ` key = value ` when the key is a known one.
pub(in super::super) fn split(text: &str) -> Option<(&'static str, &str)> {
    let (key, value) = text.trim_start().split_once('=')?;
    let key = key.trim_end_matches(['\t', '\n', '\u{c}', '\r', ' ']).to_ascii_lowercase();
    let key = KNOWN.into_iter().find(|known| *known == key)?;
    let value = value.trim_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    (!value.is_empty()).then_some((key, value))
}

/// `syntax` and `check` as BuildKit detects them before it parses: a first line `#!...` is skipped, blanks before `#` are not.
pub(super) fn detect(text: &str) -> Directives {
    let mut directives = Directives::default();
    let mut reader = DirectiveReader::default();
    let mut start = text.len() - text.trim_start_matches('\u{feff}').len();
    if text[start..].starts_with("#!") {
        start += text[start..].find('\n').map_or(text.len() - start, |end| end + 1);
    }
    for line in text[start..].split_inclusive('\n') {
        let Ok(Some(directive)) = reader.read(line.trim_end_matches(['\r', '\n']), start) else { break };
        match directive.key {
            "syntax" => directives.syntax = Some(directive.value),
            "check" => directives.check = Some(directive.value),
            _ => {}
        }
        start += line.len();
    }
    directives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_until_the_first_other_line() {
        let text = |directives: &Directives| {
            let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone()).unwrap_or_default();
            (text(&directives.syntax), text(&directives.check))
        };
        for (input, syntax, check) in [
            ("# syntax=a/b:1\n# check=skip=all\nFROM x", "a/b:1", "skip=all"),
            ("#SyNtAx  =  a b \nFROM x", "a b", ""),
            ("#!/usr/bin/env x\n#check=error=true", "", "error=true"),
            ("# hello\n# syntax=a", "", ""),
            ("\n# syntax=a", "", ""),
            ("# unknown=a\n# syntax=a", "", ""),
            ("\u{feff}# syntax=a", "a", ""),
            ("# syntax=\n# check=skip=all", "", ""),
        ] {
            assert_eq!(text(&detect(input)), (syntax.to_owned(), check.to_owned()), "{input:?}");
        }
    }
}
