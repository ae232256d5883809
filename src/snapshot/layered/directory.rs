//! One directory of the merged tree: its upper directory, if it has one yet, and the lower ones that show through.
//!
//! A `Directory` is a handle: it stays open while the entries below it are worked on, so that no path is resolved twice.
//! It must not outlive a change to its own place by other means. Unaware of paths.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timestamps, XattrFlags},
    io::Errno,
};

use super::{
    index::needs_files,
    layer::{LayerDirectory, OPAQUE, Step},
    metadata::{Metadata, timespec},
    sketch::{SketchedDirectory, needs_directory},
    xattrs,
};
use crate::{
    snapshot::{Ownership, Timestamp, copy_up, disk},
    sys::remove::remove_at,
};

/// A handle on one directory of the merged tree.
#[derive(Debug)]
pub struct Directory {
    parent: Option<(Arc<Directory>, OsString)>,
    upper: OnceLock<LayerDirectory>,
    lowers: Vec<LayerDirectory>,
    /// Whether whiteouts and opaque directories mean anything here.
    overlay: bool,
}

/// What is known of a name.
pub(crate) enum Look<'a> {
    Nothing,
    /// The layer that it shows through from.
    Entry(&'a LayerDirectory, Metadata),
    /// A regular file of one of these layers, or nothing.
    FileOrNothing(Vec<&'a LayerDirectory>),
}

impl<'a> Look<'a> {
    /// Nothing else shows.
    fn hidden(unsure: Vec<&'a LayerDirectory>) -> Self {
        if unsure.is_empty() { Self::Nothing } else { Self::FileOrNothing(unsure) }
    }
}

impl Directory {
    pub(crate) fn top(upper: Option<LayerDirectory>, lowers: Vec<LayerDirectory>, overlay: bool) -> Arc<Self> {
        let mut lowers = lowers;
        if overlay {
            let hidden = upper.as_ref().is_some_and(LayerDirectory::is_opaque);
            let last = lowers.iter().position(LayerDirectory::is_opaque);
            lowers.truncate(if hidden { 0 } else { last.map_or(lowers.len(), |last| last + 1) });
        }
        Arc::new(Self { parent: None, upper: upper.map_or_else(OnceLock::new, OnceLock::from), lowers, overlay })
    }

    /// The directory this one lies in; the root lies in itself.
    pub(crate) fn parent(self: &Arc<Self>) -> Arc<Self> {
        self.parent.as_ref().map_or_else(|| self.clone(), |(parent, _)| parent.clone())
    }

    /// Where this directory is, from the root, without a leading slash.
    pub(crate) fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut at = self;
        while let Some((parent, name)) = &at.parent {
            names.push(name);
            at = parent;
        }
        names.into_iter().rev().collect()
    }

    fn layers(&self) -> impl Iterator<Item = &LayerDirectory> {
        self.upper.get().into_iter().chain(&self.lowers)
    }

    fn topmost(&self) -> io::Result<&LayerDirectory> {
        self.layers().next().ok_or_else(|| Errno::NOENT.into())
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.describing(self.layers())?.metadata()
    }

    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.topmost()?.fd()
    }

    /// The layer that says what this directory looks like; the last one where none does.
    fn describing<'a>(&self, layers: impl Iterator<Item = &'a LayerDirectory>) -> io::Result<&'a LayerDirectory> {
        let mut last = None;
        for layer in layers {
            if !layer.is_implied() {
                return Ok(layer);
            }
            last = Some(layer);
        }
        last.ok_or_else(|| Errno::NOENT.into())
    }

    /// The layer that an entry shows through from, and what it is there.
    pub(crate) fn look(&self, name: &OsStr) -> io::Result<Look<'_>> {
        let mut implied = None;
        let mut unsure = Vec::new();
        for layer in self.layers() {
            if implied.is_none() && layer.may_hold(name) {
                unsure.push(layer);
                continue;
            }
            let Some(metadata) = layer.stat(name)? else { continue };
            if implied.is_some() && !metadata.is_directory() {
                break;
            }
            let gone = self.overlay && metadata.is_whiteout();
            if !gone && !unsure.is_empty() {
                // Which of them shows is for the files to say.
                unsure.iter().try_for_each(|layer| layer.stat(name).map(drop))?;
            }
            if layer.implies(name) {
                implied = Some((layer, metadata));
                continue;
            }
            return Ok(if gone { Look::hidden(unsure) } else { Look::Entry(layer, metadata) });
        }
        Ok(implied.map_or_else(|| Look::hidden(unsure), |(layer, metadata)| Look::Entry(layer, metadata)))
    }

    /// The same where an entry that is not known well is of no use.
    pub(crate) fn find(&self, name: &OsStr) -> io::Result<Option<(&LayerDirectory, Metadata)>> {
        match self.look(name)? {
            Look::Nothing => Ok(None),
            Look::Entry(layer, metadata) => Ok(Some((layer, metadata))),
            Look::FileOrNothing(layers) => {
                for layer in &layers {
                    layer.stat(name)?;
                }
                Err(needs_files())
            }
        }
    }

    /// Whether what is no directory may take the name.
    pub(crate) fn is_no_directory(&self, name: &OsStr) -> io::Result<bool> {
        Ok(!matches!(self.look(name)?, Look::Entry(_, metadata) if metadata.is_directory()))
    }

    /// The entry of that name; a link is not followed.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        Ok(self.find(name)?.map(|(_, metadata)| metadata))
    }

    fn holder(&self, name: &OsStr) -> io::Result<&LayerDirectory> {
        Ok(self.find(name)?.ok_or(Errno::NOENT)?.0)
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        self.holder(name)?.read_link(name)
    }

    pub(crate) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        match self.lowers.as_slice() {
            // One layer needs no search.
            [] => self.topmost()?.open_file(name),
            [only] if self.upper.get().is_none() => only.open_file(name),
            _ => self.holder(name)?.open_file(name),
        }
    }

    /// Names of all entries, sorted by their bytes.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut merged: BTreeMap<OsString, bool> = BTreeMap::new();
        for layer in self.layers() {
            for (name, whiteout) in layer.names(self.overlay)? {
                merged.entry(name).or_insert(whiteout);
            }
        }
        Ok(merged.into_iter().filter_map(|(name, whiteout)| (!whiteout).then_some(name)).collect())
    }

    /// The directory of that name, or nothing if the name is missing or no directory.
    pub(crate) fn child(self: &Arc<Self>, name: &OsStr) -> io::Result<Option<Arc<Self>>> {
        let mut upper = None;
        if let Some(layer) = self.upper.get() {
            match layer.step(name)? {
                Step::Missing => {}
                Step::Other => return Ok(None),
                Step::Directory(found) => upper = Some(found),
            }
        }
        let mut lowers = Vec::new();
        let mut closed = self.overlay && upper.as_ref().is_some_and(LayerDirectory::is_opaque);
        for layer in &self.lowers {
            if closed {
                break;
            }
            match layer.step(name)? {
                Step::Missing => {}
                Step::Other => closed = true,
                Step::Directory(found) => {
                    closed = self.overlay && found.is_opaque();
                    lowers.push(found);
                }
            }
        }
        if upper.is_none() && lowers.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.below(name, upper, lowers)))
    }

    fn below(self: &Arc<Self>, name: &OsStr, upper: Option<LayerDirectory>, lowers: Vec<LayerDirectory>) -> Arc<Self> {
        let upper = upper.map_or_else(OnceLock::new, OnceLock::from);
        Arc::new(Self { parent: Some((self.clone(), name.to_owned())), upper, lowers, overlay: self.overlay })
    }

    /// Makes the upper directory look as the one below it does, if there is one.
    pub(crate) fn look_as_below(&self) -> io::Result<()> {
        let Ok(below) = self.describing(self.lowers.iter()) else { return Ok(()) };
        match self.bring_up()? {
            LayerDirectory::Sketched(own) => {
                let (owner, xattrs) = below.own_attributes()?;
                own.look(&below.metadata()?, owner, xattrs);
                Ok(())
            }
            own => copy_directory_metadata(below, own.fd()?),
        }
    }

    /// The directory in the upper layer, open on the file system.
    pub(crate) fn upper(&self) -> io::Result<BorrowedFd<'_>> {
        match self.bring_up()? {
            LayerDirectory::Sketched(_) => Err(needs_directory()),
            upper => upper.fd(),
        }
    }

    /// The directory in the upper layer, if that is a sketch.
    pub(crate) fn sketched(&self) -> io::Result<Option<&SketchedDirectory>> {
        if !self.is_sketch() {
            return Ok(None);
        }
        self.bring_up().map(LayerDirectory::sketched)
    }

    /// Whether what is written here goes into a sketch.
    pub(crate) fn is_sketch(&self) -> bool {
        match (self.upper.get(), &self.parent) {
            (Some(upper), _) => upper.sketched().is_some(),
            (None, Some((parent, _))) => parent.is_sketch(),
            (None, None) => false,
        }
    }

    /// The directory in the upper layer, made there with the metadata it has below if it is not there yet.
    fn bring_up(&self) -> io::Result<&LayerDirectory> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        let (parent, name) = self.parent.as_ref().ok_or(Errno::ROFS)?;
        let below = || self.describing(self.lowers.iter());
        let opened = match parent.bring_up()? {
            LayerDirectory::Sketched(parent) => match parent.child(name) {
                Some(known) => LayerDirectory::Sketched(known),
                None => {
                    let (owner, xattrs) = below()?.own_attributes()?;
                    LayerDirectory::Sketched(parent.bring_up(name, &below()?.metadata()?, owner, xattrs)?)
                }
            },
            parent => LayerDirectory::Open(bring_up_at(parent.fd()?, name, below)?),
        };
        Ok(self.upper.get_or_init(|| opened))
    }

    /// Whether a lower layer shows anything of that name.
    fn lower_has(&self, name: &OsStr) -> io::Result<bool> {
        for layer in &self.lowers {
            if let Some(metadata) = layer.stat(name)? {
                return Ok(!(self.overlay && metadata.is_whiteout()));
            }
        }
        Ok(false)
    }

    /// Runs `make` in the upper directory; a whiteout or file of that name makes way for it.
    pub(crate) fn make_in_upper<T>(&self, name: &OsStr, make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>) -> io::Result<T> {
        let at = self.upper()?;
        match make(at) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(at, name, AtFlags::empty())?;
                Ok(make(at)?)
            }
            result => Ok(result?),
        }
    }

    /// Makes a new, empty directory; what lower layers have of that name is hidden.
    pub(crate) fn make_directory(self: &Arc<Self>, name: &OsStr, mode: u32) -> io::Result<Arc<Self>> {
        if let Some(sketch) = self.sketched()? {
            let made = sketch.make_directory(name, mode, self.overlay && self.lower_has(name)?)?;
            return Ok(self.below(name, Some(LayerDirectory::Sketched(made)), Vec::new()));
        }
        self.make_in_upper(name, |at| rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700)))?;
        let fd = open_directory(self.upper()?, name)?;
        if self.overlay && self.lower_has(name)? {
            rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())?;
        }
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        Ok(self.below(name, Some(LayerDirectory::Open(fd)), Vec::new()))
    }

    /// Makes an empty file that only we can read until it gets its mode.
    pub(crate) fn create_file(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.make_in_upper(name, |at| rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o600)))?;
        Ok(fd.into())
    }

    pub(crate) fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        self.make_in_upper(name, |at| rustix::fs::symlinkat(target, at, name))
    }

    pub(crate) fn make_fifo(&self, name: &OsStr) -> io::Result<()> {
        self.make_node(name, FileType::Fifo, 0)
    }

    fn make_node(&self, name: &OsStr, kind: FileType, rdev: u64) -> io::Result<()> {
        self.make_in_upper(name, |at| rustix::fs::mknodat(at, name, kind, Mode::from_raw_mode(0o600), rdev))
    }

    /// Makes a device node; says no where a user namespace refuses it, or where 0:0 would be a whiteout.
    pub(crate) fn make_device(&self, name: &OsStr, kind: FileType, rdev: u64, overlay: bool) -> io::Result<bool> {
        if overlay && rdev == 0 && kind == FileType::CharacterDevice {
            return Ok(false);
        }
        match self.make_node(name, kind, rdev) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings a file of a lower layer up, so that it can get a second name there.
    pub(crate) fn copy_up(&self, name: &OsStr) -> io::Result<()> {
        let at = self.upper()?;
        let name = CString::new(name.as_bytes())?;
        if disk::stat_at(at, &name)?.is_some() {
            return Ok(());
        }
        for layer in &self.lowers {
            if layer.stat(OsStr::from_bytes(name.to_bytes()))?.is_none() {
                continue;
            }
            let from = layer.fd()?;
            if let Some(stat) = disk::stat_at(from, &name)? {
                return copy_up::copy_entry(from, &name, &stat, at, &name);
            }
        }
        Err(Errno::NOENT.into())
    }

    /// Takes an entry away, a directory with all that is in it; the name is gone from lower layers too.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        if self.upper.get().is_some() {
            remove_at(self.upper()?, &CString::new(name.as_bytes())?)?;
        }
        if self.overlay && self.lower_has(name)? {
            let at = self.upper()?;
            disk::make_whiteout(at, &CString::new(name.as_bytes())?)?;
        }
        Ok(())
    }

    pub(crate) fn set_times(&self, accessed: Timestamp, modified: Timestamp) -> io::Result<()> {
        match self.sketched()? {
            Some(sketch) => sketch.set_time(modified),
            None => set_times(self.upper()?, accessed, modified)?,
        }
        Ok(())
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self.sketched()? {
            Some(sketch) => sketch.set_mode(mode),
            None => rustix::fs::fchmod(self.upper()?, Mode::from_raw_mode(mode))?,
        }
        Ok(())
    }

    pub(crate) fn set_owner(&self, uid: u32, gid: u32, ownership: Ownership) -> io::Result<()> {
        match self.sketched()? {
            Some(sketch) => sketch.set_owner((uid, gid)),
            None => set_owner(self.upper()?, uid, gid, ownership)?,
        }
        Ok(())
    }
}

