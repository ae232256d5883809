//! The form that an output wants the image in: how its layers are written, which media types, which annotations.
//! Forms that agree are made once. Unaware of destinations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Failure;
use crate::{
    build::{Layer, LayerPolicy, PlatformOutcome, Progress, Services, chain},
    cli::{
        annotations::{Annotation, AnnotationKind},
        outputs::OutputSpec,
    },
    export::{self, ImageOptions},
    oci::{Annotations, Descriptor, Digest, Image, Platform},
    snapshot::{Compression, TOC_DIGEST},
};

/// How an image is written down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Form {
    /// How our own layers are.
    pub policy: LayerPolicy,
    /// Base layers of another compression are compressed anew.
    pub force: bool,
    /// Docker's media types instead of OCI's.
    pub docker_media_types: bool,
    /// Foreign layers keep their urls.
    pub prefer_nondistributable: bool,
    /// All annotations.
    pub annotations: Vec<Annotation>,
}

impl Form {
    /// What an output asks for, with the annotations of the command line before its own.
    pub fn of(
        output: &OutputSpec,
        build_args: &BTreeMap<String, String>,
        annotations: &[Annotation],
        reproducible: bool,
    ) -> Result<Self, Failure> {
        let mut all = annotations.to_vec();
        all.extend(output.annotations.iter().cloned());
        Ok(Self {
            policy: policy(output, build_args, reproducible)?,
            force: output.flag("force-compression", false)?,
            // Docker's media types have no place for what lazy readers look for.
            docker_media_types: !output.flag("oci-mediatypes", true)?
                && output.attributes.get("compression").is_none_or(|name| name != "estargz"),
            prefer_nondistributable: output.flag("prefer-nondist-layers", false)?,
            annotations: all,
        })
    }

    /// Annotations of one kind that hold for `platform`.
    pub fn annotations(&self, kind: AnnotationKind, platform: Option<&Platform>) -> Annotations {
        let ours = self.annotations.iter().filter(|annotation| annotation.kind == kind);
        let ours = ours.filter(|annotation| annotation.platform.is_none() || annotation.platform.as_ref() == platform);
        ours.map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
    }

    /// The image of one platform with its layers in this form. Base layers that stay as they are need not be here.
    pub async fn image(&self, platform: &PlatformOutcome, services: &Services, progress: &Arc<dyn Progress>) -> Result<Image, Failure> {
        let layers = platform.stack.iter().map(|layer| self.layer(layer, services, progress));
        let layers = futures_util::future::try_join_all(layers).await?;
        Ok(Image { layers, ..platform.image.clone() })
    }

    async fn layer(&self, layer: &Arc<Layer>, services: &Services, progress: &Arc<dyn Progress>) -> Result<crate::oci::Layer, Failure> {
        let fail = Failure::from;
        match layer.base_layer() {
            Some(base) if self.force && !is_of(&base.descriptor, self.policy.compression) => {
                layer.recompressed(self.policy.compression, services, progress).await.map_err(fail)
            }
            Some(base) => Ok(base.clone()),
            None => layer.blob(self.policy, services, progress).await.map_err(fail),
        }
    }

    /// Makes sure that the store has the blobs of every layer that `image` took over from its base, but for some.
    pub async fn complete(
        &self,
        outcome: &PlatformOutcome,
        without: &BTreeSet<Digest>,
        services: &Services,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), Failure> {
        let is_wanted = |layer: &&Arc<Layer>| layer.base_layer().is_none_or(|base| !without.contains(&base.descriptor.digest));
        let blobs = self.taken_over(outcome).filter(is_wanted).map(|layer| layer.blob(self.policy, services, progress));
        futures_util::future::try_join_all(blobs).await.map(drop).map_err(Failure::from)
    }

    /// Makes sure that the store has these blobs or knows which registries have them.
    pub async fn keep(&self, outcome: &PlatformOutcome, services: &Services, progress: &Arc<dyn Progress>) -> Result<(), Failure> {
        let blobs = self.taken_over(outcome).map(|layer| layer.keep(services, progress));
        futures_util::future::try_join_all(blobs).await.map(drop).map_err(Failure::from)
    }

    /// The layers of the base that the image has as they are.
    fn taken_over<'a>(&'a self, outcome: &'a PlatformOutcome) -> impl Iterator<Item = &'a Arc<Layer>> {
        let is_kept = |base: &crate::oci::Layer| !self.force || is_of(&base.descriptor, self.policy.compression);
        outcome.stack.iter().filter(move |layer| layer.base_layer().is_some_and(is_kept))
    }

