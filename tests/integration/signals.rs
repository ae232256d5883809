//! Interrupted at every stage: the exit code says so, no process, mount, temporary file or half output stays, and the next
//! build works.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Bed, FakeRegistry, Image, Layer, Request, noise, tool};

/// Waits until something is so; a test that waits for ever says for what.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(bed: &Bed, arguments: &[&str]) -> (Child, Arc<Mutex<String>>) {
    let mut command = bed.command(&[&["build", "--progress", "plain"], arguments, &["."]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = Arc::new(Mutex::new(String::new()));
    let (stderr, heard) = (child.stderr.take().unwrap(), said.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            *heard.lock().unwrap() += &(line + "\n");
        }
    });
    (child, said)
}

/// Builds until `is_time` says so, interrupts, and looks for what is left. Says whether the build was still at work.
#[track_caller]
fn interrupt(bed: &Bed, arguments: &[&str], is_time: impl Fn(&str) -> bool) -> bool {
    let outputs = || fs::read_dir(bed.path("out")).unwrap().map(|entry| entry.unwrap().path());
    let before: Vec<PathBuf> = outputs().collect();
    let (mut child, said) = start(bed, arguments);
    let text = || said.lock().unwrap().clone();
    let started = Instant::now();
    let mut status = None;
    while !is_time(&text()) && status.is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "the stage never came: {}", text());
        std::thread::sleep(Duration::from_millis(2));
        status = child.try_wait().unwrap();
    }
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
    let interrupted = Instant::now();
    let status = child.wait().unwrap();
    // Before it listens the kernel ends it, with the code that a shell makes of that.
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    let took = interrupted.elapsed();
    if code == Some(0) {
        return false;
    }
    assert_eq!(code, Some(130), "{}", text());
    assert!(took < Duration::from_secs(10), "it took {took:?} to end");
    // One that was written before the interrupt stays, whole; of the others there is nothing.
    for archive in outputs().filter(|path| !before.contains(path)) {
        tool(Command::new("tar").arg("-tf").arg(&archive));
        fs::remove_file(archive).unwrap();
    }
    nothing_is_left(bed, &text());
    true
}

/// No process, no temporary file, no mount, and nothing broken.
#[track_caller]
fn nothing_is_left(bed: &Bed, text: &str) {
    until("a process of the build still runs", || !runs_with(&bed.store().display().to_string()));
    // One that was interrupted at once has made no store yet.
    let temporary = fs::read_dir(bed.store().join("tmp")).into_iter().flatten();
    let left: Vec<_> = temporary.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?} is left in tmp: {text}");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(bed.store().to_str().unwrap()), "a mount is left");
    bed.run(&["fsck"]).succeeds();
}

#[test]
fn a_failing_step_leaves_nothing_at_whatever_stage() {
    for bed in Bed::each_user() {
        let mark = format!("{}{}", 314_159, std::process::id());
        bed.file("f", "f");
        let failing = [
            "FROM nowhere.invalid/app\nRUN true\n".to_owned(),
            "FROM alpine\nCOPY f /f\nCOPY missing /\nRUN true\n".to_owned(),
            format!("FROM alpine\nRUN --mount=type=bind,target=/b --mount=type=tmpfs,target=/t (sleep {mark} &); false\n"),
            format!(
                "FROM alpine AS a\nRUN sleep 1; false\nFROM alpine AS b\nRUN sleep {mark}\nFROM alpine\nCOPY --from=a /f /\nCOPY --from=b /f /\n"
            ),
            "FROM alpine\nCOPY f /\nRUN rm -r /f && mkdir /f\nCOPY f /f\nCOPY --from=alpine /bin/busybox /f/f/x\n".to_owned(),
        ];
        for text in &failing {
            let outcome = bed.dockerfile(text).build(&["-t", "app"]);
            outcome.fails();
            nothing_is_left(&bed, &outcome.err);
            let runs = || !Command::new("pgrep").args(["-f", &format!("sleep {mark}")]).output().unwrap().stdout.is_empty();
            until("a process of the step still runs", || !runs());
        }
        bed.dockerfile("FROM alpine\nCOPY f /f\n").build(&["-t", "app"]).succeeds();
    }
}

