//! Any ignore file compiles or is refused, and a walk agrees with asking.
//! `cargo +nightly fuzz run ignore -- -timeout=1 -max_len=65536`
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::glob::clean;
use rbuild::dockerfile::ignore::IgnoreFile;

fuzz_target!(|input: (&str, &str)| {
    let (patterns, path) = input;
    let Ok(file) = IgnoreFile::parse(patterns) else { return };
    let path = clean(path);
    if path.starts_with(['/', '.']) {
        return;
    }
    let matcher = file.matcher();
    let mut below = matcher.root();
    for (at, _) in path.match_indices('/') {
        let (ignored, next) = matcher.enter(&path[..at], &below);
        if ignored && matcher.can_skip_directory(&path[..at]) {
            assert!(file.matches(&path));
            return;
        }
        below = next;
    }
    assert_eq!(matcher.matches_below(&path, &below), file.matches(&path));
});
