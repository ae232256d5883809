//! ADD from the web and from git, and contexts that are no directory: a web server and a git server on loopback, standard
//! input. The results are seen as files (`-o type=local`) and as what the server was asked.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Bed, Outcome, Page, Web, digest, skip, tool};

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const DATE_SECONDS: i64 = 1_445_412_480;

/// Builds into `out/tree`, emptied first.
fn tree(bed: &Bed, arguments: &[&str]) -> Outcome {
    let _ = fs::remove_dir_all(bed.path("out/tree"));
    bed.run(&[&["build", "--progress", "plain", "-o", "type=local,dest=../out/tree"], arguments].concat())
}

fn text(bed: &Bed, name: &str) -> String {
    let path = bed.path("out/tree").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn with_stdin(bed: &Bed, arguments: &[&str], input: &[u8]) -> Outcome {
    let _ = fs::remove_dir_all(bed.path("out/tree"));
    let path = bed.path("stdin");
    fs::write(&path, input).unwrap();
    let mut command = bed.command(&[&["build", "--progress", "plain", "-o", "type=local,dest=../out/tree"], arguments].concat());
    command.stdin(Stdio::from(fs::File::open(path).unwrap()));
    Outcome::of(command)
}

/// `repositories/app.git` with two commits: `v1` (tagged) and `main`; `sub/` has a Dockerfile too.
fn repository(bed: &Bed) -> PathBuf {
    let top = bed.path("repositories");
    let work = bed.path("work");
    fs::create_dir_all(&top).unwrap();
    let git = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]).arg("-C").arg(folder);
        command.args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", bed.path("home"));
        command.env("GIT_AUTHOR_DATE", "@1500000000 +0000").env("GIT_COMMITTER_DATE", "@1500000000 +0000");
        tool(&mut command).trim().to_owned()
    };
    fs::create_dir_all(work.join("sub")).unwrap();
    git(&work, &["init", "--quiet"]);
    fs::write(work.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    fs::write(work.join("sub/Dockerfile"), "FROM scratch\nCOPY inner /inner-of-sub\n").unwrap();
    fs::write(work.join("sub/inner"), "inner").unwrap();
    fs::write(work.join("version"), "one").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "one"]);
    git(&work, &["tag", "v1"]);
    fs::write(work.join("version"), "two").unwrap();
    git(&work, &["commit", "--quiet", "-am", "two"]);
    git(&top, &["clone", "--quiet", "--bare", work.to_str().unwrap(), "app.git"]);
    top
}

fn commit(bed: &Bed, repository: &str, name: &str) -> String {
    let repository = bed.path("repositories").join(repository);
    tool(Command::new("git").arg("-c").arg("safe.directory=*").arg("-C").arg(repository).args(["rev-parse", name])).trim().to_owned()
}

#[test]
fn an_added_url_is_fetched_once_and_asked_about_after() {
    let (bed, web) = (Bed::caller(), Web::start());
    let page = Page::of("one").header("ETag", "\"1\"").header("Last-Modified", DATE);
    web.page("/dir/file.txt", page);
    bed.dockerfile(&format!("FROM scratch\nADD {} /d/\nADD {} /named\n", web.url("/dir/file.txt?x=y"), web.url("/dir/file.txt?x=y")));
    tree(&bed, &["."]).succeeds();
    assert_eq!((text(&bed, "d/file.txt"), text(&bed, "named")), ("one".into(), "one".into()));
    let metadata = fs::metadata(bed.path("out/tree/named")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o600, DATE_SECONDS));
    assert_eq!(web.take_seen().iter().filter(|line| line.starts_with("GET")).count(), 1);
    tree(&bed, &["."]).succeeds().says("CACHED");
    assert_eq!(web.take_seen(), ["HEAD /dir/file.txt"]);
    web.page("/dir/file.txt", Page::of("two").header("ETag", "\"2\""));
    tree(&bed, &["."]).succeeds();
    assert_eq!(text(&bed, "named"), "two");
    assert_eq!(fs::metadata(bed.path("out/tree/named")).unwrap().mtime(), 0, "no Last-Modified");
}

