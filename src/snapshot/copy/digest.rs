//! The content digest of what a COPY uses: the same choice of entries, hashed instead of copied.
//!
//! Over name, type, mode, owner, group, size, link target, device, attributes, links among the files and bytes of each
//! entry, never its times. A directory whose contents are copied counts by its contents only. The bytes are hashed on
//! several threads; the result does not depend on how many.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    sync::{Arc, Mutex},
    thread,
};

use crossbeam_channel::Sender;
use rustix::io::Errno;

use super::{
    CopyError, CopyRequest, Listed, Listing, Source, SourceRoot,
    error::Context,
    select::{Decision, Match, Rules, join},
    shown,
    tree::MAX_DEPTH,
    view::View,
};
use crate::{
    oci::{Digest, Sha256},
    snapshot::layered::{Directory, Kind, Metadata, xattrs},
    sys::{process::processors, stat_key::StatKey},
};

/// Gives the digest of a file's bytes, from memory or by reading it with the function given.
pub type FileDigest<'a> = &'a (dyn Fn(StatKey, &dyn Fn() -> io::Result<File>) -> io::Result<[u8; 32]> + Sync);

/// Reads a file to its end; what a [`FileDigest`] without memory does.
pub fn hash_file(mut file: File) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(*hasher.finalize().as_bytes())
}

/// Files that go to a thread at once: waking one costs as much as hashing a few.
const BATCH: usize = 64;

/// Batches that may wait.
const QUEUE: usize = 4;

/// One entry on its way into the digest.
struct Record {
    fields: Vec<u8>,
    content: Option<usize>,
    /// Its path below the source's root, for the listing.
    path: Vec<u8>,
    mode: u32,
}

/// A file to be hashed by any of the threads.
struct Job {
    slot: usize,
    directory: Arc<Directory>,
    name: std::ffi::OsString,
    key: StatKey,
}

struct Recorder<'a> {
    view: &'a View<'a>,
    rules: Rules<'a>,
    records: &'a mut Vec<Record>,
    first_names: HashMap<(u64, u64), Vec<u8>>,
    slots: usize,
    submit: &'a mut dyn FnMut(Job),
    /// Path of the match that is being recorded.
    top: Vec<u8>,
}

fn first_half(digest: [u8; 32]) -> [u8; 16] {
    digest[..16].try_into().expect("16 of 32 bytes")
}

/// The digest of all that the request's sources give; files' bytes through `files`.
pub fn digest(request: &CopyRequest<'_>, files: FileDigest<'_>) -> Result<Digest, CopyError> {
    Ok(digest_listed(request, files)?.0)
}

/// The digest with an account of what is in it, to say later which file made the difference.
pub fn digest_listed(request: &CopyRequest<'_>, files: FileDigest<'_>) -> Result<(Digest, Listing), CopyError> {
    let mut hasher = Sha256::new();
    let mut listing = Listing::default();
    for source in &request.sources {
        match source.root.view() {
            Some(view) => hash_tree(&view, source, request, files, &mut hasher, &mut listing)?,
            None => hash_single(source, &mut hasher)?,
        }
    }
    Ok((hasher.finish(), listing))
}

fn hash_single(source: &Source<'_>, hasher: &mut Sha256) -> Result<(), CopyError> {
    let (name, mode, content) = match source.root {
        SourceRoot::Bytes { name, bytes } => (name, 0o644, Ok(*blake3::hash(bytes).as_bytes())),
        SourceRoot::File { name, file, mode, .. } => (name, mode, hash_from_start(file)),
        SourceRoot::Context { .. } | SourceRoot::Layers(_) | SourceRoot::Checkout(_) => return Ok(()),
    };
    let mut fields = Vec::new();
    push(&mut fields, name.as_bytes());
    push(&mut fields, &mode.to_le_bytes());
    push(&mut fields, &content.while_doing("read", name)?);
    hasher.update(&fields);
    Ok(())
}

fn hash_from_start(mut file: &File) -> io::Result<[u8; 32]> {
    io::Seek::rewind(&mut file)?;
    hash_file(file.try_clone()?)
}

