//! Caches that steps are taken from: their lists when the build starts, their layers when a step needs them. Unaware of how
//! they are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};

use super::{
    BUILDKIT_CONFIG_TYPE, CONFIG_LIMIT, CONFIG_TYPE, Entry, MANIFEST_LIMIT, Part, VERSION, client, inline,
    outlines::AllTold,
    s3::{Bucket, S3},
    shown,
    spec::{Place, Spec},
};
use crate::{
    build::{BuildkitCache, Event, Outline, Progress, RemoteCache, Services, chain},
    cli::{args::BuildArgs, failure::Failure, write::Steps},
    export,
    oci::{Descriptor, DiffId, Digest, Index, Manifest, Reference, media_type},
    registry::{Client, ClientOptions},
    store::{REF_NAME, Store},
};

/// Failures in a row without progress before a cache is not there.
const ATTEMPTS: u32 = 4;

/// The caches of one build.
pub struct Caches {
    pub(super) store: Store,
    /// In the order of the flags.
    sources: Vec<Source>,
    /// What is said of a step, and by whom.
    entries: BTreeMap<String, Vec<(usize, String)>>,
    /// Those that BuildKit wrote.
    buildkit: Vec<(usize, Arc<BuildkitCache>)>,
    blobs: BTreeMap<Digest, Vec<(usize, Descriptor)>>,
    pub(super) outlines: AllTold,
    /// Those that are asked no more.
    failed: Mutex<BTreeSet<usize>>,
}