#[test]
fn a_checksum_decides_and_needs_no_server_the_second_time() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.page("/f", Page::of("right"));
    let dockerfile = |sum: &str| format!("FROM scratch\nADD --checksum={sum} {} /f\n", web.url("/f"));
    bed.dockerfile(&dockerfile(&digest(b"wrong")));
    tree(&bed, &["."]).fails_with(1).says("digest mismatch").says("Dockerfile:2:1");
    bed.dockerfile(&dockerfile(&digest(b"right")));
    tree(&bed, &["."]).succeeds();
    web.take_seen();
    tree(&bed, &["."]).succeeds();
    assert_eq!(web.take_seen(), [""; 0]);
    for (sum, words) in
        [("md5:7265f4d211b56873a381d321f586e4a9", "unsupported digest algorithm"), ("abc", "invalid checksum digest format")]
    {
        bed.dockerfile(&dockerfile(sum));
        tree(&bed, &["."]).fails_with(1).says(words);
    }
}

#[test]
fn adding_a_checksum_keeps_the_cache() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.page("/f", Page::of("x").header("ETag", "\"1\""));
    bed.dockerfile(&format!("FROM alpine\nADD {} /f\nRUN cat /f\n", web.url("/f")));
    let first = bed.image("first", &[]);
    bed.dockerfile(&format!("FROM alpine\nADD --checksum={} {} /f\nRUN cat /f\n", digest(b"x"), web.url("/f")));
    bed.build(&["-t", "second"]).succeeds().does_not_say("] RUN cat /f\n#3 DONE");
    assert_eq!(first, bed.digest("second"));
}

#[test]
fn secrets_authorise_at_their_host_only_and_are_not_shown() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.page("/private", Page { authorization: Some("Bearer s3cret".into()), ..Page::of("mine") });
    bed.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/private")));
    tree(&bed, &["."]).fails_with(1).says("401");
    let id = format!("HTTP_AUTH_TOKEN_{}", web.address());
    let mut command = bed.command(&["build", "--progress", "plain", "-o", "type=local,dest=../out/tree", "."]);
    command.args(["--secret", &format!("id={id},env=THE_TOKEN")]).env("THE_TOKEN", "s3cret");
    let done = Outcome::of(command);
    done.succeeds().does_not_say("s3cret");
    assert_eq!(text(&bed, "f"), "mine");
}

#[test]
fn an_archive_by_url_is_unpacked_when_asked_for() {
    let (bed, web) = (Bed::caller(), Web::start());
    let work = bed.path("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("inside"), "inside").unwrap();
    let archive = Command::new("tar").arg("-C").arg(&work).args(["-cz", "."]).output().unwrap().stdout;
    web.page("/a.tgz", Page::of(archive));
    bed.dockerfile(&format!("FROM scratch\nADD {0} /kept/\nADD --unpack=true {0} /unpacked/\n", web.url("/a.tgz")));
    tree(&bed, &["."]).succeeds();
    assert!(bed.path("out/tree/kept/a.tgz").is_file());
    assert_eq!(text(&bed, "unpacked/inside"), "inside");
}

#[test]
fn repositories_are_added_over_http() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository(&bed));
    let url = web.url("/git/app.git");
    bed.dockerfile(&format!(
        "FROM scratch\nADD {url} /tip/\nADD {url}#v1 /v1/\nADD {url}#main:sub /sub/\nADD --keep-git-dir=true {url}#v1 /kept/\nADD {url}?tag=v1&subdir=sub /query/\n"
    ));
    tree(&bed, &["."]).succeeds();
    assert_eq!((text(&bed, "tip/version"), text(&bed, "v1/version")), ("two".into(), "one".into()));
    assert_eq!((text(&bed, "sub/inner"), text(&bed, "query/inner")), ("inner".into(), "inner".into()));
    assert!(!bed.path("out/tree/tip/.git").exists() && bed.path("out/tree/kept/.git/HEAD").exists());
    let status = Command::new("git")
        .arg("-c")
        .arg("safe.directory=*")
        .arg("-C")
        .arg(bed.path("out/tree/kept"))
        .args(["status", "--porcelain"])
        .output();
    assert_eq!(String::from_utf8(status.unwrap().stdout).unwrap(), "");
    tree(&bed, &["."]).succeeds().says("CACHED");
}

