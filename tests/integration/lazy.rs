//! Images of the store whose base layers nothing has needed yet: they stay in their registry until something does.

use std::fs;
use std::process::Command;

use crate::support::{Bed, FakeRegistry, Image, Layer, Registry, Reply, Witness, tool};

/// Every blob that was asked for and is a layer of `library/alpine`, each as often as it was asked for.
fn layer_gets(witness: &Witness, layers: &[String]) -> Vec<String> {
    let digest_of = |line: &String| line.strip_prefix("GET ")?.rsplit_once("/blobs/").map(|(_, digest)| digest.to_owned());
    let mut found: Vec<String> = witness.take().iter().filter_map(digest_of).filter(|digest| layers.contains(digest)).collect();
    found.sort();
    found
}

/// The layers of the stand-in alpine, sorted.
fn base_layers() -> Vec<String> {
    let name = format!("docker://{}/library/alpine", Registry::stand_in().address());
    let text = tool(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &name]));
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut layers: Vec<String> = manifest["layers"].as_array().unwrap().iter().map(|layer| text_of(&layer["digest"])).collect();
    layers.sort();
    layers
}

fn text_of(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// A bed whose base is asked for through the witness, with an image `app` that nothing has needed the base for.
fn lazy_bed(witness: &Witness, bed: Bed) -> Bed {
    bed.registries(&witness.configuration());
    bed.file("hello", "hello\n");
    bed.dockerfile(&format!("FROM {}/library/alpine\nENV A=b\nCOPY --link hello /\n", witness.address()));
    bed.build(&["-t", "app"]).succeeds().does_not_say("pull sha256");
    bed
}

#[test]
fn base_layers_are_fetched_once_when_they_are_needed() {
    let layers = base_layers();
    let witness = Witness::of(Registry::stand_in().address());
    for bed in Bed::each_user() {
        let bed = lazy_bed(&witness, bed);
        // Also without a name, and told again.
        bed.build(&[]).succeeds();
        bed.build(&["--no-cache", "-t", "app"]).succeeds();
        assert_eq!(layer_gets(&witness, &layers), [""; 0], "a layer of the base was asked for");
        let place = format!("base layers at {}/library/alpine, not fetched: ", witness.address());
        bed.run(&["images"]).succeeds().says(&place);
        bed.run(&["inspect", "app"]).succeeds().says(&place);
        bed.run(&["history", "app"]).succeeds().says(&place);
        let lines = bed.run(&["history", "--json", "app"]).succeeds().out.clone();
        let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let absent: Vec<&serde_json::Value> = rows.iter().map(|row| &row["absent"]).filter(|absent| !absent.is_null()).collect();
        assert_eq!(absent.len(), layers.len(), "{lines}");
        assert_eq!(text_of(&absent[0]["from"][0]), format!("{}/library/alpine:latest", witness.address()));
        bed.run(&["du"]).succeeds().says("not fetched");
        bed.run(&["fsck"]).succeeds();
        bed.run(&["prune"]).succeeds();
        let told: serde_json::Value = serde_json::from_str(&bed.run(&["inspect", "--json", "app"]).succeeds().out).unwrap();
        assert_eq!(told["absent"].as_array().unwrap().len(), layers.len());
        assert_eq!(text_of(&told["absent"][0]["from"][0]), format!("{}/library/alpine:latest", witness.address()));
        assert_eq!(layer_gets(&witness, &layers), [""; 0], "looking at an image fetches nothing of it");

        let run = bed.run(&["run", "app", "cat", "/hello"]);
        run.succeeds().says("fetching base layers at");
        assert_eq!(run.out, "hello\n");
        assert_eq!(layer_gets(&witness, &layers), layers, "each once");
        bed.run(&["run", "app", "true"]).succeeds().does_not_say("fetching");
        bed.run(&["inspect", "app"]).succeeds().does_not_say("not fetched");
        bed.run(&["history", "--json", "app"]).succeeds().says("\"absent\":null").does_not_say("\"from\"");
        bed.run(&["fsck"]).succeeds();
        assert_eq!(layer_gets(&witness, &layers), [""; 0]);
    }
}

#[test]
fn what_is_saved_is_whole() {
    let layers = base_layers();
    let witness = Witness::of(Registry::stand_in().address());
    let bed = lazy_bed(&witness, Bed::caller());
    let tar = bed.path("out/app.tar");
    bed.run(&["save", "-o", "../out/app.tar", "app"]).succeeds().says("fetching base layers at");
    assert_eq!(layer_gets(&witness, &layers), layers);
    let read = |source: &str| tool(Command::new("skopeo").args(["inspect", "--raw", source]));
    assert_eq!(read(&format!("oci-archive:{}", tar.display())), read(&bed.reference("app")));
    let copied = format!("dir:{}", bed.path("out/copied").display());
    tool(Command::new("skopeo").args(["--insecure-policy", "copy", &format!("docker-archive:{}", tar.display()), &copied]));
}

#[test]
fn every_way_out_brings_what_it_needs() {
    let layers = base_layers();
    let witness = Witness::of(Registry::stand_in().address());
    let ways: [&[&str]; 8] = [
        &["build", "-o", "type=oci,dest=../out/oci.tar", "."],
        &["build", "-o", "type=docker,dest=../out/docker.tar", "."],
        &["build", "-o", "type=tar,dest=../out/files.tar", "."],
        &["build", "-o", "../out/files", "."],
        &["copy", "app", "oci:../out/layout"],
        &["sbom", "app"],
        &["diff", "app", "app"],
        &["images", "--fetch"],
    ];
    for way in ways {
        let bed = lazy_bed(&witness, Bed::caller());
        witness.take();
        bed.run(way).succeeds();
        assert_eq!(layer_gets(&witness, &layers), layers, "{way:?}");
    }
    // A build on it: with what needs no file of it, then with a RUN.
    let bed = lazy_bed(&witness, Bed::caller());
    bed.dockerfile("FROM app\nCOPY --link hello /second\n").build(&["-t", "second"]).succeeds();
    assert_eq!(layer_gets(&witness, &layers), [""; 0]);
    bed.run(&["rm", "app"]).succeeds();
    bed.run(&["prune"]).succeeds();
    bed.run(&["images", "second"]).succeeds().says("not fetched");
    bed.dockerfile("FROM second\nRUN cat /hello /second\n").build(&["-t", "third"]).succeeds().says("pull sha256");
    assert_eq!(layer_gets(&witness, &layers), layers);
    bed.run(&["run", "third", "cat", "/second"]).succeeds().says("hello");
}

#[test]
fn a_push_mounts_what_the_registry_has_and_sends_elsewhere_what_it_lacks() {
    let layers = base_layers();
    let witness = Witness::of(Registry::stand_in().address());
    let bed = lazy_bed(&witness, Bed::caller());
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    let same = format!("{}/same-{unique}", witness.address());
    bed.run(&["push", "app", "--as", &same]).succeeds().says("mounted from library/alpine");
    assert_eq!(layer_gets(&witness, &layers), [""; 0], "what is in the registry was fetched to push it there");
    let other = Registry::private();
    bed.registries(&format!("{}{}", witness.configuration(), other.configuration()));
    let words = ["login", "-u", "builder", "-p", "s3cret-of-the-builder", other.address()];
    bed.run(&words).succeeds();
    for (words, fetched) in [(["push", "app", "--as"], true), (["push", "app", "--as"], false)] {
        bed.run(&[&words[..], &[&format!("{}/app", other.address())]].concat()).succeeds();
        assert_eq!(!layer_gets(&witness, &layers).is_empty(), fetched);
    }
}

#[test]
fn what_is_only_pushed_has_a_name_too() {
    let witness = Witness::of(Registry::stand_in().address());
    let bed = lazy_bed(&witness, Bed::caller());
    let app = format!("{}/pushed-{}", witness.address(), bed.path("").file_name().unwrap().to_string_lossy().to_lowercase());
    bed.build(&["-t", &app, "--push"]).succeeds().does_not_say("pull sha256");
    bed.run(&["run", &app, "cat", "/hello"]).succeeds().says("hello");
}

#[test]
fn a_registry_that_lost_the_layer_is_told_of_and_nothing_is_half_written() {
    let image = Image::with_busybox([Layer::new().file("note", "from the registry\n")]);
    let lost = image.blobs.last().unwrap().0.clone();
    let (path, error) = (format!("/blobs/{lost}"), Reply::error(404, "BLOB_UNKNOWN"));
    let registry = FakeRegistry::serve(image, move |request| request.path.ends_with(&path).then(|| error.clone()));
    let bed = Bed::caller();
    bed.registries(&registry.configuration()).file("hello", "hello\n");
    let base = format!("{}/base:1", registry.address());
    bed.dockerfile(&format!("FROM {base}\nCOPY --link hello /\n")).build(&["-t", "app"]).succeeds();
    let outcome = bed.run(&["save", "-o", "../out/app.tar", "app"]);
    outcome.fails_with(1).says(&format!("cannot pull layer {lost} of {base}")).says(&format!("no longer at {base}"));
    assert_eq!(fs::read_dir(bed.path("out")).unwrap().count(), 0, "half an archive");
    bed.run(&["run", "app", "true"]).fails().says(&lost);
    let blob = bed.store().join("blobs/sha256").join(lost.trim_start_matches("sha256:"));
    assert!(!blob.exists());
    bed.run(&["fsck"]).succeeds();
    // What else was there has come: the build that asks nobody says what is not.
    bed.dockerfile("FROM app\nRUN cat /note\n");
    bed.build(&["--offline"])
        .fails_with(1)
        .says("layer sha256:")
        .says(&base)
        .says("--offline asks no registry")
        .says("hint: build once without");
}

#[test]
fn a_registry_that_is_gone_is_named() {
    let registry = FakeRegistry::serve(Image::of([Layer::new().file("note", "from the registry\n")]), |_| None);
    let bed = Bed::caller();
    bed.registries(&registry.configuration()).file("hello", "hello\n");
    bed.dockerfile(&format!("FROM {}/base:1\nCOPY --link hello /\n", registry.address())).build(&["-t", "app"]).succeeds();
    // Nobody listens there.
    bed.registries(&format!("[[registry]]\nprefix = \"{}\"\nlocation = \"127.0.0.1:1\"\ninsecure = true\n", registry.address()));
    let outcome = bed.run(&["images", "--fetch", "app"]);
    outcome
        .fails_with(1)
        .says("cannot pull layer sha256:")
        .says(&format!("of {}/base:1", registry.address()))
        .says("cannot reach 127.0.0.1:1");
    outcome.says("hint: is 127.0.0.1:1 up and reachable from here?");
    bed.run(&["images", "--fetch", "nothing"]).fails_with(1).says("the store has no image nothing");
}

#[test]
fn images_are_joined_by_their_manifests_alone() {
    let witness = Witness::of(Registry::stand_in().address());
    let bed = Bed::caller();
    bed.registries(&witness.configuration()).file("hello", "hello\n").dockerfile("FROM scratch\nARG TARGETARCH\nCOPY hello /$TARGETARCH\n");
    let unique = bed.path("").file_name().unwrap().to_string_lossy().to_lowercase();
    let name = |what: &str| format!("{}/{what}-{unique}", witness.address());
    let mut layers = Vec::new();
    for platform in ["amd64", "arm64"] {
        let flags = ["--platform", &format!("linux/{platform}"), "-t", &name(platform), "--push"];
        bed.build(&flags).succeeds();
        let told: serde_json::Value = serde_json::from_str(&bed.run(&["inspect", "--json", &name(platform)]).succeeds().out).unwrap();
        layers.extend(told["manifest"]["layers"].as_array().unwrap().iter().map(|layer| text_of(&layer["digest"])));
    }
    let sources = ["amd64", "arm64"].map(|platform| format!("docker://{}", name(platform)));
    let told = |place: &str| tool(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{place}")]));
    witness.take();
    let join = |bed: &Bed, name: &str, flags: &[&str]| bed.run(&[&["index", "create", name, &sources[0], &sources[1]], flags].concat());

    // On a machine that has nothing, into another repository of the registry.
    let other = Bed::caller();
    other.registries(&witness.configuration());
    let outcome = join(&other, &name("both"), &["--push"]);
    let moved = witness.take();
    outcome.succeeds().says(&format!("mounted from amd64-{unique}")).says(&format!("mounted from arm64-{unique}"));
    assert!(!moved.iter().any(|line| layers.iter().any(|layer| line.ends_with(layer.as_str()) && line.starts_with("GET "))), "{moved:?}");
    assert!(!moved.iter().any(|line| line.starts_with("PATCH ")), "nothing is sent: {moved:?}");
    let index: serde_json::Value = serde_json::from_str(&told(&name("both"))).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    // Of an index not even the configs: it says what its images are for.
    let index = format!("docker://{}", name("both"));
    other.run(&["prune", "--all"]).succeeds();
    witness.take();
    other.run(&["index", "create", &name("third"), &index, "--push"]).succeeds();
    let moved = witness.take();
    assert!(!moved.iter().any(|line| line.starts_with("GET ") && line.contains("/blobs/")), "{moved:?}");
    assert_eq!(told(&name("third")), told(&name("both")));

    // Into the store: layers stay where they are until something needs them.
    join(&other, "both", &[]).succeeds();
    assert_eq!(layer_gets(&witness, &layers), [""; 0]);
    for platform in ["amd64", "arm64"] {
        let place = format!("base layers at {}, not fetched", name(platform));
        other.run(&["inspect", "--platform", &format!("linux/{platform}"), "both"]).succeeds().says(&place);
    }
    other.run(&["fsck"]).succeeds();
    // From there into the registry again: still nothing moves.
    other.run(&["index", "create", &name("fourth"), "both", "--push"]).succeeds().says("mounted from amd64");
    assert_eq!(layer_gets(&witness, &layers), [""; 0]);
    other.run(&["images", "--fetch", "both"]).succeeds().says("fetching");
    layers.sort();
    assert_eq!(layer_gets(&witness, &layers), layers);
}

#[test]
fn a_cache_is_written_without_the_base() {
    let layers = base_layers();
    let witness = Witness::of(Registry::stand_in().address());
    let unique = Bed::caller().path("").file_name().unwrap().to_string_lossy().to_lowercase();
    for mode in ["min", "max"] {
        for place in [format!("type=registry,ref={}/lazy-{unique}-{mode}", witness.address()), "type=local,dest=../out/cache".to_owned()] {
            let bed = lazy_bed(&witness, Bed::caller());
            bed.build(&["--cache-to", &format!("{place},mode={mode}")]).succeeds();
            let again = lazy_bed(&witness, Bed::caller());
            let from = place.replace("dest=../out", &format!("src={}", bed.path("out").display()));
            again.run(&["prune", "--all"]).succeeds();
            again.build(&["-t", "app", "--cache-from", &from]).succeeds().says("CACHED");
            assert_eq!(again.digest("app"), bed.digest("app"), "{place}");
            assert_eq!(layer_gets(&witness, &layers), [""; 0], "{place}");
        }
    }
}
