//! What can go wrong with an export. Unaware of exit codes.

use std::{io, path::PathBuf};

use crate::{
    oci::{Digest, tar::ArchiveError},
    registry, snapshot,
    store::StoreError,
};

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ExportError {
    #[error("docker exporter does not currently support exporting manifest lists")]
    DockerNeedsOnePlatform,
    #[error("index annotations not supported for single platform export")]
    IndexAnnotations,
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is a directory")]
    IsDirectory { path: PathBuf },
    #[error("{path} has a link where the layout needs a directory")]
    LinkInLayout { path: PathBuf },
    #[error("layer {digest} is not in the store")]
    MissingLayer { digest: Digest },
    #[error("{path} is not an OCI image layout's index")]
    NotAnIndex { path: PathBuf, source: serde_json::Error },
    #[error("blob {digest} has {found} bytes, {expected} were expected")]
    Shrunk { digest: Digest, expected: u64, found: u64 },
    #[error("the image has no tree for {0}")]
    NoTree(String),
    #[error("{place} is not a place of exported cache mounts but {found}")]
    NotCacheMounts { place: String, found: String },
    #[error("{digest} is damaged: its content is {found}")]
    Damaged { digest: Digest, found: Digest },
    #[error("cannot unpack the cache mount")]
    Unpack { source: Box<snapshot::copy::CopyError> },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error("{0}")]
    Obtain(String),
    #[error("cannot export the files of the image")]
    Snapshot(#[source] snapshot::Error),
}

/// Result of this room.
pub type Result<T, E = ExportError> = std::result::Result<T, E>;

/// Adds what was done to which path.
pub(super) trait IoContext<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|error| ExportError::Io { action, path: path.into(), source: error.into() })
    }
}
