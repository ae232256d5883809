//! What can go wrong with a file from the web. No URL in here holds credentials.

use std::{io, path::PathBuf};

use crate::oci::Checksum;

/// An error of a download.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not an http or https URL.
    #[error("invalid URL {url}: {problem}")]
    Url {
        /// Redacted.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// An address that would give the machine's own credentials away.
    #[error("refused to fetch {url}: link-local addresses, where clouds keep the credentials of their machines, are not allowed")]
    LinkLocal {
        /// Redacted.
        url: String,
    },
    /// No connection, no answer, or a redirect that is refused.
    #[error("failed to fetch {url}")]
    Request {
        /// Redacted.
        url: String,
        /// Without URL.
        source: reqwest::Error,
    },
    /// The server said no.
    #[error("failed to fetch {url}: invalid response status {status}")]
    Status {
        /// Redacted.
        url: String,
        /// As sent.
        status: u16,
    },
    /// The bytes broke off or could not be kept.
    #[error("failed to read {url}")]
    Body {
        /// Redacted.
        url: String,
        /// What happened.
        source: io::Error,
    },
    /// More than allowed.
    #[error("{url} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// Redacted.
        url: String,
        /// The bound.
        limit_bytes: u64,
    },
    /// Not the bytes that the Dockerfile states.
    #[error("digest mismatch {found}: {expected}")]
    Mismatch {
        /// What was stated.
        expected: Checksum,
        /// What came.
        found: Checksum,
    },
    /// Offline, and nothing in the cache.
    #[error("cannot fetch {url} offline: it is not in the cache")]
    Offline {
        /// Redacted.
        url: String,
    },
    /// A secret that can't be a header.
    #[error("the secret {id} cannot be sent as an Authorization header")]
    Secret {
        /// Its id.
        id: String,
    },
    /// The client could not be set up.
    #[error("cannot set up the http client")]
    Client(#[source] reqwest::Error),
    /// The cache directory can't be used.
    #[error("cannot use the download cache {}", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
