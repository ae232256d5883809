//! What changed: a draft's upper directory against the layers below it, or one full tree against another.
//!
//! The rules are BuildKit's overlay differ's. A directory that only came up because something in it changed is no
//! change; a file that came up with nothing changed is none either; a whiteout of something that isn't below says
//! nothing; an opaque directory is spelled out as a deletion of each entry that it hides. The root itself is not
//! compared.
//! Unaware of archives.

use std::{
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::{
    Error, disk,
    merged::{MergedDir, MergedEntry},
};
use crate::sys::root::RootDir;

/// Said of a path, in `fs.ChangeKind`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One changed path, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Change {
    pub path: PathBuf,
    pub kind: ChangeKind,
}

/// The changes that `upper`, an overlay's upper directory, makes to `lowers` (top first); sorted as a walk meets them.
pub fn diff_overlay(upper: &RootDir, lowers: &[RootDir]) -> Result<Vec<Change>, Error> {
    diff(upper, lowers, false)
}

/// The changes that make `after` of `before`, two full trees.
pub fn diff_trees(before: &RootDir, after: &RootDir) -> Result<Vec<Change>, Error> {
    let before = before.try_clone().map_err(Error::io("open", Path::new("/")))?;
    diff_merged(after, &[before])
}

/// The changes that make `after`, a full tree, of the merged tree of `lowers`.
pub(super) fn diff_merged(after: &RootDir, lowers: &[RootDir]) -> Result<Vec<Change>, Error> {
    diff(after, lowers, true)
}

fn diff(upper: &RootDir, lowers: &[RootDir], hides_below: bool) -> Result<Vec<Change>, Error> {
    let root = Path::new("");
    let below = MergedDir::root(lowers).map_err(Error::io("open the layers below", root))?;
    let directory = disk::open_directory(upper, c".").map_err(Error::io("open", root))?;
    let mut changes = Vec::new();
    walk(directory.as_fd(), &below, root, hides_below, &mut changes)?;
    Ok(changes)
}

/// `hides_below`: what the layers below have here is not seen through; it is here or it is gone.
fn walk(upper: BorrowedFd<'_>, below: &MergedDir, path: &Path, hides_below: bool, changes: &mut Vec<Change>) -> Result<(), Error> {
    let mut names = disk::list(upper).map_err(Error::io("list", path))?;
    if hides_below {
        names.extend(below.names().map_err(Error::io("list", path))?);
        names.sort_unstable();
        names.dedup();
    }
    for name in names {
        let path = path.join(OsStr::from_bytes(name.as_bytes()));
        let look_up = || Ok((disk::stat_at(upper, &name)?, below.get(&name)?));
        let (stat, base) = look_up().map_err(Error::io::<io::Error>("look up", &path))?;
        let Some(stat) = stat.filter(|stat| !disk::is_whiteout(stat)) else {
            if base.is_some() {
                changes.push(Change { path, kind: ChangeKind::Deleted });
            }
            continue;
        };
        let kind = match &base {
            None => Some(ChangeKind::Added),
            Some(base) => (!is_same(upper, &name, &stat, base).map_err(Error::io("compare", &path))?).then_some(ChangeKind::Modified),
        };
        if let Some(kind) = kind {
            changes.push(Change { path: path.clone(), kind });
        }
        if disk::file_type(&stat) == FileType::Directory {
            let open = || {
                let directory = disk::open_directory(upper, &name)?;
                let is_opaque = hides_below || disk::is_opaque(&directory)?;
                Ok((directory, is_opaque, below.child(&name)?))
            };
            let (directory, is_opaque, below) = open().map_err(Error::io::<io::Error>("open", &path))?;
            walk(directory.as_fd(), &below, &path, is_opaque, changes)?;
        }
    }
    Ok(())
}

/// Whether an entry that exists on both sides is the same. Directories may differ in time, as they do after any copy-up.
fn is_same(upper: BorrowedFd<'_>, name: &CStr, stat: &Stat, base: &MergedEntry<'_>) -> io::Result<bool> {
    let below = &base.stat;
    if (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev) != (below.st_mode, below.st_uid, below.st_gid, below.st_rdev) {
        return Ok(false);
    }
    let kind = disk::file_type(stat);
    if kind == FileType::Directory {
        return has_same_attributes(&open(upper, name, true)?, &open(base.holder, name, true)?);
    }
    let (mtime, mtime_below) = (disk::mtime(stat), disk::mtime(below));
    if stat.st_size != below.st_size || mtime != mtime_below {
        return Ok(false);
    }
    match kind {
        FileType::RegularFile => {
            let (mut file, mut file_below) = (open(upper, name, false)?, open(base.holder, name, false)?);
            if !has_same_attributes(&file, &file_below)? {
                return Ok(false);
            }
            // Layers have whole seconds only, so that equal times prove nothing.
            if mtime.nanoseconds == 0 { has_same_content(&mut file, &mut file_below) } else { Ok(true) }
        }
        _ if owner_at(upper, name) != owner_at(base.holder, name) => Ok(false),
        FileType::Symlink => Ok(rustix::fs::readlinkat(upper, name, Vec::new())? == rustix::fs::readlinkat(base.holder, name, Vec::new())?),
        _ => Ok(true),
    }
}

fn owner_at(parent: BorrowedFd<'_>, name: &CStr) -> Option<(u32, u32)> {
    disk::recorded_owner_at(parent, OsStr::from_bytes(name.to_bytes()))
}

fn open(parent: impl AsFd, name: &CStr, is_directory: bool) -> io::Result<File> {
    let kind = if is_directory { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?))
}

fn has_same_attributes(a: &File, b: &File) -> io::Result<bool> {
    Ok(disk::layer_xattrs(a)? == disk::layer_xattrs(b)?
        && disk::device(a)? == disk::device(b)?
        && disk::recorded_owner(a)? == disk::recorded_owner(b)?)
}

fn has_same_content(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let count = read_full(a, &mut left)?;
        if count != read_full(b, &mut right)? || left[..count] != right[..count] {
            return Ok(false);
        }
        if count < left.len() {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
