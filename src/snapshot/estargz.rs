//! eStargz: a gzipped layer that can be read file by file. Each chunk of a file begins a gzip member of its own; a table of
//! contents (TOC) is the last entry of the tar, and a footer says where it begins. To whom this means nothing it is a
//! plain gzipped tar with two files more.
//!
//! The format is that of stargz-snapshotter's `docs/estargz.md`. No file is to be fetched before others, which the
//! landmark says. Unaware of where the tar comes from.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use base64::Engine as _;
use serde::Serialize;

use super::{CompressPool, Compression, Entry, EntryKind, LayerBlob, LayerWriter, Limits, TarReader, TarWriter, Timestamp};
use crate::oci::{Annotations, Digest, Sha256};

/// The table's name in the tar.
pub const TOC_NAME: &str = "stargz.index.json";
/// Says that no files are to be fetched first.
pub const NO_PREFETCH_LANDMARK: &str = ".no.prefetch.landmark";
/// Says where those end that are.
const PREFETCH_LANDMARK: &str = ".prefetch.landmark";
/// What landmarks hold.
const LANDMARK_CONTENT: [u8; 1] = [0x0f];
/// Digest of the table: what a lazy reader verifies everything by.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Size of the tar.
const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// Bytes of a file in one chunk.
const CHUNK_SIZE: u64 = 1 << 20;

#[derive(Serialize)]
struct Toc {
    version: u32,
    entries: Vec<TocEntry>,
}

/// An entry of the table; the fields that mean nothing to an entry are left out.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    /// The number of its member until all members have an offset.
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the blob went to, the blob, and what its descriptor must say of it.
pub type Written<W> = (W, LayerBlob, Annotations);

/// Writes the entries of a tar as an eStargz blob; gives what its descriptor must say of it.
pub fn write_estargz<R: Read, W: Write>(tar: &mut TarReader<R>, sink: W, level: u32, pool: &CompressPool) -> io::Result<Written<W>> {
    let mut writer = Writer { out: LayerWriter::new(sink, Compression::Gzip(level), pool)?, entries: Vec::new() };
    let landmark = plain_file(NO_PREFETCH_LANDMARK, LANDMARK_CONTENT.len() as u64);
    writer.add(&landmark, &mut &LANDMARK_CONTENT[..])?;
    while let Some(entry) = tar.next_entry().map_err(io::Error::other)? {
        if !is_of_the_format(&entry.path) {
            writer.add(&entry, tar)?;
        }
    }
    writer.finish()
}

/// As [`write_estargz`] for a tar that is being written: `produce` does that on a thread of its own, and what it gives
/// comes first. When it fails, what was read means nothing.
pub fn write_estargz_of<T: Send, W: Write>(
    produce: impl FnOnce(io::BufWriter<io::PipeWriter>) -> T + Send,
    sink: W,
    level: u32,
    pool: &CompressPool,
) -> io::Result<(T, io::Result<Written<W>>)> {
    let (reader, pipe) = io::pipe()?;
    std::thread::scope(|scope| {
        let producer = scope.spawn(move || produce(io::BufWriter::with_capacity(1 << 16, pipe)));
        // Its own limits were held when the layer was made.
        let limits = Limits { entries: u64::MAX, total_size: u64::MAX, ..Limits::default() };
        let mut tar = TarReader::with_limits(io::BufReader::with_capacity(1 << 16, reader), limits);
        let made = write_estargz(&mut tar, sink, level, pool);
        // To the very end, or the producer finds its pipe broken; what is left of the pipe is dropped in any case.
        let drained = tar.drain().map(drop).map_err(io::Error::other);
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((produced, made.and_then(|made| drained.map(|()| made))))
    })
}

/// Whether an entry is the format's own, not one of the layer's files.
fn is_of_the_format(path: &[u8]) -> bool {
    let name = path.strip_prefix(b"./").unwrap_or(path);
    [TOC_NAME, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK].iter().any(|own| own.as_bytes() == name)
}

struct Writer<'a, W: Write> {
    out: LayerWriter<'a, W>,
    entries: Vec<TocEntry>,
}

