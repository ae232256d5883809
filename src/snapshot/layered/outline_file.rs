//! Outlines of layers as bytes, for caches: a version, the size of what follows, and that under zstd.
//!
//! The nodes of all layers, each layer's level by level, are told in columns, as what is alike is shortest side by side:
//! numbers in as many bytes as they need, times by what they differ from the one before, names with a `/` behind each.
//! Hashes are told by what each differs from the one before (`rice`). What can't be read is no outline. Unaware of where the bytes come from, so that nothing in them may take
//! more room or time than they are long.

use std::{collections::BTreeMap, io};

use super::{
    index::{LayerIndex, Node},
    index_file::KINDS,
    metadata::Kind,
    outline::Unlisted,
    rice,
};
use crate::{
    oci::{DiffId, tar::Timestamp},
    snapshot::disk::Device,
};

const MAGIC: &[u8] = b"rbuild layer outlines 1\n";

/// Outlines of a million directories and links take less.
const SIZE_LIMIT: usize = 64 << 20;
/// Directories, links and what else is told in full; all layers together.
const NODE_LIMIT: usize = 1 << 20;

/// The columns in their order.
#[derive(Clone, Copy)]
enum Column {
    Layers,
    Kinds,
    Counts,
    Names,
    Modes,
    Owners,
    Times,
    Targets,
    /// What few nodes have.
    Further,
    Spans,
    Hashes,
}

const COLUMNS: usize = Column::Hashes as usize + 1;

const OPAQUE: u8 = 1 << 3;
const IMPLIED: u8 = 1 << 4;
const UNLISTED: u8 = 1 << 5;
const FURTHER: u8 = 1 << 6;

/// Outlines by their layers.
pub type Outlines = BTreeMap<DiffId, LayerIndex>;

/// Outlines as bytes.
pub fn write_outlines(outlines: &Outlines) -> io::Result<Vec<u8>> {
    let mut out = Writer::default();
    for (layer, outline) in outlines {
        put_layer(out.column(Column::Layers), layer);
        out.outline(outline);
    }
    let mut plain = Vec::new();
    for column in &out.columns {
        put_number(&mut plain, column.len() as u64);
    }
    out.columns.iter().for_each(|column| plain.extend(column));
    let mut bytes = MAGIC.to_vec();
    bytes.extend((plain.len() as u32).to_le_bytes());
    bytes.extend(zstd::bulk::compress(&plain, 19)?);
    Ok(bytes)
}

/// Reads what [`write_outlines`] wrote; None for anything else.
pub fn read_outlines(bytes: &[u8]) -> Option<Outlines> {
    let (size, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    let size = u32::from_le_bytes(*size) as usize;
    let plain = zstd::bulk::decompress(rest, Some(size).filter(|size| *size <= SIZE_LIMIT)?).ok()?;
    let mut columns = Reader::split(&plain)?;
    let mut outlines = Outlines::new();
    let mut nodes_left = NODE_LIMIT;
    while !columns.of(Column::Layers).0.is_empty() {
        let layer = columns.of(Column::Layers).layer()?;
        let outline = columns.outline(nodes_left)?;
        nodes_left -= outline.nodes.len();
        outlines.insert(layer, outline).is_none().then_some(())?;
    }
    columns.are_empty().then_some(outlines)
}

fn put_layer(out: &mut Vec<u8>, layer: &DiffId) {
    let hex = layer.0.hex();
    out.extend((0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).expect("a digest is of hexadecimal digits")));
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Small ones of either sign are short.
fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend(bytes);
}

#[derive(Default)]
struct Writer {
    columns: [Vec<u8>; COLUMNS],
}

impl Writer {
    fn column(&mut self, column: Column) -> &mut Vec<u8> {
        &mut self.columns[column as usize]
    }

    fn number(&mut self, column: Column, number: u64) {
        put_number(self.column(column), number);
    }

    fn outline(&mut self, outline: &LayerIndex) {
        let mut before = 0;
        for node in &outline.nodes {
            self.node(node, &mut before);
        }
        if let Some(unlisted) = &outline.unlisted {
            self.unlisted(unlisted);
        }
    }

    fn node(&mut self, node: &Node, before: &mut i64) {
        let kind = KINDS.iter().position(|kind| *kind == node.kind).unwrap_or_default() as u8;
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(node.opaque, OPAQUE) | flag(node.implied, IMPLIED) | flag(node.has_unlisted, UNLISTED);
        let has_further = has_further(node);
        self.column(Column::Kinds).push(kind | flags | flag(has_further, FURTHER));
        self.number(Column::Modes, node.mode.into());
        self.number(Column::Owners, node.uid.into());
        self.number(Column::Owners, node.gid.into());
        put_signed(self.column(Column::Times), node.modified.seconds.wrapping_sub(*before));
        *before = node.modified.seconds;
        match node.kind {
            Kind::Directory => self.number(Column::Counts, node.children.len() as u64),
            Kind::Symlink => put_bytes(self.column(Column::Targets), &node.target),
            _ => {}
        }
        for name in node.children.keys() {
            self.column(Column::Names).extend(name.iter().chain(b"/"));
        }
        if has_further {
            put_further(self.column(Column::Further), node);
        }
    }

