//! Cache mounts: found in the store by id, begun from a stage or a context when they are new.
//!
//! A step takes all of its cache mounts before it prepares anything else, in the order of their ids, each once. Every
//! step of every process takes them in that order, so none waits for one that waits for it.

use std::{collections::BTreeMap, path::Path, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    build::{BuildError, Event, Kind, copy::Opened, engine::Engine, error::chain, layer::blocking},
    plan::{self, Input, Mount, MountKind, VertexId},
    sandbox::{self, Rung},
    snapshot::{
        copy::{self, CopyRequest, Source, Style},
        layered::LayeredRoot,
    },
    store::{CacheMountLease, CacheSharing},
    sys::root::RootDir,
};

/// Between two looks whether a cache mount is free.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl From<crate::store::StoreError> for BuildError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::store(error)
    }
}

/// A cache mount that a step needs.
struct Wanted {
    sharing: CacheSharing,
    mode: u32,
    uid: u32,
    gid: u32,
    /// What a new one holds.
    files: Option<Opened>,
}

/// Where a step shows a cache mount.
struct Shown {
    /// Which of the step's mounts.
    index: usize,
    id: String,
    subpath: PathBuf,
    read_only: bool,
}

impl Engine {
    /// Takes all cache mounts of a step. What to mount stands under the mount's place in the list.
    pub(super) async fn take_caches(
        self: &Arc<Self>,
        vertex: VertexId,
        mounts: &[Mount],
    ) -> Result<(Vec<CacheMountLease>, BTreeMap<usize, sandbox::MountKind>), BuildError> {
        let (mut wanted, mut shown) = (BTreeMap::<String, Wanted>::new(), Vec::new());
        for (index, mount) in mounts.iter().enumerate() {
            let MountKind::Cache { source, readonly, .. } = &mount.kind else { continue };
            let (id, cache) = self.wanted_cache(vertex, &mount.kind).await?;
            let subpath = PathBuf::from(source.trim_start_matches('/'));
            shown.push(Shown { index, id: id.clone(), subpath, read_only: *readonly });
            // Shown twice by one step it is one cache, shared as the strictest says.
            let sharing = cache.sharing;
            let known = wanted.entry(id).or_insert(cache);
            known.sharing = known.sharing.max(sharing);
        }
        let mut leases = BTreeMap::new();
        for (id, cache) in wanted {
            let lease = self.take_cache(vertex, &id, cache).await?;
            leases.insert(id, lease);
        }
        let kinds = shown.into_iter().map(|one| {
            let source = sandbox::Source::Directory(leases[&one.id].path().to_owned());
            let kind = match sandbox::current() {
                Rung::Chroot => sandbox::MountKind::Moved { source, subpath: one.subpath, returns: true },
                _ => sandbox::MountKind::Bind { source, subpath: one.subpath, read_only: one.read_only },
            };
            (one.index, kind)
        });
        let kinds = kinds.collect();
        Ok((leases.into_values().collect(), kinds))
    }

    /// What a cache mount is called in the store, and how a new one begins.
    async fn wanted_cache(self: &Arc<Self>, vertex: VertexId, kind: &MountKind) -> Result<(String, Wanted), BuildError> {
        let MountKind::Cache { id, sharing, from, source: _, readonly: _, mode, uid, gid } = kind else {
            unreachable!("the caller has matched a cache mount")
        };
        let sharing = match sharing {
            // What is moved to where a step sees it can't be seen by two.
            plan::CacheSharing::Shared if sandbox::current() == Rung::Chroot => CacheSharing::Locked,
            plan::CacheSharing::Shared => CacheSharing::Shared,
            plan::CacheSharing::Private => CacheSharing::Private,
            plan::CacheSharing::Locked => CacheSharing::Locked,
        };
        // BuildKit keys a cache by its id and by what it begins with.
        let begun_with = match from {
            Some(input) => format!("\0{}", self.begin_of(input).await?),
            None => String::new(),
        };
        let owned = mode.is_some() || uid.is_some() || gid.is_some();
        let attributes = if owned { format!("\0{mode:?} {uid:?} {gid:?}") } else { String::new() };
        // --no-cache makes the beginning anew, and with it the cache.
        let fresh =
            if owned && self.plan.vertices[vertex.0].ignore_cache { format!("\0{}", jiff::Timestamp::now()) } else { String::new() };
        let files = match from {
            Some(input) => Some(self.open_input(input).await?),
            None => None,
        };
        let wanted = Wanted { sharing, mode: mode.unwrap_or(0o755), uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), files };
        Ok((format!("{id}{begun_with}{attributes}{fresh}"), wanted))
    }

    /// Waits until a cache mount is free. Looks again and again instead of blocking a thread, so that a build that is given
    /// up doesn't wait for another.
    async fn take_cache(self: &Arc<Self>, vertex: VertexId, id: &str, cache: Wanted) -> Result<CacheMountLease, BuildError> {
        let (mut pause, cache) = (Duration::from_millis(1), Arc::new(cache));
        let mut is_told = false;
        loop {
            let (store, id, cache) = (self.services.store.clone(), id.to_owned(), cache.clone());
            let taken = blocking(move || store.cache_mount(&id, cache.sharing, |path| fill(path, &cache))).await?;
            if let Some(lease) = taken {
                return Ok(lease);
            }
            if !std::mem::replace(&mut is_told, true) {
                let text = "waiting for a cache mount that another step has";
                self.progress.event(Event::Note { step: Some(self.step(vertex)), text });
            }
            self.abort.check()?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn begin_of(self: &Arc<Self>, input: &Input) -> Result<String, BuildError> {
        Ok(match input {
            Input::Vertex(Some(id)) => self.clone().realise(*id).await?.result.0,
            Input::Vertex(None) => "empty".to_owned(),
            Input::Context(name) => format!("context {name}"),
        })
    }
}

/// Makes a new cache mount what the step says.
fn fill(path: &Path, begin: &Wanted) -> Result<(), BuildError> {
    let fail = |error: &dyn std::error::Error| BuildError::new(Kind::Step, format!("cannot make a cache mount: {}", chain(error)));
    if let Some(files) = &begin.files {
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
