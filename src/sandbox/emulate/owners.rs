//! Owners and devices of files that cannot have them: read and written by path.
//! Unaware of which call asks.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, XattrFlags},
    io::Errno,
};

use crate::sys::recorded::{self, DEVICE, OWNER};

/// Whether a path's last link is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// What it leads to.
    Followed,
    /// The link itself.
    Itself,
}

/// The recorded owner; None where nothing is recorded, also for what cannot have a record.
pub fn owner(path: &Path, last: Last) -> Option<(u32, u32)> {
    get(path, last, OWNER).map(|bytes| recorded::decode_owner(&bytes))
}

/// The device that a file stands for: `S_IFCHR` or `S_IFBLK`, major, minor.
pub fn device(path: &Path, last: Last) -> Option<(u32, u32, u32)> {
    let text = String::from_utf8(get(path, last, DEVICE)?).ok()?;
    let mut parts = text.split(':');
    let kind = if parts.next()? == "b" { libc::S_IFBLK } else { libc::S_IFCHR };
    Some((kind, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether anything is written down: one call for the many files where nothing is.
pub fn has_record(path: &Path, last: Last) -> bool {
    let mut names = [0; 1024];
    let length = match last {
        Last::Followed => rustix::fs::listxattr(path, &mut names),
        Last::Itself => rustix::fs::llistxattr(path, &mut names),
    };
    match length {
        Ok(0) => false,
        Ok(length) => names[..length].split(|byte| *byte == 0).any(|name| name == OWNER.as_bytes() || name == DEVICE.as_bytes()),
        // More names than fit: look for ours.
        Err(Errno::RANGE) => true,
        Err(_) => false,
    }
}

fn get(path: &Path, last: Last, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let length = match last {
        Last::Followed => rustix::fs::getxattr(path, name, &mut value[..]),
        Last::Itself => rustix::fs::lgetxattr(path, name, &mut value[..]),
    };
    length.ok().map(|length| value[..length].to_vec())
}

/// Changes the owner as `chown` does; `u32::MAX` keeps an id.
pub fn change_owner(path: &Path, last: Last, uid: u32, gid: u32) -> Result<(), Errno> {
    let flags = if last == Last::Itself { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    let ids = |id: u32| (id != u32::MAX).then_some(0);
    let real = (ids(uid).map(rustix::fs::Uid::from_raw), ids(gid).map(rustix::fs::Gid::from_raw));
    // The real call has the right errors, and takes set-id bits and file capabilities away.
    rustix::fs::chownat(CWD, path, real.0, real.1, flags)?;
    let (old_uid, old_gid) = owner(path, last).unwrap_or_default();
    let pick = |new: u32, old: u32| if new == u32::MAX { old } else { new };
    record_owner(path, last, pick(uid, old_uid), pick(gid, old_gid))
}

/// Gives a file to somebody: really where the id exists, else by writing it down.
pub fn give(directory: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
    let (user, group) = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
    match rustix::fs::chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
            record_owner(&path, Last::Itself, uid, gid)
        }
        result => result,
    }
}

/// Writes an owner down. Links, sockets and pipes cannot carry a record: they stay root's.
pub fn record_owner(path: &Path, last: Last, uid: u32, gid: u32) -> Result<(), Errno> {
    let result = match (last, (uid, gid)) {
        (Last::Followed, (0, 0)) => rustix::fs::removexattr(path, OWNER),
        (Last::Itself, (0, 0)) => rustix::fs::lremovexattr(path, OWNER),
        (Last::Followed, _) => rustix::fs::setxattr(path, OWNER, &recorded::encode_owner(uid, gid), XattrFlags::empty()),
        (Last::Itself, _) => rustix::fs::lsetxattr(path, OWNER, &recorded::encode_owner(uid, gid), XattrFlags::empty()),
    };
    match result {
        Err(Errno::NODATA | Errno::PERM | Errno::NOTSUP) => Ok(()),
        result => result,
    }
}

/// Makes the file that stands for a device.
pub fn make_device(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let kind = if mode & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' };
    let text = format!("{kind}:{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    rustix::fs::fsetxattr(&file, DEVICE, text.as_bytes(), XattrFlags::empty())?;
    file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
}
