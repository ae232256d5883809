//! Base images: asked for by the plan, answered from the store, a layout or a registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    build::{
        BuildError, Event, Kind, Progress,
        error::{chain, registry_hint},
        layer::BlobSource,
        lock,
        request::{ContextSource, PullPolicy, Request, Services},
    },
    dockerfile::{Dockerfile, suggest},
    oci::{Descriptor, Digest, Image, ImageConfig, Index, Layer, Manifest, Platform, Reference, media_type},
    plan::{self, Base, BaseKey, BaseSource, Bases, Options, Plan},
    store::BlobWriter,
};

/// Manifests, indexes and configs larger than this are refused.
const METADATA_LIMIT: u64 = 16 << 20;

/// A resolved base and where its blobs are.
#[derive(Debug, Clone)]
pub struct ResolvedBase {
    pub base: Base,
    /// What the name leads to: the manifest, or the index that it is listed in.
    pub top: Digest,
    pub source: BlobSource,
}

/// Resolved bases by what the plan calls them.
pub type ResolvedBases = BTreeMap<BaseKey, ResolvedBase>;

/// Asks the plan what it needs until it needs nothing more, then makes it.
pub async fn plan(
    dockerfile: &Dockerfile,
    options: &Options,
    request: &Request,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<(Plan, ResolvedBases), BuildError> {
    let mut bases = Bases::new();
    let mut resolved = ResolvedBases::new();
    loop {
        let missing = plan::missing_bases(dockerfile, options, &bases)?;
        if missing.is_empty() {
            return Ok((plan::lower(dockerfile, options, &bases)?, resolved));
        }
        let answers = missing.iter().map(|(key, span)| async {
            let found = resolve(key, request, services, progress).await;
            found.map_err(|error| near_stage(error.at(*span), key, dockerfile))
        });
        for (key, found) in missing.keys().zip(futures_util::future::try_join_all(answers).await?) {
            bases.insert(key.clone(), found.base.clone());
            resolved.insert(key.clone(), found);
        }
    }
}

/// The bases of the stages that the target does not reach, as far as they can be had.
pub async fn resolve_others(
    dockerfile: &Dockerfile,
    options: &Options,
    known: &mut ResolvedBases,
    request: &Request,
    services: &Services,
    progress: &Arc<dyn Progress>,
) {
    let keys = plan::stage_bases(dockerfile, options, &Bases::new()).unwrap_or_default();
    let missing: BTreeSet<BaseKey> = keys.into_iter().flatten().filter(|key| !known.contains_key(key)).collect();
    let answers = missing.iter().map(|key| resolve(key, request, services, progress));
    let found = futures_util::future::join_all(answers).await;
    known.extend(missing.iter().cloned().zip(found).filter_map(|(key, found)| Some((key, found.ok()?))));
}

/// A name that no registry knows may be a stage's with a slip in it.
fn near_stage(error: BuildError, key: &BaseKey, dockerfile: &Dockerfile) -> BuildError {
    let BaseSource::Registry(reference) = &key.source else { return error };
    let names = dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.text.to_lowercase());
    match suggest::nearest(&reference.familiar(), names) {
        Some(near) => BuildError { hint: Some(format!("no stage has this name; did you mean {near}?")), ..error },
        None => error,
    }
}

async fn resolve(key: &BaseKey, request: &Request, services: &Services, progress: &Arc<dyn Progress>) -> Result<ResolvedBase, BuildError> {
    match &key.source {
        BaseSource::Registry(reference) => from_name(reference, key, request, services, progress).await,
        BaseSource::Context(name) => match request.named_contexts.get(name) {
            Some(ContextSource::Image(reference)) => from_name(reference, key, request, services, progress).await,
            Some(ContextSource::Layout { path, tag, digest }) => from_layout(name, path, tag.as_deref(), digest.as_ref(), key),
            _ => Err(BuildError::new(Kind::Base, format!("the named context {name} is no image"))),
        },
    }
}

