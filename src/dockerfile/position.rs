//! From byte offsets to lines and columns, and from joined lines back to the file.
//! Unaware of what stands at a position.

use super::tree::{Span, Word};
use std::ops::Range;

/// The line (1-based) that holds byte `offset`.
pub fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The column (1-based, in characters) of byte `offset` within its line.
pub fn column_of(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    let start = text.as_bytes()[..offset].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    String::from_utf8_lossy(&text.as_bytes()[start..offset]).chars().count() + 1
}

/// First and last line (1-based) of a span.
pub fn lines_of(text: &str, span: Span) -> (usize, usize) {
    let first = line_of(text, span.start);
    (first, line_of(text, span.end.saturating_sub(1).max(span.start)))
}

/// The lines of a text, for asking often.
#[derive(Debug, Clone)]
pub struct LineIndex {
    /// Where each line begins.
    starts: Vec<usize>,
}

impl LineIndex {
    /// Finds the lines.
    pub fn new(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(breaks).collect() }
    }

    /// The line (1-based) that holds byte `offset`.
    pub fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// First and last line (1-based) of a span.
    pub fn lines_of(&self, span: Span) -> (usize, usize) {
        (self.line_of(span.start), self.line_of(span.end.saturating_sub(1).max(span.start)))
    }

    /// Where a line (1-based) begins; the end of the last one for lines that don't exist.
    pub fn start_of(&self, line: usize) -> usize {
        self.starts.get(line.saturating_sub(1)).or(self.starts.last()).copied().unwrap_or(0)
    }
}

/// Where the pieces of a joined line came from: `(offset in the line, offset in the file)`, ascending.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin(Vec<(usize, usize)>);

impl Origin {
    /// Says that what follows `at` in the line stands at `source` in the file.
    pub(super) fn push(&mut self, at: usize, source: usize) {
        self.0.push((at, source));
    }

    fn source(&self, at: usize) -> usize {
        let index = self.0.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        self.0.get(index).map_or(at, |(start, source)| source + at.saturating_sub(*start))
    }

    /// The bytes of the file that a range of the line came from, line breaks between included.
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        let start = self.source(range.start);
        let end = if range.is_empty() { start } else { self.source(range.end - 1) + 1 };
        Span { start, end }
    }

    /// A word with its place.
    pub(super) fn word(&self, text: impl Into<String>, range: Range<usize>) -> Word {
        Word { text: text.into(), span: self.span(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_columns_from_one() {
        let text = "FROM a\nRÜN b\n";
        for (offset, line, column) in [(0, 1, 1), (6, 1, 7), (7, 2, 1), (10, 2, 3), (99, 3, 1)] {
            assert_eq!((line_of(text, offset), column_of(text, offset)), (line, column), "{offset}");
        }
        assert_eq!(lines_of(text, Span { start: 0, end: 7 }), (1, 1));
        let index = LineIndex::new(text);
        for offset in 0..text.len() {
            assert_eq!(index.line_of(offset), line_of(text, offset), "{offset}");
        }
        assert_eq!((index.lines_of(Span { start: 0, end: 8 }), index.start_of(2)), ((1, 2), 7));
    }

    #[test]
    fn maps_joined_lines_back() {
        // "ab\" newline "cd" joined is "abcd".
        let mut origin = Origin::default();
        origin.push(0, 0);
        origin.push(2, 4);
        assert_eq!(origin.span(0..2), Span { start: 0, end: 2 });
        assert_eq!(origin.span(1..3), Span { start: 1, end: 5 });
        assert_eq!(origin.span(2..2), Span { start: 4, end: 4 });
    }
}
