//! A layer known by its tar alone: names, metadata and digests of contents, but no contents. Enough to say what a path of
//! the layer is, which is all that COPY asks of the layers it is put on; so those are never unpacked, and once indexed
//! never downloaded again.
//!
//! All layers of a base are indexed, also where the topmost ones have the destination. From the top down a question is
//! answered early only if the name is there: the uppermost entry counts, and what a directory looks like is said by the
//! uppermost entry that describes it. But a copy asks for names that are not there: is `/app` missing or a link, does
//! `/app/new` replace a directory (refused), lead elsewhere (followed), or hold the same bytes already (then it is in no
//! layer, as in BuildKit's)? That a name is missing takes the word of every layer down to one that hides the directory
//! (opaque) or the name (a whiteout), and one new name among thousands is enough. Asking layer by layer would thus
//! download the same for nearly all copies, one after another instead of side by side. So a store downloads what it does
//! not know once, and never unpacks it. Who wants not even that has a cache that tells it (`outline`), or says `COPY --link`,
//! which asks nothing.
//!
//! An index looks as the layer's directory would look on disk (`disk`): whiteouts are devices 0:0, devices are
//! placeholders. Unaware of other layers; directories that no entry describes say so (`implied`), as what they look like
//! is decided below.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    sync::Arc,
};

use super::{
    layer::{Attributes, Content},
    metadata::{Kind, Metadata},
    outline::Unlisted,
};
use crate::{
    oci::tar::{ArchiveError, Entry, EntryKind, Limits, TarReader, Timestamp, Xattrs},
    snapshot::{Error, apply, disk, disk::Device},
};

/// Contents of larger files are not hashed: whether such a file is the same is asked too rarely.
pub(super) const HASH_LIMIT: u64 = 64 << 20;

/// User databases, which `--chown` looks into, are kept up to this size.
const KEEP_LIMIT: u64 = 1 << 20;

/// All entries of a layer, or of an outline (`outline`) all but regular files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LayerIndex {
    /// The first one is the root.
    pub(super) nodes: Vec<Node>,
    /// What an outline has of the files.
    pub(super) unlisted: Option<Unlisted>,
}

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub modified: Timestamp,
    pub links: u32,
    /// Hides what lies below it.
    pub opaque: bool,
    /// Is there only because something in it is.
    pub implied: bool,
    /// Files lie in it that are not among its children.
    pub has_unlisted: bool,
    pub device: Option<Device>,
    pub target: Vec<u8>,
    pub xattrs: Xattrs,
    pub digest: Option<[u8; 32]>,
    pub content: Option<Vec<u8>>,
    pub children: BTreeMap<Vec<u8>, u32>,
}

/// A directory of an index.
#[derive(Debug, Clone)]
pub(crate) struct IndexedDirectory {
    index: Arc<LayerIndex>,
    node: u32,
}

/// What can't be known without the layer's files; whoever sees it unpacks the layer and asks again.
pub(crate) fn needs_files() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this is not known of a layer that is not unpacked")
}

/// Reads a layer's tar to its end. None if the layer is not to be understood by itself: it links to files of the layers
/// below, or goes through links of its own.
pub fn index_layer(tar: impl Read, limits: Limits) -> Result<Option<LayerIndex>, Error> {
    let mut reader = TarReader::with_limits(tar, limits);
    let mut index = LayerIndex { nodes: vec![Node::implied_directory()], unlisted: None };
    let mut is_whole = true;
    while let Some(entry) = reader.next_entry()? {
        is_whole = is_whole && index.add(&entry, &mut reader).map_err(|error| Error::Archive(ArchiveError::Read(error)))?;
    }
    reader.drain()?;
    Ok(is_whole.then_some(index))
}

impl LayerIndex {
    /// False if the entry can't be understood without more than this layer, or makes no sense.
    fn add(&mut self, entry: &Entry, reader: &mut impl Read) -> io::Result<bool> {
        let path = apply::clean(&entry.path);
        let names: Vec<&[u8]> = path.iter().map(OsStrExt::as_bytes).collect();
        let Some((name, above)) = names.split_last() else {
            return Ok(entry.kind == EntryKind::Directory && self.describe(0, entry));
        };
        let Some(parent) = self.directory(above) else { return Ok(false) };
        match apply::meaning(name) {
            apply::Meaning::Opaque => self.nodes[parent].opaque = true,
            apply::Meaning::Reserved => {}
            apply::Meaning::Whiteout(b"" | b"." | b"..") => return Ok(false),
            apply::Meaning::Whiteout(hidden) => self.hide(parent, hidden),
            apply::Meaning::Entry => return self.create(parent, name, above, entry, reader),
        }
        Ok(true)
    }

    /// The directory at a path of plain names, made if it is missing.
    fn directory(&mut self, names: &[&[u8]]) -> Option<usize> {
        let mut at = 0;
        for name in names {
            at = match self.nodes[at].children.get(*name).map(|node| *node as usize) {
                Some(node) if self.nodes[node].kind == Kind::Directory => node,
                Some(node) if !self.nodes[node].is_whiteout() => return None,
                found => self.put(at, name, Node { opaque: found.is_some(), ..Node::implied_directory() }),
            };
        }
        Some(at)
    }

