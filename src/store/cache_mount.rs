//! Cache mounts: directories that outlive builds. An id only ever becomes a path through its hash; each copy is held by
//! a lease from before it is looked at until its guard is dropped. What is brought from elsewhere is made beside and put in
//! place by one rename. Unaware of what is mounted where.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};

use super::{
    Store,
    error::{IoContext, Result},
    lease::{Lease, LeaseKind},
    temporary::Temporary,
    touch,
    usage::ObjectKind,
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
    /// What they take up on disk.
    pub bytes: u64,
    /// When one was last used, in seconds since 1970.
    pub used_unix: u64,
}

/// The first copy of a cache mount, had alone; there may be none yet.
#[derive(Debug)]
pub struct CacheMountLock {
    store: Store,
    id: String,
    path: PathBuf,
    _lease: Lease,
}

/// A cache mount in the making; removed if it is dropped.
#[derive(Debug)]
pub struct CacheMountDraft(Temporary);

impl CacheMountDraft {
    /// The directory to fill.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

impl CacheMountLock {
    /// Its directory, if there is one.
    pub fn path(&self) -> Option<PathBuf> {
        let data = self.path.join("data");
        data.is_dir().then_some(data)
    }

    /// Puts a finished directory in its place.
    pub fn replace(&self, draft: CacheMountDraft) -> Result<()> {
        let hash = hash_of(&self.id);
        let _lease = self.store.make_place(&self.id, &hash)?;
        match rustix::fs::renameat_with(CWD, draft.0.path(), CWD, &self.path, RenameFlags::EXCHANGE) {
            // What was there is now the draft, and goes with it.
            Ok(()) => {}
            Err(Errno::NOENT) => fs::rename(draft.0.path(), &self.path).at("name", &self.path)?,
            Err(_) => {
                let old = self.store.temporary("removed")?;
                fs::rename(&self.path, old.path()).at("replace", &self.path)?;
                fs::rename(draft.0.path(), &self.path).at("name", &self.path)?;
            }
        }
        touch(&self.path).at("touch", &self.path)?;
        self.store.grew();
        Ok(())
    }
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

    /// Takes the first copy of a cache mount alone, unless somebody has it.
    pub fn lock_cache_mount(&self, id: &str) -> Result<Option<CacheMountLock>> {
        let hash = hash_of(id);
        let lease = self.try_lease_as(LeaseKind::CacheMount, &copy_key(&hash, 0), LockMode::Exclusive)?;
        let lock = |lease| CacheMountLock { store: self.clone(), id: id.to_owned(), path: self.copy_path(&hash, 0), _lease: lease };
        Ok(lease.map(lock))
    }

    /// An empty directory that can become a cache mount.
    pub fn new_cache_mount(&self) -> Result<CacheMountDraft> {
        let temporary = self.temporary("cache")?;
        let data = temporary.path().join("data");
        DirBuilder::new().mode(0o700).create(temporary.path()).at("create", temporary.path())?;
        DirBuilder::new().mode(0o755).create(&data).at("create", &data)?;
        Ok(CacheMountDraft(temporary))
    }

    /// The cache mounts there are, sorted by id.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMountInfo>> {
        let mut list: Vec<CacheMountInfo> = Vec::new();
        for object in self.du_of(ObjectKind::CacheMount)? {
            // One that is being removed or made has no id yet.
            let directory = self.path("").join(&object.path);
            let Some(Ok(id)) = directory.parent().map(|parent| fs::read_to_string(parent.join("id"))) else { continue };
            match list.iter_mut().find(|known| known.id == id) {
                Some(known) => {
                    (known.copies, known.bytes) = (known.copies + 1, known.bytes + object.bytes);
                    known.used_unix = known.used_unix.max(object.used_unix);
                }
                None => list.push(CacheMountInfo { id, copies: 1, bytes: object.bytes, used_unix: object.used_unix }),
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
        let _lease = self.make_place(id, hash)?;
        let draft = self.new_cache_mount()?;
        fill(&draft.path())?;
        match fs::rename(draft.0.path(), path) {
            // Another sharer was first.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
            result => Ok(result.at("name", path)?),
        }
    }

    /// Makes the directory of a cache mount's copies. The lease is against a garbage collection that takes the last copy and
    /// then the directory.
    fn make_place(&self, id: &str, hash: &str) -> Result<Lease> {
        let lease = self.lease_as(LeaseKind::CacheMount, hash, LockMode::Shared)?;
        let parent = self.path("cache-mounts").join(hash);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).at("create", &parent)?;
        self.create_once(&format!("cache-mounts/{hash}/id"), id)?;
        Ok(lease)
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
    fn what_is_brought_from_elsewhere_takes_the_place_as_a_whole() {
        let (_top, store) = store();
        let bring = |text: &str| {
            let draft = store.new_cache_mount().unwrap();
            fs::write(draft.path().join(text), text).unwrap();
            store.lock_cache_mount("x").unwrap().expect("it is free").replace(draft).unwrap();
        };
        let names = || {
            let mount = take(&store, "x", CacheSharing::Shared);
            let entries = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            entries.collect::<Vec<_>>()
        };
        bring("new");
        assert_eq!(names(), ["new"]);
        bring("newer");
        assert_eq!(names(), ["newer"]);
        let user = take(&store, "x", CacheSharing::Shared);
        assert!(store.lock_cache_mount("x").unwrap().is_none());
        drop(user);
        let infos = store.cache_mounts().unwrap();
        assert!(infos.len() == 1 && infos[0].copies == 1 && infos[0].bytes > 0, "{infos:?}");
        assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
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
