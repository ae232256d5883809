//! Content-addressed blobs, the snapshots' home, step cache, locks, GC. Unaware of registries and of what layers hold.
//!
//! Many processes share one store without a daemon, and each may be killed at any moment. On disk:
//!
//! ```text
//! ROOT/                      0700, owned by us, not a link, not writable by others
//!   oci-layout               \
//!   index.json                > a valid OCI image layout: any OCI tool reads our images in place.
//!   blobs/sha256/<hex>       /  One entry of index.json per name; replaced whole, under an exclusive lease
//!   origins/<hex>            which images of registries have a layer that is not here, though an image of ours has it
//!   snapshots/<id>/fs        a committed root file system or upper directory; never edited
//!   snapshots/<id>/layer.json   the layer it is, when that is known
//!   cache-mounts/<hash>/<n>/data   copy n of the cache mount whose id is in cache-mounts/<hash>/id
//!   builds/<id>/             report.json and steps/<nn>.log of one build
//!   stat-cache/<hash>        digests of files that have not changed since, one file per context
//!   layer-indexes/<hex>      what is in a layer, without the contents, by diff_id: COPY needs no more of its base
//!   stat-cache/listing-<hash>   what one content digest was made of, to name the file that changed
//!   meta.sqlite              step records, facts of earlier builds, what tags pointed at
//!   mount-points/            what a root filesystem without any gets as its lowest layer
//!   tmp/                     what has no name yet
//!   leases                   an empty file; its byte ranges are the locks
//! ```
//!
//! - Nothing has a name in `blobs/` or `snapshots/` before it is complete: it is made in `tmp/` and linked or renamed.
//!   Who loses a race to name the same thing drops its copy and uses the other's.
//! - Files are not synced before they are named: kill -9 loses nothing then, and a power failure is what the sizes
//!   (checked whenever a descriptor is at hand), the digests (checked on every whole read) and `fsck` are for.
//! - A handle holds a shared lease on each blob and snapshot it made, opened or found, until its last clone is dropped.
//!   GC removes only what it gets an exclusive lease on. The kernel gives up the leases of a dead process.
//! - The last use of a blob or snapshot is its modification time; of a step, a column. GC goes by it.
//! - The roots of GC are the names in `index.json`. All else is a cache: its absence is a miss, never an error.
//! - A name may stand for an image of which layers are elsewhere, as long as their origins are here: see `origin`.

mod blob;
mod builds;
mod cache_mount;
mod check;
mod collect;
mod database;
mod error;
mod find;
mod images;
#[cfg(test)]
mod kill_tests;
mod lease;
mod listing;
mod memory;
mod origin;
mod read;
mod snapshot;
mod stat_cache;
mod step;
mod temporary;
mod usage;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

pub use blob::BlobWriter;
pub use builds::BuildDir;
pub use cache_mount::{CacheMountDraft, CacheMountInfo, CacheMountLease, CacheMountLock, CacheSharing};
pub use check::Problem;
pub use collect::{PruneOptions, Removed};
use error::IoContext;
pub use error::{Result, StoreError};
pub use images::{IMAGE_NAME, NamedImage, REF_NAME};
use lease::HeldLeases;
pub use lease::{Lease, LeaseKind};
pub use memory::Remembered;
pub use origin::AbsentLayer;
pub use snapshot::{SnapshotDraft, SnapshotId};
pub use stat_cache::StatRow;
pub use step::{FactsRecord, NewStep, StepRecord};
pub use temporary::Scratch;
pub use usage::{Object, ObjectKind, Usage};

/// What `oci-layout` says.
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An `index.json` without images.
const EMPTY_INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

const DIRECTORIES: [&str; 8] = ["blobs/sha256", "origins", "snapshots", "cache-mounts", "builds", "stat-cache", "layer-indexes", "tmp"];

/// A handle on a store; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    leases: HeldLeases,
    database: database::Database,
    used: step::UsedSteps,
    /// Whether this handle has added anything large.
    has_grown: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // An unwritten time of use only makes a step look older than it is.
        let _ = self.flush_uses();
    }
}

