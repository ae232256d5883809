//! Assembles images in the store: config, manifest, index. Unaware of where they go from there.

use crate::{
    oci::{Annotations, Descriptor, History, Image, ImageConfig, Index, Layer, Manifest, media_type},
    store::Store,
};

use super::error::{ExportError, Result};

/// The comment of history entries that stand for layers no instruction speaks of.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// Annotations of a builder's own bookkeeping; they never leave it.
const INTERNAL_ANNOTATIONS: [&str; 3] = ["containerd.io/uncompressed", "buildkit/createdat", "containerd.io/distribution.source."];

/// How an image is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// OCI media types; otherwise Docker's.
    pub oci_media_types: bool,
    /// An index even for one platform.
    pub always_index: bool,
    /// Foreign layers keep their media type and urls instead of becoming ordinary ones.
    pub prefer_nondistributable_layers: bool,
    /// `annotation.KEY`: in each manifest.
    pub manifest_annotations: Annotations,
    /// `annotation-manifest-descriptor.KEY`: on each entry of the index.
    pub manifest_descriptor_annotations: Annotations,
    /// `annotation-index.KEY`.
    pub index_annotations: Annotations,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            oci_media_types: true,
            always_index: false,
            prefer_nondistributable_layers: false,
            manifest_annotations: Annotations::new(),
            manifest_descriptor_annotations: Annotations::new(),
            index_annotations: Annotations::new(),
        }
    }
}

/// Writes an image of one platform or more, in the order given, and returns its manifest or index.
pub fn write_image(store: &Store, images: &[Image], options: &ImageOptions) -> Result<Descriptor> {
    let mut manifests = images.iter().map(|image| write_manifest(store, image, options)).collect::<Result<Vec<_>>>()?;
    if manifests.len() == 1 && !options.always_index {
        if !options.index_annotations.is_empty() {
            return Err(ExportError::IndexAnnotations);
        }
        return Ok(manifests.remove(0));
    }
    for manifest in &mut manifests {
        manifest.annotations.extend(options.manifest_descriptor_annotations.clone());
    }
    write_index(store, manifests, options)
}

/// Writes an image's config and manifest. Its layers are in the store already, or will be fetched by whoever needs them.
pub fn write_manifest(store: &Store, image: &Image, options: &ImageOptions) -> Result<Descriptor> {
    let config = normalised(image).to_bytes();
    let config_type = if options.oci_media_types { media_type::OCI_CONFIG } else { media_type::DOCKER_CONFIG };
    let manifest_type = if options.oci_media_types { media_type::OCI_MANIFEST } else { media_type::DOCKER_MANIFEST };
    let manifest = Manifest {
        schema_version: 2,
        media_type: manifest_type.to_owned(),
        artifact_type: None,
        config: Descriptor::new(config_type, store.put_blob(&config)?, config.len() as u64),
        layers: image.layers.iter().map(|layer| layer_descriptor(layer, options)).collect(),
        subject: None,
        annotations: options.manifest_annotations.clone(),
    };
    let bytes = manifest.to_bytes();
    let mut descriptor = Descriptor::new(manifest_type, store.put_blob(&bytes)?, bytes.len() as u64);
    descriptor.platform = Some(image.platform.clone());
    Ok(descriptor)
}

/// Writes an index of manifests that are in the store.
pub fn write_index(store: &Store, manifests: Vec<Descriptor>, options: &ImageOptions) -> Result<Descriptor> {
    let index_type = if options.oci_media_types { media_type::OCI_INDEX } else { media_type::DOCKER_INDEX };
    let annotations = options.index_annotations.clone();
    let bytes = Index { schema_version: 2, media_type: index_type.to_owned(), manifests, annotations }.to_bytes();
    Ok(Descriptor::new(index_type, store.put_blob(&bytes)?, bytes.len() as u64))
}

/// The config with as many layer entries in its history as it has layers, each with a time.
fn normalised(image: &Image) -> ImageConfig {
    let mut config = image.config.clone();
    config.rootfs.diff_ids = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let mut left = image.layers.len();
    for entry in &mut config.history {
        match left {
            0 => entry.empty_layer = true,
            _ if entry.empty_layer => {}
            _ => left -= 1,
        }
    }
    let unexplained = History { comment: Some(EXPORTER_COMMENT.to_owned()), ..History::default() };
    config.history.extend(std::iter::repeat_n(unexplained, left));
    for entry in &mut config.history {
        if entry.created.is_none() {
            entry.created = config.created.clone();
        }
    }
    config
}

fn layer_descriptor(layer: &Layer, options: &ImageOptions) -> Descriptor {
    let mut descriptor = layer.descriptor.clone();
    descriptor.annotations.retain(|key, _| !INTERNAL_ANNOTATIONS.iter().any(|internal| key.starts_with(internal)));
    descriptor.platform = None;
    let is_foreign = descriptor.media_type.contains("nondistributable") || descriptor.media_type.contains("foreign");
    if is_foreign && options.prefer_nondistributable_layers {
        return descriptor;
    }
    if is_foreign {
        descriptor.extra.remove("urls");
    }
    descriptor.media_type = layer_type(&descriptor.media_type, options.oci_media_types);
    descriptor
}

