//! Registries that refuse, lie, or go away in the middle: an error that names the cause, and a store that stays clean.

use std::fs;

use crate::support::{Bed, FakeRegistry, Image, Layer, Reply, Request};

fn image() -> Image {
    Image::with_busybox([Layer::new().file("note", "from the registry\n")])
}

/// A bed whose Dockerfile takes its base from `registry`.
fn bed(registry: &FakeRegistry) -> Bed {
    let bed = Bed::caller();
    bed.registries(&registry.configuration());
    bed.dockerfile(&format!("FROM {}/app:1\nRUN cat /note\n", registry.address()));
    bed
}

fn last_layer(image: &Image) -> String {
    image.blobs.last().unwrap().0.clone()
}

#[test]
fn a_registry_that_behaves_is_used() {
    let registry = FakeRegistry::serve(image(), |_| None);
    bed(&registry).build(&[]).succeeds().says("from the registry");
}

#[test]
fn unauthorised_is_said_with_the_registry() {
    let refuse = |_: &Request| Some(Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", "Basic realm=\"private\""));
    let registry = FakeRegistry::serve(image(), refuse);
    bed(&registry).build(&[]).fails_with(1).says(registry.address()).says("refuses access");
}

#[test]
fn a_token_is_fetched_and_sent() {
    let registry = FakeRegistry::serve(image(), |request| {
        if request.path.starts_with("/token") {
            return Some(Reply::of(200, "application/json", "{\"token\":\"t0ken\"}"));
        }
        let host = &request.headers.iter().find(|(name, _)| name == "host")?.1;
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:app:pull\"");
        let allowed = request.headers.contains(&("authorization".into(), "Bearer t0ken".into()));
        (!allowed).then(|| Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge))
    });
    bed(&registry).build(&[]).succeeds().says("from the registry").does_not_say("t0ken");
    assert!(
        registry
            .seen()
            .iter()
            .any(|request| request.path.contains("scope=repository%3Aapp%3Apull") || request.path.contains("scope=repository:app:pull"))
    );
}

#[test]
fn credentials_of_docker_config_go_to_their_host_only() {
    let registry = FakeRegistry::serve(image(), |request| {
        // "me:secret"
        let allowed = request.headers.contains(&("authorization".into(), "Basic bWU6c2VjcmV0".into()));
        (!allowed).then(|| Reply::error(401, "UNAUTHORIZED").header("WWW-Authenticate", "Basic realm=\"private\""))
    });
    let bed = bed(&registry);
    bed.file("../home/.docker/config.json", format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6c2VjcmV0\"}}}}}}", registry.address()));
    bed.build(&[]).succeeds();
    bed.file("../home/.docker/config.json", "{\"auths\":{\"example.com\":{\"auth\":\"bWU6c2VjcmV0\"}}}");
    bed.build(&["--pull", "--no-cache"]).fails_with(1).says("refuses access");
}

#[test]
fn not_found_is_said_with_the_name() {
    let registry =
        FakeRegistry::serve(image(), |request| request.path.contains("/manifests/").then(|| Reply::error(404, "MANIFEST_UNKNOWN")));
    bed(&registry).build(&[]).fails_with(1).says("app:1").says("not found");
}

#[test]
fn a_layer_with_another_digest_is_refused_and_leaves_nothing() {
    let image = image();
    let wanted = last_layer(&image);
    let mut other = image.blobs.last().unwrap().1.clone();
    other[20] ^= 1;
    let path = wanted.clone();
    let registry = FakeRegistry::serve(image, move |request| {
        request.path.ends_with(&path).then(|| Reply::of(200, "application/octet-stream", other.clone()))
    });
    let bed = bed(&registry);
    bed.build(&[]).fails_with(1).says(&wanted[..19]);
    no_blob(&bed, &wanted);
}

#[test]
fn a_manifest_with_another_digest_is_refused() {
    let image = image();
    let pinned = format!("sha256:{}", "0".repeat(64));
    let registry = FakeRegistry::serve(image, |_| None);
    let bed = bed(&registry);
    bed.dockerfile(&format!("FROM {}/app@{pinned}\n", registry.address()));
    bed.build(&[]).fails_with(1).says("0000000");
    no_blob(&bed, &pinned);
}

#[test]
fn a_truncated_layer_is_refused_and_leaves_nothing() {
    let image = image();
    let (wanted, bytes) = image.blobs.last().unwrap().clone();
    let path = wanted.clone();
    let registry = FakeRegistry::serve(image, move |request| {
        let half = bytes.len() / 2;
        request.path.ends_with(&path).then(|| Reply::of(200, "application/octet-stream", bytes.clone()).cut(half))
    });
    let bed = bed(&registry);
    bed.build(&[]).fails_with(1).says(&wanted[..19]);
    no_blob(&bed, &wanted);
}

