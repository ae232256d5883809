//! Downloads from a real server on loopback.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::context::testing::{Asked, Reply, Server};

struct Bench {
    cache: tempfile::TempDir,
    options: HttpOptions,
}

impl Bench {
    fn new() -> Self {
        let cache = tempfile::tempdir().unwrap();
        let options = HttpOptions { retry_pause_ms: 1, ..HttpOptions::new(cache.path().join("downloads")) };
        Self { cache, options }
    }

    fn fetch(&self, url: &str) -> Result<(String, Download), String> {
        self.fetch_with(url, None, &|_| None)
    }

    fn fetch_with(&self, url: &str, checksum: Option<&str>, secrets: Secrets<'_>) -> Result<(String, Download), String> {
        let checksum = checksum.map(|text| text.parse::<Checksum>().unwrap());
        let source = HttpSource::new(self.options.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let request = HttpRequest { url, checksum: checksum.as_ref(), secrets };
        let mut download = runtime.block_on(source.fetch(request)).map_err(|error| chain(&error))?;
        let text = std::io::read_to_string(&mut download.file).unwrap();
        assert_eq!(text.len() as u64, download.size_bytes);
        assert_eq!(Digest::of(text.as_bytes()), download.digest);
        Ok((text, download))
    }

    fn text(&self, url: &str) -> Result<String, String> {
        self.fetch(url).map(|(text, _)| text)
    }

    /// All bytes below the cache, names too.
    fn everything_kept(&self) -> String {
        let mut all = String::new();
        for entry in walkdir::WalkDir::new(self.cache.path()) {
            let entry = entry.unwrap();
            all += &entry.file_name().to_string_lossy();
            if entry.file_type().is_file() {
                all += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap());
            }
        }
        all
    }
}

/// The error and its causes, as a user would see them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn with_etag(asked: &Asked, etag: &str, body: &str) -> Reply {
    let status = if asked.header("if-none-match") == Some(etag) { 304 } else { 200 };
    Reply::new(status, if status == 304 { "" } else { body }).with("ETag", etag)
}

#[test]
fn an_unchanged_etag_costs_one_head() {
    let server = Server::start(|asked| with_etag(asked, "\"v1\"", "text").with("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"));
    let bench = Bench::new();
    let (text, download) = bench.fetch(&server.url("/foo")).unwrap();
    assert_eq!((text.as_str(), download.last_modified, download.from_cache), ("text", Some(1_445_412_480), false));
    let asked = server.take_asked();
    assert_eq!((asked.len(), asked[0].method.as_str()), (1, "GET"));
    assert!(asked[0].header("user-agent").unwrap().starts_with("buildkit/v0 rbuild/"));
    let (text, download) = bench.fetch(&server.url("/foo")).unwrap();
    assert_eq!((text.as_str(), download.last_modified, download.from_cache), ("text", Some(1_445_412_480), true));
    assert_eq!(server.take_log(), ["HEAD /foo"]);
}

#[test]
fn a_server_that_ignores_if_none_match_is_compared_by_hand() {
    let server = Server::start(|_| Reply::new(200, "text").with("ETag", "W/\"x\""));
    let bench = Bench::new();
    bench.text(&server.url("/foo")).unwrap();
    bench.text(&server.url("/foo")).unwrap();
    assert_eq!(server.take_log(), ["GET /foo", "HEAD /foo"]);
}

#[test]
fn changed_bytes_are_fetched_again() {
    let version = std::sync::Arc::new(AtomicU32::new(1));
    let now = version.clone();
    let server = Server::start(move |asked| {
        let version = now.load(Ordering::Relaxed);
        with_etag(asked, &format!("\"{version}\""), &format!("text {version}"))
    });
    let bench = Bench::new();
    assert_eq!(bench.text(&server.url("/foo")).unwrap(), "text 1");
    version.store(2, Ordering::Relaxed);
    assert_eq!(bench.text(&server.url("/foo")).unwrap(), "text 2");
    assert_eq!(server.take_log(), ["GET /foo", "HEAD /foo", "GET /foo"]);
}

