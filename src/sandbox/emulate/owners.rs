//! Owners and devices of files that cannot have them: changed by path.
//! Unaware of which call asks.

use std::{io, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Gid, Uid, XattrFlags},
    io::Errno,
};

use crate::sys::recorded::{self, DEVICE, Last};

/// The device that a file stands for: `S_IFCHR` or `S_IFBLK`, major, minor.
pub fn device(path: &Path, last: Last) -> Option<(u32, u32, u32)> {
    let text = String::from_utf8(recorded::attribute(path, last, DEVICE)?).ok()?;
    let mut parts = text.split(':');
    let kind = if parts.next()? == "b" { libc::S_IFBLK } else { libc::S_IFCHR };
    Some((kind, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Changes the owner as `chown` does; `u32::MAX` keeps an id. Really where the ids exist, for the steps that come later
/// and are not emulated; else by writing it down.
pub fn change_owner(path: &Path, last: Last, uid: u32, gid: u32) -> Result<(), Errno> {
    let flags = if last == Last::Itself { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    // The real call takes a link's record away with its file capabilities.
    let stat = rustix::fs::statat(CWD, path, flags)?;
    let old = recorded::owner(path, last).unwrap_or((stat.st_uid, stat.st_gid));
    let pick = |new: u32, old: u32| if new == u32::MAX { old } else { new };
    let new = (pick(uid, old.0), pick(gid, old.1));
    match rustix::fs::chownat(CWD, path, Some(Uid::from_raw(new.0)), Some(Gid::from_raw(new.1)), flags) {
        Err(Errno::INVAL) => {}
        Ok(()) => return recorded::record(path, last, 0, 0),
        Err(error) => return Err(error),
    }
    // This one has the right errors and takes set-id bits away.
    let ids = |id: u32| (id != u32::MAX).then_some(0);
    rustix::fs::chownat(CWD, path, ids(uid).map(Uid::from_raw), ids(gid).map(Gid::from_raw), flags)?;
    recorded::record(path, last, new.0, new.1)
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
