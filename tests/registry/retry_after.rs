//! A registry that is busy says when to come back; that is when we come back, whatever we wanted of it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rbuild::{
    oci::{Digest, Reference},
    registry::{Client, Configuration},
};

use crate::{
    content::{blob, opener, quick, reference},
    fake::{Answer, Fake, Request},
};

/// What is done with a registry.
#[derive(Clone, Copy)]
enum Work {
    Pull,
    Look,
    Push,
    PushMounting,
    PushResuming,
    List,
}

/// Every request there is, by the work in which it comes up and how it begins.
const VERBS: [(Work, &str); 13] = [
    (Work::Pull, "GET /token"),
    (Work::Pull, "GET /v2/app/manifests/"),
    (Work::Pull, "GET /v2/app/blobs/sha256:"),
    (Work::Look, "HEAD /v2/app/manifests/"),
    (Work::Push, "HEAD /v2/app/blobs/"),
    (Work::Push, "POST /v2/app/blobs/uploads/"),
    (Work::PushMounting, "POST /v2/app/blobs/uploads/?mount="),
    (Work::Push, "PATCH /v2/app/blobs/uploads/"),
    (Work::PushResuming, "GET /v2/app/blobs/uploads/"),
    (Work::Push, "PUT /v2/app/blobs/uploads/"),
    (Work::Push, "PUT /v2/app/manifests/"),
    (Work::List, "GET /v2/app/tags/list"),
    (Work::List, "GET /v2/app/referrers/"),
];

/// Does what is asked of it, and asks for a token.
fn willing(request: &Request) -> Answer {
    let at = |status| Answer::new(status, "").header("Location", "/v2/app/blobs/uploads/1");
    let path = request.path.as_str();
    match request.method.as_str() {
        _ if path.starts_with("/token") => Answer::new(200, r#"{"token":"t"}"#),
        _ if request.header("authorization").is_empty() => {
            let challenge = format!(r#"Bearer realm="http://{}/token""#, request.header("host"));
            Answer::new(401, "").header("WWW-Authenticate", challenge)
        }
        "GET" if path.starts_with("/v2/app/blobs/uploads/") => at(204).header("Range", "0-0"),
        "GET" if path.starts_with("/v2/app/blobs/") => Answer::new(200, blob(1, 2 << 20).1),
        "GET" if path.starts_with("/v2/app/tags/") => Answer::new(200, r#"{"tags":["a"]}"#),
        "HEAD" if path.starts_with("/v2/app/blobs/") => Answer::new(404, ""),
        "GET" | "HEAD" => {
            let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
            let answer = Answer::new(200, index).header("Content-Type", "application/vnd.oci.image.index.v1+json");
            answer.header("Docker-Content-Digest", Digest::of(index.as_bytes()))
        }
        "POST" | "PATCH" => at(202),
        _ => Answer::new(201, ""),
    }
}

async fn work(work: Work, image: Reference) {
    let client = Client::new(Configuration::default(), quick());
    let (descriptor, bytes) = blob(1, 2 << 20);
    match work {
        Work::Pull => {
            client.resolve(&image).await.unwrap();
            client.fetch_blob(&image, &descriptor, &mut tokio::io::sink(), |_| {}).await.unwrap();
        }
        Work::Look => drop(client.head(&image).await.unwrap()),
        Work::Push | Work::PushMounting | Work::PushResuming => {
            let base = reference(image.registry(), "base");
            let bases: &[Reference] = if matches!(work, Work::PushMounting) { &[base] } else { &[] };
            client.push_blob(&image, &descriptor, opener(&bytes), bases, |_| {}).await.unwrap();
            client.push_manifest(&image, "m", b"{}").await.unwrap();
        }
        Work::List => {
            client.list_tags(&image).await.unwrap();
            client.referrers(&image, &descriptor.digest, None).await.unwrap();
        }
    }
}

/// The pause of our own would be a few milliseconds.
#[tokio::test]
async fn retry_after_is_waited_for_whatever_was_asked() {
    let cases = VERBS.map(|(what, verb)| async move {
        for status in [429, 503] {
            let (is_broken, is_busy) = (AtomicBool::new(matches!(what, Work::PushResuming)), AtomicBool::new(true));
            let fake = Fake::start(move |request| {
                // An upload that broke off is asked how far it came.
                if request.method == "PATCH" && !verb.starts_with("PATCH") && is_broken.swap(false, Relaxed) {
                    return Answer::new(500, "");
                }
                // A request for which a token is needed first was not the one that came at a bad time.
                let answer = willing(request);
                match request.line().starts_with(verb) && !is_challenge(request) && is_busy.swap(false, Relaxed) {
                    true => Answer::new(status, "").header("Retry-After", 1),
                    false => answer,
                }
            });
            work(what, reference(&fake.address, "app:latest")).await;
            let came: Vec<_> =
                fake.requests().iter().filter(|one| one.line().starts_with(verb) && !is_challenge(one)).map(|one| one.came).collect();
            assert!(came.len() >= 2, "{verb}: {:#?}", fake.lines());
            assert!(came[1] - came[0] >= Duration::from_secs(1), "{verb} after {:?}", came[1] - came[0]);
        }
    });
    futures_util::future::join_all(cases).await;
}

fn is_challenge(request: &Request) -> bool {
    request.header("authorization").is_empty() && !request.path.starts_with("/token")
}
