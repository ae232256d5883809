//! Races of the security list, run against the sandbox itself: thousands of mounts in the time of one build.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
};

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use rbuild::sandbox::{DefaultNetwork, MountKind, Network, Spec, default_network};
use rbuild::sys::landlock::{self, Scope};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Box, by_python, mount, output};

/// As many mounts as one step makes of a source.
const MOUNTS: usize = 100;

/// How many mounts race; `RBUILD_RACE_ROUNDS=100000` for a release.
fn rounds() -> usize {
    std::env::var("RBUILD_RACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// CVE-2024-23651: the source is a directory when it is looked at and a link when it is mounted, or the other way round.
/// Inside its tree the link's target exists too, so that every mount works and shows what it is of.
pub fn item_22_a_source_that_is_swapped_while_it_is_mounted() {
    let case = Box::new();
    let outside = case.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside\n").unwrap();
    let inside = case.path("source").join(outside.strip_prefix("/").unwrap());
    fs::create_dir_all(&inside).unwrap();
    fs::create_dir(case.path("source/real")).unwrap();
    fs::write(inside.join("file"), "inside\n").unwrap();
    fs::write(case.path("source/real/file"), "inside\n").unwrap();
    symlink(&outside, case.path("source/link")).unwrap();
    let mut spec = case.spec("cat /m*/file | sort | uniq -c | tr -s ' '");
    let bind = || MountKind::Bind { source: case.source(), subpath: "real".into(), read_only: false };
    spec.mounts = (0..MOUNTS).map(|number| mount(&format!("/m{number}"), bind())).collect();
    let (stop, swaps) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, link) = (case.path("source/real"), case.path("source/link"));
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // The swaps go on until they are told to end, also when an assertion fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        for _ in 0..rounds().div_ceil(MOUNTS) {
            assert_eq!(output(&spec), format!(" {MOUNTS} inside\n"));
        }
    });
    println!("    {} mounts, {} swaps", rounds().div_ceil(MOUNTS) * MOUNTS, swaps.load(Ordering::Relaxed));
}

/// The host's network is not asked for: then its abstract sockets are not, even where there is no other network.
pub fn item_37_abstract_sockets_outside_are_out_of_reach() {
    let name = format!("rbuild-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let python = format!(
        "import socket\ndef reach(name):\n  s = socket.socket(socket.AF_UNIX)\n  try: s.connect(name); return 'reached'\n  except OSError as e: return e.errno\n\
        own = socket.socket(socket.AF_UNIX); own.bind('\\0own'); own.listen()\nprint(reach('\\0{name}'), reach('\\0own'))"
    );
    let reached = |network: Network| {
        let case = Box::new();
        by_python(Spec { network, ..case.spec("") }, &python)
    };
    let Some(text) = reached(Network::Host) else { return };
    assert_eq!(text, "reached reached\n");
    let is_private = matches!(default_network(), DefaultNetwork::Private { .. });
    // It holds for the thread that asks, which ends.
    let restrict = || landlock::restrict(&[Scope::AbstractSockets]).is_ok();
    let expected = match (is_private, std::thread::spawn(restrict).join().unwrap()) {
        (true, _) => "111 reached\n",
        (false, true) => "1 reached\n",
        (false, false) => return println!("    not tried: no private network and no Landlock scopes (Linux 6.12) here"),
    };
    assert_eq!(reached(Network::Default).unwrap(), expected);
}
