//! The file's physical lines -> one node per instruction: continuations joined, comments set aside, heredoc bodies attached.
//! Unaware of what the instructions mean beyond how their line splits.

use super::super::diagnostic::Diagnostic;
use super::super::position::Origin;
use super::super::tree::{Heredoc, Span};
use super::directive::DirectiveReader;
use super::heredoc::heredocs_of_line;
use super::node::Node;

/// BuildKit's limit on a physical line.
const MAX_LINE: usize = 65535;

/// What the lines of a file amount to.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) nodes: Vec<Node>,
    /// As the directive says; None when it doesn't.
    pub(super) escape: Option<char>,
    /// 1-based, one for each instruction that has any: its first.
    pub(super) empty_continuations: Vec<usize>,
}

/// Reads the whole file.
pub(super) fn read(text: &str) -> Result<Lines, Diagnostic> {
    if text.is_empty() {
        return Err(Diagnostic::whole("the Dockerfile cannot be empty"));
    }
    let mut reader = LineReader::new(text);
    while let Some(line) = reader.next_line()? {
        reader.read_instruction(line)?;
    }
    if reader.lines.nodes.is_empty() {
        return Err(Diagnostic::whole("file with no instructions"));
    }
    Ok(reader.lines)
}

/// A physical line without its line break.
#[derive(Debug, Clone, Copy)]
struct Physical<'a> {
    text: &'a str,
    start: usize,
    number: usize,
}

struct LineReader<'a> {
    text: &'a str,
    at: usize,
    number: usize,
    directives: DirectiveReader,
    comments: Vec<String>,
    lines: Lines,
}

/// An instruction's line while its pieces are being joined.
#[derive(Default)]
struct Joined {
    text: String,
    origin: Origin,
    end: usize,
}

impl Joined {
    fn push(&mut self, piece: &str, start: usize) {
        self.origin.push(self.text.len(), start);
        self.text.push_str(piece);
        if !piece.trim().is_empty() {
            self.end = start + piece.trim_end().len();
        }
    }
}

impl<'a> LineReader<'a> {
    fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let lines = Lines { nodes: Vec::new(), escape: None, empty_continuations: Vec::new() };
        Self { text, at, number: 0, directives: DirectiveReader::default(), comments: Vec::new(), lines }
    }

    fn escape(&self) -> char {
        self.lines.escape.unwrap_or('\\')
    }

    fn next_line(&mut self) -> Result<Option<Physical<'a>>, Diagnostic> {
        if self.at == self.text.len() {
            return Ok(None);
        }
        let start = self.at;
        let length = self.text[start..].find('\n').unwrap_or(self.text.len() - start);
        if length > MAX_LINE {
            let span = Span { start, end: start + length };
            return Err(Diagnostic::at(span, format!("dockerfile line greater than max allowed size of {MAX_LINE}")));
        }
        self.at = (start + length + 1).min(self.text.len());
        self.number += 1;
        let text = self.text[start..start + length].trim_end_matches(['\r', '\n']);
        Ok(Some(Physical { text, start, number: self.number }))
    }

    fn read_instruction(&mut self, line: Physical<'a>) -> Result<(), Diagnostic> {
        let indent = line.text.len() - line.text.trim_start().len();
        let (content, start) = (&line.text[indent..], line.start + indent);
        let directive = self.directives.read(content, start)?;
        if let Some(directive) = directive {
            if directive.key == "escape" {
                self.set_escape(&directive.value.text, directive.value.span)?;
            }
            return Ok(());
        }
        if content.starts_with('#') {
            self.push_comment(line.text);
            return Ok(());
        }
        let (piece, continued) = split_continuation(content, self.escape());
        if !continued && piece.is_empty() {
            return Ok(());
        }
        let mut joined = Joined { end: start + content.len(), ..Joined::default() };
        joined.push(piece, start);
        if continued {
            self.read_continuation(&mut joined)?;
        }
        self.finish(joined, start)
    }

    fn set_escape(&mut self, value: &str, span: Span) -> Result<(), Diagnostic> {
        self.lines.escape = match value {
            "\\" => Some('\\'),
            "`" => Some('`'),
            _ => return Err(Diagnostic::at(span, format!("invalid escape token '{value}' does not match ` or \\"))),
        };
        Ok(())
    }

    /// Comments count for the next instruction; an empty one detaches those before it.
    fn push_comment(&mut self, line: &str) {
        // One character goes, whatever it is: a comment that is indented keeps its `#`, and so documents nothing.
        let mut chars = line.chars();
        chars.next();
        let comment = chars.as_str().trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
    }

    fn read_continuation(&mut self, joined: &mut Joined) -> Result<(), Diagnostic> {
        let mut empty = None;
        while let Some(line) = self.next_line()? {
            let content = line.text.trim_start();
            if content.starts_with('#') {
                continue;
            }
            if content.is_empty() {
                empty = empty.or(Some(line.number));
                continue;
            }
            let (piece, continued) = split_continuation(line.text, self.escape());
            joined.push(piece, line.start);
            if !continued {
                break;
            }
        }
        self.lines.empty_continuations.extend(empty);
        Ok(())
    }

    fn finish(&mut self, joined: Joined, start: usize) -> Result<(), Diagnostic> {
        let line_span = Span { start, end: joined.end.max(start) };
        let mut node = Node::parse(&joined.text, &joined.origin, self.escape()).map_err(|error| error.or_at(line_span))?;
        // A keyword may come only after a continuation mark.
        let line_span = Span { start: node.keyword.span.start.max(start), ..line_span };
        node.span = line_span;
        node.line_span = line_span;
        if node.may_have_heredocs() {
            let words = heredocs_of_line(&joined.text).map_err(|error| Diagnostic::at(line_span, error))?;
            for word in words {
                let (body, span, end) = self.read_body(&word.name, word.strip_tabs, line_span)?;
                node.span.end = end;
                let super::heredoc::HeredocWord { name, file_descriptor, strip_tabs, expand } = word;
                node.heredocs.push(Heredoc { name, file_descriptor, body, expand, strip_tabs, span });
            }
        }
        node.comments = std::mem::take(&mut self.comments);
        self.lines.nodes.push(node);
        Ok(())
    }

    /// The body up to the terminator, its place, and where the terminator ends.
    fn read_body(&mut self, name: &str, strip_tabs: bool, line: Span) -> Result<(String, Span, usize), Diagnostic> {
        let start = self.at;
        while let Some(candidate) = self.next_line()? {
            let text = if strip_tabs { candidate.text.trim_start_matches('\t') } else { candidate.text };
            if text == name {
                let span = Span { start, end: candidate.start };
                return Ok((self.text[start..candidate.start].to_owned(), span, candidate.start + candidate.text.len()));
            }
        }
        let label = format!("no line after this one reads `{name}`");
        Err(Diagnostic::at(line, "unterminated heredoc").with_label(label))
    }
}

/// The line without its continuation mark, and whether it has one. A doubled escape is none.
pub(in super::super) fn split_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}
