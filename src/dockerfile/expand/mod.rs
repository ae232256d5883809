//! Word expansion: quotes, escapes, `$name` and `${name...}` as a Dockerfile's words mean them.
//! Unaware of instructions and of where variables come from: the environment is a trait.
//!
//! The rules are BuildKit's, to the corner cases (`frontend/dockerfile/shell`), not a shell's: a backslash in double
//! quotes escapes only `"`, `$` and itself; `$1`, `$@` and their like are variables that nobody sets.

mod pattern;

use std::collections::{BTreeMap, BTreeSet};

use super::quote::go_quote;

/// A `${a:-${b:-...}}` deeper than this is refused: the reader recurses.
const MAX_DEPTH: usize = 64;
/// Expansions larger than this are refused: `ENV a=$a$a` doubles with each line.
const MAX_BYTES: usize = 16 << 20;

/// Where values of variables come from.
pub trait Lookup {
    /// The value; None when not set.
    fn get(&self, name: &str) -> Option<String>;
    /// All names that are set, for suggestions.
    fn names(&self) -> Vec<String>;
}

/// No variables at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Empty;

impl Lookup for Empty {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Lookup for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// `(name, value)` pairs; the last of a name wins.
impl Lookup for [(String, String)] {
    fn get(&self, name: &str) -> Option<String> {
        self.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }
    fn names(&self) -> Vec<String> {
        self.iter().map(|(key, _)| key.clone()).collect()
    }
}

/// What to leave as it stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keep the quote characters, but still honour what they mean.
    pub raw_quotes: bool,
    /// Keep escape characters in front of what they escape.
    pub raw_escapes: bool,
    /// Treat quotes as ordinary characters.
    pub skip_quotes: bool,
    /// Leave references to unset variables as written.
    pub skip_unset: bool,
}

/// What became of a word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The whole text.
    pub text: String,
    /// The text split at blanks that neither quotes nor escapes protect, after expansion.
    pub words: Vec<String>,
    /// Names that were asked for and set.
    pub matched: BTreeSet<String>,
    /// Names that were asked for and not set.
    pub unmatched: BTreeSet<String>,
}

/// Expands one word. `escape` is the Dockerfile's escape character.
pub fn expand_word(text: &str, escape: char, env: &dyn Lookup) -> Result<Expanded, String> {
    expand(text, escape, Options::default(), env)
}

/// Expands and then splits at blanks (EXPOSE).
pub fn expand_words(text: &str, escape: char, env: &dyn Lookup) -> Result<Vec<String>, String> {
    Ok(expand_word(text, escape, env)?.words)
}

/// Expands the body of an unquoted heredoc of COPY or ADD: quotes are text, and the escape character is always `\`.
pub fn expand_heredoc(body: &str, env: &dyn Lookup) -> Result<Expanded, String> {
    expand(body, '\\', Options { skip_quotes: true, ..Options::default() }, env)
}

/// The text of a RUN as progress shows it: set variables filled in, quotes and everything else as written.
/// What can't be read is shown unchanged.
pub fn expand_for_display(text: &str, escape: char, env: &dyn Lookup) -> String {
    let options = Options { raw_quotes: true, skip_unset: true, ..Options::default() };
    expand(text, escape, options, env).map_or_else(|_| text.to_owned(), |expanded| expanded.text)
}

/// Expands with the given options.
pub fn expand(text: &str, escape: char, options: Options, env: &dyn Lookup) -> Result<Expanded, String> {
    let mut reader = Reader {
        rest: text,
        escape,
        options,
        raw_escapes: options.raw_escapes,
        env,
        word: String::new(),
        matched: BTreeSet::new(),
        unmatched: BTreeSet::new(),
        depth: 0,
        budget: MAX_BYTES,
    };
    let (expanded, words) =
        reader.read_until(None, options.raw_escapes).map_err(|error| format!("failed to process {}: {error}", go_quote(text)))?;
    Ok(Expanded { text: expanded, words, matched: reader.matched, unmatched: reader.unmatched })
}

struct Reader<'a> {
    rest: &'a str,
    escape: char,
    options: Options,
    raw_escapes: bool,
    env: &'a dyn Lookup,
    /// The word being split off. Shared between nesting levels as BuildKit shares it: a nested `${a:-b}` drops what
    /// its word had before it from `words` (never from the text).
    word: String,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
    depth: usize,
    budget: usize,
}

/// Splits into words while text is read; the word in progress lives in the reader.
#[derive(Default)]
struct Splitter {
    words: Vec<String>,
    in_word: bool,
}

