//! ADD of a local archive: a tar, plain or compressed, unpacked into a directory of a root filesystem.
//!
//! The rules are those of BuildKit's unpacker, which changes its root to the destination first: links on the way, absolute
//! or climbing, are resolved inside the destination. What an entry finds in its place is removed, but a directory meets a
//! directory; parents that the archive does not list are root's; directories get their times last.
//! Unlike `apply`, a `.wh.` name means nothing here. Unaware of layers' own archives.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode},
    io::Errno,
};

use super::{
    Entry, EntryKind, TarReader, Timestamp,
    copy::{Context, CopyError, CopyReport},
    decompress,
    disk::{self, Device},
    layered::{Directory, LayeredRoot, NewDirectory, clean, ensure_directory, set_owner, walk, xattrs},
};

/// Whether a file is a tar archive, plain or compressed; told by its content. An archive without entries is none.
pub fn is_archive(file: &File) -> bool {
    let begins = |mut file: &File| -> Option<bool> {
        io::Seek::rewind(&mut file).ok()?;
        Some(matches!(TarReader::new(decompress(file).ok()?).next_entry(), Ok(Some(_))))
    };
    file.metadata().is_ok_and(|metadata| metadata.is_file()) && begins(file).unwrap_or(false)
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArchiveOptions {
    /// `--chown`: owner of all entries and of directories made for the destination.
    pub owner: Option<(u32, u32)>,
    /// Time of directories that are made for the destination or that the archive does not list.
    pub made_time: Option<Timestamp>,
}

/// Unpacks an archive into the directory `destination`, which is made if it is missing.
pub fn add_archive(
    archive: impl Read,
    root: &mut LayeredRoot,
    destination: &Path,
    options: ArchiveOptions,
) -> Result<CopyReport, CopyError> {
    let place = root.walk(destination, true).while_doing("mkdir", destination)?;
    let new = NewDirectory { mode: 0o755, owner: options.owner, time: None };
    let (base, made) = ensure_directory(&place, new, root.ownership()).while_doing("mkdir", destination)?;
    let unpacker = Unpacker { root, base, options, parent: None, directory_times: Vec::new(), report: CopyReport::default() };
    let report = unpacker.unpack(archive)?;
    if let Some(time) = options.made_time {
        made.iter().rev().try_for_each(|directory| directory.set_times(time, time)).while_doing("utimes", destination)?;
    }
    Ok(report)
}

struct Unpacker<'a> {
    root: &'a LayeredRoot,
    base: Arc<Directory>,
    options: ArchiveOptions,
    /// The last parent: archives come in walk order. Forgotten when something is removed.
    parent: Option<(PathBuf, Arc<Directory>)>,
    directory_times: Vec<(PathBuf, Timestamp)>,
    report: CopyReport,
}

