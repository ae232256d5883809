//! Lines -> bytes for a terminal: only what changed is sent, in one piece, and the cursor rests below the picture.
//! Unaware of builds.

use super::screen::shown_width;

/// What stands on the terminal below the lines that are over.
#[derive(Debug, Default)]
pub struct Painter {
    live: Vec<String>,
    columns: usize,
}

impl Painter {
    /// The bytes that put `over` above and `live` in place of what was live before.
    pub fn paint(&mut self, over: &[String], live: Vec<String>, columns: usize) -> String {
        let is_resized = self.columns != columns;
        if over.is_empty() && live == self.live && !is_resized {
            return String::new();
        }
        // Synchronised update: terminals that know it show the picture at once, others ignore it. No wrapping: some are
        // narrower before they say so, and every line has to take one row.
        let mut out = String::from("\u{1b}[?2026h\u{1b}[?7l");
        let rows = self.rows(columns);
        if rows > 0 {
            out.push_str(&format!("\r\u{1b}[{rows}A"));
        }
        if is_resized {
            // What the terminal has wrapped is wiped as a whole.
            out.push_str("\u{1b}[J");
        }
        for line in over {
            out.push_str(&format!("{line}\u{1b}[K\r\n"));
        }
        let may_stay = over.is_empty() && !is_resized;
        for (index, line) in live.iter().enumerate() {
            match may_stay && self.live.get(index) == Some(line) {
                true => out.push_str("\r\n"),
                false => out.push_str(&format!("{line}\u{1b}[K\r\n")),
            }
        }
        if over.len() + live.len() < self.live.len() {
            out.push_str("\u{1b}[J");
        }
        out.push_str("\u{1b}[?7h\u{1b}[?2026l");
        (self.live, self.columns) = (live, columns);
        out
    }

    /// Rows that the live lines take after a terminal of the old width has become one of `columns`.
    fn rows(&self, columns: usize) -> usize {
        let columns = columns.max(1);
        self.live.iter().map(|line| shown_width(line).div_ceil(columns).max(1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    /// A terminal that knows what the painter sends: text, CR LF, up, erase line, erase below, modes.
    #[derive(Default)]
    struct Terminal {
        rows: Vec<String>,
        row: usize,
    }

    impl Terminal {
        fn take(&mut self, bytes: &str) {
            let mut rest = bytes;
            let mut column = 0;
            while let Some(letter) = rest.chars().next() {
                if self.rows.len() <= self.row {
                    self.rows.resize(self.row + 1, String::new());
                }
                if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
                    let end = sequence.find(|letter: char| letter.is_ascii_alphabetic()).unwrap();
                    match &sequence[end..=end] {
                        "A" => self.row -= sequence[..end].parse::<usize>().unwrap(),
                        "K" => self.rows[self.row].truncate(column),
                        "J" => {
                            self.rows.truncate(self.row + 1);
                            self.rows[self.row].truncate(column);
                        }
                        _ => {}
                    }
                    rest = &sequence[end + 1..];
                    continue;
                }
                match letter {
                    '\r' => column = 0,
                    '\n' => self.row += 1,
                    _ => {
                        let row = &mut self.rows[self.row];
                        match column < row.len() {
                            true => row.replace_range(column..column + 1, &letter.to_string()),
                            false => row.push(letter),
                        }
                        column += 1;
                    }
                }
                rest = &rest[letter.len_utf8()..];
            }
        }

        fn text(&self) -> String {
            self.rows.join("\n").trim_end().to_owned()
        }
    }

    #[test]
    fn the_terminal_shows_what_is_over_above_what_is_live() {
        let (mut painter, mut terminal) = (Painter::default(), Terminal::default());
        let frames: &[(&str, &str, &str)] = &[
            ("", "a 1\nb 1\n2 steps", "a 1\nb 1\n2 steps"),
            ("", "a 2\nb 1\n2 steps", "a 2\nb 1\n2 steps"),
            ("a done", "b 2\n2 steps", "a done\nb 2\n2 steps"),
            ("", "2 steps", "a done\n2 steps"),
            ("b done", "", "a done\nb done"),
        ];
        for (over, live, expected) in frames {
            terminal.take(&painter.paint(&lines(over), lines(live), 80));
            assert_eq!(terminal.text(), *expected);
        }
    }

    #[test]
    fn nothing_is_sent_when_nothing_changed_and_little_when_little_did() {
        let mut painter = Painter::default();
        painter.paint(&[], lines("a 1\nb 1"), 80);
        assert_eq!(painter.paint(&[], lines("a 1\nb 1"), 80), "");
        let sent = painter.paint(&[], lines("a 1\nb 2"), 80);
        assert!(sent.contains("b 2") && !sent.contains("a 1"), "{sent:?}");
    }

    #[test]
    fn after_a_resize_the_wrapped_rows_are_wiped() {
        let mut painter = Painter::default();
        painter.paint(&[], vec!["x".repeat(79), "y".repeat(79)], 80);
        let sent = painter.paint(&[], vec!["x".repeat(39)], 40);
        assert!(sent.contains("\u{1b}[4A\u{1b}[J"), "{sent:?}");
    }
}
