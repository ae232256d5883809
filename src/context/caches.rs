//! What the caches of downloads and repositories hold, so that they can be counted and pruned like the rest of a store.
//! Whatever is removed is fetched again when needed; what is in use stays. Unaware of how much is too much.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::FlockOperation;

use super::{TemporaryTree, git::LOCK_FILE};

/// One thing that can be removed on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedSource {
    /// A download, the note of a URL, or a repository.
    pub path: PathBuf,
    /// What it takes up on disk.
    pub size_bytes: u64,
    /// When a build last asked for it.
    pub last_used: SystemTime,
}

/// Everything in a cache of downloads or of repositories, least recently used first. A directory that isn't there is empty.
pub fn cached_sources(cache_dir: &Path) -> io::Result<Vec<CachedSource>> {
    let entries = match fs::read_dir(cache_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut list = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // What another process removes meanwhile is not there.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let used = fs::metadata(path.join(LOCK_FILE)).unwrap_or_else(|_| metadata.clone());
        let size_bytes = if metadata.is_dir() { size_of_tree(&path) } else { size_on_disk(&metadata) };
        list.push(CachedSource { path, size_bytes, last_used: used.modified()? });
    }
    list.sort_by(|left, right| (left.last_used, &left.path).cmp(&(right.last_used, &right.path)));
    Ok(list)
}

/// Removes one; false when a build is using it.
pub fn remove_cached_source(source: &CachedSource) -> io::Result<bool> {
    if !source.path.is_dir() {
        return match fs::remove_file(&source.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(true),
        };
    }
    let lock = File::options().create(true).append(true).open(source.path.join(LOCK_FILE))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // Gone by rename first: no build finds half of it.
    let parent = source.path.parent().unwrap_or(Path::new("."));
    let grave = TemporaryTree::create(parent, "draft-").map_err(io::Error::other)?;
    fs::rename(&source.path, grave.path().join("removed"))?;
    Ok(true)
}

fn size_of_tree(path: &Path) -> u64 {
    let walked = walkdir::WalkDir::new(path).into_iter().flatten();
    walked.filter_map(|entry| entry.metadata().ok()).map(|metadata| size_on_disk(&metadata)).sum()
}

fn size_on_disk(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_in_use_stays_and_everything_else_goes() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(cached_sources(&top.path().join("missing")).unwrap(), []);
        fs::write(top.path().join("download"), vec![1; 10_000]).unwrap();
        let repository = top.path().join("repository");
        fs::create_dir_all(repository.join("objects")).unwrap();
        fs::write(repository.join("objects/pack"), vec![1; 20_000]).unwrap();
        let lock = File::create(repository.join(LOCK_FILE)).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockShared).unwrap();
        let found = cached_sources(top.path()).unwrap();
        let sizes: Vec<_> = found.iter().map(|source| (source.path.file_name().unwrap(), source.size_bytes >= 10_000)).collect();
        assert_eq!(sizes, [("download".as_ref(), true), ("repository".as_ref(), true)]);
        assert!(remove_cached_source(&found[0]).unwrap());
        assert!(!remove_cached_source(&found[1]).unwrap());
        assert_eq!(cached_sources(top.path()).unwrap().len(), 1);
        drop(lock);
        assert!(remove_cached_source(&found[1]).unwrap());
        assert_eq!(cached_sources(top.path()).unwrap(), []);
    }
}
