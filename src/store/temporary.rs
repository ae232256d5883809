//! Names in `tmp/`: each is held by a lease before it exists, so whatever nobody holds is left over from the dead.
//! Unaware of what is made there.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Store,
    error::{IoContext, Result},
    lease::LeaseKind,
};
use crate::sys::{lock::LockMode, remove::remove_tree};

/// A name in `tmp/`; what is there when it is dropped is removed.
#[derive(Debug)]
pub(super) struct Temporary {
    store: Store,
    name: String,
    path: PathBuf,
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What can't be removed now is swept by a later garbage collection.
        let _ = remove_tree(&self.path);
        self.store.0.leases.release(LeaseKind::Temporary, &self.name);
    }
}

/// A directory for as long as its guard lives; after a kill it goes with the next build.
#[derive(Debug)]
pub struct Scratch(Temporary);

impl Scratch {
    /// The directory, ours alone.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Store {
    /// A directory that belongs to nothing of the store.
    pub fn scratch(&self) -> Result<Scratch> {
        let temporary = self.temporary("scratch")?;
        DirBuilder::new().mode(0o700).create(temporary.path()).at("create", temporary.path())?;
        Ok(Scratch(temporary))
    }

    /// A fresh name; nothing is there yet.
    pub(super) fn temporary(&self, prefix: &str) -> Result<Temporary> {
        let name = format!("{prefix}-{}", unique());
        self.0.leases.hold(LeaseKind::Temporary, &name)?;
        let path = self.path("tmp").join(&name);
        Ok(Temporary { store: self.clone(), name, path })
    }

    /// Removes what dead processes left in `tmp/`; returns how many entries.
    pub fn sweep_temporary(&self) -> Result<u64> {
        let directory = self.path("tmp");
        let mut swept = 0;
        for entry in fs::read_dir(&directory).at("list", &directory)? {
            let entry = entry.at("list", &directory)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(_lease) = self.try_lease_as(LeaseKind::Temporary, &name, LockMode::Exclusive)? {
                remove_tree(&entry.path()).at("remove", entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// Differs from every other call on this machine's one store: process, time and a counter.
pub(super) fn unique() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_nanos());
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The process id alone repeats in other pid namespaces that share the store.
    let seed = format!("{} {nanoseconds} {count} {:p}", std::process::id(), &COUNTER);
    blake3::hash(seed.as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let held = store.temporary("held").unwrap();
        fs::create_dir(held.path()).unwrap();
        fs::create_dir_all(store.path("tmp").join("left/over")).unwrap();
        let other = Store::open(store.root()).unwrap();
        assert_eq!(other.sweep_temporary().unwrap(), 1);
        assert!(held.path().exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