impl Splitter {
    fn push(&mut self, word: &mut String, ch: char) {
        if !ch.is_whitespace() {
            self.push_raw(word, ch);
        } else if self.in_word && !word.is_empty() {
            self.words.push(std::mem::take(word));
            self.in_word = false;
        }
    }

    fn push_raw(&mut self, word: &mut String, ch: char) {
        word.push(ch);
        self.in_word = true;
    }

    fn finish(mut self, word: &mut String) -> Vec<String> {
        if !word.is_empty() {
            self.words.push(std::mem::take(word));
        }
        self.words
    }
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let ch = chars.next();
        self.rest = chars.as_str();
        ch
    }

    /// Reads to the end, or past the first `stop` that is neither quoted nor escaped.
    fn read_until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("substitutions are nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.read_level(stop);
        self.raw_escapes = outer;
        self.depth -= 1;
        result
    }

    fn read_level(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        self.word.clear();
        let mut text = String::new();
        let mut splitter = Splitter::default();
        while let Some(ch) = self.peek() {
            if Some(ch) == stop {
                self.next();
                return Ok((text, splitter.finish(&mut self.word)));
            }
            match ch {
                '$' => {
                    let value = self.read_dollar()?;
                    value.chars().for_each(|ch| splitter.push(&mut self.word, ch));
                    text.push_str(&value);
                }
                '<' => self.read_raw(Self::read_angle, &mut text, &mut splitter)?,
                '\'' if !self.options.skip_quotes => self.read_raw(Self::read_single_quotes, &mut text, &mut splitter)?,
                '"' if !self.options.skip_quotes => self.read_raw(Self::read_double_quotes, &mut text, &mut splitter)?,
                _ => self.read_plain(&mut text, &mut splitter),
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok((text, splitter.finish(&mut self.word))),
        }
    }

    /// Appends what `read` returns; blanks in it do not end a word.
    fn read_raw(
        &mut self,
        read: fn(&mut Self) -> Result<String, String>,
        text: &mut String,
        splitter: &mut Splitter,
    ) -> Result<(), String> {
        let piece = read(self)?;
        self.word.push_str(&piece);
        splitter.in_word = true;
        text.push_str(&piece);
        Ok(())
    }

    fn read_plain(&mut self, text: &mut String, splitter: &mut Splitter) {
        let Some(ch) = self.next() else { return };
        if ch != self.escape {
            splitter.push(&mut self.word, ch);
            text.push(ch);
            return;
        }
        if self.raw_escapes {
            splitter.push_raw(&mut self.word, ch);
            text.push(ch);
        }
        // An escape at the very end stands for nothing.
        if let Some(escaped) = self.next() {
            splitter.push_raw(&mut self.word, escaped);
            text.push(escaped);
        }
    }

    /// `<`, or `<<` with the blanks after it: the delimiter of a heredoc may be set off, and belongs to the same word.
    fn read_angle(&mut self) -> Result<String, String> {
        self.next();
        if self.peek() != Some('<') {
            return Ok("<".to_owned());
        }
        self.next();
        let blanks = self.rest.len() - self.rest.trim_start_matches(['\t', '\r', ' ']).len();
        let (space, rest) = self.rest.split_at(blanks);
        self.rest = rest;
        Ok(format!("<<{space}"))
    }

    fn read_single_quotes(&mut self) -> Result<String, String> {
        self.next();
        let Some(end) = self.rest.find('\'') else {
            self.rest = "";
            return Err("unexpected end of statement while looking for matching single-quote".to_owned());
        };
        let inner = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(if self.options.raw_quotes { format!("'{inner}'") } else { inner.to_owned() })
    }

    fn read_double_quotes(&mut self) -> Result<String, String> {
        self.next();
        let quote = if self.options.raw_quotes { "\"" } else { "" };
        let mut text = quote.to_owned();
        loop {
            match self.peek() {
                None => return Err("unexpected end of statement while looking for matching double-quote".to_owned()),
                Some('"') => {
                    self.next();
                    text.push_str(quote);
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.read_dollar()?),
                Some(ch) => {
                    self.next();
                    text.extend(self.read_quoted_char(ch).into_iter().flatten());
                }
            }
        }
    }

    /// A character within double quotes: an escape counts only before `"`, `$` and itself.
    fn read_quoted_char(&mut self, ch: char) -> [Option<char>; 2] {
        if ch != self.escape {
            return [Some(ch), None];
        }
        let kept = self.raw_escapes.then_some(ch);
        match self.peek() {
            None => [kept, None],
            Some(next) if next == '"' || next == '$' || next == self.escape => {
                self.next();
                [kept, Some(next)]
            }
            Some(_) => [kept, Some(ch)],
        }
    }

    fn read_dollar(&mut self) -> Result<String, String> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            return self.read_braces();
        }
        let name = self.read_name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.lookup(&name)? {
            None if self.options.skip_unset => Ok(format!("${name}")),
            value => Ok(value.unwrap_or_default()),
        }
    }

    /// What follows `${`.
    fn read_braces(&mut self) -> Result<String, String> {
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.read_name();
        match self.next() {
            Some('}') => match self.lookup(&name)? {
                None if self.options.skip_unset => Ok(format!("${{{name}}}")),
                value => Ok(value.unwrap_or_default()),
            },
            Some(':') => {
                let operator = self.next();
                if matches!(operator, Some('#' | '%')) {
                    return Err(unsupported(":", operator));
                }
                self.read_operand(&name, operator, true)
            }
            operator @ Some('+' | '-' | '?' | '#' | '%') => self.read_operand(&name, operator, false),
            Some('/') => self.read_replacement(&name),
            None => Err("syntax error: missing '}'".to_owned()),
            operator => Err(unsupported("", operator)),
        }
    }

    /// The word after the operator, and what the operator makes of it.
    fn read_operand(&mut self, name: &str, operator: Option<char>, colon: bool) -> Result<String, String> {
        let raw_escapes = matches!(operator, Some('#' | '%'));
        let word = self.read_closed('}', raw_escapes, "syntax error: missing '}'")?;
        let prefix = if colon { ":" } else { "" };
        let value = self.lookup(name)?;
        let Some(operator) = operator.filter(|ch| matches!(ch, '-' | '+' | '?' | '#' | '%')) else {
            if self.options.skip_unset && value.is_none() {
                return Ok(format!("${{{name}{prefix}{}{word}}}", operator.unwrap_or(char::REPLACEMENT_CHARACTER)));
            }
            return Err(unsupported(prefix, operator));
        };
        if self.options.skip_unset && value.is_none() {
            return Ok(format!("${{{name}{prefix}{operator}{word}}}"));
        }
        let missing = value.as_ref().is_none_or(|value| colon && value.is_empty());
        match operator {
            '-' if missing => Ok(word),
            '+' if missing => Ok(String::new()),
            '+' => Ok(word),
            '?' if missing => {
                let reason = if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                Err(format!("{name}: {}", if word.is_empty() { reason } else { &word }))
            }
            '-' | '?' => Ok(value.unwrap_or_default()),
            _ => pattern::trim(operator, &word, &value.unwrap_or_default()),
        }
    }

    /// `${name/pattern/replacement}`.
    fn read_replacement(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.read_closed('/', true, "syntax error: missing '/' in ${}")?;
        let replacement = self.read_closed('}', true, "syntax error: missing '}'")?;
        match self.lookup(name)? {
            None if self.options.skip_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => pattern::replace(&pattern, &replacement, all, &value.unwrap_or_default()),
        }
    }

    /// Reads up to `stop`; `missing` is the error when the text ends instead.
    fn read_closed(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String, String> {
        match self.read_until(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.rest.is_empty() => Err(missing.to_owned()),
            Err(error) => Err(error),
        }
    }

    /// A name, a number, or one special character such as `@`; empty when there is none.
    fn read_name(&mut self) -> String {
        let end = match self.peek() {
            Some(ch) if is_digit(ch) => self.rest.find(|ch| !is_digit(ch)),
            Some(ch) if matches!(ch, '@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(ch.len_utf8()),
            _ => self.rest.find(|ch: char| !ch.is_alphabetic() && !is_digit(ch) && ch != '_'),
        };
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_owned()
    }

    fn lookup(&mut self, name: &str) -> Result<Option<String>, String> {
        let value = self.env.get(name);
        let seen = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        seen.insert(name.to_owned());
        let bytes = value.as_ref().map_or(0, String::len);
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| format!("the expansion is larger than {} MiB", MAX_BYTES >> 20))?;
        Ok(value)
    }
}

/// Decimal digits, those of the more common other scripts too.
fn is_digit(ch: char) -> bool {
    matches!(ch, '0'..='9' | '\u{660}'..='\u{669}' | '\u{6f0}'..='\u{6f9}' | '\u{966}'..='\u{96f}' | '\u{ff10}'..='\u{ff19}')
}

fn unsupported(prefix: &str, operator: Option<char>) -> String {
    format!("unsupported modifier ({prefix}{}) in substitution", operator.unwrap_or(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests;