    /// Writes the manifest of each platform.
    pub fn write_manifests(&self, images: &[Image], services: &Services) -> Result<Vec<Descriptor>, Failure> {
        let mut manifests = Vec::with_capacity(images.len());
        for image in images {
            let options = self.options(Some(&image.platform));
            let mut manifest = export::write_manifest(&services.store, image, &options).map_err(|error| Failure::new(chain(&error)))?;
            manifest.annotations = self.annotations(AnnotationKind::ManifestDescriptor, Some(&image.platform));
            manifests.push(manifest);
        }
        Ok(manifests)
    }

    /// What stands above the manifests: an index where there are several, or statements about them; else the only one.
    pub fn write_top(&self, manifests: &[Descriptor], attestations: Vec<Descriptor>, services: &Services) -> Result<Descriptor, Failure> {
        if let ([manifest], []) = (manifests, attestations.as_slice()) {
            if !self.annotations(AnnotationKind::Index, None).is_empty() {
                return Err(export::ExportError::IndexAnnotations.into());
            }
            return Ok(Descriptor { annotations: Annotations::new(), ..manifest.clone() });
        }
        let entries = [manifests, &attestations].concat();
        export::write_index(&services.store, entries, &self.options(None)).map_err(|error| Failure::new(chain(&error)))
    }

    fn options(&self, platform: Option<&Platform>) -> ImageOptions {
        ImageOptions {
            oci_media_types: !self.docker_media_types,
            prefer_nondistributable_layers: self.prefer_nondistributable,
            manifest_annotations: self.annotations(AnnotationKind::Manifest, platform),
            index_annotations: self.annotations(AnnotationKind::Index, None),
            ..ImageOptions::default()
        }
    }
}

fn is_of(layer: &Descriptor, compression: Compression) -> bool {
    let (media_type, is_estargz) = (&layer.media_type, layer.annotations.contains_key(TOC_DIGEST));
    match compression {
        Compression::Estargz(_) => is_estargz,
        Compression::None => media_type.ends_with(".tar"),
        Compression::Gzip(_) => media_type.ends_with("gzip"),
        Compression::Zstd(_) => media_type.ends_with("zstd"),
    }
}

/// How an output wants our layers written.
fn policy(output: &OutputSpec, build_args: &BTreeMap<String, String>, reproducible: bool) -> Result<LayerPolicy, Failure> {
    let mut policy = LayerPolicy { all_times: reproducible, ..LayerPolicy::default() };
    if output.flag("rewrite-timestamp", reproducible)? {
        let epoch = output.attributes.get("source-date-epoch").or_else(|| build_args.get("SOURCE_DATE_EPOCH"));
        let epoch = epoch.filter(|text| !text.is_empty()).and_then(|text| text.parse().ok());
        policy.clamp_to = Some(epoch.ok_or_else(|| {
            Failure::usage("rewrite-timestamp=true needs SOURCE_DATE_EPOCH")
                .with_hint("set it in the environment or with --build-arg SOURCE_DATE_EPOCH=0")
        })?);
    }
    let level = output.attributes.get("compression-level").map(|text| text.parse::<i32>());
    let level = level.transpose().map_err(|_| Failure::usage("compression-level is no number"))?;
    policy.compression = match output.attributes.get("compression").map(String::as_str) {
        None => match level {
            Some(level) => Compression::Gzip(gzip_level(level)?),
            None => policy.compression,
        },
        Some("gzip") => Compression::Gzip(gzip_level(level.unwrap_or(6))?),
        Some("zstd") => Compression::Zstd(level.map_or(Ok(3), zstd_level)?),
        Some("uncompressed") => Compression::None,
        Some("estargz") => Compression::Estargz(gzip_level(level.unwrap_or(6))?),
        Some(other) => {
            return Err(Failure::usage(format!("compression={other} is unknown")).with_hint("gzip, zstd, estargz or uncompressed"));
        }
    };
    Ok(policy)
}

fn gzip_level(level: i32) -> Result<u32, Failure> {
    u32::try_from(level).ok().filter(|level| *level <= 9).ok_or_else(|| Failure::usage("compression-level of gzip is 0 to 9"))
}

fn zstd_level(level: i32) -> Result<i32, Failure> {
    // 0 is zstd's own default.
    (0..=22)
        .contains(&level)
        .then_some(if level == 0 { 3 } else { level })
        .ok_or_else(|| Failure::usage("compression-level of zstd is 0 to 22"))
}
