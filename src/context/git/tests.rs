//! Trees from real git servers on loopback: `git http-backend` behind a small web server, and `git daemon`.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::{Child, Command},
};

use super::*;
use crate::context::testing::{Asked, Reply, Server};

mod hostile;

const TIME: i64 = 1_234_567_890;

/// A place with repositories, caches and a canary.
struct Bench {
    top: tempfile::TempDir,
    options: GitOptions,
}

impl Bench {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("H"), "canary").unwrap();
        let environment = std::env::var_os("PATH").map(|path| ("PATH".into(), path)).into_iter().collect();
        let options = GitOptions::new(top.path().join("cache"), top.path().join("work"), environment);
        Self { top, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// A repository with one commit of `files`.
    fn repository(&self, name: &str, files: &[(&str, &str)]) -> Repository {
        self.repository_in(name, "sha1", files)
    }

    fn repository_in(&self, name: &str, format: &str, files: &[(&str, &str)]) -> Repository {
        let path = self.path("served").join(name);
        std::fs::create_dir_all(&path).unwrap();
        let repository = Repository { path };
        repository.git(&["init", "--quiet", "--initial-branch=main", &format!("--object-format={format}")]);
        repository.commit(files);
        repository
    }

    /// Serves everything below `served` over http; `private/` wants a token.
    fn http(&self) -> Server {
        let root = self.path("served");
        Server::start(move |asked| {
            let allowed = Some("basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==");
            match asked.target.starts_with("/private") && asked.header("authorization") != allowed {
                true => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
                false => http_backend(&root, asked),
            }
        })
    }

    fn checkout(&self, remote: &str, reference: Option<&str>) -> Result<GitCheckout, String> {
        self.checkout_with(GitRequest { reference, ..request(remote) })
    }

    fn checkout_with(&self, request: GitRequest<'_>) -> Result<GitCheckout, String> {
        let result = runtime().block_on(GitSource::new(self.options.clone()).checkout(request));
        assert_eq!(std::fs::read_to_string(self.path("H")).unwrap(), "canary");
        assert!(!self.path("pwned").exists(), "foreign code was run");
        result.map_err(|error| error.to_string())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn request(remote: &str) -> GitRequest<'_> {
    GitRequest {
        remote,
        reference: None,
        subdirectory: None,
        checksum: None,
        keep_git_dir: false,
        submodules: true,
        keep_checkout_times: false,
        secrets: &|_| None,
    }
}

struct Repository {
    path: PathBuf,
}

impl Repository {
    fn git(&self, arguments: &[&str]) -> String {
        git_in(&self.path, arguments)
    }

    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.path.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.git(&["add", "--all", "--force", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "x"]);
        self.head()
    }

    fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }
}

fn git_in(path: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(path).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_COMMITTER_DATE", format!("{TIME} +0000")).env("GIT_AUTHOR_DATE", format!("{TIME} +0000"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// One request through git's own CGI program.
fn http_backend(root: &Path, asked: &Asked) -> Reply {
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &asked.method);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("CONTENT_LENGTH", asked.body.len().to_string());
    for (header, variable) in
        [("content-type", "CONTENT_TYPE"), ("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "GIT_PROTOCOL")]
    {
        command.env(variable, asked.header(header).unwrap_or_default());
    }
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = asked.body.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().unwrap().stdout;
    let _ = writer.join().unwrap();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("CGI headers");
    let mut reply = Reply::new(200, &output[end + 4..]);
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        match line.split_once(": ").unwrap() {
            ("Status", status) => reply.status = status[..3].parse().unwrap(),
            (name, value) => reply = reply.with(name, value),
        }
    }
    reply
}

/// `git daemon`, killed when dropped.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(root: &Path) -> Self {
        let programs = git_in(Path::new("/"), &["--exec-path"]);
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new(Path::new(&programs).join("git-daemon"));
            command.args(["--listen=127.0.0.1", &format!("--port={port}"), "--export-all", "--reuseaddr"]);
            command.arg(format!("--base-path={}", root.display())).stderr(std::process::Stdio::null());
            command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
            let mut child = command.spawn().unwrap();
            // Ready when it answers; gone when somebody else took the port.
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, port };
                }
                std::thread::yield_now();
            }
        }
        panic!("git daemon does not start");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listing(path: &Path) -> Vec<String> {
    let walked = walkdir::WalkDir::new(path).min_depth(1).sort_by_file_name().into_iter();
    let shown = walked.map(|entry| entry.unwrap()).filter(|entry| !entry.file_type().is_dir());
    shown.map(|entry| entry.path().strip_prefix(path).unwrap().display().to_string()).collect()
}

