//! See `outlines` in `bodies.rs`. `cargo +nightly fuzz run outlines -- -timeout=1 -max_len=65536 -malloc_limit_mb=512`
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::outlines(data));
