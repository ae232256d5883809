//! A layer that is written nowhere: an index of what its directory would hold and, for each file, where its bytes lie.
//!
//! It takes what a copy writes just as a directory does, so that one copy serves both: what is copied straight into a
//! blob has the bytes that it would have by way of a directory. Once it is written to a tar, it is the layer's index. It
//! holds metadata only, of a limited number of entries; what it can't hold ([`needs_directory`]) is for a directory.
//! Unaware of the layers below.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;

use super::{
    Directory, LayerIndex,
    index::{self, Node},
    layer::{Attributes, Content, file_xattrs},
    metadata::{Kind, Metadata},
};
use crate::oci::tar::{Timestamp, Xattrs};

/// Some 60 MB of them; a directory takes more.
const MAX_ENTRIES: usize = 200_000;

/// The layer.
#[derive(Debug)]
pub struct Sketch {
    state: Mutex<State>,
    /// The time of what is changed without being given one.
    begun: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    index: LayerIndex,
    sources: HashMap<u32, FileSource>,
}

/// Where a file's bytes are: by path, as a directory that is kept open for each would be too many.
#[derive(Debug, Clone)]
pub(crate) struct FileSource {
    /// The root of the tree.
    pub(crate) top: Arc<Directory>,
    /// The directory in there, without links.
    pub(crate) directory: Arc<Path>,
    pub(crate) name: OsString,
}

/// A directory of files that is open.
pub(crate) type OpenSource = Option<(Arc<Path>, Arc<Directory>)>;

/// What becomes an entry that is no directory.
pub(crate) struct NewEntry {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: Option<Timestamp>,
    pub(crate) body: Body,
}

/// What an entry holds.
pub(crate) enum Body {
    /// As many bytes of a file elsewhere.
    Source(FileSource, u64),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A link's target.
    Target(Vec<u8>),
    Nothing,
}

/// An entry on its way into a tar.
pub(crate) struct SketchedEntry {
    pub(crate) metadata: Metadata,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: Xattrs,
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) source: Option<FileSource>,
}

/// What a file turned out to hold when it was read.
pub(crate) struct Settled<'a> {
    pub(crate) size: u64,
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) xattrs: Xattrs,
    /// All of it, if it is at hand.
    pub(crate) content: Option<&'a [u8]>,
}

/// A directory of a sketch.
#[derive(Debug, Clone)]
pub(crate) struct SketchedDirectory {
    sketch: Arc<Sketch>,
    node: u32,
}

/// Said of what only a directory can hold.
#[derive(Debug, thiserror::Error)]
#[error("this is not copied without a directory")]
struct NeedsDirectory;

pub(crate) fn needs_directory() -> io::Error {
    io::Error::other(NeedsDirectory)
}

/// Whether an error says that the same copy may well succeed into a directory.
pub fn is_directory_needed(error: &(dyn std::error::Error + 'static)) -> bool {
    let said = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<NeedsDirectory>());
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.any(|error| error.downcast_ref::<io::Error>().is_some_and(said))
}

impl FileSource {
    /// Opens the file; its directory stays open for the next one.
    pub(crate) fn open(&self, opened: &mut OpenSource) -> io::Result<File> {
        if let Some((path, directory)) = opened
            && Arc::ptr_eq(path, &self.directory)
        {
            return directory.open_file(&self.name);
        }
        let mut directory = self.top.clone();
        for name in self.directory.iter() {
            directory = directory.child(name)?.ok_or(Errno::NOENT)?;
        }
        let file = directory.open_file(&self.name);
        *opened = Some((self.directory.clone(), directory));
        file
    }
}

impl Default for Sketch {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun = Timestamp { seconds: since.as_secs().cast_signed(), nanoseconds: since.subsec_nanos() };
        let root = Node { mode: 0o755, modified: begun, ..Node::empty(Kind::Directory) };
        let state = State { index: LayerIndex { nodes: vec![root], unlisted: None }, sources: HashMap::new() };
        Self { state: Mutex::new(state), begun }
    }
}

