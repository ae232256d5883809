//! Turns a list of changes into a layer's tar: a function of the changes and the policy for times, of nothing else.
//!
//! Entries come in the order of a walk; parents of a change are in the layer too, as containerd writes them, so that
//! whoever unpacks it knows their attributes. Unaware of compression and of how the changes were found.

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::{Change, ChangeKind, Entry, EntryKind, Error, TarWriter, Timestamp, disk};
use crate::sys::root::RootDir;

/// What times the entries of a layer have; always whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampPolicy {
    /// As on disk.
    #[default]
    Keep,
    /// As on disk, but never later than this many seconds after 1970.
    Clamp(i64),
    /// All are this.
    Set(i64),
}

impl TimestampPolicy {
    pub(super) fn apply(self, mtime: Timestamp) -> Timestamp {
        let seconds = match self {
            Self::Keep => mtime.seconds,
            Self::Clamp(epoch) => mtime.seconds.min(epoch),
            Self::Set(epoch) => epoch,
        };
        Timestamp { seconds, nanoseconds: 0 }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerStats {
    /// Entries, whiteouts and parents included.
    pub entries: u64,
    /// Entries that hide something.
    pub whiteouts: u64,
    /// Bytes of file content.
    pub size_bytes: u64,
}

/// Writes `changes`, which are sorted, with what `root` has of them.
pub fn write_layer(changes: &[Change], root: &RootDir, out: impl Write, policy: TimestampPolicy) -> Result<LayerStats, Error> {
    write_changes(changes, OnDisk { root, parent: None }, EntryWriter::new(out, policy))
}

/// Where the entries of a layer are.
pub(super) trait Entries {
    /// Adds the entry at `path`; true if it is a directory.
    fn add<W: Write>(&mut self, tar: &mut EntryWriter<W>, path: &Path) -> Result<bool, Error>;
}

pub(super) fn write_changes<W: Write>(changes: &[Change], mut from: impl Entries, mut tar: EntryWriter<W>) -> Result<LayerStats, Error> {
    // Directories that are in the layer already.
    let mut directories = HashSet::new();
    for change in changes {
        let parents = change.path.ancestors().skip(1);
        let missing: Vec<_> = parents.take_while(|parent| !parent.as_os_str().is_empty() && !directories.contains(*parent)).collect();
        for parent in missing.into_iter().rev() {
            if from.add(&mut tar, parent)? {
                directories.insert(parent.to_owned());
            }
        }
        match change.kind {
            ChangeKind::Deleted => tar.add_whiteout(&change.path)?,
            ChangeKind::Added | ChangeKind::Modified => {
                if from.add(&mut tar, &change.path)? {
                    directories.insert(change.path.clone());
                }
            }
        }
    }
    tar.finish()
}

/// Entries that lie in a directory.
struct OnDisk<'a> {
    root: &'a RootDir,
    /// The directory of the last entry: they come in walk order.
    parent: Option<(PathBuf, OwnedFd)>,
}

impl OnDisk<'_> {
    fn open_parent(&mut self, path: &Path) -> Result<OwnedFd, Error> {
        let wanted = path.parent().unwrap_or(Path::new(""));
        match self.parent.take() {
            Some((known, fd)) if known == wanted => Ok(fd),
            _ => self.root.open_in(wanted, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(Error::io("open", wanted)),
        }
    }
}

impl Entries for OnDisk<'_> {
    fn add<W: Write>(&mut self, tar: &mut EntryWriter<W>, path: &Path) -> Result<bool, Error> {
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        let name = disk::c_name(name).map_err(Error::io("read", path))?;
        let parent = self.open_parent(path)?;
        let is_directory = tar.add(&parent, &name, path)?;
        self.parent = Some((path.parent().unwrap_or(Path::new("")).to_owned(), parent));
        Ok(is_directory)
    }
}

/// Writes what lies on disk as entries of a tar.
pub(super) struct EntryWriter<W: Write> {
    tar: TarWriter<W>,
    policy: TimestampPolicy,
    /// Not a layer's entries but what is there: fractions of seconds and all attributes.
    exact: bool,
    /// First name of each file with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    stats: LayerStats,
}

impl<W: Write> EntryWriter<W> {
    pub fn new(out: W, policy: TimestampPolicy) -> Self {
        Self { tar: TarWriter::new(out), policy, exact: false, links: HashMap::new(), stats: LayerStats::default() }
    }

    /// Entries as they are on disk, for whoever puts the very same tree in place again.
    pub fn exact(out: W) -> Self {
        Self { exact: true, ..Self::new(out, TimestampPolicy::Keep) }
    }

    pub fn finish(self) -> Result<LayerStats, Error> {
        self.tar.finish().map_err(Error::Write)?;
        Ok(self.stats)
    }

    fn add_whiteout(&mut self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        let hidden = path.with_file_name(std::ffi::OsStr::from_bytes(&[b".wh.", name].concat()));
        let entry = Entry {
            path: hidden.as_os_str().as_bytes().to_vec(),
            kind: EntryKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            xattrs: Vec::new(),
        };
        self.stats.whiteouts += 1;
        self.append(&entry, &mut io::empty(), path)
    }

