//! `--cache-from` and `--cache-to`: steps in registries and directories.
//!
//! A cache is an image manifest. Its config lists steps: key, record, blobs, who wrote them; its layers are the blobs, so
//! that registries keep them. Configs are read when the build starts, layers when a step needs them. A cache that fails is
//! a miss with a warning. Records are ours: BuildKit's keys are made of other facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{BoxFuture, FutureExt};
use serde::{Deserialize, Serialize};

use crate::{
    build::{CacheEntry, CacheMode, Event, Outcome, Progress, RemoteCache, Services, chain},
    cli::{
        args::BuildArgs,
        failure::Failure,
        outputs::fields,
        services,
        write::{self, Steps},
    },
    export::{self, LayoutOptions, Obtain},
    oci::{Annotations, Descriptor, Digest, Index, Manifest, Reference, media_type},
    registry::Client,
    store::Store,
};

/// What the config of a cache is.
const CONFIG_TYPE: &str = "application/vnd.rbuild.cacheconfig.v1+json";
/// Raised when records or keys change their meaning.
const VERSION: u32 = 1;
/// Configs larger than this are refused.
const CONFIG_LIMIT: u64 = 64 << 20;
/// The name of a local cache in its index.
const LOCAL_TAG: &str = "latest";

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

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Registry { name: Reference, insecure: bool },
    Local(PathBuf),
}

/// One `--cache-from` or `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    place: Place,
    mode: CacheMode,
    ignore_error: bool,
}