fn read(checkout: &GitCheckout, path: &str) -> String {
    std::fs::read_to_string(checkout.path.join(path)).unwrap()
}

#[test]
fn branches_tags_and_commits_over_http_in_both_formats() {
    for format in ["sha1", "sha256"] {
        let bench = Bench::new();
        let repository = bench.repository_in("r", format, &[("f", "first")]);
        repository.git(&["branch", "first"]);
        repository.git(&["tag", "light"]);
        repository.git(&["tag", "-a", "-m", "m", "heavy"]);
        let first = repository.head();
        let second = repository.commit(&[("f", "second"), ("d/g", "g")]);
        let server = bench.http();
        let url = server.url("/r/.git");
        for (reference, commit, text) in [
            (None, &second, "second"),
            (Some("main"), &second, "second"),
            (Some("refs/heads/main"), &second, "second"),
            (Some("first"), &first, "first"),
            (Some("light"), &first, "first"),
            (Some("heavy"), &first, "first"),
            (Some("refs/tags/heavy"), &first, "first"),
            (Some(first.as_str()), &first, "first"),
        ] {
            let checkout = bench.checkout(&url, reference).unwrap();
            assert_eq!((&checkout.commit, read(&checkout, "f").as_str()), (commit, text), "{format} {reference:?}");
            assert_eq!(checkout.commit_time, TIME);
        }
        let checkout = bench.checkout(&url, None).unwrap();
        assert_eq!(listing(&checkout.path), ["d/g", "f"]);
        assert_eq!(bench.checkout(&url, Some("missing")).unwrap_err(), "repository does not contain ref missing");
        let absent = "1".repeat(first.len());
        assert!(bench.checkout(&url, Some(&absent)).is_err());
        drop(checkout);
        assert_eq!(std::fs::read_dir(bench.path("work")).unwrap().count(), 0, "nothing is left behind");
    }
}

#[test]
fn a_fetched_commit_is_not_fetched_again() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("f", "text")]);
    let server = bench.http();
    let url = server.url("/r/.git");
    bench.checkout(&url, None).unwrap();
    server.take_log();
    bench.checkout(&url, None).unwrap();
    // Refs are asked for; objects are not.
    let bodies: Vec<_> = server.take_asked().into_iter().map(|asked| String::from_utf8_lossy(&asked.body).into_owned()).collect();
    assert!(bodies.iter().any(|body| body.contains("command=ls-refs")) && !bodies.iter().any(|body| body.contains("command=fetch")));
    bench.checkout(&url, Some(&repository.head())).unwrap();
    assert_eq!(server.take_log(), [""; 0], "a commit needs nobody to be asked");
}

#[test]
fn offline_uses_what_was_seen_last() {
    let mut bench = Bench::new();
    let repository = bench.repository("r", &[("f", "old")]);
    repository.git(&["tag", "-a", "-m", "m", "v1"]);
    let server = bench.http();
    let url = server.url("/r/.git");
    bench.checkout(&url, None).unwrap();
    bench.checkout(&url, Some("v1")).unwrap();
    repository.commit(&[("f", "new")]);
    server.take_log();
    bench.options.offline = true;
    assert_eq!(read(&bench.checkout(&url, None).unwrap(), "f"), "old");
    assert_eq!(read(&bench.checkout(&url, Some("v1")).unwrap(), "f"), "old");
    assert!(bench.checkout(&url, Some("other")).unwrap_err().ends_with("offline: other is not in the cache"));
    assert!(bench.checkout(&url, Some(&repository.head())).unwrap_err().contains("is not in the cache"));
    assert_eq!(server.take_log(), [""; 0]);
    bench.options.offline = false;
    assert_eq!(read(&bench.checkout(&url, None).unwrap(), "f"), "new");
}

#[test]
fn the_git_protocol_works_too() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("f", "text")]);
    repository.git(&["tag", "v1"]);
    let old = repository.head();
    repository.commit(&[("f", "new")]);
    let daemon = Daemon::start(&bench.path("served"));
    let url = format!("git://127.0.0.1:{}/r/.git", daemon.port);
    assert_eq!(read(&bench.checkout(&url, None).unwrap(), "f"), "new");
    assert_eq!(read(&bench.checkout(&url, Some("v1")).unwrap(), "f"), "text");
    assert_eq!(read(&bench.checkout(&url, Some(&old)).unwrap(), "f"), "text");
}

