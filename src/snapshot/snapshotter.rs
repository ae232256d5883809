//! Two ways to give a step a root filesystem to write into. Either way a finished step leaves an upper directory in the
//! form described in `disk`, so that whoever keeps snapshots need not know which one made it.
//!
//! A draft is a directory of ours with `fs/` (what will be kept) and `work/` (which won't).
//! Unaware of processes; the one who runs them also mounts.

use std::{
    fmt, fs, io,
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

use super::{Change, ChangeKind, Error, Timestamp, copy_merged, diff::diff_merged, disk, flatten::copy_directory_attributes};
use crate::sys::{remove, root::RootDir};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// What to mount as the root of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// An overlay with `userxattr`.
    Overlay {
        /// Read-only layers, top first.
        lowers: Vec<PathBuf>,
        /// What is written.
        upper: PathBuf,
        /// overlayfs's own.
        work: PathBuf,
    },
    /// A directory that is the whole tree.
    Directory(PathBuf),
}

/// Makes drafts writable, and layers out of them.
pub trait Snapshotter: fmt::Debug + Send + Sync {
    /// As `doctor` and reports call it.
    fn name(&self) -> &'static str;

    /// Makes the draft (`fs/` and `work/` empty) ready for a process to write on top of `lowers`, top first.
    fn prepare(&self, draft: &Path, lowers: &[PathBuf]) -> Result<Root, Error>;

    /// After the process ended: leaves in `fs/` only what it changed, as an upper directory on `lowers`.
    fn finish(&self, draft: &Path, lowers: &[PathBuf]) -> Result<(), Error>;
}

/// The kernel's overlayfs: nothing is copied before it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overlay;

/// A full copy of the tree below, sharing content where the file system can: works where overlayfs doesn't.
///
/// One difference shows. A step that changes one name of a file with several changes the file, so that all its names are in
/// the layer; overlayfs gives the changed name a file of its own and leaves the others alone. Copying such files once per
/// name would hide that, and show another: `cp -a`, `tar` and `du` of a step would no longer see that the names are one
/// file, as they do on an overlay.
#[derive(Debug, Clone, Copy, Default)]
pub struct Native;

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn prepare(&self, draft: &Path, lowers: &[PathBuf]) -> Result<Root, Error> {
        let upper = draft.join("fs");
        inherit_root(&upper, lowers)?;
        Ok(Root::Overlay { lowers: lowers.to_vec(), upper, work: draft.join("work") })
    }

    fn finish(&self, _draft: &Path, _lowers: &[PathBuf]) -> Result<(), Error> {
        Ok(())
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn prepare(&self, draft: &Path, lowers: &[PathBuf]) -> Result<Root, Error> {
        let tree = draft.join("fs");
        inherit_root(&tree, lowers)?;
        copy_merged(&open_all(lowers)?, &open(&tree)?)?;
        Ok(Root::Directory(tree))
    }

    fn finish(&self, draft: &Path, lowers: &[PathBuf]) -> Result<(), Error> {
        let (tree, kept) = (draft.join("fs"), draft.join("kept"));
        let changes = diff_merged(&open(&tree)?, open_all(lowers)?)?;
        remove::remove_tree(&kept).map_err(Error::io("remove", &kept))?;
        fs::create_dir(&kept).map_err(Error::io("create", &kept))?;
        keep_changes(&changes, &open(&tree)?, &open(&kept)?)?;
        remove::remove_tree(&tree).map_err(Error::io("remove", &tree))?;
        fs::rename(&kept, &tree).map_err(Error::io("rename", &kept))
    }
}

/// The merged root looks as the uppermost directory does, so that one must look as the one below: 0755 of root at first.
pub fn inherit_root(upper: &Path, lowers: &[PathBuf]) -> Result<(), Error> {
    let inherit = || -> io::Result<()> {
        let target = disk::open_directory(RootDir::open(upper)?, c".")?;
        match lowers.first() {
            Some(lower) => copy_directory_attributes(disk::open_directory(RootDir::open(lower)?, c".")?.as_fd(), target),
            None => Ok(rustix::fs::fchmod(target, Mode::from_raw_mode(0o755))?),
        }
    };
    inherit().map_err(Error::io("set the attributes of", upper))
}

/// Moves what changed of `tree` into `kept`, in overlay form.
fn keep_changes(changes: &[Change], tree: &RootDir, kept: &RootDir) -> Result<(), Error> {
    let times = times_of_parents(changes, tree)?;
    let mut moved: Option<&Path> = None;
    for change in changes {
        // What lies in a directory that moved as a whole has moved with it.
        if moved.is_some_and(|moved| change.path.starts_with(moved)) {
            continue;
        }
        if keep(change, tree, kept).map_err(Error::io("keep", &change.path))? {
            moved = Some(&change.path);
        }
    }
    for (path, mtime) in &times {
        let copy = || match tree.open_in(path, DIRECTORY, Mode::empty()) {
            // It moved as a whole, with its attributes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(from) => {
                let to = kept.open_in(path, DIRECTORY, Mode::empty())?;
                copy_directory_attributes(from.as_fd(), &to)?;
                Ok(rustix::fs::futimens(&to, &disk::times(*mtime))?)
            }
        };
        copy().map_err(Error::io("set the attributes of", path))?;
    }
    Ok(())
}

/// True if a whole directory was moved.
fn keep(change: &Change, tree: &RootDir, kept: &RootDir) -> io::Result<bool> {
    make_parents(&change.path, kept)?;
    let (to, name) = kept.parent_in(&change.path)?;
    let name = disk::c_name(name.as_bytes())?;
    if change.kind == ChangeKind::Deleted {
        disk::make_whiteout(&to, &name)?;
        return Ok(false);
    }
    let (from, _) = tree.parent_in(&change.path)?;
    let stat = disk::stat_at(&from, &name)?.ok_or(io::ErrorKind::NotFound)?;
    let is_directory = disk::file_type(&stat) == FileType::Directory;
    if is_directory && change.kind == ChangeKind::Modified {
        make_directory(&to, &name)?;
        let source = disk::open_directory(&from, &name)?;
        copy_directory_attributes(source.as_fd(), disk::open_directory(&to, &name)?)?;
        return Ok(false);
    }
    rustix::fs::renameat(&from, &name, &to, &name)?;
    Ok(is_directory)
}

fn make_parents(path: &Path, kept: &RootDir) -> io::Result<()> {
    let parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    for parent in parents.into_iter().rev() {
        let (at, name) = kept.parent_in(parent)?;
        make_directory(&at, &disk::c_name(name.as_bytes())?)?;
    }
    Ok(())
}

fn make_directory(at: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    match rustix::fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Times of the directories that `changes` lie in, deepest first, taken before things move out of them.
fn times_of_parents(changes: &[Change], tree: &RootDir) -> Result<Vec<(PathBuf, Timestamp)>, Error> {
    let mut paths: Vec<&Path> = changes.iter().flat_map(|change| change.path.ancestors().skip(1)).collect();
    paths.push(Path::new(""));
    paths.sort_unstable();
    paths.dedup();
    let read = |path: &Path| Ok((path.to_owned(), disk::mtime(&rustix::fs::fstat(tree.open_in(path, DIRECTORY, Mode::empty())?)?)));
    paths.into_iter().rev().map(|path| read(path).map_err(Error::io::<io::Error>("read the time of", path))).collect()
}

fn open(path: &Path) -> Result<RootDir, Error> {
    RootDir::open(path).map_err(Error::io("open", path))
}

fn open_all(paths: &[PathBuf]) -> Result<Vec<RootDir>, Error> {
    paths.iter().map(|path| open(path)).collect()
}
