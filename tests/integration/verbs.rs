//! The verbs that look at images and move them: inspect, history, diff, images, tag, rm, save, copy, index.

use std::process::Command;

use crate::support::{Bed, Registry, tool};

fn bed() -> Bed {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM alpine\nCOPY hello /a\nRUN rm /a && echo made > /b\nCMD [\"x\"]\n");
    bed.image("app", &[]);
    bed
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn inspect_tells_what_a_layer_wastes() {
    let bed = bed();
    let outcome = bed.run(&["inspect", "--json", "app"]);
    let value = json(&outcome.succeeds().out);
    assert_eq!(value["digest"], bed.digest("app"));
    let layers = value["layers"].as_array().unwrap();
    let own = &layers[layers.len() - 2..];
    assert_eq!((own[0]["fileBytes"].as_u64(), own[0]["wastedBytes"].as_u64()), (Some(6), Some(6)));
    assert_eq!((own[1]["whiteouts"].as_u64(), own[1]["wastedBytes"].as_u64()), (Some(1), Some(0)));
    bed.run(&["inspect", "app"]).succeeds().says("WASTED").says("cmd          [\"x\"]");
    bed.run(&["history", "app"]).succeeds().says("CMD [\"x\"]");
}

#[test]
fn images_are_found_by_any_of_their_digests() {
    let bed = bed();
    let value = json(&bed.run(&["inspect", "--json", "app"]).succeeds().out);
    let config = value["manifest"]["config"]["digest"].as_str().unwrap();
    for word in [config, &config[7..19], &bed.digest("app"), &bed.digest("app")[7..15]] {
        assert_eq!(bed.run(&["run", word, "cat", "/b"]).succeeds().out, "made\n", "{word}");
    }
    bed.run(&["run", "0123456789ab"]).fails().says("the store has no image");
}

#[test]
fn a_digest_is_no_name_to_give_and_none_to_take_away() {
    let bed = bed();
    let digest = bed.image("app", &[]);
    let other = format!("copy@sha256:{}", "0".repeat(64));
    bed.run(&["tag", "app", &other]).fails_with(2).says("a name to give can't have a digest");
    bed.run(&["copy", "app", &other]).fails_with(2).says("the image is sha256:");
    bed.run(&["copy", "app", &format!("copy@{digest}")]).succeeds();
    bed.run(&["rm", &format!("copy@{digest}")]).succeeds();
    bed.run(&["rm", &digest["sha256:".len()..][..12]]).fails().says("is the digest of app");
    bed.run(&["push", &digest]).fails_with(2).says("is no name").says("--as");
    bed.run(&["images", "app"]).succeeds();
}

#[test]
fn diff_says_what_and_where() {
    let bed = bed();
    bed.run(&["diff", "app", "app"]).succeeds();
    bed.dockerfile("FROM alpine\nCOPY hello /a\nRUN rm /a && echo other > /b && chmod 700 /b\nCMD [\"y\"]\n").image("app:2", &[]);
    let outcome = bed.run(&["diff", "--no-times", "app", "app:2"]);
    outcome.fails_with(1).says("~ /b: mode 0644 -> 0700, size 5 -> 6").says("config Cmd: [\"x\"] -> [\"y\"]").does_not_say("/a:");
}

#[test]
fn copies_are_the_same_image() {
    let bed = bed();
    let digest = bed.digest("app");
    let address = Registry::stand_in().address();
    let remote = format!("docker://{address}/copy-{}", bed.path("").file_name().unwrap().to_string_lossy().to_lowercase());
    for place in ["oci:../out/layout:x", "oci-archive:../out/oci.tar", "docker-archive:../out/docker.tar", &remote] {
        bed.run(&["copy", "app", place]).succeeds();
        bed.run(&["copy", place, "back"]).succeeds();
        assert_eq!(bed.digest("back"), digest, "{place}");
        bed.run(&["rm", "back"]).succeeds();
    }
    bed.run(&["save", "app", "-o", "../out/saved.tar"]).succeeds();
    tool(Command::new("skopeo").arg("inspect").arg(format!("docker-archive:{}", bed.path("out/saved.tar").display())));
    bed.run(&["tag", "app", "one", "two:2"]).succeeds();
    assert_eq!((bed.digest("one"), bed.digest("two:2")), (digest.clone(), digest));
    bed.run(&["rm", "not-there"]).fails();
}

#[test]
fn an_index_joins_images_of_several_platforms() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
    bed.image("amd", &["--platform", "linux/amd64"]);
    bed.image("arm", &["--platform", "linux/arm64"]);
    bed.run(&["index", "create", "both", "amd", "arm"]).succeeds();
    let value = json(&bed.run(&["inspect", "--json", "--platform", "linux/arm64", "both"]).succeeds().out);
    assert_eq!(value["platform"], "linux/arm64");
    assert_eq!(value["index"]["content"]["manifests"].as_array().unwrap().len(), 2);
    bed.run(&["index", "create", "twice", "amd", "amd"]).fails().says("are both for linux/amd64");
}
