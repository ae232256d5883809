//! The build context: walk, ignore, stat cache, content digests; git and http sources. Unaware of Dockerfiles and the store.
//!
//! | File | Job |
//! |---|---|
//! | `local` | a directory of the user's; the Dockerfile and ignore file in it or beside it |
//! | `kept` | what the ignore file leaves of it |
//! | `file_digests` | digests of files' bytes, remembered while nothing can have changed |
//! | `archive` | a context on stdin or by URL: a tar archive, or a plain Dockerfile |
//! | [`http`] | downloads, kept and revalidated |
//! | [`git`] | trees of repositories |
//! | `caches` | what downloads and repositories take up, and removing them |
//!
//! Everything from outside lies in a directory of its own that goes with its guard, and is read beneath a root descriptor.

mod archive;
mod caches;
mod error;
mod file_digests;
pub mod git;
pub mod http;
mod kept;
mod local;
mod temporary;
#[cfg(test)]
mod testing;

pub use crate::dockerfile::redact::redact_url;
pub use archive::{StreamContext, UnpackedContext, is_archive, newest_entry, read_stream, unpack};
pub use caches::{CachedSource, cached_sources, remove_cached_source};
pub use error::ContextError;
pub use file_digests::{DigestCounts, FileDigest, FileDigests};
pub use local::{DockerfileSource, LocalContext, SourceText, read_dockerfile_in};
pub use temporary::TemporaryTree;
