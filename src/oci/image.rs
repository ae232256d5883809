//! An image as a value: its config and its layers. Unaware of where the layers' bytes are.

use super::{Descriptor, DiffId, ImageConfig, Platform};

/// A layer: what a registry calls it and what it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layer {
    /// Digest, size and media type of the (compressed) blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
}

/// An image of one platform. Immutable; `config.rootfs.diff_ids` and `layers` agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the image is for.
    pub platform: Platform,
    /// Config, history and diff ids.
    pub config: ImageConfig,
    /// Bottom first.
    pub layers: Vec<Layer>,
}
