//! Caches in registries and directories: a second machine, here another store, takes steps from the first.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Bed, FakeRegistry, Image, Registry, Reply, Request, digest, tool};

/// A build whose result is another each time it runs.
const STAGES: &str = "FROM alpine AS base\nRUN cat /proc/sys/kernel/random/uuid > /id\nFROM base AS b\nRUN cat /proc/sys/kernel/random/uuid > /out\n\
                      FROM base\nCOPY --from=b /out /out\nRUN cat /out > /two\n";

fn name(bed: &Bed) -> String {
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    format!("{}/cache-{unique}", Registry::stand_in().address())
}

#[test]
fn another_store_takes_all_steps_from_a_registry() {
    for mode in ["min", "max"] {
        let first = Bed::caller();
        let cache = name(&first);
        let to = format!("type=registry,ref={cache},mode={mode}");
        let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &to]);
        for second in Bed::each_user() {
            assert_eq!(second.dockerfile(STAGES).image("app", &["--cache-from", &cache]), digest, "{mode}");
        }
    }
}

#[test]
fn a_directory_is_a_cache_too() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache").display().to_string();
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={folder}")]);
    assert_eq!(second.dockerfile(STAGES).image("app", &["--cache-from", &format!("type=local,src={folder}")]), digest);
}

#[test]
fn a_cache_that_is_missing_or_lies_is_a_miss() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache").display().to_string();
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={folder}")]);
    let nowhere = format!("{}/not-there", Registry::stand_in().address());
    second.dockerfile(STAGES).build(&["--cache-from", &nowhere]).succeeds().says("is not used");
    let blobs = fs::read_dir(first.path("out/cache/blobs/sha256")).unwrap();
    for blob in blobs.map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&blob).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            fs::write(&blob, vec![0; bytes.len()]).unwrap();
        }
    }
    let third = Bed::caller();
    let outcome = third.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &format!("type=local,src={folder}")]);
    outcome.succeeds().says("building without it");
    assert_ne!(third.digest("app"), digest);
}

#[test]
fn only_trusted_writers_count() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache").display().to_string();
    let to = format!("type=local,dest={folder}");
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &to, "--cache-writer", "ci"]);
    let from = format!("type=local,src={folder}");
    let other = second.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &from, "--cache-trust", "release"]);
    other.succeeds().says("0 of ");
    assert_ne!(second.digest("app"), digest);
    let third = Bed::caller();
    assert_eq!(third.dockerfile(STAGES).image("app", &["--cache-from", &from, "--cache-trust", "ci"]), digest);
}

#[test]
fn an_image_can_hold_its_own_cache() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let app = name(&first);
    first.dockerfile(STAGES).build(&["-t", &app, "--push", "--cache-to", "type=inline"]).succeeds();
    let outcome = second.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &app]);
    outcome.succeeds().says("steps").does_not_say("is not used");
    // The same layers, out of another store: the files that are made at random are those of the first build.
    let layers = |bed: &Bed, name: &str| -> serde_json::Value {
        let outcome = bed.run(&["inspect", "--json", name]);
        let value: serde_json::Value = serde_json::from_str(&outcome.succeeds().out).unwrap();
        value["config"]["rootfs"]["diff_ids"].clone()
    };
    assert!(layers(&first, &app).is_array());
    assert_eq!(layers(&second, "app"), layers(&first, &app));
    first.build(&["--cache-to", "type=inline", "--reproducible"]).fails().says("no part of a reproducible image");
}

#[test]
fn a_layer_that_is_not_what_its_record_says_is_a_miss() {
    let (first, second) = (Bed::caller(), Bed::caller());
    let folder = first.path("out/cache");
    let digest = first.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={}", folder.display())]);
    // Every name of a layer's tar in the records is made another's: the blobs are whole, and not what they are said to be.
    let read = |path: &std::path::Path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &str| folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let put = |text: String| -> String {
        let digest = crate::support::digest(text.as_bytes());
        fs::write(blob(&digest), text).unwrap();
        digest
    };
    let mut index = read(&folder.join("index.json"));
    let mut manifest = read(&blob(index["manifests"][0]["digest"].as_str().unwrap()));
    let mut config = read(&blob(manifest["config"]["digest"].as_str().unwrap()));
    for entry in config["entries"].as_array_mut().unwrap() {
        let record = entry["record"].as_str().unwrap().replace("\"diff_id\":\"sha256:", "\"diff_id\":\"sha256:0000");
        let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
        for blob in record["blobs"].as_array_mut().unwrap() {
            let forged = blob[1]["diff_id"].as_str().unwrap()[.."sha256:".len() + 64].to_owned();
            blob[1]["diff_id"] = forged.into();
        }
        entry["record"] = record.to_string().into();
    }
    let text = config.to_string();
    manifest["config"]["size"] = text.len().into();
    manifest["config"]["digest"] = put(text).into();
    let text = manifest.to_string();
    index["manifests"][0]["size"] = text.len().into();
    index["manifests"][0]["digest"] = put(text).into();
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let from = format!("type=local,src={}", folder.display());
    second.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &from]).succeeds().says("building without it");
    assert_ne!(second.digest("app"), digest);
    let first_made = second.digest("app");
    assert_eq!(second.image("app", &[]), first_made, "what was forged is not kept");
}

