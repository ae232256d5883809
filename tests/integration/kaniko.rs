//! kaniko's command lines, as pipelines have them.

use std::{fs, process::Command};

use crate::support::{Bed, Registry, tool};

fn name(bed: &Bed, repository: &str) -> String {
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    format!("{}/{repository}-{unique}", Registry::stand_in().address())
}

#[test]
fn a_pipelines_job_pushes_caches_and_writes_digests() {
    for bed in Bed::each_user() {
        bed.file("src/docker/Dockerfile", "FROM alpine\nARG WORD\nRUN echo $WORD > /word\nCOPY f /\n").file("src/f", "f\n");
        let app = name(&bed, "kaniko");
        let (context, digests) = (format!("dir://{}", bed.path("context/src").display()), bed.path("out/digests"));
        let file = |name: &str| digests.join(name).display().to_string();
        let words = [
            "kaniko",
            "--context",
            &context,
            "--dockerfile=docker/Dockerfile",
            "--destination",
            &format!("{app}:1"),
            "--build-arg=WORD=hello",
            "--cache=true",
            "--snapshot-mode=redo",
            "--use-new-run",
            "--verbosity",
            "info",
            "--skip-tls-verify",
            "--digest-file",
            &file("digest"),
            "--image-name-tag-with-digest-file",
            &file("names"),
        ];
        bed.run(&words).succeeds().says("note: nothing here needs --snapshot-mode, --use-new-run, --verbosity");
        let seen =
            tool(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{app}:1")]));
        assert_eq!(fs::read_to_string(file("digest")).unwrap(), seen.trim());
        assert_eq!(fs::read_to_string(file("names")).unwrap(), format!("{app}:1@{}\n", seen.trim()));

        // Another machine: another store.
        let store = bed.path("out/store").display().to_string();
        let other = [&["--store", &store], &words[..]].concat();
        bed.run(&other).succeeds().says("CACHED");
        assert_eq!(fs::read_to_string(file("digest")).unwrap(), seen.trim());
    }
}

#[test]
fn an_archive_is_written_without_a_push() {
    let bed = Bed::caller();
    bed.file("f", "f\n").dockerfile("FROM scratch\nCOPY f /\n");
    let (context, tar) = (bed.path("context").display().to_string(), bed.path("out/app.tar").display().to_string());
    bed.run(&["kaniko", "-c", &context, "-d", "app:2", "--no-push", "--tarPath", &tar]).succeeds();
    let seen = tool(Command::new("skopeo").args(["inspect", "--raw", &format!("docker-archive:{tar}:app:2")]));
    assert!(seen.contains("sha256"), "{seen}");
}

/// The file of a pipeline's shared volume may be there already, as a link to somewhere else.
#[test]
fn digests_replace_links_and_follow_none() {
    let bed = Bed::caller();
    bed.file("f", "f\n").dockerfile("FROM scratch\nCOPY f /\n");
    fs::write(bed.path("canary"), "alive").unwrap();
    let (context, digest) = (bed.path("context").display().to_string(), bed.path("out/digest"));
    std::os::unix::fs::symlink(bed.path("canary"), &digest).unwrap();
    bed.run(&["kaniko", "-c", &context, "-d", "app:3", "--no-push", "--digest-file", &digest.display().to_string()]).succeeds();
    assert_eq!(fs::read_to_string(bed.path("canary")).unwrap(), "alive");
    assert!(fs::symlink_metadata(&digest).unwrap().is_file());
    assert!(fs::read_to_string(&digest).unwrap().starts_with("sha256:"));
}

#[test]
fn an_archive_is_a_context() {
    let bed = Bed::caller();
    bed.file("f", "f\n").dockerfile("FROM scratch\nCOPY f /\n");
    let archive = bed.path("out/context.tar.gz").display().to_string();
    tool(Command::new("tar").args(["-czf", &archive, "-C"]).arg(bed.path("context")).arg("."));
    bed.run(&["kaniko", "--context", &format!("tar://{archive}"), "--no-push", "-d", "from-archive"]).succeeds();
    bed.run(&["inspect", "from-archive"]).succeeds();
}

#[test]
fn what_is_wrong_is_said_in_kanikos_words() {
    let bed = Bed::caller();
    bed.run(&["kaniko", "-c", "."]).fails_with(2).says("no --destination").says("--no-push");
    bed.run(&["kaniko", "-c", ".", "--no-psh"]).fails_with(2).says("--no-push");
    bed.run(&["kaniko", "-c", "s3://bucket/x.tar.gz", "--no-push"]).fails_with(2).says("tar://stdin");
    bed.run(&["kaniko", "--help"]).succeeds().says("--destination");
}
