//! Many builds at once on one store, half of them killed with -9 at random moments: no error in the survivors, nothing
//! broken behind. `RBUILD_ROUNDS` makes it longer.

use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::Bed;

const BUILDS: usize = 32;

/// Numbers that differ from run to run; a failure prints where they began.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn start(bed: &Bed, number: usize, round: usize) -> Child {
    // Four different builds that share steps: some wait for each other, some don't.
    let value = format!("N={}", round * 4 + number % 4);
    let mut command = bed.command(&["build", "--progress", "plain", "--build-arg", &value, "-t", &format!("app{}", number % 4), "."]);
    // What they make outside of the store would be seen there.
    command.env("TMPDIR", bed.path("out"));
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn killed_builds_break_nothing_for_the_others() {
    let rounds = std::env::var("RBUILD_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let mut random = Random(seed);
    let bed = Bed::caller();
    bed.dockerfile(
        "FROM alpine AS b\nRUN seq 2000 > /shared\nARG N\nRUN echo $N > /n; head -c 300000 /dev/zero | tr '\\0' $((N % 10)) > /big\nFROM alpine\nWORKDIR /w\n\
         COPY --from=b /shared /big /n ./\nCOPY f .\nRUN cat n shared > both\n",
    );
    bed.file("f", "f");
    for round in 0..rounds {
        let mut children: Vec<Child> = (0..BUILDS).map(|number| start(&bed, number, round)).collect();
        for number in (0..BUILDS).step_by(2) {
            std::thread::sleep(Duration::from_millis(random.below(60)));
            let _ = children[number].kill();
        }
        for (number, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let was_killed = number % 2 == 0;
            assert!(was_killed || output.status.success(), "seed {seed}, round {round}, build {number}: {said}");
        }
        bed.run(&["fsck"]).succeeds();
    }
    // What the dead left goes with the next clean-up, and the store works as before.
    bed.build(&["--build-arg", "N=0", "-t", "app0"]).succeeds();
    bed.run(&["run", "app0", "sh", "-c", "cat n; wc -c < big"]).succeeds().says("300000");
    bed.run(&["prune"]).succeeds();
    assert_eq!(std::fs::read_dir(bed.store().join("tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(bed.path("out")).unwrap().count(), 0, "something is left outside of the store");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(bed.store().to_str().unwrap()), "a mount is left");
    bed.run(&["prune", "--all"]).succeeds();
    for name in ["blobs/sha256", "snapshots", "cache-mounts", "builds"] {
        let left = std::fs::read_dir(bed.store().join(name)).unwrap().count();
        assert_eq!(left, 0, "{name} is not empty");
    }
}

#[test]
fn two_builds_that_need_one_step_run_it_once() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN touch /started; sleep 4; cat /proc/sys/kernel/random/uuid > /id\n");
    let start = |name: &str| {
        let mut command = bed.command(&["build", "--progress", "plain", "-t", name, "."]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let builds: Vec<Child> = ["one", "two"].map(start).into();
    let said: Vec<String> = builds
        .into_iter()
        .map(|build| {
            let output = build.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            said
        })
        .collect();
    let waits = said.iter().filter(|said| said.contains("waiting for another build that runs this step") && said.contains("CACHED"));
    assert_eq!(waits.count(), 1, "{said:?}");
    let id = |name| bed.run(&["run", name, "cat", "/id"]).succeeds().out.clone();
    assert_eq!(id("one"), id("two"));
}
