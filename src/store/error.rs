//! What can go wrong with a store. Unaware of exit codes.

use std::{io, path::PathBuf};

use crate::oci::Digest;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("store {path} is refused: it {reason}")]
    Refused { path: PathBuf, reason: &'static str },
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("blob {digest} is not in the store")]
    MissingBlob { digest: Digest },
    #[error("blob {digest} has {found} bytes, {expected} were expected")]
    SizeMismatch { digest: Digest, expected: u64, found: u64 },
    #[error("the bytes received for {expected} have the digest {found}")]
    DigestMismatch { expected: Digest, found: Digest },
    #[error("blob {digest} has {size} bytes, more than the {limit} that are read at once")]
    TooLarge { digest: Digest, size: u64, limit: u64 },
    #[error("{what} {digest} cannot be read")]
    Malformed { what: &'static str, digest: Digest, source: serde_json::Error },
    #[error("{path} cannot be read")]
    MalformedFile { path: PathBuf, source: serde_json::Error },
    #[error("manifest {digest} has {layers} layers, its config {diff_ids} diff ids")]
    LayersDisagree { digest: Digest, layers: usize, diff_ids: usize },
    #[error("{digest} has media type `{media_type}`, which is neither an image nor an index")]
    NotAnImage { digest: Digest, media_type: String },
    #[error("indexes are nested too deeply at {digest}")]
    NestedTooDeeply { digest: Digest },
    #[error("{digest} has no image for {platform}; it offers {offered}")]
    NoPlatform { digest: Digest, platform: String, offered: String },
    #[error("`{text}` is not a snapshot id")]
    InvalidSnapshotId { text: String },
    #[error("`{text}` names no build")]
    NoSuchBuild { text: String },
    #[error("step cache {path}")]
    Database { path: PathBuf, source: rusqlite::Error },
}

/// Result of this room.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Adds what was done to which path.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|error| StoreError::Io { action, path: path.into(), source: error.into() })
    }
}
