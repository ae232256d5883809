//! The blob of a layer brought into the store, from wherever it can be had: the store's own images may have layers that
//! have not been needed yet. Unaware of what is in it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use crate::{
    build::{
        BuildError, Event, Kind, Progress, StepId,
        arriving::{ArrivingSink, arriving},
        error::{chain, registry_hint},
        layer::{BlobSource, blocking, lease, short},
        request::Services,
    },
    oci::{Descriptor, Reference},
    registry::{self, Client},
    snapshot::Ahead,
    store::Store,
};

/// One of a step's blobs out of a cache elsewhere.
pub async fn fetch_cached(known: &[crate::oci::Layer], services: &Services) -> Result<crate::oci::Layer, BuildError> {
    let gone = || BuildError::new(Kind::Store, "a cached layer is gone from the store");
    let remote = services.remote.as_ref().ok_or_else(gone)?;
    let layer = known.iter().find(|layer| remote.has(&layer.descriptor)).ok_or_else(gone)?;
    let failed = |reason| BuildError::new(Kind::Cache, format!("a layer of the cache can't be had: {reason}"));
    remote.fetch(layer.descriptor.clone()).await.map_err(failed)?;
    // The digest says that these are the bytes that were meant, not that they are the layer.
    let blob = services.store.open_described(&layer.descriptor).map_err(BuildError::store)?;
    let diff_id = blocking(move || Ahead::new(blob)?.finish()).await.map_err(|error| {
        remote.distrust(&layer.descriptor);
        failed(error.to_string())
    })?;
    if diff_id != layer.diff_id {
        remote.distrust(&layer.descriptor);
        return Err(failed(format!("{} unpacks to {diff_id}, not to {}", layer.descriptor.digest, layer.diff_id)));
    }
    Ok(layer.clone())
}

/// What fetching takes. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    /// Where blobs go.
    pub store: Store,
    /// Registries.
    pub client: Client,
    /// No connection may be opened.
    pub offline: bool,
}

impl Services {
    /// What fetching takes of it.
    pub fn fetcher(&self) -> Fetcher {
        Fetcher { store: self.store.clone(), client: self.client.clone(), offline: self.offline }
    }
}

impl Fetcher {
    /// Makes sure that the store has a layer of one of its images, of a base that it came from or was noted to come from.
    pub async fn fetch_layer(&self, layer: &Descriptor, step: StepId, progress: &Arc<dyn Progress>) -> Result<(), BuildError> {
        self.fetch(layer, &BlobSource::Store, step, progress).await
    }

