//! A directory inside one layer, by itself: nothing here knows of the layers above or below.
//!
//! It lies open on the file system, is known by the layer's tar alone, or is only to be written into one (`sketch`). Whatever `Directory` asks of a layer it asks
//! through these few methods.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    index::{IndexedDirectory, LayerIndex, needs_files},
    metadata::{Kind, Metadata},
    sketch::SketchedDirectory,
    xattrs,
};
use crate::{
    oci::tar::{Timestamp, Xattrs},
    snapshot::disk::{self, Device},
};

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
    /// Known by its tar.
    Indexed(IndexedDirectory),
    /// Written nowhere yet.
    Sketched(SketchedDirectory),
}

/// What an entry has beside its metadata; the owner is the true one, set or written down.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) owner: (u32, u32),
    pub(in crate::snapshot) device: Option<Device>,
    pub(crate) xattrs: Xattrs,
}

/// What a file holds.
pub(crate) enum Content {
    /// The bytes.
    File(File),
    /// Their BLAKE3 digest.
    Digest([u8; 32]),
}

impl LayerDirectory {
    pub(crate) fn open(at: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self::Open(open_readable(at, OsStr::new("."))?))
    }

    pub(crate) fn indexed(index: Arc<LayerIndex>) -> Self {
        Self::Indexed(IndexedDirectory::root(index))
    }

    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Open(fd) => Ok(fd.as_fd()),
            Self::Indexed(_) | Self::Sketched(_) => Err(needs_files()),
        }
    }

    pub(crate) fn sketched(&self) -> Option<&SketchedDirectory> {
        match self {
            Self::Sketched(directory) => Some(directory),
            Self::Open(_) | Self::Indexed(_) => None,
        }
    }

    /// The directory's owner, set or written down, and the attributes of it that a layer carries.
    pub(crate) fn own_attributes(&self) -> io::Result<((u32, u32), Xattrs)> {
        let set = self.metadata().map(|metadata| (metadata.uid, metadata.gid))?;
        match self {
            Self::Open(fd) => Ok((disk::recorded_owner(fd)?.unwrap_or(set), disk::layer_xattrs(fd)?)),
            Self::Indexed(_) | Self::Sketched(_) => Ok((set, self.xattrs())),
        }
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        match self {
            Self::Open(fd) => Ok(Metadata::from_stat(&rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?)),
            Self::Indexed(directory) => Ok(directory.metadata()),
            Self::Sketched(directory) => Ok(directory.metadata()),
        }
    }

    /// The directory's own attributes; owners that are written down are among them.
    pub(crate) fn xattrs(&self) -> Xattrs {
        match self {
            Self::Open(fd) => xattrs::read(fd.as_fd(), xattrs::is_private_to_overlay),
            Self::Indexed(directory) => directory.xattrs().clone(),
            Self::Sketched(directory) => directory.xattrs(),
        }
    }

    /// Whether the layer says nothing of the directory but that something is in it.
    pub(crate) fn is_implied(&self) -> bool {
        matches!(self, Self::Indexed(directory) if directory.is_implied())
    }

    /// The same of a directory in it.
    pub(crate) fn implies(&self, name: &OsStr) -> bool {
        matches!(self, Self::Indexed(directory) if directory.implies(name))
    }

    /// Whether a regular file of that name may be here, which only the layer's files can tell.
    pub(crate) fn may_hold(&self, name: &OsStr) -> bool {
        matches!(self, Self::Indexed(directory) if directory.may_hold(name.as_bytes()))
    }

    /// Whether such a file may have been changed at that time.
    pub(crate) fn may_have_time(&self, time: Timestamp) -> bool {
        matches!(self, Self::Indexed(directory) if directory.may_have_time(time))
    }

    /// The entry of that name, a whiteout too.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match self {
            Self::Open(fd) => stat_at(fd.as_fd(), name),
            Self::Indexed(directory) => directory.stat(name),
            Self::Sketched(directory) => Ok(directory.stat(name)),
        }
    }

    pub(crate) fn step(&self, name: &OsStr) -> io::Result<Step> {
        match self {
            Self::Open(fd) => match open_readable(fd.as_fd(), name) {
                Ok(fd) => Ok(Step::Directory(Self::Open(fd))),
                Err(Errno::NOENT) => Ok(Step::Missing),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(Step::Other),
                Err(error) => Err(error.into()),
            },
            Self::Indexed(directory) => Ok(match (directory.stat(name)?, directory.child(name)) {
                (_, Some(child)) => Step::Directory(Self::Indexed(child)),
                (Some(_), None) => Step::Other,
                (None, None) => Step::Missing,
            }),
            Self::Sketched(directory) => Ok(match (directory.stat(name), directory.child(name)) {
                (_, Some(child)) => Step::Directory(Self::Sketched(child)),
                (Some(_), None) => Step::Other,
                (None, None) => Step::Missing,
            }),
        }
    }

    pub(crate) fn is_opaque(&self) -> bool {
        match self {
            Self::Open(fd) => {
                let mut value = [0; 2];
                matches!(rustix::fs::fgetxattr(fd, OPAQUE, &mut value), Ok(1)) && value[0] == b'y'
            }
            Self::Indexed(directory) => directory.is_opaque(),
            Self::Sketched(directory) => directory.is_opaque(),
        }
    }

    /// All names here with whether each is a whiteout, in no order.
    pub(crate) fn names(&self, overlay: bool) -> io::Result<Vec<(OsString, bool)>> {
        match self {
            Self::Open(fd) => names_in(fd.as_fd(), overlay),
            Self::Indexed(directory) => directory.names(),
            Self::Sketched(directory) => Ok(directory.names()),
        }
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        match self {
            Self::Open(fd) => read_link_at(fd.as_fd(), name),
            Self::Indexed(directory) => directory.read_link(name),
            Self::Sketched(directory) => directory.read_link(name),
        }
    }

    /// Opens a file for reading; never waits for a fifo, never follows a link.
    pub(crate) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        match self {
            Self::Open(fd) => open_file_at(fd.as_fd(), name),
            Self::Indexed(directory) => directory.open_file(name),
            Self::Sketched(directory) => directory.open_file(name),
        }
    }

    /// What the entry has beside `metadata`, which is its own.
    pub(crate) fn attributes(&self, name: &OsStr, metadata: &Metadata) -> io::Result<Attributes> {
        match self {
            Self::Open(fd) => attributes_at(fd.as_fd(), name, metadata),
            Self::Indexed(directory) => directory.attributes(name),
            Self::Sketched(directory) => directory.attributes(name),
        }
    }

    /// What a file holds.
    pub(crate) fn content(&self, name: &OsStr) -> io::Result<Content> {
        match self {
            Self::Open(fd) => open_file_at(fd.as_fd(), name).map(Content::File),
            Self::Indexed(directory) => directory.content(name),
            Self::Sketched(directory) => directory.content(name),
        }
    }
}

