//! Words and widths of a progress line: what a terminal may be sent, durations, sizes, bars. Unaware of builds.

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

/// `0.3s`, `12s`, `2m05s`: fewer digits the longer it lasts, so that what is shown changes seldom.
pub fn elapsed(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => format!("{:.1}s", (duration.as_millis() / 100) as f64 / 10.0),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `1.2s`, as it stands in a log.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// `12.30MB`, in powers of ten as docker shows it.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.2}{unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2}TB")
}

/// What a terminal may show of foreign bytes: text and colours' text, no control of the terminal. Tabs become spaces,
/// of a line that overwrites itself (`\r`) the last state counts.
pub fn harmless(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    let text = text.rsplit('\r').next().unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(letter) = chars.next() {
        match letter {
            '\u{1b}' | '\u{9b}' => skip_sequence(letter, &mut chars),
            '\t' => out.push_str("    "),
            // Controls, and the marks that turn the direction of text or can't be seen.
            _ if letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}') => {}
            _ => out.push(letter),
        }
    }
    out
}

/// Several lines with foreign words in them, such as an error that quotes a command.
pub fn harmless_lines(text: &str) -> String {
    text.lines().map(|line| harmless(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

/// Takes the rest of an escape sequence.
fn skip_sequence(first: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let kind = if first == '\u{9b}' { Some('[') } else { chars.next() };
    match kind {
        // CSI: up to its final byte.
        Some('[') => {
            while let Some(letter) = chars.next_if(|letter| (' '..='~').contains(letter)) {
                if ('@'..='~').contains(&letter) {
                    break;
                }
            }
        }
        // OSC, DCS, SOS, PM, APC: up to BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(letter) = chars.next() {
                if letter == '\u{7}' {
                    break;
                }
                if letter == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        // Intermediates and a final byte.
        Some(' '..='/') => drop(chars.next()),
        _ => {}
    }
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(|letter| letter.width().unwrap_or(0)).sum()
}

/// The text in at most `columns`, cut with `…`.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut used = 0;
    let mut out = String::new();
    for letter in text.chars() {
        let next = letter.width().unwrap_or(0);
        if used + next + 1 > columns {
            break;
        }
        used += next;
        out.push(letter);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// A bar of `columns`, filled by `done` of `total`.
pub fn bar(done: u64, total: u64, columns: usize) -> String {
    let total = total.max(1);
    let filled = (done.min(total) as u128 * columns as u128 / total as u128) as usize;
    format!("{}{}", "━".repeat(filled), "─".repeat(columns - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_lose_digits_as_they_grow() {
        let shown = |ms| elapsed(Duration::from_millis(ms));
        assert_eq!([shown(0), shown(1299), shown(12_900), shown(125_000), shown(3_725_000)], ["0.0s", "1.2s", "12s", "2m05s", "1h02m"]);
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!([size(0), size(999), size(1500), size(2_000_000)], ["0B", "999B", "1.50kB", "2.00MB"]);
    }

    #[test]
    fn output_cannot_steer_the_terminal() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07after", "after"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b[2J\x1b[Hgone", "gone"),
            (b"\x1bPq#0\x1b\\sixel", "sixel"),
            (b"\x1b(Bset", "set"),
            (b"\xc2\x9b31mC1", "C1"),
            (b"a\x07\x08b\x00c", "abc"),
            (b"10%\r20%\r30%\r\n", "30%"),
            (b"a\tb", "a    b"),
            ("abc\u{202e}def".as_bytes(), "abcdef"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"\x1b", ""),
            (b"\x1b[", ""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(harmless(bytes), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn wide_letters_are_never_halved() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(width(&cut("日本語日本語", 7)), 7);
    }

    #[test]
    fn bars_have_their_width_whatever_is_done() {
        for done in [0, 1, 50, 100, 200] {
            assert_eq!(width(&bar(done, 100, 20)), 20);
        }
        assert_eq!(bar(0, 0, 3), "───");
        assert_eq!(bar(100, 100, 3), "━━━");
    }
}