#[test]
fn a_dumb_server_without_shallow_fetches_is_cloned_whole() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("f", "old")]);
    let old = repository.head();
    repository.commit(&[("f", "new")]);
    repository.git(&["update-server-info"]);
    let root = bench.path("served");
    let server = Server::start(move |asked| {
        let path = asked.target.split('?').next().unwrap().trim_start_matches('/').to_owned();
        std::fs::read(root.join(path)).map_or_else(|_| Reply::new(404, ""), |body| Reply::new(200, body))
    });
    let url = server.url("/r/.git");
    assert_eq!(read(&bench.checkout(&url, Some("main")).unwrap(), "f"), "new");
    assert_eq!(read(&bench.checkout(&url, Some(&old)).unwrap(), "f"), "old");
}

#[test]
fn checksums_are_commits_or_their_beginnings() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("f", "text")]);
    repository.git(&["tag", "-a", "-m", "m", "v1"]);
    let head = repository.head();
    let server = bench.http();
    let url = server.url("/r/.git");
    let checkout = |reference, checksum| bench.checkout_with(GitRequest { reference, checksum: Some(checksum), ..request(&url) });
    for checksum in [head.as_str(), &head[..7]] {
        assert_eq!(checkout(Some("v1"), checksum).unwrap().commit, head);
        assert_eq!(checkout(None, checksum).unwrap().commit, head);
    }
    let wrong = "0".repeat(40);
    assert_eq!(checkout(Some("v1"), &wrong).unwrap_err(), format!("expected checksum to match {wrong}, got {head}"));
    assert_eq!(checkout(None, "abc").unwrap_err(), "invalid checksum abc for Git source, expected hex commit hash");
}

#[test]
fn files_look_the_same_whoever_fetches_them() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("plain", "p"), ("d/tool", "t")]);
    std::fs::set_permissions(repository.path.join("d/tool"), std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/etc/passwd", repository.path.join("link")).unwrap();
    repository.commit(&[(".gitattributes", "plain text eol=crlf\n")]);
    let server = bench.http();
    let checkout = bench.checkout(&server.url("/r/.git"), None).unwrap();
    for (path, mode) in [("plain", 0o644), ("d/tool", 0o755), ("d", 0o755), ("", 0o755), ("link", 0o777)] {
        let metadata = std::fs::symlink_metadata(checkout.path.join(path)).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (mode, TIME, 0), "{path}");
    }
    assert_eq!(std::fs::read_link(checkout.path.join("link")).unwrap(), Path::new("/etc/passwd"));
}

/// The forms of a repository's URL, through the grammar, to the files.
#[test]
fn fragments_and_queries_lead_to_the_same_files() {
    let bench = Bench::new();
    let repository = bench.repository("r.git", &[("f", "first"), ("sub/f", "sub")]);
    repository.git(&["tag", "v1"]);
    let first = repository.head();
    repository.commit(&[("f", "second")]);
    let root = bench.path("served");
    std::fs::rename(root.join("r.git/.git"), root.join("bare")).unwrap();
    std::fs::remove_dir_all(root.join("r.git")).unwrap();
    std::fs::rename(root.join("bare"), root.join("r.git")).unwrap();
    let server = bench.http();
    let wrong = "0".repeat(40);
    for (form, expected) in [
        ("".to_owned(), "second"),
        ("#main".to_owned(), "second"),
        ("#v1".to_owned(), "first"),
        ("#v1:sub".to_owned(), "sub"),
        (format!("#{first}"), "first"),
        ("?ref=v1".to_owned(), "first"),
        ("?tag=v1".to_owned(), "first"),
        ("?branch=main".to_owned(), "second"),
        ("?branch=main&subdir=/sub".to_owned(), "sub"),
        (format!("?tag=v1&commit={}", &first[..8]), "first"),
        (format!("?checksum={first}&fetch-by-commit"), "first"),
        (format!("?checksum={first}"), "expected checksum to match"),
        (format!("?tag=v1&checksum={wrong}"), "expected checksum to match"),
        ("?branch=v1".to_owned(), "repository does not contain ref"),
        ("?tag=main".to_owned(), "repository does not contain ref"),
    ] {
        let url = server.url(&format!("/r.git{form}"));
        let reference = crate::dockerfile::git_reference::parse(&url).unwrap().unwrap();
        match bench.checkout_with(GitRequest::new(&reference, &|_| None)) {
            Ok(checkout) => assert_eq!(read(&checkout, "f"), expected, "{form}"),
            Err(error) => assert!(error.starts_with(expected), "{form}: {error}"),
        }
    }
    let reference = crate::dockerfile::git_reference::parse(&server.url("/r.git?mtime=checkout")).unwrap().unwrap();
    let checkout = bench.checkout_with(GitRequest::new(&reference, &|_| None)).unwrap();
    assert!(std::fs::metadata(checkout.path.join("f")).unwrap().mtime() > TIME);
}

