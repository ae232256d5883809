//! Caches that a build's steps are given to: blobs first, the name last. Unaware of how they are read.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use futures_util::future::FutureExt;

use super::{
    CONFIG_TYPE, Caches, MANIFEST_LIMIT, chosen, client, config,
    outlines::{self, OutlineEntry},
    s3::Bucket,
    shown,
    spec::{Place, Spec},
};
use crate::{
    build::{CacheEntry, Event, KnownLayer, Outcome, Progress, Services, chain},
    cli::{
        args::BuildArgs,
        failure::Failure,
        write::{self, Steps},
    },
    export::{self, LayoutOptions, Obtain},
    oci::{Annotations, Descriptor, Manifest, Reference, media_type},
};

/// Gives the steps of a build to every `--cache-to`.
pub async fn export(
    args: &BuildArgs,
    outcome: &Outcome,
    caches: Option<&Arc<Caches>>,
    services: &Services,
    steps: &Arc<Steps>,
) -> Result<(), Failure> {
    for text in &args.cache_to {
        let spec = Spec::parse("--cache-to", text)?;
        if spec.place == Place::Inline {
            continue;
        }
        let entries: Vec<CacheEntry> = outcome.platforms.iter().flat_map(|platform| chosen(&platform.cache, spec.mode)).collect();
        if entries.is_empty() {
            steps.event(Event::Note { step: None, text: "skipping cache export for empty result" });
            continue;
        }
        let writer = args.cache_writer.as_deref().unwrap_or_default();
        let known: Vec<&KnownLayer> = outcome.platforms.iter().flat_map(|platform| &platform.known_layers).collect();
        let told = caches.map(|caches| &caches.outlines);
        let outlines = outlines::collect(&known, told, writer, &services.store).map_err(Failure::new)?;
        let top = write_manifest(&entries, outlines, writer, services)?;
        let written = match &spec.place {
            Place::Registry { name, insecure } => {
                let client = client(name, *insecure, services);
                let obtain = obtain(caches);
                write::push(&top, std::slice::from_ref(name), &[], &*obtain, &client, services, steps).await
            }
            Place::Local { path, tag, reset, .. } => match gather(&top, caches, services).await {
                Ok(()) => write_directory(&top, path, tag, *reset, services, steps).await,
                failed => failed,
            },
            Place::S3(bucket) => write_bucket(&top, bucket, caches, services, steps).await,
            Place::Inline => Ok(()),
        };
        let text = &shown(text);
        match written {
            Err(failure) if spec.ignore_error => {
                let text = format!("warning: the cache {text} was not written: {}", failure.message);
                steps.event(Event::Note { step: None, text: &text });
            }
            written => written?,
        }
    }
    Ok(())
}

fn write_manifest(
    entries: &[CacheEntry],
    outlines: Vec<(OutlineEntry, Descriptor)>,
    writer: &str,
    services: &Services,
) -> Result<Descriptor, Failure> {
    let fail = |error: crate::store::StoreError| Failure::new(chain(&error));
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for blob in entries.iter().flat_map(|entry| &entry.blobs).filter(|blob| seen.insert(blob.digest.clone())) {
        layers.push(Descriptor { annotations: Annotations::new(), ..blob.clone() });
    }
    let mut config = config(entries, writer);
    for (entry, blob) in outlines {
        config.outlines.push(entry);
        layers.push(blob);
    }
    let config = serde_json::to_vec(&config).expect("plain data has a JSON form");
    let config = Descriptor::new(CONFIG_TYPE, services.store.put_blob(&config).map_err(fail)?, config.len() as u64);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: Annotations::new(),
    };
    let bytes = manifest.to_bytes();
    Ok(Descriptor::new(media_type::OCI_MANIFEST, services.store.put_blob(&bytes).map_err(fail)?, bytes.len() as u64))
}

/// Layers that only another cache has are brought here first.
async fn gather(top: &Descriptor, caches: Option<&Arc<Caches>>, services: &Services) -> Result<(), Failure> {
    let store = &services.store;
    let fail = |error: crate::store::StoreError| Failure::new(format!("cannot write the cache: {}", chain(&error)));
    let obtain = obtain(caches);
    for blob in store.manifest(&top.digest).map_err(fail)?.layers {
        if !store.has_described(&blob).map_err(fail)? {
            obtain(blob).await.map_err(|reason| Failure::new(format!("cannot write the cache: {reason}")))?;
        }
    }
    Ok(())
}

async fn write_directory(
    top: &Descriptor,
    path: &Path,
    tag: &str,
    reset: bool,
    services: &Services,
    steps: &Arc<Steps>,
) -> Result<(), Failure> {
    let name = format!("cache:{tag}").parse::<Reference>().map_err(|error| Failure::usage(format!("--cache-to tag={tag}: {error}")))?;
    let created = Some("1970-01-01T00:00:00Z".to_owned());
    let options = LayoutOptions { names: vec![name], created, ..LayoutOptions::default() };
    let fail = |error: export::ExportError| Failure::new(format!("cannot write the cache: {}", chain(&error)));
    let work = async |_| {
        if reset {
            export::empty_directory(path).map_err(fail)?;
        }
        export::write_oci_directory(&services.store, top, path, &options).map_err(fail)
    };
    steps.step(&format!("exporting cache to {}", path.display()), work).await
}

/// Blobs that are there are not sent again; the name comes last.
async fn write_bucket(
    top: &Descriptor,
    bucket: &Bucket,
    caches: Option<&Arc<Caches>>,
    services: &Services,
    steps: &Arc<Steps>,
) -> Result<(), Failure> {
    let store = &services.store;
    let fail = |reason: String| Failure::new(format!("cannot write the cache: {reason}"));
    let work = async |_| {
        let open = bucket.open(None).map_err(fail)?;
        let manifest = store.manifest(&top.digest).map_err(|error| fail(chain(&error)))?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if open.has(blob).await.map_err(fail)? {
                continue;
            }
            if !store.has_described(blob).map_err(|error| fail(chain(&error)))? {
                obtain(caches)(blob.clone()).await.map_err(fail)?;
            }
            open.put(blob, store).await.map_err(fail)?;
        }
        let bytes = store.read_blob(&top.digest, MANIFEST_LIMIT).map_err(|error| fail(chain(&error)))?;
        open.put_manifest(&bytes).await.map_err(fail)
    };
    steps.step(&format!("exporting cache to {bucket:?}"), work).await
}

/// Layers that were never needed here, out of the caches that have them.
fn obtain(caches: Option<&Arc<Caches>>) -> Box<Obtain> {
    let caches = caches.cloned();
    Box::new(move |blob: Descriptor| {
        let caches = caches.clone();
        async move {
            match caches {
                Some(caches) => caches.bring(&blob).await,
                None => Err(format!("blob {} is not in the store", blob.digest)),
            }
        }
        .boxed()
    })
}
