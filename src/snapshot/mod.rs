//! Layers <-> root filesystems: apply, diff, copy, tar; overlay and native snapshotters. Unaware of Dockerfiles, registries, processes.

mod decompress;
mod error;
mod pax;
mod tar_reader;

pub use decompress::{Decompressed, Encoding, decompress};
pub use error::Error;
pub use tar_reader::{Entry, EntryKind, Limits, TarReader, Timestamp};