#[test]
fn a_kept_git_directory_works_and_holds_no_traces() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("f", "text"), ("d/g", "g")]);
    repository.git(&["tag", "-a", "-m", "m", "v1"]);
    let server = bench.http();
    let url = server.url("/r/.git");
    let with_user = url.replace("http://", "http://me:hunter2@");
    let kept = |reference| bench.checkout_with(GitRequest { reference, keep_git_dir: true, ..request(&with_user) }).unwrap();
    let checkout = kept(Some("v1"));
    let inside = |arguments: &[&str]| git_in(&checkout.path, arguments);
    assert_eq!(inside(&["status", "--porcelain"]), "");
    assert_eq!(inside(&["describe"]), "v1");
    assert_eq!(inside(&["remote", "get-url", "origin"]), url);
    assert_eq!(inside(&["rev-parse", "HEAD"]), repository.head());
    inside(&["fsck", "--strict"]);
    let again = kept(Some("v1"));
    assert_eq!(bytes(&checkout.path), bytes(&again.path), "the same commit gives the same bytes");
    let everything = format!("{:?}", bytes(bench.top.path()));
    assert!(!everything.contains("hunter2") && !everything.contains("bWU6aHVudGVyMg"), "credentials on disk");
    let on_branch = kept(None);
    assert_eq!(git_in(&on_branch.path, &["status", "--porcelain"]), "");
}

/// All files below a path, with their content as text.
fn bytes(path: &Path) -> Vec<(String, String)> {
    let text = |name: String| {
        let bytes = std::fs::read(path.join(&name)).unwrap_or_default();
        (name, String::from_utf8_lossy(&bytes).into_owned())
    };
    // `git status` in the test refreshes the index of the checkout it looks at.
    listing(path).into_iter().filter(|name| !name.ends_with(".git/index")).map(text).collect()
}

#[test]
fn submodules_come_along_with_relative_urls_and_their_own() {
    let bench = Bench::new();
    bench.repository("inner", &[("deep", "deep")]);
    let middle = bench.repository("middle", &[("m", "m")]);
    let outer = bench.repository("outer", &[("o", "o")]);
    let server = bench.http();
    middle.git(&["submodule", "--quiet", "add", "--", &server.url("/inner/.git"), "inner"]);
    middle.commit(&[]);
    outer.git(&["submodule", "--quiet", "add", "--", &server.url("/middle/.git"), "middle"]);
    let modules = outer.path.join(".gitmodules");
    let text = std::fs::read_to_string(&modules).unwrap().replace(&server.url(""), "../..");
    std::fs::write(&modules, text).unwrap();
    outer.commit(&[]);
    let url = server.url("/outer/.git");
    let checkout = bench.checkout(&url, None).unwrap();
    assert_eq!(listing(&checkout.path), [".gitmodules", "middle/.gitmodules", "middle/inner/deep", "middle/m", "o"]);
    let without = bench.checkout_with(GitRequest { submodules: false, ..request(&url) }).unwrap();
    assert_eq!(listing(&without.path), [".gitmodules", "o"]);
    let kept = bench.checkout_with(GitRequest { keep_git_dir: true, ..request(&url) }).unwrap();
    assert_eq!(git_in(&kept.path, &["status", "--porcelain"]), "");
}

