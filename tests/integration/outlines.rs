//! Runners whose store is new each time: what a cache tells of base layers stands for the layers.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use crate::support::{Bed, Outcome, Registry, Witness, digest, tool};

/// What the build under test makes of the base.
const STEPS: &str = "WORKDIR /srv/new\nCOPY file /opt/tools/\nCOPY file /opt/tools/old\nCOPY file through/link\nADD tree /usr/share/doc/\n\
                     COPY --chown=app:app file /home/\nCOPY --from=made /made /usr/share/made\n";

/// Seconds that no two files of the tests share by accident.
const LONG_AGO: u64 = 1_111_111_111;

struct Runners {
    witness: Witness,
    base: String,
    layers: Vec<String>,
    unique: String,
}

impl Runners {
    /// A base of three layers with more in it than may be moved.
    fn new() -> Self {
        let witness = Witness::of(Registry::stand_in().address());
        let bed = Bed::caller();
        let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
        let base = format!("{}/outlined-{unique}", witness.address());
        bed.registries(&witness.configuration());
        bed.file("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:77:78::/:/bin/sh\n").file("etc/group", "app:x:78:\n");
        for number in 0..400 {
            // Bytes that do not shrink.
            let text: String = (0..20).map(|part| digest(format!("{number} {part}").as_bytes())).collect();
            bed.file(&format!("usr/share/doc/{:02}/file-{number}", number % 40), text);
        }
        bed.file("opt/tools/old", "as it was\n").file("opt/tools/same", "the same\n");
        date(&bed, "opt/tools/same", LONG_AGO);
        std::os::unix::fs::symlink("../../opt/tools", bed.path("context/opt/through")).unwrap();
        bed.dockerfile("FROM scratch\nCOPY etc /etc\nCOPY usr /usr\nCOPY opt /opt\n");
        bed.build(&["-t", &base, "--push"]).succeeds();
        let manifest = manifest(&base);
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned());
        Self { layers: layers.collect(), witness, base, unique }
    }

    /// A runner with a store of its own, whose build is `steps` on the base.
    fn runner(&self, file: &str, steps: &str) -> Bed {
        let bed = Bed::caller();
        bed.registries(&self.witness.configuration());
        bed.file("file", file).file("tree/03/file-3", "other\n").file("tree/new/er", "new\n").file("same", "the same\n");
        date(&bed, "same", LONG_AGO);
        bed.file("files/file", file).file("files/old", file);
        ["file", "tree/03/file-3", "tree/new/er", "files/file", "files/old", "files"]
            .iter()
            .for_each(|name| date(&bed, name, LONG_AGO + 1));
        let opened = format!("FROM scratch AS made\nCOPY tree /made/tree\nFROM {}\n", self.base);
        bed.dockerfile(&format!("{opened}{}", steps.replace("through/", "/opt/through/")));
        bed
    }

    fn cache(&self) -> String {
        format!("{}/outlined-{}-cache", self.witness.address(), self.unique)
    }

    fn name(&self, name: &str) -> String {
        format!("{}/outlined-{}:{name}", self.witness.address(), self.unique)
    }

    /// Base layers that were asked for since the last call.
    fn asked(&self) -> usize {
        let requests = self.witness.take();
        requests.iter().filter(|line| line.starts_with("GET ") && self.layers.iter().any(|layer| line.ends_with(layer.as_str()))).count()
    }
}

/// Gives a file of the context a time of whole seconds.
fn date(bed: &Bed, name: &str, seconds: u64) {
    let file = fs::File::open(bed.path("context").join(name)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

fn manifest(name: &str) -> serde_json::Value {
    let text = tool(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]));
    serde_json::from_str(&text).unwrap()
}

/// Times are those of the epoch at most: two stores make the same image, by way of directories.
const CLAMPED: [&str; 2] = ["-o", "type=image,rewrite-timestamp=true"];

/// Builds with one time for what has none of its own.
fn build(bed: &Bed, arguments: &[&str]) -> Outcome {
    let mut command = bed.command(&[&["build", "--progress", "plain"], arguments, &["."]].concat());
    command.env("SOURCE_DATE_EPOCH", "1600000000");
    Outcome::of(command)
}

