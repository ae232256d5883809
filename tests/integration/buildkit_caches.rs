//! Caches that BuildKit wrote (`testdata/buildkit-cache`): its steps are found, and what is not the same is not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Bed, Buckets, KEY, Registry, checkout, digest, tool};

/// Recordings and how many steps they have, FROM too.
const CASES: [(&str, usize); 5] = [("runs", 10), ("mounts", 15), ("copies", 23), ("stages", 8), ("links", 4)];

fn recorded() -> PathBuf {
    checkout().join("testdata/buildkit-cache")
}

fn dockerfile(case: &str) -> String {
    fs::read_to_string(recorded().join(format!("{case}.Dockerfile"))).unwrap()
}

/// A bed with the context of a recording, and the layout where its user can read it.
fn bed_of(case: &str, bed: Bed) -> Bed {
    let layout = bed.path("out/layout/blobs/sha256");
    fs::create_dir_all(&layout).unwrap();
    for entry in fs::read_dir(recorded().join("layout/blobs/sha256")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), layout.join(entry.file_name())).unwrap();
    }
    for name in ["index.json", "oci-layout"] {
        fs::copy(recorded().join("layout").join(name), bed.path("out/layout").join(name)).unwrap();
    }
    write_context(case, &bed.path("context"));
    // Writing a file hands what lies in the context to its user.
    bed.dockerfile(&dockerfile(case));
    set_mode(&bed.path("context/Dockerfile"), 0o644);
    bed
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What the recordings were made of, modes and links too.
fn write_context(case: &str, context: &Path) {
    let put = |name: &str, text: &str, mode: u32| {
        let path = context.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        set_mode(&path, mode);
    };
    match case.trim_end_matches("-old") {
        "mounts" => put("d/f", "f\n", 0o644),
        "links" => put("a.txt", "a\n", 0o644),
        "copies" => {
            for (name, text) in [("a.txt", "a\n"), ("dir/x.c", "c\n"), ("dir/x.h", "h\n"), ("dir/sub/deep", "deep\n"), ("ignored/i", "i\n")]
            {
                put(name, text, 0o644);
            }
            put("b.txt", "bb\n", 0o600);
            put("dir/not.log", "i\n", 0o644);
            put(".dockerignore", "ignored\n**/*.log\ncache-*\nDockerfile\n.dockerignore\n", 0o644);
            fs::create_dir(context.join("dir/empty")).unwrap();
            fs::hard_link(context.join("a.txt"), context.join("dir/hard")).unwrap();
            for (target, name) in [("a.txt", "link.txt"), ("dir", "link-to-dir"), ("../a.txt", "dir/up")] {
                symlink(target, context.join(name)).unwrap();
            }
        }
        _ => {}
    }
    let directories = [("d", 0o755), ("dir", 0o755), ("dir/empty", 0o755), ("dir/sub", 0o750), ("ignored", 0o755)];
    for (name, mode) in directories.into_iter().filter(|(name, _)| context.join(name).exists()) {
        set_mode(&context.join(name), mode);
    }
}

fn from_layout(bed: &Bed, tag: &str) -> String {
    format!("type=local,src={},tag={tag}", bed.path("out/layout").display())
}

fn base(bed: &Bed) -> String {
    format!("base=oci-layout://{}:base", bed.path("out/layout").display())
}

fn build(bed: &Bed, from: &str, flags: &[&str]) -> crate::support::Outcome {
    bed.build(&[&["-t", "app", "--build-context", &base(bed), "--cache-from", from], flags].concat())
}

