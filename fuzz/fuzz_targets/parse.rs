//! Any text parses or is refused, without panic; what parses prints and reads back as the same tree; lint survives it.
//! `cargo +nightly fuzz run parse -- -timeout=1 -max_len=65536`
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::{lint, parse, parse_trigger, print, spans::forget_layout};

fuzz_target!(|text: &str| {
    let _ = parse_trigger(text);
    let Ok(file) = parse(text) else { return };
    let _ = lint::check(&file, text, &lint::Options { all_stages: true, ..lint::Options::default() });
    let file = forget_layout(file);
    let printed = print(&file);
    let again = parse(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(forget_layout(again), file, "{printed}");
});