impl Unpacker<'_> {
    fn unpack(mut self, archive: impl Read) -> Result<CopyReport, CopyError> {
        let broken = |source: io::Error| CopyError::Archive { source };
        let mut reader = TarReader::new(decompress(archive).map_err(broken)?);
        while let Some(entry) = reader.next_entry().map_err(|error| broken(io::Error::other(error)))? {
            self.root.check_stop().map_err(broken)?;
            self.report.entries += 1;
            self.report.bytes += entry.size;
            // In the archive's own root there is nothing to climb to.
            let name = Path::new("/").join(OsStr::from_bytes(&entry.path));
            let path: PathBuf = clean(&name).iter().collect();
            if !path.as_os_str().is_empty() {
                self.add(&entry, &path, &mut reader).while_doing("unpack", Path::new("/").join(self.base.path()).join(&path))?;
            }
        }
        for (path, time) in std::mem::take(&mut self.directory_times) {
            let place = walk(&self.base, &self.base, &path, false).while_doing("utimes", &path)?;
            if place.is_directory() {
                place.directory.set_times(time, time).while_doing("utimes", &path)?;
            }
        }
        Ok(self.report)
    }

    fn add(&mut self, entry: &Entry, path: &Path, content: &mut TarReader<impl Read>) -> io::Result<()> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        if let Some(found) = parent.stat(name)? {
            if found.is_directory() && entry.kind == EntryKind::Directory {
                let directory = parent.child(name)?.ok_or(Errno::NOENT)?;
                return self.dress_directory(entry, path, &directory);
            }
            if found.is_directory() {
                self.parent = None;
            }
            parent.remove(name)?;
        }
        match &entry.kind {
            EntryKind::Directory => {
                let directory = parent.make_directory(name, entry.mode)?;
                self.dress_directory(entry, path, &directory)
            }
            EntryKind::File => {
                let file = parent.create_file(name)?;
                content.extract_to(&file)?;
                self.dress(entry, file.as_fd())
            }
            EntryKind::HardLink { target } => self.link(entry, target, &parent, name),
            EntryKind::Symlink { target } => {
                parent.make_symlink(name, OsStr::from_bytes(target))?;
                self.dress_at(entry, &parent, name, true)
            }
            EntryKind::Fifo => {
                parent.make_fifo(name)?;
                self.dress_at(entry, &parent, name, false)
            }
            EntryKind::CharDevice { major, minor } => {
                self.device(entry, Device { is_block: false, major: *major, minor: *minor }, &parent, name)
            }
            EntryKind::BlockDevice { major, minor } => {
                self.device(entry, Device { is_block: true, major: *major, minor: *minor }, &parent, name)
            }
        }
    }

    /// The directory an entry lies in; made, root's, if the archive did not list it.
    fn parent(&mut self, path: &Path) -> io::Result<Arc<Directory>> {
        if let Some((known, directory)) = &self.parent
            && known == path
        {
            return Ok(directory.clone());
        }
        let place = walk(&self.base, &self.base, path, true)?;
        let new = NewDirectory { mode: 0o755, owner: None, time: None };
        let (directory, made) = ensure_directory(&place, new, self.root.ownership())?;
        if let Some(time) = self.options.made_time {
            let base = self.base.path();
            let inside = made.iter().filter_map(|directory| directory.path().strip_prefix(&base).ok().map(Path::to_owned));
            self.directory_times.extend(inside.map(|path| (path, time)));
        }
        self.parent = Some((path.to_owned(), directory.clone()));
        Ok(directory)
    }

    /// Makes a second name for a file of the archive or of the root filesystem; the entry's metadata goes to both.
    fn link(&mut self, entry: &Entry, target: &[u8], parent: &Arc<Directory>, name: &OsStr) -> io::Result<()> {
        let target: PathBuf = clean(&Path::new("/").join(OsStr::from_bytes(target))).iter().collect();
        let place = walk(&self.base, &self.base, &target, false)?;
        let ([target], Some(found)) = (place.rest.as_slice(), place.last()?) else { return Err(Errno::NOENT.into()) };
        place.directory.copy_up(target)?;
        let from = place.directory.upper()?;
        parent.make_in_upper(name, |at| rustix::fs::linkat(from, target, at, name, AtFlags::empty()))?;
        match found.kind {
            super::layered::Kind::File => {
                let file = parent.open_file(name)?;
                self.dress(entry, file.as_fd())
            }
            kind => self.dress_at(entry, parent, name, kind == super::layered::Kind::Symlink),
        }
    }

    /// A node, or the placeholder for it.
    fn device(&mut self, entry: &Entry, device: Device, parent: &Arc<Directory>, name: &OsStr) -> io::Result<()> {
        let kind = if device.is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let number = rustix::fs::makedev(device.major, device.minor);
        if parent.make_device(name, kind, number, self.root.is_overlay())? {
            return self.dress_at(entry, parent, name, false);
        }
        let file = parent.create_file(name)?;
        disk::set_device(&file, device)?;
        self.dress(entry, file.as_fd())
    }

    fn dress_directory(&mut self, entry: &Entry, path: &Path, directory: &Directory) -> io::Result<()> {
        self.directory_times.push((path.to_owned(), entry.mtime));
        self.dress(entry, directory.upper()?)
    }

    /// Owner, attributes, mode, time: each may undo the one before if done in another order.
    fn dress(&self, entry: &Entry, file: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        set_owner(file, uid, gid, self.root.ownership())?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| !xattrs::is_private(name)) {
            disk::set_xattr(file, name, value)?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
        Ok(rustix::fs::futimens(file, &disk::times(entry.mtime))?)
    }

    fn dress_at(&self, entry: &Entry, parent: &Directory, name: &OsStr, is_link: bool) -> io::Result<()> {
        let at = parent.upper()?;
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        disk::keep_owner_at(at, name, uid, gid, self.root.ownership())?;
        if !is_link {
            rustix::fs::chmodat(at, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        disk::set_mtime_at(at, &disk::c_name(name.as_bytes())?, entry.mtime)
    }
}

#[cfg(test)]
mod tests;
