//! Blobs: bytes under their SHA-256. A blob has no name before its digest and size are known.
//! Unaware of what the bytes mean.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::PathBuf,
};

use super::{
    Store,
    error::{IoContext, Result, StoreError},
    lease::LeaseKind,
    temporary::Temporary,
    touch,
};
use crate::oci::{Descriptor, Digest, Sha256};

/// Bytes on their way to become a blob; hashed as they are written, removed when dropped incomplete.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    temporary: Temporary,
    file: File,
    /// None when whoever writes hashes the same bytes already.
    hasher: Option<Sha256>,
    length: u64,
}

impl BlobWriter {
    /// How many bytes have been written: where a broken transfer goes on.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads what has been written so far, beside the writer.
    pub fn reader(&self) -> Result<File> {
        File::open(self.temporary.path()).at("open", self.temporary.path())
    }

    /// Forgets what was written, for a sender that starts again from the beginning.
    pub fn restart(&mut self) -> Result<()> {
        use std::io::Seek;
        self.file.set_len(0).at("truncate", self.temporary.path())?;
        self.file.rewind().at("rewind", self.temporary.path())?;
        self.hasher = self.hasher.take().map(|_| Sha256::new());
        self.length = 0;
        Ok(())
    }

    /// Leaves the hashing to the caller, who ends with [`BlobWriter::complete_hashed`].
    pub fn hashed_by_caller(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// Names the blob by the digest that the caller has worked out from the very bytes it wrote.
    pub fn complete_hashed(self, digest: &Digest, size: u64) -> Result<()> {
        if self.length != size {
            return Err(StoreError::SizeMismatch { digest: digest.clone(), expected: size, found: self.length });
        }
        self.store.name_blob(&self.temporary, digest, self.length)
    }

    fn found_digest(hasher: Option<Sha256>) -> Digest {
        hasher.expect("only complete_hashed may end a blob that is hashed by the caller").finish()
    }

    /// Names the blob by the digest of what was written.
    pub fn complete(self) -> Result<(Digest, u64)> {
        let digest = Self::found_digest(self.hasher);
        self.store.name_blob(&self.temporary, &digest, self.length)?;
        Ok((digest, self.length))
    }

    /// Names the blob only if it is the one that was promised.
    pub fn complete_verified_as(self, expected: &Digest, size: u64) -> Result<()> {
        if self.length != size {
            return Err(StoreError::SizeMismatch { digest: expected.clone(), expected: size, found: self.length });
        }
        let found = Self::found_digest(self.hasher);
        if found != *expected {
            return Err(StoreError::DigestMismatch { expected: expected.clone(), found });
        }
        self.store.name_blob(&self.temporary, &found, self.length)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..written]);
        }
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store {
    /// Starts a blob.
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let temporary = self.temporary("blob")?;
        let file = File::options().write(true).create_new(true).open(temporary.path()).at("create", temporary.path())?;
        Ok(BlobWriter { store: self.clone(), temporary, file, hasher: Some(Sha256::new()), length: 0 })
    }

    /// Stores bytes that are at hand.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let temporary = self.temporary("blob")?;
        fs::write(temporary.path(), bytes).at("write", temporary.path())?;
        self.name_blob(&temporary, &digest, bytes.len() as u64)?;
        Ok(digest)
    }

    /// Whether the blob is here; if so it stays while this handle lives.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.blob_size(digest)?.is_some())
    }

    /// Whether the very blob is here that a descriptor speaks of, by digest and size.
    pub fn has_described(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blob_size(&descriptor.digest)? == Some(descriptor.size))
    }

    /// The blob's size, None if it isn't here; if it is, it stays while this handle lives.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob_path(digest);
        self.0.leases.hold(LeaseKind::Blob, digest.hex())?;
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                touch(&path).at("touch", path)?;
                Ok(Some(metadata.len()))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("look at", path),
            _ => {
                self.0.leases.release(LeaseKind::Blob, digest.hex());
                Ok(None)
            }
        }
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.blob_size(digest)?.ok_or_else(|| StoreError::MissingBlob { digest: digest.clone() })?;
        let path = self.blob_path(digest);
        File::open(&path).at("open", path)
    }

    /// Opens the blob a descriptor speaks of; one of another size is refused.
    pub fn open_described(&self, descriptor: &Descriptor) -> Result<File> {
        let digest = &descriptor.digest;
        let file = self.open_blob(digest)?;
        let found = file.metadata().at("look at", self.blob_path(digest))?.len();
        if found != descriptor.size {
            return Err(StoreError::SizeMismatch { digest: digest.clone(), expected: descriptor.size, found });
        }
        Ok(file)
    }

    /// Reads a blob of at most `limit` bytes and checks its digest.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        let size = file.metadata().at("look at", &path)?.len();
        if size > limit {
            return Err(StoreError::TooLarge { digest: digest.clone(), size, limit });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(limit).read_to_end(&mut bytes).at("read", path)?;
        let found = Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(StoreError::DigestMismatch { expected: digest.clone(), found }) }
    }

    /// Where a blob is or would be.
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.root.join("blobs/sha256").join(digest.hex())
    }

    fn name_blob(&self, temporary: &Temporary, digest: &Digest, size: u64) -> Result<()> {
        let path = self.blob_path(digest);
        self.0.leases.hold(LeaseKind::Blob, digest.hex())?;
        self.grew();
        match fs::hard_link(temporary.path(), &path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let found = fs::symlink_metadata(&path).at("look at", &path)?;
                if found.is_file() && found.len() == size {
                    return touch(&path).at("touch", path);
                }
                // A power failure left a torn file under this name.
                fs::rename(temporary.path(), &path).at("replace", path)
            }
            // A file system without hard links.
            Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
                fs::rename(temporary.path(), &path).at("name", path)
            }
            Err(error) => Err(error).at("name", path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        (top, store)
    }

    fn temporaries(store: &Store) -> usize {
        fs::read_dir(store.path("tmp")).unwrap().count()
    }

    #[test]
    fn a_blob_is_named_when_it_is_verified() {
        let (_top, store) = store();
        let digest = Digest::of(b"hello");
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"hel").unwrap();
        assert_eq!(writer.length(), 3);
        assert!(!store.has_blob(&digest).unwrap());
        writer.write_all(b"lo").unwrap();
        writer.complete_verified_as(&digest, 5).unwrap();
        assert_eq!(store.read_blob(&digest, 5).unwrap(), b"hello");
        assert_eq!(temporaries(&store), 0);
        assert!(store.has_described(&Descriptor::new("x", digest.clone(), 5)).unwrap());
        assert!(!store.has_described(&Descriptor::new("x", digest.clone(), 6)).unwrap());
        assert!(matches!(store.read_blob(&digest, 4), Err(StoreError::TooLarge { .. })));
    }

    #[test]
    fn other_bytes_than_promised_get_no_name() {
        let (_top, store) = store();
        let digest = Digest::of(b"hello");
        for (bytes, size) in [(b"hellO", 5), (b"hello", 6)] {
            let mut writer = store.blob_writer().unwrap();
            writer.write_all(bytes).unwrap();
            assert!(writer.complete_verified_as(&digest, size).is_err());
        }
        assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 0);
        assert_eq!(temporaries(&store), 0);
    }

    #[test]
    fn a_blob_that_the_writer_hashes_is_named_by_that() {
        let (_top, store) = store();
        for (size, is_whole) in [(5, true), (6, false)] {
            let mut writer = store.blob_writer().unwrap().hashed_by_caller();
            writer.write_all(b"hello").unwrap();
            assert_eq!(writer.complete_hashed(&Digest::of(b"hello"), size).is_ok(), is_whole);
        }
        assert_eq!(store.read_blob(&Digest::of(b"hello"), 5).unwrap(), b"hello");
        assert_eq!(temporaries(&store), 0);
    }

    #[test]
    fn a_restarted_transfer_begins_anew() {
        let (_top, store) = store();
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"garbage that is longer").unwrap();
        writer.restart().unwrap();
        writer.write_all(b"hello").unwrap();
        assert_eq!(writer.complete().unwrap(), (Digest::of(b"hello"), 5));
        assert_eq!(store.read_blob(&Digest::of(b"hello"), 99).unwrap(), b"hello");
    }

    #[test]
    fn a_torn_blob_is_noticed_and_replaced() {
        let (_top, store) = store();
        let digest = store.put_blob(b"hello").unwrap();
        fs::write(store.blob_path(&digest), b"hell").unwrap();
        let descriptor = Descriptor::new("x", digest.clone(), 5);
        assert!(matches!(store.open_described(&descriptor), Err(StoreError::SizeMismatch { .. })));
        assert!(matches!(store.read_blob(&digest, 9), Err(StoreError::DigestMismatch { .. })));
        store.put_blob(b"hello").unwrap();
        assert_eq!(store.read_blob(&digest, 9).unwrap(), b"hello");
    }

    #[test]
    fn a_missing_blob_is_named_in_the_error() {
        let (_top, store) = store();
        let digest = Digest::of(b"nothing");
        assert_eq!(store.open_blob(&digest).unwrap_err().to_string(), format!("blob {digest} is not in the store"));
    }
}
