//! Garbage collection: removes what was used least recently until enough is gone, and never what somebody uses.
//!
//! Blobs and the origins of absent ones go while the lease on `index.json` is held, by a rename each: a name given
//! meanwhile either comes first and is seen, or comes later and finds its blob missing. The slow part, deleting, is done
//! when nothing is held any more.
//! Unaware of why the caller wants space.

use std::{fs, io, sync::atomic::Ordering};

use rusqlite::params;

use super::{
    Store,
    error::{IoContext, Result},
    lease::LeaseKind,
    now_unix,
    temporary::Temporary,
    usage::{Object, ObjectKind, digest_of, list},
};

/// A step that nobody asked for in ninety days is forgotten: a row of a few hundred bytes.
const STEP_MEMORY_SECONDS: u64 = 90 * 24 * 3600;

/// What to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Named images, cache mounts and build logs too.
    pub all: bool,
    /// Only what was last used so many seconds ago or longer.
    pub older_than_seconds: Option<u64>,
    /// Stop once the store takes up no more than this.
    pub keep_bytes: Option<u64>,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// How many objects.
    pub objects: u64,
    /// What they took up.
    pub bytes: u64,
    /// How many stayed because they are in use.
    pub in_use: u64,
    /// Names that were taken from images.
    pub names: Vec<String>,
}

impl Store {
    /// Removes the cache, or as much of it as the options say. Named images stay unless `all` is given without
    /// `keep_bytes`: no image loses its name for space alone.
    pub fn prune(&self, options: &PruneOptions) -> Result<Removed> {
        self.sweep_temporary()?;
        let cutoff = now_unix().saturating_sub(options.older_than_seconds.unwrap_or(0));
        let mut removed = Removed::default();
        if options.all && options.keep_bytes.is_none() {
            removed.names = self.untag_older(cutoff)?;
        }
        if options.all {
            // First, so that nothing is kept for the sake of what is forgotten.
            self.forget_all(cutoff)?;
        }
        let is_wanted = |object: &Object| {
            let is_cache = !matches!(object.kind, ObjectKind::CacheMount | ObjectKind::Build | ObjectKind::LayerIndex);
            (is_cache || options.all) && !object.is_named && object.used_unix <= cutoff
        };
        self.remove_until(options.keep_bytes.unwrap_or(0), is_wanted, &mut removed)?;
        Ok(removed)
    }

    /// Brings the store down to `max_bytes`, if what no name needs and nobody uses is enough for that.
    pub fn gc(&self, max_bytes: u64) -> Result<Removed> {
        self.sweep_temporary()?;
        let mut removed = Removed::default();
        self.remove_until(max_bytes, |object| !object.is_named, &mut removed)?;
        Ok(removed)
    }

    /// As [`Store::gc`], but without a look around if nothing was added through this handle.
    pub fn gc_if_grown(&self, max_bytes: u64) -> Result<Removed> {
        if self.0.has_grown.load(Ordering::Relaxed) { self.gc(max_bytes) } else { Ok(Removed::default()) }
    }