#[test]
fn a_new_store_with_a_cache_fetches_nothing_of_the_base() {
    let runners = Runners::new();
    let (cache, app, full) = (runners.cache(), runners.name("app"), runners.name("full"));
    // What is copied straight into a blob dates the directories that it is put into, unless it is a directory itself.
    let straight = "COPY files through/\nCOPY --chown=app:app files /home/\nWORKDIR /srv/new\n";
    for (number, (mode, steps, output)) in
        [("min", straight, "type=registry"), ("max", straight, "type=registry"), ("min", STEPS, "type=registry,rewrite-timestamp=true")]
            .into_iter()
            .enumerate()
    {
        let cache = format!("{cache}-{number}");
        let to = format!("type=registry,ref={cache},mode={mode}");
        build(&runners.runner("first", steps), &["-t", &app, "-o", output, "--cache-to", &to]).succeeds();
        assert_eq!(runners.asked(), 3, "the first runner has to look at the layers");
        let second = runners.runner("second", steps);
        runners.witness.moved();
        build(&second, &["-t", &app, "-o", output, "--cache-from", &cache]).succeeds().says("layers outlined");
        assert_eq!(runners.asked(), 0, "a layer of the base was asked for");
        let moved = runners.witness.moved();
        assert!(moved < 100_000, "{moved} bytes were moved");
        let third = runners.runner("second", steps);
        build(&third, &["-t", &full, "-o", output]).succeeds();
        assert_eq!(runners.asked(), 3);
        assert_eq!(manifest(&app), manifest(&full), "{mode} {steps}");
    }
}

/// A cache of the base in a directory, whoever is said to have written it.
fn cached(runners: &Runners, writer: &str) -> (Bed, String) {
    let bed = runners.runner("first", STEPS);
    let folder = bed.path("out/cache").display().to_string();
    build(&bed, &["--cache-to", &format!("type=local,dest={folder}"), "--cache-writer", writer]).succeeds();
    runners.asked();
    (bed, format!("type=local,src={folder}"))
}

#[test]
fn what_an_outline_cannot_tell_takes_the_layer_that_it_is_of() {
    let runners = Runners::new();
    let (_bed, from) = cached(&runners, "ci");
    for (steps, fetched, succeeds) in [
        ("COPY file /opt/tools/\n", 0, true),
        // The very same file may be there, and is.
        ("COPY same /opt/tools/\n", 1, true),
        ("COPY same /opt/tools/other\nCOPY same through/link\n", 0, true),
        ("COPY tree /opt/tools/old\n", 1, false),
        ("COPY file /opt/tools/old/below\n", 1, false),
        ("COPY file /usr/share/doc/03\nCOPY tree/03 /usr/share/doc/03\n", 0, true),
        ("COPY --chown=app same /opt/tools/new\n", 0, true),
    ] {
        let run = |arguments: &[&str]| {
            let bed = runners.runner("second", steps);
            let outcome = build(&bed, &[&["-t", "app"], arguments].concat());
            let errors: Vec<String> = outcome.err.lines().filter(|line| line.starts_with("error")).map(str::to_owned).collect();
            let digest = (outcome.code == Some(0)).then(|| bed.digest("app"));
            (errors, digest)
        };
        let lazy = run(&[&["--cache-from", &from], &CLAMPED[..]].concat());
        assert_eq!(runners.asked(), fetched, "{steps}");
        assert_eq!(lazy, run(&CLAMPED), "{steps}");
        assert_eq!(lazy.1.is_some(), succeeds, "{steps}");
        runners.asked();
        // Straight into a blob.
        assert_eq!(run(&["--cache-from", &from]).0, lazy.0, "{steps}");
        assert_eq!(runners.asked(), fetched, "{steps}");
    }
}

