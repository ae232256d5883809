//! What integration tests stand on: a bed with a store, a context and a user, a real registry, images made by hand,
//! and a registry that misbehaves. Unaware of rbuild's insides: only the binary is run.

mod bed;
mod bucket;
mod container;
mod fake;
mod image;
mod lines;
mod pty;
mod registry;
mod server;
mod user;
mod web;
mod witness;

pub use bed::{Bed, Outcome, checkout};
pub use bucket::{Buckets, KEY};
pub use container::{Container, shell};
pub use fake::{FakeRegistry, Reply, Request};
pub use image::{Image, Layer, digest, program_tree, seal};
pub use lines::Lines;
pub use pty::Pty;
pub use registry::Registry;
pub use server::Server;
pub use user::{User, binary};
pub use web::{Page, Web};
pub use witness::Witness;

use std::process::Command;

/// Runs a tool of the machine and gives its output; fails the test when the tool fails.
#[track_caller]
pub fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed with {}:\n{out}{err}", output.status);
    out.into_owned()
}

/// Bytes that do not compress, always the same for a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Whether a test may go on without `what`. Under tests/run everything is there, so that nothing is skipped silently.
pub fn skip(what: &str) {
    assert!(std::env::var_os("RBUILD_TEST_REQUIRE").is_none(), "{what}");
    eprintln!("skipped: {what}");
}