#[test]
fn last_modified_counts_only_when_it_is_strong() {
    let old = "Wed, 21 Oct 2015 07:28:00 GMT";
    let cases = [(old, "Wed, 21 Oct 2015 07:28:30 GMT", "GET /x"), (old, "Wed, 21 Oct 2015 07:29:00 GMT", "HEAD /x")];
    for (modified, date, last) in cases {
        let server = Server::start(move |_| Reply::new(200, "text").with("Last-Modified", modified).with("Date", date));
        let bench = Bench::new();
        bench.text(&server.url("/x")).unwrap();
        bench.text(&server.url("/x")).unwrap();
        assert_eq!(server.take_log().last().unwrap(), last, "sent at {date}");
    }
}

#[test]
fn without_validators_everything_is_fetched_again() {
    let server = Server::start(|_| Reply::new(200, "text"));
    let bench = Bench::new();
    let (_, download) = bench.fetch(&server.url("/x")).unwrap();
    assert_eq!(download.last_modified, None);
    bench.text(&server.url("/x")).unwrap();
    assert_eq!(server.take_log(), ["GET /x", "GET /x"]);
}

/// Security list 12.
#[test]
fn a_stated_checksum_is_held_to_and_spares_the_network() {
    let server = Server::start(|_| Reply::new(200, "text"));
    let bench = Bench::new();
    let right = Digest::of(b"text").to_string();
    let wrong = Digest::of(b"other").to_string();
    let sha512: Checksum = {
        let any: Checksum = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        let mut hasher = any.hasher();
        hasher.update(b"text");
        hasher.finish()
    };
    let fetch = |checksum: &str| bench.fetch_with(&server.url("/x"), Some(checksum), &|_| None).map(|(text, _)| text);
    assert_eq!(fetch(&wrong).unwrap_err(), format!("digest mismatch {right}: {wrong}"));
    assert_eq!(fetch(&right).unwrap(), "text");
    assert_eq!(server.take_log(), ["GET /x", "GET /x"]);
    assert_eq!(fetch(&right).unwrap(), "text");
    assert_eq!(fetch(sha512.as_str()).unwrap(), "text");
    assert_eq!(server.take_log(), [""; 0]);
    assert_eq!(fetch(&wrong).unwrap_err(), format!("digest mismatch {right}: {wrong}"));
}

#[test]
fn bytes_damaged_in_the_cache_are_not_used() {
    let server = Server::start(|asked| with_etag(asked, "\"v1\"", "text"));
    let bench = Bench::new();
    bench.text(&server.url("/x")).unwrap();
    std::fs::write(bench.options.cache_dir.join(Digest::of(b"text").hex()), "evil").unwrap();
    assert_eq!(bench.text(&server.url("/x")).unwrap(), "text");
    assert_eq!(bench.text(&server.url("/x")).unwrap(), "text");
    assert_eq!(server.take_log(), ["GET /x", "GET /x", "HEAD /x"]);
}

