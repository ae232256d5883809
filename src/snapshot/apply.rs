//! Unpacks a layer's tar into the layer's own directory, in the form described in `disk`.
//!
//! The rules are containerd's (the overlay way): a name is cleaned as text, so that it can't climb; only its parent is
//! resolved, beneath the layer's own root, never the name itself; a missing parent takes its attributes from the
//! layers below; directories get their times last. The layers below are asked for when they are needed, at the end as a
//! rule, so that layers can be unpacked side by side. A whiteout and an entry of the same name mean "replaced", in
//! whichever order they come.
//! Unaware of compression and of where layers are kept.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Entry, EntryKind, Error, Limits, MergedDir, TarReader, Timestamp, copy_up,
    disk::{self, Device},
    implied,
};
use crate::{
    oci::tar::ArchiveError,
    sys::{remove, root::RootDir},
};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Other names that aufs kept for itself; nobody gives them a meaning.
const RESERVED_PREFIX: &[u8] = b".wh..wh.";

/// What an entry's name says.
pub(super) enum Meaning<'a> {
    /// An entry of that name.
    Entry,
    /// Its directory hides what lies below.
    Opaque,
    /// This name is hidden.
    Whiteout(&'a [u8]),
    /// Nothing.
    Reserved,
}

pub(super) fn meaning(name: &[u8]) -> Meaning<'_> {
    match name.strip_prefix(WHITEOUT_PREFIX) {
        None => Meaning::Entry,
        Some(_) if name == OPAQUE_MARKER => Meaning::Opaque,
        Some(_) if name.starts_with(RESERVED_PREFIX) => Meaning::Reserved,
        Some(hidden) => Meaning::Whiteout(hidden),
    }
}

/// What to do about owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// Set them: all ids are mapped.
    #[default]
    Set,
    /// Write them down in attributes: only one id is mapped.
    Record,
}

/// How a layer is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApplyOptions {
    /// What to do about owners.
    pub ownership: Ownership,
    /// Bounds on the archive.
    pub limits: Limits,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApplyReport {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of content.
    pub size_bytes: u64,
    /// Entries that hide something below.
    pub whiteouts: u64,
    /// Device nodes, kept as placeholders.
    pub devices: u64,
    /// Attributes that this file system or namespace could not hold.
    pub lost_xattrs: u64,
    /// Owners of links and FIFOs that could not be written down.
    pub lost_owners: u64,
}

/// Gives the layers below, top first; may wait until they are there.
pub type Below<'a> = &'a dyn Fn() -> io::Result<Vec<RootDir>>;

/// Unpacks `tar` into `dest`, an empty directory. All of `tar` is read, also what follows the archive's end.
pub fn apply_layer(tar: impl Read, dest: &RootDir, below: Below<'_>, options: &ApplyOptions) -> Result<ApplyReport, Error> {
    let mut reader = TarReader::with_limits(tar, options.limits);
    let mut applier = Applier {
        dest,
        wait_for_below: below,
        below: OnceCell::new(),
        ownership: options.ownership,
        parent: None,
        directory_times: BTreeMap::new(),
        implied: BTreeMap::new(),
        describes_root: false,
        report: ApplyReport::default(),
    };
    while let Some(entry) = reader.next_entry()? {
        applier.apply(&entry, &mut reader)?;
    }
    applier.inherit_implied()?;
    applier.finish_directories()?;
    reader.drain()?;
    Ok(applier.report)
}

pub(super) struct Applier<'a> {
    pub dest: &'a RootDir,
    wait_for_below: Below<'a>,
    below: OnceCell<MergedDir>,
    pub ownership: Ownership,
    /// The last parent and its handle: archives come in walk order. Dropped when a directory or link is replaced.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    pub directory_times: BTreeMap<PathBuf, Timestamp>,
    /// Directories that no entry has described so far, by their inodes: links can lead to them too.
    pub implied: BTreeMap<u64, PathBuf>,
    pub describes_root: bool,
    report: ApplyReport,
}

