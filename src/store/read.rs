//! Reads images out of blobs: index -> manifest -> config. Unaware of names and of what layers hold.

use serde::de::DeserializeOwned;

use super::{
    Store,
    error::{Result, StoreError},
};
use crate::oci::{Descriptor, Digest, Image, ImageConfig, Index, Layer, Manifest, Platform, media_type};

/// No manifest, index or config is larger; registries refuse more than 4 MiB.
const MAX_DOCUMENT: u64 = 16 << 20;

/// An index of an index is usual in layouts; more is not.
const MAX_NESTING: u32 = 4;

impl Store {
    /// The image of `platform` behind a manifest or index; its layers may be missing here.
    pub fn image(&self, descriptor: &Descriptor, platform: &Platform) -> Result<Image> {
        let chosen = self.manifest_for(descriptor, platform)?;
        let manifest = self.manifest(&chosen.digest)?;
        let config: ImageConfig = self.document("config", &manifest.config.digest)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            return Err(StoreError::LayersDisagree { digest: chosen.digest, layers, diff_ids });
        }
        let pairs = manifest.layers.into_iter().zip(diff_ids.iter().cloned());
        let layers = pairs.map(|(descriptor, diff_id)| Layer { descriptor, diff_id }).collect();
        Ok(Image { platform: config.platform(), config, layers })
    }

    /// The manifest for `platform`: the descriptor itself, or the best match of an index.
    pub fn manifest_for(&self, descriptor: &Descriptor, platform: &Platform) -> Result<Descriptor> {
        let mut current = descriptor.clone();
        for _ in 0..MAX_NESTING {
            if media_type::is_manifest(&current.media_type) {
                return Ok(current);
            }
            if !media_type::is_index(&current.media_type) {
                return Err(StoreError::NotAnImage { digest: current.digest, media_type: current.media_type });
            }
            current = choose(&self.index_blob(&current.digest)?, &current.digest, platform)?;
        }
        Err(StoreError::NestedTooDeeply { digest: current.digest })
    }

    /// A manifest, verified.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest> {
        self.document("manifest", digest)
    }

    /// An image index, verified.
    pub fn index_blob(&self, digest: &Digest) -> Result<Index> {
        self.document("index", digest)
    }

    /// A config, verified.
    pub fn config(&self, digest: &Digest) -> Result<ImageConfig> {
        self.document("config", digest)
    }

    fn document<T: DeserializeOwned>(&self, what: &'static str, digest: &Digest) -> Result<T> {
        let bytes = self.read_blob(digest, MAX_DOCUMENT)?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::Malformed { what, digest: digest.clone(), source })
    }
}

/// The entry nearest to `platform`. An entry that is an index without a platform may hold it: the only one is taken.
fn choose(index: &Index, digest: &Digest, platform: &Platform) -> Result<Descriptor> {
    let ranked = index.manifests.iter().filter_map(|entry| {
        let offered = entry.platform.as_ref()?;
        let offered = Platform { os_version: offered.os_version.clone(), ..normalised(offered) };
        Some((platform.rank(&offered)?, entry))
    });
    // The first of equals, as every puller takes it.
    if let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) {
        return Ok(entry.clone());
    }
    match index.manifests.as_slice() {
        [only] if only.platform.is_none() => Ok(only.clone()),
        entries => {
            let offered = entries.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string);
            let offered = offered.collect::<Vec<_>>().join(", ");
            Err(StoreError::NoPlatform { digest: digest.clone(), platform: platform.to_string(), offered })
        }
    }
}

fn normalised(platform: &Platform) -> Platform {
    Platform::new(&platform.os, &platform.architecture, platform.variant.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Annotations, DiffId};

    fn put_index(store: &Store, manifests: Vec<Descriptor>) -> Descriptor {
        let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX.to_owned(), manifests, annotations: Annotations::new() };
        let bytes = index.to_bytes();
        Descriptor::new(media_type::OCI_INDEX, store.put_blob(&bytes).unwrap(), bytes.len() as u64)
    }

    fn put_image(store: &Store, platform: &str, layers: usize, diff_ids: usize) -> Descriptor {
        let platform: Platform = platform.parse().unwrap();
        let mut config = ImageConfig { os: platform.os.clone(), architecture: platform.architecture.clone(), ..Default::default() };
        config.variant = platform.variant.clone();
        config.rootfs.diff_ids = (0..diff_ids).map(|number| DiffId(Digest::of(&[number as u8]))).collect();
        let bytes = config.to_bytes();
        let layer = Descriptor::new(media_type::OCI_LAYER, Digest::of(b"layer"), 5);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, store.put_blob(&bytes).unwrap(), bytes.len() as u64),
            layers: vec![layer; layers],
            subject: None,
            annotations: Annotations::new(),
        };
        let bytes = manifest.to_bytes();
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes).unwrap(), bytes.len() as u64);
        entry.platform = Some(platform);
        entry
    }

    #[test]
    fn the_nearest_platform_is_read_through_nested_indexes() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let entries = ["linux/amd64", "linux/arm/v6", "linux/arm64"].map(|text| put_image(&store, text, 2, 2)).to_vec();
        let nested = put_index(&store, vec![put_index(&store, entries.clone())]);
        let image = store.image(&nested, &"linux/arm/v7".parse().unwrap()).unwrap();
        assert_eq!(image.platform.to_string(), "linux/arm/v6");
        assert_eq!(image.layers.len(), 2);
        let error = store.image(&nested, &"linux/s390x".parse().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("no image for linux/s390x; it offers linux/amd64, linux/arm/v6, linux/arm64"), "{error}");
        assert!(store.image(&entries[0], &"linux/amd64".parse().unwrap()).is_ok());
    }

    #[test]
    fn layers_and_diff_ids_must_agree() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let entry = put_image(&store, "linux/amd64", 2, 1);
        let error = store.image(&entry, &"linux/amd64".parse().unwrap()).unwrap_err();
        assert!(matches!(error, StoreError::LayersDisagree { layers: 2, diff_ids: 1, .. }));
    }
}
