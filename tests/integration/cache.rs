//! Never a stale hit, never a needless step: what the field's builders get wrong, replayed; and why a step ran.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Bed, Outcome, skip};

/// Names of the steps that the newest build ran, in order.
fn ran(bed: &Bed) -> Vec<String> {
    let outcome = bed.run(&["logs", "--json"]);
    outcome.succeeds();
    let report: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    let steps = report["steps"].as_array().unwrap().iter().filter(|step| step["result"] == "done" && !step["key"].is_null());
    steps.map(|step| step["name"].as_str().unwrap().to_owned()).collect()
}

/// Builds and gives how many steps ran.
#[track_caller]
fn count(bed: &Bed, arguments: &[&str]) -> usize {
    bed.build(arguments).succeeds();
    ran(bed).len()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn set_time(bed: &Bed, name: &str, seconds: u64) {
    let file = fs::File::options().write(true).open(bed.path("context").join(name)).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(at(seconds)).set_accessed(at(seconds))).unwrap();
}

#[test]
fn other_content_of_the_same_size_and_time_is_seen() {
    // BuildKit #4950, #4817, #2592; buildx #3093: transfers are keyed on size and time there.
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nCOPY f /\n").file("f", "one");
    set_time(&bed, "f", 1_000_000_000);
    assert_eq!(count(&bed, &[]), 1);
    assert_eq!(count(&bed, &[]), 0);
    for content in ["two", "six", "ten"] {
        bed.file("f", content);
        set_time(&bed, "f", 1_000_000_000);
        assert_eq!(count(&bed, &["-o", "type=local,dest=../out"]), 1, "{content}");
        assert_eq!(fs::read_to_string(bed.path("out/f")).unwrap(), content);
    }
    // A file swapped for another by rename: another inode of the same size and time.
    bed.file("g", "new");
    set_time(&bed, "g", 1_000_000_000);
    fs::rename(bed.path("context/g"), bed.path("context/f")).unwrap();
    assert_eq!(count(&bed, &[]), 1);
}

#[test]
fn modes_links_names_and_attributes_count_and_times_dont() {
    // BuildKit #7176: the mode of a directory. kaniko #704, #871: links and modes.
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nCOPY . /\n")
        .file("d/f", "x")
        .file("d/g", "y")
        .file(".dockerignore", "Dockerfile\n.dockerignore\nignored\n");
    let path = |name: &str| bed.path("context").join(name);
    symlink("f", path("d/l")).unwrap();
    assert_eq!(count(&bed, &[]), 1);
    assert_eq!(count(&bed, &[]), 0);
    type Change<'a> = (&'a str, usize, &'a dyn Fn());
    let chmod = |name: &str, mode| fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    let changes: [Change<'_>; 11] = [
        ("mtime of a file", 0, &|| set_time(&bed, "d/f", 77)),
        ("an ignored file", 0, &|| fs::write(path("ignored"), "x").unwrap()),
        ("mode of a directory", 1, &|| chmod("d", 0o700)),
        ("mode back", 0, &|| chmod("d", 0o755)),
        ("mode of a file", 1, &|| chmod("d/f", 0o755)),
        ("target of a link", 1, &|| {
            fs::remove_file(path("d/l")).unwrap();
            symlink("g", path("d/l")).unwrap();
        }),
        ("name of a file", 1, &|| fs::rename(path("d/g"), path("d/h")).unwrap()),
        ("an empty directory", 1, &|| fs::create_dir(path("d/e")).unwrap()),
        ("a file instead of a directory", 1, &|| {
            fs::remove_dir(path("d/e")).unwrap();
            fs::write(path("d/e"), "").unwrap();
        }),
        ("a removed file, which was built before", 0, &|| fs::remove_file(path("d/e")).unwrap()),
        ("two names of one file instead of two files", 1, &|| {
            fs::write(path("d/i"), "x").unwrap();
            fs::remove_file(path("d/h")).unwrap();
            fs::hard_link(path("d/i"), path("d/h")).unwrap();
        }),
    ];
    for (name, expected, change) in changes {
        change();
        assert_eq!(count(&bed, &[]), expected, "{name}");
    }
}

#[test]
fn what_is_not_in_the_table_of_facts_changes_nothing() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN --mount=type=secret,id=s --mount=type=cache,target=/c date >> /c/d; cat /run/secrets/s > /dev/null\n");
    let with = |secret: &str, more: &[&str]| {
        bed.file("../secret", secret);
        let secret = format!("id=s,src={}", bed.path("secret").display());
        count(&bed, &[&["--secret", &secret], more].concat())
    };
    assert_eq!(with("one", &[]), 1);
    assert_eq!(with("two", &["--build-arg", "HTTP_PROXY=http://proxy:1", "--build-arg", "no_proxy=x"]), 0);
    assert_eq!(with("two", &["--add-host", "there:10.0.0.1"]), 0);
    assert_eq!(with("two", &["--build-arg", "UNUSED=1"]), 0);
    assert_eq!(with("two", &["--ulimit", "nofile=64:64"]), 1);
    assert_eq!(with("two", &["--shm-size", "1m"]), 1);
    assert_eq!(with("two", &["--network", "none"]), 1);
}

