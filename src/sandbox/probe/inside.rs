//! Gates that are seen after entering: mounts, the store's file system, emulators, the network.
//! Unaware of how we got in.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;
use rustix::mount::MountAttrFlags;

use super::{
    Findings, Gate, ProbeOptions,
    advice::{self, Container, Runner},
    said,
};
use crate::{
    sandbox::{
        enter::{self, EnterError, Rung},
        network::{self, DefaultNetwork},
    },
    sys::{
        mountns::{self, Upper},
        process,
    },
};

/// Below this the store is likely to run full in one build.
const LITTLE_SPACE_BYTES: u64 = 2 << 30;

/// Enters, then probes. The caller is a copy that ends afterwards.
pub fn findings(options: &ProbeOptions) -> Findings {
    let entered = match enter::enter(&enter::Options { rung: options.rung, runner: options.runner }) {
        Ok(entered) => entered,
        Err(error) => {
            let obstacle = match &error {
                EnterError::OutOfReach { obstacle, .. } => obstacle.as_deref().cloned(),
                EnterError::Broken(_) => None,
            };
            return Findings { rung: None, reason: Some(error.to_string()), obstacle, gates: Vec::new() };
        }
    };
    let directory = probe_directory(&options.store);
    let mut gates = Vec::new();
    if entered.rung >= Rung::Single {
        gates.extend([proc(), tmpfs(), overlay(&directory), binfmt(options)]);
    }
    if entered.rung == Rung::Chroot {
        gates.push(devices(&directory, options.runner));
    }
    gates.extend([reflink(&directory), disk(&directory), tun()]);
    if entered.rung >= Rung::Single {
        // Last: it starts threads.
        gates.push(private_network());
    }
    Findings { rung: Some(entered.rung.to_string()), reason: entered.reason, obstacle: entered.obstacle, gates }
}

/// The `chroot` rung has no mounts: its /dev is made of device nodes.
fn devices(directory: &Path, runner: Option<Runner>) -> Gate {
    let gate = Gate::new("devices", &format!("mknod and open the null device in {}", directory.display()));
    let tried = || -> io::Result<()> {
        let top = tempfile::Builder::new().prefix(".rbuild-probe-").tempdir_in(directory)?;
        let path = top.path().join("null");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
        fs::OpenOptions::new().write(true).open(path).map(drop)
    };
    match tried() {
        Ok(()) => gate.open("ok", "RUN has /dev/null and its kin"),
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => gate.closed(
            said(&error),
            "devices cannot be opened there (nodev): no RUN",
            Some("put the store on a file system without nodev; RBUILD_STORE names the place".into()),
        ),
        Err(error) => gate.closed(said(&error), "no RUN without /dev/null", Some(advice::capability("MKNOD", runner))),
    }
}

fn tun() -> Gate {
    let gate = Gate::new("tun", "open /dev/net/tun");
    match File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => gate.open("ok", "pasta can make a network"),
        Err(error) => {
            let fix = match (error.raw_os_error(), advice::container()) {
                (Some(libc::EACCES), _) => "sudo chmod 0666 /dev/net/tun",
                (_, Some(Container::Kubernetes)) => "a device plugin that gives the pod /dev/net/tun",
                (_, Some(_)) => "docker run --device /dev/net/tun ..",
                (_, None) => "sudo modprobe tun",
            };
            gate.detour(said(&error), "no private network: RUN shares ours", Some(fix.into()))
        }
    }
}

/// The store, or the nearest directory above it that exists.
fn probe_directory(store: &Path) -> PathBuf {
    store.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn proc() -> Gate {
    let gate = Gate::new("proc", "mount a new /proc in a new pid namespace");
    let tried = || -> io::Result<bool> {
        // Forks after an unshare land in the new pid namespace; one copy makes the namespace, the next is in it.
        let outer = process::fork(|| {
            let inner = nix::sched::unshare(CloneFlags::CLONE_NEWPID)
                .map_err(io::Error::from)
                .and_then(|()| process::fork(|| i32::from(mountns::new_filesystem("proc", &[], MountAttrFlags::empty()).is_err())));
            inner.and_then(|pid| process::wait_for(Some(pid))).ok().and_then(|ended| ended.code).unwrap_or(1)
        })?;
        Ok(process::wait_for(Some(outer))?.code == Some(0))
    };
    match tried() {
        Ok(true) => gate.open("ok", "RUN sees its own processes only"),
        Ok(false) => gate.detour(
            "refused: parts of our own /proc are masked",
            "RUN sees the outer /proc",
            match advice::container() {
                Some(Container::Kubernetes) => Some("securityContext: {procMount: Unmasked} (with hostUsers: false)".into()),
                Some(_) => Some("docker run --security-opt systempaths=unconfined ..".into()),
                None => None,
            },
        ),
        Err(error) => gate.detour(said(&error), "RUN sees the outer /proc", None),
    }
}

fn tmpfs() -> Gate {
    let gate = Gate::new("tmpfs", "make a tmpfs");
    match mountns::new_filesystem("tmpfs", &[("size", "64k")], MountAttrFlags::empty()) {
        Ok(_) => gate.open("ok", "secrets stay in memory"),
        Err(error) => gate.closed(said(&error), "no secret, tmpfs or heredoc mounts", None),
    }
}

fn overlay(directory: &Path) -> Gate {
    let gate = Gate::new("overlay", &format!("mount an overlay with its upper directory in {}", directory.display()));
    let tried = || -> io::Result<()> {
        let top = tempfile::Builder::new().prefix(".rbuild-probe-").tempdir_in(directory)?;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| top.path().join(name));
        for path in [&lower, &upper, &work] {
            fs::create_dir(path)?;
        }
        let lower = mountns::open_directory(&lower)?;
        let upper = Some(Upper { upper: &upper, work: &work, volatile: true });
        mountns::overlay(&[lower.as_fd()], upper, MountAttrFlags::empty())?;
        Ok(())
    };
    match tried() {
        Ok(()) => gate.open("ok", "a step costs what it changes"),
        Err(error) => {
            let kind = fs::read_to_string("/proc/self/mountinfo").map(|text| file_system_of(&text, directory)).unwrap_or_default();
            let fix = match kind.as_str() {
                "overlay" => Some("put the store on a volume (emptyDir, docker run -v); RBUILD_STORE names the place".to_owned()),
                "nfs" | "nfs4" | "cifs" => Some("put the store on a local disk; RBUILD_STORE names the place".to_owned()),
                _ => None,
            };
            gate.detour(format!("{} (on {kind})", said(&error)), "each step starts from a copy of its root", fix)
        }
    }
}

