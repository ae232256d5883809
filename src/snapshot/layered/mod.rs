//! A root filesystem as a stack of layer directories, read and written in user space, without a mount.
//!
//! The stack has overlayfs's form: an `upper` directory that is written to and `lowers`, topmost first; a character
//! device 0:0 hides a name, `user.overlay.opaque=y` hides what lies below a directory. A mount of the same
//! directories (`userxattr`) shows the same tree. Without lowers the upper is the whole tree and nothing is special.
//! A lower may be known by an index alone, and the upper may be a [`Sketch`], which no mount shows.
//!
//! Every path is confined to the root: it is cleaned, then walked one component at a time with open directories, and
//! links, absolute or climbing, are resolved inside. Unaware of Dockerfiles and of who asks.

mod directory;
mod index;
mod index_file;
mod layer;
mod metadata;
mod outline;
mod outline_file;
mod rice;
mod sketch;
mod unpacked;
mod walk;
pub(crate) mod xattrs;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

pub use directory::Directory;
pub(crate) use directory::{Look, set_owner, set_times};
pub use index::{LayerIndex, index_layer};
pub(crate) use layer::{Content, LayerDirectory, Step, file_xattrs};
pub(crate) use metadata::timespec;
pub use metadata::{Kind, Metadata};
pub use outline_file::{Outlines, read_outlines, write_outlines};
pub(crate) use sketch::{Body, FileSource, LastPath, NewEntry, OpenSource, Settled, SketchedEntry, needs_directory};
pub use sketch::{Sketch, is_directory_needed};
pub use unpacked::index_unpacked;

pub use super::Timestamp;
pub(crate) use walk::{Place, clean, walk, walk_seen};

use super::Ownership;
use crate::sys::root::RootDir;

/// One layer below the one that is written.
#[derive(Debug)]
pub enum Lower {
    /// Unpacked, in overlay form.
    Directory(RootDir),
    /// Known by its tar alone.
    Index(Arc<LayerIndex>),
}

/// The stack.
#[derive(Debug)]
pub struct LayeredRoot {
    top: Arc<Directory>,
    overlay: bool,
    writable: bool,
    ownership: Ownership,
    stop: Option<Arc<AtomicBool>>,
}

/// What new directories look like.
#[derive(Debug, Clone, Copy)]
pub struct NewDirectory {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group; ours (root) if not given.
    pub owner: Option<(u32, u32)>,
    /// Time of the new directories; now if not given.
    pub time: Option<Timestamp>,
}

impl LayeredRoot {
    /// A stack to write to; with no lowers the upper is a plain tree.
    pub fn new(upper: RootDir, lowers: Vec<Lower>) -> io::Result<Self> {
        let overlay = !lowers.is_empty();
        let upper = LayerDirectory::open(upper.as_fd())?;
        Ok(Self {
            top: Directory::top(Some(upper), open_all(&lowers)?, overlay),
            overlay,
            writable: true,
            ownership: Ownership::Set,
            stop: None,
        })
    }

    /// The same where what is written goes into a sketch.
    pub fn sketched(sketch: &Arc<Sketch>, lowers: &[Lower]) -> io::Result<Self> {
        let overlay = !lowers.is_empty();
        let upper = LayerDirectory::Sketched(sketch.root());
        Ok(Self {
            top: Directory::top(Some(upper), open_all(lowers)?, overlay),
            overlay,
            writable: true,
            ownership: Ownership::Set,
            stop: None,
        })
    }

    /// Makes the written layer's root look as the root below does: the merged one looks as its uppermost does.
    pub fn inherit_root(&mut self) -> io::Result<()> {
        self.top.look_as_below()
    }

    /// A finished stack, topmost layer first; writing to it fails with EROFS. No layers at all is the empty tree.
    pub fn read_only(layers: Vec<Lower>) -> io::Result<Self> {
        Ok(Self {
            top: Directory::top(None, open_all(&layers)?, true),
            overlay: true,
            writable: false,
            ownership: Ownership::Set,
            stop: None,
        })
    }

    /// A plain directory where whiteouts and overlay attributes mean nothing, to read from.
    pub fn plain(directory: &RootDir) -> io::Result<Self> {
        let lowers = vec![LayerDirectory::open(directory.as_fd())?];
        Ok(Self { top: Directory::top(None, lowers, false), overlay: false, writable: false, ownership: Ownership::Set, stop: None })
    }

    /// Says how owners of what is written are kept.
    #[must_use]
    pub fn with_ownership(self, ownership: Ownership) -> Self {
        Self { ownership, ..self }
    }

