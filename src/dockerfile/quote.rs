//! Text in double quotes as Go's `%q` writes it: error messages and history entries quote that way.
//! Unaware of who quotes and why.

use std::fmt::Write;

/// `a"b` -> `"a\"b"`; control and invisible characters become escapes.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for ch in text.chars() {
        push_escaped(&mut out, ch);
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, ch: char) {
    match ch {
        '"' | '\\' => {
            out.push('\\');
            out.push(ch);
        }
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        _ if is_printable(ch) => out.push(ch),
        _ => push_code(out, ch as u32),
    }
}

fn push_code(out: &mut String, code: u32) {
    // Writing to a String can't fail.
    let _ = match code {
        0..=0x1f | 0x7f => write!(out, "\\x{code:02x}"),
        0x80..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// Go's notion: every space but U+0020, and every format character, is invisible.
fn is_printable(ch: char) -> bool {
    if ch.is_control() || (ch.is_whitespace() && ch != ' ') {
        return false;
    }
    !matches!(ch, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_go() {
        for (text, expected) in [
            ("plain", r#""plain""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("tab\tnul\0del\u{7f}", r#""tab\tnul\x00del\x7f""#),
            ("é 한 \u{a0}\u{feff}", r#""é 한 \u00a0\ufeff""#),
        ] {
            assert_eq!(go_quote(text), expected);
        }
    }
}