impl Sketch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    pub(crate) fn root(self: &Arc<Self>) -> SketchedDirectory {
        SketchedDirectory { sketch: self.clone(), node: 0 }
    }

    /// The entry at a path of plain names, with its number.
    pub(crate) fn entry(&self, path: &Path) -> Option<(u32, SketchedEntry)> {
        let state = self.state();
        let number = state.resolve(path)?;
        let node = &state.index.nodes[number as usize];
        let entry = SketchedEntry {
            metadata: state.index.metadata(number),
            target: node.target.clone(),
            xattrs: node.xattrs.clone(),
            content: node.content.clone(),
            source: state.sources.get(&number).cloned(),
        };
        Some((number, entry))
    }

    /// Notes what a file turned out to hold.
    pub(crate) fn settle(&self, number: u32, path: &Path, found: Settled<'_>) {
        let above: Vec<&[u8]> = path.parent().into_iter().flat_map(Path::iter).map(OsStrExt::as_bytes).collect();
        let is_kept = index::is_user_database(&above, path.file_name().unwrap_or_default().as_bytes(), found.size);
        let mut state = self.state();
        state.sources.remove(&number);
        let node = state.node(number);
        (node.size, node.xattrs) = (found.size, found.xattrs);
        node.digest = found.digest.filter(|_| found.size <= index::HASH_LIMIT);
        node.content = found.content.filter(|_| is_kept).map(<[u8]>::to_vec);
    }

    /// The index of the layer that was written; nothing is left here. A file that was not read is as it was below, and in
    /// no layer of this.
    pub fn take_index(&self) -> LayerIndex {
        let State { mut index, sources } = std::mem::take(&mut *self.state());
        index.nodes.iter_mut().for_each(|node| node.children.retain(|_, child| !sources.contains_key(child)));
        index
    }
}

impl State {
    fn resolve(&self, path: &Path) -> Option<u32> {
        path.iter().try_fold(0, |at, name| self.index.find(at, name).map(|(node, _)| node))
    }

    fn node(&mut self, number: u32) -> &mut Node {
        &mut self.index.nodes[number as usize]
    }

    /// Gives a name in a directory to a node; what had it loses it.
    fn name(&mut self, parent: u32, name: &OsStr, node: u32) {
        let earlier = self.node(parent).children.insert(name.as_bytes().to_vec(), node);
        let Some(earlier) = earlier else { return };
        self.node(earlier).links -= 1;
        if self.node(earlier).links == 0 {
            self.sources.remove(&earlier);
        }
    }

    fn add(&mut self, parent: u32, name: &OsStr, node: Node) -> io::Result<u32> {
        if self.index.nodes.len() >= MAX_ENTRIES {
            return Err(needs_directory());
        }
        self.index.nodes.push(node);
        let number = self.index.nodes.len() as u32 - 1;
        self.name(parent, name, number);
        Ok(number)
    }
}

/// What a directory says of itself and its entries.
impl SketchedDirectory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.sketch.state()
    }

    fn at(&self, node: u32) -> Self {
        Self { sketch: self.sketch.clone(), node }
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.state().index.metadata(self.node)
    }

    pub(super) fn xattrs(&self) -> Xattrs {
        self.state().node(self.node).xattrs.clone()
    }

    pub(super) fn is_opaque(&self) -> bool {
        self.state().node(self.node).opaque
    }

    pub(super) fn stat(&self, name: &OsStr) -> Option<Metadata> {
        self.state().index.stat(self.node, name)
    }

    pub(super) fn child(&self, name: &OsStr) -> Option<Self> {
        let found = self.state().index.child(self.node, name);
        found.map(|node| self.at(node))
    }

    pub(super) fn names(&self) -> Vec<(OsString, bool)> {
        self.state().index.names(self.node)
    }

    pub(super) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        self.state().index.read_link(self.node, name)
    }

    pub(super) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        let state = self.state();
        let source = state.index.find(self.node, name).and_then(|(number, _)| state.sources.get(&number));
        match source {
            Some(source) => source.open(&mut None),
            None => state.index.open_file(self.node, name),
        }
    }

    pub(super) fn attributes(&self, name: &OsStr) -> io::Result<Attributes> {
        let mut attributes = self.state().index.attributes(self.node, name)?;
        if self.stat(name).is_some_and(|found| found.kind == Kind::File) {
            attributes.xattrs = file_xattrs(&self.open_file(name)?);
        }
        Ok(attributes)
    }

    pub(super) fn content(&self, name: &OsStr) -> io::Result<Content> {
        self.open_file(name).map(Content::File)
    }
}