#[test]
fn a_repository_s_checksum_is_its_commit() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository(&bed));
    let url = web.url("/git/app.git");
    let (one, two) = (commit(&bed, "app.git", "v1"), commit(&bed, "app.git", "main"));
    for (flags, words) in [
        (format!("--checksum={two} {url}#v1"), "expected checksum to match"),
        (format!("--checksum=zz {url}#v1"), "expected hex commit hash"),
        (format!("{url}#nothing"), "repository does not contain ref"),
        (format!("--keep-git-dir=false {url}?keep-git-dir=true"), "inconsistent keep-git-dir"),
        (format!("--checksum={one} {url}?commit={two}"), "checksum mismatch"),
    ] {
        bed.dockerfile(&format!("FROM scratch\nADD {flags} /\n"));
        tree(&bed, &["."]).fails_with(1).says(words).says("Dockerfile:2:");
    }
    bed.dockerfile(&format!("FROM scratch\nADD {url}#v1 /\n"));
    tree(&bed, &["."]).succeeds();
    bed.dockerfile(&format!("FROM scratch\nADD --checksum={one} {url}#v1 /\n"));
    tree(&bed, &["."]).succeeds().says("CACHED");
}

/// `?ref=`, `?tag=`, `?branch=`, `?commit=`, `?subdir=`, `?keep-git-dir`, `?submodules` and the older `#ref:dir`, as context
/// and as source of ADD: what comes out as `out`, or the error.
#[test]
fn what_a_git_url_asks_for() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository_with_submodule(&bed, &web));
    let (one, two) = (commit(&bed, "super.git", "v1"), commit(&bed, "super.git", "main"));
    let cases: Vec<(String, &str, Result<&str, &str>)> = vec![
        ("#v1".into(), "version", Ok("one")),
        ("?ref=v1".into(), "version", Ok("one")),
        ("?branch=main".into(), "version", Ok("two")),
        ("?tag=v1#refs/tags/v1".into(), "version", Ok("one")),
        (format!("?ref={one}"), "version", Ok("one")),
        (format!("?commit={two}"), "version", Ok("two")),
        (format!("?commit={}", &two[..8]), "version", Ok("two")),
        (format!("?tag=v1&commit={one}"), "version", Ok("one")),
        ("?subdir=sub&ref=v1".into(), "inner", Ok("inner")),
        ("?keep-git-dir=true".into(), ".git/HEAD", Ok(two.as_str())),
        ("?keep-git-dir&submodules&tag=v1".into(), ".git/HEAD", Ok(one.as_str())),
        ("".into(), "module/version", Ok("two")),
        ("?submodules=true".into(), "module/version", Ok("two")),
        ("?submodules=false".into(), "module/version", Err("not found")),
        ("?keep-git-dir=false".into(), ".git/HEAD", Err("not found")),
        ("?branch=nothing".into(), "version", Err("repository does not contain ref")),
        ("?branch=v1".into(), "version", Err("repository does not contain ref")),
        (format!("?ref={}", &one[..8]), "version", Err("repository does not contain ref")),
        (format!("?commit={}", &one[..8]), "version", Err("expected checksum to match")),
        (format!("?tag=v1&commit={two}"), "version", Err("expected checksum to match")),
        ("?tag=v1#refs/heads/main".into(), "version", Err("ref conflicts")),
    ];
    for (query, file, expected) in cases {
        let url = web.url(&format!("/git/super.git{query}"));
        let as_context = with_stdin(&bed, &["-f", "-", &url], format!("FROM scratch\nCOPY {file} /out\n").as_bytes());
        check_git_case(&bed, &as_context, &url, expected);
        bed.dockerfile(&format!("FROM scratch AS tree\nADD {url} /tree/\nFROM scratch\nCOPY --from=tree /tree/{file} /out\n"));
        check_git_case(&bed, &tree(&bed, &["."]), &url, expected);
    }
}

