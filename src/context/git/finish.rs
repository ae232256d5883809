//! Makes a checkout independent of when and by whom it was made: modes, times, no traces of git; and finds a
//! subdirectory in it without trusting its links. Unaware of git itself.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use crate::sys::{
    remove::remove_at,
    root::RootDir,
    walk::{Decision, Entry, WalkError, walk},
};

/// Sets the modes git knows (755 and 644, whatever the umask) and one time on everything below `root`, and on `root`.
pub(super) fn settle(root: &RootDir, time_seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: time_seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let mut take = |_: &Path, _: FileType| Decision::Take;
    let mut visit = |entry: &Entry<'_>| -> Result<(), Problem> {
        let executable = entry.stat.st_mode & 0o100 != 0;
        let mode = Mode::from_raw_mode(if entry.file_type() == FileType::Directory || executable { 0o755 } else { 0o644 });
        if entry.file_type() != FileType::Symlink {
            rustix::fs::chmodat(entry.parent, entry.name, mode, AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(entry.parent, entry.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    };
    walk(root.as_fd(), &mut take, &mut visit).map_err(|problem| problem.0)?;
    // Nothing is created any more: the order does not matter.
    rustix::fs::chmodat(root.as_fd(), ".", Mode::from_raw_mode(0o755), AtFlags::empty())?;
    rustix::fs::utimensat(root.as_fd(), ".", &times, AtFlags::empty())?;
    Ok(())
}

/// Removes `.git` of the repository and of its submodules.
pub(super) fn remove_git(root: &RootDir) -> io::Result<()> {
    let mut take = |_: &Path, _: FileType| Decision::Take;
    let mut found = Vec::new();
    let mut visit = |entry: &Entry<'_>| -> Result<(), Problem> {
        if entry.name == c".git" {
            found.push(entry.path.to_owned());
        }
        Ok(())
    };
    walk(root.as_fd(), &mut take, &mut visit).map_err(|problem| problem.0)?;
    for path in found {
        match root.parent_in(&path) {
            Ok((parent, _)) => remove_at(parent.as_fd(), c".git")?,
            // Gone with a `.git` above it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens a directory by its path in the repository. Each part must be a directory of the repository: links are not
/// followed, so no commit can point a build elsewhere.
pub(super) fn subdirectory(root: &RootDir, path: &Path) -> io::Result<RootDir> {
    let mut directory: OwnedFd = root.as_fd().try_clone_to_owned()?;
    for component in path.components() {
        let name: &OsStr = match component {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            _ => return Err(Errno::XDEV.into()),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
    }
    Ok(RootDir::from_fd(directory))
}

struct Problem(io::Error);

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        Self(errno.into())
    }
}

impl From<WalkError> for Problem {
    fn from(error: WalkError) -> Self {
        Self(io::Error::new(error.source.kind(), error.to_string()))
    }
}
