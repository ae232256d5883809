//! What can go wrong between a layer and a root filesystem.
//! Unaware of how it is shown.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::oci::tar::ArchiveError;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something about one path.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb: "create", "read the attributes of".
        action: &'static str,
        /// The path inside the root filesystem.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The archive's bytes could not be had, or it asks for something that is refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The layer's bytes could not be put where they belong.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// A file changed while it was read into a layer.
    #[error("{} changed while it was read: {found} bytes, it had {expected}", path.display())]
    Changed {
        /// The path inside the root filesystem.
        path: PathBuf,
        /// Its size when the entry was begun.
        expected: u64,
        /// Bytes that could be read.
        found: u64,
    },
    /// A root filesystem could not be put together.
    #[error("cannot mount the root filesystem: {step}")]
    Mount {
        /// Which call, with what.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried, on which path.
    pub fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source: source.into() }
    }

    /// An archive's entry that is refused.
    pub fn archive(entry: &[u8], problem: impl Into<String>) -> Error {
        ArchiveError::archive(entry, problem).into()
    }
}
