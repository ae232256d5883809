//! Repositories, refs and remotes that mean harm: links, options, submodules, hooks, filters.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// Security list 26: buildkit's CVE-2026-33748.
#[test]
fn a_subdirectory_is_never_reached_through_a_link() {
    let bench = Bench::new();
    let repository = bench.repository("r", &[("real/sub/f", "text"), ("file", "x")]);
    for (name, target) in [("proj", "/"), ("up", "../../.."), ("inside", "real")] {
        symlink(target, repository.path.join(name)).unwrap();
    }
    symlink("/", repository.path.join("real/out")).unwrap();
    repository.commit(&[]);
    let server = bench.http();
    let url = server.url("/r/.git");
    let checkout = |subdirectory| bench.checkout_with(GitRequest { subdirectory: Some(subdirectory), ..request(&url) });
    for good in ["real/sub", "/real/sub/", "real/./sub"] {
        let found = checkout(good).unwrap();
        assert_eq!(found.root.read_in(Path::new("f"), 100).unwrap(), b"text", "{good}");
    }
    for bad in
        ["proj", "proj/etc", "up", "up/H", "inside", "inside/sub", "real/out/etc", "real/../..", "..", "file", "missing", "real/missing"]
    {
        let error = checkout(bad).unwrap_err();
        assert!(error.starts_with(&format!("repository does not contain directory {bad} at ")), "{error}");
    }
}

/// Security list 27, to the end: nothing runs, nobody is asked.
#[test]
fn refs_and_remotes_that_are_options_or_commands_are_refused() {
    let bench = Bench::new();
    bench.repository("r", &[("f", "text")]);
    let server = bench.http();
    let pwned = bench.path("pwned");
    for reference in [format!("--upload-pack=touch {}", pwned.display()), "-c".into(), "main\nother".into(), "main:x".into()] {
        assert!(bench.checkout(&server.url("/r/.git"), Some(&reference)).unwrap_err().starts_with("invalid git ref"));
    }
    let local = bench.path("served/r");
    for remote in [format!("ext::touch {}", pwned.display()), format!("file://{}", local.display()), local.display().to_string()] {
        assert!(bench.checkout(&remote, None).unwrap_err().starts_with("invalid git remote"));
    }
    assert_eq!(server.take_log(), [""; 0]);
}

/// Security list 28: .gitmodules.
#[test]
fn hostile_submodules_reach_nothing_on_this_machine() {
    let bench = Bench::new();
    let victim = bench.repository("victim", &[("secret", "host file")]);
    let pwned = bench.path("pwned");
    let urls = [
        format!("file://{}", victim.path.display()),
        victim.path.display().to_string(),
        format!("ext::touch% {}", pwned.display()),
        format!("--upload-pack=touch {}", pwned.display()),
        format!("ssh://-oProxyCommand=touch%20{}/x", pwned.display()),
    ];
    for (index, url) in urls.iter().enumerate() {
        let repository = bench.repository(&format!("r{index}"), &[("f", "x")]);
        gitlink(&repository, &victim.head(), &format!("[submodule \"s\"]\n\tpath = s\n\turl = {url}\n"));
        let server = bench.http();
        let result = bench.checkout(&server.url(&format!("/r{index}/.git")), None);
        assert!(result.is_err(), "{url}: {:?}", result.map(|checkout| listing(&checkout.path)));
    }
    let repository = bench.repository("command", &[("f", "x")]);
    let server = bench.http();
    let url = server.url("/victim/.git");
    gitlink(&repository, &victim.head(), &format!("[submodule \"s\"]\n\tpath = s\n\turl = {url}\n\tupdate = !touch {}\n", pwned.display()));
    let error = bench.checkout(&server.url("/command/.git"), None).unwrap_err();
    assert!(error.contains("invalid value"), "{error}");
}

