//! The index of a layer that lies unpacked, as far as an outline of it needs one: contents are not read, but for the user
//! databases. A directory that the layer only implies looks here as it did when it was unpacked, which is as it looks below.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use super::{
    index::{LayerIndex, Node, is_user_database},
    layer::{LayerDirectory, Step},
    metadata::{Kind, Metadata},
};
use crate::sys::root::RootDir;

/// Deeper ones have no index: each level is an open directory.
const MAX_DEPTH: usize = 256;

/// Indexes the layer in a directory; None of one that is too deep.
pub fn index_unpacked(root: &RootDir) -> io::Result<Option<LayerIndex>> {
    let top = LayerDirectory::open(root.as_fd())?;
    let mut index = LayerIndex { nodes: vec![directory_node(&top)?], unlisted: None };
    let is_whole = index.fill(0, &top, &mut Vec::new())?;
    Ok(is_whole.then_some(index))
}

fn directory_node(directory: &LayerDirectory) -> io::Result<Node> {
    let ((uid, gid), xattrs) = directory.own_attributes()?;
    Ok(Node { uid, gid, xattrs, opaque: directory.is_opaque(), ..node(&directory.metadata()?) })
}

fn node(metadata: &Metadata) -> Node {
    let Metadata { kind, mode, uid, gid, size, modified, .. } = metadata.clone();
    let size = if kind == Kind::Directory { 0 } else { size };
    Node { mode, uid, gid, size, modified, ..Node::empty(kind) }
}

impl LayerIndex {
    /// Adds what is in a directory, which is at `path`.
    fn fill(&mut self, number: usize, directory: &LayerDirectory, path: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        if path.len() >= MAX_DEPTH {
            return Ok(false);
        }
        for (name, is_whiteout) in directory.names(true)? {
            let made = self.nodes.len();
            self.nodes[number].children.insert(name.as_bytes().to_vec(), made as u32);
            if is_whiteout {
                self.nodes.push(Node::whiteout());
                continue;
            }
            if let Step::Directory(child) = directory.step(&name)? {
                self.nodes.push(directory_node(&child)?);
                path.push(name.into_encoded_bytes());
                let is_whole = self.fill(made, &child, path)?;
                path.pop();
                if !is_whole {
                    return Ok(false);
                }
                continue;
            }
            let node = entry_node(directory, &name, path)?;
            self.nodes.push(node);
        }
        Ok(true)
    }
}

fn entry_node(directory: &LayerDirectory, name: &OsStr, above: &[Vec<u8>]) -> io::Result<Node> {
    let metadata = directory.stat(name)?.ok_or(io::ErrorKind::NotFound)?;
    let attributes = directory.attributes(name, &metadata)?;
    let mut node = Node { device: attributes.device, xattrs: attributes.xattrs, ..node(&metadata) };
    (node.uid, node.gid) = attributes.owner;
    let above: Vec<&[u8]> = above.iter().map(Vec::as_slice).collect();
    if node.kind == Kind::Symlink {
        node.target = directory.read_link(name)?.into_encoded_bytes();
    } else if node.kind == Kind::File && is_user_database(&above, name.as_bytes(), node.size) {
        let mut content = Vec::new();
        directory.open_file(name)?.take(node.size).read_to_end(&mut content)?;
        (node.digest, node.content) = (Some(*blake3::hash(&content).as_bytes()), Some(content));
    }
    Ok(node)
}