#[test]
fn entries_keep_their_writer_when_they_are_passed_on() {
    let (first, second, third) = (Bed::caller(), Bed::caller(), Bed::caller());
    let (one, two) = (first.path("out/one").display().to_string(), second.path("out/two").display().to_string());
    let digest =
        first.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={one},mode=max"), "--cache-writer", "first"]);
    let (from, to) = (format!("type=local,src={one}"), format!("type=local,dest={two},mode=max"));
    let flags = ["--cache-from", &from, "--cache-to", &to, "--cache-writer", "second"];
    assert_eq!(second.dockerfile(STAGES).image("app", &flags), digest);
    let from = format!("type=local,src={two}");
    assert_ne!(third.dockerfile(STAGES).image("app", &["--cache-from", &from, "--cache-trust", "second"]), digest);
    // Also what was taken before does not count for who does not trust it.
    assert_ne!(second.image("app", &["--cache-trust", "second"]), digest);
}

#[test]
fn a_pull_request_reads_the_cache_of_main_and_main_reads_none_of_its_steps() {
    let (main, request, again) = (Bed::caller(), Bed::caller(), Bed::caller());
    let place = |name: &str| format!("type=local,{{}}={}", main.path("out").join(name).display());
    let (from, to) = (|name: &str| place(name).replace("{}", "src"), |name: &str| place(name).replace("{}", "dest"));
    let built = main.dockerfile(STAGES).image("app", &["--cache-to", &to("main"), "--cache-writer", "main"]);
    // The request takes the steps that main made, adds one, and writes all of them where it may write.
    let changed = format!("{STAGES}RUN cat /proc/sys/kernel/random/uuid > /three\n");
    let flags = ["--cache-from", &from("main"), "--cache-to", &to("request"), "--cache-writer", "request"];
    request.dockerfile(&changed).build(&[&["-t", "app"], &flags[..]].concat()).succeeds().says("CACHED");
    let theirs = request.digest("app");
    // Main builds the same text: the steps that were its own count, wherever they are, and the other one does not.
    let flags = ["--cache-from", &from("request"), "--cache-trust", "main"];
    let outcome = again.dockerfile(&changed).build(&[&["-t", "app"], &flags[..]].concat());
    outcome.succeeds().says("steps are of trusted writers").says("CACHED");
    assert_ne!(again.digest("app"), theirs);
    assert_eq!(again.dockerfile(STAGES).image("app", &flags), built);
}

/// What a build gave to a cache, as a registry would serve it; and the digest of its image.
fn served(bed: &Bed) -> (Image, String) {
    let folder = bed.path("out/cache");
    let built = bed.dockerfile(STAGES).image("app", &["--cache-to", &format!("type=local,dest={}", folder.display())]);
    let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let blobs: Vec<(String, Vec<u8>)> = blobs.map(|bytes| (digest(&bytes), bytes)).collect();
    let index: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let named = |name: &serde_json::Value| blobs.iter().find(|(digest, _)| name == digest).unwrap().1.clone();
    (Image { manifest: named(&index["manifests"][0]["digest"]), blobs }, built)
}

/// Builds in a fresh store with the cache of a registry.
fn build_with(registry: &FakeRegistry) -> (Bed, crate::support::Outcome) {
    let bed = Bed::caller();
    bed.registries(&format!("{}{}", Registry::stand_in().configuration(), registry.configuration()));
    let from = format!("type=registry,ref={}/c,timeout=1s", registry.address());
    let outcome = bed.dockerfile(STAGES).build(&["-t", "app", "--cache-from", &from]);
    (bed, outcome)
}

const BINARY: &str = "application/octet-stream";

/// What a registry does wrong.
type Fault = Box<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

