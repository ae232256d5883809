//! Any text is a git reference, none, or refused; what is taken holds nothing that git's programs would take for an option.
//! `cargo +nightly fuzz run git_reference -- -timeout=1`
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::git_reference::{is_valid_ref, parse};

fuzz_target!(|text: &str| {
    let Ok(Some(git)) = parse(text) else { return };
    assert!(!git.remote.starts_with('-') && !git.remote.contains(char::is_control));
    assert!(git.reference.is_none_or(|reference| is_valid_ref(&reference)));
    assert!(git.subdirectory.is_none_or(|path| !path.starts_with('/') && !path.split('/').any(|part| part == "..")));
});
