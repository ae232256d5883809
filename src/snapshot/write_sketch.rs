//! The tar of a layer that is only sketched: metadata from the sketch, bytes from where they lie. Entry for entry it is
//! what `write_layer` makes of a directory with the same in it.
//!
//! A file is read once, for its tar and for its digest in the sketch. A file that is not too long is read before its
//! header is written, so that it may be shorter than it was, as when it is copied into a directory. The digest is not
//! worked out if it is known of the very state that was read. Unaware of which entries are chosen.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
};

use super::{
    Change, Entry, EntryKind, Error, LayerStats, TimestampPolicy,
    layered::{FileSource, Kind, OpenSource, Settled, Sketch, SketchedEntry, file_xattrs},
    write_layer::{Entries, EntryWriter, is_written, write_changes},
};
use crate::sys::stat_key::StatKey;

/// What is known of files that are as this key says.
pub type KnownDigest<'a> = &'a (dyn Fn(StatKey) -> Option<[u8; 32]> + Sync);

/// What is asked about the files of a sketch.
#[derive(Clone, Copy)]
pub struct Questions<'a> {
    /// What their digests are.
    pub digest: KnownDigest<'a>,
    /// Whether a program that begins with these bytes is to be looked at later: then a directory has to be made.
    pub is_looked_at: &'a (dyn Fn(&[u8; 20]) -> bool + Sync),
}

/// Files up to this size are read before anything of them is written.
const WHOLE_LIMIT: u64 = 1 << 20;

/// Writes `changes`, which are sorted, with what the sketch has of them.
pub fn write_sketch(
    changes: &[Change],
    sketch: &Sketch,
    questions: Questions<'_>,
    out: impl Write,
    policy: TimestampPolicy,
) -> Result<LayerStats, Error> {
    let from = Sketched { sketch, questions, opened: None, buffer: Vec::new() };
    write_changes(changes, from, EntryWriter::new(out, policy))
}

struct Sketched<'a> {
    sketch: &'a Sketch,
    questions: Questions<'a>,
    opened: OpenSource,
    buffer: Vec<u8>,
}

impl Entries for Sketched<'_> {
    fn add<W: Write>(&mut self, tar: &mut EntryWriter<W>, path: &Path) -> Result<bool, Error> {
        let found = self.sketch.entry(path).ok_or_else(|| Error::io("find", path)(io::Error::from(io::ErrorKind::NotFound)))?;
        let (number, SketchedEntry { metadata, target, mut xattrs, content, source }) = found;
        let mut entry = Entry {
            path: path.as_os_str().as_bytes().to_vec(),
            kind: EntryKind::File,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: tar.time(metadata.modified),
            size: 0,
            xattrs: Vec::new(),
        };
        match (metadata.kind, content, source) {
            (Kind::Directory, ..) => {
                xattrs.retain(|(name, _)| is_written(name));
                (entry.kind, entry.xattrs) = (EntryKind::Directory, xattrs);
            }
            // Owner and mode are the file's, in every one of its names.
            _ if tar.is_further_link((0, number.into()), metadata.links, &mut entry) => {}
            (Kind::Symlink, ..) => entry.kind = EntryKind::Symlink { target },
            (Kind::Fifo, ..) => entry.kind = EntryKind::Fifo,
            (_, _, Some(source)) => {
                self.add_file(tar, entry, path, number, metadata.size, &source)?;
                return Ok(false);
            }
            (_, content, None) => {
                let bytes = content.unwrap_or_default();
                entry.size = bytes.len() as u64;
                tar.append(&entry, &mut &bytes[..], path)?;
                return Ok(false);
            }
        }
        tar.append(&entry, &mut io::empty(), path)?;
        Ok(metadata.kind == Kind::Directory)
    }
}

impl Sketched<'_> {
    fn add_file<W: Write>(
        &mut self,
        tar: &mut EntryWriter<W>,
        mut entry: Entry,
        path: &Path,
        number: u32,
        size: u64,
        source: &FileSource,
    ) -> Result<(), Error> {
        let mut file = source.open(&mut self.opened).map_err(Error::io("open", path))?;
        let mut head = [0; 20];
        if entry.mode & 0o111 != 0 && file.read_exact_at(&mut head, 0).is_ok() && (self.questions.is_looked_at)(&head) {
            return Err(Error::io("sketch", path)(io::Error::other("it will be looked at as a file")));
        }
        let xattrs = file_xattrs(&file);
        entry.xattrs.extend(xattrs.iter().filter(|(name, _)| is_written(name)).cloned());
        let state = |file: &File| rustix::fs::fstat(file.as_fd()).map(|stat| StatKey::of(&stat)).map_err(Error::io("look up", path));
        let before = state(&file)?;
        let known = (self.questions.digest)(before).filter(|_| before.size == size);
        if size > WHOLE_LIMIT {
            entry.size = size;
            let mut content = Hashed { file: &mut file, hasher: known.is_none().then(blake3::Hasher::new) };
            tar.append(&entry, &mut content, path)?;
            let hashed = content.hasher.map(|hasher| *hasher.finalize().as_bytes());
            let digest = if known.is_some() && state(&file)? == before { known } else { hashed };
            self.sketch.settle(number, path, Settled { size, digest, xattrs, content: None });
            return Ok(());
        }
        self.buffer.clear();
        (&file).take(size).read_to_end(&mut self.buffer).map_err(Error::io("read", path))?;
        let is_known = known.is_some() && self.buffer.len() as u64 == size && state(&file)? == before;
        let digest = if is_known { known } else { Some(*blake3::hash(&self.buffer).as_bytes()) };
        entry.size = self.buffer.len() as u64;
        self.sketch.settle(number, path, Settled { size: entry.size, digest, xattrs, content: Some(&self.buffer) });
        tar.append(&entry, &mut &self.buffer[..], path)
    }
}

/// Hashes what is read of a file.
struct Hashed<'a> {
    file: &'a mut File,
    hasher: Option<blake3::Hasher>,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}