fn check_git_case(bed: &Bed, done: &Outcome, url: &str, expected: Result<&str, &str>) {
    match expected {
        Ok(content) => {
            done.succeeds();
            assert_eq!(text(bed, "out").trim(), content, "{url}");
        }
        Err(words) => {
            done.fails().says(words);
        }
    }
}

/// `super.git`: as `app.git`, with `app.git` as its submodule `module`.
fn repository_with_submodule(bed: &Bed, web: &Web) -> PathBuf {
    let top = repository(bed);
    web.repositories(&top);
    let work = bed.path("super");
    let git = |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "protocol.http.allow=always"]).arg("-C").arg(folder);
        tool(command.args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", bed.path("home")));
    };
    git(bed.path("repositories").as_path(), &["clone", "--quiet", bed.path("work").to_str().unwrap(), work.to_str().unwrap()]);
    git(&work, &["checkout", "--quiet", "v1"]);
    git(&work, &["submodule", "--quiet", "add", &web.url("/git/app.git"), "module"]);
    git(&work, &["commit", "--quiet", "-m", "one, with module"]);
    git(&work, &["tag", "--force", "v1"]);
    git(&work, &["checkout", "--quiet", "-B", "main"]);
    fs::write(work.join("version"), "two").unwrap();
    git(&work, &["commit", "--quiet", "-am", "two"]);
    git(&top, &["clone", "--quiet", "--bare", work.to_str().unwrap(), "super.git"]);
    top
}

#[test]
fn a_context_by_git_url_brings_its_dockerfile() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository(&bed));
    let url = web.url("/git/app.git");
    tree(&bed, &[&url]).succeeds();
    assert_eq!(text(&bed, "version"), "two");
    assert!(!bed.path("out/tree/.git").exists());
    tree(&bed, &[&format!("{url}#v1:sub")]).succeeds();
    assert_eq!(text(&bed, "inner-of-sub"), "inner");
    tree(&bed, &[&url, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).succeeds();
    assert!(bed.path("out/tree/.git/HEAD").exists());
    tree(&bed, &[&url, "-f", "sub/../sub/Nothing"]).fails_with(1).says("does not exist");
    with_stdin(&bed, &[&url, "-f", "-"], b"FROM scratch\nCOPY version /by-stdin\n").succeeds();
    assert_eq!(text(&bed, "by-stdin"), "two");
}

