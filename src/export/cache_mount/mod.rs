//! Cache mounts out of the store and into another.
//!
//! A cache mount becomes a tar, the tar chunks, each chunk a zstd frame, each frame a layer of an OCI manifest:
//!
//! ```text
//! index (index.json of a layout, a tag of a repository)
//!   manifest per cache mount, annotation `dev.rbuild.cache-mount.id`
//!     config   id, owner and mode of the directory itself, digest and size of every chunk's plain bytes
//!     layers   the chunks in order: `zstd -dc` of all of them, one after the other, is the tar
//! ```
//!
//! The tar is a function of the files: sorted, no clock. Cuts depend on content ([`chunks`]), so that a changed file changes
//! the one or two chunks it lies in; chunks that the place has are neither compressed nor written again. The index comes last:
//! an export that is broken off leaves what was there before.
//! Unaware of locks: the caller has the cache mount alone.

mod chunks;
mod depot;

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::mpsc,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use self::chunks::{Chunker, MAX_CHUNK_BYTES};
pub use self::depot::Depot;
use super::error::{ExportError, IoContext, Result};
use crate::{
    oci::{Annotations, Descriptor, Digest, Index, Manifest, media_type},
    snapshot::{self, Ownership, layered::LayeredRoot},
    sys::{
        recorded::{self, Last},
        root::RootDir,
    },
};

/// The annotation that says which cache mount a manifest is.
pub const ID: &str = "dev.rbuild.cache-mount.id";
const ARTIFACT_TYPE: &str = "application/vnd.rbuild.cache-mount.v1";
const CONFIG_TYPE: &str = "application/vnd.rbuild.cache-mount.config.v1+json";
const CHUNK_TYPE: &str = "application/vnd.rbuild.cache-mount.chunk.v1.tar+zstd";
/// Raised when the config changes its meaning.
const VERSION: u32 = 1;
/// Chunks under way at once.
const PARALLEL: usize = 4;
const COMPRESSION_LEVEL: i32 = 3;

/// The config of a cache mount's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    version: u32,
    id: String,
    uid: u32,
    gid: u32,
    mode: u32,
    chunks: Vec<Chunk>,
}

/// A chunk's plain bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    digest: Digest,
    size: u64,
}

/// What an export or import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Which cache mount.
    pub id: String,
    /// How many chunks it is.
    pub chunks: usize,
    /// What they are together, plain.
    pub bytes: u64,
    /// How many of them had to be moved.
    pub moved_chunks: usize,
    /// What those were, compressed.
    pub moved_bytes: u64,
}

/// The cache mounts that lie in a place.
pub async fn exported(depot: &Depot) -> Result<Vec<(String, Descriptor)>> {
    let entries = depot.index().await?.map(|index| index.manifests).unwrap_or_default();
    Ok(entries.into_iter().filter_map(|entry| Some((entry.annotations.get(ID)?.clone(), entry))).collect())
}

/// Writes the directory of a cache mount to a place, whose other cache mounts stay.
pub async fn export_cache_mount(depot: &Depot, id: &str, directory: &Path) -> Result<Moved> {
    let mut index = depot.index().await?.unwrap_or_else(|| Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: Vec::new(),
        annotations: Annotations::new(),
    });
    let is_ours = |entry: &Descriptor| entry.annotations.get(ID).is_some_and(|known| known == id);
    let known = match index.manifests.iter().find(|entry| is_ours(entry)) {
        // What can't be read is no reason not to write it anew.
        Some(entry) => known_chunks(depot, entry).await.unwrap_or_default(),
        None => HashMap::new(),
    };
    let mut moved = Moved { id: id.to_owned(), ..Moved::default() };
    let manifest = write_chunks(depot, id, directory, known, &mut moved).await?;
    let bytes = manifest.to_bytes();
    let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
    entry.artifact_type = Some(ARTIFACT_TYPE.to_owned());
    if index.manifests.iter().any(|known| is_ours(known) && known.digest == entry.digest) {
        return Ok(moved);
    }
    depot.put(&entry, bytes).await?;
    entry.annotations.insert(ID.to_owned(), id.to_owned());
    index.manifests.retain(|known| !is_ours(known));
    index.manifests.push(entry);
    depot.finish(&index).await?;
    Ok(moved)
}

