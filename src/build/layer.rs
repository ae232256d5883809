//! A layer of a build: one thing in two forms, a directory and a blob, each made from the other when it is first needed.
//! A fully cached build needs neither directories nor base blobs.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::OnceCell;

use crate::{
    build::{
        BuildError, Event, Kind, Progress, StepId,
        error::chain,
        request::{LayerPolicy, Services},
        secrets::{self, Searching, Secrets},
    },
    oci::{ChainId, Descriptor, Digest, Reference},
    snapshot::{self, ApplyOptions, TimestampPolicy},
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
    origin: Origin,
    /// The layers that it was made on; none for a layer of COPY --link.
    below: Stack,
    directory: OnceCell<Result<PathBuf, BuildError>>,
    /// One cell for each way it is written.
    blobs: Mutex<Vec<(LayerPolicy, BlobCell)>>,
    /// When packing it began and how long it took.
    packed: Mutex<Option<(Instant, Duration)>>,
}

type BlobCell = Arc<OnceCell<Result<crate::oci::Layer, BuildError>>>;

// One per layer, and a handful of layers: a box would save nothing.
#[allow(clippy::large_enum_variant)]
enum Origin {
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
    pub fn base_stack(layers: &[crate::oci::Layer], source: &BlobSource, step: StepId) -> Stack {
        let mut stack: Stack = Vec::with_capacity(layers.len());
        let mut chain: Option<ChainId> = None;
        for layer in layers {
            let id = ChainId::on(chain.as_ref(), &layer.diff_id);
            let snapshot = SnapshotId::of_chain("base", &id);
            let origin = Origin::Base { layer: Box::new(layer.clone()), source: source.clone(), step };
            stack.push(Arc::new(Self {
                snapshot,
                origin,
                below: stack.clone(),
                directory: OnceCell::new(),
                blobs: Mutex::default(),
                packed: Mutex::default(),
            }));
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
        Self { snapshot, origin, below, directory: OnceCell::new(), blobs: Mutex::default(), packed: Mutex::default() }
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

    /// The image in a registry that a base layer came with.
    pub fn came_with(&self) -> Option<&Reference> {
        match &self.origin {
            Origin::Base { source: BlobSource::Registry(reference), .. } => Some(reference),
            _ => None,
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
                    fetch(&layer.descriptor, source, *step, services, progress).await?;
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

    async fn unpack(self: &Arc<Self>, services: &Services, progress: &Arc<dyn Progress>) -> Result<PathBuf, BuildError> {
        let layer = match &self.origin {
            Origin::Base { layer, source, step } => {
                // All of them are fetched at once; each is unpacked when those below it are.
                let fetched = fetch(&layer.descriptor, source, *step, services, progress);
                let (fetched, below) = tokio::join!(fetched, Box::pin(directories(&self.below, services, progress)));
                fetched?;
                below?;
                (**layer).clone()
            }
            Origin::Step { .. } => {
                Box::pin(directories(&self.below, services, progress)).await?;
                let known: Vec<crate::oci::Layer> = self.known_blobs().into_iter().map(|(_, layer)| layer).collect();
                let present = known.iter().find(|layer| services.store.has_described(&layer.descriptor).unwrap_or(false));
                match present {
                    Some(layer) => layer.clone(),
                    None => fetch_cached(&known, services).await?,
                }
            }
        };
        let below = Box::pin(directories(&self.below, services, progress)).await?;
        let lease = lease(&services.store, &format!("unpack {}", self.snapshot.as_str()), || ()).await?;
        let this = self.clone();
        let services = services.clone();
        blocking(move || {
            let _lease = lease;
            this.unpack_blob(&layer, &below, &services)
        })
        .await
    }

    fn unpack_blob(&self, layer: &crate::oci::Layer, below: &[PathBuf], services: &Services) -> Result<PathBuf, BuildError> {
        let store = &services.store;
        if let Some(path) = store.snapshot(&self.snapshot).map_err(BuildError::store)? {
            return Ok(path.join("fs"));
        }
        let draft = store.new_snapshot().map_err(BuildError::store)?;
        let blob = store.open_described(&layer.descriptor).map_err(BuildError::store)?;
        let fail = |error: &dyn std::error::Error| {
            BuildError::new(Kind::Base, format!("cannot unpack layer {}: {}", layer.descriptor.digest, chain(error)))
        };
        let mut tar = HashingReader { inner: snapshot::decompress(blob).map_err(|error| fail(&error))?, hasher: crate::oci::Sha256::new() };
        let dest = RootDir::open(&draft.fs()).map_err(|error| fail(&error))?;
        let lowers = open_roots(below).map_err(|error| fail(&error))?;
        let options = ApplyOptions { ownership: services.ownership, ..ApplyOptions::default() };
        snapshot::apply_layer(&mut tar, &dest, &lowers, &options).map_err(|error| fail(&error))?;
        std::io::copy(&mut tar, &mut std::io::sink()).map_err(|error| fail(&error))?;
        let found = tar.hasher.finish();
        if found != layer.diff_id.0 {
            let message = format!("layer {} unpacks to {found}, the image's config says {}", layer.descriptor.digest, layer.diff_id);
            return Err(BuildError::new(Kind::Base, message).with_hint("the image is damaged or forged; pull it from another place"));
        }
        draft.set_layer(layer).map_err(BuildError::store)?;
        Ok(draft.commit(&self.snapshot).map_err(BuildError::store)?.join("fs"))
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
        let upper = self.directory(services, progress).await?;
        let below = Box::pin(directories(&self.below, services, progress)).await?;
        let services = services.clone();
        let secrets = services.secrets.clone();
        let started = Instant::now();
        let layer = blocking(move || pack_directory(&upper, &below, policy, &services)).await?;
        *self.packed.lock().expect("no holder panics") = Some((started, started.elapsed()));
        self.note_searched(&secrets);
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

fn pack_directory(upper: &Path, below: &[PathBuf], policy: LayerPolicy, services: &Services) -> Result<crate::oci::Layer, BuildError> {
    let fail = |error: &dyn std::error::Error| BuildError::new(Kind::Step, format!("cannot write the layer: {}", chain(error)));
    let root = RootDir::open(upper).map_err(|error| fail(&error))?;
    let lowers = open_roots(below).map_err(|error| fail(&error))?;
    let changes = snapshot::diff_overlay(&root, &lowers).map_err(|error| fail(&error))?;
    let timestamps = match policy.clamp_to {
        None => TimestampPolicy::Keep,
        Some(epoch) if policy.all_times => TimestampPolicy::Set(epoch),
        Some(epoch) => TimestampPolicy::Clamp(epoch),
    };
    let blob = services.store.blob_writer().map_err(BuildError::store)?.hashed_by_caller();
    let writer = snapshot::LayerWriter::new(blob, policy.compression, &services.pool).map_err(|error| fail(&error))?;
    let mut writer = Searching::new(writer, &services.secrets);
    snapshot::write_layer(&changes, &root, &mut writer, timestamps).map_err(|error| fail(&error))?;
    let (writer, found) = writer.finish();
    if let Some(found) = found {
        // The blob has no name yet, and gets none.
        let path = secrets::name_file(&changes, &root, &services.secrets).unwrap_or_default();
        return Err(Secrets::refusal(&found, &format!("/{path}")));
    }
    let (blob, written) = writer.finish().map_err(|error| fail(&error))?;
    blob.complete_hashed(&written.digest, written.size_bytes).map_err(BuildError::store)?;
    let descriptor = Descriptor::new(policy.compression.media_type(), written.digest, written.size_bytes);
    Ok(crate::oci::Layer { descriptor, diff_id: written.diff_id })
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

/// Opens directories as roots.
pub fn open_roots(paths: &[PathBuf]) -> std::io::Result<Vec<RootDir>> {
    paths.iter().map(|path| RootDir::open(path)).collect()
}

/// One of a step's blobs out of a cache elsewhere.
async fn fetch_cached(known: &[crate::oci::Layer], services: &Services) -> Result<crate::oci::Layer, BuildError> {
    let gone = || BuildError::new(Kind::Store, "a cached layer is gone from the store");
    let remote = services.remote.as_ref().ok_or_else(gone)?;
    let layer = known.iter().find(|layer| remote.has(&layer.descriptor)).ok_or_else(gone)?;
    let failed = |reason| BuildError::new(Kind::Cache, format!("a layer of the cache can't be had: {reason}"));
    remote.fetch(layer.descriptor.clone()).await.map_err(failed)?;
    Ok(layer.clone())
}

/// Makes sure that the store has the blob.
async fn fetch(
    descriptor: &Descriptor,
    source: &BlobSource,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<(), BuildError> {
    if services.store.has_described(descriptor).map_err(BuildError::store)? {
        return Ok(());
    }
    match source {
        BlobSource::Registry(reference) if services.offline => {
            let message = format!("layer {} of {reference} is not in the store, and --offline asks no registry", descriptor.digest);
            Err(BuildError::new(Kind::Base, message).with_hint("build once without --offline"))
        }
        BlobSource::Registry(reference) => pull(descriptor, reference, step, services, progress).await,
        BlobSource::Layout(path) => {
            let (descriptor, path, services) = (descriptor.clone(), path.clone(), services.clone());
            blocking(move || copy_from_layout(&descriptor, &path, &services)).await
        }
        BlobSource::Store => Err(BuildError::new(Kind::Base, format!("blob {} is gone from the store", descriptor.digest))),
    }
}

async fn pull(
    descriptor: &Descriptor,
    reference: &Reference,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<(), BuildError> {
    let what = format!("pull {}", short(&descriptor.digest));
    let total = Some(descriptor.size);
    let moved = |done| progress.event(Event::Moved { step, what: &what, done_bytes: done, total_bytes: total });
    let writer = services.store.blob_writer().map_err(BuildError::store)?;
    let mut sink = super::bases::BlobSink::new(writer);
    let fail = |error: crate::registry::Error| BuildError::new(Kind::Base, format!("cannot pull {reference}: {}", chain(&error)));
    services.client.fetch_blob(reference, descriptor, &mut sink, moved).await.map_err(fail)?;
    sink.into_inner().complete_verified_as(&descriptor.digest, descriptor.size).map_err(BuildError::store)
}

fn copy_from_layout(descriptor: &Descriptor, layout: &Path, services: &Services) -> Result<(), BuildError> {
    let path = layout.join("blobs/sha256").join(descriptor.digest.hex());
    let fail = |error: std::io::Error| BuildError::new(Kind::Base, format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(&path).map_err(fail)?;
    let mut writer = services.store.blob_writer().map_err(BuildError::store)?;
    std::io::copy(&mut file, &mut writer).map_err(fail)?;
    writer.flush().map_err(fail)?;
    writer.complete_verified_as(&descriptor.digest, descriptor.size).map_err(BuildError::store)
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

/// Hashes what is read through it.
struct HashingReader<R> {
    inner: R,
    hasher: crate::oci::Sha256,
}

impl<R: std::io::Read> std::io::Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