impl Store {
    /// Opens the store at `root`, made if it isn't there. A link, somebody else's directory or one that anybody may
    /// write to is refused.
    pub fn open(root: &Path) -> Result<Self> {
        create_root(root)?;
        let root = root.canonicalize().at("resolve", root)?;
        for name in DIRECTORIES {
            let path = root.join(name);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).at("create", path)?;
        }
        let leases = HeldLeases::open(root.join("leases"))?;
        let database = database::Database::at(root.join("meta.sqlite"), root.join("leases"));
        let inner = Inner { root, leases, database, used: step::UsedSteps::default(), has_grown: AtomicBool::new(false) };
        let store = Self(Arc::new(inner));
        store.create_once("oci-layout", LAYOUT)?;
        store.create_once("index.json", EMPTY_INDEX)?;
        Ok(store)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Notes that a garbage collection may find something to do.
    fn grew(&self) {
        self.0.has_grown.store(true, Ordering::Relaxed);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.root.join(name)
    }

    /// Writes a file that every process would write alike; one that is there stays.
    fn create_once(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        if path.exists() {
            return Ok(());
        }
        let temporary = self.temporary("new")?;
        fs::write(temporary.path(), text).at("write", temporary.path())?;
        match fs::hard_link(temporary.path(), &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            result => result.at("create", path),
        }
    }

    /// A directory of the store's that every process would make alike: whoever needs it first makes it.
    pub fn made_once(&self, name: &str, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            return Ok(path);
        }
        let temporary = self.temporary("new")?;
        fs::create_dir(temporary.path()).and_then(|()| make(temporary.path())).at("make", temporary.path())?;
        match fs::rename(temporary.path(), &path) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            result => result.at("create", &path)?,
        }
        Ok(path)
    }

    /// Replaces a file as a whole: readers see the old or the new one.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = self.temporary("new")?;
        fs::write(temporary.path(), bytes).at("write", temporary.path())?;
        fs::rename(temporary.path(), path).at("replace", path)
    }
}

fn create_root(root: &Path) -> Result<()> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).at("create", root),
        _ => {}
    }
    let metadata = fs::symlink_metadata(root).at("look at", root)?;
    let refuse = |reason| Err(StoreError::Refused { path: root.to_owned(), reason });
    if metadata.is_symlink() {
        return refuse("is a symbolic link");
    }
    if !metadata.is_dir() {
        return refuse("is not a directory");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refuse("is owned by another user");
    }
    if metadata.mode() & 0o002 != 0 {
        return refuse("can be written by everybody");
    }
    Ok(())
}

/// Seconds since 1970; times are kept for ordering and for people, never as content.
fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_secs())
}

/// Marks a blob or snapshot as used now.
fn touch(path: &Path) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_store_that_others_can_tamper_with_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let real = top.path().join("real");
        Store::open(&real).unwrap();
        Store::open(&real).unwrap();
        symlink(&real, top.path().join("link")).unwrap();
        let reason = |name: &str| Store::open(&top.path().join(name)).unwrap_err().to_string();
        assert!(reason("link").ends_with("is a symbolic link"));
        fs::write(top.path().join("file"), "").unwrap();
        assert!(reason("file").ends_with("is not a directory"));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(reason("real").ends_with("can be written by everybody"));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
        if std::os::unix::fs::chown(&real, Some(12345), None).is_ok() {
            assert!(reason("real").ends_with("is owned by another user"));
        } else {
            eprintln!("skipped the other owner: chown needs root");
        }
    }

    #[test]
    fn what_all_would_make_alike_is_made_by_the_first() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let refused = store.made_once("shared", |_| Err(std::io::Error::other("not yet"))).unwrap_err();
        assert!(refused.to_string().contains("make"), "{refused}");
        let race = store.made_once("shared", |path| {
            fs::write(path.join("loser"), "")?;
            store.made_once("shared", |path| fs::write(path.join("winner"), "")).map(drop).map_err(std::io::Error::other)
        });
        assert_eq!(race.unwrap(), store.made_once("shared", |_| panic!("it is there")).unwrap());
        assert!(store.path("shared/winner").exists() && !store.path("shared/loser").exists());
        assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_new_store_is_an_oci_layout() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("a/b/store")).unwrap();
        let index: crate::oci::Index = serde_json::from_slice(&fs::read(store.path("index.json")).unwrap()).unwrap();
        assert!(index.manifests.is_empty());
        assert_eq!(fs::read_to_string(store.path("oci-layout")).unwrap(), LAYOUT);
        assert_eq!(fs::metadata(store.root()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