    fn put(&mut self, parent: usize, name: &[u8], node: Node) -> usize {
        self.nodes.push(node);
        let made = self.nodes.len() - 1;
        self.nodes[parent].children.insert(name.to_vec(), made as u32);
        made
    }

    fn describe(&mut self, node: usize, entry: &Entry) -> bool {
        let node = &mut self.nodes[node];
        node.implied = false;
        (node.mode, node.uid, node.gid, node.modified) = (entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime);
        // As on disk: what an earlier entry set stays unless it is set again.
        node.xattrs = layer_xattrs(node.xattrs.drain(..).chain(entry.xattrs.iter().cloned()));
        true
    }

    fn hide(&mut self, parent: usize, name: &[u8]) {
        match self.nodes[parent].children.get(name).map(|node| *node as usize) {
            None => drop(self.put(parent, name, Node::whiteout())),
            Some(node) => self.nodes[node].opaque |= self.nodes[node].kind == Kind::Directory,
        }
    }

    fn create(&mut self, parent: usize, name: &[u8], above: &[&[u8]], entry: &Entry, reader: &mut impl Read) -> io::Result<bool> {
        let known = self.nodes[parent].children.get(name).map(|node| *node as usize);
        let mut node = Node::of(entry);
        match &entry.kind {
            EntryKind::Directory => {
                let made = match known {
                    Some(node) if self.nodes[node].kind == Kind::Directory => node,
                    Some(node) => {
                        let opaque = self.nodes[node].is_whiteout();
                        self.put(parent, name, Node { opaque, ..Node::implied_directory() })
                    }
                    None => self.put(parent, name, Node::implied_directory()),
                };
                return Ok(self.describe(made, entry));
            }
            EntryKind::HardLink { target } => return Ok(self.link(parent, name, target)),
            EntryKind::File if entry.size <= HASH_LIMIT => {
                let mut hasher = blake3::Hasher::new();
                if is_user_database(above, name, entry.size) {
                    let mut content = Vec::new();
                    reader.read_to_end(&mut content)?;
                    hasher.update(&content);
                    node.content = Some(content);
                } else {
                    io::copy(reader, &mut hasher)?;
                }
                node.digest = Some(*hasher.finalize().as_bytes());
            }
            EntryKind::CharDevice { major, minor } => node.device = Some(Device { is_block: false, major: *major, minor: *minor }),
            EntryKind::BlockDevice { major, minor } => node.device = Some(Device { is_block: true, major: *major, minor: *minor }),
            EntryKind::Symlink { target } => node.target.clone_from(target),
            EntryKind::File | EntryKind::Fifo => {}
        }
        self.put(parent, name, node);
        Ok(true)
    }

    /// Gives a file a second name, if the file is in this layer.
    fn link(&mut self, parent: usize, name: &[u8], target: &[u8]) -> bool {
        let path = apply::clean(target);
        let mut at = 0;
        for name in &path {
            match self.nodes[at].children.get(name.as_bytes()) {
                Some(node) => at = *node as usize,
                None => return false,
            }
        }
        if self.nodes[at].kind == Kind::Directory || self.nodes[at].is_whiteout() {
            return false;
        }
        self.nodes[at].links += 1;
        self.nodes[parent].children.insert(name.to_vec(), at as u32);
        true
    }
}

/// Whether a file's content is kept: `--chown` looks for names in it.
pub(super) fn is_user_database(above: &[&[u8]], name: &[u8], size: u64) -> bool {
    above == [b"etc"] && matches!(name, b"passwd" | b"group") && size <= KEEP_LIMIT
}

pub(super) fn layer_xattrs(all: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Xattrs {
    let kept: BTreeMap<_, _> = all.filter(|(name, _)| disk::is_layer_xattr(name)).collect();
    kept.into_iter().collect()
}

impl Node {
    fn of(entry: &Entry) -> Self {
        let (kind, mode) = match &entry.kind {
            EntryKind::Directory => (Kind::Directory, entry.mode),
            // The kernel knows no other mode of a link.
            EntryKind::Symlink { .. } => (Kind::Symlink, 0o777),
            EntryKind::Fifo => (Kind::Fifo, entry.mode),
            _ => (Kind::File, entry.mode),
        };
        let size = match &entry.kind {
            EntryKind::Symlink { target } => target.len() as u64,
            _ => entry.size,
        };
        let can_have_xattrs = matches!(kind, Kind::File | Kind::Directory);
        let xattrs = if can_have_xattrs { layer_xattrs(entry.xattrs.iter().cloned()) } else { Vec::new() };
        let (uid, gid, modified) = (entry.uid, entry.gid, entry.mtime);
        Self { mode: mode & 0o7777, uid, gid, size, modified, xattrs, ..Self::empty(kind) }
    }

    pub(super) fn empty(kind: Kind) -> Self {
        Self {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            modified: Timestamp::default(),
            links: 1,
            opaque: false,
            implied: false,
            has_unlisted: false,
            device: None,
            target: Vec::new(),
            xattrs: Vec::new(),
            digest: None,
            content: None,
            children: BTreeMap::new(),
        }
    }

    fn implied_directory() -> Self {
        Self { mode: 0o755, implied: true, ..Self::empty(Kind::Directory) }
    }

    pub(super) fn whiteout() -> Self {
        Self::empty(Kind::CharDevice)
    }

    fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice
    }

    fn metadata(&self, node: u32) -> Metadata {
        Metadata {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            accessed: self.modified,
            modified: self.modified,
            changed: self.modified,
            rdev: 0,
            links: self.links.into(),
            device: 0,
            inode: node.into(),
        }
    }
}

