//! See `context_archive` in `bodies.rs`. `cargo +nightly fuzz run context_archive -- -timeout=1 -max_len=65536 -rss_limit_mb=512 -malloc_limit_mb=64`
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::context_archive(data));
