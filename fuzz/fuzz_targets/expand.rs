//! Any word expands or is refused: no panic, no more than the documented memory.
//! `cargo +nightly fuzz run expand -- -timeout=1 -max_len=65536`
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::expand::{Options, expand, expand_heredoc};
use std::collections::BTreeMap;

fuzz_target!(|input: (&str, &str, bool)| {
    let (text, value, backtick) = input;
    let environment: BTreeMap<String, String> = [("a".to_owned(), value.to_owned()), ("b".to_owned(), String::new())].into();
    let escape = if backtick { '`' } else { '\\' };
    for options in [Options::default(), Options { raw_quotes: true, skip_unset: true, ..Options::default() }] {
        let _ = expand(text, escape, options, &environment);
    }
    let _ = expand_heredoc(text, &environment);
});