    /// Says what ends copies into it before they are done.
    #[must_use]
    pub fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// An error once copies are to end.
    pub(crate) fn check_stop(&self) -> io::Result<()> {
        match &self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(io::Error::other("cancelled")),
            _ => Ok(()),
        }
    }

    pub(crate) fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// The handle on `/`.
    pub(crate) fn top(&self) -> &Arc<Directory> {
        &self.top
    }

    /// Whether a character device 0:0 in the upper directory would be taken for a whiteout.
    pub(crate) fn is_overlay(&self) -> bool {
        self.overlay
    }

    /// Whether what is written goes into a sketch.
    pub(crate) fn is_sketch(&self) -> bool {
        self.top.is_sketch()
    }

    /// Whether the stack can be written to.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn walk(&self, path: &Path, follow_last: bool) -> io::Result<Place> {
        walk(&self.top, &self.top, path, follow_last)
    }

    /// The path without links: where `path` really is. Components that do not exist are kept as they are.
    pub fn resolve(&self, path: &Path, follow_last: bool) -> io::Result<PathBuf> {
        Ok(self.walk(path, follow_last)?.path())
    }

    /// The entry at `path`, or nothing; links in it are followed, the last one if asked.
    pub fn stat(&self, path: &Path, follow_last: bool) -> io::Result<Option<Metadata>> {
        match self.walk(path, follow_last) {
            Ok(place) => place.metadata(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes of a regular file of at most `limit` bytes; a fifo or device is refused, not waited for.
    pub fn read_file(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let text = format!("\"{}\" exceeds {limit} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    }

    /// Opens a regular file to read; links are followed.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let place = self.walk(path, true)?;
        match place.metadata()? {
            None => Err(Errno::NOENT.into()),
            Some(metadata) if metadata.kind == Kind::File => place.directory.open_file(&place.rest[0]),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", path.display()))),
        }
    }

    /// The target of a link.
    pub fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.walk(path, false)?;
        match place.rest.as_slice() {
            [name] => Ok(place.directory.read_link(name)?.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// Gives the regular file at `path` other content; links are followed. Owner, mode, attributes and time stay.
    pub fn rewrite_file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let place = self.walk(path, true)?;
        let is_file = place.metadata()?.is_some_and(|metadata| metadata.kind == Kind::File);
        let ([name], true) = (place.rest.as_slice(), is_file) else { return Err(Errno::NOENT.into()) };
        place.directory.copy_up(name)?;
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = place.directory.upper()?;
        let before = Metadata::from_stat(&rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?);
        let mut file = File::from(rustix::fs::openat(at, name, flags, Mode::empty())?);
        io::Write::write_all(&mut file, content)?;
        set_times(file.as_fd(), before.accessed, before.modified)
    }

    /// The names in a directory of the merged tree, sorted.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let place = self.walk(path, true)?;
        match place.metadata()? {
            None => Err(Errno::NOENT.into()),
            Some(_) if !place.rest.is_empty() => Err(Errno::NOTDIR.into()),
            Some(_) => place.directory.names(),
        }
    }

    /// Makes the directory at `path` and those above that are missing; what exists stays as it is. Answers which were made.
    pub fn ensure_directory(&mut self, path: &Path, new: NewDirectory) -> io::Result<Vec<PathBuf>> {
        let place = self.walk(path, true)?;
        Ok(ensure_directory(&place, new, self.ownership)?.1.iter().map(|directory| directory.path()).collect())
    }

    /// Takes the entry at `path` away, a directory with everything in it; links above it are followed, it itself is not.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let place = self.walk(path, false)?;
        match place.rest.as_slice() {
            [] => {
                let name = place.directory.path().file_name().ok_or(Errno::BUSY)?.to_owned();
                place.directory.parent().remove(&name)
            }
            [name] if place.last()?.is_some() => place.directory.remove(name),
            _ => Err(Errno::NOENT.into()),
        }
    }
}

fn open_all(lowers: &[Lower]) -> io::Result<Vec<LayerDirectory>> {
    let open = |lower: &Lower| match lower {
        Lower::Directory(root) => LayerDirectory::open(root.as_fd()),
        Lower::Index(index) => Ok(LayerDirectory::indexed(index.clone())),
    };
    lowers.iter().map(open).collect()
}

/// Makes what is missing of a place and gives the directory there, with those that were made, outermost first.
pub(crate) fn ensure_directory(
    place: &Place,
    new: NewDirectory,
    ownership: Ownership,
) -> io::Result<(Arc<Directory>, Vec<Arc<Directory>>)> {
    if place.last()?.is_some() {
        return Err(Errno::NOTDIR.into());
    }
    let mut directory = place.directory.clone();
    let mut made = Vec::new();
    for name in &place.rest {
        directory = directory.make_directory(name, new.mode)?;
        if let Some((uid, gid)) = new.owner {
            directory.set_owner(uid, gid, ownership)?;
        }
        made.push(directory.clone());
    }
    if let Some(time) = new.time {
        made.iter().rev().try_for_each(|directory| directory.set_times(time, time))?;
    }
    Ok((directory, made))
}
