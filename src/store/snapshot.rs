//! The snapshots' home: directories that are made in `tmp/` and get their id by one rename. Unaware of what is in them.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{
    Store,
    error::{IoContext, Result, StoreError},
    lease::LeaseKind,
    temporary::Temporary,
    touch,
};
use crate::{
    oci::{ChainId, Digest, Layer},
    sys::remove::remove_tree,
};

/// What a committed snapshot is called: letters, digits and `-`, so that it is a file name and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// The snapshot that is a stack of layers, applied by `kind` (`overlay` and `native` keep different things).
    pub fn of_chain(kind: &str, chain_id: &ChainId) -> Self {
        Self::of_key(kind, chain_id.0.as_str())
    }

    /// The snapshot of anything that a key stands for.
    pub fn of_key(kind: &str, key: &str) -> Self {
        let kind: String = kind.chars().filter(char::is_ascii_alphanumeric).collect();
        let hex = match key.parse::<Digest>() {
            Ok(digest) => digest.hex().to_owned(),
            Err(_) => blake3::hash(key.as_bytes()).to_hex().to_string(),
        };
        Self(format!("{kind}-{hex}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        let valid = (1..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if valid { Ok(Self(text.to_owned())) } else { Err(StoreError::InvalidSnapshotId { text: text.to_owned() }) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A snapshot in the making: a directory with `fs/` and `work/`. Dropped without a commit, it is removed.
#[derive(Debug)]
pub struct SnapshotDraft {
    store: Store,
    temporary: Temporary,
}

impl SnapshotDraft {
    /// The directory that holds `fs` and `work`.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// What will be the snapshot: a whole root file system, or an overlay's upper directory.
    pub fn fs(&self) -> PathBuf {
        self.path().join("fs")
    }

    /// Scratch space on the same file system; gone after the commit.
    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    /// Where it will be once it is committed with this id.
    pub fn committed_path(&self, id: &SnapshotId) -> PathBuf {
        self.store.snapshot_path(id)
    }

    /// The store's directory of this name, see [`Store::made_once`].
    pub fn made_once(&self, name: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<PathBuf> {
        self.store.made_once(name, make)
    }

    /// Notes which layer this is.
    pub fn set_layer(&self, layer: &Layer) -> Result<()> {
        let path = self.path().join("layer.json");
        let text = serde_json::to_vec(layer).expect("a layer has only string keys");
        fs::write(&path, text).at("write", path)
    }

    /// Gives the snapshot its id and returns where it is now. If somebody else was first, ours is dropped, theirs used.
    pub fn commit(self, id: &SnapshotId) -> Result<PathBuf> {
        remove_tree(&self.work()).at("remove", self.work())?;
        let path = self.store.snapshot_path(id);
        self.store.0.leases.hold(LeaseKind::Snapshot, id.as_str())?;
        self.store.grew();
        match fs::rename(self.path(), &path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
            result => result.at("commit", &path)?,
        }
        touch(&path).at("touch", &path)?;
        Ok(path)
    }
}

impl Store {
    /// Where a committed snapshot is (`fs/` below it), None if it isn't here; if it is, it stays while this handle lives.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<PathBuf>> {
        let path = self.snapshot_path(id);
        self.0.leases.hold(LeaseKind::Snapshot, id.as_str())?;
        match touch(&path) {
            Ok(()) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.0.leases.release(LeaseKind::Snapshot, id.as_str());
                Ok(None)
            }
            Err(error) => Err(error).at("touch", path),
        }
    }

    /// The layer that a snapshot was noted to be; a note that can't be read is no note.
    pub fn snapshot_layer(&self, id: &SnapshotId) -> Result<Option<Layer>> {
        let Some(path) = self.snapshot(id)? else { return Ok(None) };
        let text = fs::read(path.join("layer.json")).unwrap_or_default();
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Starts a snapshot.
    pub fn new_snapshot(&self) -> Result<SnapshotDraft> {
        let temporary = self.temporary("snapshot")?;
        let draft = SnapshotDraft { store: self.clone(), temporary };
        create(draft.path(), 0o700)?;
        create(&draft.fs(), 0o755)?;
        create(&draft.work(), 0o700)?;
        Ok(draft)
    }

    /// The directories of all snapshots whose ids were made of `kind`, newest first.
    pub fn snapshots_of_kind(&self, kind: &str) -> Result<Vec<PathBuf>> {
        let top = self.path("snapshots");
        let mut found = Vec::new();
        for entry in fs::read_dir(&top).at("list", &top)? {
            let entry = entry.at("list", &top)?;
            let is_it = entry.file_name().to_str().is_some_and(|name| name.split_once('-').is_some_and(|(begin, _)| begin == kind));
            if is_it && let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
                found.push((modified, entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().rev().map(|(_, path)| path).collect())
    }

    pub(super) fn snapshot_path(&self, id: &SnapshotId) -> PathBuf {
        self.0.root.join("snapshots").join(id.as_str())
    }
}

fn create(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    DirBuilder::new().mode(mode).create(path).at("create", path)?;
    // The umask must not decide what a root file system looks like.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("set the mode of", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::oci::{Descriptor, DiffId};

    fn store() -> (tempfile::TempDir, Store) {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        (top, store)
    }

    #[test]
    fn a_draft_becomes_a_snapshot_by_commit_alone() {
        let (_top, store) = store();
        let id = SnapshotId::of_key("overlay", "step");
        let draft = store.new_snapshot().unwrap();
        assert_eq!(fs::metadata(draft.fs()).unwrap().permissions().mode() & 0o7777, 0o755);
        fs::write(draft.fs().join("file"), "one").unwrap();
        let layer = Layer { descriptor: Descriptor::new("x", Digest::of(b"l"), 1), diff_id: DiffId(Digest::of(b"d")) };
        draft.set_layer(&layer).unwrap();
        assert_eq!(store.snapshot(&id).unwrap(), None);
        let path = draft.commit(&id).unwrap();
        assert_eq!(store.snapshot(&id).unwrap(), Some(path.clone()));
        assert_eq!(store.snapshot_layer(&id).unwrap(), Some(layer));
        assert!(!path.join("work").exists());
        assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn the_first_commit_wins() {
        let (_top, store) = store();
        let id = SnapshotId::of_key("native", "step");
        let drafts = ["one", "two"].map(|text| {
            let draft = store.new_snapshot().unwrap();
            fs::write(draft.fs().join("file"), text).unwrap();
            draft
        });
        let paths = drafts.map(|draft| draft.commit(&id).unwrap());
        assert_eq!(paths[0], paths[1]);
        assert_eq!(fs::read_to_string(paths[1].join("fs/file")).unwrap(), "one");
        assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        let (_top, store) = store();
        let draft = store.new_snapshot().unwrap();
        fs::create_dir_all(draft.fs().join("closed/below")).unwrap();
        fs::set_permissions(draft.fs().join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
        drop(draft);
        assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn ids_are_file_names_and_nothing_else() {
        for text in ["", ".", "..", "a/b", "a.b", "a\0", "a b"] {
            assert!(text.parse::<SnapshotId>().is_err(), "{text:?}");
        }
        let chain = ChainId(Digest::of(b"x"));
        assert_eq!(SnapshotId::of_chain("overlay", &chain).as_str(), format!("overlay-{}", chain.0.hex()));
        assert!(SnapshotId::of_key("../x", "../../etc").as_str().parse::<SnapshotId>().is_ok());
    }
}
