//! Layers <-> root filesystems: apply, diff, copy, tar; overlay and native snapshotters. Unaware of Dockerfiles, registries, processes.

mod ahead;
mod apply;
pub mod archive;
mod compress;
pub mod copy;
mod copy_up;
mod diff;
mod disk;
mod error;
mod estargz;
mod flatten;
mod implied;
mod layer_writer;
pub mod layered;
mod merge;
mod merged;
mod probe;
mod snapshotter;
mod write_layer;
mod write_sketch;

pub use crate::oci::tar::{Decompressed, Encoding, Entry, EntryKind, Limits, TarReader, TarWriter, Timestamp, Xattrs, decompress};
pub use ahead::Ahead;
pub use apply::{ApplyOptions, ApplyReport, Below, Ownership, apply_layer};
pub use compress::{CompressPool, Compression, LAYER_FORMAT};
pub use diff::{Change, ChangeKind, diff_overlay, diff_sketch, diff_trees};
pub use disk::is_empty;
pub use error::Error;
pub use estargz::{NO_PREFETCH_LANDMARK, TOC_DIGEST, TOC_NAME, write_estargz, write_estargz_of};
pub use flatten::{copy_merged, write_merged, write_tree};
pub use layer_writer::{LayerBlob, LayerWriter};
pub use merge::merge_tree;
pub use merged::MergedDir;
pub use probe::overlay_works;
pub use snapshotter::{Native, Overlay, Root, Snapshotter, inherit_root};
pub use write_layer::{LayerStats, TimestampPolicy, write_layer};
pub use write_sketch::{KnownDigest, Questions, write_sketch};

#[cfg(test)]
mod tests;
