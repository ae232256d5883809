//! Who uses what: leases on objects, held through byte locks on one file, so that those of a dead process vanish.
//!
//! A `Store` holds a shared lease on each blob, snapshot and temporary name that it made, opened or found, until its
//! last clone is dropped; garbage collection takes an exclusive one before it removes anything. An exclusive [`Lease`]
//! also serves as single flight: two builds that need the same step build it once.
//! Unaware of what the objects are.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use super::{
    Store,
    error::{IoContext, Result},
};
use crate::sys::lock::{LockFile, LockMode};

/// What a lease is on. Kinds keep equal keys apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum LeaseKind {
    Blob,
    Snapshot,
    /// A name in `tmp/`.
    Temporary,
    /// A step that is being built.
    Step,
    /// A pull of one blob, a manifest that is being resolved, ..: anything to be done once by many.
    Task,
    CacheMount,
    Build,
    /// A file that is replaced as a whole, such as `index.json`.
    File,
}

/// An exclusive or shared hold on one object; given up when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lease {
    _file: LockFile,
}

/// The shared leases of one store handle, all through one open file.
#[derive(Debug)]
pub(super) struct HeldLeases {
    file: LockFile,
    path: PathBuf,
    /// How often each byte was taken here; locks of one open file don't count.
    counts: Mutex<HashMap<i64, u32>>,
}

impl HeldLeases {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let file = LockFile::open(&path).at("open", &path)?;
        Ok(Self { file, path, counts: Mutex::default() })
    }

    /// Shares in an object until this handle ends or `release` is called as often. Waits only for a remover.
    pub(super) fn hold(&self, kind: LeaseKind, key: &str) -> Result<()> {
        let byte = byte_of(kind, key);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(byte).or_insert(0);
        if *count == 0 {
            self.file.lock(byte, LockMode::Shared).at("lock", &self.path)?;
        }
        *count += 1;
        Ok(())
    }

    pub(super) fn release(&self, kind: LeaseKind, key: &str) {
        let byte = byte_of(kind, key);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&byte) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                counts.remove(&byte);
                // A lease that can't be given back is given back at exit.
                let _ = self.file.unlock(byte);
            }
            None => {}
        }
    }

    /// A lock file of its own, whose holds this process's other holds exclude too.
    fn separate(&self) -> Result<LockFile> {
        LockFile::open(&self.path).at("open", &self.path)
    }
}

impl Store {
    /// Takes an object alone if nobody holds it.
    pub fn try_lease(&self, kind: LeaseKind, key: &str) -> Result<Option<Lease>> {
        self.try_lease_as(kind, key, LockMode::Exclusive)
    }

    /// Takes an object alone, waiting for others to give it up. Blocks the thread.
    pub fn lease(&self, kind: LeaseKind, key: &str) -> Result<Lease> {
        self.lease_as(kind, key, LockMode::Exclusive)
    }

    pub(super) fn try_lease_as(&self, kind: LeaseKind, key: &str, mode: LockMode) -> Result<Option<Lease>> {
        let file = self.0.leases.separate()?;
        let taken = file.try_lock(byte_of(kind, key), mode).at("lock", &self.0.leases.path)?;
        Ok(taken.then_some(Lease { _file: file }))
    }

    pub(super) fn lease_as(&self, kind: LeaseKind, key: &str, mode: LockMode) -> Result<Lease> {
        let file = self.0.leases.separate()?;
        file.lock(byte_of(kind, key), mode).at("lock", &self.0.leases.path)?;
        Ok(Lease { _file: file })
    }
}

/// The byte that stands for an object. Two objects on one byte would only wait for each other.
pub(super) fn byte_of(kind: LeaseKind, key: &str) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(key.as_bytes());
    let first: [u8; 8] = hasher.finalize().as_bytes()[..8].try_into().expect("eight of 32 bytes");
    // A quarter of the range of offsets: start + length never overflows.
    (u64::from_le_bytes(first) >> 2) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lease_excludes_other_handles_and_this_one() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let other = Store::open(&top.path().join("store")).unwrap();
        let lease = store.lease(LeaseKind::Step, "key").unwrap();
        assert!(store.try_lease(LeaseKind::Step, "key").unwrap().is_none());
        assert!(other.try_lease(LeaseKind::Step, "key").unwrap().is_none());
        assert!(other.try_lease(LeaseKind::Task, "key").unwrap().is_some());
        let waiter = std::thread::spawn(move || other.lease(LeaseKind::Step, "key").map(drop));
        drop(lease);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn a_hold_ends_with_its_last_release() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        store.0.leases.hold(LeaseKind::Blob, "b").unwrap();
        store.0.leases.hold(LeaseKind::Blob, "b").unwrap();
        store.0.leases.release(LeaseKind::Blob, "b");
        assert!(store.try_lease(LeaseKind::Blob, "b").unwrap().is_none());
        store.0.leases.release(LeaseKind::Blob, "b");
        assert!(store.try_lease(LeaseKind::Blob, "b").unwrap().is_some());
    }
}