/// git's own protocol, from git's own daemon.
#[test]
fn a_context_by_the_git_protocol() {
    let bed = Bed::caller();
    let top = repository(&bed);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = Command::new("git")
        .args(["-c", "safe.directory=*", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", top.display()))
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
    }
    let built = tree(&bed, &[&format!("git://127.0.0.1:{port}/app.git#v1")]);
    // Killing only git's wrapper would leave the daemon itself.
    let _ = Command::new("pkill").arg("-P").arg(daemon.id().to_string()).status();
    let _ = daemon.kill();
    let _ = daemon.wait();
    built.succeeds();
    assert_eq!(text(&bed, "version"), "one");
}

/// A real sshd lets in who has the key. The key is in a file, and nothing else of the user's counts.
#[test]
fn repositories_by_ssh_with_a_key_from_a_file() {
    let bed = Bed::caller();
    let top = repository(&bed);
    let generate = |name: &str, kind: &[&str]| {
        tool(Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(bed.path(name)).args(kind));
        fs::read_to_string(bed.path(&format!("{name}.pub"))).unwrap()
    };
    let mut known = generate("host", &["-t", "ed25519"]);
    let kinds: [&[&str]; 3] = [&["-t", "ed25519"], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "2048"]];
    let keys = kinds.iter().enumerate().map(|(at, kind)| generate(&format!("key{at}"), kind)).collect::<String>();
    fs::write(bed.path("allowed"), keys).unwrap();
    generate("stranger", &["-t", "ed25519"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("/usr/sbin/sshd");
    server.args(["-D", "-e", "-f", "/dev/null", "-p", &port.to_string()]);
    for (name, value) in [
        ("ListenAddress", "127.0.0.1".to_owned()),
        ("HostKey", bed.path("host").display().to_string()),
        ("AuthorizedKeysFile", bed.path("allowed").display().to_string()),
        ("PidFile", "none".to_owned()),
        ("StrictModes", "no".to_owned()),
        ("PasswordAuthentication", "no".to_owned()),
        ("UsePAM", "no".to_owned()),
    ] {
        server.arg("-o").arg(format!("{name}={value}"));
    }
    if nix::unistd::Uid::effective().is_root() {
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let mut server = match server.stderr(Stdio::null()).spawn() {
        Ok(server) => server,
        Err(error) => return skip(&format!("there is no sshd: {error}")),
    };
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(server.try_wait().unwrap().is_none(), "sshd ended");
    }
    known = format!("[127.0.0.1]:{port} {known}");
    fs::create_dir_all(bed.path("home/.ssh")).unwrap();
    fs::write(bed.path("home/.ssh/known_hosts"), known).unwrap();
    let user = tool(Command::new("id").arg("-un"));
    let url = format!("ssh://{}@127.0.0.1:{port}{}", user.trim(), top.join("app.git").display());
    bed.dockerfile(&format!("FROM scratch\nADD {url}#v1 /\n"));
    let results: Vec<Outcome> =
        ["default=../key0", "default=../key1", "default=../key2", "default=../stranger,../key1", "default=../stranger"]
            .iter()
            .map(|ssh| tree(&bed, &["--no-cache", "--ssh", ssh, "."]))
            .collect();
    let context = tree(&bed, &["--ssh", "default=../key0", &url]);
    let _ = server.kill();
    let _ = server.wait();
    let (refused, granted) = results.split_last().unwrap();
    for outcome in granted {
        outcome.succeeds();
    }
    refused.fails_with(1).says("Permission denied");
    context.succeeds();
    assert_eq!(text(&bed, "version"), "two");
}

#[test]
fn a_context_by_url_is_an_archive_or_a_dockerfile() {
    let (bed, web) = (Bed::caller(), Web::start());
    bed.file("f", "f").file("Other", "FROM scratch\nCOPY f /other\n").dockerfile("FROM scratch\nCOPY f /f\n");
    let archive = Command::new("tar").arg("-C").arg(bed.path("context")).args(["-cz", "."]).output().unwrap().stdout;
    web.page("/c.tgz", Page::of(archive)).page("/plain", Page::of("FROM scratch\nCOPY <<E /plain\nplain\nE\n"));
    tree(&bed, &[&web.url("/c.tgz")]).succeeds();
    assert_eq!(text(&bed, "f"), "f");
    tree(&bed, &[&web.url("/c.tgz"), "-f", "Other"]).succeeds();
    assert_eq!(text(&bed, "other"), "f");
    tree(&bed, &[&web.url("/plain")]).succeeds();
    assert_eq!(text(&bed, "plain"), "plain\n");
    tree(&bed, &[".", "-f", &web.url("/plain")]).succeeds();
    assert_eq!(text(&bed, "plain"), "plain\n");
    tree(&bed, &[&web.url("/nothing")]).fails_with(1).says("404");
}

#[test]
fn standard_input_is_an_archive_or_a_dockerfile() {
    let bed = Bed::caller();
    bed.file("f", "f").file("d/Dockerfile", "FROM scratch\nCOPY f /in-d\n").dockerfile("FROM scratch\nCOPY f /f\n");
    bed.file(".dockerignore", "f\n");
    let archive = |flag: &str| Command::new("tar").arg("-C").arg(bed.path("context")).args([flag, "."]).output().unwrap().stdout;
    for flag in ["-c", "-cz", "-cj", "-cJ"] {
        // The ignore file has done its work where the archive was made.
        with_stdin(&bed, &["-"], &archive(flag)).succeeds();
        assert_eq!(text(&bed, "f"), "f", "{flag}");
    }
    with_stdin(&bed, &["-", "-f", "d/Dockerfile"], &archive("-c")).succeeds();
    assert_eq!(text(&bed, "in-d"), "f");
    let plain = b"FROM scratch\nCOPY <<E /plain\nplain\nE\n";
    with_stdin(&bed, &["-"], plain).succeeds();
    assert_eq!(text(&bed, "plain"), "plain\n");
    with_stdin(&bed, &["-"], b"FROM scratch\nCOPY f /\n").fails_with(1).says("not found").says("<stdin>:2:1");
    with_stdin(&bed, &["-f", "-", "."], plain).succeeds();
    with_stdin(&bed, &["-f", "-", "."], b"FROM scratch\nCOPY f /\n").fails_with(1).says(".dockerignore:1");
    with_stdin(&bed, &["-f", "-", "-"], plain).fails_with(2).says("can't use stdin for both build context and dockerfile");
    with_stdin(&bed, &["-f", "x", "-"], plain).fails_with(2).says("ambiguous Dockerfile source");
    with_stdin(&bed, &["-"], b"").fails_with(1).says("the Dockerfile cannot be empty");
}

#[test]
fn an_archive_that_climbs_out_is_refused() {
    let bed = Bed::caller();
    fs::write(bed.path("canary"), "outside").unwrap();
    let mut archive = Vec::new();
    let script = "import tarfile,io,sys\nt=tarfile.open(fileobj=sys.stdout.buffer,mode='w|')\ni=tarfile.TarInfo('../../canary');i.size=1\nt.addfile(i,io.BytesIO(b'x'))\nt.close()";
    archive.write_all(&Command::new("python3").args(["-c", script]).output().unwrap().stdout).unwrap();
    with_stdin(&bed, &["-"], &archive).fails_with(1).says("leads out");
    assert_eq!(fs::read_to_string(bed.path("canary")).unwrap(), "outside");
}

#[test]
fn named_contexts_may_be_fetched() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository(&bed)).page("/one.txt", Page::of("one"));
    bed.dockerfile("FROM scratch\nCOPY --from=repository version /version\nCOPY --from=web one.txt /one\n");
    let contexts = [format!("repository={}#v1", web.url("/git/app.git")), format!("web={}", web.url("/one.txt"))];
    tree(&bed, &["--build-context", &contexts[0], "--build-context", &contexts[1], "."]).succeeds();
    assert_eq!((text(&bed, "version"), text(&bed, "one")), ("one".into(), "one".into()));
}

