//! Never a stale hit, never a needless step: what the field's builders get wrong, replayed; and why a step ran.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Bed, FakeRegistry, Image, Layer, Outcome, Page, Web, skip};

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
    // As with BuildKit the name counts, the address doesn't.
    assert_eq!(with("two", &["--add-host", "there:10.0.0.1"]), 1);
    assert_eq!(with("two", &["--add-host", "there:10.0.0.2"]), 0);
    assert_eq!(with("two", &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"]), 1);
    assert_eq!(with("two", &["--build-arg", "UNUSED=1"]), 0);
    assert_eq!(with("two", &["--ulimit", "nofile=64:64"]), 1);
    assert_eq!(with("two", &["--shm-size", "1m"]), 1);
    assert_eq!(with("two", &["--network", "none"]), 1);
}

/// A proxy is a fact of where a build runs: a step sees it, and neither the cache nor the image knows of it.
#[test]
fn a_proxy_is_seen_by_steps_and_by_nobody_else() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN echo \"through $HTTP_PROXY $https_proxy, not $NO_PROXY\"; echo done > /done\n");
    let with = |proxy: &str| {
        let (http, https) = (format!("HTTP_PROXY=http://{proxy}"), format!("https_proxy=http://{proxy}/s"));
        let words = ["-t", "app", "--reproducible", "--build-arg", &http, "--build-arg", &https, "--build-arg", "NO_PROXY=intra.example"];
        (bed.build(&words), bed.digest("app"))
    };
    let (built, first) = with("one.example:3128");
    built.succeeds().says("through http://one.example:3128 http://one.example:3128/s, not intra.example");
    let (built, second) = with("two.example:8080");
    built.succeeds().says("CACHED").does_not_say("through http://");
    bed.build(&["-t", "app", "--reproducible"]).succeeds().says("CACHED");
    assert_eq!([&second, &bed.digest("app")], [&first, &first]);
    let image = bed.run(&["inspect", "app"]);
    image.succeeds();
    for word in ["one.example", "two.example", "intra.example"] {
        image.does_not_say(word);
        let blobs = fs::read_dir(bed.store().join("blobs/sha256")).unwrap().map(|blob| fs::read(blob.unwrap().path()).unwrap());
        assert!(!blobs.into_iter().any(|bytes| String::from_utf8_lossy(&bytes).contains(word)), "{word} in a blob");
    }
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

#[test]
fn a_miss_says_which_kind_of_fact_it_was() {
    let bed = Bed::caller();
    let why = |step: &str, words: &[&str]| {
        let outcome = bed.run(&["why", step]);
        outcome.succeeds();
        for word in words {
            outcome.says(word);
        }
    };
    let run = |mount: &str, command: &str| format!("FROM alpine\nCOPY f /f\nRUN {mount} {command}\n");
    bed.file("f", "1").dockerfile(&run("--mount=type=cache,target=/c", "true")).build(&[]).succeeds();
    bed.dockerfile(&run("--mount=type=cache,target=/c,sharing=locked", "true")).build(&[]).succeeds();
    why("RUN", &["mount /c: ", "Shared", "Locked"]);
    bed.dockerfile(&run("--mount=type=bind,source=f,target=/f", "true")).build(&[]).succeeds();
    bed.file("f", "22").build(&[]).succeeds();
    why("RUN", &["the content of mount /f: "]);
    bed.build(&["--ulimit", "nofile=77:77"]).succeeds();
    why("RUN", &["resources: ", "77"]);
    bed.build(&["--ulimit", "nofile=77:77", "--network", "none"]).succeeds();
    why("RUN", &["network: "]);
    bed.dockerfile("FROM alpine\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN true\n").build(&[]).succeeds();
    bed.dockerfile("FROM alpine\nSHELL [\"/bin/sh\", \"-euc\"]\nRUN true\n").build(&[]).succeeds();
    why("RUN", &["command: ", "-ec", "-euc"]);
    bed.dockerfile("FROM alpine\nUSER 7\nRUN true\n").build(&[]).succeeds();
    bed.dockerfile("FROM alpine\nUSER 8\nRUN true\n").build(&[]).succeeds();
    why("RUN", &["user: `7` -> `8`"]);
    bed.dockerfile("FROM scratch\nCOPY f /f\n").build(&["--platform", "linux/amd64"]).succeeds();
    bed.build(&["--platform", "linux/arm64"]).succeeds();
    why("COPY", &["platform: `linux/amd64` -> `linux/arm64`"]);
    bed.build(&["--platform", "linux/arm64", "--build-arg", "SOURCE_DATE_EPOCH=5"]).succeeds();
    why("COPY", &["epoch: not there -> `5`"]);
    bed.build(&["--platform", "linux/arm64", "--build-arg", "SOURCE_DATE_EPOCH=5", "--no-cache"]).succeeds();
    why("COPY", &["--no-cache"]);
}

