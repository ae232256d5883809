//! What a source shows of a tree: everything for a stage, what the ignore file leaves for a context.
//! Unaware of destinations.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::snapshot::layered::{Directory, LayeredRoot, Metadata, Place, walk_seen, xattrs};

/// Patterns in the manner of `.dockerignore`, compiled.
pub trait Patterns: Sync {
    /// Whether the patterns, or those that match a directory above, match this `/`-separated relative path.
    fn matches(&self, path: &str) -> bool;

    /// Whether some pattern takes back what an earlier one matched, so that a matched directory must be looked into.
    fn has_exceptions(&self) -> bool;
}

/// One source tree as COPY sees it.
pub(crate) struct View<'a> {
    tree: &'a LayeredRoot,
    ignore: Option<&'a dyn Patterns>,
    /// Whether owners are those of whoever made the files outside, and mean nothing inside.
    from_outside: bool,
    seen_directories: Mutex<HashMap<PathBuf, bool>>,
}

impl<'a> View<'a> {
    pub(crate) fn new(tree: &'a LayeredRoot, ignore: Option<&'a dyn Patterns>, from_outside: bool) -> Self {
        Self { tree, ignore, from_outside, seen_directories: Mutex::default() }
    }

    /// Where a path leads; what is ignored does not exist.
    pub(crate) fn walk(&self, path: &Path, follow_last: bool) -> io::Result<Place> {
        let top = self.tree.top();
        match self.ignore {
            None => self.tree.walk(path, follow_last),
            Some(_) => walk_seen(top, top, path, follow_last, &|directory, name, metadata| self.is_seen(directory, name, metadata)),
        }
    }

    /// The entry as it is to be copied.
    pub(crate) fn stat(&self, directory: &Arc<Directory>, name: &OsStr) -> io::Result<Option<Metadata>> {
        match directory.stat(name)? {
            Some(metadata) if self.is_seen(directory, name, &metadata)? => Ok(Some(self.adopt(metadata))),
            _ => Ok(None),
        }
    }

    /// Sets what comes from outside to root's.
    pub(crate) fn adopt(&self, metadata: Metadata) -> Metadata {
        if self.from_outside { Metadata { uid: 0, gid: 0, ..metadata } } else { metadata }
    }

    /// Attributes that are not copied.
    pub(crate) fn skips_xattr(&self, name: &[u8]) -> bool {
        if self.from_outside { xattrs::is_private(name) } else { xattrs::is_private_to_overlay(name) }
    }

    fn is_seen(&self, directory: &Arc<Directory>, name: &OsStr, metadata: &Metadata) -> io::Result<bool> {
        let Some(ignore) = self.ignore else { return Ok(true) };
        let path = directory.path().join(name);
        if !ignore.matches(&path.to_string_lossy()) {
            return Ok(true);
        }
        if !metadata.is_directory() || !ignore.has_exceptions() {
            return Ok(false);
        }
        if let Some(known) = self.seen_directories.lock().expect("no panic while locked").get(&path) {
            return Ok(*known);
        }
        let seen = self.shows_something(directory, name)?;
        self.seen_directories.lock().expect("no panic while locked").insert(path, seen);
        Ok(seen)
    }

    /// Whether an exception brings back anything below an ignored directory.
    fn shows_something(&self, directory: &Arc<Directory>, name: &OsStr) -> io::Result<bool> {
        let Some(child) = directory.child(name)? else { return Ok(false) };
        for name in child.names()? {
            if let Some(metadata) = child.stat(&name)?
                && self.is_seen(&child, &name, &metadata)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
