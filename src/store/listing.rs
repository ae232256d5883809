//! Listings of what content digests were made of, by digest: they explain misses. Kept beside the stat caches, and
//! collected like them. Indexes of layers, by diff_id: a prune leaves them, as they stand for downloads of hundreds of
//! their size. Unaware of what either says.

use std::{fs, io, path::PathBuf};

use super::{
    Store,
    error::{IoContext, Result},
    touch,
};
use crate::oci::DiffId;

impl Store {
    /// Keeps a listing; one that is there is the same.
    pub fn save_listing(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        let path = self.listing_path(digest);
        if path.exists() { Ok(()) } else { self.replace(&path, bytes) }
    }

    /// The listing of a digest, if it is still here.
    pub fn listing(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let path = self.listing_path(digest);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).at("read", path),
        }
    }

    /// Keeps the index of a layer.
    pub fn save_layer_index(&self, layer: &DiffId, bytes: &[u8]) -> Result<()> {
        self.replace(&self.layer_index_path(layer), bytes)
    }

    /// The index of a layer, if there is one.
    pub fn layer_index(&self, layer: &DiffId) -> Result<Option<Vec<u8>>> {
        let path = self.layer_index_path(layer);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", path),
            Ok(bytes) => {
                // What is used is collected last; somebody else's store may not let us say so.
                let _ = touch(&path);
                Ok(Some(bytes))
            }
        }
    }

    fn layer_index_path(&self, layer: &DiffId) -> PathBuf {
        self.path("layer-indexes").join(layer.0.hex())
    }

    fn listing_path(&self, digest: &str) -> PathBuf {
        self.path("stat-cache").join(format!("listing-{}", blake3::hash(digest.as_bytes()).to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_found_by_its_digest() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        assert_eq!(store.listing("a").unwrap(), None);
        store.save_listing("a", b"one").unwrap();
        assert_eq!(store.listing("a").unwrap().unwrap(), b"one");
        assert_eq!(store.listing("b").unwrap(), None);
    }
}
