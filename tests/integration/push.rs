//! Pushing to a real registry, read back with skopeo.

use std::fs;
use std::process::Command;

use crate::support::{Bed, Registry, tool};

fn inspect(name: &str) -> serde_json::Value {
    let text = tool(Command::new("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{name}")]));
    serde_json::from_str(&text).unwrap()
}

/// A name in the registry of this process that no other test uses.
fn name(bed: &Bed, repository: &str) -> String {
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    format!("{}/{repository}-{unique}", Registry::stand_in().address())
}

fn has_blob(bed: &Bed, digest: &str) -> bool {
    bed.store().join("blobs/sha256").join(digest.trim_start_matches("sha256:")).exists()
}

#[test]
fn base_layers_in_the_registry_are_neither_fetched_nor_sent() {
    for bed in Bed::each_user() {
        bed.file("hello", "hello\n").dockerfile("FROM alpine\nCOPY --link hello /\n");
        let app = name(&bed, "app");
        let outcome = bed.build(&["-t", &app, "--push", "--metadata-file", "../out/metadata.json"]);
        outcome.succeeds().says("mounted from library/alpine").does_not_say("pull sha256");
        let pushed = inspect(&app);
        let layers: Vec<&str> = pushed["Layers"].as_array().unwrap().iter().map(|layer| layer.as_str().unwrap()).collect();
        let (own, base) = layers.split_last().unwrap();
        assert!(has_blob(&bed, own) && base.iter().all(|digest| !has_blob(&bed, digest)), "{outcome}");
        let metadata: serde_json::Value = serde_json::from_slice(&fs::read(bed.path("out/metadata.json")).unwrap()).unwrap();
        assert_eq!(metadata["containerimage.digest"], pushed["Digest"]);
        assert_eq!(metadata["image.name"], format!("{app}:latest"));
        bed.build(&["-t", &app, "--push"]).succeeds().says("is there already").does_not_say("push sha256");
    }
}

#[test]
fn several_names_and_a_tag_of_the_digest() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
    let (app, other) = (name(&bed, "app"), name(&bed, "other"));
    bed.build(&["-t", &format!("{app}:1"), "-t", &format!("{app}:2"), "-t", &other, "--tag-digest", "--push"]).succeeds();
    let digest = inspect(&format!("{app}:1"))["Digest"].as_str().unwrap().to_owned();
    let tag = format!("digest-{}", &digest["sha256:".len()..][..12]);
    for name in [format!("{app}:2"), other.clone(), format!("{app}:{tag}"), format!("{other}:{tag}")] {
        assert_eq!(inspect(&name)["Digest"], digest, "{name}");
    }
}

#[test]
fn an_image_of_the_store_is_pushed_and_comes_back_the_same() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM alpine\nRUN echo made > /made\nCOPY hello /\n");
    let app = name(&bed, "app");
    let digest = bed.image(&app, &[]);
    bed.run(&["push", &app]).succeeds();
    assert_eq!(inspect(&app)["Digest"], digest);
    let copy = bed.path("out/copy");
    tool(
        Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--src-tls-verify=false", &format!("docker://{app}")])
            .arg(format!("oci:{}:app", copy.display())),
    );
    assert!(fs::read_to_string(copy.join("index.json")).unwrap().contains(&digest));
    bed.run(&["push", "not-there"]).fails().says("the store has no image not-there");
}

#[test]
fn outputs_of_one_build_have_their_own_compressions() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM alpine\nCOPY hello /\n");
    bed.build(&[
        "-o",
        "type=oci,dest=../out/gzip.tar",
        "-o",
        "type=oci,dest=../out/zstd.tar,compression=zstd,force-compression=true",
        "-o",
        "type=oci,dest=../out/plain.tar,compression=uncompressed",
    ])
    .succeeds();
    let types = |name: &str| {
        let text = tool(Command::new("skopeo").args(["inspect", "--raw", &format!("oci-archive:{}", bed.path(name).display())]));
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let layers = manifest["layers"].as_array().unwrap().clone();
        let name = |layer: &serde_json::Value| layer["mediaType"].as_str().unwrap().rsplit(['.', '+']).next().unwrap().to_owned();
        layers.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(types("out/gzip.tar").last().unwrap(), "gzip");
    assert!(types("out/zstd.tar").iter().all(|kind| kind == "zstd"), "base layers too");
    let plain = types("out/plain.tar");
    assert_eq!((plain[0].as_str(), plain.last().unwrap().as_str()), ("gzip", "tar"));
    bed.build(&["-o", "type=oci,dest=x,compresion=zstd"]).fails_with(2).says("did you mean `compression`?");
}

/// As with buildx: `--push -o type=image,compression=zstd` pushes that image, not another beside it.
#[test]
fn push_is_about_the_image_output_that_there_is() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
    let app = name(&bed, "app");
    bed.build(&["-t", &app, "--push", "-o", "type=image,compression=zstd,oci-mediatypes=true"]).succeeds();
    let raw = tool(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{app}")]));
    assert!(raw.contains("tar+zstd"), "{raw}");
    assert_eq!(inspect(&app)["Digest"], bed.digest(&app), "one image, here and there");
    let by_digest = name(&bed, "pinned");
    bed.run(&["push", &bed.digest(&app)[7..19], "--as", &by_digest]).succeeds();
    assert_eq!(inspect(&by_digest)["Digest"], bed.digest(&app));
}

#[test]
fn mode_delete_leaves_only_the_result() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
    fs::create_dir_all(bed.path("out/tree/old")).unwrap();
    bed.build(&["-o", "type=local,dest=../out/tree"]).succeeds();
    assert!(bed.path("out/tree/old").exists());
    bed.build(&["-o", "type=local,dest=../out/tree,mode=delete"]).succeeds();
    let names: Vec<_> = fs::read_dir(bed.path("out/tree")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["hello"]);
}

