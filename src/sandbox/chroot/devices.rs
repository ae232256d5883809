//! /dev and /proc of a step that has no mounts: device nodes, pipes for /dev/stdout and /dev/stderr, and the few files of
//! /proc that tell of the machine and not of a process.
//!
//! Of /proc/self there is what is the same for all processes. What asks for the rest (bash's `<(..)`, `ps`) finds nothing, as
//! in any chroot without /proc; the host's processes are not shown either. Unaware of where the directories go.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::super::outcome::{During, InitError};

/// Character devices by name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// What is copied from our /proc.
const TOLD: [&str; 24] = [
    "cgroups",
    "cpuinfo",
    "devices",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "uptime",
    "version",
    "vmstat",
    "sys/fs/file-max",
    "sys/kernel/cap_last_cap",
    "sys/kernel/hostname",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/kernel/random/boot_id",
    // Another one for each step, not for each time that it is read.
    "sys/kernel/random/uuid",
    "sys/kernel/threads-max",
    "sys/net/core/somaxconn",
    "sys/vm/max_map_count",
    "sys/vm/overcommit_memory",
    "sys/vm/swappiness",
];

/// The reading ends of /dev/stdout and /dev/stderr.
#[derive(Debug)]
pub struct Outputs {
    /// What was written to /dev/stdout.
    pub stdout: OwnedFd,
    /// What was written to /dev/stderr.
    pub stderr: OwnedFd,
}

/// Fills an empty directory that will be /dev.
pub fn make_dev(directory: &Path) -> Result<Outputs, InitError> {
    for (name, major, minor) in DEVICES {
        make_device(&directory.join(name), major, minor).during(&format!("make the device /dev/{name}"))?;
    }
    for (name, mode) in [("shm", 0o1777), ("pts", 0o755), ("mqueue", 0o1777), ("pipes", 0o755)] {
        let path = directory.join(name);
        fs::create_dir(&path).and_then(|()| set_mode(&path, mode)).during("make a directory in /dev")?;
    }
    symlink("null", directory.join("stdin")).during("make a link in /dev")?;
    let output = |name: &str| make_pipe(&directory.join(name)).during(&format!("make the pipe /dev/{name}"));
    Ok(Outputs { stdout: output("stdout")?, stderr: output("stderr")? })
}

fn make_device(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), rustix::fs::makedev(major, minor))?;
    set_mode(path, 0o666)
}

/// A pipe that is open on both sides here: nobody who writes into it has to wait for a reader.
fn make_pipe(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::empty(), 0)?;
    set_mode(path, 0o666)?;
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// Fills an empty directory that will be /proc. What this kernel does not tell is left out.
pub fn make_proc(directory: &Path) -> Result<(), InitError> {
    for name in TOLD {
        let Ok(text) = fs::read(Path::new("/proc").join(name)) else { continue };
        let path = directory.join(name);
        let write = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(directory))?;
            fs::write(&path, &text)?;
            set_mode(&path, 0o444)
        };
        write().during("make a file of /proc")?;
    }
    let own = || -> io::Result<()> {
        fs::create_dir(directory.join("self"))?;
        fs::write(directory.join("self/mounts"), "rootfs / rootfs rw 0 0\n")?;
        fs::write(directory.join("self/mountinfo"), "1 1 0:1 / / rw - rootfs rootfs rw\n")?;
        symlink("self/mounts", directory.join("mounts"))
    };
    own().during("make a file of /proc")
}

pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