/// An image by name: one that was built here, else one that is remembered, else the registry's.
async fn from_name(
    name: &Reference,
    key: &BaseKey,
    request: &Request,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<ResolvedBase, BuildError> {
    let reference = &lock::pinned(name, request)?;
    let found = find(reference, key, request.pull, services).await?;
    if request.lock.is_some()
        && let Some(known) = services.store.remembered(reference).map_err(BuildError::store)?
        && let Some(text) = lock::drift(reference, &known.descriptor.digest, request)
    {
        progress.event(Event::Note { step: None, text: &text });
    }
    Ok(found)
}

/// The same by exactly this name.
pub async fn find(reference: &Reference, key: &BaseKey, pull: PullPolicy, services: &Services) -> Result<ResolvedBase, BuildError> {
    let store = &services.store;
    // What a digest names never changes: asking again would tell nothing.
    if pull != PullPolicy::Always || reference.digest().is_some() {
        let pinned = reference.digest().map(|digest| Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), 0));
        let from_registry = || BlobSource::Registry(reference.clone());
        let built = store.resolve(reference).map_err(BuildError::store)?;
        let remembered = store.remembered(reference).map_err(BuildError::store)?.map(|memory| memory.descriptor);
        for (descriptor, source) in [(built, BlobSource::Store), (remembered, from_registry()), (pinned, from_registry())] {
            let Some(descriptor) = descriptor else { continue };
            let read = |descriptor: &Descriptor| store.read_blob(&descriptor.digest, METADATA_LIMIT).ok();
            if let Some(found) = from_descriptor(&descriptor, key, &read)? {
                return Ok(ResolvedBase { base: found, top: descriptor.digest, source });
            }
        }
    }
    if pull == PullPolicy::Offline {
        let message = format!("{reference} is not in the store, and --offline asks no registry");
        return Err(BuildError::new(Kind::Base, message).with_hint("build once without --offline"));
    }
    from_registry(reference, key, services).await
}

async fn from_registry(reference: &Reference, key: &BaseKey, services: &Services) -> Result<ResolvedBase, BuildError> {
    let fail = |error: crate::registry::Error| base_error(reference, &error);
    let top = services.client.resolve(reference).await.map_err(fail)?;
    keep(services, &top.digest, &top.bytes)?;
    let descriptor = Descriptor::new(&top.media_type, top.digest.clone(), top.bytes.len() as u64);
    let manifest_bytes = if media_type::is_index(&top.media_type) {
        let index: Index = parse(&top.bytes, "index")?;
        let chosen = choose(&index, key, &reference.to_string())?;
        let found = services.client.fetch_manifest(reference, &chosen.digest).await.map_err(fail)?;
        keep(services, &found.digest, &found.bytes)?;
        found.bytes.to_vec()
    } else {
        top.bytes.to_vec()
    };
    let manifest: Manifest = parse(&manifest_bytes, "manifest")?;
    if !services.store.has_described(&manifest.config).map_err(BuildError::store)? {
        let mut sink = BlobSink::new(services.store.blob_writer().map_err(BuildError::store)?);
        services.client.fetch_blob(reference, &manifest.config, &mut sink, |_| ()).await.map_err(fail)?;
        sink.into_inner().complete_verified_as(&manifest.config.digest, manifest.config.size).map_err(BuildError::store)?;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    services.store.remember(reference, &descriptor, now).map_err(BuildError::store)?;
    let read = |descriptor: &Descriptor| services.store.read_blob(&descriptor.digest, METADATA_LIMIT).ok();
    let base = from_descriptor(&descriptor, key, &read)?;
    let base = base.ok_or_else(|| BuildError::new(Kind::Base, format!("{reference}: its manifest or config vanished from the store")))?;
    Ok(ResolvedBase { base, top: descriptor.digest, source: BlobSource::Registry(reference.clone()) })
}

fn base_error(reference: &Reference, error: &crate::registry::Error) -> BuildError {
    let failed = BuildError::new(Kind::Base, format!("{}: {}", reference.familiar(), chain(error)));
    let not_found = "check the name and the tag; a private image that we may not see looks the same";
    registry_hint(error, not_found).into_iter().fold(failed, BuildError::with_hint)
}

fn keep(services: &Services, expected: &Digest, bytes: &[u8]) -> Result<(), BuildError> {
    let found = services.store.put_blob(bytes).map_err(BuildError::store)?;
    if found == *expected { Ok(()) } else { Err(BuildError::new(Kind::Base, format!("manifest {expected} hashes to {found}"))) }
}

/// An image of an OCI layout on disk, read where it is.
fn from_layout(name: &str, path: &Path, tag: Option<&str>, digest: Option<&Digest>, key: &BaseKey) -> Result<ResolvedBase, BuildError> {
    let shown = path.display();
    let text = std::fs::read(path.join("index.json"))
        .map_err(|error| BuildError::new(Kind::Base, format!("the context {name} is no OCI layout: {shown}/index.json: {error}")))?;
    let index: Index = parse(&text, "index.json")?;
    let descriptor = layout_entry(&index, tag, digest)
        .ok_or_else(|| BuildError::new(Kind::Base, format!("the OCI layout {shown} has no image {}", tag.unwrap_or("of that digest"))))?;
    let read = |descriptor: &Descriptor| {
        let bytes = std::fs::read(path.join("blobs/sha256").join(descriptor.digest.hex())).ok()?;
        (bytes.len() as u64 <= METADATA_LIMIT && Digest::of(&bytes) == descriptor.digest).then_some(bytes)
    };
    let base = from_descriptor(&descriptor, key, &read)?
        .ok_or_else(|| BuildError::new(Kind::Base, format!("the OCI layout {shown} lacks a blob, or it is damaged")))?;
    Ok(ResolvedBase { base, top: descriptor.digest, source: BlobSource::Layout(path.to_owned()) })
}

/// The entry that a tag or a digest names; without either `latest`, else the only one, else all of them as one index.
fn layout_entry(index: &Index, tag: Option<&str>, digest: Option<&Digest>) -> Option<Descriptor> {
    let tag_of = |entry: &&Descriptor| entry.annotations.get("org.opencontainers.image.ref.name").cloned();
    if let Some(digest) = digest {
        let listed = index.manifests.iter().find(|entry| entry.digest == *digest).cloned();
        return listed.or_else(|| Some(Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), 0)));
    }
    let named = |wanted: &str| index.manifests.iter().find(|entry| tag_of(entry).is_some_and(|tag| tag == wanted)).cloned();
    match tag {
        Some(tag) => named(tag),
        None => named("latest").or_else(|| index.manifests.first().cloned()),
    }
}