/// Blobs of an earlier export by their plain digest.
async fn known_chunks(depot: &Depot, entry: &Descriptor) -> Result<HashMap<Digest, Descriptor>> {
    let (manifest, config) = read(depot, entry).await?;
    let pairs = config.chunks.into_iter().zip(manifest.layers);
    Ok(pairs.filter(|(_, blob)| depot.still_has(blob)).map(|(chunk, blob)| (chunk.digest, blob)).collect())
}

async fn read(depot: &Depot, entry: &Descriptor) -> Result<(Manifest, Config)> {
    let wrong = |reason: &str| ExportError::Obtain(format!("{} is not an exported cache mount: {reason}", entry.digest));
    let manifest: Manifest = serde_json::from_slice(&depot.get(entry).await?).map_err(|error| wrong(&error.to_string()))?;
    if manifest.config.media_type != CONFIG_TYPE {
        return Err(wrong(&format!("it is {}", manifest.config.media_type)));
    }
    let config: Config = serde_json::from_slice(&depot.get(&manifest.config).await?).map_err(|error| wrong(&error.to_string()))?;
    if config.version != VERSION {
        return Err(wrong(&format!("it is of version {}, this is {VERSION}", config.version)));
    }
    let is_sound = |chunk: &Chunk| chunk.size <= MAX_CHUNK_BYTES;
    if config.chunks.len() != manifest.layers.len() || !config.chunks.iter().all(is_sound) {
        return Err(wrong("its chunks are not those of its manifest"));
    }
    Ok((manifest, config))
}

/// A chunk on its way: its blob, and the bytes if the place lacks them.
struct Cut {
    chunk: Chunk,
    blob: Descriptor,
    bytes: Option<Vec<u8>>,
}

async fn write_chunks(
    depot: &Depot,
    id: &str,
    directory: &Path,
    known: HashMap<Digest, Descriptor>,
    moved: &mut Moved,
) -> Result<Manifest> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Cut>(PARALLEL);
    let path = directory.to_owned();
    let producer = tokio::task::spawn_blocking(move || cut_tree(&path, known, &sender));
    let cuts = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|cut| (cut, receiver)) });
    let mut put = Box::pin(
        cuts.map(|mut cut| async {
            let bytes = cut.bytes.take();
            let size = bytes.as_ref().map_or(0, Vec::len) as u64;
            let is_new = match bytes {
                Some(bytes) => depot.put(&cut.blob, bytes).await?,
                None => false,
            };
            Ok::<_, ExportError>((cut, is_new.then_some(size)))
        })
        .buffered(PARALLEL),
    );
    let (mut chunks, mut layers) = (Vec::new(), Vec::new());
    let put_all = async {
        while let Some((cut, new)) = put.try_next().await? {
            moved.bytes += cut.chunk.size;
            moved.chunks += 1;
            if let Some(size) = new {
                (moved.moved_chunks, moved.moved_bytes) = (moved.moved_chunks + 1, moved.moved_bytes + size);
            }
            chunks.push(cut.chunk);
            layers.push(cut.blob);
        }
        Ok::<_, ExportError>(())
    };
    let done = put_all.await;
    // Its receiver is gone: it ends soon, whatever has happened.
    drop(put);
    let produced = producer.await.map_err(|error| ExportError::Obtain(format!("cannot read the cache mount: {error}")))?;
    done?;
    produced?;
    let top = fs::metadata(directory).at("look at", directory)?;
    let (uid, gid) = recorded::owner(directory, Last::Itself).unwrap_or((top.uid(), top.gid()));
    let config = Config { version: VERSION, id: id.to_owned(), uid, gid, mode: top.mode() & 0o7777, chunks };
    let bytes = serde_json::to_vec(&config).expect("plain data has a JSON form");
    let config = Descriptor::new(CONFIG_TYPE, Digest::of(&bytes), bytes.len() as u64);
    depot.put(&config, bytes).await?;
    Ok(Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config,
        layers,
        subject: None,
        annotations: Annotations::from([(ID.to_owned(), id.to_owned())]),
    })
}

