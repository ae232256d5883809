//! Files that are made by a process that believes not to be root, or in a directory that hands its group on.
//! All others the kernel makes alone.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::{ids::Ids, target::Target};
use crate::sys::recorded::{self, Last};

/// The owner that a new file at `path` gets; None when it is the real one, root.
pub fn owner_of_new(path: &Path, ids: &Ids) -> Option<(u32, u32)> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let inherited =
        recorded::has_any(parent, Last::Followed).then(|| recorded::owner(parent, Last::Followed)).flatten().map(|(_, gid)| gid);
    let hands_on = inherited.is_some() && std::fs::metadata(parent).is_ok_and(|metadata| metadata.mode() & libc::S_ISGID != 0);
    let gid = inherited.filter(|_| hands_on).unwrap_or(ids.group.effective);
    ((ids.user.effective, gid) != (0, 0)).then_some((ids.user.effective, gid))
}

/// Whether a file may not be made or written by somebody else than root. Whose groups they are in is not known in full: what
/// any group may write is left to them.
pub fn is_refused(path: &Path, ids: &Ids, writes: bool) -> bool {
    if ids.is_root() {
        return false;
    }
    let (of, last) = match rustix::fs::stat(path) {
        Ok(stat) if writes && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => (path, Last::Followed),
        // The kernel says that it is there; and pipes and devices are everybody's.
        Ok(_) => return false,
        Err(_) => (path.parent().unwrap_or(Path::new("/")), Last::Followed),
    };
    let Ok(stat) = rustix::fs::stat(of) else { return false };
    let (owner, _) = recorded::owner(of, last).unwrap_or((stat.st_uid, stat.st_gid));
    let writers = if owner == ids.user.effective { 0o200 } else { 0o022 };
    stat.st_mode & writers == 0
}

/// Opens a file that does not exist yet as the target would, with the owner written down. None: it exists, or cannot be
/// made this way, and the kernel shall say what it has to say.
pub fn open_new(target: Target, path: &Path, flags: u32, mode: u32, owner: (u32, u32)) -> Option<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags);
    if flags.bits() & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32 {
        let fd = rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode & !target.umask())).ok()?;
        recorded::record(&own_path(&fd), Last::Followed, owner.0, owner.1).ok()?;
        return Some(fd);
    }
    let exact = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    // Our own mask is 0: the mode arrives as it is said here.
    let fd = rustix::fs::openat(CWD, path, exact, Mode::from_raw_mode(mode & 0o7777 & !target.umask())).ok()?;
    recorded::record(&own_path(&fd), Last::Followed, owner.0, owner.1).ok()?;
    Some(fd)
}

fn own_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd)))
}

/// Makes a directory as the target would, with the owner written down.
pub fn make_directory(target: Target, path: &Path, mode: u32, owner: (u32, u32)) -> Result<(), Errno> {
    let mode = mode & 0o1777 & !target.umask();
    rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode))?;
    recorded::record(path, Last::Itself, owner.0, owner.1)
}

/// Makes a link as the target would, with the owner written down.
pub fn make_link(content: &OsStr, path: &Path, owner: (u32, u32)) -> Result<(), Errno> {
    rustix::fs::symlinkat(content, CWD, path)?;
    recorded::record(path, Last::Itself, owner.0, owner.1)
}

/// Makes a pipe as the target would, with the owner written down.
pub fn make_pipe(target: Target, path: &Path, mode: u32, owner: (u32, u32)) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode & 0o7777 & !target.umask());
    rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?;
    recorded::record(path, Last::Itself, owner.0, owner.1)
}

/// The mode of a new device file.
pub fn masked(target: Target, mode: u32) -> u32 {
    (mode & libc::S_IFMT) | (mode & 0o7777 & !target.umask())
}
