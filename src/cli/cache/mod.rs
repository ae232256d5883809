//! `--cache-from` and `--cache-to`: steps in registries, directories, buckets and images.
//!
//! A cache is an image manifest. Its config lists steps: key, record, blobs, who wrote them; its layers are the blobs, so
//! that registries keep them. Configs are read when the build starts, layers when a step needs them. A cache that fails is
//! a miss with a warning. An inline cache is the same list in the config of an image, whose layers are the blobs.
//!
//! Records are ours. BuildKit's own caches are recognised and said to be of no use: their keys are digests of the
//! operations of its build graph, which a builder with another graph can't work out, and a guess by history or layer would
//! be a hit that nobody can stand for.
//!
//! Each entry names its writer, and keeps it when it is passed on. A writer's name is what it says it is: who may write to
//! the place may use any, so places that are written by those who are not trusted must be other places.

mod s3;
mod spec;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use serde::{Deserialize, Serialize};

use self::{
    s3::S3,
    spec::{Place, Spec},
};
use crate::{
    build::{CacheEntry, CacheMode, Event, Outcome, Progress, RemoteCache, Services, chain},
    cli::{
        args::BuildArgs,
        failure::Failure,
        services,
        write::{self, Steps},
    },
    export::{self, LayoutOptions, Obtain},
    oci::{Annotations, Descriptor, Digest, Index, Manifest, Reference, media_type},
    registry::{Client, ClientOptions},
    store::{REF_NAME, Store},
};

/// What the config of a cache is.
const CONFIG_TYPE: &str = "application/vnd.rbuild.cacheconfig.v1+json";
/// Raised when records or keys change their meaning.
const VERSION: u32 = 1;
/// Configs larger than this are refused.
const CONFIG_LIMIT: u64 = 64 << 20;
/// Manifests larger than this are refused.
const MANIFEST_LIMIT: u64 = 16 << 20;
/// Failures in a row without progress before a cache is not there.
const ATTEMPTS: u32 = 4;
/// Where an image's config has its cache.
pub const INLINE_KEY: &str = "rbuild.cache.v1";
/// Where BuildKit puts its own.
const BUILDKIT_INLINE_KEY: &str = "moby.buildkit.cache.v0";
/// What the config of BuildKit's caches is.
const BUILDKIT_CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
const BUILDKITS: &str =
    "it is BuildKit's own cache, whose keys are digests of BuildKit's build graph: none of its steps can be told to be ours";

/// The config of a cache.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    version: u32,
    entries: Vec<Entry>,
}

/// A step.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    key: String,
    record: String,
    blobs: Vec<Digest>,
    /// Who says so.
    #[serde(default)]
    writer: String,
}

/// How much the build must have ready for all `--cache-to`.
pub fn export_mode(args: &BuildArgs) -> Result<Option<CacheMode>, Failure> {
    for text in &args.cache_from {
        Spec::parse("--cache-from", text)?;
    }
    let specs = args.cache_to.iter().map(|text| Spec::parse("--cache-to", text)).collect::<Result<Vec<_>, _>>()?;
    Ok(specs.iter().map(|spec| spec.mode).chain(is_inline(args).then_some(CacheMode::Min)).max())
}

/// Whether the image is to have its cache in itself; BuildKit's build argument asks for it too.
fn is_inline(args: &BuildArgs) -> bool {
    let by_flag = args.cache_to.iter().any(|text| Spec::parse("--cache-to", text).is_ok_and(|spec| spec.place == Place::Inline));
    by_flag || args.build_args.iter().any(|text| text == "BUILDKIT_INLINE_CACHE=1" || text == "BUILDKIT_INLINE_CACHE=true")
}

