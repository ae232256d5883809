//! The root of a step and the kernel's file systems in it: /dev, /sys and, once there is a pid namespace, /proc.
//!
//! All is mounted by descriptor below the root's own descriptor; masked and read-only paths are checked to be what
//! they claim before they are covered. Unaware of the step's own mounts.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::MountAttrFlags,
};

use super::{
    outcome::{During, InitError},
    spec::RootFs,
    stubs::{Shape, Stubs},
};
use crate::sys::{
    mountns::{self, Upper},
    root::RootDir,
};

/// For mounts that are only looked at.
const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV);

const PROC_MAGIC: i64 = 0x9fa0;
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// Devices taken from the host: a user namespace cannot make its own.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// What Docker hides by default, and what a bound /sys of the host would show.
const MASKED: [&str; 17] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/fs/bpf",
    "sys/fs/pstore",
    "sys/kernel/debug",
    "sys/kernel/security",
    "sys/kernel/tracing",
];

const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// The root as a detached mount, and a directory of ours on which things can be mounted meanwhile.
#[derive(Debug)]
pub struct OpenRoot {
    /// Detached root mount.
    pub mount: OwnedFd,
    /// A mount point in this mount namespace.
    pub staging: OwnedFd,
}

/// Opens the root that the spec names.
pub fn open(rootfs: &RootFs) -> Result<OpenRoot, InitError> {
    match rootfs {
        RootFs::Directory(path) => {
            let staging = mountns::open_directory(path).during("open the root directory")?;
            Ok(OpenRoot { mount: mountns::clone_tree(&staging).during("clone the root directory")?, staging })
        }
        RootFs::Overlay { lowers, upper, work, volatile } => {
            let staging = mountns::open_directory(work).during("open the overlay's work directory")?;
            if lowers.is_empty() {
                let upper = mountns::open_directory(upper).during("open the upper directory")?;
                return Ok(OpenRoot { mount: mountns::clone_tree(upper).during("clone the upper directory")?, staging });
            }
            let opened: io::Result<Vec<OwnedFd>> = lowers.iter().map(|path| mountns::open_directory(path)).collect();
            let opened = opened.during("open a lower directory")?;
            let lowers: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
            let upper = Some(Upper { upper, work, volatile: *volatile });
            let mount = mountns::overlay_on(work, &lowers, upper, MountAttrFlags::empty()).during("mount the overlay")?;
            Ok(OpenRoot { mount, staging })
        }
    }
}

/// A directory in which nothing is and nothing can be made.
pub fn empty_directory() -> io::Result<OwnedFd> {
    mountns::new_filesystem("tmpfs", &[("size", "4k"), ("mode", "0555")], INERT)
}

/// Mounts a minimal /dev.
pub fn mount_dev(root: &RootDir, stubs: &mut Stubs, shm_size_bytes: u64) -> Result<(), InitError> {
    let target = stubs.open_or_make(root, Path::new("/dev"), Shape::Directory).during("make /dev")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = mountns::new_filesystem("tmpfs", &[("mode", "0755"), ("size", "65536k")], attributes).during("make a tmpfs for /dev")?;
    mountns::attach(&dev, target).during("mount /dev")?;
    for name in DEVICES {
        let file = rustix::fs::openat(&dev, name, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666));
        let file = file.during("make a device file")?;
        let device = mountns::clone_host_path(&Path::new("/dev").join(name)).during("take a device from the host")?;
        mountns::attach(device, file).during("mount a device")?;
    }
    for (name, target) in DEVICE_LINKS {
        rustix::fs::symlinkat(target, &dev, name).during("make a link in /dev")?;
    }
    let nothing = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NODEV;
    let sub = |name: &str, mount: OwnedFd| -> Result<(), InitError> {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).during("make a directory in /dev")?;
        let target = rustix::fs::openat(&dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open a directory in /dev")?;
        mountns::attach(mount, target).during("mount below /dev")
    };
    sub("pts", new_devpts().during("make a devpts")?)?;
    let size = shm_size_bytes.to_string();
    sub("shm", mountns::new_filesystem("tmpfs", &[("mode", "1777"), ("size", &size)], nothing).during("make a tmpfs for /dev/shm")?)?;
    // A kernel without message queues is no reason to stop.
    if let Ok(queue) = mountns::new_filesystem("mqueue", &[], nothing) {
        sub("mqueue", queue)?;
    }
    Ok(())
}

