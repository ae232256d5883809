//! What `--iidfile` and `--metadata-file` say of a result.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Failure;
use crate::{
    build::{Services, chain},
    export::{self, FileDestination},
    oci::{Descriptor, Digest, Reference, media_type},
    store::StoreError,
};

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The config's digest for one platform, the index's for several (buildx `getImageID`).
    pub image_id: Digest,
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The config, for one platform.
    pub config: Option<Digest>,
    /// Its names, those of registries too.
    pub names: Vec<Reference>,
    /// The manifest or index without what is stated about it.
    pub image: Descriptor,
    /// The sizes of its layers, of all platforms, as they were written.
    pub layer_sizes: Vec<u64>,
    /// How it was made, as far as `--metadata-file` is to say.
    pub provenance: Option<Value>,
}

impl Written {
    /// Of a manifest or index of the store.
    pub fn of(services: &Services, descriptor: &Descriptor, names: Vec<Reference>) -> Result<Self, Failure> {
        let fail = |error: StoreError| Failure::new(chain(&error));
        let manifest = |digest: &Digest| services.store.manifest(digest).map_err(fail);
        let is_index = media_type::is_index(&descriptor.media_type);
        let manifests = match is_index {
            true => {
                let index = services.store.index_blob(&descriptor.digest).map_err(fail)?;
                let images = index.manifests.iter().filter(|entry| !export::is_attestation(entry));
                images.map(|entry| manifest(&entry.digest)).collect::<Result<Vec<_>, _>>()?
            }
            false => vec![manifest(&descriptor.digest)?],
        };
        let layer_sizes = manifests.iter().flat_map(|manifest| &manifest.layers).map(|layer| layer.size).collect();
        let config = manifests.first().filter(|_| !is_index).map(|manifest| manifest.config.digest.clone());
        let image_id = config.clone().unwrap_or_else(|| descriptor.digest.clone());
        Ok(Self { image_id, descriptor: descriptor.clone(), config, names, image: descriptor.clone(), layer_sizes, provenance: None })
    }

    /// The content of `--metadata-file`, with buildx's keys.
    pub fn metadata(&self) -> Value {
        let mut map = Map::new();
        if let Some(provenance) = &self.provenance {
            map.insert("buildx.build.provenance".to_owned(), provenance.clone());
        }
        if let Some(config) = &self.config {
            map.insert("containerimage.config.digest".to_owned(), json!(config));
        }
        map.insert("containerimage.descriptor".to_owned(), json!(self.descriptor));
        map.insert("containerimage.digest".to_owned(), json!(self.descriptor.digest));
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
            map.insert("image.name".to_owned(), json!(names.join(",")));
        }
        Value::Object(map)
    }

    /// Writes `--metadata-file`.
    pub fn write_metadata(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(&self.metadata()).expect("a JSON value");
        text.push('\n');
        export::write_file(FileDestination::Path(path.to_owned()), text.as_bytes()).map_err(|error| Failure::new(chain(&error)))
    }
}