/// A layer's media type in the wanted family, by the compression that its own one says.
fn layer_type(found: &str, oci: bool) -> String {
    let is_zstd = found.ends_with("zstd");
    let is_gzip = found.ends_with("gzip");
    let name = match (oci, is_gzip, is_zstd) {
        (true, true, _) => media_type::OCI_LAYER_GZIP,
        (true, _, true) => media_type::OCI_LAYER_ZSTD,
        (true, ..) if found.ends_with(".tar") => media_type::OCI_LAYER,
        (false, true, _) => media_type::DOCKER_LAYER_GZIP,
        (false, _, true) => media_type::DOCKER_LAYER_ZSTD,
        (false, ..) if found.ends_with(".tar") => media_type::DOCKER_LAYER,
        _ => found,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{image, store};

    fn manifest_of(store: &Store, descriptor: &Descriptor) -> Manifest {
        store.manifest(&descriptor.digest).unwrap()
    }

    #[test]
    fn one_platform_is_a_manifest_and_more_are_an_index() {
        let (_top, store) = store();
        let images = [image(&store, "linux/amd64", &["a"]), image(&store, "linux/arm/v7", &["b"])];
        let one = write_image(&store, &images[..1], &ImageOptions::default()).unwrap();
        assert_eq!(one.media_type, media_type::OCI_MANIFEST);
        let many = write_image(&store, &images, &ImageOptions::default()).unwrap();
        assert_eq!(many.media_type, media_type::OCI_INDEX);
        let entries = store.index_blob(&many.digest).unwrap().manifests;
        assert_eq!(entries[0], one);
        let platforms: Vec<_> = entries.iter().map(|entry| entry.platform.as_ref().unwrap().to_string()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm/v7"]);
        let index_annotations = Annotations::from([("k".to_owned(), "v".to_owned())]);
        let options = ImageOptions { index_annotations, ..ImageOptions::default() };
        assert!(matches!(write_image(&store, &images[..1], &options), Err(ExportError::IndexAnnotations)));
        assert_eq!(store.index_blob(&write_image(&store, &images, &options).unwrap().digest).unwrap().annotations["k"], "v");
    }

    #[test]
    fn layers_are_named_in_the_family_that_is_asked_for() {
        for (found, oci, docker) in [
            (media_type::OCI_LAYER, media_type::OCI_LAYER, media_type::DOCKER_LAYER),
            (media_type::DOCKER_LAYER_GZIP, media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP),
            (media_type::OCI_LAYER_ZSTD, media_type::OCI_LAYER_ZSTD, media_type::DOCKER_LAYER_ZSTD),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP),
            ("application/x-other", "application/x-other", "application/x-other"),
        ] {
            assert_eq!(layer_type(found, true), oci);
            assert_eq!(layer_type(found, false), docker);
        }
    }

    #[test]
    fn bookkeeping_does_not_leave_the_builder() {
        let (_top, store) = store();
        let mut image = image(&store, "linux/amd64", &["a"]);
        for key in ["containerd.io/uncompressed", "containerd.io/distribution.source.docker.io", "kept"] {
            image.layers[0].descriptor.annotations.insert(key.to_owned(), "x".to_owned());
        }
        image.layers[0].descriptor.extra.insert("urls".to_owned(), serde_json::json!(["u"]));
        image.layers[0].descriptor.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".to_owned();
        let layer = &manifest_of(&store, &write_manifest(&store, &image, &ImageOptions::default()).unwrap()).layers[0];
        assert_eq!(layer.annotations.keys().collect::<Vec<_>>(), ["kept"]);
        assert_eq!((layer.media_type.as_str(), layer.extra.get("urls")), (media_type::OCI_LAYER_GZIP, None));
        let options = ImageOptions { prefer_nondistributable_layers: true, ..ImageOptions::default() };
        let layer = &manifest_of(&store, &write_manifest(&store, &image, &options).unwrap()).layers[0];
        assert!(layer.media_type.contains("nondistributable") && layer.extra.contains_key("urls"));
    }

    #[test]
    fn history_and_layers_are_made_to_agree() {
        let (_top, store) = store();
        let entry = |empty_layer| History { created_by: Some("x".into()), empty_layer, ..History::default() };
        let check = |layers: &[&str], history: &[bool], expected: &[(bool, bool)]| {
            let mut image = image(&store, "linux/amd64", layers);
            image.config.created = Some("2020-01-01T00:00:00Z".into());
            image.config.history = history.iter().map(|empty| entry(*empty)).collect();
            let written = normalised(&image);
            let found: Vec<_> =
                written.history.iter().map(|entry| (entry.empty_layer, entry.comment.as_deref() == Some(EXPORTER_COMMENT))).collect();
            assert_eq!(found, expected);
            assert!(written.history.iter().all(|entry| entry.created == image.config.created));
        };
        check(&["a"], &[true, false], &[(true, false), (false, false)]);
        check(&["a", "b"], &[false], &[(false, false), (false, true)]);
        check(&["a"], &[false, true, false], &[(false, false), (true, false), (true, false)]);
    }

    #[test]
    fn the_same_image_always_has_the_same_digest() {
        let digests = [(), ()].map(|()| {
            let (_top, store) = store();
            let images = [image(&store, "linux/amd64", &["a", "b"]), image(&store, "linux/arm64", &["a"])];
            write_image(&store, &images, &ImageOptions::default()).unwrap().digest
        });
        assert_eq!(digests[0], digests[1]);
    }
}
