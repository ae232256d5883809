//! Listings of what content digests were made of, by digest: they explain misses. Kept beside the stat caches, and
//! collected like them. Unaware of what a listing says.

use std::{fs, io, path::PathBuf};

use super::{
    Store,
    error::{IoContext, Result},
};

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
