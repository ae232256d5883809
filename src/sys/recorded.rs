//! Owners and devices that cannot be real here, as extended attributes.
//!
//! Files and directories carry an owner as umoci reads it: `user.rootlesscontainers`, a protobuf of two numbers. Links,
//! pipes and sockets may not have `user.*` attributes; they carry it in a `security.capability`, which the kernel
//! keeps on anything and heeds on programs only. A device is an empty file with an attribute of our own.
//! Unaware of why they cannot be real.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Uid, XattrFlags},
    io::Errno,
};

/// The attribute that holds an owner.
pub const OWNER: &str = "user.rootlesscontainers";
/// The attribute that makes an empty file stand for a device: `c:1:3`, `b:8:0`.
pub const DEVICE: &str = "user.rbuild.device";

/// The value for an owner; zeroes are left out, as protobuf does it.
pub fn encode_owner(uid: u32, gid: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, id) in [(0x08, uid), (0x10, gid)] {
        if id == 0 {
            continue;
        }
        bytes.push(tag);
        let mut rest = id;
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes
}

/// The owner in a value; what is not understood is zero.
pub fn decode_owner(bytes: &[u8]) -> (u32, u32) {
    let (mut uid, mut gid) = (0, 0);
    let mut rest = bytes.iter();
    while let Some(tag) = rest.next() {
        let mut id: u32 = 0;
        for (index, byte) in rest.by_ref().enumerate() {
            id |= u32::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                break;
            }
        }
        match tag {
            0x08 => uid = id,
            0x10 => gid = id,
            _ => {}
        }
    }
    (uid, gid)
}

const CAPABILITY: &str = "security.capability";
/// The second half of the permitted set, which says that the first halves are ids. No capability has such numbers.
const CAPABILITY_MARK: u32 = 0x5242_0001;

fn encode_capability(uid: u32, gid: u32) -> [u8; 20] {
    const REVISION_2: u32 = 0x0200_0000;
    let mut bytes = [0; 20];
    for (place, word) in bytes.chunks_mut(4).zip([REVISION_2, uid, gid, CAPABILITY_MARK, 0]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode_capability(bytes: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (word(12)? == CAPABILITY_MARK).then_some((word(4)?, word(8)?))
}

/// Whether a path's last link is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// What it leads to.
    Followed,
    /// The link itself.
    Itself,
}

/// The owner that is written down on whatever a path names.
pub fn owner(path: &Path, last: Last) -> Option<(u32, u32)> {
    if let Some(bytes) = attribute(path, last, OWNER) {
        return Some(decode_owner(&bytes));
    }
    attribute(path, last, CAPABILITY).and_then(|bytes| decode_capability(&bytes))
}

/// The same for an entry of an open directory.
pub fn owner_at(directory: BorrowedFd<'_>, name: &OsStr) -> Option<(u32, u32)> {
    owner(&entry(directory, name), Last::Itself)
}

/// A short attribute's value.
pub fn attribute(path: &Path, last: Last, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let length = match last {
        Last::Followed => rustix::fs::getxattr(path, name, &mut value[..]),
        Last::Itself => rustix::fs::lgetxattr(path, name, &mut value[..]),
    };
    length.ok().map(|length| value[..length].to_vec())
}

/// Whether anything may be written down: one call for the many files where nothing is.
pub fn has_any(path: &Path, last: Last) -> bool {
    let mut names = [0; 1024];
    let length = match last {
        Last::Followed => rustix::fs::listxattr(path, &mut names),
        Last::Itself => rustix::fs::llistxattr(path, &mut names),
    };
    let ours = [OWNER, DEVICE, CAPABILITY].map(str::as_bytes);
    match length {
        Ok(length) => names[..length].split(|byte| *byte == 0).any(|name| ours.contains(&name)),
        // More names than fit: look for ours.
        Err(error) => error == Errno::RANGE,
    }
}

/// Writes an owner down; root's is what nothing says.
pub fn record(path: &Path, last: Last, uid: u32, gid: u32) -> Result<(), Errno> {
    let flags = if last == Last::Itself { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    let stat = rustix::fs::statat(CWD, path, flags)?;
    let (name, value) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => (OWNER, encode_owner(uid, gid)),
        _ => (CAPABILITY, encode_capability(uid, gid).to_vec()),
    };
    let result = match (last, (uid, gid)) {
        (Last::Followed, (0, 0)) => rustix::fs::removexattr(path, name),
        (Last::Itself, (0, 0)) => rustix::fs::lremovexattr(path, name),
        (Last::Followed, _) => rustix::fs::setxattr(path, name, &value, XattrFlags::empty()),
        (Last::Itself, _) => rustix::fs::lsetxattr(path, name, &value, XattrFlags::empty()),
    };
    match result {
        Err(Errno::NODATA | Errno::NOTSUP) if (uid, gid) == (0, 0) => Ok(()),
        result => result,
    }
}

/// The same for an entry of an open directory.
pub fn record_at(directory: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
    record(&entry(directory, name), Last::Itself, uid, gid)
}

/// Gives an entry of an open directory to somebody: really where the ids exist, else by writing it down.
pub fn give_at(directory: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
    match rustix::fs::chownat(directory, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL) => record_at(directory, name, uid, gid),
        result => result,
    }
}

/// The same for a path of our own.
pub fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    match rustix::fs::chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL) => Ok(record(path, Last::Itself, uid, gid)?),
        result => Ok(result?),
    }
}

/// Attributes have no calls of the `at` kind before Linux 6.13.
fn entry(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_survive_the_attribute() {
        for pair in [(0, 0), (1, 0), (0, 127), (128, 65_534), (70_000, u32::MAX), (u32::MAX, 300)] {
            assert_eq!(decode_owner(&encode_owner(pair.0, pair.1)), pair);
        }
        assert_eq!(encode_owner(1000, 50), [0x08, 0xe8, 0x07, 0x10, 50]);
        assert_eq!(decode_capability(&encode_capability(1000, u32::MAX)), Some((1000, u32::MAX)));
        // cap_net_raw+ep, as ping has it.
        assert_eq!(decode_capability(&[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(decode_owner(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).1, 0);
    }
}
