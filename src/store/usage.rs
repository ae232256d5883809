//! What takes up how much: every object of the store with its size, its last use and whether a name keeps it.
//! Sizes of trees are measured once and kept in the database. Unaware of what should go.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsStr,
    fs::{self, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::params;
use serde_json::Value;

use super::{
    Store,
    error::{IoContext, Result},
    lease::LeaseKind,
};
use crate::oci::{Descriptor, Digest};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ObjectKind {
    Blob,
    Snapshot,
    CacheMount,
    Build,
    StatCache,
    LayerIndex,
    Origin,
}

/// One thing that can be removed on its own.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its path below the store.
    pub path: PathBuf,
    /// What it takes up on disk.
    pub bytes: u64,
    /// When it was last used, in seconds since 1970.
    pub used_unix: u64,
    /// Whether a named image needs it.
    pub is_named: bool,
}

/// What takes up how much.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Every object.
    pub objects: Vec<Object>,
    /// The database, what is in the making and what was left behind by the dead.
    pub other_bytes: u64,
    /// Layers that named images have and the store has not: they are in registries.
    pub absent_bytes: u64,
}

impl Usage {
    /// Everything.
    pub fn total_bytes(&self) -> u64 {
        self.other_bytes + self.objects.iter().map(|object| object.bytes).sum::<u64>()
    }

    /// How many objects of a kind there are, and what they take up together.
    pub fn of_kind(&self, kind: ObjectKind) -> (u64, u64) {
        let of_kind = self.objects.iter().filter(|object| object.kind == kind);
        of_kind.fold((0, 0), |(count, bytes), object| (count + 1, bytes + object.bytes))
    }

    /// What could go without losing a named image.
    pub fn reclaimable_bytes(&self) -> u64 {
        self.objects.iter().filter(|object| !object.is_named).map(|object| object.bytes).sum()
    }
}

impl Object {
    /// What its lease is called.
    pub(super) fn lease(&self) -> (LeaseKind, String) {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match self.kind {
            ObjectKind::Blob => (LeaseKind::Blob, name(&self.path)),
            ObjectKind::Snapshot => (LeaseKind::Snapshot, name(&self.path)),
            ObjectKind::Build => (LeaseKind::Build, name(&self.path)),
            ObjectKind::Origin => (LeaseKind::File, super::origin::lease_key(&name(&self.path))),
            ObjectKind::StatCache | ObjectKind::LayerIndex => (LeaseKind::File, name(&self.path)),
            ObjectKind::CacheMount => {
                let hash = name(self.path.parent().unwrap_or(Path::new("")));
                (LeaseKind::CacheMount, super::cache_mount::copy_key(&hash, name(&self.path)))
            }
        }
    }
}

impl Store {
    /// What takes up how much.
    pub fn du(&self) -> Result<Usage> {
        self.flush_uses()?;
        let named = self.reachable()?;
        let mut objects = self.blobs(&named)?;
        objects.extend(self.all_trees()?);
        for object in objects.iter_mut().filter(|object| object.kind == ObjectKind::Origin) {
            object.is_named = object.path.file_name().and_then(digest_of).is_some_and(|digest| named.contains(&digest));
        }
        self.measure(&mut objects)?;
        let database = ["meta.sqlite", "meta.sqlite-wal", "meta.sqlite-shm", "tmp"];
        let other_bytes = database.iter().map(|name| size_of_tree(&self.path(name))).sum();
        Ok(Usage { objects, other_bytes, absent_bytes: self.absent_bytes(&named)? })
    }

