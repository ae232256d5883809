//! What an OCI image layout holds: which blobs, and the entries of its `index.json`. Unaware of files and archives.

use std::collections::{BTreeMap, BTreeSet};

use super::{error::Result, meter::Meter};
use crate::{
    oci::{Annotations, Descriptor, Digest, Index, Manifest, Reference, media_type},
    store::{IMAGE_NAME, REF_NAME, Store, StoreError},
};

/// What `oci-layout` says.
pub(super) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

const CREATED: &str = "org.opencontainers.image.created";

/// Deeper nesting is a malicious or broken image.
const MAX_NESTING: u32 = 4;

/// What `index.json` says beside the image itself.
#[derive(Debug, Clone, Default)]
pub struct LayoutOptions {
    /// One entry for each.
    pub names: Vec<Reference>,
    /// When the image was made (RFC 3339); the config's own time if it is not given.
    pub created: Option<String>,
    /// `annotation-index-descriptor.KEY`: on each entry of `index.json`.
    pub descriptor_annotations: Annotations,
    /// Blobs that are left out of an archive: whoever reads it has them.
    pub without: BTreeSet<Digest>,
    /// Counts what is written.
    pub meter: Meter,
}

/// Everything that one image consists of.
#[derive(Debug)]
pub(super) struct Contents {
    /// Every blob by digest, with its size: manifests, configs, layers.
    pub blobs: BTreeMap<Digest, u64>,
    /// The image manifests, in order.
    pub manifests: Vec<Manifest>,
}

/// The manifests of images at or below a manifest or index.
pub fn manifests(store: &Store, top: &Descriptor) -> Result<Vec<Manifest>> {
    Ok(contents(store, top)?.manifests)
}

/// Finds all blobs below a manifest or index.
pub(super) fn contents(store: &Store, top: &Descriptor) -> Result<Contents> {
    let mut contents = Contents { blobs: BTreeMap::new(), manifests: Vec::new() };
    add(store, top, 0, &mut contents)?;
    Ok(contents)
}

fn add(store: &Store, descriptor: &Descriptor, depth: u32, contents: &mut Contents) -> Result<()> {
    if depth > MAX_NESTING {
        return Err(StoreError::NestedTooDeeply { digest: descriptor.digest.clone() }.into());
    }
    contents.blobs.insert(descriptor.digest.clone(), descriptor.size);
    if media_type::is_index(&descriptor.media_type) {
        for child in store.index_blob(&descriptor.digest)?.manifests {
            add(store, &child, depth + 1, contents)?;
        }
    } else if media_type::is_manifest(&descriptor.media_type) {
        let manifest = store.manifest(&descriptor.digest)?;
        contents.blobs.insert(manifest.config.digest.clone(), manifest.config.size);
        for layer in &manifest.layers {
            // Foreign layers are fetched from their own urls by whoever needs them.
            if !layer.extra.contains_key("urls") || store.has_blob(&layer.digest)? {
                contents.blobs.insert(layer.digest.clone(), layer.size);
            }
        }
        contents.manifests.push(manifest);
    }
    Ok(())
}

/// The entries for one image: one per name, or one without a name.
pub(super) fn entries(store: &Store, top: &Descriptor, contents: &Contents, options: &LayoutOptions) -> Result<Vec<Descriptor>> {
    let mut entry = Descriptor { platform: None, ..top.clone() };
    entry.annotations.extend(options.descriptor_annotations.clone());
    let created = match (&options.created, contents.manifests.first()) {
        (None, Some(first)) => store.config(&first.config.digest)?.created,
        (created, _) => created.clone(),
    };
    entry.annotations.extend(created.map(|created| (CREATED.to_owned(), created)));
    let named = |name: &Reference| {
        let mut entry = entry.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        let tag = name.tag().or(name.digest().map(Digest::as_str)).unwrap_or("latest");
        entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        entry
    };
    let named: Vec<_> = options.names.iter().map(named).collect();
    Ok(if named.is_empty() { vec![entry] } else { named })
}

/// `index.json` with these entries.
pub(super) fn index_json(entries: Vec<Descriptor>) -> Vec<u8> {
    let media_type = media_type::OCI_INDEX.to_owned();
    Index { schema_version: 2, media_type, manifests: entries, annotations: Annotations::new() }.to_bytes()
}
