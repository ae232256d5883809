//! The build context: walk, ignore, stat cache, content digests; git and http sources. Unaware of Dockerfiles and the store.

mod archive;
mod error;
mod file_digests;
pub mod git;
pub mod http;
mod kept;
mod local;
mod redact;
mod temporary;
#[cfg(test)]
mod testing;

pub use archive::{StreamContext, UnpackedContext, is_archive, read_stream, unpack};
pub use error::ContextError;
pub use file_digests::{DigestCounts, FileDigest, FileDigests};
pub use local::{DockerfileSource, LocalContext, SourceText, read_dockerfile_in};
pub use redact::redact_url;
pub use temporary::TemporaryTree;