    fn remove_until(&self, max_bytes: u64, is_wanted: impl Fn(&Object) -> bool, removed: &mut Removed) -> Result<()> {
        let usage = self.du()?;
        let mut total = usage.total_bytes();
        let mut candidates: Vec<Object> = usage.objects.into_iter().filter(is_wanted).collect();
        // Oldest first; of equal age the larger, and then by path so that runs are alike.
        candidates.sort_by(|one, two| (one.used_unix, two.bytes, &one.path).cmp(&(two.used_unix, one.bytes, &two.path)));
        let mut chosen = Vec::new();
        for object in candidates {
            if total <= max_bytes {
                break;
            }
            let (kind, key) = object.lease();
            if self.try_lease(kind, &key)?.is_none() {
                removed.in_use += 1;
                continue;
            }
            total = total.saturating_sub(object.bytes);
            chosen.push(object);
        }
        if !chosen.is_empty() {
            self.forget_old_steps()?;
        }
        let is_named_once = |object: &Object| matches!(object.kind, ObjectKind::Blob | ObjectKind::Origin);
        let (blobs, trees): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_named_once);
        self.remove_blobs(&blobs, removed)?;
        for object in &trees {
            // Dropped at once: the next one may need the space.
            self.take_away(object, removed)?;
        }
        self.forget_sizes(&trees)
    }

    fn remove_blobs(&self, blobs: &[Object], removed: &mut Removed) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        let mut doomed = Vec::new();
        {
            let _names_stay = self.lease(LeaseKind::File, "index.json")?;
            let named = self.reachable()?;
            for object in blobs {
                if object.path.file_name().and_then(digest_of).is_some_and(|digest| named.contains(&digest)) {
                    continue;
                }
                doomed.extend(self.take_away(object, removed)?);
            }
        }
        drop(doomed);
        Ok(())
    }

    /// Moves an object out of sight if nobody uses it; it is deleted when the result is dropped.
    fn take_away(&self, object: &Object, removed: &mut Removed) -> Result<Option<Temporary>> {
        let (kind, key) = object.lease();
        let Some(_lease) = self.try_lease(kind, &key)? else {
            removed.in_use += 1;
            return Ok(None);
        };
        let path = self.0.root.join(&object.path);
        let temporary = self.temporary("removed")?;
        match fs::rename(&path, temporary.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.at("remove", path)?,
        }
        removed.objects += 1;
        removed.bytes += object.bytes;
        Ok(Some(temporary))
    }

    /// Takes the names from images that are old enough and not in use.
    fn untag_older(&self, cutoff: u64) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.edit_index(|entries| {
            entries.retain(|entry| {
                let used = fs::symlink_metadata(self.blob_path(&entry.digest)).map_or(0, |metadata| {
                    use std::os::unix::fs::MetadataExt;
                    metadata.mtime().max(0) as u64
                });
                let is_free = used <= cutoff && self.try_lease(LeaseKind::Blob, entry.digest.hex()).is_ok_and(|lease| lease.is_some());
                if is_free && let Some(name) = entry.annotations.get(super::IMAGE_NAME).or_else(|| entry.annotations.get(super::REF_NAME)) {
                    names.push(name.clone());
                }
                !is_free
            });
            true
        })?;
        names.dedup();
        Ok(names)
    }

    /// A record outlives its blobs: its snapshot may still be there, and what a step came to once tells the keys of the
    /// steps after it. It goes when nobody has asked for it in a long time.
    fn forget_old_steps(&self) -> Result<()> {
        let cutoff = now_unix().saturating_sub(STEP_MEMORY_SECONDS);
        self.0.database.write(|transaction| {
            transaction.execute("DELETE FROM steps WHERE used < ?1", params![cutoff as i64])?;
            transaction.execute("DELETE FROM step_blobs WHERE key NOT IN (SELECT key FROM steps)", []).map(drop)
        })
    }

    fn forget_sizes(&self, trees: &[Object]) -> Result<()> {
        if trees.is_empty() {
            return Ok(());
        }
        self.0.database.write(|transaction| {
            let mut delete = transaction.prepare("DELETE FROM sizes WHERE path = ?1")?;
            trees.iter().try_for_each(|object| delete.execute([object.path.to_string_lossy()]).map(drop))
        })?;
        self.remove_empty_cache_mounts()
    }

    fn forget_all(&self, cutoff: u64) -> Result<()> {
        self.0.database.write(|transaction| {
            transaction.execute("DELETE FROM steps WHERE used <= ?1", params![cutoff as i64])?;
            transaction.execute("DELETE FROM step_blobs WHERE key NOT IN (SELECT key FROM steps)", [])?;
            transaction.execute("DELETE FROM facts WHERE recorded <= ?1", params![cutoff as i64])?;
            transaction.execute("DELETE FROM remembered WHERE at <= ?1", params![cutoff as i64]).map(drop)
        })
    }

    /// A cache mount without copies is only a file with its id.
    fn remove_empty_cache_mounts(&self) -> Result<()> {
        let top = self.path("cache-mounts");
        for (hash, _) in list(&top)? {
            let Some(_lease) = self.try_lease(LeaseKind::CacheMount, &hash)? else { continue };
            let directory = top.join(&hash);
            if list(&directory)?.iter().any(|(_, metadata)| metadata.is_dir()) {
                continue;
            }
            let temporary = self.temporary("removed")?;
            fs::rename(&directory, temporary.path()).at("remove", directory)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path, path::PathBuf};

    use super::*;
    use crate::{
        oci::{Annotations, Descriptor, Digest, Index, media_type},
        store::{CacheSharing, SnapshotId, StoreError},
    };

    fn store() -> (tempfile::TempDir, PathBuf, Store) {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("store");
        let store = Store::open(&root).unwrap();
        (top, root, store)
    }

    /// An image of one index and one blob, under a name.
    fn put_named(store: &Store, name: &str, content: &[u8]) -> [Digest; 2] {
        let leaf = Descriptor::new("x", store.put_blob(content).unwrap(), content.len() as u64);
        let leaf_digest = leaf.digest.clone();
        let index =
            Index { schema_version: 2, media_type: media_type::OCI_INDEX.into(), manifests: vec![leaf], annotations: Annotations::new() };
        let bytes = index.to_bytes();
        let top = Descriptor::new(media_type::OCI_INDEX, store.put_blob(&bytes).unwrap(), bytes.len() as u64);
        store.tag(&name.parse().unwrap(), &top).unwrap();
        [top.digest, leaf_digest]
    }

    fn put_snapshot(store: &Store, key: &str, size: usize) -> SnapshotId {
        let id = SnapshotId::of_key("test", key);
        let draft = store.new_snapshot().unwrap();
        fs::create_dir(draft.fs().join("closed")).unwrap();
        fs::write(draft.fs().join("closed/file"), vec![1; size]).unwrap();
        fs::set_permissions(draft.fs().join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
        draft.commit(&id).unwrap();
        id
    }

    fn set_age(path: &Path, seconds: u64) {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn names_keep_their_blobs_and_users_keep_theirs() {
        let (_top, root, store) = store();
        let named = put_named(&store, "app", b"named");
        let loose = store.put_blob(b"loose").unwrap();
        store.record_step("loose step", "{}", std::slice::from_ref(&loose)).unwrap();
        store.record_step("named step", "{}", &named).unwrap();
        let id = put_snapshot(&store, "s", 10);
        drop(store);
        let user = Store::open(&root).unwrap();
        let held = user.put_blob(b"held").unwrap();
        let store = Store::open(&root).unwrap();
        let removed = store.prune(&PruneOptions::default()).unwrap();
        assert_eq!((removed.objects, removed.in_use), (2, 1));
        assert!(!store.has_blob(&loose).unwrap());
        // What it came to is known still: its snapshot may be had.
        assert!(store.step("loose step").unwrap().is_some());
        assert!(store.step("named step").unwrap().is_some());
        assert!(store.snapshot(&id).unwrap().is_none());
        assert!(user.has_blob(&held).unwrap());
        for digest in named {
            assert!(store.has_blob(&digest).unwrap());
        }
    }

    #[test]
    fn all_leaves_an_empty_store() {
        let (_top, root, store) = store();
        put_named(&store, "app", b"named");
        put_snapshot(&store, "s", 10);
        store.new_build_log().unwrap().write_report(b"{}").unwrap();
        store.save_stat_cache("x", &[]).unwrap();
        let mount = store.cache_mount::<StoreError>("id", CacheSharing::Shared, |_| Ok(())).unwrap().unwrap();
        fs::write(mount.path().join("file"), "x").unwrap();
        drop((mount, store));
        let store = Store::open(&root).unwrap();
        let removed = store.prune(&PruneOptions { all: true, ..Default::default() }).unwrap();
        assert_eq!(removed.names, ["docker.io/library/app:latest"]);
        assert_eq!(removed.in_use, 0);
        for directory in ["blobs/sha256", "origins", "snapshots", "cache-mounts", "builds", "stat-cache", "tmp"] {
            assert_eq!(list(&store.path(directory)).unwrap().len(), 0, "{directory}");
        }
        assert_eq!(store.images().unwrap(), []);
    }

    #[test]
    fn the_least_recently_used_goes_first_until_it_fits() {
        let (_top, root, store) = store();
        let ids: Vec<_> = (0..4).map(|number| put_snapshot(&store, &format!("s{number}"), 100_000)).collect();
        for (id, age) in ids.iter().zip([10, 4000, 30, 2000]) {
            set_age(&store.snapshot_path(id), age);
        }
        drop(store);
        let store = Store::open(&root).unwrap();
        let total = store.du().unwrap().total_bytes();
        store.gc(total).unwrap();
        assert_eq!(list(&store.path("snapshots")).unwrap().len(), 4);
        store.gc(total - 150_000).unwrap();
        let left: Vec<_> = ids.iter().map(|id| store.snapshot_path(id).exists()).collect();
        assert_eq!(left, [true, false, true, false]);
        store.prune(&PruneOptions { older_than_seconds: Some(20), ..Default::default() }).unwrap();
        let left: Vec<_> = ids.iter().map(|id| store.snapshot_path(id).exists()).collect();
        assert_eq!(left, [true, false, false, false]);
    }

    #[test]
    fn a_step_in_use_keeps_its_blobs_young() {
        let (_top, root, store) = store();
        let blob = store.put_blob(b"layer").unwrap();
        store.record_step("key", "{}", std::slice::from_ref(&blob)).unwrap();
        set_age(&store.blob_path(&blob), 5000);
        drop(store);
        let store = Store::open(&root).unwrap();
        store.prune(&PruneOptions { older_than_seconds: Some(1000), ..Default::default() }).unwrap();
        assert!(store.has_blob(&blob).unwrap());
    }
}
