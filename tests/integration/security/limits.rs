//! Limits of steps, their time, and second attempts.

use super::Stand;
use crate::support::{Bed, skip};

/// Whether this user's steps get control groups here.
fn has_groups(stand: &Stand) -> bool {
    let tried = stand.lines("RUN true", &["--memory", "64m", "--pids-limit", "50"]);
    !tried.succeeds().err.contains("limits without a control group")
}

#[test]
fn item_38_a_hog_of_memory() {
    for stand in Stand::each() {
        // tail keeps the whole of a line that never ends.
        let built = stand.lines("RUN tail /dev/zero", &["--memory", "64m"]);
        if has_groups(&stand) {
            built.fails_with(1).says("out of memory: the limit is 64.0 MiB, the peak was 6").says("--memory");
        } else {
            built.fails_with(1).says("RLIMIT_DATA").says("tail: out of memory");
        }
        stand.lines("RUN echo the store is fine", &["-t", "app"]).succeeds();
    }
}

#[test]
fn item_38_a_fork_bomb() {
    for stand in Stand::each() {
        if !has_groups(&stand) && stand.bed.user == crate::support::User::Caller {
            skip("nothing limits processes of root without a control group");
            continue;
        }
        let lines = "RUN for i in $(seq 300); do sleep 5 & done; echo started all";
        let built = stand.lines(lines, &["--pids-limit", "60"]);
        assert!(built.err.contains("can't fork") && !built.err.contains("#2 started all"), "on {}: {built}", stand.rung);
        stand.lines("RUN echo the store is fine", &["-t", "app"]).succeeds();
    }
}

#[test]
fn processors_are_limited() {
    for stand in Stand::each() {
        stand.lines("RUN echo it has $(nproc)", &["--cpuset-cpus", "0"]).succeeds().says("it has 1");
    }
}

#[test]
fn a_step_that_takes_too_long_is_ended() {
    for stand in Stand::each() {
        let started = std::time::Instant::now();
        let built = stand.lines("RUN (sleep 100 &); echo begun; sleep 100", &["--timeout", "2s"]);
        built.fails_with(1).says("begun").says("timed out after 2s").says("--timeout");
        assert!(started.elapsed().as_secs() < 60);
    }
}

#[test]
fn a_step_is_tried_again_in_a_fresh_root() {
    for bed in Bed::each_user() {
        // A cache mount is all that an attempt leaves to the next.
        let lines = "RUN --mount=type=cache,target=/c test ! -e /partial && touch /partial && echo x >> /c/n && test $(wc -l < /c/n) -ge 3 && rm /partial";
        bed.dockerfile(&format!("FROM busybox\n{lines}\n"));
        let built = bed.build(&["--retry", "2", "-t", "app"]);
        built.succeeds().says("attempt 1 of 3 failed").says("attempt 2 of 3 failed");
        bed.build(&["-t", "app"]).succeeds().says("CACHED");
        bed.dockerfile("FROM busybox\nRUN exit 7\n");
        bed.build(&["--retry", "1"]).fails_with(1).says("exit code: 7 (attempt 2 of 2)");
        bed.dockerfile("FROM busybox\nRUN no-such-command\n");
        bed.build(&["--retry", "5"]).fails_with(1).does_not_say("attempt 2");
    }
}

#[test]
fn limits_are_in_no_key() {
    let bed = Bed::caller();
    bed.dockerfile("FROM busybox\nRUN echo once > /file\n");
    bed.build(&["-t", "app"]).succeeds();
    bed.build(&["-t", "app", "--memory", "1g", "--cpus", "1", "--timeout", "10m", "--retry", "3"]).succeeds().says("CACHED");
}
