//! Caches in registries and directories: a second machine, here another store, takes steps from the first.

use std::fs;

use crate::support::{Bed, Registry};

/// A build whose result is another each time it runs.
const STAGES: &str = "FROM alpine AS base\nRUN cat /proc/sys/kernel/random/uuid > /id\nFROM base AS b\nRUN cat /proc/sys/kernel/random/uuid > /out\n\
                      FROM base\nCOPY --from=b /out /out\nRUN cat /out > /two\n";

fn name(bed: &Bed) -> String {
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    format!("{}/cache-{unique}", Registry::stand_in().address())
}

#[test]
fn another_store_takes_all_steps_from_a_registry() {
    for mode in ["min", "max"] {
        let first = Bed::caller();
        let cache = name(&first);
        let to = format!("type=registry,ref={cache},mode={mode}");
        let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &to]);
        for second in Bed::each_user() {
            assert_eq!(second.dockerfile(STAGES).image("app", &["--cache-from", &cache]), digest, "{mode}");
        }
    }
}

#[test]
fn a_directory_is_a_cache_too() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache").display().to_string();
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={folder}")]);
    assert_eq!(second.dockerfile(STAGES).image("app", &["--cache-from", &format!("type=local,src={folder}")]), digest);
}

#[test]
fn a_cache_that_is_missing_or_lies_is_a_miss() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache").display().to_string();
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={folder}")]);
    let nowhere = format!("{}/not-there", Registry::stand_in().address());
    second.dockerfile(STAGES).build(&["--cache-from", &nowhere]).succeeds().says("is not used");
    let blobs = fs::read_dir(first.path("out/cache/blobs/sha256")).unwrap();
    for blob in blobs.map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&blob).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            fs::write(&blob, vec![0; bytes.len()]).unwrap();
        }
    }
    let third = Bed::caller();
    let outcome = third.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &format!("type=local,src={folder}")]);
    outcome.succeeds().says("building without it");
    assert_ne!(third.digest("app"), digest);
}

#[test]
fn only_trusted_writers_count() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache").display().to_string();
    let to = format!("type=local,dest={folder}");
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &to, "--cache-writer", "ci"]);
    let from = format!("type=local,src={folder}");
    let other = second.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &from, "--cache-trust", "release"]);
    other.succeeds().says("0 of ");
    assert_ne!(second.digest("app"), digest);
    let third = Bed::caller();
    assert_eq!(third.dockerfile(STAGES).image("app", &["--cache-from", &from, "--cache-trust", "ci"]), digest);
}
