//! Processes that share a store and are killed at any moment. The children are this test binary again.

use std::{
    env, fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{CacheSharing, FactsRecord, LeaseKind, PruneOptions, SnapshotId, Store, StoreError, temporary::unique};
use crate::oci::{Annotations, Descriptor, Digest, Index, media_type};

const STORE: &str = "RBUILD_KILL_TEST_STORE";
const ROLE: &str = "RBUILD_KILL_TEST_ROLE";

/// More than a child lives for.
const ROUNDS: u64 = 100_000;

fn spawn(role: &str, store: &Path) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "store::kill_tests::child", "--ignored", "--nocapture", "--quiet"]);
    command.env(STORE, store).env(ROLE, role).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Not a test: what the children of the tests below do until they are killed.
#[test]
#[ignore = "run by the tests that kill it"]
fn child() {
    let (Ok(root), Ok(role)) = (env::var(STORE), env::var(ROLE)) else { return };
    let root = Path::new(&root);
    match role.as_str() {
        "writer" => (0..ROUNDS).for_each(|round| write_round(root, round % 7).unwrap()),
        "collector" => (0..ROUNDS).for_each(|round| collect_round(root, round).unwrap()),
        "once" => build_once(root),
        "mapped" => mapped(root),
        other => panic!("no role {other}"),
    }
}

/// What a build does to a store. Contents repeat between processes, so that they race for the same names.
fn write_round(root: &Path, round: u64) -> Result<(), StoreError> {
    let store = Store::open(root)?;
    let mut writer = store.blob_writer()?;
    for _ in 0..20 {
        writer.write_all(&[round as u8; 10_000]).expect("there is space");
    }
    let (layer, size) = writer.complete()?;
    let own = store.put_blob(unique().as_bytes())?;
    let manifests = vec![Descriptor::new("x", layer.clone(), size), Descriptor::new("x", own, 16)];
    let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX.into(), manifests, annotations: Annotations::new() };
    let bytes = index.to_bytes();
    let descriptor = Descriptor::new(media_type::OCI_INDEX, store.put_blob(&bytes)?, bytes.len() as u64);
    store.tag(&format!("app{round}").parse().expect("a name"), &descriptor)?;
    let draft = store.new_snapshot()?;
    for number in 0..20 {
        fs::write(draft.fs().join(format!("{number}")), "x").expect("there is space");
    }
    let path = draft.commit(&SnapshotId::of_key("test", &round.to_string()))?;
    assert_eq!(fs::read_dir(path.join("fs")).expect("held").count(), 20);
    let key = round.to_string();
    store.record_step(&key, "{}", &[layer])?;
    store.record_facts(&[FactsRecord { step: "step".into(), key, facts: "{}".into(), recorded_unix: round }])?;
    let mount = store.cache_mount::<StoreError>("id", CacheSharing::Private, |_| Ok(()))?;
    fs::write(mount.expect("nobody else has it").path().join("file"), "x").expect("held");
    store.new_build_log()?.write_report(b"{}")
}

fn collect_round(root: &Path, round: u64) -> Result<(), StoreError> {
    let store = Store::open(root)?;
    let all = round.is_multiple_of(5);
    store.prune(&PruneOptions { all, ..PruneOptions::default() }).map(drop)
}

/// Starts `role` anew for each child that has ended, and says what one that failed by itself said.
fn replace_dead(children: &mut [(&'static str, Child)], root: &Path) {
    for (role, child) in children {
        if child.try_wait().unwrap().is_some() {
            let old = std::mem::replace(child, spawn(role, root));
            let output = old.wait_with_output().unwrap();
            assert!(output.stderr.is_empty(), "a {role} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn writers_and_a_collector_killed_at_any_moment_leave_a_sound_store() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("store");
    let roles = ["writer", "writer", "writer", "writer", "writer", "writer", "writer", "writer", "collector"];
    let mut children: Vec<_> = roles.iter().map(|role| (*role, spawn(role, &root))).collect();
    let end = Instant::now() + Duration::from_secs(4);
    let mut victim = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(7 + victim as u64 * 13 % 40));
        victim = (victim + 5) % children.len();
        children[victim].1.kill().unwrap();
        children[victim].1.wait().unwrap();
        replace_dead(&mut children, &root);
    }
    for (_, child) in &mut children {
        child.kill().unwrap();
    }
    for (role, child) in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "a {role} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let store = Store::open(&root).unwrap();
    assert_eq!(store.fsck().unwrap(), []);
    write_round(&root, 1).unwrap();
    assert!(!store.images().unwrap().is_empty());
    store.gc(u64::MAX).unwrap();
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).unwrap();
    assert_eq!(store.fsck().unwrap(), []);
}

/// Builds a step if nobody has, as two builds of the same Dockerfile do.
fn build_once(root: &Path) {
    let store = Store::open(root).unwrap();
    let _lease = store.lease(LeaseKind::Step, "step").unwrap();
    if store.step("step").unwrap().is_none() {
        let mut log = fs::File::options().append(true).create(true).open(root.join("../ran")).unwrap();
        log.write_all(b"ran\n").unwrap();
        let digest = store.put_blob(b"result").unwrap();
        store.record_step("step", "{}", &[digest]).unwrap();
    }
    assert!(store.has_blob(&Digest::of(b"result")).unwrap());
}

#[test]
fn many_processes_build_a_step_once() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("store");
    let children: Vec<_> = (0..8).map(|_| spawn("once", &root)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read_to_string(top.path().join("ran")).unwrap(), "ran\n");
}

/// A snapshot as a build in a user namespace leaves it, and its removal by the namespace's root.
fn mapped(root: &Path) {
    use std::os::unix::fs::{PermissionsExt, chown};
    let store = Store::open(root).unwrap();
    let draft = store.new_snapshot().unwrap();
    let closed = draft.fs().join("home/closed");
    fs::create_dir_all(&closed).unwrap();
    fs::write(closed.join("file"), "x").unwrap();
    for path in [closed.join("file"), closed.clone(), draft.fs().join("home")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
        chown(&path, Some(1000), Some(1000)).unwrap();
    }
    draft.commit(&SnapshotId::of_key("test", "mapped")).unwrap();
    drop(store);
    let store = Store::open(root).unwrap();
    store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count() + fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    println!("all gone");
}

#[test]
fn files_of_mapped_ids_are_removed_in_the_namespace() {
    use std::io::{BufRead, BufReader, Read};
    let top = tempfile::tempdir().unwrap();
    let script = r#"echo ready; read go; exec "$0" --exact store::kill_tests::child --ignored --nocapture --quiet"#;
    let mut command = Command::new("unshare");
    command.args(["--user", "sh", "-c", script]).arg(env::current_exe().unwrap());
    command.env(STORE, top.path().join("store")).env(ROLE, "mapped").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return eprintln!("skipped: no unshare: {error}"),
    };
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    // Its root is ours, so that it may use the test's directory; all other ids are mapped as for a build.
    let write_map = |name: &str| fs::write(format!("/proc/{}/{name}", child.id()), "0 0 1\n1 100001 65535\n");
    if let Err(error) = write_map("uid_map").and_then(|()| write_map("gid_map")) {
        child.kill().unwrap();
        child.wait().unwrap();
        return eprintln!("skipped: no user namespace with a range of ids: {error}");
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success() && rest.contains("all gone"), "{rest}");
}
