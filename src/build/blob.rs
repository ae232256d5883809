//! The blob of a layer brought into the store, from wherever it can be had. Unaware of what is in it.

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
        error::chain,
        layer::{BlobSource, blocking, lease, short},
        request::Services,
    },
    oci::{Descriptor, Reference},
    snapshot::Ahead,
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

/// Makes sure that the store has the blob.
pub async fn fetch(
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
    if let BlobSource::Registry(reference) = source
        && !services.offline
        && !services.store.has_described(descriptor).map_err(BuildError::store)?
    {
        let _lease = lease(&services.store, &format!("pull {}", descriptor.digest), || ()).await?;
        if !services.store.has_described(descriptor).map_err(BuildError::store)? {
            let (sink, reader) = arriving(services.store.blob_writer().map_err(BuildError::store)?)?;
            let work = work.clone();
            let working = blocking(move || work(Box::new(reader)));
            let (pulled, done) = tokio::join!(pull_into(sink, descriptor, reference, step, services, progress), working);
            match (pulled, done) {
                (Ok(()), Ok(value)) => return Ok(value),
                (Ok(()), Err(_)) | (Err((Some(_), _)), _) => {}
                (Err((None, error)), _) => return Err(error),
            }
        }
    }
    fetch(descriptor, source, step, services, progress).await?;
    let blob = services.store.open_described(descriptor).map_err(BuildError::store)?;
    blocking(move || work(Box::new(blob))).await
}

/// Downloads a blob, from the next host if one has wrong bytes.
async fn pull(
    descriptor: &Descriptor,
    reference: &Reference,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<(), BuildError> {
    let _lease = lease(&services.store, &format!("pull {}", descriptor.digest), || ()).await?;
    let mut wrong = BTreeSet::new();
    while !services.store.has_described(descriptor).map_err(BuildError::store)? {
        let (sink, _) = arriving(services.store.blob_writer().map_err(BuildError::store)?)?;
        match pull_into(sink, descriptor, reference, step, services, progress).await {
            // That mirror rests now: another one is asked.
            Err((Some(host), _)) if wrong.insert(host.clone()) => {}
            result => return result.map_err(|(_, error)| error),
        }
    }
    Ok(())
}

/// One download. A failure names the host if it was its bytes that were wrong.
async fn pull_into(
    mut sink: ArrivingSink,
    descriptor: &Descriptor,
    reference: &Reference,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<(), (Option<String>, BuildError)> {
    let what = format!("pull {}", short(&descriptor.digest));
    let total = Some(descriptor.size);
    let moved = |done| progress.event(Event::Moved { step, what: &what, done_bytes: done, total_bytes: total });
    let pulled = services.client.fetch_blob(reference, descriptor, &mut sink, moved).await;
    pulled.map_err(|error| {
        let message = format!("cannot pull {reference}: {}", chain(&error));
        let liar = match error {
            crate::registry::Error::DigestMismatch { host, .. } => Some(host),
            _ => None,
        };
        (liar, BuildError::new(Kind::Base, message))
    })?;
    // The client has hashed what it gave us.
    let named = sink.whole().complete_hashed(&descriptor.digest, descriptor.size);
    named.map_err(|error| (None, BuildError::store(error)))
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
