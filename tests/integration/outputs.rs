//! Every destination of a build: files that other tools read, and directories.

use std::fs;
use std::process::Command;

use crate::support::{Bed, tool};

fn bed_with_app() -> Bed {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine AS builder\nRUN mkdir /out && echo made > /out/file\nFROM scratch\nCOPY --from=builder /out /\n");
    bed
}

#[test]
fn an_oci_archive_is_what_skopeo_expects() {
    let bed = bed_with_app();
    bed.build(&["-t", "app", "-o", "type=oci,dest=../out/app.tar", "-o", "type=image"]).succeeds();
    let archive = format!("oci-archive:{}", bed.path("out/app.tar").display());
    let inspected = tool(Command::new("skopeo").args(["inspect", &archive]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Digest"], bed.digest("app"), "the same image as in the store");
}

#[test]
fn an_oci_directory_is_an_image_layout() {
    let bed = bed_with_app();
    bed.build(&["-t", "app", "-o", "type=oci,tar=false,dest=../out/layout"]).succeeds();
    assert!(fs::read_to_string(bed.path("out/layout/oci-layout")).unwrap().contains("1.0.0"));
    let index = fs::read_to_string(bed.path("out/layout/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    for manifest in index["manifests"].as_array().unwrap() {
        let digest = manifest["digest"].as_str().unwrap().trim_start_matches("sha256:");
        assert!(bed.path("out/layout/blobs/sha256").join(digest).exists(), "{index}");
    }
}

#[test]
fn a_docker_archive_is_what_docker_load_and_skopeo_expect() {
    let bed = bed_with_app();
    bed.build(&["-t", "app", "-o", "type=docker,dest=../out/app.tar"]).succeeds();
    let archive = format!("docker-archive:{}", bed.path("out/app.tar").display());
    tool(Command::new("skopeo").args(["inspect", &archive]));
    let manifest = tool(Command::new("tar").args(["-xOf"]).arg(bed.path("out/app.tar")).arg("manifest.json"));
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let names = &manifest[0]["RepoTags"];
    assert!(names.to_string().contains("app:latest"), "{manifest}");
}

#[test]
fn a_tar_and_a_directory_hold_the_files() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine AS builder\nRUN mkdir /out && echo made > /out/file\nFROM scratch\nCOPY --from=builder /out /\n");
        bed.build(&["-o", "type=tar,dest=../out/tree.tar", "-o", "type=local,dest=../out/tree"]).succeeds();
        assert_eq!(fs::read_to_string(bed.path("out/tree/file")).unwrap(), "made\n");
        assert_eq!(tool(Command::new("tar").arg("-xOf").arg(bed.path("out/tree.tar")).arg("file")), "made\n");
    }
}

#[test]
fn a_directory_output_stays_inside_its_destination() {
    let bed = bed_with_app();
    fs::create_dir(bed.path("elsewhere")).unwrap();
    fs::create_dir_all(bed.path("out/tree")).unwrap();
    bed.dockerfile("FROM alpine AS builder\nRUN mkdir -p /out/d && echo made > /out/d/file\nFROM scratch\nCOPY --from=builder /out /\n");
    std::os::unix::fs::symlink(bed.path("elsewhere"), bed.path("out/tree/d")).unwrap();
    let _ = bed.build(&["-o", "type=local,dest=../out/tree"]);
    assert!(fs::read_dir(bed.path("elsewhere")).unwrap().next().is_none(), "it followed a link out of its destination");
}

#[test]
fn iidfile_names_the_image() {
    let bed = bed_with_app();
    bed.build(&["-t", "app", "--iidfile", "../out/id"]).succeeds();
    let id = fs::read_to_string(bed.path("out/id")).unwrap();
    assert!(id.starts_with("sha256:") && id.trim().len() == 71, "{id}");
    assert!(bed.store().join("blobs/sha256").join(id.trim().trim_start_matches("sha256:")).exists(), "{id}");
}

#[test]
fn quiet_prints_the_digest_and_nothing_else() {
    let bed = bed_with_app();
    let outcome = bed.run(&["build", "-q", "-t", "app", "."]);
    outcome.succeeds();
    assert!(outcome.out.starts_with("sha256:") && outcome.out.trim().len() == 71, "{outcome}");
    assert_eq!(outcome.err, "", "{outcome}");
}

/// The manifest in a layout that is a directory.
fn manifest(folder: &std::path::Path) -> (serde_json::Value, serde_json::Value) {
    let read = |path: std::path::PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(folder.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let manifest = read(folder.join("blobs/sha256").join(digest));
    (index, manifest)
}

#[test]
fn keys_of_one_build_s_outputs_shape_each_of_them() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN echo made > /file\n");
    let at = |name: &str, keys: &str| format!("type=oci,tar=false,dest=../out/{name},{keys}");
    let outputs = [
        at("plain", "compression=uncompressed"),
        at("zstd", "compression=zstd,compression-level=19"),
        at("forced", "compression=zstd,force-compression=true"),
        at("gzip", "compression=gzip,compression-level=1"),
        at("docker", "oci-mediatypes=false"),
        at("foreign", "prefer-nondist-layers=true"),
        at("dated", "rewrite-timestamp=true,source-date-epoch=1"),
        at("noted", "annotation.who=manifest,annotation-manifest-descriptor.who=ours,annotation-index-descriptor.who=index"),
        "type=image,name=kept,name-canonical=true,unpack=true,compatibility-version=20".to_owned(),
        "type=image,name=gone,store=false".to_owned(),
        "type=docker,tar=false,dest=../out/loadable".to_owned(),
        "type=local,dest=../out/files,platform-split=true,mode=copy".to_owned(),
        "type=tar,dest=../out/files.tar,source-date-epoch=1".to_owned(),
        "type=cacheonly".to_owned(),
    ];
    let flags: Vec<&str> = outputs.iter().flat_map(|output| ["-o", output]).collect();
    bed.build(&[&["--iidfile", "../out/iid", "--metadata-file", "../out/metadata"], &flags[..4]].concat()).succeeds();
    bed.build(&flags).succeeds();
    let kind = |name: &str| {
        let (_, manifest) = manifest(&bed.path("out").join(name));
        let layers = manifest["layers"].as_array().unwrap();
        let of = |layer: &serde_json::Value| layer["mediaType"].as_str().unwrap().rsplit("layer.").next().unwrap().to_owned();
        (of(&layers[0]), of(layers.last().unwrap()))
    };
    let pair = |base: &str, own: &str| (base.to_owned(), own.to_owned());
    assert_eq!(kind("plain"), pair("v1.tar+gzip", "v1.tar"));
    assert_eq!(kind("zstd"), pair("v1.tar+gzip", "v1.tar+zstd"));
    assert_eq!(kind("forced"), pair("v1.tar+zstd", "v1.tar+zstd"));
    assert_eq!(kind("gzip").1, "v1.tar+gzip");
    assert_eq!(manifest(&bed.path("out/docker")).1["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    // The key keeps layers that are not to be distributed as they are, and makes none.
    assert_eq!(kind("foreign").1, "v1.tar+gzip");
    let (index, noted) = manifest(&bed.path("out/noted"));
    assert_eq!((&noted["annotations"]["who"], &index["manifests"][0]["annotations"]["who"]), (&"manifest".into(), &"index".into()));
    let names = fs::read_to_string(bed.store().join("index.json")).unwrap();
    assert!(names.contains("kept@sha256:") && !names.contains("gone"), "{names}");
    assert!(bed.path("out/loadable/manifest.json").exists() || bed.path("out/loadable/index.json").exists());
    assert!(fs::read_dir(bed.path("out/files")).unwrap().all(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("linux_")));
    let metadata: serde_json::Value = serde_json::from_slice(&fs::read(bed.path("out/metadata")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], fs::read_to_string(bed.path("out/iid")).unwrap());
}

#[test]
fn what_is_wrong_with_outputs_is_said_before_anything_is_built() {
    let bed = Bed::caller();
    bed.dockerfile("FROM alpine\nRUN exit 3\n");
    for (flags, reason) in [
        (&["-o", "type=local,dest=../out/x,mode=zap"][..], "mode=zap is unknown"),
        (&["-o", "type=oci,dest=../no/such/x.tar"], "there is no directory for ../no/such/x.tar"),
        (&["-o", "type=tar,dest=-", "-o", "type=oci"], "two outputs go to standard output"),
        (&["-o", "type=oci,dest=../out/x", "-o", "type=docker,dest=./../out/x"], "two outputs go to "),
        (&["-o", "type=docker,dest=../out/x", "--platform", "linux/amd64,linux/arm64"], "exporting manifest lists"),
        (&["--load", "--platform", "linux/amd64,linux/arm64"], "exporting manifest lists"),
        (&["-o", "type=image,annotation-index.a=b"], "index annotations not supported for single platform export"),
        (&["--annotation", "index:a=b"], "index annotations not supported for single platform export"),
        (&["-o", "type=registry,push-by-digest=true,name=h.example/app:1"], "can't push tagged ref h.example/app:1 by digest"),
        (&["-o", "type=image,dangling-name-prefix=UPPER"], "dangling-name-prefix=UPPER"),
        (&["--metadata-file", "../no/such/file"], "--metadata-file: there is no directory"),
        (&["--iidfile", "../out"], "--iidfile ../out is a directory"),
    ] {
        bed.build(flags).fails_with(2).says(reason).does_not_say("RUN exit 3");
    }
}

#[test]
fn an_archive_for_docker_goes_to_standard_output() {
    let bed = bed_with_app();
    let archive = bed.command(&["build", "-q", "-t", "app", "-o", "type=docker,dest=-", "."]).output().unwrap();
    assert_eq!(archive.stdout.len() % 512, 0, "nothing but the archive");
    fs::write(bed.path("out/app.tar"), &archive.stdout).unwrap();
    let names = tool(Command::new("tar").arg("-xOf").arg(bed.path("out/app.tar")).arg("manifest.json"));
    assert!(names.contains("app:latest"), "{names}");
}

#[test]
fn an_id_of_an_earlier_build_does_not_outlive_one_that_fails() {
    let bed = bed_with_app();
    bed.build(&["--iidfile", "../out/id"]).succeeds();
    bed.dockerfile("FROM alpine\nRUN exit 3\n").build(&["--iidfile", "../out/id"]).fails();
    assert!(!bed.path("out/id").exists());
}

#[test]
fn an_image_without_a_name_gets_one_that_begins_as_was_said() {
    let bed = bed_with_app();
    let names = || fs::read_to_string(bed.store().join("index.json")).unwrap();
    let dangling = "type=image,dangling-name-prefix=h.example/dangling,danging-name-empty-only=true";
    bed.build(&["-t", "app", "-o", dangling]).succeeds();
    assert!(!names().contains("dangling"), "{}", names());
    bed.build(&["-o", dangling]).succeeds();
    assert!(names().contains("h.example/dangling@sha256:"), "{}", names());
}

#[test]
fn metadata_say_how_it_was_made_and_the_summary_how_large_it_came_out() {
    let bed = Bed::caller();
    bed.file("zeros", vec![0; 3_000_000]).dockerfile("FROM scratch\nARG TOKEN\nCOPY zeros /\n");
    let metadata = |mode: &str| {
        let flags = [
            "build",
            "--metadata-file",
            "../out/metadata",
            "--build-arg",
            "TOKEN=s3cret",
            "-o",
            "type=image,compression=uncompressed",
            ".",
        ];
        let outcome = crate::support::Outcome::of({
            let mut command = bed.command(&flags);
            command.env("BUILDX_METADATA_PROVENANCE", mode);
            command
        });
        outcome.succeeds().says("3.00MB in 1 layer");
        let text = fs::read_to_string(bed.path("out/metadata")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["buildx.build.provenance"].take()
    };
    let least = metadata("");
    assert_eq!(least["runDetails"]["builder"]["id"].as_str().unwrap().split('@').next().unwrap(), "pkg:cargo/rbuild");
    assert!(!least.to_string().contains("s3cret"), "{least}");
    assert!(metadata("max").to_string().contains("s3cret"));
    assert!(metadata("disabled").is_null());
}
