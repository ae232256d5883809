//! An index as bytes, for the store: a version, then every node in order, numbers little-endian, strings with their
//! length before them, all of it under zstd. What can't be read is no index: it is made anew.

use std::{collections::BTreeMap, io};

use super::{
    index::{LayerIndex, Node},
    metadata::Kind,
};
use crate::{oci::tar::Timestamp, snapshot::disk::Device};

const MAGIC: &[u8] = b"rbuild layer index 1\n";

/// An index of ten million entries is larger than any that is meant.
const SIZE_LIMIT: usize = 1 << 31;

pub(super) const KINDS: [Kind; 7] =
    [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::CharDevice, Kind::BlockDevice, Kind::Socket];

impl LayerIndex {
    /// The index as bytes.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        put_u32(&mut out, self.nodes.len() as u32);
        self.nodes.iter().for_each(|node| put_node(&mut out, node));
        let mut bytes = MAGIC.to_vec();
        put_u32(&mut bytes, out.len() as u32);
        bytes.extend(zstd::bulk::compress(&out, 3)?);
        Ok(bytes)
    }

    /// Reads what [`LayerIndex::to_bytes`] wrote; None for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes.strip_prefix(MAGIC)?);
        let size = rest.u32()? as usize;
        let plain = zstd::bulk::decompress(rest.0, size.min(SIZE_LIMIT)).ok()?;
        let mut rest = Rest(&plain);
        let count = rest.u32()?;
        let nodes: Vec<Node> = (0..count).map(|_| rest.node(count)).collect::<Option<_>>()?;
        let has_root = nodes.first().is_some_and(|root| root.kind == Kind::Directory);
        (has_root && rest.0.is_empty()).then_some(Self { nodes, unlisted: None })
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend(bytes);
}

fn put_node(out: &mut Vec<u8>, node: &Node) {
    let kind = KINDS.iter().position(|kind| *kind == node.kind).unwrap_or_default() as u8;
    let flags = [node.opaque, node.implied, node.device.is_some(), node.digest.is_some(), node.content.is_some()];
    let flags = flags.iter().enumerate().fold(0, |all, (bit, set)| all | u8::from(*set) << bit);
    out.extend([kind, flags]);
    [node.mode, node.uid, node.gid, node.links, node.modified.nanoseconds].into_iter().for_each(|number| put_u32(out, number));
    out.extend(node.size.to_le_bytes());
    out.extend(node.modified.seconds.to_le_bytes());
    put_bytes(out, &node.target);
    if let Some(device) = node.device {
        [u32::from(device.is_block), device.major, device.minor].into_iter().for_each(|number| put_u32(out, number));
    }
    if let Some(digest) = &node.digest {
        out.extend(digest);
    }
    if let Some(content) = &node.content {
        put_bytes(out, content);
    }
    put_u32(out, node.xattrs.len() as u32);
    for (name, value) in &node.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    put_u32(out, node.children.len() as u32);
    for (name, child) in &node.children {
        put_bytes(out, name);
        put_u32(out, *child);
    }
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.u32()? as usize;
        self.take(length).map(<[u8]>::to_vec)
    }

    fn node(&mut self, count: u32) -> Option<Node> {
        let head = self.take(2)?;
        let (kind, flags) = (*KINDS.get(usize::from(head[0]))?, head[1]);
        let has = |bit: u8| flags >> bit & 1 == 1;
        let (mode, uid, gid, links, nanoseconds) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let (size, seconds) = (self.u64()?, self.u64()? as i64);
        let target = self.bytes()?;
        let device = match has(2) {
            true => Some(Device { is_block: self.u32()? == 1, major: self.u32()?, minor: self.u32()? }),
            false => None,
        };
        let digest = match has(3) {
            true => Some(self.take(32)?.try_into().ok()?),
            false => None,
        };
        let content = if has(4) { Some(self.bytes()?) } else { None };
        let xattrs = (0..self.u32()?).map(|_| Some((self.bytes()?, self.bytes()?))).collect::<Option<_>>()?;
        let mut children = BTreeMap::new();
        for _ in 0..self.u32()? {
            let (name, child) = (self.bytes()?, self.u32()?);
            children.insert(name, Some(child).filter(|child| *child < count)?);
        }
        let modified = Timestamp { seconds, nanoseconds };
        let (opaque, implied) = (has(0), has(1));
        let has_unlisted = false;
        Some(Node {
            kind,
            mode,
            uid,
            gid,
            size,
            modified,
            links,
            opaque,
            implied,
            has_unlisted,
            device,
            target,
            xattrs,
            digest,
            content,
            children,
        })
    }
}
