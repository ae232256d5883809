//! What the engine asks of caches that are elsewhere, and what it gives them. What they say of a key is believed as far as
//! the user trusts who wrote it; the bytes they give are verified like any others. Unaware of registries.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::{
    build::{BuildError, BuildkitCache, Layer, engine::Engine, lowers::kept_index, records::Record},
    oci::{Descriptor, DiffId},
    plan::{Op, VertexId},
    snapshot::layered::LayerIndex,
};

/// A cache elsewhere. Its records are at hand; its layers are fetched when they are needed.
pub trait RemoteCache: Send + Sync {
    /// What is known of a step: a record as it was given to [`CacheEntry::payload`].
    fn record(&self, key: &str) -> Option<String>;
    /// Caches that BuildKit wrote: whether a step is in them is for the engine to find out.
    fn buildkit(&self) -> Vec<Arc<BuildkitCache>>;
    /// Whether it says it has a blob.
    fn has(&self, blob: &Descriptor) -> bool;
    /// Brings a blob into the store. Who failed to give it knows nothing any more.
    fn fetch(&self, blob: Descriptor) -> BoxFuture<'_, Result<(), String>>;
    /// The blob is whole, and not what a record said of it: who lists it knows nothing any more.
    fn distrust(&self, blob: &Descriptor);
    /// Whether it says what is in a layer, but for its files. Whether that is true cannot be seen without the layer: it is as
    /// good as who wrote it.
    fn has_outline(&self, layer: &DiffId) -> bool;
    /// The same read; None of one that can't be had.
    fn outline(&self, layer: DiffId) -> BoxFuture<'_, Option<Outline>>;
}

/// What a cache elsewhere says is in a layer.
#[derive(Debug, Clone)]
pub struct Outline {
    /// What it says.
    pub index: Arc<LayerIndex>,
    /// Who says so: what is made by it is only for those who trust them too.
    pub writer: String,
}

/// A layer that steps may copy onto, for caches elsewhere.
#[derive(Debug, Clone)]
pub struct KnownLayer {
    /// Its name.
    pub diff_id: DiffId,
    /// What is in it, as far as this build or an earlier one has seen for itself.
    pub index: Option<Arc<LayerIndex>>,
}

/// A step of this build for caches elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// The step's key.
    pub key: String,
    /// Its record, opaque to all but the engine.
    pub payload: String,
    /// Its layer, in each of its forms.
    pub blobs: Vec<Descriptor>,
    /// Whose it is, if it came from a cache; else it is this build's own.
    pub writer: Option<String>,
    /// Whether its layer is one of the result's.
    pub in_result: bool,
}

impl Engine {
    /// What this build knows of its steps. With `all`, the layers of steps that are not in the result are there too.
    pub(super) async fn cache_entries(&self, all: bool) -> Result<Vec<CacheEntry>, BuildError> {
        let mut entries = Vec::new();
        for (index, vertex) in self.plan.vertices.iter().enumerate() {
            let id = VertexId(index);
            let in_result = self.is_in_result(id);
            if matches!(vertex.op, Op::Image(_)) {
                continue;
            }
            let Some((mut record, keys)) = self.noted_record(id) else { continue };
            // Whoever takes the step has other secrets.
            record.searched.clear();
            let realised = self.realised_vertex(id).and_then(|realised| realised.as_ref().ok());
            match realised.and_then(|realised| realised.stack.last()) {
                // What the step was, without its layer: who copies from its stage finds its own record by that.
                _ if !(in_result || all) => record.blobs.clear(),
                Some(layer) => {
                    let blob = self.blob(id, layer).await?;
                    if !record.blobs.iter().any(|(policy, _)| *policy == self.request.layers) {
                        record.blobs.push((self.request.layers, blob));
                    }
                }
                // Only looked up: its layer goes along where it is at hand.
                None => record.blobs.retain(|(_, layer)| self.services.store.has_described(&layer.descriptor).unwrap_or(false)),
            }
            entries.extend(keys.into_iter().map(|key| entry(key, &record, in_result)));
        }
        Ok(entries)
    }

    /// The layers that a later build may copy onto: those of images, and those of steps in the result or, with `all`, of
    /// all steps; each once.
    pub(super) async fn known_layers(&self, all: bool) -> Result<Vec<KnownLayer>, BuildError> {
        let mut known: Vec<KnownLayer> = Vec::new();
        for index in 0..self.plan.vertices.len() {
            for (diff_id, layer) in self.layers_of(VertexId(index), all) {
                if known.iter().any(|other| other.diff_id == diff_id) {
                    continue;
                }
                // Who says so already is taken at their word: to look at many files takes a while.
                let is_told = self.services.remote.as_ref().is_some_and(|remote| remote.has_outline(&diff_id));
                let index = match layer {
                    Some(layer) if !is_told => layer.index_at_hand(&self.services).await?,
                    _ => kept_index(&self.services.store, &diff_id).map(Arc::new),
                };
                known.push(KnownLayer { diff_id, index });
            }
        }
        Ok(known)
    }

    /// The layers that a vertex adds, also if nobody needed them.
    fn layers_of(&self, id: VertexId, all: bool) -> Vec<(DiffId, Option<Arc<Layer>>)> {
        let stack = match self.realised_vertex(id) {
            Some(Ok(realised)) => realised.stack.to_vec(),
            _ => Vec::new(),
        };
        if let Op::Image(key) = &self.plan.vertices[id.0].op {
            let layers = self.bases.get(key).into_iter().flat_map(|found| &found.base.image.layers);
            return layers.enumerate().map(|(at, layer)| (layer.diff_id.clone(), stack.get(at).cloned())).collect();
        }
        if !(all || self.is_in_result(id)) {
            return Vec::new();
        }
        stack.last().and_then(|layer| Some((layer.diff_ids().into_iter().next()?, Some(layer.clone())))).into_iter().collect()
    }

    /// A record of a cache elsewhere.
    pub(super) fn remote_record(&self, key: &str) -> Option<Record> {
        let payload = self.services.remote.as_ref()?.record(key)?;
        let mut record: Record = serde_json::from_str(&payload).ok()?;
        // That it was searched for ours is not for others to say.
        record.searched.clear();
        // One that names no writer is a stranger's, not our own.
        record.writer = Some(record.writer.unwrap_or_default());
        Some(record)
    }

    /// Whether a record counts: our own do, and those of writers that are trusted.
    pub(super) fn is_trusted(&self, record: &Record) -> bool {
        let trust = &self.request.cache_trust;
        trust.is_empty() || record.writer.iter().chain(&record.relies_on).all(|writer| trust.contains(writer))
    }
}

fn entry(key: String, record: &Record, in_result: bool) -> CacheEntry {
    let mut record = record.clone();
    let writer = record.writer.take();
    let payload = serde_json::to_string(&record).expect("plain data has a JSON form");
    let blobs = record.blobs.iter().map(|(_, layer)| layer.descriptor.clone()).collect();
    CacheEntry { key, payload, blobs, writer, in_result }
}