fn stat_at(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Metadata>> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(mut stat) => {
            disk::see_whiteout(at, name, &mut stat);
            let mut metadata = Metadata::from_stat(&stat);
            // A link's owner that is written down cannot come along with its attributes when it is copied.
            if matches!(metadata.kind, Kind::Symlink | Kind::Fifo)
                && let Some((uid, gid)) = disk::recorded_owner_at(at, name)
            {
                (metadata.uid, metadata.gid) = (uid, gid);
            }
            Ok(Some(metadata))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn names_in(at: BorrowedFd<'_>, overlay: bool) -> io::Result<Vec<(OsString, bool)>> {
    let mut names = Vec::new();
    let files_too = overlay && disk::may_hold_whiteout_files(at);
    for entry in Dir::read_from(at)? {
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
        let whiteout = overlay && may_be_whiteout && stat_at(at, name)?.is_some_and(|metadata| metadata.is_whiteout());
        names.push((name.to_owned(), whiteout));
    }
    Ok(names)
}

pub(crate) fn read_link_at(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OsString> {
    let target = rustix::fs::readlinkat(at, name, Vec::new())?;
    Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
}

pub(crate) fn open_file_at(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?.into())
}

/// What an entry on the file system has beside its metadata. Links and nodes have no attributes that a layer carries.
pub(crate) fn attributes_at(at: BorrowedFd<'_>, name: &OsStr, metadata: &Metadata) -> io::Result<Attributes> {
    let set = (metadata.uid, metadata.gid);
    let file: OwnedFd = match metadata.kind {
        Kind::File => open_file_at(at, name)?.into(),
        Kind::Directory => rustix::fs::openat(at, name, DIRECTORY | OFlags::RDONLY, Mode::empty())?,
        _ => {
            let owner = disk::recorded_owner_at(at, name).unwrap_or(set);
            return Ok(Attributes { owner, device: None, xattrs: Vec::new() });
        }
    };
    let owner = disk::recorded_owner(&file)?.unwrap_or(set);
    Ok(Attributes { owner, device: disk::device(&file)?, xattrs: disk::layer_xattrs(&file)? })
}

/// Attributes that a copy of the file has in a layer.
pub(crate) fn file_xattrs(file: &File) -> Xattrs {
    xattrs::read(file.as_fd(), |name| xattrs::is_private(name) || !disk::is_layer_xattr(name))
}

/// Opens a directory to be read; one that may only be passed through is opened for that.
pub(crate) fn open_readable(at: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(at, name, DIRECTORY | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => rustix::fs::openat(at, name, DIRECTORY | OFlags::PATH, Mode::empty()),
        result => result,
    }
}