/// What is written to a directory. As on a file system, it is changed when a name in it is given or taken.
impl SketchedDirectory {
    /// Makes an empty directory, of our own or of the group that its parent passes on.
    pub(super) fn make_directory(&self, name: &OsStr, mode: u32, opaque: bool) -> io::Result<Self> {
        let mut state = self.state();
        let parent = state.node(self.node);
        parent.modified = self.sketch.begun;
        let gid = if parent.mode & 0o2000 != 0 { parent.gid } else { 0 };
        let node = Node { mode, gid, opaque, modified: self.sketch.begun, ..Node::empty(Kind::Directory) };
        state.add(self.node, name, node).map(|node| self.at(node))
    }

    /// Makes a directory that looks as it does below, which changes nothing.
    pub(super) fn bring_up(&self, name: &OsStr, below: &Metadata, owner: (u32, u32), xattrs: Xattrs) -> io::Result<Self> {
        let node = Node { ..Node::empty(Kind::Directory) };
        let made = self.at(self.state().add(self.node, name, node)?);
        made.look(below, owner, xattrs);
        Ok(made)
    }

    pub(super) fn look(&self, below: &Metadata, owner: (u32, u32), xattrs: Xattrs) {
        let mut state = self.state();
        let node = state.node(self.node);
        (node.mode, node.modified, node.xattrs) = (below.mode, below.modified, xattrs);
        (node.uid, node.gid) = owner;
    }

    /// Makes an entry that is no directory; another one of that name makes way.
    pub(crate) fn put(&self, name: &OsStr, entry: NewEntry) -> io::Result<()> {
        let mut node = Node { mode: entry.mode, ..Node::empty(entry.kind) };
        (node.uid, node.gid) = entry.owner;
        node.modified = entry.modified.unwrap_or(self.sketch.begun);
        let mut state = self.state();
        state.node(self.node).modified = self.sketch.begun;
        let source = match entry.body {
            Body::Source(source, size) => {
                node.size = size;
                Some(source)
            }
            Body::Bytes(bytes) => {
                (node.size, node.digest) = (bytes.len() as u64, Some(*blake3::hash(&bytes).as_bytes()));
                node.content = Some(bytes);
                None
            }
            Body::Target(target) => {
                (node.size, node.target) = (target.len() as u64, target);
                None
            }
            Body::Nothing => None,
        };
        let number = state.add(self.node, name, node)?;
        state.sources.extend(source.map(|source| (number, source)));
        Ok(())
    }

    /// Gives a file of the sketch a second name.
    pub(crate) fn link(&self, first: &Path, name: &OsStr) -> io::Result<()> {
        let mut state = self.state();
        let node = state.resolve(first).ok_or(Errno::NOENT)?;
        state.node(self.node).modified = self.sketch.begun;
        state.node(node).links += 1;
        state.name(self.node, name, node);
        Ok(())
    }

    pub(super) fn set_time(&self, modified: Timestamp) {
        self.state().node(self.node).modified = modified;
    }

    pub(super) fn set_mode(&self, mode: u32) {
        self.state().node(self.node).mode = mode;
    }

    pub(super) fn set_owner(&self, owner: (u32, u32)) {
        let mut state = self.state();
        let node = state.node(self.node);
        (node.uid, node.gid) = owner;
    }

    /// Adds attributes, of those that a layer may carry.
    pub(crate) fn add_xattrs(&self, added: Xattrs) {
        let mut state = self.state();
        let node = state.node(self.node);
        node.xattrs = index::layer_xattrs(node.xattrs.drain(..).chain(added));
    }
}

/// A path that is kept once for all files of a directory.
#[derive(Debug, Default)]
pub(crate) struct LastPath(Mutex<Option<Arc<Path>>>);

impl LastPath {
    pub(crate) fn share(&self, path: PathBuf) -> Arc<Path> {
        let mut last = self.0.lock().expect("no holder panics");
        match &*last {
            Some(known) if **known == *path => known.clone(),
            _ => last.insert(path.into()).clone(),
        }
    }
}
