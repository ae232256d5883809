//! How a layer lies on disk: one directory per layer in the form that overlayfs reads with `userxattr`.
//!
//! | In the layer | On disk |
//! |---|---|
//! | `.wh.x` | `x`, a character device 0:0; where that is refused (the store lies on an overlay), an empty file of mode 0 with xattr `user.overlay.whiteout`, in a directory with `user.overlay.opaque` = `x` (Linux 6.7) |
//! | `.wh..wh..opq` in `d` | xattr `user.overlay.opaque` = `y` on `d` |
//! | a device | an empty file with xattr `user.rbuild.device` = `c:1:3`: nobody may make devices in a user namespace |
//! | an owner that is not mapped | written down as `sys::recorded` does it, where owners are recorded, not set |
//!
//! Attributes of these names never come from a layer and never go into one, so they can't be forged.
//! Unaware of archives.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{Ownership, Timestamp};
use crate::sys::recorded;

const OPAQUE: &str = "user.overlay.opaque";
const WHITEOUT: &str = "user.overlay.whiteout";
const DEVICE: &str = "user.rbuild.device";
const OWNER: &str = "user.rootlesscontainers";
const CAPABILITY: &[u8] = b"security.capability";

/// What the layer's author set and a layer may carry: file capabilities and the user's own attributes.
pub(super) fn is_layer_xattr(name: &[u8]) -> bool {
    let is_ours = name.starts_with(b"user.overlay.") || name.starts_with(b"user.rbuild.") || name == OWNER.as_bytes();
    name == CAPABILITY || (name.starts_with(b"user.") && !is_ours)
}

/// A device's kind and number, which a placeholder file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub is_block: bool,
    pub major: u32,
    pub minor: u32,
}

