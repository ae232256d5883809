//! Killed with -9 in the middle of a pull, a RUN and an export: the next build succeeds and no half object is served.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Bed, FakeRegistry, Image, Layer, Reply, User, noise, tool};

/// Kills per phase; three phases make the thirty that we ask for.
const KILLS: u64 = 10;

/// Starts the build again and again and kills each, a little later every time; then lets one end.
fn kill_builds(bed: &Bed, arguments: &[&str], step: Duration) {
    for turn in 1..=KILLS {
        let mut command = bed.command(&[&["build", "--progress", "plain", "--no-cache"], arguments, &["."]].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(step * u32::try_from(turn).unwrap());
        let _ = child.kill();
        child.wait().unwrap();
        blobs_are_whole(&bed.store());
    }
    bed.build(arguments).succeeds();
    blobs_are_whole(&bed.store());
}

/// Every blob that has a name hashes to it.
fn blobs_are_whole(store: &Path) {
    let Ok(blobs) = fs::read_dir(store.join("blobs/sha256")) else { return };
    for blob in blobs {
        let path = blob.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fs::read(&path).unwrap());
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, name, "{} is half an object", path.display());
    }
}

fn bed() -> Bed {
    Bed::of(*User::all().last().unwrap())
}

#[test]
fn killed_in_a_pull() {
    let noise = noise(1, 8 << 20);
    let image = Image::with_busybox([Layer::new().program("noise", &noise), Layer::new().file("note", "whole\n")]);
    // A slow registry, so that every kill meets an open transfer.
    let slow = move |request: &crate::support::Request| {
        std::thread::sleep(Duration::from_millis(if request.path.contains("/blobs/") { 40 } else { 5 }));
        None::<Reply>
    };
    let registry = FakeRegistry::serve(image, slow);
    let bed = bed();
    bed.registries(&registry.configuration());
    bed.dockerfile(&format!("FROM {}/app\nRUN cat /note\n", registry.address()));
    kill_builds(&bed, &["-t", "app"], Duration::from_millis(35));
    bed.run(&["run", "app", "cat", "/note"]).succeeds().says("whole");
}

#[test]
fn killed_in_a_run() {
    let bed = bed();
    let mark = format!("27182{}", std::process::id());
    bed.dockerfile(&format!(
        "FROM alpine\nRUN for i in $(seq 200); do echo $i >> /numbers; done; (sleep {mark} &) ; sleep 0.3; echo end >> /numbers\n"
    ));
    bed.build(&["--target", "none"]).fails();
    kill_builds(&bed, &["-t", "app"], Duration::from_millis(60));
    assert!(bed.run(&["run", "app", "tail", "-n", "1", "/numbers"]).succeeds().out.contains("end"));
    // The kernel ends a pid namespace right after its init, not at the same instant.
    let left = || std::process::Command::new("pgrep").args(["-f", &format!("sleep {mark}")]).output().unwrap().stdout;
    let gone = (0..50).any(|_| {
        left().is_empty() || {
            std::thread::sleep(Duration::from_millis(100));
            false
        }
    });
    assert!(gone, "a process of a killed build still runs");
}

#[test]
fn killed_in_an_export() {
    let bed = bed();
    bed.dockerfile("FROM alpine\nCOPY noise /\n").file("noise", noise(1, 24 << 20));
    bed.build(&[]).succeeds();
    kill_builds(&bed, &["-t", "app", "-o", "type=oci,dest=../out/app.tar", "-o", "type=image"], Duration::from_millis(50));
    let archive = format!("oci-archive:{}", bed.path("out/app.tar").display());
    tool(std::process::Command::new("skopeo").args(["inspect", &archive]));
    let left: Vec<_> = fs::read_dir(bed.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "half archives are left: {left:?}");
}