#[test]
fn a_layer_that_breaks_once_is_fetched_again() {
    let image = image();
    let (wanted, bytes) = image.blobs[1].clone();
    let broken = std::sync::atomic::AtomicBool::new(false);
    let registry = FakeRegistry::serve(image, move |request| {
        let first = request.path.ends_with(&wanted) && !broken.swap(true, std::sync::atomic::Ordering::SeqCst);
        first.then(|| Reply::of(200, "application/octet-stream", bytes.clone()).cut(bytes.len() / 3))
    });
    bed(&registry).build(&[]).succeeds().says("from the registry");
}

#[test]
fn a_server_error_is_tried_again() {
    let failures = std::sync::atomic::AtomicUsize::new(0);
    let registry = FakeRegistry::serve(image(), move |request| {
        let failing = request.path.contains("/manifests/") && failures.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2;
        failing.then(|| Reply::error(503, "UNAVAILABLE"))
    });
    bed(&registry).build(&[]).succeeds();
}

#[test]
fn a_wait_that_a_registry_asks_for_is_told() {
    let failures = std::sync::atomic::AtomicUsize::new(0);
    let registry = FakeRegistry::serve(image(), move |request| {
        let failing = request.path.contains("/manifests/") && failures.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 1;
        failing.then(|| Reply::error(429, "TOOMANYREQUESTS").header("Retry-After", "1"))
    });
    bed(&registry).build(&[]).succeeds().says("too many requests").says("trying again in 1.0 s");
}

#[test]
fn a_layer_larger_than_its_descriptor_is_refused() {
    let mut image = image();
    let manifest = String::from_utf8(image.manifest.clone()).unwrap();
    let size = image.blobs.last().unwrap().1.len();
    image.manifest = manifest.replace(&format!("\"size\":{size}"), "\"size\":10").into_bytes();
    let wanted = last_layer(&image);
    let registry = FakeRegistry::serve(image, |_| None);
    let bed = bed(&registry);
    bed.build(&[]).fails_with(1);
    no_blob(&bed, &wanted);
}

#[test]
fn layers_that_do_not_match_the_config_are_refused() {
    let mut image = image();
    let other = Image::with_busybox([Layer::new().file("note", "another\n")]);
    let (from, to) = (image.blobs.last().unwrap().clone(), other.blobs.last().unwrap().clone());
    let manifest = String::from_utf8(image.manifest.clone()).unwrap();
    let manifest = manifest.replace(&from.0, &to.0).replace(&format!("\"size\":{}", from.1.len()), &format!("\"size\":{}", to.1.len()));
    image.manifest = manifest.into_bytes();
    image.blobs.push(to);
    let registry = FakeRegistry::serve(image, |_| None);
    bed(&registry).build(&[]).fails_with(1).does_not_say("another\n");
}

#[test]
fn a_manifest_that_is_no_json_is_refused() {
    for body in ["", "{", "[]", "{\"schemaVersion\":1}", "<html></html>"] {
        let registry = FakeRegistry::serve(image(), move |request| {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            request.path.contains("/manifests/").then(|| Reply::of(200, kind, body))
        });
        bed(&registry).build(&[]).fails_with(1).says("app:1");
    }
}

#[test]
fn wrong_bytes_of_a_mirror_are_asked_of_the_next() {
    let (good, bad) = (image(), image());
    let wanted = last_layer(&good);
    let honest = FakeRegistry::serve(good, |_| None);
    let (name, length) = (wanted.clone(), bad.blobs.last().unwrap().1.len());
    let liar = FakeRegistry::serve(bad, move |request| {
        request.path.ends_with(&name).then(|| Reply::of(200, "application/octet-stream", vec![b'x'; length]))
    });
    let bed = Bed::caller();
    let (honest, liar) = (honest.address(), liar.address());
    bed.registries(&format!(
        "[[registry]]\nprefix = \"fake.invalid\"\nlocation = \"{honest}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{liar}\"\ninsecure = true\n"
    ));
    bed.dockerfile("FROM fake.invalid/app:1\nRUN cat /note\n").build(&[]).succeeds();
    let stored = fs::read(bed.store().join("blobs/sha256").join(wanted.trim_start_matches("sha256:"))).unwrap();
    assert_ne!(stored[0], b'x');
}

/// Neither the blob nor a part of it is served from the store.
fn no_blob(bed: &Bed, digest: &str) {
    let path = bed.store().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    assert!(fs::symlink_metadata(&path).is_err(), "{} exists", path.display());
}
