//! `Image` -> destination: registry, OCI layout, docker archive, tar, local, cache. Unaware of plans and sandboxes.
//!
//! An image is first assembled in the store ([`write_image`]): that alone fixes its digest. Every other destination is
//! a copy of what is there, so all of them agree. The same image, names and time always give the same bytes: entries
//! are sorted, headers fixed. A file appears under its name only when it is whole.

mod archive;
mod attest;
mod cache_mount;
mod compare;
mod destination;
mod directory;
mod error;
mod import;
mod inventory;
mod layout;
mod listing;
mod manifest;
mod meter;
mod push;
mod rootfs;
#[cfg(test)]
mod testing;
mod unnamed;

pub use archive::{write_docker_archive, write_oci_archive};
pub use attest::{STATEMENT_TYPE, has_statement, is_attestation, list_referrer, write_attestation, write_index_attestation};
pub use cache_mount::{Depot, Moved as MovedCacheMount, export_cache_mount, exported as exported_cache_mounts, import_cache_mount};
pub use compare::{Differences, FileDifference, compare, kind_name};
pub use destination::{FileDestination, write_file};
pub use directory::{lend_oci_directory, lent_name, write_oci_directory};
pub use error::{ExportError, Result};
pub use import::{fetch_blob, fetch_layers, import_archive, import_layout, import_manifests, import_metadata};
pub use inventory::inventory;
pub use layout::{LayoutOptions, manifests};
pub use listing::{Hidden, LayerFacts, Listed, Listing, list};
pub use manifest::{ImageOptions, write_image, write_index, write_manifest};
pub use meter::Meter;
pub use push::{Listener as PushListener, Obtain, PushEvent, Pusher};
pub use rootfs::{RootfsTree, empty_directory, write_rootfs_directory, write_rootfs_tar};