#[test]
fn offline_asks_nobody() {
    let server = Server::start(|_| Reply::new(200, "text"));
    let mut bench = Bench::new();
    bench.text(&server.url("/x")).unwrap();
    server.take_log();
    bench.options.offline = true;
    assert_eq!(bench.text(&server.url("/x")).unwrap(), "text");
    assert!(bench.text(&server.url("/y")).unwrap_err().ends_with("/y offline: it is not in the cache"));
    assert_eq!(server.take_log(), [""; 0]);
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke_off() {
    let server = Server::start(|asked| {
        let whole = "0123456789";
        match asked.header("range") {
            None => Reply { cut_after: Some(4), ..Reply::new(200, whole).with("ETag", "\"v\"") },
            Some(range) => {
                let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
                assert_eq!(asked.header("if-range"), Some("\"v\""));
                let reply = Reply::new(206, &whole[from..]).with("Content-Range", format!("bytes {from}-9/10"));
                Reply { cut_after: (from < 8).then_some(3), ..reply }
            }
        }
    });
    let bench = Bench::new();
    assert_eq!(bench.text(&server.url("/x")).unwrap(), "0123456789");
    let ranges: Vec<_> = server.take_asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=4-".into()), Some("bytes=7-".into())]);
}

#[test]
fn a_transfer_without_strong_etag_begins_again() {
    let tries = AtomicU32::new(0);
    let server = Server::start(move |asked| {
        assert_eq!(asked.header("range"), None);
        let cut_after = (tries.fetch_add(1, Ordering::Relaxed) < 2).then_some(2);
        Reply { cut_after, ..Reply::new(200, "text").with("ETag", "W/\"v\"") }
    });
    assert_eq!(Bench::new().text(&server.url("/x")).unwrap(), "text");
}

#[test]
fn passing_failures_are_retried_and_lasting_ones_are_not() {
    for (status, requests) in [(503, 5), (429, 5), (404, 1), (403, 1), (410, 1)] {
        let server = Server::start(move |_| Reply::new(status, "no"));
        let error = Bench::new().text(&server.url("/x")).unwrap_err();
        assert_eq!(error, format!("failed to fetch {}: invalid response status {status}", server.url("/x")));
        assert_eq!(server.take_log().len(), requests, "{status}");
    }
}

#[test]
fn a_body_without_end_is_bounded() {
    let server = Server::start(|_| Reply::new(200, vec![b'x'; 100]));
    let mut bench = Bench::new();
    bench.options.max_size_bytes = 99;
    assert!(bench.text(&server.url("/x")).unwrap_err().ends_with("/x is larger than 99 bytes"));
    bench.options.max_size_bytes = 100;
    assert!(bench.text(&server.url("/x")).is_ok());
}

#[test]
fn bytes_are_never_decoded_on_the_way() {
    let server = Server::start(|asked| {
        assert_eq!(asked.header("accept-encoding"), None);
        Reply::new(200, "not gzip").with("Content-Encoding", "gzip")
    });
    assert_eq!(Bench::new().text(&server.url("/x")).unwrap(), "not gzip");
}

/// Security list 12.
#[test]
fn redirects_lead_to_http_only_and_never_to_credential_servers() {
    for (target, cause) in [
        ("file:///etc/passwd", "status 302"),
        ("ftp://127.0.0.1/x", "http"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://[::ffff:a9fe:a9fe]/", "link-local"),
    ] {
        let server = Server::start(move |_| Reply::new(302, "").with("Location", target));
        let error = Bench::new().text(&server.url("/x")).unwrap_err();
        assert!(error.contains(cause), "{target}: {error}");
        assert_eq!(server.take_log(), ["GET /x"], "{target} is not retried");
    }
    let server = Server::start(|asked| match asked.target.as_str() {
        "/good" => Reply::new(200, "there"),
        "/x" => Reply::new(301, "").with("Location", "/good"),
        _ => Reply::new(301, "").with("Location", "/loop"),
    });
    assert_eq!(Bench::new().text(&server.url("/x")).unwrap(), "there");
    assert!(Bench::new().text(&server.url("/loop")).unwrap_err().contains("too many redirects"));
    assert!(Bench::new().text("http://169.254.169.254/x").unwrap_err().contains("link-local"));
    assert!(Bench::new().text("file:///etc/passwd").unwrap_err().contains("unsupported scheme file"));
}

#[test]
fn secrets_authorize_their_host_only() {
    let other = Server::start(|asked| Reply::new(200, asked.header("authorization").unwrap_or("none")));
    let elsewhere = other.url("/there");
    let server = Server::start(move |asked| match asked.target.as_str() {
        "/away" => Reply::new(302, "").with("Location", elsewhere.clone()),
        _ => Reply::new(200, asked.header("authorization").unwrap_or("none")),
    });
    let host = server.host();
    let secret = |id: &str, value: &str| {
        let (id, value) = (id.to_owned(), value.to_owned());
        move |asked: &str| (asked == id).then(|| value.clone())
    };
    let token = secret(&format!("HTTP_AUTH_TOKEN_{host}"), "abc\n");
    let by_name = secret("HTTP_AUTH_HEADER_127.0.0.1", "Basic xyz");
    let fetch = |target: &str, secrets: Secrets<'_>| Bench::new().fetch_with(&server.url(target), None, secrets).unwrap().0;
    assert_eq!(fetch("/x", &|_| None), "none");
    assert_eq!(fetch("/x", &token), "Bearer abc");
    assert_eq!(fetch("/x", &by_name), "Basic xyz");
    assert_eq!(fetch("/away", &token), "none");
    let bad = secret(&format!("HTTP_AUTH_TOKEN_{host}"), "a\nb");
    let error = Bench::new().fetch_with(&server.url("/x"), None, &bad).unwrap_err();
    assert!(error.contains("cannot be sent") && !error.contains("a\nb"), "{error}");
}

/// Security list 29.
#[test]
fn credentials_in_a_url_are_sent_and_neither_shown_nor_kept() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Basic dXNlcjpodW50ZXIy") => with_etag(asked, "\"v\"", "text"),
        _ => Reply::new(401, ""),
    });
    let bench = Bench::new();
    let url = |user: &str, target: &str| server.url(target).replace("http://", &format!("http://{user}@"));
    assert_eq!(bench.text(&url("user:hunter2", "/x")).unwrap(), "text");
    assert_eq!(bench.text(&url("user:hunter2", "/x")).unwrap(), "text");
    let errors = [
        bench.text(&url("user:hunter3", "/x?token=hunter4")).unwrap_err(),
        bench.text("http://user:hunter5@127.0.0.1:1/x").unwrap_err(),
        bench.text("http://user:hunter6@169.254.169.254/x").unwrap_err(),
        bench.text("ftp://user:hunter7@127.0.0.1/x").unwrap_err(),
        bench.text("http://user:hunter8@[/x").unwrap_err(),
    ];
    for text in errors.iter().chain([&bench.everything_kept()]) {
        assert!(!text.contains("hunter") && !text.contains("aHVudGVy"), "{text}");
    }
}

