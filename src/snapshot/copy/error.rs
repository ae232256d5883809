//! What can go wrong when files are put into a root filesystem, in the words BuildKit's users know.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A failed COPY, ADD, WORKDIR or owner look-up.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source without wildcards that does not exist, or that the ignore file hides.
    #[error("\"{}\": not found", path.display())]
    NotFound {
        /// As written, from the root of its source.
        path: PathBuf,
    },
    /// A directory meets something else at its destination.
    #[error("cannot copy to non-directory: {}", path.display())]
    NotADirectory {
        /// In the root filesystem.
        path: PathBuf,
    },
    /// A file meets a directory at its destination.
    #[error("cannot replace to directory {} with file", path.display())]
    ReplacesDirectory {
        /// In the root filesystem.
        path: PathBuf,
    },
    /// Directories inside directories, beyond any sense.
    #[error("directories are nested too deeply at {}", path.display())]
    TooDeep {
        /// In the source.
        path: PathBuf,
    },
    /// A source that is no pattern.
    #[error("invalid pattern {pattern}: {problem}")]
    BadPattern {
        /// As written.
        pattern: String,
        /// A sentence.
        problem: String,
    },
    /// `--chown` of a name where there is no root filesystem to look it up in.
    #[error("invalid user index: -1")]
    NoUserDatabase,
    /// An archive that cannot be read to its end.
    #[error("cannot read the archive")]
    Archive {
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Anything the file system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// As a verb: "mkdir".
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Says what was done to which path when an input or output failed.
pub(crate) trait Context<T> {
    fn while_doing(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, CopyError>;
}

impl<T> Context<T> for io::Result<T> {
    fn while_doing(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, CopyError> {
        self.map_err(|source| CopyError::Io { action, path: path.as_ref().to_owned(), source })
    }
}
