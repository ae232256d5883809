//! Pushing to registries that resume, limit, forget and send elsewhere.

use std::sync::{Arc, Mutex};

use rbuild::{
    oci::Digest,
    registry::{Client, Configuration, Error, Pushed},
};

use crate::{
    content::{blob, opener, quick, reference},
    fake::{Answer, Fake, Request},
};

fn client() -> Client {
    Client::new(Configuration::default(), quick())
}

/// A registry that keeps what it received of a broken PATCH, as the specification wants it.
fn resuming(cut: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static, limit: usize) -> (Fake, Arc<Mutex<Vec<u8>>>) {
    let content = Arc::new(Mutex::new(Vec::new()));
    let store = content.clone();
    let answer = move |request: &Request| {
        let mut content = store.lock().unwrap();
        let at = |status| Answer::new(status, "").header("Location", "/v2/app/blobs/uploads/1?state=x");
        match request.method.as_str() {
            "HEAD" => Answer::new(404, ""),
            "PATCH" if request.body.len() > limit => Answer::new(413, ""),
            "PATCH" => {
                content.extend_from_slice(&request.body);
                at(202).header("Range", format!("0-{}", content.len() - 1))
            }
            "GET" => at(204).header("Range", format!("0-{}", content.len().saturating_sub(1))),
            "PUT" => {
                content.extend_from_slice(&request.body);
                let digest = Digest::of(&content);
                let named = request.path.ends_with(&format!("state=x&digest={}", digest.as_str().replace(':', "%3A")));
                Answer::new(if named { 201 } else { 400 }, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#)
            }
            _ => at(202),
        }
    };
    (Fake::start_greedy(answer, Arc::new(cut)), content)
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_is() {
    let (descriptor, bytes) = blob(1, 3 << 20);
    let cut = |request: &Request| (request.method == "PATCH" && request.header("content-range").is_empty()).then_some(1_000_000);
    let (fake, content) = resuming(cut, usize::MAX);
    let pushed = client().push_blob(&reference(&fake.address, "app"), &descriptor, opener(&bytes), &[], |_| {}).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert!(*content.lock().unwrap() == bytes);
    let ranges: Vec<_> = fake
        .requests()
        .iter()
        .filter(|request| request.method == "PATCH")
        .map(|request| request.header("content-range").to_owned())
        .collect();
    assert_eq!(ranges, ["", "1000000-3145727"]);
}

#[tokio::test]
async fn a_limit_on_bodies_makes_pieces() {
    let (descriptor, bytes) = blob(2, 40 << 20);
    let (fake, content) = resuming(|_| None, 20 << 20);
    client().push_blob(&reference(&fake.address, "app"), &descriptor, opener(&bytes), &[], |_| {}).await.unwrap();
    assert!(*content.lock().unwrap() == bytes);
    let sizes: Vec<_> =
        fake.requests().iter().filter(|request| request.method == "PATCH").map(|request| request.body.len() >> 20).collect();
    assert_eq!(sizes, [40, 16, 16, 8]);
}

#[tokio::test]
async fn small_blobs_travel_in_the_put() {
    let (descriptor, bytes) = blob(3, 1000);
    let (fake, content) = resuming(|_| None, 0);
    client().push_blob(&reference(&fake.address, "app"), &descriptor, opener(&bytes), &[], |_| {}).await.unwrap();
    assert!(*content.lock().unwrap() == bytes);
    let methods: Vec<_> = fake.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["HEAD", "POST", "PUT"]);
}

#[tokio::test]
async fn content_that_is_not_the_descriptors_is_refused_once() {
    let (descriptor, _) = blob(4, 1000);
    let (fake, _) = resuming(|_| None, usize::MAX);
    let other = blob(5, 1000).1;
    let error = client().push_blob(&reference(&fake.address, "app"), &descriptor, opener(&other), &[], |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Server { status: 400, .. }), "{error}");
    let short = client().push_blob(&reference(&fake.address, "app"), &descriptor, opener(&other[..10]), &[], |_| {}).await;
    assert!(matches!(short, Err(Error::Source { .. })), "{short:?}");
    assert_eq!(fake.lines().iter().filter(|line| line.starts_with("POST")).count(), 2);
}

