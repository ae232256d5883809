//! `--load` into real engines: podman, containerd, and docker where its daemon is installed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Bed, Outcome, Registry, User, Witness, skip, tool};

fn is_installed(program: &str) -> bool {
    std::env::split_paths("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").any(|folder| folder.join(program).exists())
}

/// A bed with an image of two layers.
fn bed(user: User) -> Bed {
    let bed = Bed::of(user);
    bed.file("hello", "hello\n").dockerfile("FROM alpine\nCOPY hello /\nENV WHO=me\n");
    bed
}

fn load(bed: &Bed, environment: &[(&str, String)], arguments: &[&str]) -> Outcome {
    let mut command = bed.command(&[&["build", "--progress", "plain", "--load"], arguments, &["."]].concat());
    command.envs(environment.iter().map(|(key, value)| (*key, value.as_str())));
    Outcome::of(command)
}

/// A daemon of a test, which ends with it.
struct Daemon(Child);

impl Daemon {
    /// Starts one and waits until it answers; None if it gives up.
    fn start(mut command: Command, is_up: impl Fn() -> bool) -> Option<Daemon> {
        let mut daemon = Daemon(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?);
        let patience = Instant::now() + Duration::from_secs(60);
        while Instant::now() < patience {
            if is_up() {
                return Some(daemon);
            }
            if daemon.0.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let id = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Loads from a store that has never seen the base, which whoever takes the image has: nothing of the base is fetched.
fn load_on_a_base_that_is_there(user: User, environment: &[(&str, String)]) {
    let witness = Witness::of(Registry::stand_in().address());
    let fresh = bed(user);
    fresh.registries(&witness.configuration());
    fresh.dockerfile(&format!("FROM {}/library/alpine\nCOPY --link hello /again\n", witness.address()));
    let outcome = load(&fresh, environment, &["-t", "again"]);
    outcome.succeeds().does_not_say("pull sha256");
    let requests = witness.take();
    let blobs: Vec<&String> = requests.iter().filter(|line| line.starts_with("GET ") && line.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 1, "the config alone: {blobs:?}\n{outcome}");
}

#[test]
fn podman_has_the_image_under_all_its_names() {
    if !is_installed("podman") {
        return skip("podman is not installed");
    }
    for user in User::all() {
        let bed = bed(user);
        let storage = bed.path("out/storage.conf");
        let folder = |name: &str| bed.path("home").join(name).display().to_string();
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}\"\nrunroot = \"{1}\"\nrootless_storage_path = \"{0}\"\n",
            folder("graph"),
            folder("run")
        );
        fs::write(&storage, text).unwrap();
        fs::create_dir(bed.path("home/runtime")).unwrap();
        user.own(&bed.path("home"));
        let environment = [
            ("CONTAINERS_STORAGE_CONF", storage.display().to_string()),
            ("XDG_RUNTIME_DIR", folder("runtime")),
            // Nobody is there: the next is asked.
            ("DOCKER_HOST", "unix:///nowhere".to_owned()),
        ];
        load(&bed, &environment, &["-t", "app", "-t", "example.com/me/app:1"]).succeeds().says("podman has it");
        let podman = |words: &[&str]| {
            let mut command = user.command(Path::new("podman"), &bed.path("home"));
            command.args(words).current_dir("/").envs(environment.iter().map(|(key, value)| (*key, value.as_str())));
            Outcome::of(command)
        };
        for name in ["docker.io/library/app:latest", "example.com/me/app:1"] {
            let inspected = podman(&["image", "inspect", name]);
            let image: serde_json::Value = serde_json::from_str(&inspected.succeeds().out).unwrap();
            assert_eq!(image[0]["Digest"], bed.digest("app"), "{inspected}");
            assert!(image[0]["Config"]["Env"].as_array().unwrap().contains(&"WHO=me".into()));
        }
        load_on_a_base_that_is_there(user, &environment);
        // Rootless files have owners that only podman can remove.
        podman(&["system", "reset", "--force"]).succeeds();
    }
}

#[test]
fn containerd_is_not_sent_what_it_has() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    if !is_installed("containerd") || !is_installed("ctr") {
        return skip("containerd is not installed");
    }
    let bed = bed(User::Caller);
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("sock").display().to_string();
    let mut command = Command::new("containerd");
    command.arg("--root").arg(folder.path().join("root")).arg("--state").arg(folder.path().join("state")).args(["--address", &address]);
    let ctr = |words: &[&str]| {
        let mut command = Command::new("ctr");
        command.args(["--address", &address]).args(words);
        command
    };
    let Some(_daemon) = Daemon::start(command, || succeeds(&mut ctr(&["version"]))) else { return skip("containerd does not start here") };
    // No docker answers, and podman is not on this path.
    let tools = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/usr/bin/ctr", tools.path().join("ctr")).unwrap();
    let environment = [("CONTAINERD_ADDRESS", address.clone()), ("PATH", tools.path().display().to_string())];
    load(&bed, &environment, &["-t", "app:1"]).succeeds().says("had 0 of ");
    bed.file("hello", "other\n");
    let outcome = load(&bed, &environment, &["-t", "app:2"]);
    let had = outcome.succeeds().err.split_once("and had ").expect("it says so").1.split(' ').next().unwrap().to_owned();
    assert_ne!(had, "0", "{outcome}");
    let listed = tool(&mut ctr(&["images", "ls"]));
    for (name, tag) in [("docker.io/library/app:1", "app:1"), ("docker.io/library/app:2", "app:2")] {
        assert!(listed.contains(name) && listed.contains(&bed.digest(tag)), "{listed}");
    }
    load_on_a_base_that_is_there(User::Caller, &environment);
    tool(&mut ctr(&["images", "export", &folder.path().join("again.tar").display().to_string(), "docker.io/library/again:latest"]));
    // Whole in there: all of it comes out again.
    tool(&mut ctr(&["images", "export", &folder.path().join("out.tar").display().to_string(), "docker.io/library/app:2"]));
}

