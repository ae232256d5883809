//! What `stat` says about files with a recorded owner, in the caller's memory.
//! Unaware of files without one: the kernel answers for them.

use std::{io, path::Path};

use super::owners;
use crate::sys::{
    notify, rawstat,
    recorded::{self, Last},
};

/// Offsets of what is patched in the kernel's `struct stat`.
#[cfg(target_arch = "x86_64")]
mod offset {
    pub const MODE: usize = 24;
    pub const UID: usize = 28;
    pub const GID: usize = 32;
    pub const RDEV: usize = 40;
}
#[cfg(not(target_arch = "x86_64"))]
mod offset {
    pub const MODE: usize = 16;
    pub const UID: usize = 24;
    pub const GID: usize = 28;
    pub const RDEV: usize = 32;
}

/// Offsets in `struct statx`.
mod extended {
    pub const UID: usize = 20;
    pub const GID: usize = 24;
    pub const MODE: usize = 28;
    pub const RDEV_MAJOR: usize = 128;
    pub const RDEV_MINOR: usize = 132;
}

/// What differs from what the kernel would say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Difference {
    owner: Option<(u32, u32)>,
    device: Option<(u32, u32, u32)>,
}

/// The difference for a file; None when there is none, which is the fast answer.
pub fn difference(path: &Path, last: Last) -> Option<Difference> {
    if !recorded::has_any(path, last) {
        return None;
    }
    let found = Difference { owner: recorded::owner(path, last), device: owners::device(path, last) };
    (found.owner.is_some() || found.device.is_some()).then_some(found)
}

impl Difference {
    /// Answers `stat` and its kin.
    pub fn write_stat(&self, path: &Path, last: Last, pid: u32, address: u64) -> io::Result<()> {
        let mut bytes = rawstat::stat(path, last == Last::Itself)?;
        if let Some((uid, gid)) = self.owner {
            put(&mut bytes, offset::UID, &uid.to_ne_bytes());
            put(&mut bytes, offset::GID, &gid.to_ne_bytes());
        }
        if let Some((kind, major, minor)) = self.device {
            let mode = get(&bytes, offset::MODE) & 0o7777 | kind;
            put(&mut bytes, offset::MODE, &mode.to_ne_bytes());
            put(&mut bytes, offset::RDEV, &rustix::fs::makedev(major, minor).to_ne_bytes());
        }
        notify::write_memory(pid, address, &bytes)
    }

    /// Answers `statx`.
    pub fn write_statx(&self, path: &Path, flags: u32, mask: u32, pid: u32, address: u64) -> io::Result<()> {
        let mut bytes = rawstat::statx(path, flags, mask)?;
        if let Some((uid, gid)) = self.owner {
            put(&mut bytes, extended::UID, &uid.to_ne_bytes());
            put(&mut bytes, extended::GID, &gid.to_ne_bytes());
        }
        if let Some((kind, major, minor)) = self.device {
            let mode = (get(&bytes, extended::MODE) & 0o7777 | kind) as u16;
            put(&mut bytes, extended::MODE, &mode.to_ne_bytes());
            put(&mut bytes, extended::RDEV_MAJOR, &major.to_ne_bytes());
            put(&mut bytes, extended::RDEV_MINOR, &minor.to_ne_bytes());
        }
        notify::write_memory(pid, address, &bytes)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_offsets_are_the_kernels() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let bytes = rawstat::stat(file.path(), true).unwrap();
        assert_eq!(get(&bytes, offset::MODE), metadata.mode());
        let id = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((id(&bytes, offset::UID), id(&bytes, offset::GID)), (metadata.uid(), metadata.gid()));
        let bytes = rawstat::statx(file.path(), 0, libc::STATX_BASIC_STATS).unwrap();
        assert_eq!(get(&bytes, extended::MODE), metadata.mode());
        let null = rawstat::statx(Path::new("/dev/null"), 0, libc::STATX_BASIC_STATS).unwrap();
        assert_eq!((id(&null, extended::RDEV_MAJOR), id(&null, extended::RDEV_MINOR)), (1, 3));
    }
}