/// Reads the tree and sends its chunks.
fn cut_tree(path: &Path, mut known: HashMap<Digest, Descriptor>, sender: &tokio::sync::mpsc::Sender<Cut>) -> Result<()> {
    let root = RootDir::open(path).at("open", path)?;
    let each = |bytes: &[u8]| {
        let chunk = Chunk { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let (blob, bytes) = match known.get(&chunk.digest) {
            Some(blob) => (blob.clone(), None),
            None => {
                let bytes = zstd::bulk::compress(bytes, COMPRESSION_LEVEL)?;
                let blob = Descriptor::new(CHUNK_TYPE, Digest::of(&bytes), bytes.len() as u64);
                known.insert(chunk.digest.clone(), blob.clone());
                (blob, Some(bytes))
            }
        };
        sender.blocking_send(Cut { chunk, blob, bytes }).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let mut chunker = Chunker::new(size_of(path), each);
    snapshot::write_tree(&root, &mut chunker).map_err(ExportError::Snapshot)?;
    chunker.finish().at("write", path)
}

fn size_of(path: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(path).into_iter().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

/// Brings an exported cache mount into `directory`, which is empty.
pub async fn import_cache_mount(depot: &Depot, entry: &Descriptor, directory: &Path, ownership: Ownership) -> Result<Moved> {
    let (manifest, config) = read(depot, entry).await?;
    let mut moved = Moved { id: config.id.clone(), ..Moved::default() };
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(1);
    let path = directory.to_owned();
    let consumer = tokio::task::spawn_blocking(move || unpack(&path, Chunks { receiver, current: io::Cursor::default() }, ownership));
    let pairs = config.chunks.iter().zip(&manifest.layers);
    let mut fetched = stream::iter(pairs)
        .map(|(chunk, blob)| async move { Ok::<_, ExportError>((blob.size, plain(chunk, &depot.get(blob).await?)?)) })
        .buffered(PARALLEL);
    let mut fetch_all = async || {
        while let Some((size, bytes)) = fetched.try_next().await? {
            (moved.chunks, moved.moved_chunks) = (moved.chunks + 1, moved.moved_chunks + 1);
            (moved.bytes, moved.moved_bytes) = (moved.bytes + bytes.len() as u64, moved.moved_bytes + size);
            // Waits while the disk does; nobody else needs this thread. One that takes no more says why itself.
            if tokio::task::block_in_place(|| sender.send(bytes)).is_err() {
                break;
            }
        }
        Ok::<_, ExportError>(())
    };
    let done = fetch_all().await;
    drop(sender);
    let unpacked = consumer.await.map_err(|error| ExportError::Obtain(format!("cannot unpack the cache mount: {error}")))?;
    done?;
    unpacked?;
    recorded::give(directory, config.uid, config.gid).at("set the owner of", directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(config.mode & 0o7777)).at("set the mode of", directory)?;
    Ok(moved)
}

/// A chunk's plain bytes, verified.
fn plain(chunk: &Chunk, bytes: &[u8]) -> Result<Vec<u8>> {
    let size = usize::try_from(chunk.size).unwrap_or(0);
    let plain = zstd::bulk::decompress(bytes, size).at("decompress", chunk.digest.as_str())?;
    match Digest::of(&plain) {
        found if found == chunk.digest => Ok(plain),
        found => Err(ExportError::Damaged { digest: chunk.digest.clone(), found }),
    }
}

fn unpack(path: &Path, tar: impl Read, ownership: Ownership) -> Result<()> {
    let open = || LayeredRoot::new(RootDir::open(path)?, Vec::new());
    let mut root = open().at("open", path)?.with_ownership(ownership);
    let unpacked = snapshot::archive::add_archive(tar, &mut root, Path::new("/"), Default::default());
    unpacked.map(drop).map_err(|error| ExportError::Unpack { source: Box::new(error) })
}

/// The chunks that arrive, as one stream.
struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(buffer)? {
                0 if !buffer.is_empty() => match self.receiver.recv() {
                    Ok(next) => self.current = io::Cursor::new(next),
                    // The end, or somebody gave up: a tar that is cut short is found out.
                    Err(mpsc::RecvError) => return Ok(0),
                },
                count => return Ok(count),
            }
        }
    }
}

#[cfg(test)]
mod tests;