fn new_devpts() -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    mountns::new_filesystem("devpts", &options, attributes)
        // With one id there is no group tty.
        .or_else(|_| mountns::new_filesystem("devpts", &options[..3], attributes))
}

/// Mounts /sys read-only: our own where the network namespace is ours, else the host's.
pub fn mount_sys(root: &RootDir, stubs: &mut Stubs, network_is_ours: bool) -> Result<(), InitError> {
    let target = stubs.open_or_make(root, Path::new("/sys"), Shape::Directory).during("make /sys")?;
    let own = if network_is_ours { mountns::new_filesystem("sysfs", &[], INERT).ok() } else { None };
    let is_own = own.is_some();
    let sys = match own {
        Some(sys) => sys,
        None => {
            let sys = mountns::clone_host_path(Path::new("/sys")).during("bind /sys")?;
            mountns::add_attributes(&sys, INERT, true).during("make /sys read-only")?;
            sys
        }
    };
    mountns::attach(&sys, target).during("mount /sys")?;
    if is_own && let Ok(cgroup) = mountns::new_filesystem("cgroup2", &[], INERT) {
        let target = rustix::fs::openat(&sys, "fs/cgroup", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open /sys/fs/cgroup")?;
        mountns::attach(cgroup, target).during("mount /sys/fs/cgroup")?;
    }
    Ok(())
}

/// Whose processes a /proc shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// Those of the step.
    Own,
    /// Those of the container that we are in, by other numbers.
    Outer,
}

/// Mounts /proc of the pid namespace that the caller is in; where that is refused (a container that masks its own /proc)
/// the outer /proc.
pub fn mount_proc(target: impl AsFd) -> Result<Proc, InitError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NODEV;
    let (proc, whose) = match mountns::new_filesystem("proc", &[], attributes) {
        Ok(proc) => (proc, Proc::Own),
        Err(_) => (mountns::clone_host_path(Path::new("/proc")).during("bind /proc")?, Proc::Outer),
    };
    mountns::attach(proc, target).during("mount /proc")?;
    Ok(whose)
}

/// Covers what the kernel shows to everybody and a build step has no business with.
pub fn mask(root: &RootDir) -> Result<(), InitError> {
    // One file system for all directories: to make and to end one takes longer than all the rest.
    let mut empty: Option<OwnedFd> = None;
    for path in MASKED {
        let Some((fd, is_directory)) = open_kernel_path(root, path)? else { continue };
        let cover = match &empty {
            _ if !is_directory => mountns::clone_host_path(Path::new("/dev/null")),
            Some(mounted) => mountns::clone_tree(mounted),
            None => empty_directory(),
        };
        let cover = cover.during("make a mask")?;
        mountns::attach(&cover, fd).during("mask a path")?;
        if is_directory {
            empty.get_or_insert(cover);
        }
    }
    for path in READ_ONLY {
        let Some((fd, _)) = open_kernel_path(root, path)? else { continue };
        let same = mountns::clone_tree(&fd).during("clone a kernel path")?;
        mountns::add_attributes(&same, INERT, true).during("make a kernel path read-only")?;
        mountns::attach(same, fd).during("mount a read-only kernel path")?;
    }
    Ok(())
}

/// Opens a path of /proc or /sys; it must be on that file system, else something has been put in its place.
fn open_kernel_path(root: &RootDir, path: &str) -> Result<Option<(OwnedFd, bool)>, InitError> {
    let fd = match root.open_in(Path::new(path), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => return Ok(None),
        Err(error) => return Err(error).during("open a kernel path"),
    };
    let magic = mountns::filesystem_magic(&fd).during("look at a kernel path")?;
    let stat = rustix::fs::fstat(&fd).during("look at a kernel path")?;
    let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let expected = if path.starts_with("proc/") { PROC_MAGIC } else { SYSFS_MAGIC };
    if magic == expected {
        return Ok(Some((fd, is_directory)));
    }
    // Below a bound /sys or /proc other file systems are mounted (debugfs, a container's own masks); those are covered too.
    let own = root.open_in(Path::new(&path[..path.find('/').unwrap_or(0)]), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
    let own = mountns::filesystem_magic(own.during("open a kernel path")?).during("look at a kernel path")?;
    if own == expected { Ok(Some((fd, is_directory))) } else { Err(InitError::Disguised { path: format!("/{path}") }) }
}
