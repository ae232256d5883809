//! `--cache-from` and `--cache-to`: steps in registries, directories, buckets and images.
//!
//! A cache is an image manifest. Its config lists steps: key, record, blobs, who wrote them; its layers are the blobs, so
//! that registries keep them. Configs are read when the build starts, layers when a step needs them. A cache that fails is
//! a miss with a warning, and the build goes on with the others. An inline cache is the same list in the config of an image, whose layers are the blobs.
//!
//! The records that are written are ours. Caches that BuildKit wrote are read too: which of our steps are in them is for the
//! engine to find out ([`BuildkitCache`]). They name no writer.
//!
//! A cache also has outlines of the layers that steps copy onto ([`LayerIndex::outline`]), base layers too, so that a store
//! which has never seen a base fetches nothing of it for a COPY. They are one small blob, of the layers that one writer
//! looked at, and fetched when a step asks. That an outline is wrong can't be seen without the layer that it stands for,
//! so the rules for entries hold for it and for what is made by it. An inline cache has none: they would be part of the image.
//!
//! Each entry names its writer, and keeps it when it is passed on. A writer's name is what it says it is: who may write to
//! the place may use any, so places that are written by those who are not trusted must be other places.

mod outlines;
mod read;
mod s3;
mod spec;
mod write;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use self::{
    outlines::OutlineEntry,
    spec::{Place, Spec},
};
pub use self::{read::Caches, write::export};
use crate::{
    build::{BuildkitCache, CacheEntry, CacheMode, Outcome, Services},
    cli::{args::BuildArgs, failure::Failure},
    oci::{Descriptor, Digest, ImageConfig, Reference},
    registry::Client,
};

/// What the config of a cache is.
const CONFIG_TYPE: &str = "application/vnd.rbuild.cacheconfig.v1+json";
/// Raised when records or keys change their meaning.
const VERSION: u32 = 1;
/// Configs larger than this are refused.
const CONFIG_LIMIT: u64 = 64 << 20;
/// Manifests larger than this are refused.
const MANIFEST_LIMIT: u64 = 16 << 20;
/// Where an image's config has its cache.
pub const INLINE_KEY: &str = "rbuild.cache.v1";
/// Where BuildKit puts its own.
const BUILDKIT_INLINE_KEY: &str = "moby.buildkit.cache.v0";
/// What the config of BuildKit's caches is.
const BUILDKIT_CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// What a place holds, or a part of it.
enum Part {
    Ours(Config),
    Buildkit(BuildkitCache),
}

/// The config of a cache.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    version: u32,
    entries: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outlines: Vec<OutlineEntry>,
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

/// The list that a cache's config is.
fn config(entries: &[CacheEntry], writer: &str) -> Config {
    let mut list: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries {
        let blobs = entry.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let (key, record) = (entry.key.clone(), entry.payload.clone());
        let writer = entry.writer.clone().unwrap_or_else(|| writer.to_owned());
        list.insert(key.clone(), Entry { key, record, blobs, writer });
    }
    Config { version: VERSION, entries: list.into_values().collect(), outlines: Vec::new() }
}

/// The cache in an image's config; ours if it has both.
fn inline(text: &[u8], layers: &[Descriptor]) -> Result<Part, String> {
    let mut config: ImageConfig = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if let Some(value) = config.extra.remove(INLINE_KEY) {
        return serde_json::from_value(value).map(Part::Ours).map_err(|error| error.to_string());
    }
    let records = config.extra.get(BUILDKIT_INLINE_KEY).and_then(serde_json::Value::as_str);
    let records = records.ok_or("it is an image without a cache in it")?;
    let records = STANDARD.decode(records).map_err(|error| error.to_string())?;
    BuildkitCache::of_image(&records, &config, layers).map(Part::Buildkit)
}

fn client(name: &Reference, insecure: bool, services: &Services) -> Client {
    if insecure { services.client.with_insecure(&[name.registry().to_owned()]) } else { services.client.clone() }
}

/// Keys of a cache whose values are nobody's business.
const SECRET_KEYS: [&str; 3] = ["access_key_id=", "secret_access_key=", "session_token="];

/// A flag's value, or a word of the command line that has one, without the keys of access.
pub fn shown(text: &str) -> String {
    let shown = |field: &str| -> String {
        let found = SECRET_KEYS.iter().find_map(|key| Some(field.to_ascii_lowercase().find(key)? + key.len()));
        found.map_or_else(|| field.to_owned(), |end| format!("{}xxxxx", &field[..end]))
    };
    text.split(',').map(shown).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn keys_of_access_are_shown_nowhere() {
        for text in
            ["type=s3,secret_access_key=planted,bucket=b", "--cache-to=Secret_Access_Key=planted,type=s3", "\"session_token=planted\",x=y"]
        {
            let shown = shown(text);
            assert!(!shown.contains("planted") && shown.contains("xxxxx"), "{shown}");
        }
        assert_eq!(shown("type=registry,ref=h.example/c"), "type=registry,ref=h.example/c");
    }
}