fn hash_tree(
    view: &View<'_>,
    source: &Source<'_>,
    request: &CopyRequest<'_>,
    files: FileDigest<'_>,
    hasher: &mut Sha256,
    listing: &mut Listing,
) -> Result<(), CopyError> {
    let selected = source.select(view)?;
    let mut records = Vec::new();
    let contents = Mutex::new(Vec::new());
    let recorded = thread::scope(|scope| {
        let contents = &contents;
        let mut jobs: Option<Sender<Vec<Job>>> = None;
        let mut batch = Vec::new();
        let mut submit = |job| {
            batch.push(job);
            if batch.len() == BATCH {
                let jobs = jobs.get_or_insert_with(|| {
                    let (jobs, queue) = crossbeam_channel::bounded::<Vec<Job>>(QUEUE);
                    for _ in 0..processors().min(8) {
                        let queue = queue.clone();
                        scope.spawn(move || queue.iter().for_each(|batch| hash_jobs(batch, files, contents)));
                    }
                    jobs
                });
                jobs.send(std::mem::take(&mut batch)).expect("the threads listen until the queue is closed");
            }
        };
        let rules = selected.rules(request.exclude);
        let first_names = HashMap::new();
        let mut recorder = Recorder { view, rules, records: &mut records, first_names, slots: 0, submit: &mut submit, top: Vec::new() };
        let recorded = selected.matches.iter().try_for_each(|found| recorder.record_match(found, !source.root.is_checkout()));
        // The rest is done here: a few files are worth no thread.
        hash_jobs(batch, files, contents);
        drop(jobs);
        recorded
    });
    recorded?;
    let mut contents = contents.into_inner().expect("no thread panicked");
    contents.sort_unstable_by_key(|(slot, _)| *slot);
    for record in records {
        hasher.update(&record.fields);
        let mut content = [0; 32];
        if let Some(slot) = record.content {
            let found = contents.get_mut(slot).map(|(_, result)| std::mem::replace(result, Ok([0; 32])));
            content = found.expect("each file was hashed")?;
            hasher.update(&content);
        }
        if let Some(letter) = record.fields.first().filter(|_| !record.path.is_empty()) {
            let fields = *blake3::hash(&record.fields).as_bytes();
            listing.push(Listed {
                path: record.path,
                letter: *letter,
                mode: record.mode,
                content: first_half(content),
                fields: first_half(fields),
            });
        }
    }
    Ok(())
}

type Contents = Mutex<Vec<(usize, Result<[u8; 32], CopyError>)>>;

fn hash_jobs(jobs: Vec<Job>, files: FileDigest<'_>, contents: &Contents) {
    let hash = |job: Job| {
        let open = || job.directory.open_file(&job.name);
        (job.slot, files(job.key, &open).while_doing("read", shown(&job.directory, &job.name)))
    };
    let hashed: Vec<_> = jobs.into_iter().map(hash).collect();
    contents.lock().expect("no thread panicked").extend(hashed);
}