    fn unlisted(&mut self, unlisted: &Unlisted) {
        self.number(Column::Spans, u64::from(unlisted.has_fractions));
        self.number(Column::Spans, unlisted.spans.len() as u64);
        let mut before = 0;
        for (first, last) in &unlisted.spans {
            put_signed(self.column(Column::Spans), first.wrapping_sub(before));
            self.number(Column::Spans, last.wrapping_sub(*first).cast_unsigned());
            before = *last;
        }
        self.number(Column::Spans, unlisted.hashes.len() as u64);
        let bits = rice::pack(&unlisted.hashes);
        put_bytes(self.column(Column::Hashes), &bits);
    }
}

fn has_further(node: &Node) -> bool {
    let is_plain = matches!(node.kind, Kind::Directory | Kind::Symlink);
    !is_plain || node.modified.nanoseconds != 0 || node.device.is_some() || !node.xattrs.is_empty()
}

fn put_further(out: &mut Vec<u8>, node: &Node) {
    put_number(out, node.modified.nanoseconds.into());
    put_number(out, node.size);
    let device = node.device.unwrap_or(Device { is_block: false, major: 0, minor: 0 });
    let flags = [node.device.is_some(), device.is_block, node.digest.is_some(), node.content.is_some()];
    out.push(flags.iter().enumerate().fold(0, |all, (bit, set)| all | u8::from(*set) << bit));
    put_number(out, device.major.into());
    put_number(out, device.minor.into());
    out.extend(node.digest.iter().flatten());
    if let Some(content) = &node.content {
        put_bytes(out, content);
    }
    put_number(out, node.xattrs.len() as u64);
    for (name, value) in &node.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

/// What is left of each column.
struct Reader<'a> {
    columns: [Rest<'a>; COLUMNS],
}

impl<'a> Reader<'a> {
    fn split(plain: &'a [u8]) -> Option<Self> {
        let mut rest = Rest(plain);
        let mut sizes = [0; COLUMNS];
        for size in &mut sizes {
            *size = rest.size()?;
        }
        let mut columns = [Rest(&[]); COLUMNS];
        for (column, size) in columns.iter_mut().zip(sizes) {
            *column = Rest(rest.take(size)?);
        }
        rest.0.is_empty().then_some(Self { columns })
    }

    fn of(&mut self, column: Column) -> &mut Rest<'a> {
        &mut self.columns[column as usize]
    }

    fn are_empty(&self) -> bool {
        self.columns.iter().all(|column| column.0.is_empty())
    }

    fn outline(&mut self, limit: usize) -> Option<LayerIndex> {
        let mut before = 0;
        let (root, count) = self.node(&mut before)?;
        (root.kind == Kind::Directory && limit > 0).then_some(())?;
        let (mut nodes, mut counts) = (vec![root], vec![count]);
        let mut at = 0;
        while at < nodes.len() {
            for _ in 0..counts[at] {
                (nodes.len() < limit).then_some(())?;
                let name = self.of(Column::Names).name()?;
                let number = nodes.len() as u32;
                nodes[at].children.insert(name, number).is_none().then_some(())?;
                let (node, count) = self.node(&mut before)?;
                nodes.push(node);
                counts.push(count);
            }
            at += 1;
        }
        let unlisted = self.unlisted()?;
        // What a hash is of is below a directory that says so, and the other way round.
        (nodes.iter().any(|node| node.has_unlisted) != unlisted.hashes.is_empty()).then_some(())?;
        Some(LayerIndex { nodes, unlisted: Some(unlisted) })
    }

    /// A node, and how many names are in it.
    fn node(&mut self, before: &mut i64) -> Option<(Node, u64)> {
        let head = *self.of(Column::Kinds).take(1)?.first()?;
        let kind = *KINDS.get(usize::from(head & 7))?;
        let mut node = Node { mode: self.number(Column::Modes)?, ..Node::empty(kind) };
        (node.uid, node.gid) = (self.number(Column::Owners)?, self.number(Column::Owners)?);
        *before = before.wrapping_add(self.of(Column::Times).signed()?);
        node.modified = Timestamp { seconds: *before, nanoseconds: 0 };
        (node.opaque, node.implied, node.has_unlisted) = (head & OPAQUE != 0, head & IMPLIED != 0, head & UNLISTED != 0);
        let mut count = 0;
        match kind {
            Kind::Directory => count = self.of(Column::Counts).number()?,
            Kind::Symlink => {
                node.target = self.of(Column::Targets).bytes()?;
                node.size = node.target.len() as u64;
            }
            _ => {}
        }
        if head & FURTHER != 0 {
            self.of(Column::Further).further(&mut node)?;
        }
        Some((node, count))
    }

    fn number(&mut self, column: Column) -> Option<u32> {
        self.of(column).number()?.try_into().ok()
    }

    fn unlisted(&mut self) -> Option<Unlisted> {
        let spans = self.of(Column::Spans);
        let has_fractions = spans.number()? == 1;
        let mut before: i64 = 0;
        let mut list = Vec::new();
        for _ in 0..spans.number()? {
            let first = before.wrapping_add(spans.signed()?);
            let last = first.checked_add(i64::try_from(spans.number()?).ok()?)?;
            (list.is_empty() || first > before).then_some(())?;
            list.push((first, last));
            before = last;
        }
        let count = spans.number()?;
        let hashes = rice::unpack(&self.of(Column::Hashes).bytes()?, count)?;
        (hashes.last().is_none_or(|last| *last < Unlisted::range(count))).then_some(())?;
        Some(Unlisted { hashes, spans: list, has_fractions, ..Unlisted::default() })
    }
}