impl Device {
    fn to_text(self) -> String {
        format!("{}:{}:{}", if self.is_block { 'b' } else { 'c' }, self.major, self.minor)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split(':');
        let is_block = match parts.next()? {
            "b" => true,
            "c" => false,
            _ => return None,
        };
        Some(Self { is_block, major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

/// A name as the kernel takes it; archives' names with NUL were refused earlier.
pub(super) fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name holds a NUL byte"))
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a layer's directory neither holds anything nor hides all that is below. What can't be read is no reason to
/// leave a layer out.
pub fn is_empty(directory: &Path) -> bool {
    let look = || -> io::Result<bool> {
        let directory = open_directory(crate::sys::root::RootDir::open(directory)?, c".")?;
        let is_opaque = is_opaque(&directory)?;
        let mut entries = rustix::fs::Dir::new(directory)?;
        let has_entries = entries.any(|entry| entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")));
        Ok(!is_opaque && !has_entries)
    };
    look().unwrap_or(false)
}

/// Metadata of an entry itself, links not followed; None if it isn't there.
pub(super) fn stat_at(parent: impl AsFd, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(mut stat) => {
            see_whiteout(parent.as_fd(), OsStr::from_bytes(name.to_bytes()), &mut stat);
            Ok(Some(stat))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a whiteout that is a file look like one that is a device.
pub(super) fn see_whiteout(parent: BorrowedFd<'_>, name: &OsStr, stat: &mut Stat) {
    let may_be = file_type(stat) == FileType::RegularFile && stat.st_size == 0 && stat.st_mode & 0o7777 == 0;
    if may_be && rustix::fs::lgetxattr(by_fd(parent).join(name), WHITEOUT, &mut [0; 8][..]).is_ok() {
        (stat.st_mode, stat.st_rdev) = (FileType::CharacterDevice.as_raw_mode(), 0);
    }
}

pub(super) fn make_whiteout(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => make_whiteout_file(parent.as_fd(), name),
        result => Ok(result?),
    }
}

fn make_whiteout_file(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fsetxattr(file, WHITEOUT, b"y", XattrFlags::empty())?;
    // Overlayfs looks for such files in marked directories only; one that hides everything below needs no mark.
    match rustix::fs::setxattr(by_fd(parent), OPAQUE, b"x", XattrFlags::CREATE) {
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

fn by_fd(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Whether files in a directory may be whiteouts.
pub(super) fn may_hold_whiteout_files(directory: BorrowedFd<'_>) -> bool {
    rustix::fs::fgetxattr(directory, OPAQUE, &mut [0; 8][..]).is_ok()
}

/// Opens a directory for its attributes and its list; a link in its place is refused.
pub(super) fn open_directory(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

pub(super) fn set_opaque(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())?)
}

pub(super) fn is_opaque(directory: impl AsFd) -> io::Result<bool> {
    Ok(get_xattr(directory, OPAQUE)?.is_some_and(|value| value == b"y"))
}

pub(super) fn set_device(placeholder: impl AsFd, device: Device) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(placeholder, DEVICE, device.to_text().as_bytes(), XattrFlags::empty())?)
}

/// The device that an open file stands for, if it does.
pub(super) fn device(file: impl AsFd) -> io::Result<Option<Device>> {
    Ok(get_xattr(file, DEVICE)?.and_then(|text| Device::parse(&text)))
}

/// Whether files can be given away. Where not (the `copy` rung of a user), every owner is written down, and our own ids,
/// which all files have there, mean root.
fn can_give() -> bool {
    rustix::process::geteuid().is_root()
}

/// The owner of a file on which none is written down.
pub(super) fn unwritten_owner(stat: &Stat) -> (u32, u32) {
    let meant = |id: u32, own: u32| if !can_give() && id == own { 0 } else { id };
    (meant(stat.st_uid, rustix::process::geteuid().as_raw()), meant(stat.st_gid, rustix::process::getegid().as_raw()))
}

/// Sets an owner; one that is not mapped into our user namespace is written down.
pub(super) fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    if !can_give() {
        return record_owner(file, uid, gid);
    }
    let (user, group) = owner(uid, gid);
    match rustix::fs::fchown(&file, user, group) {
        Err(Errno::INVAL) => record_owner(file, uid, gid),
        result => Ok(result?),
    }
}

/// The same for a link or node. False where neither is possible: the owner is left as it is.
pub(super) fn set_owner_at(parent: impl AsFd, name: &OsStr, uid: u32, gid: u32) -> io::Result<bool> {
    if !can_give() {
        return Ok((uid, gid) == (0, 0) || record_owner_at(parent, name, uid, gid));
    }
    let (user, group) = owner(uid, gid);
    match rustix::fs::chownat(&parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL) => Ok(record_owner_at(parent, name, uid, gid)),
        result => Ok(result.map(|()| true)?),
    }
}

/// The same where an owner that gets lost would be a wrong result.
pub(super) fn keep_owner_at(parent: impl AsFd, name: &OsStr, uid: u32, gid: u32, ownership: Ownership) -> io::Result<()> {
    let kept = match ownership {
        Ownership::Set => set_owner_at(parent, name, uid, gid)?,
        Ownership::Record => (uid, gid) == (0, 0) || record_owner_at(parent, name, uid, gid),
    };
    match kept || can_give() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{} cannot get its owner {uid}:{gid} without a user namespace", Path::new(name).display()))),
    }
}

/// Writes down the owner of a link or node; false where that is not possible.
pub(super) fn record_owner_at(parent: impl AsFd, name: &OsStr, uid: u32, gid: u32) -> bool {
    recorded::record_at(parent.as_fd(), name, uid, gid).is_ok()
}

/// The owner of a link or node that was written down, if one was.
pub(super) fn recorded_owner_at(parent: impl AsFd, name: &OsStr) -> Option<(u32, u32)> {
    recorded::owner_at(parent.as_fd(), name)
}

/// Writes down an owner that can't be set; the bytes are umoci's protobuf of two numbers.
pub(super) fn record_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) == (0, 0) {
        return match rustix::fs::fremovexattr(file, OWNER) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    let mut bytes = Vec::new();
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        if id != 0 {
            bytes.push(tag);
            push_varint(&mut bytes, id);
        }
    }
    Ok(rustix::fs::fsetxattr(file, OWNER, &bytes, XattrFlags::empty())?)
}

/// The owner that was written down, if one was.
pub(super) fn recorded_owner(file: impl AsFd) -> io::Result<Option<(u32, u32)>> {
    let Some(bytes) = get_xattr(file, OWNER)? else { return Ok(None) };
    let (mut uid, mut gid) = (0, 0);
    let mut rest = &bytes[..];
    while let Some((tag, after)) = rest.split_first() {
        let Some((id, after)) = varint(after) else { break };
        match tag {
            0x08 => uid = id,
            0x10 => gid = id,
            _ => {}
        }
        rest = after;
    }
    Ok(Some((uid, gid)))
}

fn push_varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(number).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

/// One attribute's value; None where it isn't set or can't be.
pub(super) fn get_xattr(file: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0_u8; 256];
    match rustix::fs::fgetxattr(&file, name, &mut buffer[..]) {
        Ok(length) => return Ok(Some(buffer[..length].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error.into()),
    }
    let mut buffer = vec![0; 64 * 1024];
    let length = rustix::fs::fgetxattr(&file, name, &mut buffer[..])?;
    buffer.truncate(length);
    Ok(Some(buffer))
}

/// The names of all attributes, in the file system's order.
pub(super) fn xattr_names(file: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0; 1024];
    let length = loop {
        match rustix::fs::flistxattr(&file, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if names.len() < 64 * 1024 => names.resize(64 * 1024, 0),
            Err(error) => return Err(error.into()),
        }
    };
    Ok(names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The attributes that a layer may carry, sorted by name.
pub(super) fn layer_xattrs(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = Vec::new();
    for name in xattr_names(&file)?.into_iter().filter(|name| is_layer_xattr(name)) {
        let Ok(text) = std::str::from_utf8(&name) else { continue };
        if let Some(value) = get_xattr(&file, text)? {
            list.push((name, value));
        }
    }
    list.sort();
    Ok(list)
}

/// Sets an attribute; false where this file system or kernel has no room for such a one.
pub(super) fn set_xattr(file: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<bool> {
    match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Sets the modification time of an entry itself.
pub(super) fn set_mtime_at(parent: impl AsFd, name: &CStr, mtime: Timestamp) -> io::Result<()> {
    Ok(rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(super) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[expect(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
pub(super) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 }
}

/// The names in an open directory, sorted.
pub(super) fn list(directory: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_were_written_down_read_back() {
        let file = tempfile::tempfile().unwrap();
        for pair in [(1, 0), (0, 1), (1000, 1000), (4_294_967_294, 65_534), (127, 128)] {
            record_owner(&file, pair.0, pair.1).unwrap();
            assert_eq!(recorded_owner(&file).unwrap(), Some(pair));
        }
        record_owner(&file, 0, 0).unwrap();
        assert_eq!(recorded_owner(&file).unwrap(), None);
    }

    #[test]
    fn attributes_of_ours_and_of_the_kernel_stay_out_of_layers() {
        for name in ["user.overlay.opaque", "user.rbuild.device", "user.rootlesscontainers", "trusted.overlay.opaque", "security.selinux"] {
            assert!(!is_layer_xattr(name.as_bytes()), "{name}");
        }
        assert!(is_layer_xattr(b"security.capability") && is_layer_xattr(b"user.comment"));
    }
}