/// Where an entry goes: a name in an open directory, and the path for messages.
struct Place<'a> {
    parent: &'a OwnedFd,
    name: &'a CStr,
    path: &'a Path,
}

impl Applier<'_> {
    /// The merged tree of the layers below.
    pub fn below(&self) -> io::Result<&MergedDir> {
        if self.below.get().is_none() {
            let merged = MergedDir::root(&(self.wait_for_below)()?)?;
            let _ = self.below.set(merged);
        }
        Ok(self.below.get().expect("just set"))
    }

    fn apply(&mut self, entry: &Entry, content: &mut TarReader<impl Read>) -> Result<(), Error> {
        self.report.entries += 1;
        self.report.size_bytes += entry.size;
        let path = clean(&entry.path);
        let Some(name) = path.file_name().map(OsStr::as_bytes) else {
            return self.apply_root(entry);
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        let parent = self.parent_of(parent_path, &entry.path)?;
        match meaning(name) {
            Meaning::Opaque => self.apply_opaque(&parent, parent_path),
            Meaning::Reserved => Ok(()),
            Meaning::Whiteout(b"" | b"." | b"..") => Err(Error::archive(&entry.path, "a whiteout of nothing")),
            Meaning::Whiteout(hidden) => self.apply_whiteout(&parent, hidden, &path),
            Meaning::Entry => {
                let name = disk::c_name(name).map_err(Error::io("create", &path))?;
                self.create(entry, &Place { parent: &parent, name: &name, path: &path }, content)
            }
        }
    }

    /// The handle of an entry's parent, made if it is missing.
    fn parent_of(&mut self, path: &Path, entry: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        match &self.parent {
            Some((known, fd)) if known == path => Ok(fd.clone()),
            _ => {
                let fd = Rc::new(implied::open_or_make(self, path, entry)?);
                self.parent = Some((path.to_owned(), fd.clone()));
                Ok(fd)
            }
        }
    }

    fn create(&mut self, entry: &Entry, place: &Place<'_>, content: &mut TarReader<impl Read>) -> Result<(), Error> {
        match &entry.kind {
            EntryKind::Directory => self.create_directory(entry, place),
            EntryKind::File => {
                let file = self.create_file(place)?;
                content.extract_to(&file).map_err(|error| content_error(error, place.path))?;
                self.finish_file(&file, entry, place)
            }
            EntryKind::CharDevice { major, minor } => {
                self.create_device(entry, place, Device { is_block: false, major: *major, minor: *minor })
            }
            EntryKind::BlockDevice { major, minor } => {
                self.create_device(entry, place, Device { is_block: true, major: *major, minor: *minor })
            }
            EntryKind::Symlink { target } => {
                let make = || rustix::fs::symlinkat(OsStr::from_bytes(target), place.parent, place.name);
                self.create_or_replace(place, make)?;
                self.finish_node(entry, place)
            }
            EntryKind::Fifo => {
                let make = || rustix::fs::mknodat(place.parent, place.name, FileType::Fifo, Mode::empty(), 0);
                self.create_or_replace(place, make)?;
                let mode = Mode::from_raw_mode(entry.mode);
                self.finish_node(entry, place)?;
                rustix::fs::chmodat(place.parent, place.name, mode, AtFlags::empty()).map_err(Error::io("set the mode of", place.path))
            }
            EntryKind::HardLink { target } => self.create_hard_link(entry, place, target),
        }
    }

    fn create_file(&mut self, place: &Place<'_>) -> Result<File, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(place.parent, place.name, flags, Mode::from_raw_mode(0o600));
        Ok(File::from(self.create_or_replace(place, make)?))
    }

    fn create_device(&mut self, entry: &Entry, place: &Place<'_>, device: Device) -> Result<(), Error> {
        self.report.devices += 1;
        let file = self.create_file(place)?;
        disk::set_device(&file, device).map_err(Error::io("mark the device", place.path))?;
        self.finish_file(&file, entry, place)
    }

    /// A directory over a directory keeps what is in it; over a whiteout it hides what is below.
    fn create_directory(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), Error> {
        let mut hides_below = false;
        if let Err(error) = rustix::fs::mkdirat(place.parent, place.name, Mode::RWXU) {
            let there = self.stat(place)?.filter(|_| error == Errno::EXIST).ok_or_else(|| Error::io("create", place.path)(error))?;
            if disk::file_type(&there) != FileType::Directory {
                hides_below = disk::is_whiteout(&there);
                self.remove(place)?;
                rustix::fs::mkdirat(place.parent, place.name, Mode::RWXU).map_err(Error::io("create", place.path))?;
            }
        }
        let directory = disk::open_directory(place.parent, place.name).map_err(Error::io("open", place.path))?;
        if hides_below {
            disk::set_opaque(&directory).map_err(Error::io("mark as opaque", place.path))?;
        }
        self.set_attributes(&directory, entry, place.path)?;
        if !self.implied.is_empty() {
            let stat = rustix::fs::fstat(&directory).map_err(Error::io("look up", place.path))?;
            self.implied.remove(&stat.st_ino);
        }
        self.directory_times.insert(place.path.to_owned(), entry.mtime);
        Ok(())
    }

    fn create_hard_link(&mut self, entry: &Entry, place: &Place<'_>, target: &[u8]) -> Result<(), Error> {
        let target = clean(target);
        let missing = || Error::archive(&entry.path, format!("a hard link to `{}`, which is not there", target.display()));
        let from_name = disk::c_name(target.file_name().ok_or_else(missing)?.as_bytes()).map_err(Error::io("link to", &target))?;
        let from = implied::open_or_make(self, target.parent().unwrap_or(Path::new("")), &entry.path)?;
        let mut there = disk::stat_at(&from, &from_name).map_err(Error::io("look up", &target))?;
        if there.is_none() {
            // The file is in a layer below: it comes up first, as `ln` on the mounted layers would make it.
            copy_up::from_below(self, &target, &from, &from_name)?;
            there = disk::stat_at(&from, &from_name).map_err(Error::io("look up", &target))?;
        }
        let there = there.filter(|stat| !disk::is_whiteout(stat)).ok_or_else(missing)?;
        if disk::file_type(&there) == FileType::Directory {
            return Err(Error::archive(&entry.path, "a hard link to a directory"));
        }
        if self.stat(place)?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (there.st_dev, there.st_ino)) {
            return Ok(());
        }
        self.create_or_replace(place, || rustix::fs::linkat(&from, &from_name, place.parent, place.name, AtFlags::empty()))
    }

    /// `make` fails if the name is taken; what has it gives way. The leaf is never followed.
    fn create_or_replace<T>(&mut self, place: &Place<'_>, make: impl Fn() -> Result<T, Errno>) -> Result<T, Error> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove(place)?;
                make().map_err(Error::io("create", place.path))
            }
            result => result.map_err(Error::io("create", place.path)),
        }
    }

    fn remove(&mut self, place: &Place<'_>) -> Result<(), Error> {
        self.parent = None;
        remove::remove_at(place.parent.as_fd(), place.name).map_err(Error::io("replace", place.path))
    }

    fn stat(&self, place: &Place<'_>) -> Result<Option<rustix::fs::Stat>, Error> {
        disk::stat_at(place.parent, place.name).map_err(Error::io("look up", place.path))
    }

    fn finish_file(&mut self, file: &File, entry: &Entry, place: &Place<'_>) -> Result<(), Error> {
        self.set_attributes(file, entry, place.path)?;
        rustix::fs::futimens(file, &disk::times(entry.mtime)).map_err(Error::io("set the time of", place.path))
    }

    /// Owner and time of a link or FIFO, which have no attributes.
    fn finish_node(&mut self, entry: &Entry, place: &Place<'_>) -> Result<(), Error> {
        let name = OsStr::from_bytes(place.name.to_bytes());
        let kept = match self.ownership {
            Ownership::Set => disk::set_owner_at(place.parent, name, entry.uid, entry.gid),
            Ownership::Record => Ok((entry.uid, entry.gid) == (0, 0) || disk::record_owner_at(place.parent, name, entry.uid, entry.gid)),
        };
        self.report.lost_owners += u64::from(!kept.map_err(Error::io("set the owner of", place.path))?);
        disk::set_mtime_at(place.parent, place.name, entry.mtime).map_err(Error::io("set the time of", place.path))
    }

    /// Owner, mode and attributes of an open file or directory.
    fn set_attributes(&mut self, file: impl AsFd, entry: &Entry, path: &Path) -> Result<(), Error> {
        self.set_owner(&file, entry.uid, entry.gid).map_err(Error::io("set the owner of", path))?;
        // After the owner: chown clears the setuid bit and the file capabilities.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(Error::io("set the mode of", path))?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| disk::is_layer_xattr(name)) {
            if !disk::set_xattr(&file, name, value).map_err(Error::io("set an attribute of", path))? {
                self.report.lost_xattrs += 1;
            }
        }
        Ok(())
    }

    pub fn set_owner(&self, file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
        match self.ownership {
            Ownership::Record => disk::record_owner(file, uid, gid),
            Ownership::Set => disk::set_owner(file, uid, gid),
        }
    }

    fn apply_opaque(&mut self, parent: &OwnedFd, path: &Path) -> Result<(), Error> {
        self.report.whiteouts += 1;
        let directory = disk::open_directory(parent, c".").map_err(Error::io("open", path))?;
        disk::set_opaque(directory).map_err(Error::io("mark as opaque", path))
    }

    /// Hides `name` of the layers below; what this layer itself has there stays, and hides it too.
    fn apply_whiteout(&mut self, parent: &OwnedFd, name: &[u8], path: &Path) -> Result<(), Error> {
        self.report.whiteouts += 1;
        let name = disk::c_name(name).map_err(Error::io("hide", path))?;
        let hide = || match disk::stat_at(parent, &name)? {
            None => disk::make_whiteout(parent, &name),
            Some(stat) if disk::file_type(&stat) == FileType::Directory => disk::set_opaque(disk::open_directory(parent, &name)?),
            Some(_) => Ok(()),
        };
        hide().map_err(Error::io("hide", path))
    }

    /// `./` describes the root itself; anything else of that name makes no sense.
    fn apply_root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::archive(&entry.path, "the root can only be a directory"));
        }
        let root = disk::open_directory(self.dest, c".").map_err(Error::io("open", Path::new("/")))?;
        self.set_attributes(&root, entry, Path::new("/"))?;
        self.describes_root = true;
        self.directory_times.insert(PathBuf::new(), entry.mtime);
        Ok(())
    }

    /// Times of directories, now that nothing is put into them any more.
    fn finish_directories(&self) -> Result<(), Error> {
        for (path, mtime) in &self.directory_times {
            let set = || match self.dest.open_in(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                // A directory that was replaced later on by something else.
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => Ok(()),
                Err(error) => Err(error),
                Ok(directory) => Ok(rustix::fs::futimens(directory, &disk::times(*mtime))?),
            };
            set().map_err(Error::io("set the time of", path))?;
        }
        Ok(())
    }
}

/// Cleans a name as text, as Go's path.Clean below a root: no leading slash, no `.`, and `..` stops at the root.
pub(super) fn clean(path: &[u8]) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                clean.pop();
            }
            name => clean.push(OsStr::from_bytes(name)),
        }
    }
    clean
}

/// Content fails for two reasons: the archive breaks off, or the disk does.
fn content_error(error: io::Error, path: &Path) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::Io { action: "write", path: path.to_owned(), source: error },
        None => Error::Archive(ArchiveError::Read(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_climb_stop_at_the_root() {
        for (name, expected) in
            [("./a//b/", "a/b"), ("/a", "a"), ("../../a", "a"), ("a/../../b", "b"), ("./", ""), ("a/..", ""), ("...", "...")]
        {
            assert_eq!(clean(name.as_bytes()), Path::new(expected), "{name}");
        }
    }
}
