//! Pulling from registries that lie, break, redirect and refuse.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rbuild::{
    oci::{Digest, media_type},
    registry::{Client, Configuration, Error, Listener},
};

use crate::{
    content::{blob, fetch, manifest, quick, reference},
    fake::{Answer, Fake},
};

fn client() -> Client {
    Client::new(Configuration::default(), quick())
}

fn manifest_answer(bytes: &[u8]) -> Answer {
    Answer::new(200, bytes).header("Content-Type", media_type::OCI_MANIFEST)
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let (bytes, _) = manifest(&[]);
    let fake = Fake::start(move |request| match request.path.as_str() {
        "/v2/app/manifests/header" => manifest_answer(&bytes).header("Docker-Content-Digest", Digest::of(b"other")),
        "/v2/app/manifests/text" => Answer::new(200, "<html>").header("Content-Type", "text/html"),
        path if path.contains("/manifests/sha256") => manifest_answer(&bytes),
        _ => Answer::new(200, "12345"),
    });
    let client = client();
    let pinned = reference(&fake.address, "app").with_digest(Digest::of(b"what was asked for"));
    for wrong in [pinned, reference(&fake.address, "app:header")] {
        assert!(matches!(client.resolve(&wrong).await, Err(Error::DigestMismatch { .. })), "{wrong}");
    }
    let error = client.resolve(&reference(&fake.address, "app:text")).await.unwrap_err();
    assert!(matches!(error, Error::MediaType { .. }), "{error}");
    let (descriptor, _) = blob(1, 5);
    let error = fetch(&client, &reference(&fake.address, "app"), &descriptor).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    assert_eq!(fake.requests().len(), 4, "a lie is not asked for twice");
}

#[tokio::test]
async fn wrong_lengths_are_refused() {
    let fake = Fake::start(|request| match request.path.as_str() {
        path if path.contains("/manifests/endless") => Answer::new(200, vec![b' '; 64 << 10]).endless(),
        path if path.contains("/manifests/") => Answer::new(200, vec![b' '; 5 << 20]),
        path if path.contains(blob(1, 5).0.digest.as_str()) => Answer::new(200, vec![0; 6]),
        _ => Answer::new(200, vec![0; 64 << 10]).endless(),
    });
    let client = client();
    for tag in ["app:endless", "app:large"] {
        let error = client.resolve(&reference(&fake.address, tag)).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 0x40_0000, .. }), "{error}");
    }
    for size in [5, 6] {
        let error = fetch(&client, &reference(&fake.address, "app"), &blob(1, size).0).await.unwrap_err();
        assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_broke() {
    let (descriptor, bytes) = blob(2, 1 << 20);
    let count = AtomicU64::new(0);
    let fake = Fake::start(move |request| {
        let from: usize = request.header("range").trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
        let rest = &bytes[from..];
        let answer = match from {
            0 => Answer::new(200, rest),
            _ => Answer::new(206, rest).header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        };
        match count.fetch_add(1, Relaxed) {
            0 => answer.cut_at(300_000),
            1 => Answer::new(503, "").header("Retry-After", 0),
            2 => answer.stall_at(200_000),
            _ => answer,
        }
    });
    let received = fetch(&client(), &reference(&fake.address, "app"), &descriptor).await.unwrap();
    assert_eq!(Digest::of(&received), descriptor.digest);
    let ranges: Vec<_> = fake.requests().iter().map(|request| request.header("range").to_owned()).collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=300000-", "bytes=500000-"]);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again() {
    let (descriptor, bytes) = blob(3, 500_000);
    let count = AtomicU64::new(0);
    let fake = Fake::start(move |_| match count.fetch_add(1, Relaxed) {
        0 => Answer::new(200, &bytes).cut_at(300_000),
        _ => Answer::new(200, &bytes),
    });
    let received = fetch(&client(), &reference(&fake.address, "app"), &descriptor).await.unwrap();
    assert_eq!(Digest::of(&received), descriptor.digest);
}

#[tokio::test]
async fn a_range_with_a_hole_is_refused() {
    let (descriptor, bytes) = blob(4, 500_000);
    let fake = Fake::start(move |request| match request.header("range") {
        "" => Answer::new(200, &bytes).cut_at(100_000),
        _ => Answer::new(206, &bytes[200_000..]).header("Content-Range", "bytes 200000-499999/500000"),
    });
    let error = fetch(&client(), &reference(&fake.address, "app"), &descriptor).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn credentials_stay_behind_at_a_redirect() {
    let (descriptor, bytes) = blob(5, 1000);
    let elsewhere = Fake::start(move |_| Answer::new(200, &bytes));
    let target = format!("http://{}/signed?key=1", elsewhere.address);
    let fake = Fake::start(move |request| match request.header("authorization") {
        "" => Answer::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        _ => Answer::new(307, "").header("Location", &target),
    });
    let mut configuration = Configuration::default();
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, fake.address);
    configuration.add_credentials(&auths).unwrap();
    let client = Client::new(configuration, quick());
    fetch(&client, &reference(&fake.address, "app"), &descriptor).await.unwrap();
    assert_eq!(fake.requests()[1].header("authorization"), "Basic dTpw");
    let seen = elsewhere.requests();
    assert_eq!((seen.len(), seen[0].headers.contains_key("authorization")), (1, false));
}

#[tokio::test]
async fn redirects_without_end_are_refused() {
    let fake = Fake::start(|request| Answer::new(302, "").header("Location", format!("{}x", request.path)));
    let error = client().resolve(&reference(&fake.address, "app")).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { .. }), "{error}");
    assert!(fake.requests().len() < 15);
}

