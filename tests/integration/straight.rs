//! Copies that go from the context into a blob, without a directory of the store.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::support::{Bed, Outcome};

/// Directories that steps have left in a store.
fn step_directories(store: &Path) -> usize {
    let names = fs::read_dir(store.join("snapshots")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("step-")).count()
}

/// A context with something of everything that any user may make.
fn fill(bed: &Bed) {
    bed.file("tree/a", "a").file("tree/sub/b", "b".repeat(200_000)).file("tree/sub/c", "c").file(".dockerignore", "tree/sub/c");
    let tree = bed.path("context/tree");
    fs::hard_link(tree.join("a"), tree.join("sub/a2")).unwrap();
    std::os::unix::fs::symlink("../a", tree.join("sub/link")).unwrap();
    for (name, mode) in [("a", 0o4711), ("sub", 0o2750)] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn the_layers_are_those_that_directories_give() {
    for bed in Bed::each_user() {
        fill(&bed);
        // Nothing here dates a directory by the clock, as one file more in a directory that is there does.
        bed.dockerfile(
            "FROM alpine\nWORKDIR /app\nCOPY tree/a /made/\nCOPY . /app/\nCOPY --chown=3:4 --chmod=u=rwX,go= tree /etc/\n\
             COPY --parents tree/./sub /p/\nCOPY --link tree /linked/\nCOPY <<end /heredoc\ntext\nend\nWORKDIR /deep/er\n",
        );
        let build = |store: &Path, arguments: &[&str]| {
            let mut command = bed.command(&[&["build", "-q", "--platform", "linux/amd64"], arguments, &["."]].concat());
            command.env("RBUILD_STORE", store).env("SOURCE_DATE_EPOCH", "1600000000");
            Outcome::of(command).succeeds();
        };
        let archive = |name: &str| fs::read(bed.path("out").join(name)).unwrap();
        bed.file("../out/empty", "");
        build(&bed.store(), &["-o", "type=oci,dest=../out/straight.tar"]);
        assert_eq!(step_directories(&bed.store()), 2, "those of WORKDIR, as {:?}", bed.user);
        let other = bed.path("home/other-store");
        build(&other, &["-o", "type=oci,dest=../out/directories.tar", "-o", "type=local,dest=../out/files"]);
        assert_eq!(step_directories(&other), 8, "as {:?}", bed.user);
        assert!(archive("straight.tar") == archive("directories.tar"), "the archives differ, as {:?}", bed.user);
        let mut prune = bed.command(&["prune", "--all"]);
        prune.env("RBUILD_STORE", &other);
        Outcome::of(prune).succeeds();
    }
}

#[test]
fn a_later_build_that_reads_the_files_unpacks_the_blob() {
    for bed in Bed::each_user() {
        fill(&bed);
        let copy = "FROM alpine AS files\nCOPY tree /tree\n";
        bed.dockerfile(copy).build(&["-t", "app"]).succeeds();
        assert_eq!(step_directories(&bed.store()), 0, "as {:?}", bed.user);
        bed.dockerfile(&format!("{copy}COPY Dockerfile /tree/\n")).build(&["-t", "app"]).succeeds().says("CACHED");
        assert_eq!(step_directories(&bed.store()), 0, "a copy on top needs no files, as {:?}", bed.user);
        let read = "RUN stat -c %a /tree/a /tree/sub > /modes && [ $(stat -c %h /tree/sub/a2) = 2 ]\n";
        bed.dockerfile(&format!("{copy}{read}FROM scratch\nCOPY --from=files /modes /tree/sub/b /\n"));
        bed.build(&["-o", "type=local,dest=../out"]).succeeds().says("CACHED");
        assert_eq!(fs::read_to_string(bed.path("out/modes")).unwrap(), "4711\n2750\n");
        assert_eq!(fs::read(bed.path("out/b")).unwrap().len(), 200_000);
    }
}

#[test]
fn without_its_blob_the_step_runs_again() {
    let bed = Bed::caller();
    bed.file("f", "text").dockerfile("FROM scratch\nCOPY f /\n");
    bed.build(&["-t", "app"]).succeeds();
    for blob in fs::read_dir(bed.store().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()) {
        if fs::read(&blob).unwrap().starts_with(&[0x1f, 0x8b]) {
            fs::remove_file(blob).unwrap();
        }
    }
    bed.build(&["-t", "app", "-o", "type=local,dest=../out"]).succeeds().does_not_say("CACHED");
    assert_eq!(fs::read_to_string(bed.path("out/f")).unwrap(), "text");
}

#[test]
fn what_only_a_directory_can_hold_gets_one() {
    let bed = Bed::caller();
    bed.file("f", "text").dockerfile("FROM scratch\nADD f a.tar /d/\n");
    let packed = std::process::Command::new("tar").args(["-cf", "a.tar", "f"]).current_dir(bed.path("context")).status();
    assert!(packed.unwrap().success());
    bed.build(&["-t", "app"]).succeeds();
    assert_eq!(step_directories(&bed.store()), 1);
    bed.build(&["-o", "type=local,dest=../out"]).succeeds().says("CACHED");
    assert_eq!(fs::read_to_string(bed.path("out/d/f")).unwrap(), "text");
}
