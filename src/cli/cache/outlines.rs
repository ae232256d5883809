//! Outlines of layers in a cache: one blob of those that this build has looked at itself, and the blobs of others passed on
//! whole, each with its writer. Unaware of what an outline is good for.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::Caches;
use crate::{
    build::{KnownLayer, Outline, chain},
    oci::{Descriptor, DiffId, Digest},
    snapshot::layered::{LayerIndex, Outlines, read_outlines, write_outlines},
    store::Store,
};

/// What the blob of outlines is.
pub(super) const OUTLINES_TYPE: &str = "application/vnd.rbuild.layer-outlines.v1";
/// Larger ones are refused: they save less than they cost.
const SIZE_LIMIT: u64 = 16 << 20;

/// A blob of outlines, as a cache's config tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OutlineEntry {
    /// One of the manifest's layers.
    blob: Digest,
    /// What it has outlines of.
    layers: Vec<DiffId>,
    /// Who says so.
    #[serde(default)]
    writer: String,
}

/// A blob of outlines that is read when the first of them is asked for.
pub(super) struct Told {
    entry: OutlineEntry,
    blob: Descriptor,
    read: OnceCell<BTreeMap<DiffId, Arc<LayerIndex>>>,
}

/// All that the caches of a build tell, in the order of the flags.
#[derive(Default)]
pub(super) struct AllTold(Vec<Told>);

impl AllTold {
    /// Notes what a config tells, of writers that are trusted; gives how many layers it tells of.
    pub(super) fn add(&mut self, entries: Vec<OutlineEntry>, blobs: &[Descriptor], trust: &[String]) -> usize {
        let mut count = 0;
        for entry in entries.into_iter().filter(|entry| trust.is_empty() || trust.contains(&entry.writer)) {
            let is_its = |blob: &&Descriptor| blob.digest == entry.blob && blob.media_type == OUTLINES_TYPE && blob.size <= SIZE_LIMIT;
            let Some(blob) = blobs.iter().find(is_its).cloned() else { continue };
            count += entry.layers.len();
            self.0.push(Told { entry, blob, read: OnceCell::new() });
        }
        count
    }

    pub(super) fn has(&self, layer: &DiffId) -> bool {
        !self.of(layer).is_empty()
    }

    /// Those that tell of a layer.
    pub(super) fn of(&self, layer: &DiffId) -> Vec<&Told> {
        self.0.iter().filter(|told| told.entry.layers.contains(layer)).collect()
    }
}

impl Told {
    /// What a layer looks like. What can't be had or makes no sense is a miss.
    pub(super) async fn get(&self, layer: &DiffId, caches: &Caches) -> Option<Outline> {
        let read = self.read.get_or_init(|| async {
            let brought = caches.bring_outlines(&self.blob).await;
            let bytes = brought.ok().and_then(|()| caches.store.read_blob(&self.blob.digest, SIZE_LIMIT).ok());
            let read = bytes.and_then(|bytes| read_outlines(&bytes)).unwrap_or_default();
            read.into_iter().map(|(layer, index)| (layer, Arc::new(index))).collect()
        });
        let index = read.await.get(layer)?.clone();
        Some(Outline { index, writer: self.entry.writer.clone() })
    }
}

/// What a cache is to tell of layers: our own outlines, in a new blob of the store, and what others have told of the rest.
pub(super) fn collect(
    known: &[&KnownLayer],
    told: Option<&AllTold>,
    writer: &str,
    store: &Store,
) -> Result<Vec<(OutlineEntry, Descriptor)>, String> {
    let mut list = Vec::new();
    let own: Outlines = known.iter().filter_map(|layer| Some((layer.diff_id.clone(), layer.index.as_ref()?.outline()?))).collect();
    let bytes = write_outlines(&own).map_err(|error| error.to_string())?;
    if !own.is_empty() && bytes.len() as u64 <= SIZE_LIMIT {
        let blob = Descriptor::new(OUTLINES_TYPE, store.put_blob(&bytes).map_err(|error| chain(&error))?, bytes.len() as u64);
        let (layers, writer) = (own.into_keys().collect(), writer.to_owned());
        list.push((OutlineEntry { blob: blob.digest.clone(), layers, writer }, blob));
    }
    for layer in known.iter().filter(|layer| layer.index.is_none()) {
        let passed_on = told.and_then(|told| told.of(&layer.diff_id).first().copied());
        if let Some(Told { entry, blob, .. }) = passed_on.filter(|told| list.iter().all(|(entry, _)| *entry != told.entry)) {
            list.push((entry.clone(), blob.clone()));
        }
    }
    Ok(list)
}
