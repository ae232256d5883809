//! One instruction's joined line, split as its keyword demands: JSON, words, pairs or plain text.
//! Unaware of how many arguments an instruction takes and which flags it knows.

use super::super::diagnostic::Diagnostic;
use super::super::position::Origin;
use super::super::quote::go_quote;
use super::super::tree::{Heredoc, Span, Word};
use super::words::{self, Json, Piece};
use std::ops::Range;

/// A line that knows its parts but not their meaning.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) keyword: Word,
    /// `--name=value`, without quotes and escapes.
    pub(super) flags: Vec<Word>,
    pub(super) arguments: Arguments,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) comments: Vec<String>,
    /// The joined line, to the last blank.
    pub(super) original: String,
    /// The line without heredoc bodies.
    pub(super) line_span: Span,
    /// The line and its heredoc bodies.
    pub(super) span: Span,
}

/// What follows keyword and flags.
#[derive(Debug)]
pub(super) enum Arguments {
    /// The members of a JSON array.
    Json(Vec<Word>),
    /// Words between blanks; or the quoted words of ARG.
    Words(Vec<Word>),
    /// The rest of the line.
    Text(Word),
    /// ENV and LABEL.
    Pairs { pairs: Vec<(Word, Word)>, legacy: bool },
    /// HEALTHCHECK: the type and what follows it (JSON or text).
    Health(Word, Box<Arguments>),
    /// ONBUILD's instruction.
    Instruction(Box<Node>),
    /// Nothing there, or the keyword is unknown.
    Nothing,
}

/// An error that may not know its place yet.
#[derive(Debug)]
pub(super) struct NodeError(String, Option<Span>);

impl NodeError {
    pub(super) fn or_at(self, span: Span) -> Diagnostic {
        Diagnostic::at(self.1.unwrap_or(span), self.0)
    }
}

/// A line, where its characters came from, and the escape character.
struct Line<'a> {
    text: &'a str,
    origin: &'a Origin,
    escape: char,
    /// Within ONBUILD already: a second one is refused later, and must not recurse now.
    triggered: bool,
}

impl Node {
    pub(super) fn parse(text: &str, origin: &Origin, escape: char) -> Result<Self, NodeError> {
        let line = Line { text, origin, escape, triggered: false };
        line.node(0..text.len())
    }

    /// RUN, COPY and ADD (also behind ONBUILD) that are not in JSON form.
    pub(super) fn may_have_heredocs(&self) -> bool {
        let node = match &self.arguments {
            Arguments::Instruction(inner) => inner,
            _ => self,
        };
        let takes = matches!(node.keyword.text.to_ascii_lowercase().as_str(), "run" | "copy" | "add");
        takes && !matches!(node.arguments, Arguments::Json(_))
    }
}