#[test]
fn outlines_of_strangers_do_not_count_and_neither_does_what_is_made_by_them() {
    let runners = Runners::new();
    let (_bed, from) = cached(&runners, "stranger");
    let second = runners.runner("second", STEPS);
    build(&second, &["-t", "app", "--cache-from", &from, "--cache-trust", "ci"]).succeeds().says("0 of ").does_not_say("layers outlined");
    assert_eq!(runners.asked(), 3);
    let third = runners.runner("second", STEPS);
    build(&third, &["-t", "app", "--cache-from", &from]).succeeds();
    assert_eq!(runners.asked(), 0);
    build(&third, &["-t", "app"]).succeeds().does_not_say("RUN").says("CACHED");
    assert_eq!(runners.asked(), 0);
    // The steps that are in the store rely on somebody who is not trusted.
    build(&third, &["-t", "app", "--cache-trust", "ci"]).succeeds().says("pull sha256:");
    assert_eq!(runners.asked(), 3);
}

#[test]
fn outlines_keep_their_writer_when_they_are_passed_on_and_are_passed_on_when_nobody_asked() {
    let runners = Runners::new();
    let (first, from) = cached(&runners, "first");
    let passed = first.path("out/passed").display().to_string();
    let (to, from_passed) = (format!("type=local,dest={passed}"), format!("type=local,src={passed}"));
    let flags = ["--cache-from", &from, "--cache-to", &to, "--cache-writer", "second"];
    build(&runners.runner("first", STEPS), &flags).succeeds().says("CACHED");
    for (trusted, fetched) in [("second", 3), ("first", 0)] {
        let third = runners.runner("third", STEPS);
        build(&third, &["-t", "app", "--cache-from", &from_passed, "--cache-trust", trusted]).succeeds();
        assert_eq!(runners.asked(), fetched, "{trusted}");
    }
}

#[test]
fn what_is_no_outline_is_a_miss() {
    let runners = Runners::new();
    let (first, from) = cached(&runners, "ci");
    let full = runners.runner("second", STEPS);
    build(&full, &[&["-t", "app"], &CLAMPED[..]].concat()).succeeds();
    runners.asked();
    let blobs: Vec<_> = fs::read_dir(first.path("out/cache/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let outlines = blobs.iter().find(|blob| fs::read(blob).unwrap().starts_with(b"rbuild layer outlines 1\n")).expect("the cache has one");
    let whole = fs::read(outlines).unwrap();
    for bytes in [Some(Vec::new()), Some(vec![7; whole.len()]), Some(whole[..whole.len() - 1].to_vec()), None] {
        match bytes {
            Some(bytes) => fs::write(outlines, bytes).unwrap(),
            None => fs::remove_file(outlines).unwrap(),
        }
        let second = runners.runner("second", STEPS);
        let flags = ["-t", "app", "--cache-from", &from];
        build(&second, &[&flags, &CLAMPED[..]].concat()).succeeds().does_not_say("warning");
        assert_eq!(runners.asked(), 3);
        assert_eq!(second.digest("app"), full.digest("app"));
    }
}

#[test]
fn a_base_that_was_unpacked_is_outlined_too_and_so_are_the_layers_of_steps() {
    let layers = "FROM alpine\nRUN head -c 300000 /dev/urandom > /big && mkdir -p /opt/app\n";
    let witness = Witness::of(Registry::stand_in().address());
    let beds = [Bed::caller(), Bed::caller()];
    let folder = beds[0].path("out/cache").display().to_string();
    let places = [["--cache-to", &format!("type=local,dest={folder}")], ["--cache-from", &format!("type=local,src={folder}")]];
    for (number, (bed, place)) in beds.iter().zip(&places).enumerate() {
        bed.registries(&witness.configuration()).file("file", format!("{number}"));
        let opened = layers.replace("alpine", &format!("{}/library/alpine", witness.address()));
        bed.dockerfile(&format!("{opened}COPY file /opt/app/\nWORKDIR /opt/work\n"));
        witness.take();
        let outcome = bed.build(&[&["-t", "app"], &place[..]].concat());
        outcome.succeeds();
        let is_layer = |line: &&String| line.starts_with("GET ") && line.contains("/blobs/");
        let blobs = witness.take().iter().filter(is_layer).count();
        // The config alone.
        assert_eq!(blobs == 1, number == 1, "{blobs} blobs\n{outcome}");
    }
    let steps: Vec<_> = fs::read_dir(beds[1].store().join("snapshots")).unwrap().collect();
    assert_eq!(steps.len(), 1, "only WORKDIR's directory: {steps:?}");
}
