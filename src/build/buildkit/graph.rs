//! A cache as BuildKit writes it: records that are linked to the records of their inputs, and the layers of their results.
//! What it says is read, and checked for sense; its layers are elsewhere. Unaware of plans.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, Layer};

/// Where a descriptor has the digest of the uncompressed tar, and when the layer was made.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
const CREATED: &str = "buildkit/createdat";

/// A cache.
#[derive(Debug)]
pub struct Graph {
    records: Vec<Record>,
    by_digest: BTreeMap<Digest, Vec<usize>>,
    layers: Vec<LayerEntry>,
    blobs: BTreeMap<Digest, Blob>,
}

/// A result: what was made with a key from certain inputs.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    digest: Digest,
    #[serde(default)]
    pub(super) inputs: Vec<Vec<Link>>,
    #[serde(default)]
    layers: Vec<Topmost>,
    #[serde(default)]
    chains: Vec<Chained>,
}

/// What an input may be: a record, and what of its result is used.
#[derive(Debug, Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    pub(super) selector: String,
    #[serde(default)]
    pub(super) link: usize,
}

/// A result's topmost layer.
#[derive(Debug, Deserialize)]
struct Topmost {
    #[serde(default)]
    layer: usize,
    #[serde(rename = "createdAt", default)]
    created: Option<jiff::Timestamp>,
}

/// A result's layers one by one.
#[derive(Debug, Deserialize)]
struct Chained {
    #[serde(default)]
    layers: Vec<usize>,
    #[serde(rename = "createdAt", default)]
    created: Option<jiff::Timestamp>,
}

#[derive(Debug, Deserialize)]
struct LayerEntry {
    blob: Digest,
    /// -1 for none; 0, the first, where it is left out.
    #[serde(default)]
    parent: i64,
    /// What a manifest says elsewhere, in caches that have none.
    #[serde(default)]
    annotations: Option<LayerFacts>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerFacts {
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: Digest,
    size: u64,
    #[serde(default)]
    created_at: Option<jiff::Timestamp>,
}

impl LayerEntry {
    fn blob(&self) -> Option<Blob> {
        let LayerFacts { media_type, diff_id, size, created_at } = self.annotations.as_ref()?;
        let descriptor = Descriptor::new(media_type, self.blob.clone(), *size);
        Some(Blob { layer: Layer { descriptor, diff_id: DiffId(diff_id.clone()) }, created: *created_at })
    }
}

#[derive(Debug, Clone)]
struct Blob {
    layer: Layer,
    created: Option<jiff::Timestamp>,
}

/// A layer of a result, and when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeLayer {
    pub layer: Layer,
    pub created: jiff::Timestamp,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    layers: Vec<LayerEntry>,
    #[serde(default)]
    records: Vec<Record>,
}

impl Graph {
    /// Reads a cache's config; `blobs` are the layers that its manifest lists, if it has one.
    pub fn parse(config: &[u8], blobs: &[Descriptor]) -> Result<Self, String> {
        let Config { layers, records } = serde_json::from_slice(config).map_err(|error| error.to_string())?;
        let known = blobs.iter().filter_map(|descriptor| {
            let diff_id: DiffId = DiffId(descriptor.annotations.get(UNCOMPRESSED)?.parse().ok()?);
            let created = descriptor.annotations.get(CREATED).and_then(|text| text.parse().ok());
            let layer = Layer { descriptor: plain(descriptor), diff_id };
            Some((descriptor.digest.clone(), Blob { layer, created }))
        });
        let own = layers.iter().filter_map(|entry| Some((entry.blob.clone(), entry.blob()?)));
        let known = own.chain(known).collect();
        Self::new(records, layers, known)
    }

    /// Reads what an image's config says of its own steps; `blobs` are the image's layers.
    pub fn of_image(records: &[u8], config: &ImageConfig, blobs: &[Descriptor]) -> Result<Self, String> {
        let records = serde_json::from_slice(records).map_err(|error| error.to_string())?;
        if blobs.len() != config.rootfs.diff_ids.len() {
            return Err("the image's config and its manifest disagree about its layers".to_owned());
        }
        let made = |text: &String| text.parse().ok();
        let mut times = config.history.iter().filter(|entry| !entry.empty_layer).map(|entry| entry.created.as_ref().and_then(made));
        let (mut layers, mut known) = (Vec::new(), BTreeMap::new());
        for (index, (descriptor, diff_id)) in blobs.iter().zip(&config.rootfs.diff_ids).enumerate() {
            layers.push(LayerEntry { blob: descriptor.digest.clone(), parent: index as i64 - 1, annotations: None });
            let layer = Layer { descriptor: plain(descriptor), diff_id: diff_id.clone() };
            known.insert(descriptor.digest.clone(), Blob { layer, created: times.next().flatten() });
        }
        Self::new(records, layers, known)
    }

    fn new(records: Vec<Record>, layers: Vec<LayerEntry>, blobs: BTreeMap<Digest, Blob>) -> Result<Self, String> {
        let count = records.len();
        let links = records.iter().flat_map(|record| record.inputs.iter().flatten());
        if let Some(link) = links.map(|link| link.link).find(|link| *link >= count) {
            return Err(format!("it links to record {link} of {count}"));
        }
        let mut by_digest: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            by_digest.entry(record.digest.clone()).or_default().push(index);
        }
        Ok(Self { records, by_digest, layers, blobs })
    }

    /// How many results it knows of.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it knows of none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The layers that can be had.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.values().map(|blob| &blob.layer.descriptor)
    }

    pub(super) fn record(&self, index: usize) -> &Record {
        &self.records[index]
    }

    /// The records with a digest.
    pub(super) fn with_digest(&self, digest: &Digest) -> &[usize] {
        self.by_digest.get(digest).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a record is that of a digest which nothing went into.
    pub(super) fn is_root(&self, index: usize, digest: &Digest) -> bool {
        self.records[index].inputs.is_empty() && self.records[index].digest == *digest
    }

    /// The records that a record says its first input, the root, to have been.
    pub(super) fn parents(&self, index: usize) -> impl Iterator<Item = usize> {
        self.records[index].inputs.first().into_iter().flatten().map(|link| link.link)
    }

    /// The results of a record, each with all its layers, as far as all of them can be had.
    pub(super) fn results(&self, index: usize) -> Vec<Vec<MadeLayer>> {
        let record = &self.records[index];
        let single = record.layers.iter().filter_map(|result| self.result(self.down_from(result.layer)?, result.created));
        let chained = record.chains.iter().filter_map(|result| self.result(result.layers.clone(), result.created));
        single.chain(chained).collect()
    }

    /// A layer and all below it, bottom first; None if it makes no sense.
    fn down_from(&self, top: usize) -> Option<Vec<usize>> {
        let mut chain = vec![top];
        while let Some(entry) = chain.last().map(|last| self.layers.get(*last)) {
            match entry?.parent {
                -1 => break,
                parent => chain.push(usize::try_from(parent).ok()?),
            }
            if chain.len() > self.layers.len() {
                return None;
            }
        }
        chain.reverse();
        Some(chain)
    }

    fn result(&self, chain: Vec<usize>, created: Option<jiff::Timestamp>) -> Option<Vec<MadeLayer>> {
        let made = chain.into_iter().map(|index| {
            let Blob { layer, created: own } = self.blobs.get(&self.layers.get(index)?.blob)?.clone();
            Some(MadeLayer { layer, created: own.or(created).unwrap_or_default() })
        });
        made.collect()
    }
}

/// Without what its cache says of it.
fn plain(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)
}