/// Puts the inline cache into the configs of the result.
pub fn put_inline(args: &BuildArgs, outcome: &mut Outcome) -> Result<(), Failure> {
    if !is_inline(args) {
        return Ok(());
    }
    if args.reproducible {
        let failure = Failure::usage(
            "--cache-to type=inline is no part of a reproducible image: its steps have identities of their own each time they run",
        );
        return Err(failure.with_hint("give the cache a place of its own: type=registry,ref=.."));
    }
    for platform in &mut outcome.platforms {
        let entries = chosen(&platform.cache, CacheMode::Min);
        let config = config(&entries, args.cache_writer.as_deref().unwrap_or_default());
        platform.image.config.extra.insert(INLINE_KEY.to_owned(), serde_json::to_value(config).expect("plain data has a JSON form"));
    }
    Ok(())
}

/// The entries with the layers that a mode has; what a step was is told of all of them.
fn chosen(entries: &[CacheEntry], mode: CacheMode) -> Vec<CacheEntry> {
    let is_whole = |entry: &CacheEntry| entry.in_result || mode == CacheMode::Max;
    let without_layer = |entry: &CacheEntry| CacheEntry { blobs: Vec::new(), ..entry.clone() };
    entries.iter().map(|entry| if is_whole(entry) { entry.clone() } else { without_layer(entry) }).collect()
}

/// The caches of one build.
pub struct Caches {
    store: Store,
    entries: BTreeMap<String, Entry>,
    blobs: BTreeMap<Digest, (Descriptor, Source)>,
    /// Once it has failed it is asked no more.
    has_failed: AtomicBool,
}

#[derive(Clone)]
enum Source {
    Registry(Client, Reference),
    Directory(PathBuf),
    Bucket(S3),
}

impl Caches {
    /// Reads what the caches of `--cache-from` say; one that can't be read is left out with a warning.
    pub async fn open(args: &BuildArgs, services: &Services, steps: &Arc<Steps>) -> Result<Option<Arc<Self>>, Failure> {
        if args.cache_from.is_empty() {
            return Ok(None);
        }
        let mut caches =
            Self { store: services.store.clone(), entries: BTreeMap::new(), blobs: BTreeMap::new(), has_failed: AtomicBool::new(false) };
        for text in &args.cache_from {
            let spec = Spec::parse("--cache-from", text)?;
            let added = match &spec.place {
                Place::Registry { name, insecure } => {
                    let client = client(name, *insecure, services)?.with_options(|options| be_hasty(options, spec.patience));
                    caches.add_registry(name, client, &args.cache_trust).await
                }
                Place::Local { path, tag, digest, .. } => caches.add_directory(path, tag, digest.as_ref(), &args.cache_trust),
                Place::S3(bucket) => caches.add_bucket(bucket, spec.patience, &args.cache_trust).await,
                Place::Inline => unreachable!("refused when it was read"),
            };
            let text = &shown(text);
            let text = match added {
                Ok((taken, all)) if taken < all => format!("cache {text}: {taken} of {all} steps are of trusted writers"),
                Ok((taken, _)) => format!("cache {text}: {taken} steps"),
                Err(reason) => format!("warning: the cache {text} is not used: {reason}"),
            };
            steps.event(Event::Note { step: None, text: &text });
        }
        Ok(Some(Arc::new(caches)))
    }

    async fn add_registry(&mut self, name: &Reference, client: Client, trust: &[String]) -> Result<(usize, usize), String> {
        let found = client.resolve(name).await.map_err(|error| chain(&error))?;
        if found.media_type == media_type::OCI_INDEX || found.media_type == media_type::DOCKER_INDEX {
            let index: Index = serde_json::from_slice(&found.bytes).map_err(|error| error.to_string())?;
            if index.manifests.iter().any(|entry| entry.media_type == BUILDKIT_CONFIG_TYPE) {
                return Err(BUILDKITS.to_owned());
            }
        }
        let top = export::import_metadata(&self.store, &client, name).await.map_err(|error| chain(&error))?;
        let manifests = match media_type::is_index(&top.media_type) {
            true => self.store.index_blob(&top.digest).map_err(|error| chain(&error))?.manifests,
            false => vec![top],
        };
        let source = Source::Registry(client, name.clone());
        let mut sum = (0, 0);
        for descriptor in manifests.iter().filter(|entry| !export::is_attestation(entry)) {
            let manifest = self.store.manifest(&descriptor.digest).map_err(|error| chain(&error))?;
            let config = self.store.read_blob(&manifest.config.digest, CONFIG_LIMIT).map_err(|error| chain(&error))?;
            let (taken, all) = self.add(&manifest, &config, &source, trust)?;
            sum = (sum.0 + taken, sum.1 + all);
        }
        Ok(sum)
    }

