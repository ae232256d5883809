//! The store is kept small, and nothing that is in use or has a name goes.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Bed, Page, Web, noise};

/// What `rbuild du --json` counts.
fn total(bed: &Bed) -> u64 {
    let usage: serde_json::Value = serde_json::from_str(&bed.run(&["du", "--json"]).succeeds().out).unwrap();
    let objects = usage["objects"].as_array().unwrap().iter().map(|object| object["bytes"].as_u64().unwrap()).sum::<u64>();
    objects + usage["other_bytes"].as_u64().unwrap()
}

#[test]
fn a_store_with_a_limit_stays_below_it_and_keeps_what_has_a_name() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine\nCOPY f /f\nRUN sha256sum /f > /sum\n").file("f", noise(0, 2_000_000));
        bed.build(&["-t", "kept"]).succeeds();
        for round in 1..=5 {
            bed.file("f", noise(round, 6_000_000));
            bed.build(&["--store-max", "20M", "-o", "type=cacheonly"]).succeeds();
            assert!(total(&bed) <= 20 << 20, "round {round}: {}", total(&bed));
        }
        // The last one fits, and is not built again.
        bed.build(&["--store-max", "20M", "-o", "type=cacheonly"]).succeeds().says("CACHED");
        bed.run(&["fsck"]).succeeds();
        bed.run(&["run", "kept", "sha256sum", "-c", "/dev/stdin"]).fails();
        bed.run(&["run", "kept", "wc", "-c", "/f"]).succeeds().says("2000000");
    }
}

#[test]
fn a_step_whose_blob_went_is_not_run_again_while_its_files_are_here() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN cat /proc/sys/kernel/random/uuid > /id\n").build(&["-o", "type=local,dest=../out/one"]).succeeds();
    bed.build(&["-t", "app"]).succeeds();
    bed.run(&["rm", "app"]).succeeds();
    for blob in fs::read_dir(bed.store().join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        if fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            fs::remove_file(path).unwrap();
        }
    }
    bed.build(&["-o", "type=local,dest=../out/two"]).succeeds().says("CACHED");
    let read = |name: &str| fs::read_to_string(bed.path("out").join(name).join("id")).unwrap();
    assert_eq!(read("one"), read("two"));
}

#[test]
fn what_builds_use_is_not_pruned_under_them() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine AS b\nARG N\nRUN echo $N > /n; head -c 200000 /dev/urandom > /noise\nFROM alpine\nCOPY --from=b /n /noise /\nRUN cat /n\n");
    bed.build(&["--build-arg", "N=0"]).succeeds();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut rounds = 0;
            while !is_over.load(Ordering::Relaxed) {
                bed.run(&["prune"]).succeeds();
                rounds += 1;
            }
            rounds
        });
        let builders: Vec<_> = (0..3)
            .map(|lane| {
                let bed = &bed;
                scope.spawn(move || {
                    for round in 0..8 {
                        let (value, name) = (format!("N={}", lane * 100 + round), format!("app{lane}"));
                        bed.build(&["--build-arg", &value, "-t", &name]).succeeds();
                    }
                })
            })
            .collect();
        let failed = builders.into_iter().map(|builder| builder.join()).filter(Result::is_err).count();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "builds failed beside a prune");
        assert!(pruner.join().unwrap() > 3, "nothing was pruned meanwhile");
    });
    bed.run(&["fsck"]).succeeds();
    for lane in 0..3 {
        bed.run(&["run", &format!("app{lane}"), "cat", "/n"]).succeeds().says(&(lane * 100 + 7).to_string());
    }
}

#[test]
fn downloads_count_and_go_too() {
    let bed = Bed::caller();
    let web = Web::start();
    web.page("/f", Page::of(noise(1, 3_000_000)).header("ETag", "\"1\""));
    bed.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f"))).build(&["-o", "type=cacheonly"]).succeeds();
    let size =
        || fs::read_dir(bed.store().join("sources/http")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
    assert!(size() >= 3_000_000);
    bed.run(&["du"]).succeeds().says("sources");
    bed.run(&["prune", "--keep", "1G"]).succeeds();
    assert!(size() >= 3_000_000);
    bed.run(&["prune", "--keep", "1M"]).succeeds();
    assert!(size() < 1_000_000, "{}", size());
    bed.build(&["-o", "type=cacheonly"]).succeeds();
}

#[test]
fn a_store_that_is_a_file_is_said_to_be_one() {
    let bed = Bed::caller();
    bed.file("file", "").dockerfile("FROM scratch\n");
    for name in ["file", "file/below"] {
        let path = bed.path("context").join(name).display().to_string();
        bed.run(&["--store", &path, "build", "."]).fails_with(1).says("store").says(&path).says("irectory");
    }
}

#[test]
fn what_was_used_a_moment_ago_is_not_older_than_an_hour() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN echo 1 > /1\n").build(&["-o", "type=cacheonly"]).succeeds();
    let objects = || {
        let usage: serde_json::Value = serde_json::from_str(&bed.run(&["du", "--json"]).succeeds().out).unwrap();
        usage["objects"].as_array().unwrap().len()
    };
    let before = objects();
    bed.run(&["prune", "--older-than", "1h"]).succeeds();
    assert_eq!(objects(), before);
    bed.run(&["prune", "--older-than", "0m"]).succeeds();
    assert!(objects() < before);
    bed.run(&["prune", "--older-than", "soon"]).fails_with(2).says("no time");
}