impl<W: Write> Writer<'_, W> {
    fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        self.out.write_all(&headers(entry)?)?;
        let mut described = described(entry);
        if entry.kind != EntryKind::File {
            self.entries.push(described);
            return Ok(());
        }
        if entry.size == 0 {
            described.digest = Digest::of(b"").to_string();
            self.entries.push(described);
            return Ok(());
        }
        let first = self.entries.len();
        self.add_chunks(entry, described, content)?;
        let padding = entry.size.next_multiple_of(512) - entry.size;
        self.out.write_all(&[0; 512][..padding as usize])?;
        debug_assert!(!self.entries[first].digest.is_empty(), "the first entry of a file has the digest of the whole");
        Ok(())
    }

    fn add_chunks(&mut self, entry: &Entry, mut described: TocEntry, content: &mut dyn Read) -> io::Result<()> {
        let first = self.entries.len();
        let mut whole = Sha256::new();
        let mut chunk = Vec::new();
        let mut done = 0;
        while done < entry.size {
            let size = CHUNK_SIZE.min(entry.size - done);
            chunk.clear();
            content.take(size).read_to_end(&mut chunk)?;
            if chunk.len() as u64 != size {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            whole.update(&chunk);
            described.offset = self.out.start_member()?;
            described.chunk_offset = done;
            // Of the last chunk the size follows from that of the file.
            described.chunk_size = if done + size < entry.size { size } else { 0 };
            described.chunk_digest = Digest::of(&chunk).to_string();
            self.out.write_all(&chunk)?;
            self.entries.push(described);
            described = TocEntry { name: name_of(entry), kind: "chunk", ..TocEntry::default() };
            done += size;
        }
        self.entries[first].digest = whole.finish().to_string();
        Ok(())
    }

    fn finish(mut self) -> io::Result<(W, LayerBlob, Annotations)> {
        let toc_member = self.out.start_member()? as usize;
        let offsets = self.out.offsets()?;
        for entry in self.entries.iter_mut().filter(|entry| !entry.chunk_digest.is_empty()) {
            entry.offset = offsets[entry.offset as usize];
        }
        let toc = serde_json::to_vec(&Toc { version: 1, entries: self.entries }).expect("plain data has a JSON form");
        self.out.write_all(&headers(&plain_file(TOC_NAME, toc.len() as u64))?)?;
        self.out.write_all(&toc)?;
        let padding = toc.len().next_multiple_of(512) - toc.len();
        // Two zero blocks end the archive.
        self.out.write_all(&[0; 3 * 512][..padding + 2 * 512])?;
        let (sink, blob) = self.out.finish_with(&footer(offsets[toc_member]))?;
        let annotations = Annotations::from([
            (TOC_DIGEST.to_owned(), Digest::of(&toc).to_string()),
            (UNCOMPRESSED_SIZE.to_owned(), blob.uncompressed_bytes.to_string()),
        ]);
        Ok((sink, blob, annotations))
    }
}

fn plain_file(name: &str, size: u64) -> Entry {
    let mtime = Timestamp::default();
    Entry { path: name.into(), kind: EntryKind::File, mode: 0o644, uid: 0, gid: 0, mtime, size, xattrs: Vec::new() }
}

/// The blocks before an entry's content.
fn headers(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut tar = TarWriter::new(Vec::new());
    tar.append_headers(entry)?;
    Ok(tar.into_inner())
}

fn name_of(entry: &Entry) -> String {
    let mut name = String::from_utf8_lossy(&entry.path).into_owned();
    if entry.kind == EntryKind::Directory && !name.ends_with('/') {
        name.push('/');
    }
    name
}

fn described(entry: &Entry) -> TocEntry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (kind, link_name, device) = match &entry.kind {
        EntryKind::File => ("reg", String::new(), (0, 0)),
        EntryKind::Directory => ("dir", String::new(), (0, 0)),
        EntryKind::Symlink { target } => ("symlink", text(target), (0, 0)),
        EntryKind::HardLink { target } => ("hardlink", text(target), (0, 0)),
        EntryKind::Fifo => ("fifo", String::new(), (0, 0)),
        EntryKind::CharDevice { major, minor } => ("char", String::new(), (*major, *minor)),
        EntryKind::BlockDevice { major, minor } => ("block", String::new(), (*major, *minor)),
    };
    let encode = |value: &[u8]| base64::engine::general_purpose::STANDARD.encode(value);
    TocEntry {
        name: name_of(entry),
        kind,
        size: if entry.kind == EntryKind::File { entry.size } else { 0 },
        modified: jiff::Timestamp::from_second(entry.mtime.seconds).map(|time| time.to_string()).unwrap_or_default(),
        link_name,
        mode: u64::from(entry.mode),
        uid: u64::from(entry.uid),
        gid: u64::from(entry.gid),
        dev_major: u64::from(device.0),
        dev_minor: u64::from(device.1),
        xattrs: entry.xattrs.iter().map(|(name, value)| (text(name), encode(value))).collect(),
        ..TocEntry::default()
    }
}