/// What is asked of a directory of the index, by the directory's number.
impl LayerIndex {
    pub(super) fn find(&self, at: u32, name: &OsStr) -> Option<(u32, &Node)> {
        let node = *self.nodes[at as usize].children.get(name.as_bytes())?;
        Some((node, &self.nodes[node as usize]))
    }

    pub(super) fn metadata(&self, at: u32) -> Metadata {
        self.nodes[at as usize].metadata(at)
    }

    pub(super) fn stat(&self, at: u32, name: &OsStr) -> Option<Metadata> {
        self.find(at, name).map(|(number, node)| node.metadata(number))
    }

    pub(super) fn child(&self, at: u32, name: &OsStr) -> Option<u32> {
        let (node, found) = self.find(at, name)?;
        (found.kind == Kind::Directory).then_some(node)
    }

    pub(super) fn names(&self, at: u32) -> Vec<(OsString, bool)> {
        let is_whiteout = |node: &u32| self.nodes[*node as usize].is_whiteout();
        let children = &self.nodes[at as usize].children;
        children.iter().map(|(name, node)| (OsString::from_vec(name.clone()), is_whiteout(node))).collect()
    }

    pub(super) fn read_link(&self, at: u32, name: &OsStr) -> io::Result<OsString> {
        match self.find(at, name) {
            Some((_, node)) if node.kind == Kind::Symlink => Ok(OsString::from_vec(node.target.clone())),
            _ => Err(rustix::io::Errno::INVAL.into()),
        }
    }

    /// One of the few files whose content is kept.
    pub(super) fn open_file(&self, at: u32, name: &OsStr) -> io::Result<File> {
        let content = self.find(at, name).and_then(|(_, node)| node.content.as_ref()).ok_or_else(|| self.lacking())?;
        let mut file = File::from(rustix::fs::memfd_create("content", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    }

    pub(super) fn attributes(&self, at: u32, name: &OsStr) -> io::Result<Attributes> {
        let (_, node) = self.find(at, name).ok_or(rustix::io::Errno::NOENT)?;
        Ok(Attributes { owner: (node.uid, node.gid), device: node.device, xattrs: node.xattrs.clone() })
    }
}

impl IndexedDirectory {
    pub(super) fn root(index: Arc<LayerIndex>) -> Self {
        Self { index, node: 0 }
    }

    pub(super) fn index(&self) -> &LayerIndex {
        &self.index
    }

    pub(super) fn number(&self) -> u32 {
        self.node
    }

    pub(super) fn here(&self) -> &Node {
        &self.index.nodes[self.node as usize]
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.index.metadata(self.node)
    }

    pub(super) fn xattrs(&self) -> &Xattrs {
        &self.here().xattrs
    }

    pub(super) fn is_implied(&self) -> bool {
        self.here().implied
    }

    pub(super) fn is_opaque(&self) -> bool {
        self.here().opaque
    }

    pub(super) fn implies(&self, name: &OsStr) -> bool {
        self.index.find(self.node, name).is_some_and(|(_, node)| node.implied)
    }

    pub(super) fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        if self.may_hold(name.as_bytes()) { Err(self.index.lacking()) } else { Ok(self.index.stat(self.node, name)) }
    }

    pub(super) fn child(&self, name: &OsStr) -> Option<Self> {
        self.index.child(self.node, name).map(|node| Self { index: self.index.clone(), node })
    }

    pub(super) fn names(&self) -> io::Result<Vec<(OsString, bool)>> {
        if self.here().has_unlisted { Err(self.index.lacking()) } else { Ok(self.index.names(self.node)) }
    }

    pub(super) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        self.index.read_link(self.node, name)
    }

    pub(super) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        self.index.open_file(self.node, name)
    }

    pub(super) fn attributes(&self, name: &OsStr) -> io::Result<Attributes> {
        self.index.attributes(self.node, name)
    }

    pub(super) fn content(&self, name: &OsStr) -> io::Result<Content> {
        self.index.find(self.node, name).and_then(|(_, node)| node.digest).map(Content::Digest).ok_or_else(|| self.index.lacking())
    }
}