impl Spec {
    fn parse(flag: &str, text: &str) -> Result<Self, Failure> {
        let wrong = |reason: String| Failure::usage(format!("{flag} {text}: {reason}"));
        let mut keys: BTreeMap<String, String> = BTreeMap::new();
        if !text.contains('=') {
            keys.insert("type".to_owned(), "registry".to_owned());
            keys.insert("ref".to_owned(), text.to_owned());
        }
        for field in fields(text).iter().filter(|_| text.contains('=')) {
            let (key, value) = field.split_once('=').ok_or_else(|| wrong(format!("`{field}` must be key=value")))?;
            keys.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let mut take = |key: &str| keys.remove(key).filter(|value| !value.is_empty());
        let mode = match take("mode").as_deref() {
            None | Some("min") => CacheMode::Min,
            Some("max") => CacheMode::Max,
            Some(other) => return Err(wrong(format!("mode={other} is unknown; min or max"))),
        };
        let is_true = |value: Option<String>| value.is_some_and(|value| value == "true" || value == "1");
        let (insecure, ignore_error) = (is_true(take("registry.insecure")), is_true(take("ignore-error")));
        let place = match take("type").as_deref() {
            Some("registry") => {
                let name = take("ref").ok_or_else(|| wrong("ref is missing".to_owned()))?;
                Place::Registry { name: name.parse().map_err(|error| wrong(format!("{error}")))?, insecure }
            }
            Some("local") => {
                Place::Local(take("src").or_else(|| take("dest")).ok_or_else(|| wrong("a directory is missing".to_owned()))?.into())
            }
            Some(other @ ("inline" | "gha" | "s3" | "azblob")) => {
                return Err(wrong(format!("type={other} is not possible")).with_hint("type=registry,ref=.. or type=local,dest=.."));
            }
            Some(other) => return Err(wrong(format!("unknown type `{other}`; registry or local"))),
            None => return Err(wrong("type is missing".to_owned())),
        };
        Ok(Self { place, mode, ignore_error })
    }
}

/// How much the build must have ready for all `--cache-to`.
pub fn export_mode(args: &BuildArgs) -> Result<Option<CacheMode>, Failure> {
    for text in &args.cache_from {
        Spec::parse("--cache-from", text)?;
    }
    let specs = args.cache_to.iter().map(|text| Spec::parse("--cache-to", text)).collect::<Result<Vec<_>, _>>()?;
    Ok(specs.iter().map(|spec| spec.mode).max())
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
                Place::Registry { name, insecure } => caches.add_registry(name, *insecure, services, &args.cache_trust).await,
                Place::Local(path) => caches.add_directory(path, &args.cache_trust),
            };
            let text = match added {
                Ok((taken, all)) if taken < all => format!("cache {text}: {taken} of {all} steps are of trusted writers"),
                Ok((taken, _)) => format!("cache {text}: {taken} steps"),
                Err(reason) => format!("warning: the cache {text} is not used: {reason}"),
            };
            steps.event(Event::Note { step: None, text: &text });
        }
        Ok(Some(Arc::new(caches)))
    }

    async fn add_registry(
        &mut self,
        name: &Reference,
        insecure: bool,
        services: &Services,
        trust: &[String],
    ) -> Result<(usize, usize), String> {
        let client = client(name, insecure, services).map_err(|failure| failure.message)?;
        let top = export::import_metadata(&self.store, &client, name).await.map_err(|error| chain(&error))?;
        let manifest = self.store.manifest(&top.digest).map_err(|error| chain(&error))?;
        let config = self.store.read_blob(&manifest.config.digest, CONFIG_LIMIT).map_err(|error| chain(&error))?;
        self.add(&manifest, &config, &Source::Registry(client, name.clone()), trust)
    }

    fn add_directory(&mut self, path: &Path, trust: &[String]) -> Result<(usize, usize), String> {
        let read = |digest: &Digest| {
            let bytes = std::fs::read(path.join("blobs/sha256").join(digest.hex())).map_err(|error| format!("{digest}: {error}"))?;
            if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(format!("{digest} is damaged")) }
        };
        let text = std::fs::read(path.join("index.json")).map_err(|error| error.to_string())?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let top = index.manifests.last().ok_or("it is empty")?;
        let manifest: Manifest = serde_json::from_slice(&read(&top.digest)?).map_err(|error| error.to_string())?;
        let config = read(&manifest.config.digest)?;
        self.add(&manifest, &config, &Source::Directory(path.to_owned()), trust)
    }

    /// How many steps are taken, of how many.
    fn add(&mut self, manifest: &Manifest, config: &[u8], source: &Source, trust: &[String]) -> Result<(usize, usize), String> {
        if manifest.config.media_type != CONFIG_TYPE {
            return Err(format!("it is no cache of rbuild but {}", manifest.config.media_type));
        }
        let config: Config = serde_json::from_slice(config).map_err(|error| error.to_string())?;
        if config.version != VERSION {
            return Err(format!("it is of version {}, this is {VERSION}", config.version));
        }
        for blob in &manifest.layers {
            self.blobs.entry(blob.digest.clone()).or_insert_with(|| (blob.clone(), source.clone()));
        }
        let all = config.entries.len();
        let is_trusted = |entry: &Entry| trust.is_empty() || trust.contains(&entry.writer);
        let mut taken = 0;
        for entry in config.entries.into_iter().filter(is_trusted) {
            taken += 1;
            self.entries.entry(entry.key.clone()).or_insert(entry);
        }
        Ok((taken, all))
    }

    async fn bring(&self, blob: &Descriptor) -> Result<(), String> {
        let (_, source) = self.blobs.get(&blob.digest).ok_or("no cache has it")?;
        match source {
            Source::Registry(client, name) => export::fetch_blob(&self.store, client, name, blob).await.map_err(|error| chain(&error)),
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
        let entries = outcome.platforms.iter().flat_map(|platform| &platform.cache);
        let is_whole = |entry: &CacheEntry| entry.in_result || spec.mode == CacheMode::Max;
        let without_layer = |entry: &CacheEntry| CacheEntry { blobs: Vec::new(), ..entry.clone() };
        let entries: Vec<CacheEntry> = entries.map(|entry| if is_whole(entry) { entry.clone() } else { without_layer(entry) }).collect();
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
            Place::Local(path) => write_directory(&top, path, services, steps).await,
        };
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

fn write_manifest(entries: &[CacheEntry], writer: &str, services: &Services) -> Result<Descriptor, Failure> {
    let fail = |error: crate::store::StoreError| Failure::new(chain(&error));
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    let mut list: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries {
        for blob in entry.blobs.iter().filter(|blob| seen.insert(blob.digest.clone())) {
            layers.push(Descriptor { annotations: Annotations::new(), ..blob.clone() });
        }
        let blobs = entry.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let (key, record) = (entry.key.clone(), entry.payload.clone());
        list.insert(key.clone(), Entry { key, record, blobs, writer: writer.to_owned() });
    }
    let config =
        serde_json::to_vec(&Config { version: VERSION, entries: list.into_values().collect() }).expect("plain data has a JSON form");
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

async fn write_directory(top: &Descriptor, path: &Path, services: &Services, steps: &Arc<Steps>) -> Result<(), Failure> {
    let name = format!("cache:{LOCAL_TAG}").parse::<Reference>().expect("a constant name");
    let created = Some("1970-01-01T00:00:00Z".to_owned());
    let options = LayoutOptions { names: vec![name], created, descriptor_annotations: Annotations::new() };
    let work = async |_| {
        export::write_oci_directory(&services.store, top, path, &options)
            .map_err(|error| Failure::new(format!("cannot write the cache: {}", chain(&error))))
    };
    steps.step(&format!("exporting cache to {}", path.display()), work).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_caches() {
        let parse = |text: &str| Spec::parse("--cache-to", text).map_err(|failure| failure.message);
        let registry = |text: &str, insecure| Place::Registry { name: text.parse().unwrap(), insecure };
        assert_eq!(
            parse("h.example/c").unwrap(),
            Spec { place: registry("h.example/c", false), mode: CacheMode::Min, ignore_error: false }
        );
        let spec = parse("type=registry,ref=h.example/c:1,mode=max,registry.insecure=true,ignore-error=true").unwrap();
        assert_eq!(spec, Spec { place: registry("h.example/c:1", true), mode: CacheMode::Max, ignore_error: true });
        assert_eq!(parse("type=local,dest=d").unwrap().place, Place::Local("d".into()));
        assert_eq!(parse("type=local,src=d").unwrap().place, Place::Local("d".into()));
        for (text, reason) in [
            ("type=registry", "ref is missing"),
            ("type=x,ref=y", "unknown type"),
            ("type=local", "a directory is missing"),
            ("type=registry,ref=x,mode=y", "mode=y is unknown"),
            ("type=s3,bucket=b", "type=s3 is not possible"),
        ] {
            assert!(parse(text).unwrap_err().contains(reason), "{text}");
        }
    }
}