    /// Everything but blobs, not yet measured.
    fn all_trees(&self) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for (kind, directory) in [
            (ObjectKind::Snapshot, "snapshots"),
            (ObjectKind::Build, "builds"),
            (ObjectKind::StatCache, "stat-cache"),
            (ObjectKind::LayerIndex, "layer-indexes"),
            (ObjectKind::Origin, "origins"),
        ] {
            objects.extend(self.trees(kind, Path::new(directory))?);
        }
        for mount in list(&self.path("cache-mounts"))? {
            objects.extend(self.trees(ObjectKind::CacheMount, &Path::new("cache-mounts").join(mount.0))?);
        }
        Ok(objects)
    }

    /// The objects of one kind that lie in directories.
    pub(super) fn du_of(&self, kind: ObjectKind) -> Result<Vec<Object>> {
        let mut objects = self.all_trees()?;
        objects.retain(|object| object.kind == kind);
        self.measure(&mut objects)?;
        Ok(objects)
    }

    fn blobs(&self, named: &BTreeSet<Digest>) -> Result<Vec<Object>> {
        let used_by_steps = self.uses_by_steps()?;
        let directory = Path::new("blobs/sha256");
        let mut objects = Vec::new();
        for (name, metadata) in list(&self.0.root.join(directory))? {
            let step = used_by_steps.get(&format!("sha256:{name}")).copied().unwrap_or(0);
            objects.push(Object {
                kind: ObjectKind::Blob,
                bytes: size_on_disk(&metadata),
                used_unix: step.max(metadata.mtime().max(0) as u64),
                is_named: digest_of(OsStr::new(&name)).is_some_and(|digest| named.contains(&digest)),
                path: directory.join(name),
            });
        }
        Ok(objects)
    }

    /// Objects that are whole directories or files, not yet measured.
    fn trees(&self, kind: ObjectKind, directory: &Path) -> Result<Vec<Object>> {
        let entries = list(&self.0.root.join(directory))?.into_iter();
        // A cache mount's directory also has the file with its id.
        let entries = entries.filter(|(_, metadata)| kind != ObjectKind::CacheMount || metadata.is_dir());
        let object = |(name, metadata): (String, Metadata)| Object {
            kind,
            path: directory.join(name),
            bytes: if metadata.is_dir() { 0 } else { size_on_disk(&metadata) },
            used_unix: metadata.mtime().max(0) as u64,
            is_named: false,
        };
        Ok(entries.map(object).collect())
    }

    /// Fills in the sizes of trees: remembered ones where nothing can have changed, measured ones otherwise.
    fn measure(&self, objects: &mut [Object]) -> Result<()> {
        let known = self.0.database.read(|connection| {
            let mut select = connection.prepare("SELECT path, bytes, used FROM sizes")?;
            let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))))?;
            rows.collect::<rusqlite::Result<BTreeMap<_, _>>>()
        })?;
        let mut measured = Vec::new();
        for object in
            objects.iter_mut().filter(|object| matches!(object.kind, ObjectKind::Snapshot | ObjectKind::CacheMount | ObjectKind::Build))
        {
            let name = object.path.to_string_lossy().into_owned();
            let is_fixed = object.kind == ObjectKind::Snapshot;
            match known.get(&name) {
                Some((bytes, used)) if is_fixed || *used == object.used_unix as i64 && !self.is_in_use(object)? => {
                    object.bytes = *bytes as u64
                }
                _ => {
                    object.bytes = size_of_tree(&self.0.root.join(&object.path));
                    if is_fixed || !self.is_in_use(object)? {
                        measured.push((name, object.bytes as i64, object.used_unix as i64));
                    }
                }
            }
        }
        if measured.is_empty() {
            return Ok(());
        }
        self.0.database.write(|transaction| {
            let mut insert = transaction.prepare("INSERT OR REPLACE INTO sizes VALUES (?1, ?2, ?3)")?;
            measured.iter().try_for_each(|(path, bytes, used)| insert.execute(params![path, bytes, used]).map(drop))
        })
    }

    fn is_in_use(&self, object: &Object) -> Result<bool> {
        let (kind, key) = object.lease();
        Ok(self.try_lease(kind, &key)?.is_none())
    }

    /// When a step that consists of a blob was last looked up.
    fn uses_by_steps(&self) -> Result<BTreeMap<String, u64>> {
        self.0.database.read(|connection| {
            let mut select = connection.prepare("SELECT digest, max(used) FROM step_blobs JOIN steps USING (key) GROUP BY digest")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
            rows.collect()
        })
    }

    /// Every digest that the names in `index.json` lead to, here or not.
    pub(super) fn reachable(&self) -> Result<BTreeSet<Digest>> {
        let mut seen = BTreeSet::new();
        let mut pending: Vec<(Digest, bool)> = self.index()?.manifests.into_iter().map(|entry| (entry.digest, true)).collect();
        while let Some((digest, is_document)) = pending.pop() {
            if seen.insert(digest.clone()) && is_document {
                pending.extend(self.children(&digest));
            }
        }
        seen.extend(self.metadata_of_remembered()?);
        Ok(seen)
    }

    /// Manifests and configs of the base images that tags stood for: a few kilobytes without which no build can begin,
    /// not even one whose steps are all cached. Their layers are not among them.
    fn metadata_of_remembered(&self) -> Result<BTreeSet<Digest>> {
        let texts = self.0.database.read(|connection| {
            let mut select = connection.prepare("SELECT descriptor FROM remembered")?;
            select.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let descriptors = texts.iter().filter_map(|text| serde_json::from_str::<Descriptor>(text).ok());
        let mut seen = BTreeSet::new();
        let mut pending: Vec<Digest> = descriptors.map(|descriptor| descriptor.digest).collect();
        while let Some(digest) = pending.pop() {
            if seen.insert(digest.clone()) {
                let Some(document) = self.json_of(&digest) else { continue };
                let listed = document["manifests"].as_array().cloned().unwrap_or_default();
                let documents = listed.iter().chain([&document["config"]]);
                pending.extend(documents.filter_map(|value| value["digest"].as_str()?.parse().ok()));
            }
        }
        Ok(seen)
    }

    /// The digests that a manifest or index speaks of, and whether each is itself such a document. What can't be read
    /// has none: it is for `fsck` to complain.
    fn children(&self, digest: &Digest) -> Vec<(Digest, bool)> {
        let Some(document) = self.json_of(digest) else { return Vec::new() };
        let many = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let digest_of = |value: &Value| value["digest"].as_str().and_then(|text| text.parse().ok());
        let documents = many("manifests").into_iter().filter_map(|value| Some((digest_of(&value)?, true)));
        let leaves = many("layers").into_iter().chain(many("blobs")).chain([document["config"].clone(), document["subject"].clone()]);
        documents.chain(leaves.filter_map(|value| Some((digest_of(&value)?, false)))).collect()
    }

    /// A blob as JSON.
    fn json_of(&self, digest: &Digest) -> Option<Value> {
        const MAX_DOCUMENT: u64 = 16 << 20;
        let mut bytes = Vec::new();
        fs::File::open(self.blob_path(digest)).and_then(|file| file.take(MAX_DOCUMENT).read_to_end(&mut bytes)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// The digest that a file's name is the hex form of.
pub(super) fn digest_of(name: &OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}

/// The entries of a directory, sorted; what vanishes meanwhile is left out.
pub(super) fn list(directory: &Path) -> Result<Vec<(String, Metadata)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).at("list", directory)? {
        let entry = entry.at("list", directory)?;
        if let Ok(metadata) = entry.metadata() {
            entries.push((entry.file_name().to_string_lossy().into_owned(), metadata));
        }
    }
    entries.sort_by(|one, two| one.0.cmp(&two.0));
    Ok(entries)
}

fn size_on_disk(metadata: &Metadata) -> u64 {
    metadata.blocks() * 512
}

/// What a tree takes up on disk, hard links counted once. What can't be looked at counts as nothing.
fn size_of_tree(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let entries = walkdir::WalkDir::new(path).same_file_system(true).into_iter().flatten();
    let sizes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        let is_first = metadata.nlink() < 2 || metadata.is_dir() || seen.insert((metadata.dev(), metadata.ino()));
        is_first.then(|| size_on_disk(&metadata))
    });
    sizes.sum()
}
