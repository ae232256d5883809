//! What `--iidfile` and `--metadata-file` say of a result.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Failure;
use crate::{
    build::{Services, chain},
    export::{self, FileDestination},
    oci::{Descriptor, Digest, Reference, media_type},
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
}

impl Written {
    /// Of a manifest or index of the store.
    pub fn of(services: &Services, descriptor: &Descriptor, names: Vec<Reference>) -> Result<Self, Failure> {
        let config = match media_type::is_index(&descriptor.media_type) {
            true => None,
            false => {
                let manifest = services.store.manifest(&descriptor.digest);
                Some(manifest.map_err(|error| Failure::new(chain(&error)))?.config.digest)
            }
        };
        let image_id = config.clone().unwrap_or_else(|| descriptor.digest.clone());
        Ok(Self { image_id, descriptor: descriptor.clone(), config, names, image: descriptor.clone() })
    }

    /// The content of `--metadata-file`, with buildx's keys.
    pub fn metadata(&self) -> Value {
        let mut map = Map::new();
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
