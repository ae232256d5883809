//! From a path to a place in the merged tree: cleaned, component by component, links resolved inside the root.
//!
//! The rules are those of BuildKit's path resolution: `..` is taken off the text before links are looked at, in the path
//! and in each link's target; what does not exist is no error but the rest of the answer.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;

use super::{
    directory::{Directory, Look},
    metadata::{Kind, Metadata},
};

/// How many links one path may lead through.
const MAX_LINKS: usize = 255;

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Place {
    /// The deepest directory on the way that exists.
    pub(crate) directory: Arc<Directory>,
    /// What is left: nothing if the path is that directory, one name for an entry in it, more if parents are missing.
    pub(crate) rest: Vec<OsString>,
    last: Last,
}

/// What the one name left is.
#[derive(Debug)]
enum Last {
    /// Nothing, or there are more names or none.
    Missing,
    /// Never a directory.
    Entry(Metadata),
    /// Only the files of a layer can tell.
    FileOrMissing,
}

impl Place {
    /// Names that are missing in a directory.
    pub(crate) fn missing(directory: Arc<Directory>, rest: Vec<OsString>) -> Self {
        Self { directory, rest, last: Last::Missing }
    }

    /// The entry that the one name left has, if it exists; never a directory.
    pub(crate) fn last(&self) -> io::Result<Option<Metadata>> {
        match &self.last {
            Last::Missing => Ok(None),
            Last::Entry(metadata) => Ok(Some(metadata.clone())),
            Last::FileOrMissing => self.directory.stat(&self.rest[0]),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/").join(self.directory.path()).join(self.rest.iter().collect::<PathBuf>())
    }

    /// The entry at the place, or nothing.
    pub(crate) fn metadata(&self) -> io::Result<Option<Metadata>> {
        if self.rest.is_empty() {
            // The empty tree has a root without metadata.
            return match self.directory.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                result => result.map(Some),
            };
        }
        self.last()
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Walks `path` from `start`, never above `root`.
pub(crate) fn walk(root: &Arc<Directory>, start: &Arc<Directory>, path: &Path, follow_last: bool) -> io::Result<Place> {
    walk_seen(root, start, path, follow_last, &|_, _, _| Ok(true))
}

/// Says whether an entry is to be taken for existing.
pub(crate) type Seen<'a> = &'a dyn Fn(&Arc<Directory>, &OsStr, &Metadata) -> io::Result<bool>;

/// The same with a say in what exists.
pub(crate) fn walk_seen(
    root: &Arc<Directory>,
    start: &Arc<Directory>,
    path: &Path,
    follow_last: bool,
    is_seen: Seen<'_>,
) -> io::Result<Place> {
    let mut directory = if path.is_absolute() { root.clone() } else { start.clone() };
    let mut pending: Vec<OsString> = clean(path);
    pending.reverse();
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            if !Arc::ptr_eq(&directory, root) {
                directory = directory.parent();
            }
            continue;
        }
        let is_last = pending.is_empty();
        let found = match directory.look(&name)? {
            Look::Nothing => None,
            Look::Entry(_, metadata) => Some(metadata),
            Look::FileOrNothing(_) if is_last => return Ok(Place { directory, rest: vec![name], last: Last::FileOrMissing }),
            Look::FileOrNothing(_) => directory.stat(&name)?,
        };
        let metadata = match found {
            Some(metadata) if is_seen(&directory, &name, &metadata)? => metadata,
            _ => return Ok(Place::missing(directory, rest(name, pending))),
        };
        match metadata.kind {
            Kind::Directory => directory = directory.child(&name)?.ok_or(Errno::NOENT)?,
            Kind::Symlink if !is_last || follow_last => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = PathBuf::from(directory.read_link(&name)?);
                if target.is_absolute() {
                    directory = root.clone();
                }
                pending.extend(clean(&target).into_iter().rev());
            }
            _ if is_last => return Ok(Place { directory, rest: vec![name], last: Last::Entry(metadata) }),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(Place::missing(directory, Vec::new()))
}

fn rest(name: OsString, mut pending: Vec<OsString>) -> Vec<OsString> {
    pending.push(name);
    pending.reverse();
    pending
}

/// The components of a path with `.` and `..` taken off the text; `..` is left only at the start of a relative one.
pub(crate) fn clean(path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir if names.last().is_some_and(|name| name != OsStr::new("..")) => {
                names.pop();
            }
            Component::ParentDir if !path.is_absolute() => names.push("..".into()),
            _ => {}
        }
    }
    names
}
