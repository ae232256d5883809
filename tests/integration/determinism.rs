//! The same inputs give the same digest: in two stores, as root and as a user, later and in another directory.

use crate::support::{Bed, Outcome};

fn digest(bed: &Bed) -> String {
    bed.dockerfile(
        "FROM alpine AS builder\nWORKDIR /w\nCOPY --chown=3:4 . .\nRUN mkdir -p a/b && echo text > a/b/c && chown -R 5:6 a && ln a/b/c a/h && \
         ln -s h a/s && rm /etc/shadow && mkfifo a/p && chmod 2750 a/b\nFROM alpine\nCOPY --from=builder /w /w\nRUN date > /dev/null && touch /touched\n",
    );
    bed.file("one", "1").file("sub/two", "2").file("sub/three", "3".repeat(300_000));
    let mut command = bed.command(&[
        "build",
        "--progress",
        "plain",
        "-o",
        "type=oci,dest=../out/app.tar,rewrite-timestamp=true",
        "-o",
        "type=image",
        "-t",
        "app",
        ".",
    ]);
    command.env("SOURCE_DATE_EPOCH", "1600000000");
    Outcome::of(command).succeeds();
    bed.digest("app")
}

#[test]
fn two_stores_and_two_users_agree_on_the_digest() {
    let beds: Vec<Bed> = Bed::each_user().into_iter().chain(Bed::each_user()).collect();
    let archives: Vec<(String, Vec<u8>)> = beds
        .iter()
        .map(|bed| {
            digest(bed);
            let archive = std::fs::read(bed.path("out/app.tar")).unwrap();
            let reference = format!("oci-archive:{}", bed.path("out/app.tar").display());
            let inspected = crate::support::tool(std::process::Command::new("skopeo").args(["inspect", &reference]));
            let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
            (inspected["Digest"].as_str().unwrap().to_owned(), archive)
        })
        .collect();
    for (bed, (digest, archive)) in beds.iter().zip(&archives) {
        assert_eq!(digest, &archives[0].0, "as {:?}", bed.user);
        assert_eq!(archive, &archives[0].1, "as {:?}: the archives differ", bed.user);
    }
}

/// A build of files only, whose digest depends on nothing but rbuild's own format: the order and headers of tar entries,
/// the compressor's output, the JSON of config and manifest.
fn fixed(bed: &Bed) -> &Bed {
    bed.dockerfile("FROM scratch\nCOPY --chmod=644 one sub /files/\nWORKDIR /files\nENV A=b\nCMD [\"x\"]\n");
    bed.file("one", "1").file("sub/two", "2".repeat(100_000))
}

/// Whoever changes this digest changes the digest of every image that anyone rebuilds: caches miss, signatures no longer
/// match, `rbuild verify` fails. That needs a reason, and a new number in `LAYER_FORMAT`, so that blobs of the old format
/// are not taken from caches for the new one.
///
/// | Format | Why |
/// |---|---|
/// | 1 | one gzip member of blocks by zlib, as pigz writes it |
/// | 2 | a gzip member per MiB by libdeflate: two to three times faster, smaller, and blocks know nothing of each other |
#[test]
fn the_format_has_not_changed() {
    for bed in Bed::each_user() {
        let digest = fixed(&bed).image("app", &["--reproducible", "--platform", "linux/amd64"]);
        assert_eq!((rbuild::snapshot::LAYER_FORMAT, digest.as_str()), PINNED, "as {:?}", bed.user);
    }
}

const PINNED: (u32, &str) = (2, "sha256:614b576dd1114422732a7c79476f501fc4d31003c4b99138e377ab98d4e9dffd");

#[test]
fn reproducible_images_are_equal_whatever_the_times_threads_and_caches() {
    let first = Bed::caller();
    let digest = fixed(&first).image("app", &["--reproducible"]);
    assert_eq!(first.image("app", &["--reproducible"]), digest, "cached");
    assert_eq!(first.image("app", &["--reproducible", "--no-cache"]), digest, "not cached");
    // Other files' times, older ones too, and one processor.
    let second = Bed::caller();
    fixed(&second);
    crate::support::tool(std::process::Command::new("touch").args(["-d", "1969-12-31T00:00:00Z"]).arg(second.path("context/one")));
    let mut command = std::process::Command::new("taskset");
    command.args(["-c", "0"]).arg(crate::support::binary()).args(["build", "--reproducible", "-t", "app", "."]);
    command.env("RBUILD_STORE", second.store()).current_dir(second.path("context"));
    Outcome::of(command).succeeds();
    assert_eq!(second.digest("app"), digest);
}