    fn add_directory(&mut self, path: &Path, tag: &str, digest: Option<&Digest>, trust: &[String]) -> Result<(usize, usize), String> {
        let read = |digest: &Digest| {
            let bytes = std::fs::read(path.join("blobs/sha256").join(digest.hex())).map_err(|error| format!("{digest}: {error}"))?;
            if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(format!("{digest} is damaged")) }
        };
        let text = std::fs::read(path.join("index.json")).map_err(|error| error.to_string())?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let is_named = |entry: &&Descriptor| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag);
        let named = || index.manifests.iter().find(is_named).or(index.manifests.last().filter(|_| tag == "latest"));
        let top = match digest {
            Some(digest) => digest,
            None => &named().ok_or_else(|| format!("nothing in it has the tag {tag}"))?.digest,
        };
        let bytes = read(top)?;
        if serde_json::from_slice::<Index>(&bytes)
            .is_ok_and(|index| index.manifests.iter().any(|entry| entry.media_type == BUILDKIT_CONFIG_TYPE))
        {
            return Err(BUILDKITS.to_owned());
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let config = read(&manifest.config.digest)?;
        self.add(&manifest, &config, &Source::Directory(path.to_owned()), trust)
    }

    async fn add_bucket(&mut self, bucket: &s3::Bucket, patience: Duration, trust: &[String]) -> Result<(usize, usize), String> {
        let open = bucket.open(Some(patience))?;
        let bytes = open.read_manifest(MANIFEST_LIMIT).await?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        // BuildKit keeps the config itself under this name.
        if value.get("records").is_some() && value.get("config").is_none() {
            return Err(BUILDKITS.to_owned());
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let config = open.read_blob(&manifest.config.digest, CONFIG_LIMIT).await?;
        self.add(&manifest, &config, &Source::Bucket(open), trust)
    }

    /// How many steps are taken, of how many.
    fn add(&mut self, manifest: &Manifest, config: &[u8], source: &Source, trust: &[String]) -> Result<(usize, usize), String> {
        let config: Config = match manifest.config.media_type.as_str() {
            CONFIG_TYPE => serde_json::from_slice(config).map_err(|error| error.to_string())?,
            BUILDKIT_CONFIG_TYPE => return Err(BUILDKITS.to_owned()),
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => inline(config)?,
            other => return Err(format!("it is no cache of rbuild but {other}")),
        };
        if config.version != VERSION {
            return Err(format!("it is of version {}, this is {VERSION}", config.version));
        }
        for blob in &manifest.layers {
            self.blobs.entry(blob.digest.clone()).or_insert_with(|| (blob.clone(), source.clone()));
        }
        let all = config.entries.len();
        let is_trusted = |entry: &Entry| trust.is_empty() || trust.contains(&entry.writer);
        let mut taken = 0;
        for mut entry in config.entries.into_iter().filter(is_trusted) {
            taken += 1;
            entry.record = with_writer(&entry.record, &entry.writer)?;
            self.entries.entry(entry.key.clone()).or_insert(entry);
        }
        Ok((taken, all))
    }

    async fn bring(&self, blob: &Descriptor) -> Result<(), String> {
        let (_, source) = self.blobs.get(&blob.digest).ok_or("no cache has it")?;
        match source {
            Source::Registry(client, name) => export::fetch_blob(&self.store, client, name, blob).await.map_err(|error| chain(&error)),
            Source::Bucket(bucket) => bucket.fetch(blob, &self.store).await,
            Source::Directory(path) => {
                let path = path.join("blobs/sha256").join(blob.digest.hex());
                let mut file = std::fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let mut writer = self.store.blob_writer().map_err(|error| chain(&error))?;
                std::io::copy(&mut file, &mut writer).map_err(|error| error.to_string())?;
                writer.complete_verified_as(&blob.digest, blob.size).map_err(|error| chain(&error))
            }
        }
    }
}

