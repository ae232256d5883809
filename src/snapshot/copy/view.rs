//! What a source shows of a tree: everything for a stage, what the ignore file leaves for a context.
//! Unaware of destinations.

use std::{
    cell::RefCell,
    collections::HashMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    dockerfile::ignore::{Below, Matcher},
    snapshot::layered::{Directory, LayeredRoot, Metadata, Place, walk_seen, xattrs},
};

/// One source tree as COPY sees it.
pub(crate) struct View<'a> {
    tree: &'a LayeredRoot,
    ignore: Option<&'a Matcher>,
    /// Whether owners are those of whoever made the files outside, and mean nothing inside.
    from_outside: bool,
    seen_directories: RefCell<HashMap<PathBuf, bool>>,
    /// The directories down to the last one asked about, with what matches there.
    chain: RefCell<Vec<Ignored>>,
}

/// What the ignore file says of a directory.
struct Ignored {
    directory: Arc<Directory>,
    path: PathBuf,
    below: Below,
}

impl<'a> View<'a> {
    pub(crate) fn new(tree: &'a LayeredRoot, ignore: Option<&'a Matcher>, from_outside: bool) -> Self {
        Self { tree, ignore, from_outside, seen_directories: RefCell::default(), chain: RefCell::default() }
    }

    /// The root of the tree.
    pub(crate) fn top(&self) -> &'a Arc<Directory> {
        self.tree.top()
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

    /// The same rule for threads, which can't share a view.
    pub(crate) fn xattr_rule(&self) -> fn(&[u8]) -> bool {
        if self.from_outside { xattrs::is_private } else { xattrs::is_private_to_overlay }
    }

    /// Attributes that are not copied.
    pub(crate) fn skips_xattr(&self, name: &[u8]) -> bool {
        self.xattr_rule()(name)
    }

    fn is_seen(&self, directory: &Arc<Directory>, name: &OsStr, metadata: &Metadata) -> io::Result<bool> {
        let Some(ignore) = self.ignore else { return Ok(true) };
        let (ignored, path) = self.decide(ignore, directory, name, metadata.is_directory());
        if !ignored {
            return Ok(true);
        }
        if !metadata.is_directory() || !ignore.has_exceptions() {
            return Ok(false);
        }
        if let Some(known) = self.seen_directories.borrow().get(&path) {
            return Ok(*known);
        }
        let seen = self.shows_something(ignore, directory, name)?;
        self.seen_directories.borrow_mut().insert(path, seen);
        Ok(seen)
    }

    /// Whether an entry is ignored, and its path.
    fn decide(&self, ignore: &Matcher, directory: &Arc<Directory>, name: &OsStr, is_directory: bool) -> (bool, PathBuf) {
        let mut chain = self.chain.borrow_mut();
        enter(ignore, &mut chain, directory);
        let at = chain.last().expect("just entered");
        let path = at.path.join(name);
        let text = path.to_string_lossy();
        let ignored = if is_directory { ignore.enter(&text, &at.below).0 } else { ignore.matches_below(&text, &at.below) };
        (ignored, path)
    }

    /// Whether an exception brings back anything below an ignored directory.
    fn shows_something(&self, ignore: &Matcher, directory: &Arc<Directory>, name: &OsStr) -> io::Result<bool> {
        let mut pending = vec![(directory.clone(), name.to_owned())];
        while let Some((directory, name)) = pending.pop() {
            let Some(child) = directory.child(&name)? else { continue };
            if !ignore.may_except_below(&child.path().to_string_lossy()) {
                continue;
            }
            for name in child.names()? {
                let Some(metadata) = child.stat(&name)? else { continue };
                if !self.decide(ignore, &child, &name, metadata.is_directory()).0 {
                    return Ok(true);
                }
                if metadata.is_directory() {
                    pending.push((child.clone(), name));
                }
            }
        }
        Ok(false)
    }
}

/// Makes `directory` the last of the chain; what is above it is there already when a tree is walked.
fn enter(ignore: &Matcher, chain: &mut Vec<Ignored>, directory: &Arc<Directory>) {
    if let Some(known) = chain.iter().rposition(|known| Arc::ptr_eq(&known.directory, directory)) {
        chain.truncate(known + 1);
        return;
    }
    let parent = directory.parent();
    let entered = if Arc::ptr_eq(&parent, directory) {
        chain.clear();
        Ignored { directory: parent, path: PathBuf::new(), below: ignore.root() }
    } else {
        enter(ignore, chain, &parent);
        let path = directory.path();
        let below = ignore.enter(&path.to_string_lossy(), &chain.last().expect("just entered").below).1;
        Ignored { directory: directory.clone(), path, below }
    };
    chain.push(entered);
}
