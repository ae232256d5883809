//! `rbuild index create`: an index of images that were built for one platform each, here or by native runners.

use std::{process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};
use futures_util::future::FutureExt;

use crate::{
    build::{Progress, Services, Silent, StepId, chain},
    cli::{
        absent::{self, Absent},
        annotations::{Annotation, AnnotationKind},
        args::Cli,
        failure::Failure,
        find, services, write,
    },
    export::{self, ImageOptions, Obtain},
    oci::{Descriptor, Platform, Reference, media_type},
    registry::Client,
    store::{Store, StoreError},
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
        let mut sources = Vec::new();
        for source in &args.sources {
            sources.push(Source::find(source, &services, &client).await?);
        }
        let manifests = sources.iter().flat_map(|source| source.manifests.clone()).collect();
        let top = join(manifests, &annotations, &services)?;
        match args.push {
            true => push(&top, &name, &sources, &services, &client).await?,
            false => keep(&top, &name, &sources, &services, &client).await?,
        }
        Ok::<_, Failure>(top.digest)
    })?;
    println!("{digest}");
    Ok(ExitCode::SUCCESS)
}

/// An image that is joined.
struct Source {
    /// Its manifest, or all of an index's, each with its platform.
    manifests: Vec<Descriptor>,
    /// Where it is, if not in the store: of it the store has manifests alone.
    from: Option<Reference>,
}

impl Source {
    async fn find(source: &str, services: &Services, client: &Client) -> Result<Self, Failure> {
        let store = &services.store;
        let from: Option<Reference> =
            source.strip_prefix("docker://").map(str::parse).transpose().map_err(|error| Failure::usage(format!("{error}")))?;
        let top = match &from {
            Some(name) => export::import_manifests(store, client, name).await.map_err(not_read)?,
            None => find::descriptor(store, source)?,
        };
        if media_type::is_index(&top.media_type) {
            return Ok(Self { manifests: store.index_blob(&top.digest).map_err(broken)?.manifests, from });
        }
        if let Some(name) = &from {
            // Nothing else says what it is for.
            let config = store.manifest(&top.digest).map_err(broken)?.config;
            export::fetch_blob(store, client, name, &config).await.map_err(not_read)?;
        }
        let image = store.image(&top, &Platform::host()).map_err(broken)?;
        Ok(Self { manifests: vec![Descriptor { platform: Some(image.platform), annotations: Default::default(), ..top }], from })
    }

    /// Registries' images that have what the store may lack of it.
    fn places(&self, store: &Store) -> Result<Vec<Reference>, Failure> {
        if let Some(name) = &self.from {
            return Ok(vec![name.clone()]);
        }
        let absent = self.manifests.iter().map(|manifest| Absent::of(store, manifest).map(|absent| absent.places()));
        Ok(absent.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

fn not_read(error: export::ExportError) -> Failure {
    Failure::new(chain(&error))
}

fn broken(error: StoreError) -> Failure {
    Failure::new(chain(&error))
}

/// All places of all sources, each once.
fn places(sources: &[Source], store: &Store) -> Result<Vec<Reference>, Failure> {
    let mut all = sources.iter().map(|source| source.places(store)).collect::<Result<Vec<_>, _>>()?.concat();
    all.sort();
    all.dedup();
    Ok(all)
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

/// What the registry has already, in another repository too, is not moved.
async fn push(top: &Descriptor, name: &Reference, sources: &[Source], services: &Services, client: &Client) -> Result<(), Failure> {
    let (reporter, steps) = absent::shown();
    let places = places(sources, &services.store)?;
    let obtain = from_any(places.clone(), services, client);
    let pushed = write::push(top, std::slice::from_ref(name), &places, &*obtain, client, services, &steps).await;
    reporter.stop();
    pushed
}

/// Layers stay in their registries until something needs them: that they are there is noted before they have a name here.
async fn keep(top: &Descriptor, name: &Reference, sources: &[Source], services: &Services, client: &Client) -> Result<(), Failure> {
    let store = &services.store;
    for source in sources {
        let Some(from) = &source.from else { continue };
        let manifests = source.manifests.iter().map(|manifest| export::manifests(store, manifest));
        for manifest in manifests.collect::<Result<Vec<_>, _>>().map_err(not_read)?.concat() {
            export::fetch_blob(store, client, from, &manifest.config).await.map_err(not_read)?;
            for layer in manifest.layers.iter().filter(|layer| !layer.extra.contains_key("urls")) {
                if !store.has_described(layer).map_err(broken)? {
                    store.note_origin(layer, from).map_err(broken)?;
                }
            }
        }
    }
    store.tag(name, top).map_err(broken)
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