#[test]
fn an_equal_result_of_another_stage_keeps_what_copies_from_it() {
    let bed = Bed::caller();
    bed.dockerfile(
        "FROM alpine AS b\nCOPY src /src\nRUN wc -c < /src > /size; date +%N > /noise\nFROM alpine\nCOPY --from=b /size /\nRUN cat /size > /twice\n",
    );
    bed.file("src", "1234");
    assert_eq!(count(&bed, &[]), 4);
    bed.file("src", "5678");
    bed.build(&[]).succeeds();
    assert_eq!(ran(&bed), ["[b 2/3] COPY src /src", "[b 3/3] RUN wc -c < /src > /size; date +%N > /noise"]);
    // kaniko #1262, #845, #870: another content of the stage is never taken for the old one.
    bed.file("src", "567890");
    assert_eq!(count(&bed, &["-o", "type=local,dest=../out"]), 4);
    assert_eq!(fs::read_to_string(bed.path("out/twice")).unwrap().trim(), "6");
    assert_eq!(count(&bed, &[]), 0);
}

#[test]
fn a_miss_names_the_fact_and_the_one_file_of_ten_thousand() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nARG V=1\nCOPY src /src\nRUN echo $V > /v\n");
    for number in 0..10_000 {
        let path = bed.path(&format!("context/src/{}/{number}", number % 100));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, number.to_string()).unwrap();
    }
    bed.build(&["--explain"]).succeeds().says("no earlier build of this step is known");
    bed.file("src/11/4711", "changed");
    let outcome = bed.build(&["--explain"]);
    outcome.succeeds().says("/src/11/4711 ");
    assert_eq!(outcome.err.matches("src/11/").count(), 1, "{outcome}");
    bed.run(&["why", "COPY"]).succeeds().says("/src/11/4711 ").says(" -> ");
    bed.run(&["why", "RUN"]).succeeds().says("the step before it has another result");
    bed.build(&["--build-arg", "V=2"]).succeeds();
    bed.run(&["why", "RUN"]).succeeds().says("the value of V (ARG or ENV): `1` -> `2`");
    bed.run(&["why", "COPY"]).succeeds().says("cached");
    bed.dockerfile("FROM alpine\nARG V=1\nCOPY src /src\nRUN echo v$V > /v\n");
    bed.build(&[]).succeeds();
    bed.run(&["why", "RUN"]).succeeds().says("command: ");
}

#[test]
fn a_cached_build_needs_neither_snapshots_nor_a_network() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine AS b\nRUN echo 1 > /1\nFROM alpine\nCOPY --from=b /1 /\nRUN cat /1\n");
        bed.build(&["-t", "app"]).succeeds();
        let digest = bed.digest("app");
        bed.run(&["prune"]).succeeds();
        let build = |more: &[&str]| bed.build(&[&["-t", "app", "--offline"], more].concat());
        build(&[]).succeeds();
        assert_eq!((ran(&bed), bed.digest("app")), (Vec::new(), digest.clone()), "as {:?}", bed.user);
        build(&["--pull"]).fails_with(2);
    }
    if !nix::unistd::Uid::effective().is_root() {
        return skip("only root can take the network away");
    }
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN echo 1 > /1\n");
    bed.build(&[]).succeeds();
    let binary = bed.command(&[]);
    let mut alone = Command::new("unshare");
    alone.args(["--net", "--"]).arg(binary.get_program()).args(["build", "--progress", "plain", "."]);
    alone.env("RBUILD_STORE", bed.store()).env("HOME", bed.path("home")).current_dir(bed.path("context"));
    Outcome::of(alone).succeeds().says("CACHED");
    bed.dockerfile("FROM nothing-like-this\n");
    bed.build(&["--offline"]).fails().says("--offline asks no registry");
}

#[test]
fn a_locked_build_takes_what_the_lock_says_or_fails() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine AS unused\nFROM alpine\nRUN echo 1 > /1\n");
    bed.build(&["--locked"]).fails().says("rbuild lock");
    bed.run(&["lock"]).succeeds().says("docker.io/library/alpine:latest sha256:").says("new");
    bed.run(&["lock"]).succeeds().says("unchanged");
    bed.build(&["--locked"]).succeeds();
    let path = bed.path("context/rbuild.lock");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find("sha256:").unwrap() + 7;
    let other = format!("{}{}{}", &text[..start], "0".repeat(64), &text[start + 64..]);
    fs::write(&path, other).unwrap();
    bed.build(&["--locked"]).fails();
    bed.build(&[]).succeeds().says("the lock file says");
    fs::write(&path, "version = 1\n").unwrap();
    bed.build(&["--locked"]).fails().says("is not in the lock file");
}

#[test]
fn a_failed_build_keeps_what_was_done_and_its_whole_output() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN echo kept > /kept\nRUN seq 100000; false\n");
    bed.build(&[]).fails_with(1);
    bed.build(&[]).fails_with(1).says("CACHED");
    let log = bed.run(&["logs", "seq"]);
    log.succeeds();
    assert!(log.out.contains("\n99999\n100000\n"), "the log is clipped");
    bed.run(&["logs", "--list"]).succeeds().says("failed: process");
    assert_eq!(fs::read_dir(bed.store().join("tmp")).unwrap().count(), 0);
}
