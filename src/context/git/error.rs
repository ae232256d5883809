//! What can go wrong with a git source. No text in here holds credentials.

use std::{io, path::PathBuf};

/// An error of a git source.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// Not a remote that is allowed.
    #[error("invalid git remote {remote}: {problem}")]
    Remote {
        /// Redacted.
        remote: String,
        /// What is wrong.
        problem: String,
    },
    /// Not the name of a branch, tag or commit.
    #[error("invalid git ref `{}`", reference.escape_debug())]
    Reference {
        /// As written.
        reference: String,
    },
    /// Not a commit or the beginning of one.
    #[error("invalid checksum {} for Git source, expected hex commit hash", checksum.escape_debug())]
    Checksum {
        /// As written.
        checksum: String,
    },
    /// The remote has no such branch, tag or commit.
    #[error("repository does not contain ref {reference}")]
    NoReference {
        /// As written; `HEAD` when none was.
        reference: String,
    },
    /// The ref is at another commit than stated.
    #[error("expected checksum to match {expected}, got {found}")]
    Mismatch {
        /// As stated.
        expected: String,
        /// What the ref is at.
        found: String,
    },
    /// The subdirectory is missing, a file, or behind a link.
    #[error("repository does not contain directory {} at {commit}", subdirectory.display())]
    Subdirectory {
        /// As written.
        subdirectory: PathBuf,
        /// The commit looked at.
        commit: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// git said no.
    #[error("git {action} failed for {remote}: {message}")]
    Failed {
        /// `fetch`, `checkout`.
        action: String,
        /// Redacted.
        remote: String,
        /// The last lines of what git printed, without credentials.
        message: String,
    },
    /// git took too long.
    #[error("git {action} for {remote} took more than {seconds} s")]
    TooSlow {
        /// `fetch`, `checkout`.
        action: String,
        /// Redacted.
        remote: String,
        /// The bound.
        seconds: u64,
    },
    /// git isn't there.
    #[error("cannot run git, which contexts and ADD from git need")]
    NoGit(#[source] io::Error),
    /// Offline, and the cache does not have it.
    #[error("cannot fetch {remote} offline: {reference} is not in the cache")]
    Offline {
        /// Redacted.
        remote: String,
        /// As written; `HEAD` when none was.
        reference: String,
    },
    /// The cache or the checkout can't be written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl GitError {
    /// For `map_err`: what was tried, on which path.
    pub(super) fn io<E: Into<io::Error>>(action: &'static str, path: &std::path::Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: source.into() }
    }
}