impl RemoteCache for Caches {
    fn record(&self, key: &str) -> Option<String> {
        if self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        self.entries.get(key).map(|entry| entry.record.clone())
    }

    fn has(&self, blob: &Descriptor) -> bool {
        // The record's size counts for nothing if the manifest has another.
        !self.has_failed.load(Ordering::Relaxed) && self.blobs.get(&blob.digest).is_some_and(|(found, _)| found.size == blob.size)
    }

    fn fetch(&self, blob: Descriptor) -> BoxFuture<'_, Result<(), String>> {
        async move { self.bring(&blob).await.inspect_err(|_| self.has_failed.store(true, Ordering::Relaxed)) }.boxed()
    }
}

/// What a cache saves is the time of steps: it is not waited for as a base image is.
fn be_hasty(options: &mut ClientOptions, patience: Duration) {
    options.retry.attempts = ATTEMPTS;
    options.retry.max_retry_after = patience;
    options.timeouts.connect = options.timeouts.connect.min(patience);
    (options.timeouts.response, options.timeouts.stall) = (patience, patience);
}

fn client(name: &Reference, insecure: bool, services: &Services) -> Result<Client, Failure> {
    if insecure { services::client(&[name.registry().to_owned()]) } else { Ok(services.client.clone()) }
}

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
        let top = write_manifest(&entries, args.cache_writer.as_deref().unwrap_or_default(), services)?;
        let written = match &spec.place {
            Place::Registry { name, insecure } => {
                let client = client(name, *insecure, services)?;
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

/// The list that a cache's config is.
fn config(entries: &[CacheEntry], writer: &str) -> Config {
    let mut list: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries {
        let blobs = entry.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let (key, record) = (entry.key.clone(), entry.payload.clone());
        let writer = entry.writer.clone().unwrap_or_else(|| writer.to_owned());
        list.insert(key.clone(), Entry { key, record, blobs, writer });
    }
    Config { version: VERSION, entries: list.into_values().collect() }
}

/// The cache in an image's config.
fn inline(config: &[u8]) -> Result<Config, String> {
    let mut config: crate::oci::ImageConfig = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    match config.extra.remove(INLINE_KEY) {
        Some(value) => serde_json::from_value(value).map_err(|error| error.to_string()),
        None if config.extra.contains_key(BUILDKIT_INLINE_KEY) => Err(BUILDKITS.to_owned()),
        None => Err("it is an image without a cache in it".to_owned()),
    }
}

/// A record says whose it is as long as it is about, whatever it said itself.
fn with_writer(record: &str, writer: &str) -> Result<String, String> {
    let mut value: serde_json::Value = serde_json::from_str(record).map_err(|error| error.to_string())?;
    let object = value.as_object_mut().ok_or("a record is malformed")?;
    object.insert("writer".to_owned(), serde_json::Value::String(writer.to_owned()));
    Ok(value.to_string())
}

fn write_manifest(entries: &[CacheEntry], writer: &str, services: &Services) -> Result<Descriptor, Failure> {
    let fail = |error: crate::store::StoreError| Failure::new(chain(&error));
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for blob in entries.iter().flat_map(|entry| &entry.blobs).filter(|blob| seen.insert(blob.digest.clone())) {
        layers.push(Descriptor { annotations: Annotations::new(), ..blob.clone() });
    }
    let config = serde_json::to_vec(&config(entries, writer)).expect("plain data has a JSON form");
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
    bucket: &s3::Bucket,
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

/// A flag's value without keys of access.
fn shown(text: &str) -> String {
    let is_open = |field: &&str| !["access_key_id=", "secret_access_key=", "session_token="].iter().any(|key| field.starts_with(key));
    text.split(',').filter(is_open).collect::<Vec<_>>().join(",")
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
