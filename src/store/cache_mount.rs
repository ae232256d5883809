//! Cache mounts: directories that outlive builds. An id only ever becomes a path through its hash; each copy is held by
//! a lease from before it is looked at until its guard is dropped. Unaware of what is mounted where.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::{
    Store,
    error::{IoContext, Result},
    lease::{Lease, LeaseKind},
    touch,
};
use crate::sys::lock::LockMode;

/// How writers share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheSharing {
    /// All at once in one copy.
    #[default]
    Shared,
    /// Each in a copy of its own; copies are reused.
    Private,
    /// One after the other.
    Locked,
}

/// A cache mount in use; given back when dropped.
#[derive(Debug)]
pub struct CacheMountLease {
    path: PathBuf,
    _lease: Lease,
}

/// A cache mount that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMountInfo {
    /// The id, as the Dockerfile or the command line says it.
    pub id: String,
    /// How many copies there are; `sharing=private` makes more than one.
    pub copies: u64,
}

impl CacheMountLease {
    /// The directory to mount.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Takes a cache mount unless another user's hold forbids it. One that isn't there yet is made by `fill` (an empty
    /// directory is what `fill` starts from; if it fails, nothing stays).
    pub fn cache_mount<E: From<super::StoreError>>(
        &self,
        id: &str,
        sharing: CacheSharing,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMountLease>, E> {
        let hash = hash_of(id);
        let Some((copy, lease)) = self.take_copy(&hash, sharing)? else { return Ok(None) };
        let path = self.copy_path(&hash, copy);
        if !path.exists() {
            self.make_copy(id, &hash, &path, fill)?;
        }
        touch(&path).at("touch", &path)?;
        self.grew();
        Ok(Some(CacheMountLease { path: path.join("data"), _lease: lease }))
    }

    /// The cache mounts there are, sorted by id.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountInfo>> {
        let top = self.path("cache-mounts");
        let mut list = Vec::new();
        for entry in fs::read_dir(&top).at("list", &top)? {
            let path = entry.at("list", &top)?.path();
            // One that is being removed or made has no id yet, or no copy.
            let Ok(id) = fs::read_to_string(path.join("id")) else { continue };
            let copies = fs::read_dir(&path).map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count() as u64);
            if copies > 0 {
                list.push(CacheMountInfo { id, copies });
            }
        }
        list.sort_by(|one, two| one.id.cmp(&two.id));
        Ok(list)
    }

    fn take_copy(&self, hash: &str, sharing: CacheSharing) -> Result<Option<(u64, Lease)>> {
        let mode = if sharing == CacheSharing::Shared { LockMode::Shared } else { LockMode::Exclusive };
        let mut copy = 0;
        loop {
            if let Some(lease) = self.try_lease_as(LeaseKind::CacheMount, &copy_key(hash, copy), mode)? {
                return Ok(Some((copy, lease)));
            }
            if sharing != CacheSharing::Private {
                return Ok(None);
            }
            copy += 1;
        }
    }

    fn make_copy<E: From<super::StoreError>>(
        &self,
        id: &str,
        hash: &str,
        path: &Path,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        // Against a garbage collection that takes the last copy and then the parent.
        let _lease = self.lease_as(LeaseKind::CacheMount, hash, LockMode::Shared)?;
        let parent = self.path("cache-mounts").join(hash);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).at("create", &parent)?;
        self.create_once(&format!("cache-mounts/{hash}/id"), id)?;
        let temporary = self.temporary("cache")?;
        let data = temporary.path().join("data");
        DirBuilder::new().mode(0o700).create(temporary.path()).at("create", temporary.path())?;
        DirBuilder::new().mode(0o755).create(&data).at("create", &data)?;
        fill(&data)?;
        match fs::rename(temporary.path(), path) {
            // Another sharer was first.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
            result => Ok(result.at("name", path)?),
        }
    }

    fn copy_path(&self, hash: &str, copy: u64) -> PathBuf {
        self.path("cache-mounts").join(hash).join(copy.to_string())
    }
}

/// Ids come from Dockerfiles: never part of a path themselves.
fn hash_of(id: &str) -> String {
    blake3::hash(id.as_bytes()).to_hex().to_string()
}

pub(super) fn copy_key(hash: &str, copy: impl std::fmt::Display) -> String {
    format!("{hash}/{copy}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    fn store() -> (tempfile::TempDir, Store) {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        (top, store)
    }

    fn take(store: &Store, id: &str, sharing: CacheSharing) -> CacheMountLease {
        store.cache_mount::<StoreError>(id, sharing, |_| Ok(())).unwrap().expect("it is free")
    }

    #[test]
    fn contents_last_and_ids_stay_apart() {
        let (_top, store) = store();
        let evil = "../../../../etc";
        fs::write(take(&store, "go", CacheSharing::Shared).path().join("file"), "kept").unwrap();
        assert!(take(&store, evil, CacheSharing::Shared).path().starts_with(store.path("cache-mounts")));
        assert_eq!(fs::read_to_string(take(&store, "go", CacheSharing::Locked).path().join("file")).unwrap(), "kept");
        let ids: Vec<_> = store.cache_mounts().unwrap().into_iter().map(|info| info.id).collect();
        assert_eq!(ids, [evil, "go"]);
    }

    #[test]
    fn private_takes_a_free_copy_or_makes_one() {
        let (_top, store) = store();
        let one = take(&store, "x", CacheSharing::Private);
        let two = take(&store, "x", CacheSharing::Private);
        assert_ne!(one.path(), two.path());
        let path = one.path().to_owned();
        drop(one);
        assert_eq!(take(&store, "x", CacheSharing::Private).path(), path);
    }

    #[test]
    fn shared_is_shared_and_locked_is_had_alone() {
        let (_top, store) = store();
        let one = take(&store, "x", CacheSharing::Shared);
        let two = take(&store, "x", CacheSharing::Shared);
        assert_eq!(one.path(), two.path());
        let other = Store::open(store.root()).unwrap();
        let try_lock = || other.cache_mount::<StoreError>("x", CacheSharing::Locked, |_| Ok(())).unwrap();
        fs::write(one.path().join("file"), "written before").unwrap();
        drop(one);
        assert!(try_lock().is_none());
        drop(two);
        let locked = try_lock().expect("nobody has it");
        assert_eq!(fs::read_to_string(locked.path().join("file")).unwrap(), "written before");
        assert!(store.cache_mount::<StoreError>("x", CacheSharing::Shared, |_| Ok(())).unwrap().is_none());
    }

    #[test]
    fn a_mount_that_could_not_be_filled_is_not_there() {
        let (_top, store) = store();
        let fail = |path: &Path| {
            fs::write(path.join("half"), "").unwrap();
            Err(StoreError::NoSuchBuild { text: "test".into() })
        };
        assert!(store.cache_mount("x", CacheSharing::Shared, fail).is_err());
        assert_eq!(fs::read_dir(take(&store, "x", CacheSharing::Shared).path()).unwrap().count(), 0);
    }
}