/// The store on a disk, in memory and on an overlay, which steps cannot be overlays on. One thing does differ there, and
/// is left out: the kernel's overlay parts hard links of a lower layer when one of them is written to, a copy doesn't.
#[test]
fn reproducible_images_are_equal_on_every_file_system() {
    let bed = Bed::caller();
    bed.file("one", "1").file("sub/two", "2".repeat(100_000));
    bed.dockerfile(
        "FROM alpine AS builder\nWORKDIR /w\nCOPY --chown=3:4 . .\nRUN mkdir -p a/b && echo text > a/b/c && chown -R 5:6 a && ln a/b/c a/h && \
         ln -s h a/s && mkfifo a/p && chmod 2750 a/b && rm -r sub && mkdir sub && echo new > sub/three\n\
         FROM alpine\nCOPY --from=builder /w /w\nRUN rm /w/one && mv /w/sub /w/moved && chmod 4711 /w/Dockerfile\n",
    );
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let overlay = memory.path().join("overlay");
    for name in ["lower", "upper", "work", "overlay"] {
        std::fs::create_dir(memory.path().join(name)).unwrap();
    }
    let mount =
        "top=$1; shift; mount -t overlay overlay -o lowerdir=$top/lower,upperdir=$top/upper,workdir=$top/work $top/overlay && exec \"$@\"";
    let is_root = nix::unistd::Uid::effective().is_root();
    let stores = [bed.store(), memory.path().join("store"), overlay.join("store")];
    let digests: Vec<String> = stores
        .iter()
        .filter(|store| is_root || !store.starts_with(&overlay))
        .map(|store| {
            let build = |arguments: &[&str]| {
                let inner = bed.command(arguments);
                let mut command = match store.starts_with(&overlay) {
                    false => inner,
                    true => {
                        let mut outer = bed.user.command("/usr/bin/unshare".as_ref(), &bed.path("home"));
                        outer.args(["--mount", "sh", "-c", mount, "sh"]).arg(memory.path()).arg(inner.get_program()).args(inner.get_args());
                        outer.current_dir(bed.path("context"));
                        outer
                    }
                };
                command.env("RBUILD_STORE", store);
                Outcome::of(command)
            };
            build(&["build", "--reproducible", "-t", "app", "--metadata-file", "../out/metadata.json", "."]).succeeds();
            let metadata = std::fs::read(bed.path("out/metadata.json")).unwrap();
            if !is_root {
                build(&["prune", "--all"]).succeeds();
            }
            let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
            metadata["containerimage.digest"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{stores:?}: {digests:?}");
}

#[test]
fn the_time_is_that_of_the_contexts_commit() {
    let bed = Bed::caller();
    fixed(&bed);
    let script = "git init -q . && git -c user.name=n -c user.email=e commit -q --allow-empty -m m";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).current_dir(bed.path("context")).env("GIT_COMMITTER_DATE", "1600000000 +0000");
    crate::support::tool(&mut command);
    bed.image("app", &["--reproducible"]);
    bed.run(&["inspect", "app"]).succeeds().says("created      2020-09-13T12:26:40Z");
}

#[test]
fn verify_names_the_files_that_come_out_differently() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN mkdir -p /var/log && echo made > /made\n").image("good", &["--reproducible"]);
    bed.run(&["verify", "good"]).succeeds().says("good is reproduced");
    bed.dockerfile("FROM alpine\nRUN mkdir -p /var/log && cat /proc/sys/kernel/random/uuid > /var/log/x.log\n")
        .image("bad", &["--reproducible"]);
    bed.run(&["verify", "bad"]).fails_with(1).says("/var/log/x.log: content").says("a log holds the time of the build");
    let told = bed.run(&["verify", "--json", "bad"]);
    let told: serde_json::Value = serde_json::from_str(&told.fails_with(1).out).unwrap_or_else(|error| panic!("{error}: {told}"));
    let file = &told["platforms"][0]["files"][0];
    assert_eq!((&told["isReproduced"], file["path"].as_str()), (&false.into(), Some("var/log/x.log")), "{told}");
    assert!(file["likely"].as_str().unwrap().starts_with("a log"), "{told}");
    bed.run(&["verify", "good"]).fails_with(1).says("the Dockerfile is no longer the one");
}

/// BuildKit dates made directories with it too: another epoch is another result, not a hit.
#[test]
fn a_store_that_knows_another_epoch_gives_what_an_empty_one_does() {
    let listing = |bed: &Bed, epoch: &str| {
        bed.dockerfile("FROM scratch\nWORKDIR /w/deep\nCOPY one /made/one\nCOPY <<EOF /here\ntext\nEOF\n").file("one", "1");
        bed.build(&["--build-arg", &format!("SOURCE_DATE_EPOCH={epoch}"), "-o", "type=tar,dest=../out/app.tar"]).succeeds();
        crate::support::tool(std::process::Command::new("tar").args(["--utc", "-tvf"]).arg(bed.path("out/app.tar")))
    };
    let warm = Bed::caller();
    for epoch in ["1000000000", "1500000000", "1000000000"] {
        let cold = Bed::caller();
        let (warm, cold) = (listing(&warm, epoch), listing(&cold, epoch));
        let others = |text: &str| text.lines().filter(|line| !line.ends_with("made/one")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(others(&warm), others(&cold), "{epoch}");
        assert!(warm.contains(if epoch == "1500000000" { "2017-07-14" } else { "2001-09-09" }), "{warm}");
    }
}
