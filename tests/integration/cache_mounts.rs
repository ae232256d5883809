//! Cache mounts: locks that no two builds can wait for in a circle; from one store to another through a directory or registry.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
};

use crate::support::{Bed, Outcome, Registry};

/// Starts a build of one stage.
fn start(bed: &Bed, target: &str) -> Child {
    let mut command = bed.command(&["build", "--progress", "plain", "."]);
    if !target.is_empty() {
        command.args(["--target", target]);
    }
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
        "FROM alpine AS holder\nRUN {x} {y} --mount=type=cache,id=gate,target=/gate echo hol''ding; until [ -e /gate/open ]; do sleep 0.05; done\n\
         FROM alpine AS one\nRUN {x} {y} echo one >> /x/log; echo one >> /y/log; echo > /done\n\
         FROM alpine AS two\nRUN {y} {x} echo two >> /x/log; echo two >> /y/log; echo > /done\n\
         FROM scratch AS both\nCOPY --from=one /done /one\nCOPY --from=two /done /two\n\
         FROM alpine AS twice\nRUN {x} --mount=type=cache,id=x,target=/again,sharing=locked cat /x/log /again/log\n"
    ));
    let mut holder = start(&bed, "holder");
    let rest = wait_for(&mut holder, "holding");
    // Both wait for locks that become free at the same moment.
    let others = ["one", "two", "both"].map(|target| {
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

const FILL: &str = "FROM alpine\nRUN --mount=type=cache,id=c,target=/c cd /c && mkdir -p d && for i in $(seq 10000); do echo $i > d/x$i; done && \\\n\
                    head -c 3000000 /dev/urandom > large && chown -R 12:34 d && ln large d/link && ln -s /x s && chmod 751 large && \\\n\
                    touch -d '2001-02-03 04:05:06' large\n";
const LOOK: &str = "FROM alpine\nRUN --mount=type=cache,id=c,target=/c cd /c && (ls d | wc -l; stat -c '%u:%g %a %h %Y %N' d/x1 d/link large s; \\\n\
                    cat d/x* large | sha256sum) > /shown\n";

/// What `LOOK` sees of the cache mount.
#[track_caller]
fn look(bed: &Bed) -> String {
    bed.dockerfile(LOOK).build(&["--no-cache", "-o", "type=local,dest=../out/look"]).succeeds();
    fs::read_to_string(bed.path("out/look/shown")).unwrap()
}

/// The fields of the only cache mount that a verb says it moved.
#[track_caller]
fn moved(outcome: &Outcome) -> (u64, u64, u64) {
    outcome.succeeds();
    let list: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    let field = |name: &str| list[0][name].as_u64().unwrap();
    (field("chunks"), field("moved_chunks"), field("moved_bytes"))
}

/// Changes one of its ten thousand files.
fn change_one_file(bed: &Bed) {
    bed.dockerfile("FROM alpine\nRUN --mount=type=cache,id=c,target=/c echo changed > /c/d/x4711\n").build(&["--no-cache"]).succeeds();
}

#[test]
fn a_cache_goes_to_another_store_and_only_changes_go_again() {
    for first in Bed::each_user() {
        let unique = first.path("").file_name().unwrap().to_string_lossy().to_lowercase();
        let registry = format!("{}/mounts-{unique}:main", Registry::stand_in().address());
        let directory = first.path("out/caches").display().to_string();
        first.dockerfile(FILL).build(&[]).succeeds();
        let shown = look(&first);
        assert!(shown.contains("12:34"), "{shown}");
        for place in [&directory, &registry] {
            let (chunks, new, bytes) = moved(&first.run(&["cache", "export", place, "c", "--json"]));
            assert!(chunks == new && chunks > 5, "{place}: {new} of {chunks}");
            assert_eq!(moved(&first.run(&["cache", "export", place, "--json"])).1, 0, "{place}");
            let second = Bed::of(first.user);
            second.run(&["cache", "import", place]).succeeds();
            assert_eq!(look(&second), shown, "{place}");
            // The other store's exports are chunk for chunk the same.
            assert_eq!(moved(&second.run(&["cache", "export", place, "--json"])).1, 0, "{place}");
            change_one_file(&second);
            let (_, new, new_bytes) = moved(&second.run(&["cache", "export", place, "--json"]));
            assert!((1..=4).contains(&new) && new_bytes < bytes / 2, "{place}: {new} chunks, {new_bytes} of {bytes} bytes");
            assert_ne!(look(&second), shown);
            // Back to the old state for the next place.
            second.run(&["cache", "ls"]).succeeds().says(" c");
        }
    }
}

#[test]
fn what_is_imported_goes_over_what_is_there_or_replaces_it() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let place = first.path("out/caches").display().to_string();
    let write = |bed: &Bed, text: &str| {
        let text = format!("FROM alpine\nRUN --mount=type=cache,id=c,target=/c echo {text} > /c/both; echo {text} > /c/{text}\n");
        bed.dockerfile(&text).build(&[]).succeeds();
    };
    let list = |bed: &Bed| {
        bed.dockerfile("FROM alpine\nRUN --mount=type=cache,id=c,target=/c echo $(cd /c; ls) $(cat /c/both) > /list\n");
        bed.build(&["--no-cache", "-o", "type=local,dest=../out/rootfs"]).succeeds();
        fs::read_to_string(bed.path("out/rootfs/list")).unwrap().trim().to_owned()
    };
    write(&first, "first");
    write(&second, "second");
    first.run(&["cache", "export", &place]).succeeds();
    second.run(&["cache", "import", &place, "c"]).succeeds();
    assert_eq!(list(&second), "both first second first");
    second.run(&["cache", "import", &place, "/c", "--replace"]).succeeds();
    assert_eq!(list(&second), "both first first");
    second.run(&["cache", "import", &place, "other"]).fails_with(1).says("has no cache mount other").says("there are c");
    second.run(&["cache", "export", &place, "other"]).fails_with(1).says("the store has no cache mount other");
    second.run(&["cache", "import", "./nowhere"]).fails_with(1).says("nowhere");
    let image = format!("{}/image-{}", Registry::stand_in().address(), std::process::id());
    second.build(&["-t", &image, "--push"]).succeeds();
    second.run(&["cache", "export", &image]).fails_with(1).says("is not a place of exported cache mounts");
}

#[test]
fn an_export_waits_for_the_build_that_uses_the_cache() {
    let bed = Bed::caller();
    bed.dockerfile(
        "FROM alpine\nRUN --mount=type=cache,id=c,target=/c --mount=type=cache,id=gate,target=/gate echo half > /c/file; echo hol''ding; \\\n\
         until [ -e /gate/open ]; do sleep 0.05; done; echo whole > /c/file\n",
    );
    let mut build = start(&bed, "");
    let rest = wait_for(&mut build, "holding");
    let mut command = bed.command(&["cache", "export", "../out/caches", "c"]);
    let mut export = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let words = wait_for(&mut export, "waiting for a build that uses it");
    fs::write(directory(&bed, "gate").join("open"), "").unwrap();
    words.lines().for_each(drop);
    rest.lines().for_each(drop);
    assert!(export.wait().unwrap().success() && build.wait().unwrap().success());
    let second = Bed::caller();
    second.run(&["cache", "import", &bed.path("out/caches").display().to_string()]).succeeds();
    assert_eq!(fs::read_to_string(directory(&second, "c").join("file")).unwrap(), "whole\n");
}

#[test]
fn an_export_that_is_killed_leaves_what_was_there() {
    let bed = Bed::caller();
    let place = bed.path("out/caches").display().to_string();
    bed.dockerfile(FILL).build(&[]).succeeds();
    let shown = look(&bed);
    bed.run(&["cache", "export", &place]).succeeds();
    for turn in 1..=8 {
        bed.dockerfile("FROM alpine\nRUN --mount=type=cache,id=c,target=/c head -c 20000000 /dev/urandom > /c/more\n")
            .build(&["--no-cache"])
            .succeeds();
        let mut export = bed.command(&["cache", "export", &place]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(turn * 25));
        let _ = export.kill();
        export.wait().unwrap();
        let second = Bed::caller();
        second.run(&["cache", "import", &place]).succeeds();
        assert_eq!(look(&second), shown);
    }
    bed.run(&["cache", "export", &place]).succeeds();
    let second = Bed::caller();
    second.run(&["cache", "import", &place]).succeeds();
    assert_eq!(fs::read(directory(&second, "c").join("more")).unwrap(), fs::read(directory(&bed, "c").join("more")).unwrap());
    assert_eq!(fs::read_dir(second.store().join("tmp")).unwrap().count(), 0);
}
