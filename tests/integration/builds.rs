//! What a build gives: steps, stages, arguments, contexts, the cache, and running the result.

use crate::support::{Bed, tool};
use std::process::Command;

#[test]
fn a_built_image_runs_with_its_config() {
    for bed in Bed::each_user() {
        bed.dockerfile(
            "FROM alpine\nRUN echo app:x:1000:1000::/:/bin/sh >> /etc/passwd\nENV GREETING=hello\nWORKDIR /srv\nUSER app\nENTRYPOINT [\"sh\", \"-c\", \
             \"echo $GREETING $0 from $(pwd) as $(id -un); exit 7\"]\nCMD [\"world\"]\n",
        );
        bed.image("app", &[]);
        let default = bed.run(&["run", "app"]);
        default.fails_with(7).says("hello world from /srv as app");
        bed.run(&["run", "app", "there"]).fails_with(7).says("hello there from /srv as app");
    }
}

#[test]
fn the_verb_the_file_and_the_context_may_be_left_out() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nCOPY a /\n").file("a", "a").file("app/Dockerfile", "FROM scratch\nCOPY a /b\n");
    bed.run(&[]).succeeds();
    bed.run(&["-f", "app/Dockerfile", "-t", "app"]).succeeds();
    bed.run(&["build", "-f", "app/Dockerfile", "-t", "app", "."]).succeeds().says("CACHED");
}

#[test]
fn the_second_build_runs_nothing() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine AS builder\nWORKDIR /w\nCOPY a .\nRUN cat a > b\nFROM alpine\nCOPY --from=builder /w/b /\n")
            .file("a", "1");
        let first = bed.build(&["-t", "app"]);
        first.succeeds().does_not_say("CACHED");
        let digest = bed.digest("app");
        let second = bed.build(&["-t", "app"]);
        second.succeeds();
        let cached = (second.out.clone() + &second.err).matches("CACHED").count();
        assert!(cached >= 4, "WORKDIR, two COPYs and a RUN are cached:\n{second}");
        assert_eq!(bed.digest("app"), digest);

        bed.file("a", "2");
        bed.image("app", &[]);
        assert_ne!(bed.digest("app"), digest, "other content, other image");
        bed.run(&["run", "app", "cat", "/b"]).succeeds().says("2");
    }
}

#[test]
fn a_change_that_keeps_size_and_time_is_seen() {
    let bed = Bed::caller();
    let date = |bed: &Bed| tool(Command::new("touch").args(["-d", "2020-01-01"]).arg(bed.path("context/a")));
    bed.dockerfile("FROM alpine\nCOPY a /\n").file("a", "old");
    date(&bed);
    bed.image("app", &[]);
    bed.file("a", "new");
    date(&bed);
    bed.image("app", &[]);
    assert_eq!(bed.run(&["run", "app", "cat", "/a"]).succeeds().out, "new");
}

#[test]
fn no_cache_runs_every_step_again() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN cat /proc/sys/kernel/random/uuid > /token\n");
    let token = |arguments: &[&str]| {
        bed.image("app", arguments);
        bed.run(&["run", "app", "cat", "/token"]).succeeds().out.clone()
    };
    let first = token(&[]);
    assert_eq!(token(&[]), first);
    assert_ne!(token(&["--no-cache"]), first);
}

#[test]
fn stages_that_the_target_does_not_need_are_not_even_resolved() {
    let bed = Bed::caller();
    bed.dockerfile("FROM 127.0.0.1:1/nowhere AS other\nRUN false\nFROM alpine AS wanted\nRUN echo here > /here\nFROM other\n");
    bed.image("app", &["--target", "wanted"]);
    bed.run(&["run", "app", "cat", "/here"]).succeeds().says("here");
}

#[test]
fn build_args_reach_from_and_run() {
    let bed = Bed::caller();
    bed.dockerfile("ARG BASE=nowhere\nFROM $BASE\nARG WHO=nobody\nRUN echo \"hi $WHO\" > /hi\n");
    bed.image("app", &["--build-arg", "BASE=alpine", "--build-arg", "WHO=you"]);
    bed.run(&["run", "app", "cat", "/hi"]).succeeds().says("hi you");
}

#[test]
fn named_contexts_are_directories_layouts_and_images() {
    for bed in Bed::each_user() {
        bed.file("../more/note", "from a directory\n");
        crate::support::Image::with_busybox([]).write(&bed.path("layout"));
        bed.user.own(&bed.path("layout"));
        bed.dockerfile("FROM base AS one\nCOPY --from=more note /note\nFROM other\nCOPY --from=one /note /\n");
        let layout = format!("base=oci-layout://{}", bed.path("layout").display());
        let more = format!("more={}", bed.path("more").display());
        bed.image("app", &["--build-context", &layout, "--build-context", &more, "--build-context", "other=docker-image://alpine"]);
        bed.run(&["run", "app", "cat", "/note"]).succeeds().says("from a directory");
    }
}

#[test]
fn what_a_run_starts_dies_with_it() {
    for bed in Bed::each_user() {
        let mark = format!("31415{}", std::process::id());
        bed.dockerfile(&format!("FROM alpine\nRUN setsid sleep {mark} & sleep 0.1\nRUN ! ps | grep -v grep | grep {mark}\n"));
        bed.image("app", &[]);
        let left = Command::new("pgrep").args(["-f", &format!("sleep {mark}")]).output().unwrap();
        assert!(left.stdout.is_empty(), "it still runs");
    }
}

