//! The merged tree of a stack of layers, without a mount: as one tar, or as one directory tree.
//! Unaware of what either is for.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode};

use super::{Error, LayerStats, MergedDir, TimestampPolicy, copy_up, disk, write_layer::EntryWriter};
use crate::sys::root::RootDir;

/// Writes the merged tree of `layers` (top first) as a tar, devices and owners as their layers had them.
pub fn write_merged(layers: &[RootDir], out: impl Write, policy: TimestampPolicy) -> Result<LayerStats, Error> {
    let root = MergedDir::root(layers).map_err(Error::io("open the layers of", Path::new("/")))?;
    let mut tar = EntryWriter::new(out, policy);
    write_directory(&root, Path::new(""), &mut tar)?;
    tar.finish()
}

/// Writes a plain tree as a tar that has everything of it but sockets: times to the nanosecond, owners, attributes.
pub fn write_tree(root: &RootDir, out: impl Write) -> Result<LayerStats, Error> {
    let layers = [root.try_clone().map_err(Error::io("open", Path::new("/")))?];
    let root = MergedDir::root(&layers).map_err(Error::io("open", Path::new("/")))?;
    let mut tar = EntryWriter::exact(out);
    write_directory(&root, Path::new(""), &mut tar)?;
    tar.finish()
}

fn write_directory(directory: &MergedDir, path: &Path, tar: &mut EntryWriter<impl Write>) -> Result<(), Error> {
    for name in directory.names().map_err(Error::io("list", path))? {
        let path = path.join(OsStr::from_bytes(name.as_bytes()));
        let Some(entry) = directory.get(&name).map_err(Error::io("look up", &path))? else { continue };
        if tar.add(entry.holder, &name, &path)? {
            let child = directory.child(&name).map_err(Error::io("open", &path))?;
            write_directory(&child, &path, tar)?;
        }
    }
    Ok(())
}

/// Copies the merged tree of `layers` (top first) into `dest`, an empty directory: hard links, owners, attributes and
/// times kept, file content shared where the file system can.
pub fn copy_merged(layers: &[RootDir], dest: &RootDir) -> Result<(), Error> {
    let path = Path::new("");
    let root = MergedDir::root(layers).map_err(Error::io("open the layers of", path))?;
    let target = disk::open_directory(dest, c".").map_err(Error::io("open", path))?;
    let mut copier = Copier { dest: target.try_clone().map_err(Error::io("open", path))?, links: HashMap::new() };
    copier.copy_directory(&root, &target, path)
}

struct Copier {
    dest: OwnedFd,
    /// Where the first name of each file with several went: its directory and its name there.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn copy_directory(&mut self, from: &MergedDir, to: &OwnedFd, path: &Path) -> Result<(), Error> {
        for name in from.names().map_err(Error::io("list", path))? {
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            let Some(entry) = from.get(&name).map_err(Error::io("look up", &path))? else { continue };
            if entry.is_directory() {
                let child = from.child(&name).map_err(Error::io("open", &path))?;
                let target = make_directory(to, &name).map_err(Error::io("create", &path))?;
                self.copy_directory(&child, &target, &path)?;
                continue;
            }
            let stat = entry.stat;
            let first = (stat.st_nlink > 1).then(|| self.links.get(&(stat.st_dev, stat.st_ino)).cloned()).flatten();
            match first {
                Some(first) => self.link(&first, to, &name),
                None => copy_up::copy_entry(entry.holder, &name, &stat, to, &name),
            }
            .map_err(Error::io("copy", &path))?;
            if stat.st_nlink > 1 {
                self.links.entry((stat.st_dev, stat.st_ino)).or_insert(path);
            }
        }
        match from.top() {
            Some(top) => copy_directory_attributes(top, to).map_err(Error::io("set the attributes of", path)),
            None => Ok(()),
        }
    }

    fn link(&self, first: &Path, to: &OwnedFd, name: &CStr) -> io::Result<()> {
        let dest = RootDir::from_fd(self.dest.try_clone()?);
        let (parent, first) = dest.parent_in(first)?;
        Ok(rustix::fs::linkat(parent, &*first, to, name, AtFlags::empty())?)
    }
}

fn make_directory(parent: &OwnedFd, name: &CString) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    disk::open_directory(parent, name)
}

/// Last of all for a directory: what is put into it changes its time.
pub(super) fn copy_directory_attributes(from: BorrowedFd<'_>, to: impl AsFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    copy_up::copy_attributes(from, &stat, &to)?;
    Ok(rustix::fs::futimens(to, &disk::times(disk::mtime(&stat)))?)
}