#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(*self.take(1)?.first()?);
            number |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn layer(&mut self) -> Option<DiffId> {
        let hex: String = self.take(32)?.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}").parse().ok().map(DiffId)
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn size(&mut self) -> Option<usize> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let size = self.size()?;
        self.take(size).map(<[u8]>::to_vec)
    }

    /// A name of a directory's entry.
    fn name(&mut self) -> Option<Vec<u8>> {
        let size = self.0.iter().position(|byte| *byte == b'/')?;
        let name = self.take(size)?.to_vec();
        self.take(1)?;
        (!matches!(&name[..], b"" | b"." | b"..")).then_some(name)
    }

    fn further(&mut self, node: &mut Node) -> Option<()> {
        node.modified.nanoseconds = self.number()?.try_into().ok()?;
        node.size = self.number()?;
        let flags = *self.take(1)?.first()?;
        let has = |bit: u8| flags >> bit & 1 == 1;
        let (major, minor) = (self.number()?.try_into().ok()?, self.number()?.try_into().ok()?);
        node.device = has(0).then_some(Device { is_block: has(1), major, minor });
        if has(2) {
            node.digest = Some(self.take(32)?.try_into().ok()?);
        }
        if has(3) {
            node.content = Some(self.bytes()?);
        }
        for _ in 0..self.number()? {
            node.xattrs.push((self.bytes()?, self.bytes()?));
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oci::tar::Limits,
        snapshot::{layered::index_layer, tests::tar},
    };

    fn outlines() -> Outlines {
        let index = |lines: &[&str]| index_layer(&tar(lines)[..], Limits::default()).unwrap().unwrap().outline().unwrap();
        let full = index(&[
            "etc dir 755 0:0 @1600000000",
            "etc/passwd file 644 0:0 @1600000001 \"root:x:0:0::/:/bin/sh\"",
            "etc/motd file 0600 5:6 @1600000002 \"hello\"",
            "usr/bin/a file 4755 0:0 @1500000000 \"a\"",
            "usr/bin/b hard 4755 0:0 @1500000000 -> usr/bin/a",
            "usr/lib link 777 0:0 @1600000000 -> bin",
            "run/fifo fifo 0600 0:0 @-7",
            "usr/.wh.share file 0644 0:0 @0 \"\"",
            "opt/.wh..wh..opq file 0644 0:0 @0 \"\"",
        ]);
        let layer = |name: &[u8]| DiffId(crate::oci::Digest::of(name));
        [(layer(b"1"), full), (layer(b"2"), index(&["a dir 1777 7:8 @5"])), (layer(b"3"), index(&[]))].into()
    }

    #[test]
    fn what_is_written_is_read() {
        let outlines = outlines();
        assert_eq!(read_outlines(&write_outlines(&outlines).unwrap()).unwrap(), outlines);
        assert_eq!(read_outlines(&write_outlines(&Outlines::new()).unwrap()).unwrap(), Outlines::new());
        // The same outline again, of one that was read.
        let read = read_outlines(&write_outlines(&outlines).unwrap()).unwrap();
        assert_eq!(write_outlines(&read).unwrap(), write_outlines(&outlines).unwrap());
    }

    #[test]
    fn what_is_broken_is_not_read() {
        let bytes = write_outlines(&outlines()).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(read_outlines(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(read_outlines(&[&bytes[..], b"x"].concat()), None);
        let other = [b"rbuild layer outlines 2\n", &bytes[MAGIC.len()..]].concat();
        assert_eq!(read_outlines(&other), None, "of a form that is not known");
    }

    #[test]
    fn what_is_changed_is_read_or_not_and_is_never_more_than_it_is_long() {
        let bytes = write_outlines(&outlines()).unwrap();
        let (size, rest) = bytes[MAGIC.len()..].split_at(4);
        let plain = zstd::bulk::decompress(rest, 1 << 20).unwrap();
        assert_eq!(u32::from_le_bytes(size.try_into().unwrap()) as usize, plain.len());
        let mut read = 0;
        for at in 0..plain.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut changed = plain.clone();
                changed[at] ^= byte;
                let bytes = [MAGIC, size, &zstd::bulk::compress(&changed, 1).unwrap()].concat();
                if let Some(outlines) = read_outlines(&bytes) {
                    let nodes: usize = outlines.values().map(|outline| outline.nodes.len()).sum();
                    assert!(nodes <= plain.len());
                    read += 1;
                }
            }
        }
        assert!(read > plain.len(), "those that changed nothing were not read");
    }
}
