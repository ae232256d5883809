//! URLs and repositories that mean harm. They are fetched before anything runs and by no step: rungs make no difference.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::files::{is_untouched, outside};
use crate::support::{Bed, FakeRegistry, Image, Layer, Reply, Web, tool};

/// A bare repository of these files and links, and a server for it.
fn repository(bed: &Bed, fill: impl Fn(&Path)) -> Web {
    let (top, work) = (bed.path("repositories"), bed.path("work"));
    fs::create_dir_all(&top).unwrap();
    fs::create_dir_all(&work).unwrap();
    let git = |folder: &PathBuf, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]).arg("-C").arg(folder);
        tool(command.args(arguments).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", bed.path("home")))
    };
    git(&work, &["init", "--quiet"]);
    fs::write(work.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    fill(&work);
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "one"]);
    git(&top, &["clone", "--quiet", "--bare", work.to_str().unwrap(), "app.git"]);
    let web = Web::start();
    web.repositories(&top);
    web
}

#[test]
fn item_12_downloads() {
    for bed in Bed::each_user() {
        let outside = outside(&bed);
        let name = format!("attachment; filename=\"../../../../../..{outside}/canary\"");
        let server = FakeRegistry::serve(Image::of([Layer::new()]), move |request| {
            let to = |place: &str| Some(Reply::of(302, "text/plain", "").header("Location", place));
            match request.path.as_str() {
                "/named" => Some(Reply::of(200, "text/plain", "dead").header("Content-Disposition", &name)),
                "/to-file" => to("file:///etc/hostname"),
                "/to-metadata" => to("http://169.254.169.254/latest/meta-data/"),
                "/to-metadata-6" => to("http://[fd00:ec2::254]/latest/meta-data/"),
                _ => None,
            }
        });
        let add = |path: &str, flags: &str| {
            bed.dockerfile(&format!("FROM busybox\nADD {flags} http://{}{path} /d/\nRUN ls /d\n", server.address()));
            bed.build(&["--no-cache"])
        };
        add("/named", "").succeeds().says("named");
        add("/to-file", "").fails();
        add("/to-metadata", "").fails();
        add("/to-metadata-6", "").fails();
        let none = "0".repeat(64);
        add("/named", &format!("--checksum=sha256:{none}")).fails().says("sha256:");
        is_untouched(&bed);
    }
}

#[test]
fn item_26_a_subdirectory_that_is_a_link() {
    for bed in Bed::each_user() {
        outside(&bed);
        let web = repository(&bed, |work| {
            for (name, target) in [("proj", "/"), ("up", "../../../../../../..")] {
                std::os::unix::fs::symlink(target, work.join(name)).unwrap();
            }
        });
        for subdirectory in ["proj/etc", "up/etc", "proj", "../..", "up"] {
            let url = web.url(&format!("/app.git#main:{subdirectory}"));
            bed.dockerfile(&format!("FROM busybox\nADD {url} /x/\nRUN cat /x/passwd\n"));
            bed.build(&[]).fails().does_not_say("root:x:0");
            bed.run(&["build", "--progress", "plain", &url]).fails().does_not_say("root:x:0");
        }
    }
}

#[test]
fn item_27_refs_and_remotes_that_are_commands() {
    for bed in Bed::each_user() {
        let web = repository(&bed, |_| ());
        let pwned = bed.path("out/pwned").display().to_string();
        let url = web.url("/app.git");
        for source in [
            format!("{url}#--upload-pack=touch {pwned}"),
            format!("{url}#-c"),
            format!("{url}#main\\nother"),
            format!("ext::touch% {pwned}"),
            format!("ext::sh -c touch% {pwned}.git"),
            format!("--upload-pack=touch {pwned}"),
            format!("ssh://-oProxyCommand=touch%20{pwned}/x.git"),
            "file:///etc/passwd".to_owned(),
            format!("file://{}", bed.path("repositories/app.git").display()),
        ] {
            bed.dockerfile(&format!("FROM busybox\nADD [\"{source}\", \"/x/\"]\nRUN ls /x\n"));
            bed.build(&[]).fails();
            bed.run(&["build", "--progress", "plain", "--", &source]).fails();
            assert!(!fs::exists(&pwned).unwrap(), "{source}");
        }
    }
}

#[test]
fn item_28_repositories_that_would_run_something() {
    for bed in Bed::each_user() {
        let pwned = bed.path("out/pwned").display().to_string();
        let web = repository(&bed, |work| {
            let script = format!("#!/bin/sh\ntouch {pwned}\n");
            fs::create_dir_all(work.join(".githooks")).unwrap();
            fs::write(work.join(".githooks/post-checkout"), &script).unwrap();
            fs::write(work.join(".gitattributes"), "*.bin filter=lfs diff=lfs\n*.evil filter=evil\n").unwrap();
            fs::write(work.join("b.evil"), "as it is\n").unwrap();
            let modules = format!("[submodule \"s\"]\n\tpath = s\n\turl = ext::touch% {pwned}\n\tupdate = !touch {pwned}\n");
            fs::write(work.join(".gitmodules"), modules).unwrap();
        });
        fs::write(bed.path("repositories/app.git/hooks/post-checkout"), format!("#!/bin/sh\ntouch {pwned}\n")).unwrap();
        bed.dockerfile(&format!("FROM busybox\nADD {} /x/\nRUN cat /x/b.evil\n", web.url("/app.git")));
        let built = bed.build(&[]);
        assert!(built.code.is_some_and(|code| code != 101), "{built}");
        bed.run(&["build", "--progress", "plain", &web.url("/app.git")]);
        assert!(!fs::exists(&pwned).unwrap(), "{built}");
    }
}
