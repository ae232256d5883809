//! Tar archives as streams, the form of layers and of contexts: read with suspicion, through whatever compressed them; written as Go writes them.
//! Unaware of file systems.

mod decompress;
mod error;
mod pax;
mod reader;
mod writer;

pub use decompress::{Decompressed, Encoding, decompress};
pub use error::ArchiveError;
pub use reader::{Entry, EntryKind, Limits, TarReader, Timestamp, Xattrs};
pub use writer::TarWriter;

#[cfg(test)]
mod tests;
