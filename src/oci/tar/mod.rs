//! Tar archives as streams, the form of layers and of contexts: read with suspicion, through whatever compressed them.
//! Unaware of file systems.

mod decompress;
mod error;
pub(crate) mod pax;
mod reader;

pub use decompress::{Decompressed, Encoding, decompress};
pub use error::ArchiveError;
pub use reader::{Entry, EntryKind, Limits, TarReader, Timestamp, Xattrs};