#[tokio::test]
async fn foreign_layers_are_not_fetched_from_their_urls() {
    let elsewhere = Fake::start(|_| Answer::new(200, "foreign"));
    let fake = Fake::start(|_| Answer::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no such blob"}]}"#));
    let (mut descriptor, _) = blob(6, 7);
    let urls = serde_json::json!([format!("http://{}/layer", elsewhere.address)]);
    descriptor.extra.insert("urls".to_owned(), urls);
    let error = fetch(&client(), &reference(&fake.address, "app"), &descriptor).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { message, .. } if message == "no such blob"), "{error}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_mirror_that_fails_is_left_at_once() {
    let layer = blob(7, 1000);
    let (manifest, _) = manifest(std::slice::from_ref(&layer));
    let original = {
        let (manifest, layer) = (manifest.clone(), layer.1.clone());
        Fake::start(move |request| if request.path.contains("/manifests/") { manifest_answer(&manifest) } else { Answer::new(200, &layer) })
    };
    for status in [429, 500, 404, 401, 403] {
        let mirror = Fake::start(move |_| Answer::new(status, "").header("Retry-After", 3600));
        let mut configuration = Configuration::default();
        let text = format!("[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}/hub'\n", original.address, mirror.address);
        configuration.add_registries(&text).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notices = heard.clone();
        let mut options = quick();
        options.listener = Listener::new(move |notice| notices.lock().unwrap().push(notice.to_string()));
        let client = Client::new(configuration, options);
        let image = reference(&original.address, "app:1");
        let resolved = client.resolve(&image).await.unwrap();
        assert_eq!((resolved.bytes, resolved.host), (manifest.clone(), original.address.clone()));
        assert_eq!(mirror.lines()[0], "GET /v2/hub/app/manifests/1");
        assert!(heard.lock().unwrap().iter().any(|notice| notice.ends_with(&format!("asking {}", original.address))));
        let asked = mirror.requests().len();
        assert_eq!(fetch(&client, &image, &layer.0).await.unwrap(), layer.1);
        let rests = matches!(status, 429 | 500);
        assert_eq!(mirror.requests().len() == asked, rests, "{status}");
    }
}

#[tokio::test]
async fn a_blob_may_begin_at_a_mirror_and_end_at_the_registry() {
    let (descriptor, bytes) = blob(8, 400_000);
    let whole = bytes.clone();
    let mirror = Fake::start(move |request| match request.header("range") {
        "" => Answer::new(200, &bytes).cut_at(100_000),
        _ => Answer::new(500, ""),
    });
    let original = Fake::start(move |request| match request.header("range") {
        "bytes=100000-" => Answer::new(206, &whole[100_000..]).header("Content-Range", "bytes 100000-399999/400000"),
        _ => Answer::new(400, ""),
    });
    let mut configuration = Configuration::default();
    let text = format!("[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n", original.address, mirror.address);
    configuration.add_registries(&text).unwrap();
    let received = fetch(&Client::new(configuration, quick()), &reference(&original.address, "app"), &descriptor).await.unwrap();
    assert_eq!(Digest::of(&received), descriptor.digest);
}

#[tokio::test]
async fn a_head_without_a_digest_becomes_a_get() {
    let (bytes, _) = manifest(&[]);
    let digest = Digest::of(&bytes);
    let fake = Fake::start(move |_| manifest_answer(&bytes));
    let head = client().head(&reference(&fake.address, "app:1")).await.unwrap();
    assert_eq!((head.digest, head.media_type.as_str()), (digest, media_type::OCI_MANIFEST));
    assert_eq!(fake.lines(), ["HEAD /v2/app/manifests/1", "GET /v2/app/manifests/1"]);
}