    /// Makes sure that the store has the blob.
    pub(super) async fn fetch(
        &self,
        descriptor: &Descriptor,
        source: &BlobSource,
        step: StepId,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), BuildError> {
        if self.store.has_described(descriptor).map_err(BuildError::store)? {
            return Ok(());
        }
        if let BlobSource::Layout(path) = source {
            let (descriptor, path, store) = (descriptor.clone(), path.clone(), self.store.clone());
            return blocking(move || copy_from_layout(&descriptor, &path, &store)).await;
        }
        let gone = BuildError::new(Kind::Base, format!("layer {} is gone from the store", descriptor.digest));
        let mut result = Err(gone.with_hint("build the image again"));
        for reference in self.registries(descriptor, source)? {
            if self.offline {
                let message = format!("layer {} of {reference} is not in the store, and --offline asks no registry", descriptor.digest);
                return Err(BuildError::new(Kind::Base, message).with_hint("build once without --offline, or `rbuild images --fetch`"));
            }
            result = self.pull(descriptor, &reference, step, progress).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The images of registries that have a blob, in the order in which they are asked.
    fn registries(&self, descriptor: &Descriptor, source: &BlobSource) -> Result<Vec<Reference>, BuildError> {
        match source {
            BlobSource::Registry(reference) => Ok(vec![reference.clone()]),
            BlobSource::Layout(_) => Ok(Vec::new()),
            BlobSource::Store => self.store.origins(descriptor).map_err(BuildError::store),
        }
    }

    /// Downloads a blob, from the next host if one has wrong bytes.
    async fn pull(
        &self,
        descriptor: &Descriptor,
        reference: &Reference,
        step: StepId,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), BuildError> {
        let _lease = lease(&self.store, &format!("pull {}", descriptor.digest), || ()).await?;
        let mut wrong = BTreeSet::new();
        while !self.store.has_described(descriptor).map_err(BuildError::store)? {
            let (sink, _) = arriving(self.store.blob_writer().map_err(BuildError::store)?)?;
            match self.pull_into(sink, descriptor, reference, step, progress).await {
                // That mirror rests now: another one is asked.
                Err((Some(host), _)) if wrong.insert(host.clone()) => {}
                result => return result.map_err(|(_, error)| error),
            }
        }
        Ok(())
    }

    /// One download. A failure names the host if it was its bytes that were wrong.
    async fn pull_into(
        &self,
        mut sink: ArrivingSink,
        descriptor: &Descriptor,
        reference: &Reference,
        step: StepId,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), (Option<String>, BuildError)> {
        let what = format!("pull {}", short(&descriptor.digest));
        let total = Some(descriptor.size);
        let moved = |done| progress.event(Event::Moved { step, what: &what, done_bytes: done, total_bytes: total });
        let pulled = self.client.fetch_blob(reference, descriptor, &mut sink, moved).await;
        pulled.map_err(|error| {
            let failed = unfetched(descriptor, reference, &error);
            let liar = match error {
                registry::Error::DigestMismatch { host, .. } => Some(host),
                _ => None,
            };
            (liar, failed)
        })?;
        // The client has hashed what it gave us.
        let named = sink.whole().complete_hashed(&descriptor.digest, descriptor.size);
        named.map_err(|error| (None, BuildError::store(error)))
    }
}

/// A blob's bytes as they are read.
pub type BlobReader = Box<dyn Read + Send>;

/// Hands a blob to `work`, while it is downloaded if it is not in the store. Nothing that `work` gives counts before the
/// blob is verified; if it made nothing of the first bytes that came, it gets the verified ones.
pub async fn with_blob<T: Send + 'static>(
    descriptor: &Descriptor,
    source: &BlobSource,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
    work: impl Fn(BlobReader) -> Result<T, BuildError> + Send + Sync + 'static,
) -> Result<T, BuildError> {
    let work = Arc::new(work);
    let fetcher = services.fetcher();
    let registries = fetcher.registries(descriptor, source)?;
    if let Some(reference) = registries.first()
        && !services.offline
        && !services.store.has_described(descriptor).map_err(BuildError::store)?
    {
        let _lease = lease(&services.store, &format!("pull {}", descriptor.digest), || ()).await?;
        if !services.store.has_described(descriptor).map_err(BuildError::store)? {
            let (sink, reader) = arriving(services.store.blob_writer().map_err(BuildError::store)?)?;
            let work = work.clone();
            let working = blocking(move || work(Box::new(reader)));
            let (pulled, done) = tokio::join!(fetcher.pull_into(sink, descriptor, reference, step, progress), working);
            match (pulled, done) {
                (Ok(()), Ok(value)) => return Ok(value),
                (Ok(()), Err(_)) | (Err((Some(_), _)), _) => {}
                (Err((None, error)), _) if registries.len() == 1 => return Err(error),
                // Others may have it.
                (Err((None, _)), _) => {}
            }
        }
    }
    fetcher.fetch(descriptor, source, step, progress).await?;
    let blob = services.store.open_described(descriptor).map_err(BuildError::store)?;
    blocking(move || work(Box::new(blob))).await
}

/// Says which layer, and where it was expected.
fn unfetched(descriptor: &Descriptor, reference: &Reference, error: &registry::Error) -> BuildError {
    let failed = BuildError::new(Kind::Base, format!("cannot pull layer {} of {reference}: {}", descriptor.digest, chain(error)));
    let gone = format!("it is no longer at {}: build again, from a base that is there", reference.familiar());
    registry_hint(error, &gone).into_iter().fold(failed, BuildError::with_hint)
}

fn copy_from_layout(descriptor: &Descriptor, layout: &Path, store: &Store) -> Result<(), BuildError> {
    let path = layout.join("blobs/sha256").join(descriptor.digest.hex());
    let fail = |error: std::io::Error| BuildError::new(Kind::Base, format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(&path).map_err(fail)?;
    let mut writer = store.blob_writer().map_err(BuildError::store)?;
    std::io::copy(&mut file, &mut writer).map_err(fail)?;
    writer.flush().map_err(fail)?;
    writer.complete_verified_as(&descriptor.digest, descriptor.size).map_err(BuildError::store)
}
