//! A directory inside one layer, by itself: nothing here knows of the layers above or below.
//!
//! The enum has one form so far, an open directory of the file system. A layer known by its tar headers alone would be
//! the second: whatever `Directory` asks of a layer it asks through these few methods.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::metadata::{Kind, Metadata};
use crate::snapshot::disk;

/// The attribute that makes a directory hide what lies below it.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a name leads to when a directory is asked for.
pub(crate) enum Step {
    /// Nothing of that name here.
    Missing,
    /// Something that is no directory; a whiteout too.
    Other,
    /// A directory.
    Directory(LayerDirectory),
}

/// A directory of one layer.
#[derive(Debug)]
pub(crate) enum LayerDirectory {
    /// On the file system.
    Open(OwnedFd),
}

impl LayerDirectory {
    pub(crate) fn open(at: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self::Open(open_readable(at, OsStr::new("."))?))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => fd.as_fd(),
        }
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        let stat = rustix::fs::statat(self.fd(), "", AtFlags::EMPTY_PATH)?;
        Ok(Metadata::from_stat(&stat))
    }

    /// The entry of that name, a whiteout too.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match rustix::fs::statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(mut stat) => {
                disk::see_whiteout(self.fd(), name, &mut stat);
                let mut metadata = Metadata::from_stat(&stat);
                // A link's owner that is written down cannot come along with its attributes when it is copied.
                if matches!(metadata.kind, Kind::Symlink | Kind::Fifo)
                    && let Some((uid, gid)) = disk::recorded_owner_at(self.fd(), name)
                {
                    (metadata.uid, metadata.gid) = (uid, gid);
                }
                Ok(Some(metadata))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn step(&self, name: &OsStr) -> io::Result<Step> {
        match open_readable(self.fd(), name) {
            Ok(fd) => Ok(Step::Directory(Self::Open(fd))),
            Err(Errno::NOENT) => Ok(Step::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(Step::Other),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn is_opaque(&self) -> bool {
        let mut value = [0; 2];
        matches!(rustix::fs::fgetxattr(self.fd(), OPAQUE, &mut value), Ok(1)) && value[0] == b'y'
    }

    /// All names here with whether each is a whiteout, in no order.
    pub(crate) fn names(&self, overlay: bool) -> io::Result<Vec<(OsString, bool)>> {
        let mut names = Vec::new();
        let files_too = overlay && disk::may_hold_whiteout_files(self.fd());
        for entry in Dir::read_from(self.fd())? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let may_be_whiteout = match entry.file_type() {
                FileType::CharacterDevice | FileType::Unknown => true,
                FileType::RegularFile => files_too,
                _ => false,
            };
            let whiteout = overlay && may_be_whiteout && self.stat(name)?.is_some_and(|metadata| metadata.is_whiteout());
            names.push((name.to_owned(), whiteout));
        }
        Ok(names)
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(self.fd(), name, Vec::new())?;
        Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
    }

    /// Opens a file for reading; never waits for a fifo, never follows a link.
    pub(crate) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(rustix::fs::openat(self.fd(), name, flags, Mode::empty())?.into())
    }
}

/// Opens a directory to be read; one that may only be passed through is opened for that.
pub(crate) fn open_readable(at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(at, name, DIRECTORY | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => rustix::fs::openat(at, name, DIRECTORY | OFlags::PATH, Mode::empty()),
        result => result,
    }
}
