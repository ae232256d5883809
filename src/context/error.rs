//! What can go wrong between a source of a build and its bytes. Unaware of how it is shown.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{git::GitError, http::HttpError};
use crate::{oci::tar::ArchiveError, sys::walk::WalkError};

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The kernel refused something about one path.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb: "open", "read".
        action: &'static str,
        /// The path it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The context is not a directory.
    #[error("the build context {} is not a directory", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// There is no Dockerfile.
    #[error("failed to read dockerfile: {} does not exist", path.display())]
    NoDockerfile {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The Dockerfile or ignore file is something that can't be read as text.
    #[error("failed to read {what}: {} is {found}", path.display())]
    NotAFile {
        /// "dockerfile" or "ignore file".
        what: &'static str,
        /// The path as given.
        path: PathBuf,
        /// "a directory", "a named pipe".
        found: &'static str,
    },
    /// A link leads out of what the build was given.
    #[error("failed to read {what}: {} is a symbolic link that leads out of the build context", path.display())]
    LeadsOut {
        /// "dockerfile" or "ignore file".
        what: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// A text file of unreasonable size.
    #[error("failed to read {what}: {} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// "dockerfile" or "ignore file".
        what: &'static str,
        /// The path as given.
        path: PathBuf,
        /// The bound.
        limit_bytes: u64,
    },
    /// A Dockerfile holds bytes that are no text.
    #[error("failed to read {what}: {} is not UTF-8 text", path.display())]
    NotText {
        /// "dockerfile" or "ignore file".
        what: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// An archive that is damaged or refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file from the web.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A tree from git.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A directory could not be listed.
    #[error("cannot read the build context at {}", path.display())]
    Walk {
        /// Relative to the context.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ContextError {
    /// For `map_err`: what was tried, on which path.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: source.into() }
    }
}

impl From<WalkError> for ContextError {
    fn from(error: WalkError) -> Self {
        Self::Walk { path: error.path, source: error.source }
    }
}
