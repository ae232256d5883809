//! Contexts that are not what they should be, or change while they are read.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use super::race_rounds;
use crate::support::{Bed, Layer, Page, Web};

#[test]
fn item_03_a_broken_archive_with_a_linked_dockerfile() {
    for bed in Bed::each_user() {
        fs::write(bed.path("canary"), "FROM scratch\nLABEL outside=read\n").unwrap();
        let canary = bed.path("canary").display().to_string();
        let mut archive = Layer::new().symlink("Dockerfile", &canary).file("file", &"x".repeat(4000)).bytes();
        archive.truncate(2000);
        let web = Web::start();
        web.page("/context.tar", Page::of(archive.clone()));
        bed.run(&["build", "--progress", "plain", &web.url("/context.tar")]).fails().does_not_say("outside");
        let mut child = bed.command(&["build", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(&archive);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.code().is_some_and(|code| code != 0 && code != 101), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("outside"), "{output:?}");
    }
}

#[test]
fn item_11_a_dockerfile_or_ignore_file_that_is_none() {
    for bed in Bed::each_user() {
        let fifo = |name: &str| assert!(Command::new("mkfifo").arg(bed.path("context").join(name)).status().unwrap().success());
        let remove =
            |name: &str| drop(fs::remove_file(bed.path("context").join(name)).or_else(|_| fs::remove_dir(bed.path("context").join(name))));
        fs::create_dir(bed.path("context/Dockerfile")).unwrap();
        bed.build(&[]).fails();
        remove("Dockerfile");
        fifo("Dockerfile");
        bed.build(&[]).fails();
        remove("Dockerfile");
        bed.dockerfile("FROM scratch\nCOPY file /file\n").file("file", "x");
        fs::create_dir(bed.path("context/.dockerignore")).unwrap();
        bed.build(&[]).fails();
        remove(".dockerignore");
        fifo(".dockerignore");
        bed.build(&[]).fails();
        remove(".dockerignore");
        // A link that leads out of the context is not the context's.
        fs::write(bed.path("ignore"), "file\n").unwrap();
        symlink(bed.path("ignore"), bed.path("context/.dockerignore")).unwrap();
        let built = bed.build(&[]);
        assert!(built.code.is_some_and(|code| code != 101), "{built}");
    }
}

#[test]
fn item_13_a_context_that_changes_while_it_is_read() {
    let bed = Bed::caller();
    fs::create_dir(bed.path("outside")).unwrap();
    fs::write(bed.path("outside/canary"), "outside").unwrap();
    bed.file("real/file", "inside").dockerfile("FROM scratch\nCOPY . /\n");
    symlink(bed.path("outside"), bed.path("context/link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, link) = (bed.path("context/real"), bed.path("context/link"));
            while !stop.load(Ordering::Relaxed) {
                use rustix::fs::{CWD, RenameFlags, renameat_with};
                let _ = renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE);
            }
        });
        let archive = format!("type=tar,dest={}", bed.path("out/app.tar").display());
        for _ in 0..race_rounds().min(1000) / 5 {
            let built = bed.build(&["-o", &archive]);
            if built.code == Some(0) {
                let text = fs::read(bed.path("out/app.tar")).unwrap();
                let holds = |words: &[u8]| text.windows(words.len()).any(|part| part == words);
                assert!(!holds(b"canary"), "a file from outside");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