    /// Adds the entry `name` of an open directory as `path`; true if it is a directory.
    pub fn add(&mut self, parent: impl AsFd, name: &CStr, path: &Path) -> Result<bool, Error> {
        let stat = disk::stat_at(&parent, name).map_err(Error::io("look up", path))?;
        let stat = stat.ok_or_else(|| Error::io("find", path)(io::Error::from(io::ErrorKind::NotFound)))?;
        let mut entry = self.entry_of(&stat, path);
        match disk::file_type(&stat) {
            // A socket means nothing without the process that listens on it.
            FileType::Socket => return Ok(false),
            FileType::Directory => {
                let directory = disk::open_directory(&parent, name).map_err(Error::io("open", path))?;
                entry.kind = EntryKind::Directory;
                read_attributes(&directory, &mut entry, self.exact).map_err(Error::io("read the attributes of", path))?;
            }
            // Owner and mode are the file's, in every one of its names.
            _ if self.is_further_link((stat.st_dev, stat.st_ino), stat.st_nlink, &mut entry) => read_owner_at(&parent, name, &mut entry),
            FileType::RegularFile => {
                self.add_file(parent, name, &stat, entry, path)?;
                return Ok(false);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(Error::io("read the link", path))?;
                entry.kind = EntryKind::Symlink { target: target.into_bytes() };
                read_owner_at(&parent, name, &mut entry);
            }
            FileType::Fifo => {
                entry.kind = EntryKind::Fifo;
                read_owner_at(&parent, name, &mut entry);
            }
            kind => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let is_block = kind == FileType::BlockDevice;
                entry.kind = device_kind(disk::Device { is_block, major, minor });
            }
        }
        self.append(&entry, &mut io::empty(), path)?;
        Ok(entry.kind == EntryKind::Directory)
    }

    fn add_file(&mut self, parent: impl AsFd, name: &CStr, stat: &Stat, mut entry: Entry, path: &Path) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(Error::io("open", path))?;
        let mut file = File::from(fd);
        read_attributes(&file, &mut entry, self.exact).map_err(Error::io("read the attributes of", path))?;
        match disk::device(&file).map_err(Error::io("read the attributes of", path))? {
            Some(device) => entry.kind = device_kind(device),
            None => entry.size = u64::try_from(stat.st_size).unwrap_or(0),
        }
        self.append(&entry, &mut file, path)
    }

    /// What is to be written as the time of an entry.
    pub fn time(&self, modified: Timestamp) -> Timestamp {
        if self.exact { modified } else { self.policy.apply(modified) }
    }

    /// Name, mode, owner and time: what every kind has.
    fn entry_of(&self, stat: &Stat, path: &Path) -> Entry {
        let (uid, gid) = disk::unwritten_owner(stat);
        Entry {
            path: path.as_os_str().as_bytes().to_vec(),
            kind: EntryKind::File,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: self.time(disk::mtime(stat)),
            size: 0,
            xattrs: Vec::new(),
        }
    }

    /// The first name of a file is the file; all later ones are links to it.
    pub fn is_further_link(&mut self, inode: (u64, u64), links: u64, entry: &mut Entry) -> bool {
        if links < 2 {
            return false;
        }
        match self.links.entry(inode) {
            std::collections::hash_map::Entry::Occupied(first) => {
                entry.kind = EntryKind::HardLink { target: first.get().clone() };
                true
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(entry.path.clone());
                false
            }
        }
    }

    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read, path: &Path) -> Result<(), Error> {
        self.stats.entries += 1;
        self.stats.size_bytes += entry.size;
        let found = self.tar.append(entry, content).map_err(Error::Write)?;
        if found == entry.size { Ok(()) } else { Err(Error::Changed { path: path.to_owned(), expected: entry.size, found }) }
    }
}

fn device_kind(device: disk::Device) -> EntryKind {
    let disk::Device { is_block, major, minor } = device;
    if is_block { EntryKind::BlockDevice { major, minor } } else { EntryKind::CharDevice { major, minor } }
}

fn read_owner_at(parent: impl AsFd, name: &CStr, entry: &mut Entry) {
    if let Some((uid, gid)) = disk::recorded_owner_at(parent, std::ffi::OsStr::from_bytes(name.to_bytes())) {
        (entry.uid, entry.gid) = (uid, gid);
    }
}

/// The attributes that a layer's tar carries.
pub(super) fn is_written(name: &[u8]) -> bool {
    name == b"security.capability"
}

fn read_attributes(file: impl AsFd, entry: &mut Entry, exact: bool) -> io::Result<()> {
    entry.xattrs = disk::layer_xattrs(&file)?;
    // As containerd writes layers: `user.*` would carry the host's notes on a file (where it was downloaded, which editor had
    // it) into the image, and make its digest differ from machine to machine.
    entry.xattrs.retain(|(name, _)| exact || is_written(name));
    if let Some((uid, gid)) = disk::recorded_owner(&file)? {
        (entry.uid, entry.gid) = (uid, gid);
    }
    Ok(())
}