#[test]
fn a_miss_names_the_base_that_is_another() {
    let image = |text: &str| Image::with_busybox([Layer::new().file("note", text)]);
    let (old, new) = (FakeRegistry::serve(image("old"), |_| None), FakeRegistry::serve(image("new"), |_| None));
    let bed = Bed::caller();
    for registry in [&old, &new] {
        let prefix = format!("[[registry]]\nprefix = \"base.example\"\nlocation = \"{}\"\ninsecure = true\n", registry.address());
        bed.registries(&prefix).dockerfile("FROM base.example/app:1\nRUN cat /note\n").build(&["--pull"]).succeeds();
    }
    bed.run(&["why", "RUN"]).succeeds().says("the base image is another: ").says("sha256:");
}

#[test]
fn a_checksum_is_looked_at_whatever_is_cached() {
    let bed = Bed::caller();
    let web = Web::start();
    web.page("/f", Page::of("content"));
    let add = |checksum: &str| format!("FROM scratch\nADD {checksum} {} /f\n", web.url("/f"));
    bed.dockerfile(&add("")).build(&[]).succeeds();
    bed.dockerfile(&add(&format!("--checksum=sha256:{}", "0".repeat(64)))).build(&[]).fails_with(1).says("0000000");
    bed.dockerfile(&add("--checksum=sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"))
        .build(&[])
        .succeeds()
        .says("CACHED");
}

#[test]
fn two_mounts_on_one_target_both_count() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN --mount=type=bind,source=a,target=/m --mount=type=bind,source=b,target=/m cat /m/f > /f\n");
    bed.file("a/f", "a").file("b/f", "b");
    assert_eq!(count(&bed, &[]), 1);
    assert_eq!(count(&bed, &[]), 0);
    bed.file("b/f", "changed");
    assert_eq!(count(&bed, &["-o", "type=local,dest=../out/rootfs"]), 1);
    assert_eq!(fs::read_to_string(bed.path("out/rootfs/f")).unwrap(), "changed");
}

#[test]
fn a_cached_build_offline_makes_no_socket_and_reads_no_layer() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace shows the system calls");
    }
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine AS b\nRUN echo 1 > /1\nFROM alpine\nCOPY --from=b /1 /\nRUN cat /1\n");
    bed.build(&["-t", "app"]).succeeds();
    // Nothing is left of the base's layers, not even those that the image is made of, nor of what they are unpacked to.
    bed.run(&["prune"]).succeeds();
    let base: serde_json::Value = serde_json::from_str(&bed.run(&["inspect", "app", "--json"]).succeeds().out).unwrap();
    let layers: Vec<String> =
        base.to_string().match_indices("sha256:").map(|(at, _)| base.to_string()[at + 7..at + 71].to_owned()).collect();
    let mut removed = 0;
    for hex in layers {
        let path = bed.store().join("blobs/sha256").join(&hex);
        if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() > 50_000) {
            fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0, "the base had no layers");
    assert_eq!(fs::read_dir(bed.store().join("snapshots")).unwrap().count(), 0);
    let log = bed.path("out/strace");
    let traced = bed.command(&["build", "--progress", "plain", "--offline", "-o", "type=cacheonly", "."]);
    // A namespace without any network where we may make one; and whoever tried to open a socket would be seen.
    let mut command = Command::new(if nix::unistd::Uid::effective().is_root() { "unshare" } else { "env" });
    if nix::unistd::Uid::effective().is_root() {
        command.arg("--net");
    }
    command
        .args(["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,execve", "-o"])
        .arg(&log)
        .arg(traced.get_program())
        .args(traced.get_args());
    for (name, value) in traced.get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.current_dir(bed.path("context"));
    Outcome::of(command).succeeds();
    assert_eq!(ran(&bed), Vec::<String>::new());
    let calls = fs::read_to_string(log).unwrap();
    assert!(calls.contains("execve(") && !calls.contains("socket(") && !calls.contains("connect("), "{calls}");
}
