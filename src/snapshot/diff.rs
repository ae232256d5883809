//! What changed: a draft's upper directory against the layers below it, or one full tree against another.
//!
//! The rules are BuildKit's overlay differ's. A directory that only came up because something in it changed is no
//! change; a file that came up with nothing changed is none either; a whiteout of something that isn't below says
//! nothing; an opaque directory is spelled out as a deletion of each entry that it hides. The root itself is not
//! compared.
//! Unaware of archives.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Error,
    layered::{Content, Directory, Kind, LayerDirectory, LayeredRoot, Look, Lower, Metadata, Sketch, Step},
};
use crate::sys::root::RootDir;

/// Said of a path, in `fs.ChangeKind`'s words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One changed path, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Change {
    pub path: PathBuf,
    pub kind: ChangeKind,
}

/// The changes that `upper`, an overlay's upper directory, makes to the tree below; sorted as a walk meets them.
pub fn diff_overlay(upper: &RootDir, below: &LayeredRoot) -> Result<Vec<Change>, Error> {
    diff(upper, below, false)
}

/// The changes that a layer which is only sketched makes to the tree below.
pub fn diff_sketch(sketch: &Arc<Sketch>, below: &LayeredRoot) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    walk(&LayerDirectory::Sketched(sketch.root()), Some(below.top()), Path::new(""), false, &mut changes)?;
    Ok(changes)
}

/// The changes that make `after` of `before`, two full trees.
pub fn diff_trees(before: &RootDir, after: &RootDir) -> Result<Vec<Change>, Error> {
    diff(after, &LayeredRoot::plain(before).map_err(Error::io("open", Path::new("/")))?, true)
}

/// The changes that make `after`, a full tree, of the merged tree of `lowers`, top first.
pub(super) fn diff_merged(after: &RootDir, lowers: Vec<RootDir>) -> Result<Vec<Change>, Error> {
    let below = LayeredRoot::read_only(lowers.into_iter().map(Lower::Directory).collect());
    diff(after, &below.map_err(Error::io("open the layers below", Path::new("/")))?, true)
}

fn diff(upper: &RootDir, below: &LayeredRoot, hides_below: bool) -> Result<Vec<Change>, Error> {
    let root = Path::new("");
    let directory = LayerDirectory::open(upper.as_fd()).map_err(Error::io("open", root))?;
    let mut changes = Vec::new();
    walk(&directory, Some(below.top()), root, hides_below, &mut changes)?;
    Ok(changes)
}

/// `hides_below`: what the layers below have here is not seen through; it is here or it is gone.
fn walk(
    upper: &LayerDirectory,
    below: Option<&Arc<Directory>>,
    path: &Path,
    hides_below: bool,
    changes: &mut Vec<Change>,
) -> Result<(), Error> {
    let names = upper.names(false).map_err(Error::io("list", path))?;
    let mut names: Vec<OsString> = names.into_iter().map(|(name, _)| name).collect();
    if let Some(below) = below.filter(|_| hides_below) {
        names.extend(below.names().map_err(Error::io("list", path))?);
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        let path = path.join(&name);
        let own = upper.stat(&name).map_err(Error::io("look up", &path))?;
        let Some(own) = own.filter(|own| !own.is_whiteout()) else {
            let base = below.map(|below| below.stat(&name)).transpose().map_err(Error::io("look up", &path))?;
            if base.flatten().is_some() {
                changes.push(Change { path, kind: ChangeKind::Deleted });
            }
            continue;
        };
        let kind = match below {
            None => Some(ChangeKind::Added),
            Some(below) => change(upper, &name, &own, below).map_err(Error::io("compare", &path))?,
        };
        if let Some(kind) = kind {
            changes.push(Change { path: path.clone(), kind });
        }
        if own.is_directory() {
            let open = || match upper.step(&name)? {
                Step::Directory(directory) => {
                    let is_opaque = hides_below || directory.is_opaque();
                    Ok((directory, is_opaque, below.map(|below| below.child(&name)).transpose()?.flatten()))
                }
                Step::Missing | Step::Other => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            };
            let (directory, is_opaque, below) = open().map_err(Error::io("open", &path))?;
            walk(&directory, below.as_ref(), &path, is_opaque, changes)?;
        }
    }
    Ok(())
}

/// What an entry changes of what is below.
fn change(upper: &LayerDirectory, name: &OsStr, own: &Metadata, below: &Directory) -> io::Result<Option<ChangeKind>> {
    let (layer, base) = match below.look(name)? {
        Look::Nothing => return Ok(Some(ChangeKind::Added)),
        Look::Entry(layer, base) => (layer, base),
        // Another one than any that may be there; to who takes the layer it is the same whether one is.
        Look::FileOrNothing(layers) if !layers.iter().any(|layer| layer.may_have_time(own.modified)) => {
            return Ok(Some(ChangeKind::Added));
        }
        Look::FileOrNothing(_) => match below.find(name)? {
            Some(found) => found,
            None => return Ok(Some(ChangeKind::Added)),
        },
    };
    Ok((!is_same(upper, name, own, (layer, &base))?).then_some(ChangeKind::Modified))
}

/// Whether an entry that exists on both sides is the same. Directories may differ in time, as they do after any copy-up.
fn is_same(upper: &LayerDirectory, name: &OsStr, own: &Metadata, (layer, below): (&LayerDirectory, &Metadata)) -> io::Result<bool> {
    if (own.kind, own.mode, own.rdev) != (below.kind, below.mode, below.rdev) {
        return Ok(false);
    }
    let is_directory = own.kind == Kind::Directory;
    if !is_directory && (own.size, own.modified) != (below.size, below.modified) {
        return Ok(false);
    }
    if upper.attributes(name, own)? != layer.attributes(name, below)? {
        return Ok(false);
    }
    match own.kind {
        // Layers have whole seconds only, so that equal times prove nothing.
        Kind::File if own.modified.nanoseconds == 0 => match (upper.content(name)?, layer.content(name)?) {
            (Content::File(mut own), Content::File(mut below)) => has_same_content(&mut own, &mut below),
            (Content::File(file), Content::Digest(digest)) | (Content::Digest(digest), Content::File(file)) => {
                Ok(super::copy::hash_file(file)? == digest)
            }
            (Content::Digest(own), Content::Digest(below)) => Ok(own == below),
        },
        Kind::Symlink => Ok(upper.read_link(name)? == layer.read_link(name)?),
        _ => Ok(true),
    }
}

fn has_same_content(a: &mut File, b: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let count = read_full(a, &mut left)?;
        if count != read_full(b, &mut right)? || left[..count] != right[..count] {
            return Ok(false);
        }
        if count < left.len() {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