fn layers(bed: &Bed) -> Value {
    let outcome = bed.run(&["inspect", "--json", "app"]);
    let value: Value = serde_json::from_str(&outcome.succeeds().out).unwrap();
    value["config"]["rootfs"]["diff_ids"].clone()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn blob(name: &Value) -> PathBuf {
    recorded().join("layout/blobs/sha256").join(name.as_str().unwrap().trim_start_matches("sha256:"))
}

/// The layers of the image that BuildKit made.
fn recorded_layers(case: &str) -> Value {
    let index = read_json(&recorded().join("layout/index.json"));
    let is_image = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == format!("{case}-inline");
    let image = index["manifests"].as_array().unwrap().iter().find(is_image).unwrap();
    let config = read_json(&blob(&read_json(&blob(&image["digest"]))["config"]["digest"]));
    config["rootfs"]["diff_ids"].clone()
}

#[test]
fn every_step_is_found_and_is_the_layer_that_buildkit_made() {
    for (case, steps) in CASES {
        for kind in ["max", "min", "inline"] {
            let bed = bed_of(case, Bed::caller());
            let outcome = build(&bed, &from_layout(&bed, &format!("{case}-{kind}")), &[]);
            outcome.succeeds().says("written by BuildKit").says(&format!("{} of {steps} steps cached", steps - 1));
            assert_eq!(layers(&bed), recorded_layers(case), "{case} {kind}");
        }
    }
}

#[test]
fn earlier_versions_had_other_keys() {
    for (case, steps) in [("mounts-old", 14), ("copies-old", 18), ("links", 4)] {
        for version in ["0.12", "0.16"] {
            let bed = bed_of(case, Bed::caller());
            let outcome = build(&bed, &from_layout(&bed, &format!("{case}-{version}")), &[]);
            outcome.succeeds().says(&format!("{} of {steps} steps cached", steps - 1));
        }
    }
}

#[test]
fn an_index_is_a_cache_too() {
    for user in Bed::each_user() {
        let bed = bed_of("stages", user);
        build(&bed, &from_layout(&bed, "stages-index"), &[]).succeeds().says("7 of 8 steps cached");
        assert_eq!(layers(&bed), recorded_layers("stages"));
    }
}

#[test]
fn what_was_found_is_kept() {
    let bed = bed_of("runs", Bed::caller());
    build(&bed, &from_layout(&bed, "runs-min"), &[]).succeeds().says("9 of 10 steps cached");
    let again = |flags: &[&str]| bed.build(&[&["-t", "again", "--build-context", &base(&bed)], flags].concat());
    again(&[]).succeeds().says("9 of 10 steps cached");
    assert_eq!(bed.digest("app"), bed.digest("again"));
    again(&["--cache-trust", "ci"]).succeeds().says("0 of 10 steps cached");
}

#[test]
fn registries_have_such_caches() {
    let address = Registry::stand_in().address();
    for kind in ["max", "inline"] {
        let bed = bed_of("stages", Bed::caller());
        let name = format!("{address}/of-buildkit/stages-{kind}");
        let layout = format!("oci:{}:stages-{kind}", recorded().join("layout").display());
        let copy = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &layout, &format!("docker://{name}")];
        tool(Command::new("skopeo").args(copy));
        build(&bed, &name, &[]).succeeds().says("7 of 8 steps cached");
        assert_eq!(layers(&bed), recorded_layers("stages"), "{kind}");
    }
}

/// In a bucket the config lies under the cache's name, and says itself what a manifest says of layers elsewhere.
#[test]
fn buckets_have_such_caches() {
    let Some(server) = Buckets::stand_in() else { return };
    let bed = bed_of("stages", Bed::caller());
    let name = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase().replace('.', "-");
    server.make(&name);
    let index = read_json(&recorded().join("layout/index.json"));
    let is_named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == "stages-max";
    let manifest = read_json(&blob(&index["manifests"].as_array().unwrap().iter().find(is_named).unwrap()["digest"]));
    let mut config = read_json(&blob(&manifest["config"]["digest"]));
    for layer in config["layers"].as_array_mut().unwrap() {
        let known = manifest["layers"].as_array().unwrap().iter().find(|known| known["digest"] == layer["blob"]).unwrap().clone();
        layer["annotations"] = serde_json::json!({
            "mediaType": known["mediaType"], "size": known["size"],
            "diffID": known["annotations"]["containerd.io/uncompressed"], "createdAt": known["annotations"]["buildkit/createdat"],
        });
    }
    // A layer may stand on several others, and is one object.
    for layer in manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap()).collect::<BTreeSet<_>>() {
        server.put(&format!("{name}/blobs/{layer}"), &fs::read(blob(&layer.into())).unwrap());
    }
    server.put(&format!("{name}/manifests/buildkit"), config.to_string().as_bytes());
    let place = format!("type=s3,bucket={name},region=us-east-1,endpoint_url={},use_path_style=true,name=buildkit", server.door());
    let place = format!("{place},access_key_id={},secret_access_key={}", KEY.0, KEY.1);
    build(&bed, &place, &[]).succeeds().says("7 of 8 steps cached");
    assert_eq!(layers(&bed), recorded_layers("stages"));
}

#[test]
fn another_command_is_a_miss_and_so_is_all_above_it() {
    let bed = bed_of("runs", Bed::caller());
    bed.dockerfile(&dockerfile("runs").replace("RUN in-work", "RUN elsewhere"));
    let root = bed.path("out/root");
    let outcome = build(&bed, &from_layout(&bed, "runs-max"), &["-o", &format!("type=local,dest={}", root.display())]);
    outcome.succeeds().says("#2 CACHED").says("#3 CACHED").does_not_say("#4 CACHED").does_not_say("#10 CACHED");
    let ran = fs::read_to_string(root.join("ran")).unwrap();
    assert!(ran.starts_with("one\nelsewhere\n"), "{ran}");
}

