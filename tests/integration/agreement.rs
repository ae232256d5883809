//! Other tools see the image that we say we made: skopeo, umoci, crun and `docker load`'s format.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Bed, User, skip, tool};

const DOCKERFILE: &str = "FROM alpine\nLABEL who=\"we\"\nENV A=\"b c\"\nRUN mkdir /d && echo text > /d/f && chmod 640 /d/f && chown 7:8 /d/f && \
     ln /d/f /d/h && ln -s f /d/l && rm /etc/nsswitch.conf && chmod 1777 /d\nWORKDIR /d\nUSER 7:8\nEXPOSE 80\nENTRYPOINT [\"/bin/echo\", \"hello\"]\nCMD [\"there\"]\n";

/// Images of each user; the tools that look at them run as whoever runs the tests.
fn built() -> Vec<Bed> {
    let beds = Bed::each_user();
    for bed in &beds {
        bed.dockerfile(DOCKERFILE);
        bed.image("app", &[]);
    }
    beds
}

#[test]
fn skopeo_reads_the_store_in_place() {
    for bed in built() {
        let inspected: Value = serde_json::from_str(&tool(Command::new("skopeo").args(["inspect", &bed.reference("app")]))).unwrap();
        assert_eq!(inspected["Digest"], bed.digest("app"));
        assert_eq!(inspected["Labels"], json!({"who": "we"}));
        assert!(inspected["Env"].as_array().unwrap().contains(&json!("A=b c")), "{inspected}");
        let config = tool(Command::new("skopeo").args(["inspect", "--config", &bed.reference("app")]));
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["config"]["User"], "7:8");
        assert_eq!(config["config"]["WorkingDir"], "/d");
        assert_eq!(config["config"]["ExposedPorts"], json!({"80/tcp": {}}));
        let history = config["history"].as_array().unwrap();
        let layers = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(layers, config["rootfs"]["diff_ids"].as_array().unwrap().len(), "one history entry per layer");
    }
}

#[test]
fn skopeo_copies_the_image_with_every_digest_checked() {
    for bed in built() {
        let archive = bed.path("docker.tar");
        let destination = format!("docker-archive:{}:app:latest", archive.display());
        tool(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &bed.reference("app"), &destination]));
        let listing = tool(Command::new("tar").arg("-tf").arg(&archive));
        assert!(listing.contains("manifest.json"), "{listing}");
    }
}

#[test]
fn umoci_unpacks_what_the_steps_made() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("umoci needs root to give files their owners");
    }
    for bed in built() {
        let root = unpack(&bed, "app").join("rootfs");
        let file = fs::metadata(root.join("d/f")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (7, 8, 0o640, 2));
        assert_eq!(fs::read_to_string(root.join("d/f")).unwrap(), "text\n");
        assert_eq!(fs::metadata(root.join("d/h")).unwrap().ino(), file.ino());
        assert_eq!(fs::read_link(root.join("d/l")).unwrap(), Path::new("f"));
        assert_eq!(fs::metadata(root.join("d")).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert!(!root.join("etc/nsswitch.conf").exists() && root.join("etc/passwd").exists());
    }
}

#[test]
fn crun_runs_the_bundle() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("the bundle that umoci unpacks as root is run by root");
    }
    let bed = Bed::of(*User::all().last().unwrap());
    bed.dockerfile(DOCKERFILE);
    bed.image("app", &[]);
    let bundle = unpack(&bed, "app");
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["/bin/echo", "hello", "there"]));
    config["process"]["terminal"] = json!(false);
    config["linux"].as_object_mut().unwrap().remove("resources");
    fs::write(&path, config.to_string()).unwrap();
    // Machines with both cgroup versions mounted are refused by crun: give it one that it knows.
    let script = "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled run \"$0\"";
    let name = format!("rbuild-test-{}", std::process::id());
    let output = tool(Command::new("unshare").args(["--mount", "sh", "-c", script, &name]).current_dir(&bundle));
    assert_eq!(output, "hello there\n");
}

fn unpack(bed: &Bed, name: &str) -> std::path::PathBuf {
    let bundle = bed.path("bundle");
    let reference = bed.reference(name);
    tool(Command::new("umoci").args(["unpack", "--image", reference.trim_start_matches("oci:")]).arg(&bundle));
    bundle
}
