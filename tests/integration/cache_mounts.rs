//! Cache mounts: locks that no two builds can wait for in a circle.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
};

use crate::support::Bed;

/// Starts a build of one stage.
fn start(bed: &Bed, target: &str) -> Child {
    let mut command = bed.command(&["build", "--progress", "plain", "--target", target, "."]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads what a build says until it has said `words`.
#[track_caller]
fn wait_for(child: &mut Child, words: &str) -> BufReader<std::process::ChildStderr> {
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        if line.contains(words) {
            return lines;
        }
        line.clear();
    }
    panic!("the build ended without saying {words:?}");
}

/// The directory of a cache mount in the store.
fn directory(bed: &Bed, id: &str) -> PathBuf {
    let mounts = fs::read_dir(bed.store().join("cache-mounts")).unwrap().map(|entry| entry.unwrap().path());
    let mut mounts = mounts.filter(|path| fs::read_to_string(path.join("id")).is_ok_and(|found| found.trim_start_matches('/') == id));
    mounts.next().unwrap_or_else(|| panic!("no cache mount {id}")).join("0/data")
}

#[test]
fn locks_are_taken_in_one_order_by_everybody() {
    let bed = Bed::caller();
    let mount = |id: &str| format!("--mount=type=cache,id={id},target=/{id},sharing=locked");
    let (x, y) = (mount("x"), mount("y"));
    bed.dockerfile(&format!(
        "FROM alpine AS holder\nRUN {x} {y} --mount=type=cache,id=gate,target=/gate echo holding; until [ -e /gate/open ]; do sleep 0.05; done\n\
         FROM alpine AS one\nRUN {x} {y} echo one >> /x/log; echo one >> /y/log; echo > /done\n\
         FROM alpine AS two\nRUN {y} {x} echo two >> /x/log; echo two >> /y/log; echo > /done\n\
         FROM scratch AS both\nCOPY --from=one /done /one\nCOPY --from=two /done /two\n\
         FROM alpine AS twice\nRUN {x} --mount=type=cache,id=x,target=/again,sharing=locked cat /x/log /again/log\n"
    ));
    let mut holder = start(&bed, "holder");
    let rest = wait_for(&mut holder, "holding");
    // Both wait for locks that become free at the same moment.
    let others = ["one", "two", "both"]
        .map(|target| {
            let mut child = start(&bed, target);
            let rest = wait_for(&mut child, "waiting for");
            (child, rest)
        });
    fs::write(directory(&bed, "gate").join("open"), "").unwrap();
    for (mut child, rest) in others {
        rest.lines().for_each(drop);
        assert!(child.wait().unwrap().success());
    }
    rest.lines().for_each(drop);
    assert!(holder.wait().unwrap().success());
    let log = |id: &str| fs::read_to_string(directory(&bed, id).join("log")).unwrap();
    assert_eq!(log("x"), log("y"), "the steps were not one after the other");
    // Shown twice by one step it is one cache.
    bed.build(&["--target", "twice"]).succeeds().says("two");
}