/// Reads manifest and config of the platform; None when a blob is not at hand.
fn from_descriptor(
    descriptor: &Descriptor,
    key: &BaseKey,
    read: &impl Fn(&Descriptor) -> Option<Vec<u8>>,
) -> Result<Option<Base>, BuildError> {
    let Some(bytes) = read(descriptor) else { return Ok(None) };
    if looks_like_index(descriptor, &bytes) {
        let index: Index = parse(&bytes, "index")?;
        let chosen = choose(&index, key, &key.to_string())?;
        return from_descriptor(&chosen, key, read);
    }
    let manifest: Manifest = parse(&bytes, "manifest")?;
    let Some(bytes) = read(&manifest.config) else { return Ok(None) };
    let config: ImageConfig = parse(&bytes, "image config")?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        let message = format!("{key}: the config names {} layers, the manifest {}", config.rootfs.diff_ids.len(), manifest.layers.len());
        return Err(BuildError::new(Kind::Base, message).with_hint("the image is damaged"));
    }
    let pairs = manifest.layers.iter().zip(&config.rootfs.diff_ids);
    let layers = pairs.map(|(descriptor, diff_id)| Layer { descriptor: descriptor.clone(), diff_id: diff_id.clone() }).collect();
    let platform = config.platform();
    Ok(Some(Base { image: Image { platform, config, layers }, digest: descriptor.digest.clone() }))
}

fn looks_like_index(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    if media_type::is_index(&descriptor.media_type) {
        return true;
    }
    let value: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    value.is_some_and(|value| value.get("manifests").is_some() && value.get("config").is_none())
}

fn choose(index: &Index, key: &BaseKey, name: &str) -> Result<Descriptor, BuildError> {
    let wanted: &Platform = &key.platform;
    if let Some(found) = crate::registry::select(index, wanted) {
        return Ok(found.clone());
    }
    // Entries without a platform: the image says for itself what it is for.
    let silent: Vec<&Descriptor> = index.manifests.iter().filter(|entry| entry.platform.is_none()).collect();
    match (silent.as_slice(), index.manifests.as_slice()) {
        ([only], _) => Ok((*only).clone()),
        (_, [only]) if !key.explicit_platform => Ok(only.clone()),
        _ => {
            let offered: Vec<String> =
                index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect();
            let message = format!("{name}: no match for platform in manifest: {wanted} not found");
            Err(BuildError::new(Kind::Base, message).with_hint(format!("it is there for {}", offered.join(", "))))
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, BuildError> {
    serde_json::from_slice(bytes).map_err(|error| BuildError::new(Kind::Base, format!("cannot read the {what}: {error}")))
}

/// A blob of the store as something asynchronous to write to. Disk writes are short: they go to the page cache.
pub struct BlobSink {
    writer: BlobWriter,
}

impl BlobSink {
    pub fn new(writer: BlobWriter) -> Self {
        Self { writer }
    }

    pub fn into_inner(self) -> BlobWriter {
        self.writer
    }
}

impl tokio::io::AsyncWrite for BlobSink {
    fn poll_write(mut self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(io::Write::write(&mut self.writer, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(io::Write::flush(&mut self.writer))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