#[test]
fn a_run_is_root_among_many_ids_and_setuid_works() {
    for bed in Bed::each_user() {
        // busybox gives privileges up by itself: only a program of our own shows what the kernel granted.
        bed.file("id.c", "#include <stdio.h>\n#include <unistd.h>\nint main() { printf(\"%d by %d\\n\", geteuid(), getuid()); }\n");
        tool(Command::new("cc").args(["-static", "-o"]).arg(bed.path("context/effective")).arg(bed.path("context/id.c")));
        bed.dockerfile(
            "FROM alpine\nRUN echo app:x:1000:1000::/:/bin/sh >> /etc/passwd && touch /owned && chown app:1000 /owned && chmod 4755 /owned\n\
             COPY --chmod=4755 effective /\nUSER app\nRUN /effective\n",
        );
        bed.build(&["-t", "app"]).succeeds().says("0 by 1000");
        bed.run(&["run", "app", "stat", "-c", "%U %a", "/owned"]).succeeds().says("app 4755");
    }
}

#[test]
fn hosts_and_resolv_conf_leave_no_trace() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine\nRUN grep localhost /etc/hosts && test -e /etc/resolv.conf && grep -E '^[^ ]+ /sys [^ ]+ ro' /proc/mounts && echo > /dev/null\n");
        bed.image("app", &["-o", "type=image", "-o", "type=local,dest=../out/tree"]);
        for name in ["etc/hosts", "etc/resolv.conf", "dev/null", "proc/1"] {
            assert!(!bed.path("out/tree").join(name).exists(), "{name} is in the image");
        }
    }
}

/// As a check does, and as `chmod` of what has that mode already: the steps after it mount no more for it.
#[test]
fn a_step_that_changes_nothing_is_no_layer_to_those_after_it() {
    for bed in Bed::each_user() {
        let checks = "RUN true\n".repeat(20);
        bed.dockerfile(&format!(
            "FROM alpine\nRUN chmod 711 /\nRUN grep ' / overlay' /proc/mounts > /few || true\n{checks}\
             RUN grep ' / overlay' /proc/mounts > /many || true; stat -c %a / > /mode\n"
        ));
        bed.image("app", &["-o", "type=image", "-o", "type=local,dest=../out/tree"]);
        let read = |name: &str| std::fs::read_to_string(bed.path("out/tree").join(name)).unwrap();
        // The first of the two adds its own file, and no more.
        let directories = |name: &str| read(name).matches("/fd/").count();
        assert!(directories("many") <= directories("few") + 1, "few: {}many: {}", read("few"), read("many"));
        assert_eq!(read("mode"), "711\n");
    }
}

#[test]
fn the_whole_output_of_a_run_is_shown() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN seq 1 50000; echo to stderr >&2\n");
    let shown = bed.build(&["-t", "app"]);
    shown.succeeds().says("to stderr");
    let all = shown.out.clone() + &shown.err;
    assert!((1..=50000).step_by(997).all(|number| all.contains(&format!(" {number}\n"))), "lines are missing");
}

#[test]
fn dockerignore_hides_files_and_a_named_one_goes_first() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nCOPY . /c\n").file("a.txt", "a").file("b.log", "b").file("deep/c.log", "c").file("deep/keep.log", "k");
    bed.file(".dockerignore", "**/*.log\n!deep/keep.log\nDockerfile\n");
    let listed = |bed: &Bed| {
        bed.image("app", &[]);
        bed.run(&["run", "app", "find", "/c", "-type", "f"]).succeeds().out.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found = listed(&bed);
    found.sort();
    assert_eq!(found, ["/c/.dockerignore", "/c/a.txt", "/c/deep/keep.log"]);

    bed.file("Dockerfile.dockerignore", "*\n!b.log\n");
    assert_eq!(listed(&bed), ["/c/b.log"]);
}

/// No text of the Dockerfile says that there will be a device.
#[test]
fn a_device_that_a_script_makes_is_in_the_layer() {
    for bed in Bed::each_user() {
        bed.file("make", "mknod -m 640 /srv/disk b 8 1 && mknod /srv/null c 1 3 && chown 0:6 /srv/disk\n");
        bed.dockerfile("FROM alpine\nCOPY make /\nRUN mkdir -p /srv && sh /make\n");
        bed.build(&["-o", "type=tar,dest=../out/app.tar"]).succeeds();
        let listed = tool(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(bed.path("out/app.tar")));
        let line = |name: &str| {
            let found = listed.lines().find(|line| line.ends_with(name)).unwrap_or_else(|| panic!("{name}: {listed}"));
            found.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("srv/disk"), "brw-r----- 0/6 8,1");
        assert_eq!(line("srv/null"), "crw-r--r-- 0/0 1,3");
    }
}

/// Each stage asks the one before it what it is: that many questions on one stack were too many.
#[test]
fn thousands_of_stages_that_copy_from_each_other_build() {
    let stages = (1..3000).map(|stage| format!("FROM scratch AS s{stage}\nCOPY --from=s{} /f /f\n", stage - 1));
    let bed = Bed::caller();
    bed.dockerfile(&format!("FROM scratch AS s0\nCOPY f /f\n{}", stages.collect::<String>())).file("f", "f\n");
    bed.build(&["-t", "app"]).succeeds();
    bed.build(&["-t", "app"]).succeeds().says("3000 of 3000 steps cached");
}