/// Whether a process has the store in its environment, as everything has that a build starts of its own.
fn runs_with(store: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("environ"));
    processes.filter_map(|path| fs::read(path).ok()).any(|bytes| {
        let wanted = format!("RBUILD_STORE={store}");
        bytes.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    })
}

fn hang(request: &Request, is_it: impl Fn(&Request) -> bool) {
    if is_it(request) {
        std::thread::sleep(Duration::from_secs(20));
    }
}

#[test]
fn interrupted_in_a_pull() {
    for bed in Bed::each_user() {
        let image = Image::with_busybox([Layer::new().file("note", "whole\n")]);
        let layer = image.blobs.last().unwrap().0.clone();
        let wanted = layer.clone();
        let registry = FakeRegistry::serve(image, move |request| {
            hang(request, |request| request.path.ends_with(&wanted));
            None
        });
        bed.registries(&registry.configuration()).dockerfile(&format!("FROM {}/app\nRUN cat /note\n", registry.address()));
        assert!(interrupt(&bed, &["-t", "app"], |_| registry.seen().iter().any(|request| request.path.ends_with(&layer))));
    }
}

#[test]
fn interrupted_while_the_context_is_read() {
    let bed = Bed::caller();
    bed.dockerfile("FROM scratch\nCOPY . /\n");
    for number in 0..10_000 {
        let path = bed.path(&format!("context/d{}/{number}", number % 100));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, number.to_string()).unwrap();
    }
    let mut hits = 0;
    for delay_ms in [30, 60, 100, 150, 250] {
        let started = Instant::now();
        hits += usize::from(interrupt(&bed, &["--no-cache", "-t", "app"], |_| started.elapsed() > Duration::from_millis(delay_ms)));
    }
    assert!(hits > 0, "every build was over before it was interrupted");
    bed.build(&["-t", "app"]).succeeds();
}

#[test]
fn interrupted_in_a_copy_in_packing_and_in_an_export() {
    for bed in Bed::each_user() {
        bed.dockerfile("FROM alpine\nCOPY big /big\n").file("big", noise(1, 40 << 20));
        let to = ["-t", "app", "-o", "type=oci,dest=../out/app.tar", "-o", "type=image"];
        let all = [&["--no-cache"], &to[..]].concat();
        interrupt(&bed, &all, |text| text.contains("COPY big"));
        interrupt(&bed, &all, |text| text.contains("#2 DONE"));
        interrupt(&bed, &all, |text| text.contains("exporting"));
        bed.build(&to).succeeds();
        bed.run(&["run", "app", "wc", "-c", "/big"]).succeeds().says(&(40 << 20).to_string());
    }
}

#[test]
fn interrupted_in_a_run_with_mounts_and_processes() {
    for bed in Bed::each_user() {
        let mark = format!("{}{}", 271_828, std::process::id());
        bed.file("f", "f").dockerfile(&format!(
            "FROM alpine\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/b --mount=type=tmpfs,target=/t (sleep {mark} &); echo star''ted; \\\n\
             trap '' INT TERM; sleep {mark}\n"
        ));
        assert!(interrupt(&bed, &[], |text| text.contains("started")));
        let runs = || !Command::new("pgrep").args(["-f", &format!("sleep {mark}")]).output().unwrap().stdout.is_empty();
        until("a process of the step still runs", || !runs());
        bed.dockerfile("FROM alpine\nRUN --mount=type=cache,target=/c,sharing=locked true\n").build(&[]).succeeds();
    }
}

#[test]
fn interrupted_in_a_push() {
    let bed = Bed::caller();
    let registry = FakeRegistry::serve(Image::with_busybox([]), |request| {
        hang(request, |request| request.method != "GET" && request.path.contains("/blobs/uploads"));
        (request.method == "HEAD").then(|| crate::support::Reply::error(404, "BLOB_UNKNOWN"))
    });
    bed.registries(&registry.configuration()).dockerfile("FROM scratch\nCOPY f /f\n").file("f", noise(1, 100_000));
    let name = format!("{}/pushed", registry.address());
    assert!(interrupt(&bed, &["-t", &name, "--push"], |_| registry.seen().iter().any(|request| request.path.contains("/blobs/uploads"))));
}
