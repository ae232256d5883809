//! Wrong input is refused with a message that names the cause and with an exit code; nothing panics.

use crate::support::{Bed, Registry};

#[test]
fn no_dockerfile() {
    Bed::caller().build(&[]).fails_with(1).says("Dockerfile");
}

#[test]
fn an_empty_dockerfile() {
    let bed = Bed::caller();
    bed.dockerfile("").build(&[]).fails_with(1).says("Dockerfile").says("empty");
    for text in ["\n\n", "# only a comment\n"] {
        bed.dockerfile(text).build(&[]).fails_with(1).says("Dockerfile");
    }
}

#[test]
fn a_syntax_error_shows_its_place_and_a_hint() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nCOPPY a /\n");
    bed.build(&[]).fails_with(1).says("Dockerfile:2").says("COPPY a /").says("^^^").says("did you mean COPY?");
}

#[test]
fn an_unknown_stage() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine AS builder\n");
    bed.build(&["--target", "bilder"]).fails_with(1).says("bilder").says("builder");
}

#[test]
fn a_missing_source() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nCOPY missing.txt /\n");
    bed.build(&[]).fails_with(1).says("missing.txt").says("Dockerfile:2");
}

#[test]
fn a_run_that_fails_reports_its_code_and_its_output() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine\nRUN echo before; exit 3\n");
        bed.build(&[]).fails_with(1).says("before").says("exit code: 3").says("Dockerfile:2");
    }
}

#[test]
fn a_run_killed_by_a_signal_says_so() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN kill -9 $$\n");
    bed.build(&[]).fails_with(1).says("137");
}

#[test]
fn a_program_that_is_not_there() {
    let bed = Bed::caller();
    bed.dockerfile("FROM my-upstream-image\nRUN true\n");
    bed.build(&[]).fails_with(1).says("/bin/sh");
}

#[test]
fn a_registry_that_is_down() {
    let bed = Bed::caller();
    bed.registries("[[registry]]\nlocation = \"127.0.0.1:1\"\ninsecure = true\n");
    bed.dockerfile("FROM 127.0.0.1:1/app\n");
    bed.build(&[]).fails_with(1).says("127.0.0.1:1");
}

#[test]
fn an_image_that_is_not_there() {
    let bed = Bed::caller();
    let name = format!("{}/library/missing:1", Registry::stand_in().address());
    bed.dockerfile(&format!("FROM {name}\n"));
    bed.build(&[]).fails_with(1).says("library/missing").says("not found");
}

#[test]
fn a_reference_that_is_none() {
    let bed = Bed::caller();
    bed.dockerfile("FROM UPPER/Case\n");
    bed.build(&[]).fails_with(1).says("UPPER/Case");
}

#[test]
fn wrong_flags_are_a_usage_error() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\n");
    for arguments in [&["--no-such-flag"][..], &["-o", "type=nonsense"], &["--progress", "loud"], &["--platform", "a/b/c/d"]] {
        let outcome = bed.build(arguments);
        outcome.fails();
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome}");
    }
}

#[test]
fn a_context_that_is_not_there() {
    Bed::caller().run(&["build", "/does/not/exist"]).fails().says("/does/not/exist");
}

#[test]
fn a_verb_that_is_none() {
    Bed::caller().run(&["imgaes"]).fails().says("the build context imgaes does not exist").says("did you mean `rbuild images`?");
}

#[test]
fn a_store_that_cannot_be_written() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n").file("file", "");
    bed.run(&["--store", "file/store", "build", "."]).fails().says("context/file");
}

#[test]
fn running_what_is_not_there() {
    let bed = Bed::caller();
    bed.run(&["run", "missing"]).fails().says("missing");
}
