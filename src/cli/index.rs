//! `rbuild index create`: an index of images that were built for one platform each, here or by native runners.

use std::{process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};
use futures_util::future::FutureExt;

use crate::{
    build::{Progress, Services, Silent, StepId, chain},
    cli::{
        annotations::{Annotation, AnnotationKind},
        args::Cli,
        failure::Failure,
        find,
        progress::{Mode, Place, Reporter},
        services, write,
    },
    export::{self, ImageOptions, Obtain},
    oci::{Descriptor, Platform, Reference, media_type},
    registry::Client,
};

/// `rbuild index`.
#[derive(Debug, Args, Clone)]
pub struct IndexArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: IndexVerb,
}

/// Verbs of `rbuild index`.
#[derive(Debug, Subcommand, Clone)]
pub enum IndexVerb {
    /// Join images of one platform each into an index
    Create(CreateArgs),
}

/// `rbuild index create`.
#[derive(Debug, Args, Clone)]
pub struct CreateArgs {
    /// Name of the index
    pub name: String,
    /// Images: names or digests of the store, or docker://NAME
    #[arg(required = true)]
    pub sources: Vec<String>,
    /// Push it; what its registry has is not moved
    #[arg(long)]
    pub push: bool,
    /// Annotation of the index
    #[arg(long = "annotation", value_name = "[TYPE:]NAME=VALUE")]
    pub annotations: Vec<String>,
    /// Accept plain http and unverified TLS
    #[arg(long)]
    pub insecure: bool,
}

/// `rbuild index create`.
pub fn index(cli: &Cli, args: &IndexArgs) -> Result<ExitCode, Failure> {
    let IndexVerb::Create(args) = &args.verb;
    let name: Reference = args.name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let annotations = args.annotations.iter().map(|text| Annotation::parse_flag(text)).collect::<Result<Vec<_>, _>>()?.concat();
    let entered = services::enter(cli)?;
    let services = services::services(cli, &entered, Default::default())?;
    let remote: Vec<Reference> = args.sources.iter().filter_map(|text| text.strip_prefix("docker://")?.parse().ok()).collect();
    let mut insecure: Vec<String> = remote.iter().chain([&name]).map(|name| name.registry().to_owned()).collect();
    insecure.retain(|_| args.insecure);
    let client = services::client(&insecure)?;
    let runtime = services::runtime()?;
    let digest = runtime.block_on(async {
        let mut manifests = Vec::new();
        for source in &args.sources {
            manifests.extend(manifests_of(source, &services, &client).await?);
        }
        let top = join(manifests, &annotations, &services)?;
        match args.push {
            true => push(&top, &name, &remote, &services, &client).await?,
            false => keep(&top, &name, &remote, &services, &client).await?,
        }
        Ok::<_, Failure>(top.digest)
    })?;
    println!("{digest}");
    Ok(ExitCode::SUCCESS)
}

/// An image's manifest, or all of an index's, each with its platform.
async fn manifests_of(source: &str, services: &Services, client: &Client) -> Result<Vec<Descriptor>, Failure> {
    let store = &services.store;
    let fail = |error: crate::store::StoreError| Failure::new(chain(&error));
    let top = match source.strip_prefix("docker://") {
        Some(name) => {
            let name: Reference = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
            export::import_metadata(store, client, &name).await.map_err(|error| Failure::new(chain(&error)))?
        }
        None => find::descriptor(store, source)?,
    };
    if media_type::is_index(&top.media_type) {
        return Ok(store.index_blob(&top.digest).map_err(fail)?.manifests);
    }
    let image = store.image(&top, &Platform::host()).map_err(fail)?;
    Ok(vec![Descriptor { platform: Some(image.platform), annotations: Default::default(), ..top }])
}

fn join(manifests: Vec<Descriptor>, annotations: &[Annotation], services: &Services) -> Result<Descriptor, Failure> {
    for (position, manifest) in manifests.iter().enumerate() {
        let twin = |other: &&Descriptor| other.platform == manifest.platform && other.platform.as_ref().is_some_and(|p| p.os != "unknown");
        if let Some(other) = manifests[..position].iter().find(twin) {
            let platform = manifest.platform.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(Failure::new(format!("{} and {} are both for {platform}", other.digest, manifest.digest)));
        }
    }
    let of_index = annotations.iter().filter(|annotation| matches!(annotation.kind, AnnotationKind::Index | AnnotationKind::Manifest));
    let index_annotations = of_index.map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect();
    let options = ImageOptions { index_annotations, ..ImageOptions::default() };
    export::write_index(&services.store, manifests, &options).map_err(|error| Failure::new(chain(&error)))
}

async fn push(top: &Descriptor, name: &Reference, remote: &[Reference], services: &Services, client: &Client) -> Result<(), Failure> {
    let place = Place::here();
    let reporter = Reporter::new(place.mode("auto").unwrap_or(Mode::Plain), place);
    let steps = write::Steps::new(reporter.clone());
    let obtain = from_any(remote.to_vec(), services, client);
    let pushed = write::push(top, std::slice::from_ref(name), remote, &*obtain, client, services, &steps).await;
    reporter.stop();
    pushed
}

/// What came from registries is fetched; layers that images of the store have elsewhere stay there.
async fn keep(top: &Descriptor, name: &Reference, remote: &[Reference], services: &Services, client: &Client) -> Result<(), Failure> {
    let obtain = from_any(remote.to_vec(), services, client);
    let fail = |error: crate::store::StoreError| Failure::new(chain(&error));
    for entry in services.store.index_blob(&top.digest).map_err(fail)?.manifests {
        for layer in services.store.manifest(&entry.digest).map_err(fail)?.layers {
            if !services.store.has_described(&layer).map_err(fail)? && services.store.origins(&layer).map_err(fail)?.is_empty() {
                obtain(layer).await.map_err(Failure::new)?;
            }
        }
    }
    services.store.tag(name, top).map_err(fail)
}

/// From whichever of the sources has it, or where the store's own image has it.
fn from_any(sources: Vec<Reference>, services: &Services, client: &Client) -> Box<Obtain> {
    let (store, client, fetcher) = (services.store.clone(), client.clone(), services.fetcher());
    Box::new(move |blob: Descriptor| {
        let (sources, store, client, fetcher) = (sources.clone(), store.clone(), client.clone(), fetcher.clone());
        async move {
            let silent: Arc<dyn Progress> = Arc::new(Silent);
            let Err(error) = fetcher.fetch_layer(&blob, StepId(0), &silent).await else { return Ok(()) };
            let mut reason = error.message;
            for source in &sources {
                match export::fetch_blob(&store, &client, source, &blob).await {
                    Ok(()) => return Ok(()),
                    Err(error) => reason = chain(&error),
                }
            }
            Err(reason)
        }
        .boxed()
    })
}
