//! Values of the OCI image and distribution specifications: references, digests, platforms, manifests, configs.
//! They parse and print, nothing else. Unaware of where bytes live.
//!
//! Whatever is serialised to a digest is our own struct with ordered maps and unknown fields kept, because
//! `oci-spec` keeps labels and annotations in a `HashMap` and drops Docker's additions to the config.

mod checksum;
mod config;
mod digest;
mod image;
mod manifest;
mod platform;
mod reference;
pub mod tar;

pub use checksum::{Checksum, ChecksumError, ChecksumHasher};
pub use config::{ContainerConfig, Empty, HealthConfig, History, ImageConfig, RootFs};
pub use digest::{ChainId, DiffId, Digest, DigestError, Sha256};
pub use image::{Image, Layer};
pub use manifest::{Annotations, Descriptor, Index, Manifest, MediaType, media_type};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
