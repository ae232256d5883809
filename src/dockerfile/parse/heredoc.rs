//! Recognising `<<NAME`, `3<<-"NAME"` and their like among the words of a line.
//! Unaware of bodies: reading them is for the line reader.

use super::super::expand::{Empty, Options, expand};

/// A heredoc word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct HeredocWord {
    /// The delimiter without quotes.
    pub(in super::super) name: String,
    /// Digits before `<<`.
    pub(in super::super) file_descriptor: Option<u32>,
    /// `<<-`.
    pub(in super::super) strip_tabs: bool,
    /// No part of the delimiter was quoted.
    pub(in super::super) expand: bool,
}

/// All heredoc words of a line, in order. A line that can't be split into words has none.
pub(in super::super) fn heredocs_of_line(line: &str) -> Result<Vec<HeredocWord>, String> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    // The escape character is `\` here whatever the file's is: shells read these words too.
    let options = Options { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Options::default() };
    let words = expand(line, '\\', options, &Empty).map(|expanded| expanded.words).unwrap_or_default();
    let mut heredocs = Vec::new();
    for word in words {
        heredocs.extend(parse_word(&word)?);
    }
    Ok(heredocs)
}

/// The heredoc that `word` is, or None. Err when its delimiter can't be read.
pub(in super::super) fn parse_word(word: &str) -> Result<Option<HeredocWord>, String> {
    let digits = word.len() - word.trim_start_matches(|ch: char| ch.is_ascii_digit()).len();
    let Some(rest) = word[digits..].strip_prefix("<<") else { return Ok(None) };
    let (strip_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let delimiter = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if delimiter.is_empty() || delimiter.contains('<') {
        return Ok(None);
    }
    let plain = Options { skip_unset: true, ..Options::default() };
    let names = expand(delimiter, '\\', plain, &Empty)?.words;
    let raw = expand(delimiter, '\\', Options { raw_quotes: true, ..plain }, &Empty)?.words;
    let ([name], [raw]) = (names.as_slice(), raw.as_slice()) else {
        return Ok(None);
    };
    Ok(Some(HeredocWord {
        name: name.clone(),
        file_descriptor: (digits > 0).then(|| word[..digits].parse().unwrap_or(u32::MAX)),
        strip_tabs,
        // Quotes that vanish are quotes that quoted something.
        expand: quotes(name) == quotes(raw),
    }))
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_delimiters() {
        for (word, name, expand, strip_tabs, fd) in [
            ("<<EOF", "EOF", true, false, None),
            ("<<-EOF", "EOF", true, true, None),
            ("3<<EOF", "EOF", true, false, Some(3)),
            ("<< EOF", "EOF", true, false, None),
            ("<<'EOF'", "EOF", false, false, None),
            ("<<\"EOF\"", "EOF", false, false, None),
            ("<<eo'f'", "eof", false, false, None),
            ("<<eo\\'f", "eo'f", true, false, None),
            ("<<$EOF", "$EOF", true, false, None),
            ("<<'one two'", "one two", false, false, None),
        ] {
            let found = parse_word(word).unwrap().unwrap_or_else(|| panic!("{word}"));
            assert_eq!(
                (found.name.as_str(), found.expand, found.strip_tabs, found.file_descriptor),
                (name, expand, strip_tabs, fd),
                "{word}"
            );
        }
        for word in ["<<", "<<-", "<<<EOF", "a<<EOF", "EOF", "<EOF", "<<a<b"] {
            assert_eq!(parse_word(word).unwrap(), None, "{word}");
        }
        assert!(parse_word("<<'EOF").is_err());
    }

    #[test]
    fn quoted_words_of_a_line_are_no_heredocs() {
        let names = |line: &str| heredocs_of_line(line).unwrap().into_iter().map(|heredoc| heredoc.name).collect::<Vec<_>>();
        assert_eq!(names("RUN cat <<A 3<<'B' | sh"), ["A", "B"]);
        assert_eq!(names("RUN cat << A"), ["A"]);
        assert_eq!(names("RUN \"<<A\""), [""; 0]);
        assert_eq!(names("RUN it's <<A"), [""; 0]);
        assert_eq!(names("RUN echo \\<<A"), [""; 0]);
    }
}