/// The type of the file system that a path is on.
fn file_system_of(mountinfo: &str, path: &Path) -> String {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mount_point = Path::new(left.split_whitespace().nth(4)?);
        path.starts_with(mount_point).then(|| (mount_point.as_os_str().len(), right.split_whitespace().next().unwrap_or("")))
    });
    // Of two mounts in one place, the later one is on top.
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

fn reflink(directory: &Path) -> Gate {
    let gate = Gate::new("reflink", &format!("clone a file in {}", directory.display()));
    let tried = || -> io::Result<()> {
        let top = tempfile::Builder::new().prefix(".rbuild-probe-").tempdir_in(directory)?;
        fs::write(top.path().join("a"), [1; 4096])?;
        let (from, to) = (File::open(top.path().join("a"))?, File::create(top.path().join("b"))?);
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    };
    match tried() {
        Ok(()) => gate.open("ok", "copies share their blocks"),
        Err(error) => gate.detour(
            said(&error),
            "copies cost time and space; only matters where overlay is closed",
            Some("put the store on btrfs or XFS; RBUILD_STORE names the place".into()),
        ),
    }
}

fn binfmt(options: &ProbeOptions) -> Gate {
    let gate = Gate::new("binfmt_misc", "binfmt_misc of our own, qemu in PATH, what the host has registered");
    let own = mountns::new_filesystem("binfmt_misc", &[], MountAttrFlags::empty());
    let installed: Vec<&str> = ["aarch64", "arm", "riscv64", "ppc64le", "s390x", "x86_64"]
        .into_iter()
        .filter(|arch| options.find(&format!("qemu-{arch}-static")).is_some())
        .collect();
    let host = fs::read_dir("/proc/sys/fs/binfmt_misc")
        .map_or(0, |entries| entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("qemu-")).count());
    let said = format!(
        "own: {}; qemu here: {}; registered on the host: {host}",
        own.as_ref().map_or_else(ToString::to_string, |_| "ok".to_owned()),
        if installed.is_empty() { "none".to_owned() } else { installed.join(" ") }
    );
    match (own.is_ok() && !installed.is_empty(), host > 0) {
        (true, _) => gate.open(said, "RUN for other platforms works without registration"),
        (false, true) => gate.open(said, "RUN works for the platforms that the host has registered"),
        (false, false) => gate.detour(said, "RUN works for this machine's platform only", Some(emulators())),
    }
}

/// How to get emulators of other processors.
pub fn emulators() -> String {
    format!("sudo {}", advice::install(("qemu-user-static", "qemu-user-static", "qemu-aarch64", "qemu-user-static-binfmt")))
}

fn disk(directory: &Path) -> Gate {
    let gate = Gate::new("disk", &format!("free space in {}", directory.display()));
    match rustix::fs::statvfs(directory) {
        Err(error) => gate.closed(said(&error.into()), "the store cannot be used", None),
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let found = format!("{:.1} GB, {} inodes", free as f64 / 1e9, stat.f_favail);
            let few_inodes = stat.f_files > 0 && stat.f_favail < 100_000;
            if free < LITTLE_SPACE_BYTES || few_inodes {
                gate.closed(found, "a build is likely to fill it", Some("rbuild prune, or RBUILD_STORE on a larger disk".into()))
            } else {
                gate.open(found, "enough to start")
            }
        }
    }
}

fn private_network() -> Gate {
    let gate = Gate::new("network", "start pasta on a network namespace");
    match network::default_network() {
        DefaultNetwork::Private { .. } => gate.open("ok", "RUN cannot reach the host's loopback"),
        DefaultNetwork::Host { reason } => {
            let fix = if reason.contains("not installed") {
                Some(format!("sudo {}", advice::install(("passt", "passt", "passt", "passt"))))
            } else if reason.contains("tun") {
                Some("sudo chmod 0666 /dev/net/tun".to_owned())
            } else {
                None
            };
            gate.detour(reason.clone(), "RUN shares the host's network", fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_path_is_that_of_the_innermost_mount() {
        let text = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:5 / /var/lib rw shared:1 - overlay overlay rw\n31 27 0:6 / /var/lib rw - xfs x rw\n";
        assert_eq!(file_system_of(text, Path::new("/home/x")), "ext4");
        assert_eq!(file_system_of(text, Path::new("/var/lib/store")), "xfs");
        assert_eq!(file_system_of(text, Path::new("/var/library")), "ext4");
    }
}