#[test]
fn annotations_go_where_they_are_sent() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\n");
    let annotations = ["--annotation", "A.b=1", "--annotation", "index-descriptor:C.d=2"];
    bed.build(&[&annotations[..], &["-o", "type=oci,tar=false,dest=../out/layout,annotation.E.f=3"]].concat()).succeeds();
    let index: serde_json::Value = serde_json::from_slice(&fs::read(bed.path("out/layout/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["annotations"]["C.d"], "2");
    let digest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let manifest = fs::read(bed.path("out/layout/blobs/sha256").join(digest)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["annotations"], serde_json::json!({"A.b": "1", "E.f": "3"}));
}

#[test]
fn pushing_needs_a_name() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    bed.build(&["--push"]).fails_with(2).says("tag is needed when pushing to registry");
    bed.build(&["--iidfile", "x", "-o", "out"]).fails_with(2).says("--iidfile");
}

#[test]
fn provenance_is_found_beside_the_image() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n").dockerfile("FROM alpine\nARG TOKEN\nCOPY hello /\n");
    let app = name(&bed, "app");
    bed.build(&["-t", &app, "--push", "--provenance", "--build-arg", "TOKEN=s3cret"]).succeeds();
    let digest = inspect(&app)["Digest"].as_str().unwrap().to_owned();
    let raw = |name: &str| -> serde_json::Value {
        serde_json::from_str(&tool(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])))
            .unwrap()
    };
    let listed = raw(&format!("{app}:{}", digest.replace(':', "-")));
    let attestation = raw(&format!("{app}@{}", listed["manifests"][0]["digest"].as_str().unwrap()));
    assert_eq!(attestation["subject"]["digest"], digest);
    let statement = attestation["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let statement = fs::read_to_string(bed.store().join("blobs/sha256").join(statement)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&statement).unwrap();
    assert_eq!(value["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(value["subject"][0]["digest"]["sha256"], digest.trim_start_matches("sha256:"));
    assert!(
        value["predicate"]["buildDefinition"]["resolvedDependencies"][0]["uri"]
            .as_str()
            .unwrap()
            .contains("pkg:docker/alpine@latest?platform=linux%2F"),
        "{statement}"
    );
    assert!(!statement.contains("s3cret"), "mode min says no values of build arguments");
}

#[test]
fn what_copy_is_put_on_is_indexed_once_and_never_unpacked() {
    for bed in Bed::each_user() {
        // A layer of its own, so that nobody else has indexed it.
        bed.dockerfile("FROM alpine\nRUN mkdir -p -m 750 /srv/app && ln -s /srv/app /app && echo app:x:77:78:::/bin/sh >> /etc/passwd\n");
        let base = name(&bed, "base");
        bed.build(&["-t", &base, "--push"]).succeeds();
        let unpacked = |bed: &Bed| {
            fs::read_dir(bed.store().join("snapshots"))
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("base-"))
                .count()
        };
        // Through the base's link, with its user database, beside its modes.
        bed.file("hello", "hello\n");
        bed.dockerfile(&format!("FROM {base}\nWORKDIR /app/sub\nCOPY --chown=app hello /app/\nENV A=b\n"));
        let other = Bed::of(bed.user);
        other.file("hello", "hello\n").dockerfile(&fs::read_to_string(bed.path("context/Dockerfile")).unwrap());
        let app = name(&bed, "copied");
        let fresh = other.build(&["-t", &app, "--push", "--reproducible"]);
        fresh.succeeds().says("pull sha256");
        assert_eq!(unpacked(&other), 0, "the base was unpacked: {fresh}");
        let digest = inspect(&app)["Digest"].clone();
        // A prune takes the blobs, not what is known of them.
        other.run(&["prune"]).succeeds();
        let again = other.build(&["-t", &app, "--push", "--reproducible", "--no-cache"]);
        again.succeeds().does_not_say("pull sha256");
        assert_eq!((unpacked(&other), inspect(&app)["Digest"].clone()), (0, digest.clone()), "{again}");
        // On layers that are unpacked it is the same image.
        other.dockerfile(&format!("FROM {base}\nRUN test -d /srv/app\n")).build(&[]).succeeds();
        assert!(unpacked(&other) > 0);
        other.dockerfile(&fs::read_to_string(bed.path("context/Dockerfile")).unwrap());
        other.build(&["-t", &app, "--push", "--reproducible", "--no-cache"]).succeeds();
        assert_eq!(inspect(&app)["Digest"], digest);
        // What --chown says is looked up in there.
        let tar = other.path("out/app.tar");
        other.build(&["--reproducible", "-o", "type=tar,dest=../out/app.tar"]).succeeds();
        let listing = tool(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar));
        assert!(listing.lines().any(|line| line.contains(" 77/78 ") && line.ends_with("srv/app/hello")), "{listing}");
    }
}

#[test]
fn a_second_compression_is_packed_once() {
    let bed = Bed::caller();
    bed.file("hello", "hello\n".repeat(1000)).dockerfile("FROM scratch\nCOPY hello /\n");
    let outputs = ["-o", "type=image", "-t", "app", "-o", "type=oci,dest=../out/app.tar,compression=zstd"];
    bed.build(&outputs).succeeds();
    let first = fs::read(bed.path("out/app.tar")).unwrap();
    // The step's files are gone, its two blobs are not: there is nothing that could be packed again.
    for entry in fs::read_dir(bed.store().join("snapshots")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    bed.build(&outputs).succeeds();
    assert!(fs::read(bed.path("out/app.tar")).unwrap() == first);
    assert_eq!(fs::read_dir(bed.store().join("snapshots")).unwrap().count(), 0, "the layer was unpacked to be packed");
}
