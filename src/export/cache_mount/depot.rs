//! Where exported cache mounts lie: an OCI layout in a directory, or a repository of a registry. Both hold blobs by digest
//! and one index by name, which is put in place last. Unaware of what the blobs are.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::ID;
use crate::{
    export::{
        error::{ExportError, IoContext, Result},
        layout::OCI_LAYOUT,
    },
    oci::{Descriptor, Digest, Index, Manifest, Reference, media_type},
    registry::{self, Client},
};

/// What a blob is called before it is whole. Such names are left by exports that were killed.
const UNFINISHED: &str = ".unfinished-";

/// Between two looks whether a directory is free.
const PAUSE: Duration = Duration::from_millis(50);

/// A place for exported cache mounts.
pub enum Depot {
    /// An OCI layout.
    Directory(Directory),
    /// A tag of a repository.
    Registry {
        /// The way there.
        client: Client,
        /// The tag.
        name: Reference,
    },
}

/// An OCI layout that nobody else writes to meanwhile.
pub struct Directory {
    path: PathBuf,
    /// Held until the depot is dropped.
    _lock: File,
}

impl Depot {
    /// A directory to read from.
    pub async fn directory(path: &Path) -> Result<Self> {
        let lock = lock(path, FlockOperation::NonBlockingLockShared).await?;
        Ok(Self::Directory(Directory { path: path.to_owned(), _lock: lock }))
    }

    /// A directory to write to, made if it isn't there. Waits for others who do.
    pub async fn new_directory(path: &Path) -> Result<Self> {
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        let lock = lock(path, FlockOperation::NonBlockingLockExclusive).await?;
        for name in names(&blobs)?.into_iter().filter(|name| name.starts_with(UNFINISHED)) {
            fs::remove_file(blobs.join(&name)).at("remove", blobs.join(name))?;
        }
        let directory = Directory { path: path.to_owned(), _lock: lock };
        directory.write("oci-layout", OCI_LAYOUT.as_bytes())?;
        Ok(Self::Directory(directory))
    }

    /// What lies there: None if nothing does.
    pub async fn index(&self) -> Result<Option<Index>> {
        match self {
            Self::Directory(Directory { path, .. }) => {
                let path = path.join("index.json");
                let text = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    text => text.at("read", &path)?,
                };
                serde_json::from_slice(&text).map(Some).map_err(|source| ExportError::NotAnIndex { path, source })
            }
            Self::Registry { client, name } => match client.resolve(name).await {
                Err(registry::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
                Ok(found) => {
                    let index = serde_json::from_slice::<Index>(&found.bytes).ok();
                    let index = index.filter(|index| index.manifests.iter().any(|entry| entry.annotations.contains_key(ID)));
                    index.map(Some).ok_or_else(|| ExportError::NotCacheMounts { place: name.familiar(), found: found.media_type })
                }
            },
        }
    }

    /// A blob's bytes, verified.
    pub async fn get(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        let bytes = match self {
            Self::Directory(directory) => {
                let path = directory.blob(&blob.digest);
                fs::read(&path).at("read", path)?
            }
            Self::Registry { client, name } if media_type::is_manifest(&blob.media_type) => {
                client.fetch_manifest(name, &blob.digest).await?.bytes
            }
            Self::Registry { client, name } => {
                let mut bytes = Vec::new();
                client.fetch_blob(name, blob, &mut bytes, |_| ()).await?;
                bytes
            }
        };
        match Digest::of(&bytes) {
            found if found == blob.digest => Ok(bytes),
            found => Err(ExportError::Damaged { digest: blob.digest.clone(), found }),
        }
    }

    /// Whether a blob that an index there speaks of is really there. A registry vouches for that.
    pub fn still_has(&self, blob: &Descriptor) -> bool {
        match self {
            Self::Directory(directory) => fs::metadata(directory.blob(&blob.digest)).is_ok_and(|found| found.len() == blob.size),
            Self::Registry { .. } => true,
        }
    }

    /// Brings a blob there; false if it was there.
    pub async fn put(&self, blob: &Descriptor, bytes: Vec<u8>) -> Result<bool> {
        match self {
            Self::Directory(_) if self.still_has(blob) => Ok(false),
            Self::Directory(directory) => directory.write(&format!("blobs/sha256/{}", blob.digest.hex()), &bytes).map(|()| true),
            Self::Registry { client, name } if media_type::is_manifest(&blob.media_type) => {
                client.push_manifest(&name.with_digest(blob.digest.clone()), &blob.media_type, &bytes).await?;
                Ok(true)
            }
            Self::Registry { client, name } => {
                let open = |offset: u64| Ok(io::Cursor::new(bytes[offset as usize..].to_vec()));
                let pushed = client.push_blob(name, blob, open, &[], |_| ()).await?;
                Ok(pushed == registry::Pushed::Uploaded)
            }
        }
    }

    /// Puts the index in place; then what only the old one spoke of goes.
    pub async fn finish(&self, index: &Index) -> Result<()> {
        match self {
            Self::Directory(directory) => {
                directory.write("index.json", &index.to_bytes())?;
                directory.sweep(index)
            }
            Self::Registry { client, name } => Ok(client.push_manifest(name, media_type::OCI_INDEX, &index.to_bytes()).await.map(drop)?),
        }
    }
}

impl Directory {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Writes a file as a whole.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let unfinished = self.path.join(format!("blobs/sha256/{UNFINISHED}{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
        let path = self.path.join(name);
        let write = || {
            File::create(&unfinished)?.write_all(bytes)?;
            fs::rename(&unfinished, &path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&unfinished))).at("write", &path)
    }

    /// Removes blobs that the index no longer leads to, unless others than us have put things here.
    fn sweep(&self, index: &Index) -> Result<()> {
        if !index.manifests.iter().all(|entry| entry.annotations.contains_key(ID)) {
            return Ok(());
        }
        let mut wanted = BTreeSet::new();
        for entry in &index.manifests {
            let path = self.blob(&entry.digest);
            let manifest: Manifest =
                serde_json::from_slice(&fs::read(&path).at("read", &path)?).map_err(|source| ExportError::NotAnIndex { path, source })?;
            let blobs = manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest.hex().to_owned());
            wanted.extend(blobs.chain([entry.digest.hex().to_owned()]));
        }
        let blobs = self.path.join("blobs/sha256");
        for name in names(&blobs)?.into_iter().filter(|name| !wanted.contains(name)) {
            fs::remove_file(blobs.join(&name)).at("remove", blobs.join(name))?;
        }
        Ok(())
    }
}

/// Looks again and again instead of blocking a thread, so that a signal is heard meanwhile.
async fn lock(path: &Path, how: FlockOperation) -> Result<File> {
    let directory = File::open(path).at("open", path)?;
    loop {
        match flock(&directory, how) {
            Err(Errno::WOULDBLOCK) => tokio::time::sleep(PAUSE).await,
            locked => return locked.at("lock", path).map(|()| directory),
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).at("list", directory)?.collect::<io::Result<Vec<_>>>().at("list", directory)?;
    Ok(entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