#[test]
fn the_context_may_say_the_time() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository(&bed));
    let url = web.url("/git/app.git");
    let created = |arguments: &[&str]| {
        bed.run(&[&["build", "-t", "timed", "--build-arg", "SOURCE_DATE_EPOCH=context"], arguments].concat()).succeeds();
        let inspected = tool(Command::new("skopeo").args(["inspect", "--config", &bed.reference("timed")]));
        serde_json::from_str::<serde_json::Value>(&inspected).unwrap()["created"].as_str().unwrap().to_owned()
    };
    assert_eq!(created(&[&url]), "2017-07-14T02:40:00Z", "the commit's");
    let plain = Page::of("FROM scratch\nCOPY <<E /plain\nplain\nE\n").header("Last-Modified", DATE);
    web.page("/plain", plain);
    assert_eq!(created(&[&web.url("/plain")]), "2015-10-21T07:28:00Z", "the server's");
}

#[test]
fn nothing_is_left_of_what_was_fetched_but_the_caches() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.repositories(&repository(&bed));
    tree(&bed, &[&web.url("/git/app.git")]).succeeds();
    let left: Vec<_> = fs::read_dir(bed.store().join("tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn offline_uses_what_is_there_and_says_what_is_not() {
    let (bed, web) = (Bed::caller(), Web::start());
    web.page("/f", Page::of("x")).page("/g", Page::of("y"));
    bed.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    tree(&bed, &["."]).succeeds();
    web.take_seen();
    tree(&bed, &["--offline", "."]).succeeds();
    bed.dockerfile(&format!("FROM scratch\nADD {} /g\n", web.url("/g")));
    tree(&bed, &["--offline", "."]).fails_with(1).says("offline: it is not in the cache");
    assert_eq!(web.take_seen(), [""; 0]);
}