/// Makes a directory that looks as the one below does.
fn bring_up_at<'a>(at: BorrowedFd<'_>, name: &OsStr, below: impl Fn() -> io::Result<&'a LayerDirectory>) -> io::Result<OwnedFd> {
    let before = Metadata::from_stat(&rustix::fs::fstat(at)?);
    match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {
            let made = open_directory(at, name)?;
            copy_directory_metadata(below()?, made.as_fd())?;
            // Bringing a directory up is no change of the one it lies in.
            set_times(at, before.accessed, before.modified)?;
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_directory(at, name)
}

fn open_directory(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn copy_directory_metadata(from: &LayerDirectory, to: BorrowedFd<'_>) -> io::Result<()> {
    let metadata = from.metadata()?;
    // An owner that was written down comes with the attributes.
    set_owner(to, metadata.uid, metadata.gid, Ownership::Set)?;
    xattrs::set(&from.xattrs(), to);
    rustix::fs::fchmod(to, Mode::from_raw_mode(metadata.mode))?;
    set_times(to, metadata.accessed, metadata.modified)
}

/// Sets an owner, or writes it down where only one id is mapped.
pub(crate) fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32, ownership: Ownership) -> io::Result<()> {
    match ownership {
        Ownership::Record => disk::record_owner(fd, uid, gid),
        Ownership::Set => disk::set_owner(fd, uid, gid),
    }
}

pub(crate) fn set_times(fd: BorrowedFd<'_>, accessed: Timestamp, modified: Timestamp) -> io::Result<()> {
    let times = Timestamps { last_access: timespec(accessed), last_modification: timespec(modified) };
    Ok(rustix::fs::futimens(fd, &times)?)
}