impl Recorder<'_> {
    fn record_match(&mut self, found: &Match, contents: bool) -> Result<(), CopyError> {
        self.first_names.clear();
        let mut fields = Vec::new();
        push(&mut fields, found.path.as_os_str().as_bytes());
        self.records.push(Record { fields, content: None, path: Vec::new(), mode: 0 });
        self.top = found.path.as_os_str().as_bytes().to_vec();
        match (found.directory(), found.place.rest.as_slice()) {
            (Some(directory), _) => {
                if !contents {
                    self.record_directory(directory, b"", &found.metadata);
                }
                self.record_entries(directory, &[], 0)
            }
            (None, [name]) => self.record_entry(&found.place.directory, name, b"", &found.metadata),
            _ => Err(CopyError::NotFound { path: found.path.clone() }),
        }
    }

    fn record_entries(&mut self, directory: &Arc<Directory>, inner: &[u8], depth: usize) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(CopyError::TooDeep { path: shown(directory, OsStr::new("")) });
        }
        let names = match directory.names() {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => return Ok(()),
            names => names.while_doing("read", shown(directory, OsStr::new("")))?,
        };
        for name in names {
            let path = || shown(directory, &name);
            let Some(metadata) = self.view.stat(directory, &name).while_doing("lstat", path())? else { continue };
            let below = join(inner, &name);
            let decision = self.rules.decide(&below, metadata.is_directory());
            match (decision, metadata.kind) {
                (Decision::Skip, _) => {}
                (_, Kind::Directory) => {
                    let Some(child) = directory.child(&name).while_doing("open", path())? else { continue };
                    self.record_child(&child, &below, &metadata, decision, depth)?;
                }
                _ => self.record_entry(directory, &name, &below, &metadata)?,
            }
        }
        Ok(())
    }

    /// A directory that is only passed through counts if anything in it does.
    fn record_child(
        &mut self,
        child: &Arc<Directory>,
        inner: &[u8],
        metadata: &Metadata,
        decision: Decision,
        depth: usize,
    ) -> Result<(), CopyError> {
        let before = self.records.len();
        self.record_directory(child, inner, metadata);
        self.record_entries(child, inner, depth + 1)?;
        if decision == Decision::Descend && self.records.len() == before + 1 {
            self.records.pop();
        }
        Ok(())
    }

    fn record_directory(&mut self, directory: &Directory, inner: &[u8], metadata: &Metadata) {
        let mut fields = common_fields(inner, b'd', metadata);
        if let Ok(fd) = directory.fd() {
            push_xattrs(&mut fields, &xattrs::read(fd, |name| self.skips(name)));
        }
        self.records.push(Record { fields, content: None, path: self.path_of(inner), mode: metadata.mode });
    }

    fn record_entry(&mut self, directory: &Arc<Directory>, name: &OsStr, inner: &[u8], metadata: &Metadata) -> Result<(), CopyError> {
        let letter = match metadata.kind {
            Kind::File | Kind::Socket => b'f',
            Kind::Symlink => b'l',
            Kind::Fifo => b'p',
            Kind::CharDevice => b'c',
            Kind::BlockDevice => b'b',
            Kind::Directory => b'd',
        };
        let mut fields = common_fields(inner, letter, metadata);
        let mut content = None;
        match metadata.kind {
            Kind::Symlink => {
                let target = directory.read_link(name).while_doing("readlink", shown(directory, name))?;
                push(&mut fields, target.as_bytes());
            }
            Kind::CharDevice | Kind::BlockDevice => push(&mut fields, &metadata.rdev.to_le_bytes()),
            Kind::File => {
                push(&mut fields, &metadata.size.to_le_bytes());
                let file = directory.open_file(name).while_doing("open", shown(directory, name))?;
                push_xattrs(&mut fields, &xattrs::read(file.as_fd(), |name| self.skips(name)));
                content = self.file_content(directory, name, inner, metadata, &mut fields);
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        self.records.push(Record { fields, content, path: self.path_of(inner), mode: metadata.mode });
        Ok(())
    }

    fn path_of(&self, inner: &[u8]) -> Vec<u8> {
        let parts = [self.top.as_slice(), inner].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        parts.join(&b'/')
    }

    /// Queues the file, or notes that it is another name of one that is queued.
    fn file_content(
        &mut self,
        directory: &Arc<Directory>,
        name: &OsStr,
        inner: &[u8],
        metadata: &Metadata,
        fields: &mut Vec<u8>,
    ) -> Option<usize> {
        if metadata.links > 1 {
            let identity = (metadata.device, metadata.inode);
            if let Some(first) = self.first_names.get(&identity) {
                push(fields, first);
                return None;
            }
            self.first_names.insert(identity, inner.to_vec());
        }
        let slot = self.slots;
        self.slots += 1;
        let job = Job { slot, directory: directory.clone(), name: name.to_owned(), key: metadata.stat_key() };
        (self.submit)(job);
        Some(slot)
    }

    /// Attributes of the machine rather than of the file do not count.
    fn skips(&self, name: &[u8]) -> bool {
        let of_machine = name.starts_with(b"security.") || name.starts_with(b"system.");
        self.view.skips_xattr(name) || (of_machine && name != b"security.capability")
    }
}

fn common_fields(inner: &[u8], letter: u8, metadata: &Metadata) -> Vec<u8> {
    let mut fields = vec![letter];
    push(&mut fields, inner);
    for number in [metadata.mode, metadata.uid, metadata.gid] {
        fields.extend(number.to_le_bytes());
    }
    fields
}

fn push_xattrs(fields: &mut Vec<u8>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    fields.extend((xattrs.len() as u64).to_le_bytes());
    for (name, value) in xattrs {
        push(fields, name);
        push(fields, value);
    }
}

/// Length first, so that no two lists of fields have the same bytes.
fn push(fields: &mut Vec<u8>, bytes: &[u8]) {
    fields.extend((bytes.len() as u64).to_le_bytes());
    fields.extend(bytes);
}