#[test]
fn secrets_authorize_and_are_neither_shown_nor_kept() {
    let bench = Bench::new();
    bench.repository("private/r", &[("f", "text")]);
    let server = bench.http();
    let url = server.url("/private/r/.git");
    let secrets = |token: &'static str| move |id: &str| (id == "GIT_AUTH_TOKEN").then(|| token.to_owned());
    let (good, bad) = (secrets("hunter2"), secrets("hunter3"));
    let checkout = bench.checkout_with(GitRequest { secrets: &good, keep_git_dir: true, ..request(&url) }).unwrap();
    assert_eq!(read(&checkout, "f"), "text");
    assert!(server.take_asked().iter().any(|asked| asked.header("authorization").is_some()));
    let in_url = url.replace("http://", "http://x-access-token:hunter2@");
    assert_eq!(read(&bench.checkout(&in_url, None).unwrap(), "f"), "text");
    // Security list 29.
    let wrong_url = url.replace("http://", "http://x-access-token:hunter3@");
    let mut texts = vec![
        bench.checkout_with(GitRequest { secrets: &bad, ..request(&url) }).unwrap_err(),
        bench.checkout(&wrong_url, None).unwrap_err(),
        bench.checkout(&url, None).unwrap_err(),
        bench.checkout(&wrong_url.replace("http:", "ext:"), None).unwrap_err(),
    ];
    texts.push(format!("{:?}", bytes(bench.top.path())));
    for text in texts {
        assert!(!text.contains("hunter") && !text.contains("eC1hY2Nlc3MtdG9rZW46"), "{text}");
    }
}

#[test]
fn many_builds_share_one_cache() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("f", "0")]);
    let commits: Vec<String> = (1..4).map(|number| repository.commit(&[("f", &number.to_string())])).collect();
    let server = bench.http();
    let url = server.url("/r/.git");
    std::thread::scope(|scope| {
        for round in 0..6 {
            let (bench, url, commits) = (&bench, &url, &commits);
            scope.spawn(move || {
                let number = round % commits.len();
                let checkout = bench.checkout(url, Some(&commits[number])).unwrap();
                assert_eq!(read(&checkout, "f"), (number + 1).to_string());
            });
        }
    });
}

#[test]
fn a_call_that_hangs_is_ended_with_its_helpers() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/r.git", listener.local_addr().unwrap());
    bench.options.timeout_seconds = 1;
    let error = bench.checkout(&url, None).unwrap_err();
    assert_eq!(error, format!("git ls-remote for {url} took more than 1 s"));
}

#[test]
fn a_missing_git_is_named() {
    let mut bench = Bench::new();
    bench.options.program = "/nonexistent/git".into();
    let error = bench.checkout("http://127.0.0.1:1/r.git", None).unwrap_err();
    assert_eq!(error, "cannot run git, which contexts and ADD from git need");
}

#[test]
fn ssh_uses_the_agent_and_no_configuration() {
    let mut bench = Bench::new();
    // An ssh that tells what it was asked; the server's side is not what is tested.
    let tool = bench.path("bin/ssh");
    std::fs::create_dir_all(tool.parent().unwrap()).unwrap();
    std::fs::write(
        &tool,
        format!(
            "#!/bin/sh\nfor word; do printf '%s|' \"$word\"; done > {0}/asked\nprintf %s \"$SSH_AUTH_SOCK\" > {0}/agent\n",
            bench.top.path().display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::join_paths([tool.parent().unwrap(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    bench.options.environment = vec![("PATH".into(), path)];
    bench.options.ssh_agent = Some("/run/agent.sock".into());
    bench.options.known_hosts = Some("/x/it's known".into());
    assert!(bench.checkout("git@example.com:a/b.git", None).is_err());
    let asked = std::fs::read_to_string(bench.path("asked")).unwrap();
    assert!(asked.starts_with("-F|/dev/null|-o|BatchMode=yes|-o|IdentityFile=none|"), "{asked}");
    assert!(asked.contains("|StrictHostKeyChecking=yes|-o|UserKnownHostsFile=\"/x/it's known\"|"), "{asked}");
    assert!(asked.ends_with("git@example.com|git-upload-pack 'a/b.git'|"), "{asked}");
    assert_eq!(std::fs::read_to_string(bench.path("agent")).unwrap(), "/run/agent.sock");
}

#[test]
fn a_work_tree_tells_its_commit_time() {
    let bench = Bench::new();
    let pwned = bench.path("pwned");
    let repository = bench.repository("r", &[("d/f", "text")]);
    repository.git(&["config", "core.fsmonitor", &format!("touch {}", pwned.display())]);
    repository.git(&["config", "core.pager", &format!("touch {}", pwned.display())]);
    let time = |path: &Path| runtime().block_on(work_tree_commit_time(path, &bench.options.environment));
    assert_eq!(time(&repository.path.join("d")), Some(TIME));
    assert_eq!(time(bench.top.path()), None);
    assert!(!pwned.exists());
}