/// Security list 12: the name never comes from the server, and never is a path.
#[test]
fn names_come_from_the_url_s_path() {
    let cases = [
        ("http://h/a/foo.tar", "foo.tar"),
        ("http://h/a/foo/", "foo"),
        ("http://h/", UNNAMED),
        ("http://h", UNNAMED),
        ("http://h/x?y=/z#/w", "x"),
        ("http://h/a%20b", "a b"),
        ("http://h/..%2f..%2fH", "H"),
        ("http://h/a/%2e%2e", UNNAMED),
        ("http://h/%2e%2e%2f", UNNAMED),
        ("http://h/a%00b", UNNAMED),
        ("http://h/%zz", "%zz"),
        ("not a url", UNNAMED),
    ];
    for (url, name) in cases {
        assert_eq!(file_name(url), name, "{url}");
    }
    let server = Server::start(|_| Reply::new(200, "text").with("Content-Disposition", "attachment; filename=\"../../H\""));
    let bench = Bench::new();
    bench.text(&server.url("/x")).unwrap();
    let names: Vec<_> = std::fs::read_dir(&bench.options.cache_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| Path::new(name).file_stem().unwrap().len() == 64), "{names:?}");
}

#[test]
fn failed_transfers_leave_nothing_behind() {
    let server = Server::start(|_| Reply { cut_after: Some(2), ..Reply::new(200, "text") });
    let bench = Bench::new();
    assert!(bench.text(&server.url("/x")).is_err());
    assert_eq!(std::fs::read_dir(&bench.options.cache_dir).unwrap().count(), 0);
}