#[test]
fn docker_is_not_sent_what_it_has() {
    if !nix::unistd::Uid::effective().is_root() || !is_installed("dockerd") {
        eprintln!("skipped: dockerd is not installed");
        return;
    }
    let bed = bed(User::Caller);
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/sock", folder.path().display());
    let mut command = Command::new("dockerd");
    command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs", "-H", &host]);
    command.arg("--data-root").arg(folder.path().join("data")).arg("--exec-root").arg(folder.path().join("exec"));
    command.arg("--pidfile").arg(folder.path().join("pid"));
    let docker = |words: &[&str]| {
        let mut command = Command::new("docker");
        command.args(["-H", &host]).args(words);
        command
    };
    let Some(_daemon) = Daemon::start(command, || succeeds(&mut docker(&["version"]))) else {
        eprintln!("skipped: dockerd does not start here");
        return;
    };
    let environment = [("DOCKER_HOST", host.clone())];
    load(&bed, &environment, &["-t", "app:1"]).succeeds().says("docker has it, and had 0 of ");
    bed.file("hello", "other\n");
    let outcome = load(&bed, &environment, &["-t", "app:2"]);
    let had = outcome.succeeds().err.split_once("and had ").expect("it says so").1.split(' ').next().unwrap().to_owned();
    assert_ne!(had, "0", "{outcome}");
    let layers: serde_json::Value =
        serde_json::from_str(&tool(&mut docker(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", "app:2"]))).unwrap();
    let ours: serde_json::Value = serde_json::from_str(&bed.run(&["inspect", "--json", "app:2"]).succeeds().out).unwrap();
    assert_eq!(layers, ours["config"]["rootfs"]["diff_ids"]);
    load_on_a_base_that_is_there(User::Caller, &environment);
}

/// What is said to be there and is not is fetched after all.
#[test]
fn who_lacks_what_they_said_to_have_gets_everything() {
    let bed = bed(User::Caller);
    bed.dockerfile("FROM alpine\nCOPY --link hello /\n").build(&["-t", "app"]).succeeds();
    let told: serde_json::Value = serde_json::from_str(&bed.run(&["inspect", "--json", "app"]).succeeds().out).unwrap();
    let base = &told["layers"][0];
    let blob = base["digest"].as_str().unwrap().trim_start_matches("sha256:");
    assert_eq!(base["inStore"], false, "the base is fetched only when it is needed");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nimage) [ $2 = ls ] && echo sha256:1 || echo '[{}]' ;;\ninfo) echo null ;;\n\
         load) cat > ../out/loaded.tar; echo load >> ../out/asked; tar tf ../out/loaded.tar | grep -q {blob} ;;\nesac\n",
        base["diffId"]
    );
    bed.file("tools/docker", script);
    fs::set_permissions(bed.path("context/tools/docker"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bed.path("context/tools").display());
    load(&bed, &[("PATH", path)], &["-t", "app"]).succeeds().says("pull sha256").says("docker has it, and had 0 of ");
    assert_eq!(fs::read_to_string(bed.path("out/asked")).unwrap(), "load\nload\n");
}

#[test]
fn nobody_to_load_into_is_an_error_that_says_who_was_asked() {
    let bed = bed(User::Caller);
    let nothing = tempfile::tempdir().unwrap();
    let environment = [("PATH", nothing.path().display().to_string())];
    let outcome = load(&bed, &environment, &["-t", "app"]);
    outcome.fails().says("docker is not here; podman is not here; nerdctl is not here; ctr is not here").says("type=docker,dest=image.tar");
}