impl Line<'_> {
    fn node(&self, range: Range<usize>) -> Result<Node, NodeError> {
        let trimmed = words::trimmed(self.text, range.clone());
        let (keyword, rest) = words::split_first(&self.text[trimmed.clone()]);
        let keyword = self.origin.word(keyword, trimmed.start..trimmed.start + keyword.len());
        let mut flags = Vec::new();
        let mut arguments = trimmed.end..trimmed.end;
        if let Some(rest) = rest {
            let start = trimmed.start + rest;
            let (pieces, at) = words::split_flags(&self.text[start..trimmed.end], self.escape);
            flags = self.words(start, pieces);
            arguments = words::trimmed(self.text, start + at..trimmed.end);
        }
        Ok(Node {
            arguments: self.arguments(&keyword.text.to_ascii_lowercase(), arguments)?,
            keyword,
            flags,
            heredocs: Vec::new(),
            comments: Vec::new(),
            original: self.text[range].to_owned(),
            line_span: self.origin.span(trimmed.clone()),
            span: self.origin.span(trimmed),
        })
    }

    fn arguments(&self, keyword: &str, range: Range<usize>) -> Result<Arguments, NodeError> {
        if range.is_empty() {
            return Ok(Arguments::Nothing);
        }
        match keyword {
            "add" | "copy" | "volume" => {
                self.json_or(range, |line, range| Arguments::Words(line.words(range.start, words::split_blanks(&line.text[range]))))
            }
            "cmd" | "entrypoint" | "run" | "shell" => self.json_or(range, |line, range| Arguments::Text(line.word(range))),
            "arg" => Ok(Arguments::Words(self.words(range.start, words::split_quoted(&self.text[range], self.escape)))),
            "env" | "label" => self.pairs(keyword, range),
            "expose" | "from" => Ok(Arguments::Words(self.words(range.start, words::split_blanks(&self.text[range])))),
            "healthcheck" => self.health(range),
            "maintainer" | "stopsignal" | "user" | "workdir" => Ok(Arguments::Text(self.word(range))),
            "onbuild" if !self.triggered => Ok(Arguments::Instruction(Box::new(Line { triggered: true, ..*self }.node(range)?))),
            _ => Ok(Arguments::Nothing),
        }
    }

    fn word(&self, range: Range<usize>) -> Word {
        self.origin.word(&self.text[range.clone()], range)
    }

    fn words(&self, base: usize, pieces: Vec<Piece>) -> Vec<Word> {
        pieces.into_iter().map(|piece| self.origin.word(piece.text, base + piece.range.start..base + piece.range.end)).collect()
    }

    fn json_or(&self, range: Range<usize>, otherwise: impl Fn(&Self, Range<usize>) -> Arguments) -> Result<Arguments, NodeError> {
        match words::read_json(&self.text[range.clone()]) {
            Json::Strings(pieces) => Ok(Arguments::Json(self.words(range.start, pieces))),
            Json::OtherMembers => Err(NodeError(
                "when using JSON array syntax, arrays must be comprised of strings only".to_owned(),
                Some(self.origin.span(range)),
            )),
            Json::None => Ok(otherwise(self, range)),
        }
    }

    fn health(&self, range: Range<usize>) -> Result<Arguments, NodeError> {
        let text = &self.text[range.clone()];
        let kind = range.start..range.start + text.find(|ch: char| ch.is_ascii_whitespace() || ch == '\u{b}').unwrap_or(text.len());
        let rest = words::trimmed(self.text, kind.end..range.end);
        let arguments =
            if rest.is_empty() { Arguments::Nothing } else { self.json_or(rest, |line, range| Arguments::Text(line.word(range)))? };
        Ok(Arguments::Health(self.word(kind), Box::new(arguments)))
    }

    fn pairs(&self, keyword: &str, range: Range<usize>) -> Result<Arguments, NodeError> {
        let pieces = words::split_quoted(&self.text[range.clone()], self.escape);
        let Some(first) = pieces.first() else { return Ok(Arguments::Nothing) };
        if !first.text.contains('=') {
            return self.legacy_pair(keyword, range);
        }
        let mut pairs = Vec::new();
        for piece in pieces {
            let at = range.start + piece.range.start..range.start + piece.range.end;
            let Some((key, value)) = piece.text.split_once('=') else {
                let message = format!("Syntax error - can't find = in {}. Must be of the form: name=value", go_quote(&piece.text));
                return Err(NodeError(message, Some(self.origin.span(at))));
            };
            // Key and value stand where the first `=` divides them: escapes stay, so only a dropped last one can shift the end.
            let split = (at.start + key.len()).min(at.end);
            let value_start = (split + 1).min(at.end);
            pairs.push((self.origin.word(key, at.start..split), self.origin.word(value, value_start..at.end)));
        }
        Ok(Arguments::Pairs { pairs, legacy: false })
    }

    /// `KEY the rest of the line`.
    fn legacy_pair(&self, keyword: &str, range: Range<usize>) -> Result<Arguments, NodeError> {
        let (key, rest) = words::split_first(&self.text[range.clone()]);
        let Some(rest) = rest else {
            return Err(NodeError(format!("{} must have two arguments", keyword.to_ascii_uppercase()), Some(self.origin.span(range))));
        };
        let pair = (self.word(range.start..range.start + key.len()), self.word(range.start + rest..range.end));
        Ok(Arguments::Pairs { pairs: vec![pair], legacy: true })
    }
}