/// An empty gzip member of 51 bytes, whose extra field says where the table begins.
fn footer(toc_offset: u64) -> Vec<u8> {
    let payload = format!("{toc_offset:016x}STARGZ");
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    out.extend((payload.len() as u16 + 4).to_le_bytes());
    out.extend(b"SG");
    out.extend((payload.len() as u16).to_le_bytes());
    out.extend(payload.as_bytes());
    // A last stored block of nothing, then checksum and size of nothing.
    out.extend([1, 0, 0, 0xff, 0xff]);
    out.extend([0; 8]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::decompress;

    fn sample() -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        let entry = |path: &str, kind: EntryKind, size: u64| Entry { kind, mode: 0o755, uid: 7, ..plain_file(path, size) };
        tar.append(&entry("d", EntryKind::Directory, 0), &mut io::empty()).unwrap();
        let big: Vec<u8> = (0..2_500_000_u32).map(|number| (number / 3) as u8).collect();
        tar.append(&entry("d/big", EntryKind::File, big.len() as u64), &mut &big[..]).unwrap();
        tar.append(&entry("d/empty", EntryKind::File, 0), &mut io::empty()).unwrap();
        tar.append(&entry("d/link", EntryKind::Symlink { target: b"big".to_vec() }, 0), &mut io::empty()).unwrap();
        tar.append(&entry("d/small", EntryKind::File, 5), &mut &b"small"[..]).unwrap();
        tar.finish().unwrap()
    }

    fn estargz(tar: &[u8], threads: usize) -> (Vec<u8>, LayerBlob, Annotations) {
        let pool = CompressPool::new(threads);
        write_estargz(&mut TarReader::new(tar), Vec::new(), 6, &pool).unwrap()
    }

    /// Reads it as a lazy reader does: footer, table, chunks by their offsets.
    #[test]
    fn every_chunk_is_found_by_the_table() {
        let (blob, said, annotations) = estargz(&sample(), 2);
        let footer = &blob[blob.len() - 51..];
        assert_eq!((&footer[12..14], &footer[32..38]), (&b"SG"[..], &b"STARGZ"[..]));
        let toc_offset = u64::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
        let member = |offset: u64, size: usize| {
            let mut bytes = vec![0; size];
            flate2::read::MultiGzDecoder::new(&blob[offset as usize..]).read_exact(&mut bytes).unwrap();
            bytes
        };
        let mut tar = TarReader::new(flate2::read::GzDecoder::new(&blob[toc_offset as usize..]));
        assert_eq!(tar.next_entry().unwrap().unwrap().path, TOC_NAME.as_bytes());
        let mut toc = Vec::new();
        tar.read_to_end(&mut toc).unwrap();
        assert_eq!(annotations[TOC_DIGEST], Digest::of(&toc).to_string());
        assert_eq!(annotations[UNCOMPRESSED_SIZE], said.uncompressed_bytes.to_string());
        let toc: serde_json::Value = serde_json::from_slice(&toc).unwrap();
        let entries = toc["entries"].as_array().unwrap();
        let kinds: Vec<&str> = entries.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["reg", "dir", "reg", "chunk", "chunk", "reg", "symlink", "reg"]);
        let mut big = Vec::new();
        for entry in &entries[2..5] {
            let size = entry["chunkSize"].as_u64().unwrap_or(2_500_000 - big.len() as u64);
            let chunk = member(entry["offset"].as_u64().unwrap(), size as usize);
            assert_eq!(entry["chunkDigest"], Digest::of(&chunk).to_string());
            big.extend(chunk);
        }
        assert_eq!(entries[2]["digest"], Digest::of(&big).to_string());
        assert_eq!(member(entries[7]["offset"].as_u64().unwrap(), 5), b"small");
    }

    #[test]
    fn to_others_it_is_a_gzipped_tar() {
        let (blob, said, _) = estargz(&sample(), 1);
        let mut tar = Vec::new();
        decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
        assert_eq!((said.diff_id.0.clone(), said.uncompressed_bytes), (Digest::of(&tar), tar.len() as u64));
        assert_eq!((said.digest.clone(), said.size_bytes), (Digest::of(&blob), blob.len() as u64));
        let mut names = Vec::new();
        let mut reader = TarReader::new(&tar[..]);
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        assert_eq!(names, [NO_PREFETCH_LANDMARK, "d/", "d/big", "d/empty", "d/link", "d/small", TOC_NAME]);
        // The same whatever the number of threads, and made anew out of itself.
        assert!(estargz(&sample(), 3).0 == blob && estargz(&tar, 2).0 == blob);
    }
}
