//! Copies one entry with all that belongs to it: bytes, owner, mode, attributes (ours too), times.
//! Unaware of trees; hard links between copies are the caller's to keep.

use std::{
    ffi::{CStr, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{Error, apply::Applier, disk};

/// Brings `path` of the layers below into the layer that is being unpacked.
pub(super) fn from_below(applier: &Applier<'_>, path: &Path, parent: &OwnedFd, name: &CStr) -> Result<(), Error> {
    let copy = || {
        let below = applier.below()?.descend(path.parent().unwrap_or(Path::new("")))?;
        match below.get(name)? {
            Some(entry) if !entry.is_directory() => copy_entry(entry.holder, name, &entry.stat, parent, name),
            _ => Ok(()),
        }
    };
    copy().map_err(Error::io("copy up", path))
}

/// Copies anything but a directory to a name that isn't taken.
pub(super) fn copy_entry(from: impl AsFd, from_name: &CStr, stat: &Stat, to: impl AsFd, to_name: &CStr) -> io::Result<()> {
    let (uid, gid) = disk::owner(stat.st_uid, stat.st_gid);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match disk::file_type(stat) {
        FileType::RegularFile => return copy_file(from, from_name, stat, to, to_name),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from, from_name, Vec::new())?;
            rustix::fs::symlinkat(&*target, &to, to_name)?;
            rustix::fs::chownat(&to, to_name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        kind => {
            rustix::fs::mknodat(&to, to_name, kind, Mode::empty(), stat.st_rdev)?;
            rustix::fs::chownat(&to, to_name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::chmodat(&to, to_name, mode, AtFlags::empty())?;
        }
    }
    if let Some((uid, gid)) = disk::recorded_owner_at(&from, OsStr::from_bytes(from_name.to_bytes())) {
        disk::record_owner_at(&to, OsStr::from_bytes(to_name.to_bytes()), uid, gid);
    }
    disk::set_mtime_at(to, to_name, disk::mtime(stat))
}

fn copy_file(from: impl AsFd, from_name: &CStr, stat: &Stat, to: impl AsFd, to_name: &CStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(from, from_name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target = File::from(rustix::fs::openat(to, to_name, flags, Mode::from_raw_mode(0o600))?);
    if stat.st_size > 0 && rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        // The standard library lets the kernel copy where it can.
        io::copy(&mut source, &mut target)?;
    }
    copy_attributes(&source, stat, &target)?;
    Ok(rustix::fs::futimens(&target, &disk::times(disk::mtime(stat)))?)
}

/// Owner, mode and every attribute that can be read and set here.
pub(super) fn copy_attributes(source: impl AsFd, stat: &Stat, target: impl AsFd) -> io::Result<()> {
    let (uid, gid) = disk::owner(stat.st_uid, stat.st_gid);
    rustix::fs::fchown(&target, uid, gid)?;
    rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    // overlayfs's notes are about where the source lies.
    for name in disk::xattr_names(&source)?.into_iter().filter(|name| !name.starts_with(b"user.overlay.")) {
        let Ok(text) = std::str::from_utf8(&name) else { continue };
        let value = match disk::get_xattr(&source, text) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => continue,
            Err(error) => return Err(error),
        };
        // What can't be set here (a security label) isn't ours to carry.
        disk::set_xattr(&target, text.as_bytes(), &value)?;
    }
    Ok(())
}
