//! What is known of one entry of a tree, whichever layer it comes from.
//! Unaware of layers and of where the entry lies.

use rustix::fs::{FileType, Stat, Timespec};

use crate::{
    snapshot::{Timestamp, disk},
    sys::stat_key::StatKey,
};

pub(crate) fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A unix socket.
    Socket,
}

/// One entry's inode, as far as a build cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Its type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file, length of a link's target.
    pub size: u64,
    /// Time of last access.
    pub accessed: Timestamp,
    /// Time of the last change of content.
    pub modified: Timestamp,
    /// Time of the last change of the inode.
    pub changed: Timestamp,
    /// Device number of a device node.
    pub rdev: u64,
    /// How many names the inode has.
    pub links: u64,
    /// File system the inode is on.
    pub device: u64,
    /// Number of the inode there.
    pub inode: u64,
}

impl Metadata {
    pub(crate) fn from_stat(stat: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Socket => Kind::Socket,
            FileType::RegularFile | FileType::Unknown => Kind::File,
        };
        let (uid, gid) = disk::unwritten_owner(stat);
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            size: stat.st_size as u64,
            accessed: Timestamp { seconds: stat.st_atime, nanoseconds: stat.st_atime_nsec as u32 },
            modified: Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 },
            changed: Timestamp { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec as u32 },
            rdev: stat.st_rdev,
            links: stat.st_nlink,
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    /// What the file's digest may be remembered by.
    pub(crate) fn stat_key(&self) -> StatKey {
        let nanoseconds = |time: Timestamp| time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nanoseconds.into());
        StatKey {
            device: self.device,
            inode: self.inode,
            size: self.size,
            mtime_ns: nanoseconds(self.modified),
            ctime_ns: nanoseconds(self.changed),
        }
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Overlay's way to say "this name is gone": a character device 0:0.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == 0
    }
}