#[test]
fn a_registry_that_fails_or_lies_about_a_cache_is_a_miss() {
    let (cache, built) = served(&Bed::caller());
    let (bed, outcome) = build_with(&FakeRegistry::serve(cache.clone(), |_| None));
    outcome.succeeds().does_not_say("warning");
    assert_eq!(bed.digest("app"), built, "one that does its work is used");
    let is_layer = |bytes: &[u8]| bytes.starts_with(&[0x1f, 0x8b]);
    let layers: Vec<(String, Vec<u8>)> = cache.blobs.iter().filter(|(_, bytes)| is_layer(bytes)).cloned().collect();
    let of_layers = move |act: fn(&[u8]) -> Reply| -> Fault {
        let layers = layers.clone();
        Box::new(move |request| layers.iter().find(|(digest, _)| request.path.ends_with(digest)).map(|(_, bytes)| act(bytes)))
    };
    let of_manifest = |act: fn() -> Reply| -> Fault { Box::new(move |request| request.path.contains("/manifests/").then(act)) };
    let faults: [(&str, Fault); 9] = [
        ("nothing is there", of_manifest(|| Reply::error(404, "MANIFEST_UNKNOWN"))),
        ("it wants a login", of_manifest(|| Reply::error(401, "UNAUTHORIZED"))),
        ("it is broken", Box::new(|_| Some(Reply::error(500, "UNKNOWN")))),
        ("the manifest is no JSON", of_manifest(|| Reply::of(200, "application/vnd.oci.image.manifest.v1+json", "no"))),
        ("blobs are gone", Box::new(|request| request.path.contains("/blobs/").then(|| Reply::error(404, "BLOB_UNKNOWN")))),
        ("layers are cut short", of_layers(|bytes| Reply::of(200, BINARY, bytes).cut(10))),
        ("layers are others", of_layers(|bytes| Reply::of(200, BINARY, vec![0; bytes.len()]))),
        ("layers are larger", of_layers(|bytes| Reply::of(200, BINARY, [bytes, bytes].concat()))),
        (
            "layers never come",
            of_layers(|_| {
                loop {
                    std::thread::park()
                }
            }),
        ),
    ];
    for (what, fault) in faults {
        let started = Instant::now();
        let (bed, outcome) = build_with(&FakeRegistry::serve(cache.clone(), fault));
        outcome.succeeds().says("warning: ");
        assert_ne!(bed.digest("app"), built, "{what}: {outcome}");
        assert!(started.elapsed() < Duration::from_secs(60), "{what} took {:?}", started.elapsed());
    }
}

#[test]
fn a_cache_that_lies_does_not_spoil_the_others() {
    let first = Bed::caller();
    let (_, built) = served(&first);
    let cache = first.path("out/cache").display().to_string();
    let bad = first.path("out/bad");
    tool(std::process::Command::new("cp").arg("-r").arg(&cache).arg(&bad));
    for blob in fs::read_dir(bad.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&blob).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            fs::write(&blob, vec![0; bytes.len()]).unwrap();
        }
    }
    let second = Bed::caller();
    let (bad, good) = (format!("type=local,src={}", bad.display()), format!("type=local,src={cache}"));
    second
        .dockerfile(STAGES)
        .build(&["-t", "app", "--cache-from", &bad, "--cache-from", &good])
        .succeeds()
        .does_not_say("building without");
    assert_eq!(second.digest("app"), built);
}

#[test]
fn configs_of_caches_that_make_no_sense_are_a_miss() {
    let (cache, built) = served(&Bed::caller());
    let manifest: serde_json::Value = serde_json::from_slice(&cache.manifest).unwrap();
    for config in ["", "no", "[]", "{}", r#"{"version":1,"entries":7}"#, r#"{"version":99,"entries":[]}"#] {
        let mut manifest = manifest.clone();
        manifest["config"]["digest"] = digest(config.as_bytes()).into();
        manifest["config"]["size"] = config.len().into();
        let mut forged = Image { manifest: manifest.to_string().into_bytes(), ..cache.clone() };
        forged.blobs.push((digest(config.as_bytes()), config.into()));
        let (bed, outcome) = build_with(&FakeRegistry::serve(forged, |_| None));
        outcome.succeeds().says("is not used");
        assert_ne!(bed.digest("app"), built, "{config}");
    }
}

#[test]
fn caches_of_buildkit_that_know_nothing_of_a_build_are_a_miss() {
    let name = digest(b"something else");
    let known = json!({"layers": [{"blob": name, "parent": -1}], "records": [{"digest": name, "layers": [{"layer": 0}]}]});
    let config = known.to_string().into_bytes();
    let kind = "application/vnd.buildkit.cacheconfig.v0";
    let described = json!({"mediaType": kind, "digest": digest(&config), "size": config.len()});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [described]});
    let manifest =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": described, "layers": []});
    for top in [index, manifest] {
        let text = top.to_string();
        let media_type = top["mediaType"].as_str().unwrap().to_owned();
        let reply = {
            let text = text.clone();
            move |request: &Request| {
                let named = Reply::of(200, &media_type, text.clone()).header("Docker-Content-Digest", &digest(text.as_bytes()));
                request.path.contains("/manifests/").then_some(named)
            }
        };
        let image = Image { manifest: text.into_bytes(), blobs: vec![(digest(&config), config.clone())] };
        build_with(&FakeRegistry::serve(image, reply)).1.succeeds().says("1 results, written by BuildKit").does_not_say("CACHED");
    }
}
