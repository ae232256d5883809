//! Tests of word expansion.

use super::*;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn trims_and_replaces_by_pattern() {
    let env = env(&[
        ("P", "/usr/lib/x.tar.gz"),
        ("S", "a***b*"),
        ("R", "()[]{}^$.*?|\\x"),
        ("SEP", "\\*/"),
        ("G", "/foo*/*/*.txt"),
        ("E", ""),
        ("U", "äöäö"),
    ]);
    for (text, expected) in [
        ("${P#*/}", "usr/lib/x.tar.gz"),
        ("${P##*/}", "x.tar.gz"),
        ("${P%.*}", "/usr/lib/x.tar"),
        ("${P%%.*}", "/usr/lib/x"),
        ("${P#$E}", "/usr/lib/x.tar.gz"),
        ("${P#}", "/usr/lib/x.tar.gz"),
        ("${P#nothing}", "/usr/lib/x.tar.gz"),
        ("${S%%\\**\\*}", "a"),
        ("${S%\\*}", "a***b"),
        ("${R#()[]{\\}^$.\\*\\?|\\\\}", "x"),
        ("${P/lib/share}", "/usr/share/x.tar.gz"),
        ("${P/\\//}", "usr/lib/x.tar.gz"),
        ("${P//\\//:}", ":usr:lib:x.tar.gz"),
        ("${G/$SEP/.} ${G//$SEP/.}", "/foo.*/*.txt /foo..*.txt"),
        ("${P/$E/x}", "x/usr/lib/x.tar.gz"),
        ("${U#ä}-${U%ö}-${U/?/x}", "öäö-äöä-xöäö"),
        ("${NONE#x}${NONE/a/b}", ""),
    ] {
        assert_eq!(expand_word(text, '\\', &env).map(|expanded| expanded.text), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn errors_name_the_text_and_the_reason() {
    let env = env(&[("SET", "x"), ("NULL", "")]);
    for (text, reason) in [
        ("${", "syntax error: missing '}'"),
        ("${SET:-x", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${{a}", "syntax error: bad substitution"),
        ("${.}", "unsupported modifier (.) in substitution"),
        ("${SET", "syntax error: missing '}'"),
        ("${SET:=x}", "unsupported modifier (:=) in substitution"),
        ("${SET:#x}", "unsupported modifier (:#) in substitution"),
        ("${NONE?}", "NONE: is not allowed to be unset"),
        ("${NONE:?}", "NONE: is not allowed to be unset"),
        ("${NULL:?}", "NULL: is not allowed to be empty"),
        ("${NONE:?set $SET}", "NONE: set x"),
        ("${SET/x}", "syntax error: missing '/' in ${}"),
        ("${SET/x/y", "syntax error: missing '}'"),
        ("${SET#\\x}", "invalid pattern (\\x) in substitution: invalid escape '\\x'"),
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ("\"a", "unexpected end of statement while looking for matching double-quote"),
    ] {
        let expected = format!("failed to process {}: {reason}", go_quote(text));
        assert_eq!(expand_word(text, '\\', &env), Err(expected), "{text}");
    }
}

#[test]
fn tells_which_names_were_set() {
    let env = env(&[("A", "1"), ("B", "")]);
    let expanded = expand_word("${A:-x} $B ${C:-y$A} ${D+z}", '\\', &env).unwrap();
    assert_eq!((expanded.text.as_str(), expanded.matched, expanded.unmatched), ("1  y1 ", names(&["A", "B"]), names(&["C", "D"])));
}

#[test]
fn the_other_escape_character() {
    let env = env(&[("A", "1")]);
    for (text, expected) in [("`$A", "$A"), ("C:\\$A", "C:\\1"), ("\"`\"`$`x\"", "\"$`x"), ("a`", "a")] {
        assert_eq!(expand_word(text, '`', &env).unwrap().text, expected, "{text}");
    }
}

#[test]
fn heredoc_bodies_keep_quotes_and_lose_backslashes() {
    let env = env(&[("A", "1"), ("Q", "it's")]);
    for (body, expected) in [("a '$A' \"$A\" $Q\n", "a '1' \"1\" it's\n"), ("\\$A \\\\ \\n \\\nx\n", "$A \\ n \nx\n"), ("`$A`\n", "`1`\n")]
    {
        assert_eq!(expand_heredoc(body, &env).unwrap().text, expected, "{body}");
    }
}

#[test]
fn display_fills_in_only_what_is_set() {
    let env = env(&[("A", "1")]);
    for (text, expected) in [
        ("RUN echo \"$A\" '$A' $B ${B:-x} ${B} \"", "RUN echo \"$A\" '$A' $B ${B:-x} ${B} \""),
        ("RUN echo \"$A\" '$A' $B ${B:-x} ${B}", "RUN echo \"1\" '$A' $B ${B:-x} ${B}"),
        ("RUN ${B#a} ${B/a/b} ${A}", "RUN ${B#a} ${B/a/b} 1"),
    ] {
        assert_eq!(expand_for_display(text, '\\', &env), expected);
    }
}

#[test]
fn nesting_and_growth_are_bounded() {
    let deep = format!("{}x{}", "${A:-".repeat(5000), "}".repeat(5000));
    assert!(expand_word(&deep, '\\', &Empty).unwrap_err().ends_with("substitutions are nested more than 64 deep"));
    let env = env(&[("A", &"x".repeat(1 << 20))]);
    assert!(expand_word(&"$A".repeat(17), '\\', &env).unwrap_err().ends_with("the expansion is larger than 16 MiB"));
}
