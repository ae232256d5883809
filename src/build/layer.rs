//! A layer of a build: one thing in two forms, a directory and a blob, each made from the other when it is first needed.
//! A fully cached build needs neither directories nor base blobs. What COPY needs of a layer that it is put on is less than
//! either (`lowers`).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OnceCell;

use crate::{
    build::{
        BuildError, Kind, Progress, StepId,
        blob::{BlobReader, fetch_cached, with_blob},
        error::chain,
        lowers::on_lowers,
        pack::{Packed, pack_directory},
        remote::Outline,
        request::{LayerPolicy, Services},
        secrets::{self, Secrets},
        unpack::unpack_blob,
    },
    oci::{ChainId, Digest, Reference},
    snapshot::{self, layered::LayerIndex},
    store::{Lease, LeaseKind, SnapshotId, Store},
    sys::root::RootDir,
};

/// A layer's blob and how it was written.
pub type PolicyBlob = (LayerPolicy, crate::oci::Layer);

/// Layers, bottom first.
pub type Stack = Vec<Arc<Layer>>;

/// One layer.
pub struct Layer {
    /// Where its directory is kept.
    pub snapshot: SnapshotId,
    pub(super) origin: Origin,
    /// The layers that it was made on; none for a layer of COPY --link.
    below: Stack,
    directory: OnceCell<Result<PathBuf, BuildError>>,
    /// Whether there is nothing in its directory.
    is_empty: OnceLock<bool>,
    /// None if it can't be had from the layer alone.
    pub(super) index: OnceCell<Result<Option<Arc<LayerIndex>>, BuildError>>,
    /// What a cache elsewhere says is in it.
    pub(super) outline: OnceCell<Option<Outline>>,
    /// Those whose word was taken for what is in the layers below when it was packed.
    relies_on: Mutex<BTreeSet<String>>,
    /// One cell for each way it is written.
    blobs: Mutex<Vec<(LayerPolicy, BlobCell)>>,
    /// When packing it began and how long it took.
    packed: Mutex<Option<(Instant, Duration)>>,
}

type BlobCell = Arc<OnceCell<Result<crate::oci::Layer, BuildError>>>;

// One per layer, and a handful of layers: a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub(super) enum Origin {
    Base { layer: Box<crate::oci::Layer>, source: BlobSource, step: StepId },
    Step { known: Mutex<Vec<PolicyBlob>>, searched: Mutex<BTreeSet<String>>, created: jiff::Timestamp },
}

/// Where the blob of a base layer can be had.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// A registry.
    Registry(Reference),
    /// An OCI layout on disk.
    Layout(PathBuf),
    /// The store itself.
    Store,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Layer({})", self.snapshot.as_str())
    }
}

impl Layer {
    /// The layers of a base image.
    pub fn base_stack(layers: &[crate::oci::Layer], source: &BlobSource, step: StepId, services: &Services) -> Stack {
        let mut stack: Stack = Vec::with_capacity(layers.len());
        let mut chain: Option<ChainId> = None;
        for layer in layers {
            let id = ChainId::on(chain.as_ref(), &layer.diff_id);
            let snapshot = SnapshotId::of_chain(&services.kind_of_snapshot("base"), &id);
            let origin = Origin::Base { layer: Box::new(layer.clone()), source: source.clone(), step };
            stack.push(Arc::new(Self::new(snapshot, origin, stack.clone())));
            chain = Some(id);
        }
        stack
    }

    /// The layer that a step made, now or in an earlier build. `searched` are the names of the secrets that its blobs were
    /// searched for.
    pub fn of_step(
        snapshot: SnapshotId,
        below: Stack,
        created: jiff::Timestamp,
        known: Vec<PolicyBlob>,
        searched: BTreeSet<String>,
    ) -> Self {
        let origin = Origin::Step { known: Mutex::new(known), searched: Mutex::new(searched), created };
        Self::new(snapshot, origin, below)
    }

    /// The same of what was packed in this build without a directory.
    #[must_use]
    pub fn known_by(mut self, packed: Packed) -> Self {
        self.index = OnceCell::new_with(Some(Ok(Some(packed.index))));
        self.packed = Mutex::new(Some((packed.started, packed.took)));
        self
    }

