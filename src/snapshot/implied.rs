//! Parents that a layer doesn't mention: they look as they do in the layers below.
//! Unaware of archives.

use std::{
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Error, Timestamp,
    apply::{Applier, Ownership, clean},
    disk,
};

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

impl Applier<'_> {
    /// Directories that no entry described look as they do below, and as 0755 of root where they are new.
    pub(super) fn inherit_implied(&mut self) -> Result<(), Error> {
        if !self.describes_root {
            let path = Path::new("");
            let root = disk::open_directory(self.dest, c".").map_err(Error::io("open", path))?;
            self.inherit(&root, path).map_err(Error::io("set the attributes of", path))?;
        }
        for (inode, path) in std::mem::take(&mut self.implied) {
            let directory = match self.dest.open_in(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
                Err(error) if is_missing(&error) || Errno::from_io_error(&error) == Some(Errno::LOOP) => continue,
                result => result.map_err(Error::io("open", &path))?,
            };
            // What was replaced later on is another inode.
            if rustix::fs::fstat(&directory).map_err(Error::io("look up", &path))?.st_ino == inode {
                self.inherit(&directory, &path).map_err(Error::io("set the attributes of", &path))?;
            }
        }
        Ok(())
    }

    fn inherit(&mut self, directory: &OwnedFd, path: &Path) -> io::Result<()> {
        let below = self.below()?.descend(path)?;
        let Some(model) = below.top() else {
            self.set_owner(directory, 0, 0)?;
            rustix::fs::fchmod(directory, Mode::from_raw_mode(0o755))?;
            self.directory_times.insert(path.to_owned(), Timestamp::default());
            return Ok(());
        };
        let stat = rustix::fs::fstat(model)?;
        let (uid, gid) = match self.ownership {
            Ownership::Set => (stat.st_uid, stat.st_gid),
            Ownership::Record => disk::recorded_owner(model)?.unwrap_or((0, 0)),
        };
        let mtime = disk::mtime(&stat);
        self.set_owner(directory, uid, gid)?;
        rustix::fs::fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        for (name, value) in disk::layer_xattrs(model)? {
            disk::set_xattr(directory, &name, &value)?;
        }
        self.directory_times.insert(path.to_owned(), mtime);
        Ok(())
    }
}

/// Opens the directory `path` of the layer; what is missing of it is made.
pub(super) fn open_or_make(applier: &mut Applier<'_>, path: &Path, entry: &[u8]) -> Result<OwnedFd, Error> {
    match open(applier, path) {
        Err(error) if is_missing(&error) => {
            make(applier, path, entry, MAX_LINKS)?;
            open(applier, path).map_err(Error::io("open", path))
        }
        result => result.map_err(Error::io("open", path)),
    }
}

fn open(applier: &Applier<'_>, path: &Path) -> io::Result<OwnedFd> {
    applier.dest.open_in(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}

/// Walks down and makes each directory that isn't there, also where a dangling link leads.
fn make(applier: &mut Applier<'_>, path: &Path, entry: &[u8], links_left: usize) -> Result<(), Error> {
    let mut walked = PathBuf::new();
    for name in path {
        walked.push(name);
        match open(applier, &walked) {
            Ok(_) => continue,
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(Error::io("open", &walked)(error)),
        }
        let (parent, name) = applier.dest.parent_in(&walked).map_err(Error::io("open the parent of", &walked))?;
        let name = disk::c_name(name.as_bytes()).map_err(Error::io("create", &walked))?;
        match disk::stat_at(&parent, &name).map_err(Error::io("look up", &walked))? {
            None => make_one(applier, &parent, &name, &walked, false).map_err(Error::io("create", &walked))?,
            Some(stat) if disk::is_whiteout(&stat) => {
                make_one(applier, &parent, &name, &walked, true).map_err(Error::io("create", &walked))?;
            }
            Some(stat) if disk::file_type(&stat) == FileType::Symlink && links_left > 0 => {
                let target = rustix::fs::readlinkat(&parent, &name, Vec::new()).map_err(Error::io("read the link", &walked))?;
                let target = walked.parent().unwrap_or(Path::new("")).join(OsStr::from_bytes(target.as_bytes()));
                make(applier, &clean(target.as_os_str().as_bytes()), entry, links_left - 1)?;
            }
            Some(_) => return Err(Error::archive(entry, format!("its parent `{}` is not a directory", walked.display()))),
        }
    }
    Ok(())
}

/// `replaces_whiteout`: what the layers below have there was deleted, so the new directory hides it.
fn make_one(applier: &mut Applier<'_>, parent: &OwnedFd, name: &CStr, path: &Path, replaces_whiteout: bool) -> io::Result<()> {
    if replaces_whiteout {
        crate::sys::remove::remove_at(parent.as_fd(), name)?;
    }
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let directory = disk::open_directory(parent, name)?;
    if replaces_whiteout {
        disk::set_opaque(&directory)?;
    }
    applier.implied.insert(rustix::fs::fstat(&directory)?.st_ino, path.to_owned());
    Ok(())
}