#[test]
fn other_files_other_variables_and_another_base_are_misses() {
    let is_missed = |case: &str, step: usize, change: &dyn Fn(&Bed)| {
        let bed = bed_of(case, Bed::caller());
        change(&bed);
        let outcome = build(&bed, &from_layout(&bed, &format!("{case}-max")), &[]);
        outcome.succeeds().says("written by BuildKit").does_not_say(&format!("#{step} CACHED"));
        assert_ne!(layers(&bed), recorded_layers(case), "{case}");
    };
    is_missed("copies", 2, &|bed| fs::write(bed.path("context/a.txt"), "b\n").unwrap());
    is_missed("copies", 2, &|bed| set_mode(&bed.path("context/a.txt"), 0o640));
    is_missed("copies", 4, &|bed| fs::write(bed.path("context/dir/new"), "").unwrap());
    is_missed("copies", 4, &|bed| fs::remove_dir(bed.path("context/dir/empty")).unwrap());
    is_missed("links", 2, &|bed| fs::write(bed.path("context/a.txt"), "b\n").unwrap());
    is_missed("runs", 2, &|bed| {
        bed.dockerfile(&dockerfile("runs").replace("A=1", "A=0"));
    });
    is_missed("stages", 4, &|bed| {
        bed.dockerfile(&dockerfile("stages").replace("RUN make", "RUN do"));
    });
    is_missed("runs", 2, &|bed| {
        bed.dockerfile(&dockerfile("runs").replace("FROM base", "FROM base\nRUN zero"));
    });
}

#[test]
fn what_must_run_again_runs_and_what_comes_of_it() {
    let bed = bed_of("stages", Bed::caller());
    let outcome = build(&bed, &from_layout(&bed, "stages-max"), &["--no-cache-filter", "build"]);
    outcome.succeeds().does_not_say("#2 CACHED").does_not_say("#4 CACHED");
}

#[test]
fn they_name_no_writer() {
    let bed = bed_of("runs", Bed::caller());
    let outcome = build(&bed, &from_layout(&bed, "runs-max"), &["--cache-trust", "ci"]);
    outcome.succeeds().says("0 of 11 steps are of trusted writers").does_not_say("#2 CACHED");
}

#[test]
fn layers_that_are_damaged_or_others_are_misses() {
    let bed = bed_of("runs", Bed::caller());
    let blobs = fs::read_dir(bed.path("out/layout/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    for path in blobs.filter(|path| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b])) {
        let is_base = read_json(&recorded().join("layout/index.json"))["manifests"][0]["digest"].as_str().map(|name| {
            let manifest = read_json(&blob(&name.into()));
            path.ends_with(manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:"))
        });
        if is_base == Some(false) {
            let length = fs::read(&path).unwrap().len();
            fs::write(&path, vec![0; length]).unwrap();
        }
    }
    build(&bed, &from_layout(&bed, "runs-max"), &[]).succeeds().says("building without it");
    assert_ne!(layers(&bed), recorded_layers("runs"));
}

#[test]
fn a_cache_that_makes_no_sense_is_not_used() {
    let text = r#"{"records":[{"digest":"sha256:00","inputs":[[{"link":7}]]}]}"#;
    for config in [text.to_owned(), text.replace("00", &"0".repeat(64)), "{".to_owned()] {
        let bed = bed_of("links", Bed::caller());
        let folder = bed.path("out/layout/blobs/sha256");
        let put = |text: &str| {
            let name = digest(text.as_bytes());
            fs::write(folder.join(name.trim_start_matches("sha256:")), text).unwrap();
            name
        };
        let kind = "application/vnd.buildkit.cacheconfig.v0";
        let config = serde_json::json!({ "mediaType": kind, "digest": put(&config), "size": config.len() });
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
        let from = format!("type=local,src={},digest={}", bed.path("out/layout").display(), put(&manifest));
        build(&bed, &from, &[]).succeeds().says("is not used").says("0 of 4 steps cached");
    }
}

/// Layers of a cache never decide what the same files are packed as under `--reproducible`.
#[test]
fn reproducible_images_are_the_same_with_and_without() {
    let text = "FROM base\nCOPY --link a.txt /1\nCOPY --link a.txt /2\n";
    let digests = ["links-max", "nothing"].map(|tag| {
        let bed = bed_of("links", Bed::caller());
        bed.dockerfile(text);
        let outcome = build(&bed, &from_layout(&bed, tag), &["--reproducible"]);
        outcome.succeeds();
        assert_eq!(outcome.err.contains("#2 CACHED") || outcome.out.contains("#2 CACHED"), tag == "links-max", "{outcome}");
        bed.digest("app")
    });
    assert_eq!(BTreeSet::from(digests).len(), 1);
}