    fn new(snapshot: SnapshotId, origin: Origin, below: Stack) -> Self {
        Self {
            snapshot,
            origin,
            below,
            directory: OnceCell::new(),
            is_empty: OnceLock::new(),
            index: OnceCell::new(),
            outline: OnceCell::new(),
            relies_on: Mutex::default(),
            blobs: Mutex::default(),
            packed: Mutex::default(),
        }
    }

    /// When its step ended; None for a layer of a base image.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        match &self.origin {
            Origin::Step { created, .. } => Some(*created),
            Origin::Base { .. } => None,
        }
    }

    /// The blobs that this step's layer is known to have.
    pub fn known_blobs(&self) -> Vec<PolicyBlob> {
        match &self.origin {
            Origin::Step { known, .. } => known.lock().expect("no holder panics").clone(),
            Origin::Base { .. } => Vec::new(),
        }
    }

    /// When this build packed it, and how long that took.
    pub fn packed(&self) -> Option<(Instant, Duration)> {
        *self.packed.lock().expect("no holder panics")
    }

    /// The names of the secrets that this step's layer was searched for.
    pub fn searched(&self) -> BTreeSet<String> {
        match &self.origin {
            Origin::Step { searched, .. } => searched.lock().expect("no holder panics").clone(),
            Origin::Base { .. } => BTreeSet::new(),
        }
    }

    /// Those whose word was taken for what is in the layers below when it was packed.
    pub fn relies_on(&self) -> BTreeSet<String> {
        self.relies_on.lock().expect("no holder panics").clone()
    }

    fn note_searched(&self, secrets: &Secrets) {
        if let Origin::Step { searched, .. } = &self.origin {
            searched.lock().expect("no holder panics").extend(secrets.names());
        }
    }

    /// The layer of a base image as the image names it.
    pub fn base_layer(&self) -> Option<&crate::oci::Layer> {
        match &self.origin {
            Origin::Base { layer, .. } => Some(layer),
            Origin::Step { .. } => None,
        }
    }

    /// The images of registries that a base layer is known to be of.
    pub fn came_with(&self, store: &Store) -> Vec<Reference> {
        match &self.origin {
            Origin::Base { source: BlobSource::Registry(reference), .. } => vec![reference.clone()],
            // What can't be read costs a mount, no more.
            Origin::Base { layer, source: BlobSource::Store, .. } => store.origins(&layer.descriptor).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Makes sure that the store has a base layer's blob or knows which registry has it, so that an image with the layer
    /// can have a name: nothing is fetched for that alone.
    pub async fn keep(self: &Arc<Self>, services: &Services, progress: &Arc<dyn Progress>) -> Result<(), BuildError> {
        let Origin::Base { layer, source, .. } = &self.origin else { return Ok(()) };
        let store = &services.store;
        if store.has_described(&layer.descriptor).map_err(BuildError::store)? {
            return Ok(());
        }
        match source {
            BlobSource::Registry(reference) => store.note_origin(&layer.descriptor, reference).map_err(BuildError::store),
            BlobSource::Store if !store.origins(&layer.descriptor).map_err(BuildError::store)?.is_empty() => Ok(()),
            _ => self.blob(LayerPolicy::default(), services, progress).await.map(drop),
        }
    }

    /// Its files, in overlay form.
    pub async fn directory(self: &Arc<Self>, services: &Services, progress: &Arc<dyn Progress>) -> Result<PathBuf, BuildError> {
        let made = self.directory.get_or_init(|| async {
            if let Some(path) = services.store.snapshot(&self.snapshot).map_err(BuildError::store)? {
                return Ok(path.join("fs"));
            }
            self.unpack(services, progress).await
        });
        made.await.clone()
    }

    /// Whether its directory, which is `path`, adds nothing to the layers below and hides nothing of them.
    pub(super) fn is_empty(&self, path: &Path) -> bool {
        *self.is_empty.get_or_init(|| snapshot::is_empty(path))
    }

    /// Its blob in the store, written as `policy` says; a base layer's as it came.
    pub async fn blob(
        self: &Arc<Self>,
        policy: LayerPolicy,
        services: &Services,
        progress: &Arc<dyn Progress>,
    ) -> Result<crate::oci::Layer, BuildError> {
        let cell = self.blob_cell(policy);
        let made = cell.get_or_init(|| async {
            match &self.origin {
                Origin::Base { layer, source, step } => {
                    services.fetcher().fetch(&layer.descriptor, source, *step, progress).await?;
                    Ok((**layer).clone())
                }
                Origin::Step { .. } => {
                    let layer = self.pack(policy, services, progress).await?;
                    self.search(&layer, services).await?;
                    Ok(layer)
                }
            }
        });
        made.await.clone()
    }

    fn blob_cell(&self, policy: LayerPolicy) -> BlobCell {
        // A base layer is never rewritten: however it is asked for, it is the same blob.
        let key = if self.base_layer().is_some() { LayerPolicy::default() } else { policy };
        let mut cells = self.blobs.lock().expect("no holder panics");
        if let Some((_, cell)) = cells.iter().find(|(known, _)| *known == key) {
            return cell.clone();
        }
        cells.push((key, BlobCell::default()));
        cells[cells.len() - 1].1.clone()
    }

    /// Unpacked side by side with the layers below, which are waited for when something of them is needed.
    async fn unpack(self: &Arc<Self>, services: &Services, progress: &Arc<dyn Progress>) -> Result<PathBuf, BuildError> {
        let _lease = lease(&services.store, &format!("unpack {}", self.snapshot.as_str()), || ()).await?;
        if let Some(path) = services.store.snapshot(&self.snapshot).map_err(BuildError::store)? {
            return Ok(path.join("fs"));
        }
        let permit = services.unpacking.clone().acquire_owned().await.expect("the semaphore is never closed");
        let permit = Arc::new(Mutex::new(Some(permit)));
        let (layer, source, step) = match &self.origin {
            Origin::Base { layer, source, step } => ((**layer).clone(), source.clone(), *step),
            Origin::Step { .. } => (self.fetched_blob(services).await?, BlobSource::Store, StepId(0)),
        };
        let is_own = matches!(self.origin, Origin::Step { .. });
        let (this, apply_services, apply_progress) = (self.clone(), services.clone(), progress.clone());
        let (runtime, wanted) = (tokio::runtime::Handle::current(), layer.clone());
        let apply = move |blob: BlobReader| {
            let below = || {
                // Those who are waited for may be in want of it.
                permit.lock().unwrap_or_else(PoisonError::into_inner).take();
                let paths = runtime.block_on(directories(&this.below, &apply_services, &apply_progress));
                open_roots(&paths.map_err(std::io::Error::other)?)
            };
            unpack_blob(blob, &wanted, is_own, &below, &apply_services)
        };
        let draft = with_blob(&layer.descriptor, &source, step, services, progress, apply).await?;
        let snapshot = self.snapshot.clone();
        blocking(move || Ok(draft.commit(&snapshot).map_err(BuildError::store)?.join("fs"))).await
    }

    /// One of the blobs that an earlier build made of this step's layer.
    pub(super) async fn fetched_blob(&self, services: &Services) -> Result<crate::oci::Layer, BuildError> {
        let known: Vec<crate::oci::Layer> = self.known_blobs().into_iter().map(|(_, layer)| layer).collect();
        match known.iter().find(|layer| services.store.has_described(&layer.descriptor).unwrap_or(false)) {
            Some(layer) => Ok(layer.clone()),
            None => fetch_cached(&known, services).await,
        }
    }

    /// Directory -> tar -> digests and compressed blob, in one pass.
    async fn pack(
        self: &Arc<Self>,
        policy: LayerPolicy,
        services: &Services,
        progress: &Arc<dyn Progress>,
    ) -> Result<crate::oci::Layer, BuildError> {
        for (_, layer) in self.known_blobs().into_iter().filter(|(known, _)| *known == policy) {
            if services.store.has_described(&layer.descriptor).map_err(BuildError::store)? {
                return Ok(layer);
            }
            if services.remote.as_ref().is_some_and(|remote| remote.has(&layer.descriptor)) {
                return fetch_cached(std::slice::from_ref(&layer), services).await;
            }
        }
        // The step's record has the form that the build itself wanted; other outputs' forms have records of their own.
        let is_further = !self.known_blobs().is_empty();
        let form = format!("packed {} {}", self.snapshot.as_str(), serde_json::to_string(&policy).expect("plain data has a JSON form"));
        if is_further
            && let Some(record) = services.store.step(&form).map_err(BuildError::store)?
            && let Ok(layer) = serde_json::from_str::<crate::oci::Layer>(&record.payload)
            && services.store.has_described(&layer.descriptor).map_err(BuildError::store)?
        {
            return Ok(layer);
        }
        let upper = self.directory(services, progress).await?;
        let packing = services.clone();
        let secrets = services.secrets.clone();
        let started = Instant::now();
        let pack = move |lowers| pack_directory(&upper, lowers, policy, &packing);
        let (layer, relies_on) = Box::pin(on_lowers(&self.below, services, progress, pack)).await?;
        let is_own = relies_on.is_empty();
        self.relies_on.lock().expect("no holder panics").extend(relies_on);
        *self.packed.lock().expect("no holder panics") = Some((started, started.elapsed()));
        self.note_searched(&secrets);
        if is_further && is_own {
            let payload = serde_json::to_string(&layer).expect("plain data has a JSON form");
            let blobs = std::slice::from_ref(&layer.descriptor.digest);
            services.store.record_step(&form, &payload, blobs).map_err(BuildError::store)?;
        }
        if let Origin::Step { known, .. } = &self.origin {
            known.lock().expect("no holder panics").push((policy, layer.clone()));
        }
        Ok(layer)
    }
}

impl Layer {
    /// Searches a blob of an earlier build for secrets that it has not been searched for.
    async fn search(self: &Arc<Self>, layer: &crate::oci::Layer, services: &Services) -> Result<(), BuildError> {
        if services.secrets.names().is_subset(&self.searched()) {
            return Ok(());
        }
        let (descriptor, services, this) = (layer.descriptor.clone(), services.clone(), self.clone());
        blocking(move || match secrets::search_blob(&services.store, &descriptor, &services.secrets) {
            Ok(None) => {
                this.note_searched(&services.secrets);
                Ok(())
            }
            Ok(Some((found, path))) => Err(Secrets::refusal(&found, &format!("/{} in the layer of an earlier build", path))),
            Err(error) => Err(BuildError::new(Kind::Store, format!("cannot read layer {}: {}", descriptor.digest, chain(&*error)))),
        })
        .await
    }
}

/// Takes a piece of work alone among all processes. Asks again and again instead of blocking a thread, so that a build
/// that is given up doesn't wait for another.
pub async fn lease(store: &Store, key: &str, on_wait: impl FnOnce()) -> Result<Lease, BuildError> {
    let mut pause = Duration::from_millis(1);
    let mut on_wait = Some(on_wait);
    loop {
        if let Some(lease) = store.try_lease(LeaseKind::Step, key).map_err(BuildError::store)? {
            return Ok(lease);
        }
        // Most of those who are ahead are only looking, or nearly done: not worth a line.
        if pause > Duration::from_millis(50)
            && let Some(on_wait) = on_wait.take()
        {
            on_wait();
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// The directories of a stack, top first.
pub async fn directories(stack: &[Arc<Layer>], services: &Services, progress: &Arc<dyn Progress>) -> Result<Vec<PathBuf>, BuildError> {
    let all = futures_util::future::try_join_all(stack.iter().map(|layer| layer.directory(services, progress)));
    let mut list = all.await?;
    list.reverse();
    Ok(list)
}

/// The directories of a stack that a mount of it needs, top first: without those that change nothing, as most of a
/// Dockerfile's checks do. The uppermost is always among them: it has the attributes of the root.
pub async fn mounted_directories(
    stack: &[Arc<Layer>],
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<PathBuf>, BuildError> {
    let all = directories(stack, services, progress).await?;
    let matters = |(index, (path, layer)): &(usize, (PathBuf, &Arc<Layer>))| *index == 0 || !layer.is_empty(path);
    Ok(all.into_iter().zip(stack.iter().rev()).enumerate().filter(matters).map(|(_, (path, _))| path).collect())
}

/// Opens directories as roots.
pub fn open_roots(paths: &[PathBuf]) -> std::io::Result<Vec<RootDir>> {
    paths.iter().map(|path| RootDir::open(path)).collect()
}

/// `sha256:0123456789ab`.
pub fn short(digest: &Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}

/// Runs what blocks on a thread of its own; a panic there is a panic here. Never returns once the runtime shuts down.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// The value of a task; a panic there is a panic here. Tasks are only cancelled by the runtime's end, and then so are we.
pub async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}