#[tokio::test]
async fn an_upload_elsewhere_gets_no_credentials() {
    let (descriptor, bytes) = blob(6, 2 << 20);
    let elsewhere = Fake::start(|request| match request.method.as_str() {
        "PATCH" => Answer::new(202, "").header("Location", "/signed?2").header("Range", "0-2097151"),
        _ => Answer::new(201, ""),
    });
    let location = format!("http://{}/signed?1", elsewhere.address);
    let fake = Fake::start(move |request| match (request.header("authorization"), request.method.as_str()) {
        ("", _) => Answer::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        (_, "HEAD") => Answer::new(404, ""),
        _ => Answer::new(202, "").header("Location", &location),
    });
    let mut configuration = Configuration::default();
    configuration.add_credentials(&format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, fake.address)).unwrap();
    let client = Client::new(configuration, quick());
    client.push_blob(&reference(&fake.address, "app"), &descriptor, opener(&bytes), &[], |_| {}).await.unwrap();
    assert_eq!(elsewhere.lines().len(), 2);
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_empty()));
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories_and_its_refusal_opens_the_upload() {
    let (descriptor, bytes) = blob(7, 1000);
    let mounted = descriptor.digest.clone();
    let fake = Fake::start(move |request| {
        let host = request.header("host");
        let challenge = format!(r#"Bearer realm="http://{host}/token""#);
        match request.method.as_str() {
            _ if request.path.starts_with("/token") => Answer::new(200, r#"{"access_token":"t"}"#),
            _ if request.header("authorization").is_empty() => Answer::new(401, "").header("WWW-Authenticate", challenge),
            "HEAD" => Answer::new(404, ""),
            "POST" if request.path.ends_with("from=team/base") => Answer::new(201, "").header("Docker-Content-Digest", &mounted),
            "POST" => Answer::new(202, "").header("Location", "/v2/app/blobs/uploads/9"),
            _ => Answer::new(201, ""),
        }
    });
    let image = reference(&fake.address, "app");
    let from = |name: &str| reference(&fake.address, name);
    let push = |from: Vec<_>| {
        let (client, image, descriptor, open) = (client(), image.clone(), descriptor.clone(), opener(&bytes));
        async move { client.push_blob(&image, &descriptor, open, &from, |_| {}).await.unwrap() }
    };
    assert_eq!(push(vec!["other.example/app".parse().unwrap(), from("team/base")]).await, Pushed::Mounted("team/base".to_owned()));
    let scopes = "/token?scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull";
    assert!(fake.requests().iter().any(|request| request.path == scopes), "{:#?}", fake.lines());
    let before = fake.requests().len();
    assert_eq!(push(vec![from("nothing")]).await, Pushed::Uploaded);
    let posts = fake.lines()[before..].iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(posts, 1, "the session of the refused mount is used");
}

#[tokio::test]
async fn pages_of_tags_are_followed_and_referrers_fall_back_to_the_tag() {
    let subject = Digest::of(b"subject");
    let tag = format!("/v2/app/manifests/sha256-{}", subject.hex());
    let fake = Fake::start(move |request| match request.path.as_str() {
        "/v2/app/tags/list" => Answer::new(200, r#"{"tags":["a","b"]}"#).header("Link", "</v2/app/tags/list?last=b&n=2>; rel=\"next\""),
        "/v2/app/tags/list?last=b&n=2" => Answer::new(200, r#"{"tags":["c"]}"#),
        path if path == tag => {
            let entry = r#"{"mediaType":"m","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"artifactType":"TYPE"}"#;
            let entries = [entry.replace("TYPE", "sbom"), entry.replace("TYPE", "other")].join(",");
            Answer::new(200, format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#))
        }
        _ => Answer::new(404, ""),
    });
    let image = reference(&fake.address, "app");
    assert_eq!(client().list_tags(&image).await.unwrap(), ["a", "b", "c"]);
    assert_eq!(client().referrers(&image, &subject, None).await.unwrap().manifests.len(), 2);
    assert_eq!(client().referrers(&image, &subject, Some("sbom")).await.unwrap().manifests.len(), 1);
    assert!(client().referrers(&image, &Digest::of(b"other"), None).await.unwrap().manifests.is_empty());
}

#[tokio::test]
async fn pages_of_referrers_are_followed_and_an_empty_one_ends_them() {
    let subject = Digest::of(b"subject");
    let path = format!("/v2/app/referrers/{subject}");
    let fake = Fake::start(move |request| {
        let page = |types: &[&str]| {
            let digest = Digest::of(types.concat().as_bytes());
            let entry = |name: &&str| format!(r#"{{"mediaType":"m","digest":"{digest}","size":1,"artifactType":"{name}"}}"#);
            let entries: Vec<String> = types.iter().map(entry).collect();
            Answer::new(200, format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")))
        };
        let next = |page: Answer, query: &str| page.header("Link", format!("<{path}?{query}>; rel=\"next\""));
        match request.path.strip_prefix(&path) {
            Some("") => next(page(&["sbom", "other"]), "page=2"),
            Some("?page=2") => next(page(&["sbom"]), "page=3"),
            Some("?page=3") => next(page(&[]), "page=4"),
            _ => Answer::new(404, ""),
        }
    });
    let image = reference(&fake.address, "app");
    assert_eq!(client().referrers(&image, &subject, Some("sbom")).await.unwrap().manifests.len(), 2);
    assert_eq!(fake.requests().len(), 3, "{:#?}", fake.lines());
}

#[tokio::test]
async fn every_verb_can_be_spawned() {
    let (descriptor, bytes) = blob(8, 1000);
    let (fake, _) = resuming(|_| None, usize::MAX);
    let image = reference(&fake.address, "app");
    let work = tokio::spawn(async move {
        let client = client();
        let digest = &descriptor.digest;
        client.push_blob(&image, &descriptor, opener(&bytes), &[], |_| {}).await.unwrap();
        client.fetch_blob(&image, &descriptor, &mut tokio::io::sink(), |_| {}).await.unwrap_err();
        let _ = (client.resolve(&image).await, client.head(&image).await, client.has_blob(&image, digest).await);
        let _ = (client.list_tags(&image).await, client.referrers(&image, digest, None).await);
        client.push_manifest(&image, "m", b"{}").await.map(drop)
    });
    let _ = work.await.unwrap();
}