/// Security list 28: names and paths of submodules that climb.
#[test]
fn submodules_cannot_write_elsewhere() {
    let bench = Bench::new();
    let inner = bench.repository("inner", &[("f", "inner")]);
    for (index, (name, path)) in [("../../../../escape", "s"), ("s", "../escape"), ("s", ".git/hooks")].into_iter().enumerate() {
        let repository = bench.repository(&format!("r{index}"), &[("f", "x")]);
        let server = bench.http();
        gitlink(&repository, &inner.head(), &format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {}\n", server.url("/inner/.git")));
        let result = bench.checkout(&server.url(&format!("/r{index}/.git")), None);
        if let Ok(checkout) = result {
            assert_eq!(listing(&checkout.path), [".gitmodules", "f"], "{name} {path}");
        }
        assert_eq!(std::fs::read_dir(bench.path("work")).unwrap().count(), 0);
        assert!(walkdir::WalkDir::new(bench.top.path()).into_iter().all(|entry| entry.unwrap().file_name() != "escape"));
    }
}

/// Commits a submodule entry `s` and any text as `.gitmodules`.
fn gitlink(repository: &Repository, commit: &str, modules: &str) {
    std::fs::write(repository.path.join(".gitmodules"), modules).unwrap();
    repository.git(&["add", ".gitmodules"]);
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},s")]);
    repository.git(&["commit", "--quiet", "-m", "x"]);
}

/// Security list 28: hooks, filters, attributes, LFS.
#[test]
fn nothing_in_a_repository_runs() {
    let bench = Bench::new();
    let pwned = bench.path("pwned");
    let attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n*.evil filter=evil\n*.id ident\n";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    let script = format!("#!/bin/sh\ntouch {}\n", pwned.display());
    let repository = bench.repository(
        "r",
        &[
            (".gitattributes", attributes),
            ("a.bin", pointer),
            ("b.evil", "x"),
            ("c.id", "$Id$"),
            (".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:1/\n"),
            ("hooks/post-checkout", &script),
            (".githooks/post-checkout", &script),
            ("bare/HEAD", "ref: refs/heads/main\n"),
            ("bare/config", &format!("[core]\n\tfsmonitor = \"touch {}\"\n\tbare = true\n", pwned.display())),
            ("bare/objects/x", ""),
            ("bare/refs/x", ""),
        ],
    );
    // What a server has for itself is no part of what it serves.
    std::fs::create_dir_all(repository.path.join(".git/hooks")).unwrap();
    std::fs::write(repository.path.join(".git/hooks/post-checkout"), &script).unwrap();
    std::fs::set_permissions(repository.path.join(".git/hooks/post-checkout"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = bench.http();
    let url = server.url("/r/.git");
    for keep_git_dir in [false, true] {
        let checkout = bench.checkout_with(GitRequest { keep_git_dir, ..request(&url) }).unwrap();
        assert_eq!(read(&checkout, "a.bin"), pointer);
        assert_eq!(read(&checkout, "b.evil"), "x");
        assert!(!checkout.path.join(".git/hooks").exists());
    }
}

/// Security list 28: configuration of the user and variables of the caller.
#[test]
fn the_caller_s_git_configuration_has_no_say() {
    let mut bench = Bench::new();
    bench.repository("r", &[("f", "text")]);
    let home = bench.path("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(
        home.join(".gitconfig"),
        format!("[url \"file:///\"]\n\tinsteadOf = http://\n[core]\n\tsshCommand = touch {}\n", bench.path("pwned").display()),
    )
    .unwrap();
    for (name, value) in [
        ("HOME", home.as_path()),
        ("GIT_DIR", home.as_path()),
        ("GIT_SSH_COMMAND", Path::new("false")),
        ("GIT_CONFIG_PARAMETERS", Path::new("'x.y=z'")),
    ] {
        bench.options.environment.push((name.into(), value.into()));
    }
    let server = bench.http();
    assert_eq!(read(&bench.checkout(&server.url("/r/.git"), None).unwrap(), "f"), "text");
}