/// What was taken of a cache, of how much.
#[derive(Default)]
struct Added {
    taken: usize,
    all: usize,
    /// Layers.
    outlines: usize,
    of_buildkit: bool,
}

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
        let (entries, blobs, buildkit) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (store, sources, outlines, failed) = (services.store.clone(), Vec::new(), AllTold::default(), Mutex::default());
        let mut caches = Self { store, sources, entries, buildkit, blobs, outlines, failed };
        for text in &args.cache_from {
            let spec = Spec::parse("--cache-from", text)?;
            let added = match &spec.place {
                Place::Registry { name, insecure } => {
                    let client = client(name, *insecure, services).with_options(|options| be_hasty(options, spec.patience));
                    caches.add_registry(name, client, &args.cache_trust).await
                }
                Place::Local { path, tag, digest, .. } => caches.add_directory(path, tag, digest.as_ref(), &args.cache_trust),
                Place::S3(bucket) => caches.add_bucket(bucket, spec.patience, &args.cache_trust).await,
                Place::Inline => unreachable!("refused when it was read"),
            };
            let text = &shown(text);
            let text = match added {
                Ok(Added { taken, all, .. }) if taken < all => format!("cache {text}: {taken} of {all} steps are of trusted writers"),
                Ok(Added { taken, of_buildkit: true, .. }) => format!("cache {text}: {taken} results, written by BuildKit"),
                Ok(Added { taken, outlines: 0, .. }) => format!("cache {text}: {taken} steps"),
                Ok(Added { taken, outlines, .. }) => format!("cache {text}: {taken} steps, {outlines} layers outlined"),
                Err(reason) => format!("warning: the cache {text} is not used: {reason}"),
            };
            steps.event(Event::Note { step: None, text: &text });
        }
        Ok(Some(Arc::new(caches)))
    }

    async fn add_registry(&mut self, name: &Reference, client: Client, trust: &[String]) -> Result<Added, String> {
        let found = client.resolve(name).await.map_err(|error| chain(&error))?;
        if found.media_type == media_type::OCI_INDEX || found.media_type == media_type::DOCKER_INDEX {
            let index: Index = serde_json::from_slice(&found.bytes).map_err(|error| error.to_string())?;
            if let Some((config, layers)) = buildkits(&index) {
                export::fetch_blob(&self.store, &client, name, &config).await.map_err(|error| chain(&error))?;
                let config = self.store.read_blob(&config.digest, CONFIG_LIMIT).map_err(|error| chain(&error))?;
                let part = Part::Buildkit(BuildkitCache::parse(&config, &layers)?);
                return Ok(self.add(vec![part], &[], Source::Registry(client, name.clone()), trust));
            }
        }
        let top = export::import_metadata(&self.store, &client, name).await.map_err(|error| chain(&error))?;
        let manifests = match media_type::is_index(&top.media_type) {
            true => self.store.index_blob(&top.digest).map_err(|error| chain(&error))?.manifests,
            false => vec![top],
        };
        let (mut parts, mut layers) = (Vec::new(), Vec::new());
        for descriptor in manifests.iter().filter(|entry| !export::is_attestation(entry)) {
            let manifest = self.store.manifest(&descriptor.digest).map_err(|error| chain(&error))?;
            let config = self.store.read_blob(&manifest.config.digest, CONFIG_LIMIT).map_err(|error| chain(&error))?;
            parts.push(parse(&manifest, &config)?);
            layers.extend(manifest.layers);
        }
        Ok(self.add(parts, &layers, Source::Registry(client, name.clone()), trust))
    }

    fn add_directory(&mut self, path: &Path, tag: &str, digest: Option<&Digest>, trust: &[String]) -> Result<Added, String> {
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
        let source = Source::Directory(path.to_owned());
        if let Some((config, layers)) = serde_json::from_slice::<Index>(&bytes).ok().as_ref().and_then(buildkits) {
            let part = Part::Buildkit(BuildkitCache::parse(&read(&config.digest)?, &layers)?);
            return Ok(self.add(vec![part], &[], source, trust));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let part = parse(&manifest, &read(&manifest.config.digest)?)?;
        Ok(self.add(vec![part], &manifest.layers, source, trust))
    }

    async fn add_bucket(&mut self, bucket: &Bucket, patience: Duration, trust: &[String]) -> Result<Added, String> {
        let open = bucket.open(Some(patience))?;
        let bytes = open.read_manifest(MANIFEST_LIMIT).await?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        // BuildKit keeps the config itself under this name.
        if value.get("records").is_some() && value.get("config").is_none() {
            let part = Part::Buildkit(BuildkitCache::parse(&bytes, &[])?);
            return Ok(self.add(vec![part], &[], Source::Bucket(open), trust));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let config = open.read_blob(&manifest.config.digest, CONFIG_LIMIT).await?;
        Ok(self.add(vec![parse(&manifest, &config)?], &manifest.layers, Source::Bucket(open), trust))
    }

    /// How many steps are taken, of how many. What BuildKit wrote names no writer.
    fn add(&mut self, parts: Vec<Part>, layers: &[Descriptor], source: Source, trust: &[String]) -> Added {
        let number = self.sources.len();
        self.sources.push(source);
        let mut added = Added::default();
        let is_trusted = |entry: &Entry| trust.is_empty() || trust.contains(&entry.writer);
        let mut blobs = layers.to_vec();
        for part in parts {
            match part {
                Part::Ours(config) => {
                    added.all += config.entries.len();
                    added.outlines += self.outlines.add(config.outlines, layers, trust);
                    for entry in config.entries.into_iter().filter(is_trusted) {
                        added.taken += 1;
                        self.entries.entry(entry.key).or_default().push((number, entry.record));
                    }
                }
                Part::Buildkit(graph) => {
                    added.of_buildkit = true;
                    added.all += graph.len();
                    if trust.is_empty() {
                        added.taken += graph.len();
                        blobs.extend(graph.blobs().cloned());
                        self.buildkit.push((number, Arc::new(graph)));
                    }
                }
            }
        }
        for blob in blobs {
            self.blobs.entry(blob.digest.clone()).or_default().push((number, blob));
        }
        added
    }

    /// Caches that have not failed.
    pub fn left(&self) -> usize {
        self.sources.len() - self.failed.lock().expect("no holder panics").len()
    }

    fn has_failed(&self, number: usize) -> bool {
        self.failed.lock().expect("no holder panics").contains(&number)
    }

    fn fail(&self, number: usize) {
        self.failed.lock().expect("no holder panics").insert(number);
    }

    /// Whoever says to have a blob, in the order of the flags.
    fn havers(&self, blob: &Descriptor) -> impl Iterator<Item = usize> {
        let listed = self.blobs.get(&blob.digest).into_iter().flatten();
        // What a record says of the size counts for nothing if the manifest has another.
        let fitting = listed.filter(|(number, found)| found.size == blob.size && !self.has_failed(*number));
        fitting.map(|(number, _)| *number).collect::<Vec<_>>().into_iter()
    }

    /// The same of what can be done without: who does not give it may well give the steps.
    pub(super) async fn bring_outlines(&self, blob: &Descriptor) -> Result<(), String> {
        if self.store.has_described(blob).map_err(|error| chain(&error))? {
            return Ok(());
        }
        let mut result = Err("no cache has it".to_owned());
        for number in self.havers(blob) {
            result = self.sources[number].bring(blob, &self.store).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Brings a blob into the store, from the first cache that gives it; one that does not is asked no more.
    pub async fn bring(&self, blob: &Descriptor) -> Result<(), String> {
        let mut reasons = Vec::new();
        for number in self.havers(blob) {
            match self.sources[number].bring(blob, &self.store).await {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
            self.fail(number);
        }
        Err(if reasons.is_empty() { "no cache has it".to_owned() } else { reasons.join("; ") })
    }
}

impl Source {
    async fn bring(&self, blob: &Descriptor, store: &Store) -> Result<(), String> {
        match self {
            Self::Registry(client, name) => export::fetch_blob(store, client, name, blob).await.map_err(|error| chain(&error)),
            Self::Bucket(bucket) => bucket.fetch(blob, store).await,
            Self::Directory(path) => {
                let path = path.join("blobs/sha256").join(blob.digest.hex());
                let mut file = std::fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let mut writer = store.blob_writer().map_err(|error| chain(&error))?;
                std::io::copy(&mut file, &mut writer).map_err(|error| error.to_string())?;
                writer.complete_verified_as(&blob.digest, blob.size).map_err(|error| chain(&error))
            }
        }
    }
}

/// Config and layers of a cache that BuildKit wrote as an index.
fn buildkits(index: &Index) -> Option<(Descriptor, Vec<Descriptor>)> {
    let (configs, layers): (Vec<_>, Vec<_>) = index.manifests.iter().cloned().partition(|entry| entry.media_type == BUILDKIT_CONFIG_TYPE);
    configs.into_iter().next().map(|config| (config, layers))
}

/// What a manifest and its config say, with writers where the records have them.
fn parse(manifest: &Manifest, config: &[u8]) -> Result<Part, String> {
    let part = match manifest.config.media_type.as_str() {
        CONFIG_TYPE => Part::Ours(serde_json::from_slice(config).map_err(|error| error.to_string())?),
        BUILDKIT_CONFIG_TYPE => Part::Buildkit(BuildkitCache::parse(config, &manifest.layers)?),
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => inline(config, &manifest.layers)?,
        other => return Err(format!("it is no cache of rbuild but {other}")),
    };
    let Part::Ours(mut config) = part else { return Ok(part) };
    if config.version != VERSION {
        return Err(format!("it is of version {}, this is {VERSION}", config.version));
    }
    for entry in &mut config.entries {
        entry.record = with_writer(&entry.record, &entry.writer)?;
    }
    Ok(Part::Ours(config))
}

impl RemoteCache for Caches {
    fn record(&self, key: &str) -> Option<String> {
        let found = self.entries.get(key)?.iter().find(|(number, _)| !self.has_failed(*number));
        found.map(|(_, record)| record.clone())
    }

    fn buildkit(&self) -> Vec<Arc<BuildkitCache>> {
        let left = self.buildkit.iter().filter(|(number, _)| !self.has_failed(*number));
        left.map(|(_, cache)| cache.clone()).collect()
    }

    fn has(&self, blob: &Descriptor) -> bool {
        self.havers(blob).next().is_some()
    }

    fn fetch(&self, blob: Descriptor) -> BoxFuture<'_, Result<(), String>> {
        async move { self.bring(&blob).await }.boxed()
    }

    fn distrust(&self, blob: &Descriptor) {
        self.havers(blob).for_each(|number| self.fail(number));
    }

    fn has_outline(&self, layer: &DiffId) -> bool {
        self.outlines.has(layer)
    }

    fn outline(&self, layer: DiffId) -> BoxFuture<'_, Option<Outline>> {
        async move {
            for told in self.outlines.of(&layer) {
                if let Some(outline) = told.get(&layer, self).await {
                    return Some(outline);
                }
            }
            None
        }
        .boxed()
    }
}

/// A record says whose it is as long as it is about, whatever it said itself.
fn with_writer(record: &str, writer: &str) -> Result<String, String> {
    let mut value: serde_json::Value = serde_json::from_str(record).map_err(|error| error.to_string())?;
    let object = value.as_object_mut().ok_or("a record is malformed")?;
    object.insert("writer".to_owned(), serde_json::Value::String(writer.to_owned()));
    Ok(value.to_string())
}

/// What a cache saves is the time of steps: it is not waited for as a base image is.
fn be_hasty(options: &mut ClientOptions, patience: Duration) {
    options.retry.attempts = ATTEMPTS;
    options.retry.max_retry_after = patience;
    options.timeouts.connect = options.timeouts.connect.min(patience);
    (options.timeouts.response, options.timeouts.stall) = (patience, patience);
}
