//! See `expansion` in `bodies.rs`. `cargo +nightly fuzz run expand -- -timeout=1 -max_len=65536`
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::expansion(data));
