//! Cache mounts: found in the store by id, begun from a stage or a context when they are new.

use std::path::Path;

use crate::{
    build::{BuildError, Kind, copy::Opened, error::chain},
    snapshot::{
        copy::{self, CopyRequest, Source, Style},
        layered::LayeredRoot,
    },
    store::{CacheMountLease, CacheSharing, Store},
    sys::root::RootDir,
};

impl From<crate::store::StoreError> for BuildError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::store(error)
    }
}

/// What a new cache looks like.
pub struct Beginning<'a> {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// What it holds.
    pub files: Option<&'a Opened>,
}

/// Takes the cache mount `id`, made if it is new. `on_wait` is called before waiting for another step.
pub fn open(
    store: &Store,
    id: &str,
    sharing: CacheSharing,
    begin: &Beginning<'_>,
    on_wait: impl FnOnce(),
) -> Result<CacheMountLease, BuildError> {
    store.cache_mount(id, sharing, |path| fill(path, begin), on_wait)
}

fn fill(path: &Path, begin: &Beginning<'_>) -> Result<(), BuildError> {
    let fail = |error: &dyn std::error::Error| BuildError::new(Kind::Step, format!("cannot make a cache mount: {}", chain(error)));
    if let Some(files) = begin.files {
        let root = RootDir::open(path).map_err(|error| fail(&error))?;
        let mut tree = LayeredRoot::new(root, Vec::new()).map_err(|error| fail(&error))?;
        let request = CopyRequest {
            sources: vec![Source { root: files.root(), path: "/", unpack: false, parents: false }],
            destination: "/",
            style: Style::default(),
            exclude: None,
        };
        copy::copy(&request, &mut tree).map_err(|error| fail(&error))?;
    }
    use std::os::unix::fs::PermissionsExt;
    crate::sys::recorded::give(path, begin.uid, begin.gid).map_err(|error| fail(&error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(begin.mode)).map_err(|error| fail(&error))
}
