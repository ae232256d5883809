//! `fsck`: reads everything and says what is not as it should be. Changes nothing. Unaware of repairs.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::PathBuf,
};

use super::{Store, error::Result, snapshot::SnapshotId, usage::list};
use crate::oci::{Descriptor, Digest, Sha256, media_type};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Problem {
    StrangeFile { path: PathBuf },
    WrongDigest { digest: Digest, found: Digest },
    MissingBlob { digest: Digest, name: String },
    WrongSize { digest: Digest, expected: u64, found: u64, name: String },
    Unreadable { path: PathBuf, reason: String },
    Database { reason: String },
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StrangeFile { path } => write!(formatter, "{} does not belong here", path.display()),
            Self::WrongDigest { digest, found } => write!(formatter, "blob {digest} has the digest {found}"),
            Self::MissingBlob { digest, name } => write!(formatter, "blob {digest} of {name} is missing"),
            Self::WrongSize { digest, expected, found, name } => {
                write!(formatter, "blob {digest} of {name} has {found} bytes, {expected} were expected")
            }
            Self::Unreadable { path, reason } => write!(formatter, "{} cannot be read: {reason}", path.display()),
            Self::Database { reason } => write!(formatter, "step cache: {reason}"),
        }
    }
}

impl Store {
    /// Checks each blob against its name, each name against its blobs, the snapshots' names and the database.
    pub fn fsck(&self) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        self.check_blobs(&mut problems)?;
        self.check_origins(&mut problems)?;
        self.check_names(&mut problems);
        self.check_snapshots(&mut problems)?;
        self.check_database(&mut problems);
        Ok(problems)
    }

    fn check_blobs(&self, problems: &mut Vec<Problem>) -> Result<()> {
        let directory = self.path("blobs/sha256");
        for (name, metadata) in list(&directory)? {
            let path = directory.join(&name);
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                problems.push(Problem::StrangeFile { path });
                continue;
            };
            if !metadata.is_file() {
                problems.push(Problem::StrangeFile { path });
                continue;
            }
            match File::open(&path).and_then(hash) {
                Ok(found) if found == digest => {}
                Ok(found) => problems.push(Problem::WrongDigest { digest, found }),
                // Collected since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problems.push(Problem::Unreadable { path, reason: error.to_string() }),
            }
        }
        Ok(())
    }

    fn check_origins(&self, problems: &mut Vec<Problem>) -> Result<()> {
        let directory = self.path("origins");
        for (name, _) in list(&directory)? {
            let path = directory.join(&name);
            match super::usage::digest_of(name.as_ref()) {
                None => problems.push(Problem::StrangeFile { path }),
                Some(digest) if self.is_origin_unreadable(&digest) => {
                    problems.push(Problem::Unreadable { path, reason: "it does not say where the layer is".to_owned() });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        let entries = match self.index() {
            Ok(index) => index.manifests,
            Err(error) => {
                let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                return problems.push(Problem::Unreadable { path: self.path("index.json"), reason });
            }
        };
        for entry in entries {
            let name = entry.annotations.get(super::REF_NAME).or_else(|| entry.annotations.get(super::IMAGE_NAME));
            let name = name.cloned().unwrap_or_else(|| "an image without a name".to_owned());
            self.check_described(&entry, &name, 0, problems);
        }
    }

    fn check_described(&self, descriptor: &Descriptor, name: &str, depth: u32, problems: &mut Vec<Problem>) {
        let digest = descriptor.digest.clone();
        let name = name.to_owned();
        match fs::symlink_metadata(self.blob_path(&digest)) {
            // Elsewhere, as this room's `origin` has it.
            Err(_) if self.origins(descriptor).is_ok_and(|from| !from.is_empty()) => return,
            Err(_) => return problems.push(Problem::MissingBlob { digest, name }),
            Ok(metadata) if metadata.len() != descriptor.size => {
                return problems.push(Problem::WrongSize { digest, expected: descriptor.size, found: metadata.len(), name });
            }
            Ok(_) => {}
        }
        let children = if media_type::is_index(&descriptor.media_type) && depth < 4 {
            self.index_blob(&digest).map(|index| index.manifests)
        } else if media_type::is_manifest(&descriptor.media_type) {
            self.manifest(&digest).map(|manifest| manifest.layers.into_iter().chain([manifest.config]).collect())
        } else {
            Ok(Vec::new())
        };
        match children {
            Ok(children) => children.iter().for_each(|child| self.check_described(child, &name, depth + 1, problems)),
            Err(error) => problems.push(Problem::Unreadable { path: self.blob_path(&digest), reason: error.to_string() }),
        }
    }

    fn check_snapshots(&self, problems: &mut Vec<Problem>) -> Result<()> {
        let directory = self.path("snapshots");
        for (name, _) in list(&directory)? {
            let path = directory.join(&name);
            let is_sound = name.parse::<SnapshotId>().is_ok() && path.join("fs").is_dir();
            if !is_sound && path.exists() {
                problems.push(Problem::StrangeFile { path });
            }
        }
        Ok(())
    }

    fn check_database(&self, problems: &mut Vec<Problem>) {
        let answer = self.0.database.read(|connection| {
            let mut check = connection.prepare("PRAGMA integrity_check")?;
            check.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        });
        match answer {
            Ok(lines) => problems.extend(lines.into_iter().filter(|line| line != "ok").map(|reason| Problem::Database { reason })),
            Err(error) => problems.push(Problem::Database { reason: error.to_string() }),
        }
    }
}

fn hash(mut file: File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_damage_is_found() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let kept = store.put_blob(b"kept").unwrap();
        let torn = store.put_blob(b"torn").unwrap();
        store.tag(&"app".parse().unwrap(), &Descriptor::new("x", kept.clone(), 4)).unwrap();
        assert_eq!(store.fsck().unwrap(), []);
        fs::write(store.blob_path(&torn), "tor").unwrap();
        fs::write(store.path("blobs/sha256/odd"), "").unwrap();
        fs::create_dir(store.path("snapshots/half")).unwrap();
        fs::remove_file(store.blob_path(&kept)).unwrap();
        let texts: Vec<_> = store.fsck().unwrap().iter().map(Problem::to_string).collect();
        let has = |text: &str| assert!(texts.iter().any(|line| line.contains(text)), "{text} not in {texts:#?}");
        has(&format!("blob {torn} has the digest {}", Digest::of(b"tor")));
        has("blobs/sha256/odd does not belong here");
        has("snapshots/half does not belong here");
        has(&format!("blob {kept} of app is missing"));
        fs::write(store.path("index.json"), "{").unwrap();
        assert!(store.fsck().unwrap().iter().any(|problem| matches!(problem, Problem::Unreadable { .. })));
    }
}
