//! `rbuild watch`: builds again for files that matter, restarts the container, survives builds that fail.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::support::{Bed, Lines, tool};

/// What is under watch. Dropped, it is ended as Ctrl-C would.
struct Watch {
    child: Child,
    out: Lines,
    err: Lines,
}

impl Watch {
    fn start(bed: &Bed, arguments: &[&str]) -> Watch {
        let words = [&["watch", "--progress", "plain"], arguments].concat();
        let mut child = bed.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (Lines::of(child.stdout.take().unwrap()), Lines::of(child.stderr.take().unwrap()));
        Watch { child, out, err }
    }

    fn interrupt(&mut self) -> Option<i32> {
        tool(Command::new("kill").args(["-INT", &self.child.id().to_string()]));
        self.child.wait().unwrap().code()
    }

    /// What has been named as changed so far.
    fn changed(&self) -> Vec<&str> {
        self.err.seen.iter().filter_map(|line| line.strip_suffix(" changed")?.split_whitespace().last()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.interrupt();
        }
    }
}

const APP: &str = "FROM alpine\nRUN echo made > /made\nCOPY page conf* /srv/\nCMD [\"sh\", \"-c\", \"trap 'echo ended; exit' TERM; \
                   echo page $(cat /srv/page); while :; do sleep 0.02; done\"]\n";

#[test]
fn a_saved_file_restarts_the_app_and_files_that_do_not_matter_do_nothing() {
    for bed in Bed::each_user() {
        bed.dockerfile(APP).file("page", "one").file(".dockerignore", "*.log\n").file("README", "r").file("deep/x", "x");
        let mut watch = Watch::start(&bed, &["-t", "app", "--run", "."]);
        watch.out.wait_for("page one");
        watch.err.wait_for("running after");
        // Not copied by anything, ignored, in a directory that nothing uses.
        bed.file("README", "s").file("confs.log", "l").file("deep/x", "y").file("page", "two");
        watch.err.wait_for("page changed");
        watch.out.wait_for("ended");
        watch.out.wait_for("page two");
        assert!(watch.err.wait_for("running after").contains("1 step ran"), "{:?}", watch.err.seen);
        // As many editors save: aside, then renamed over the old one.
        bed.file("page.new", "three");
        fs::rename(bed.path("context/page.new"), bed.path("context/page")).unwrap();
        watch.out.wait_for("page three");
        watch.err.wait_for("running after");
        // A file that a wildcard now finds.
        bed.file("config", "c");
        watch.err.wait_for("config changed");
        watch.err.wait_for("running after");
        // Written anew with what it had: no other image, the same app goes on.
        bed.file("page", "three");
        watch.err.wait_for("nothing new");
        assert_eq!(watch.changed(), ["page", "page", "config", "page"]);
        assert_eq!(watch.interrupt(), Some(130));
        assert_eq!(watch.out.seen.iter().filter(|line| *line == "page three").count(), 1, "{:?}", watch.out.seen);

        bed.run(&["run", "app", "cat", "/srv/page"]).succeeds().says("three");
    }
}

#[test]
fn a_build_that_fails_leaves_the_last_good_app_running() {
    let bed = Bed::caller();
    bed.dockerfile(APP).file("page", "one");
    let mut watch = Watch::start(&bed, &["-t", "app", "--run", "."]);
    watch.err.wait_for("running after");
    bed.dockerfile("FROM alpine\nCOPPY page /srv/\n");
    watch.err.wait_for("COPPY");
    watch.err.wait_for("the build failed; waiting for a change");
    bed.dockerfile("FROM alpine\nRUN echo to the log; exit 3\n");
    watch.err.wait_for("to the log");
    watch.err.wait_for("the build failed; waiting for a change");
    assert!(!watch.out.seen.iter().any(|line| line == "ended"), "{:?}", watch.out.seen);
    bed.dockerfile(&APP.replace("echo page", "echo new page"));
    watch.out.wait_for("ended");
    watch.out.wait_for("new page one");
    watch.err.wait_for("running after");
    // The Dockerfile no longer uses it, then it does again.
    bed.dockerfile("FROM alpine\nCMD [\"sh\", \"-c\", \"echo without; exit 4\"]\n");
    watch.out.wait_for("without");
    watch.err.wait_for("exit code 4; waiting for a change");
    bed.file("page", "unused").dockerfile(APP);
    watch.out.wait_for("page unused");
}

#[test]
fn a_change_while_a_step_runs_stops_it() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nCOPY page /\nRUN cat /page; grep -q fast /page || sleep 1000\n").file("page", "slow\n");
    let mut watch = Watch::start(&bed, &["-t", "app", "."]);
    watch.err.wait_for("slow");
    bed.file("page", "fast\n");
    watch.err.wait_for("page changed");
    watch.err.wait_for("sha256:");
    bed.run(&["run", "app", "cat", "/page"]).succeeds().says("fast");
}

#[test]
fn a_watch_that_makes_no_sense_is_refused() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\n");
    bed.run(&["watch", "https://example.com/x.git"]).fails().says("not a directory");
    bed.run(&["watch", "--on-error", "shell", "."]).fails().says("rbuild shell");
    bed.run(&["watch", ".", "--", "sh"]).fails().says("--run");
}
