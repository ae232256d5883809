//! Statements about an image: beside it, in an artifact manifest whose subject is the image (OCI referrers); or above it,
//! in an index with an entry for the image and one for its statements, as BuildKit has it. Unaware of what is stated.

use super::error::{ExportError, Result};
use crate::{
    oci::{Annotations, Descriptor, DiffId, ImageConfig, Index, Manifest, Platform, Reference, media_type},
    registry::Client,
    store::Store,
};

/// What an in-toto statement is.
pub const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// What BuildKit calls a manifest of statements.
const ATTESTATION_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";

/// Writes the manifest of all statements about `subject` for an entry of an index. An `artifact` says so in OCI's words;
/// otherwise it looks like an image for no platform, for tools that know nothing else.
pub fn write_index_attestation(store: &Store, subject: &Descriptor, statements: &[(&str, &[u8])], artifact: bool) -> Result<Descriptor> {
    let layers = statements.iter().map(|(predicate_type, bytes)| statement_layer(store, predicate_type, bytes));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let config = match artifact {
        true => Descriptor::new(media_type::OCI_EMPTY, store.put_blob(b"{}")?, 2),
        false => {
            let mut config = ImageConfig { architecture: "unknown".to_owned(), os: "unknown".to_owned(), ..ImageConfig::default() };
            config.rootfs.diff_ids = layers.iter().map(|layer| DiffId(layer.digest.clone())).collect();
            let bytes = config.to_bytes();
            Descriptor::new(media_type::OCI_CONFIG, store.put_blob(&bytes)?, bytes.len() as u64)
        }
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: artifact.then(|| ATTESTATION_TYPE.to_owned()),
        config,
        layers,
        subject: artifact.then(|| Descriptor { annotations: Annotations::new(), platform: None, ..subject.clone() }),
        annotations: Annotations::new(),
    };
    let bytes = manifest.to_bytes();
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes)?, bytes.len() as u64);
    descriptor.platform = Some(Platform::new("unknown", "unknown", None));
    descriptor.annotations.insert("vnd.docker.reference.digest".to_owned(), subject.digest.to_string());
    descriptor.annotations.insert(REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned());
    Ok(descriptor)
}

const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Whether an entry of an index holds statements and is no image.
pub fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == "attestation-manifest")
}

fn statement_layer(store: &Store, predicate_type: &str, statement: &[u8]) -> Result<Descriptor> {
    let mut layer = Descriptor::new(STATEMENT_TYPE, store.put_blob(statement)?, statement.len() as u64);
    layer.annotations.insert(PREDICATE_TYPE.to_owned(), predicate_type.to_owned());
    Ok(layer)
}

/// Writes a statement about `subject` into the store; gives its manifest.
pub fn write_attestation(store: &Store, subject: &Descriptor, predicate_type: &str, statement: &[u8]) -> Result<Descriptor> {
    let layer = statement_layer(store, predicate_type, statement)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: Some(STATEMENT_TYPE.to_owned()),
        config: Descriptor::new(media_type::OCI_EMPTY, store.put_blob(b"{}")?, 2),
        layers: vec![layer],
        subject: Some(Descriptor { annotations: Annotations::new(), platform: None, ..subject.clone() }),
        annotations: Annotations::from([(PREDICATE_TYPE.to_owned(), predicate_type.to_owned())]),
    };
    let bytes = manifest.to_bytes();
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes)?, bytes.len() as u64);
    descriptor.artifact_type = Some(STATEMENT_TYPE.to_owned());
    descriptor.annotations = manifest.annotations;
    Ok(descriptor)
}

/// Whether the registry has a statement of this kind about `subject`.
pub async fn has_statement(client: &Client, name: &Reference, subject: &Descriptor, predicate_type: &str) -> Result<bool> {
    let listed = client.referrers(name, &subject.digest, None).await?;
    Ok(listed.manifests.iter().any(|entry| entry.annotations.get(PREDICATE_TYPE).is_some_and(|found| found == predicate_type)))
}

/// Makes a pushed statement findable where the registry doesn't list referrers by itself: in an index under a tag made of
/// the subject's digest, as the distribution specification has it. `list` is what is there, of [`Client::referrers_tag`].
pub async fn list_referrer(
    client: &Client,
    name: &Reference,
    subject: &Descriptor,
    referrer: &Descriptor,
    list: Option<Index>,
) -> Result<()> {
    let Some(mut index) = list.filter(|list| list.manifests.iter().all(|known| known.digest != referrer.digest)) else { return Ok(()) };
    index.manifests.push(referrer.clone());
    let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX.to_owned(), ..index };
    let tag = subject.digest.as_str().replace(':', "-");
    client.push_manifest(&name.with_tag(&tag), media_type::OCI_INDEX, &index.to_bytes()).await.map(drop).map_err(ExportError::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::store;

    #[test]
    fn a_statement_names_its_subject() {
        let (_top, store) = store();
        let mut subject = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(b"x").unwrap(), 1);
        subject.platform = Some("linux/amd64".parse().unwrap());
        let written = write_attestation(&store, &subject, "https://slsa.dev/provenance/v1", b"{}").unwrap();
        let manifest = store.manifest(&written.digest).unwrap();
        assert_eq!(manifest.subject, Some(Descriptor { platform: None, ..subject }));
        assert_eq!(manifest.layers[0].media_type, STATEMENT_TYPE);
        assert_eq!(manifest.artifact_type.as_deref(), Some(STATEMENT_TYPE));
    }

    #[test]
    fn in_an_index_statements_are_for_no_platform() {
        let (_top, store) = store();
        let subject = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(b"x").unwrap(), 1);
        let statements: [(&str, &[u8]); 2] = [("https://spdx.dev/Document", b"{}"), ("https://slsa.dev/provenance/v1", b"{ }")];
        for artifact in [false, true] {
            let entry = write_index_attestation(&store, &subject, &statements, artifact).unwrap();
            assert!(is_attestation(&entry) && !is_attestation(&subject));
            assert_eq!(entry.annotations["vnd.docker.reference.digest"], subject.digest.to_string());
            assert_eq!(entry.platform.as_ref().unwrap().to_string(), "unknown/unknown");
            let manifest = store.manifest(&entry.digest).unwrap();
            assert_eq!((manifest.layers.len(), manifest.subject.is_some()), (2, artifact));
            let is_like_an_image = manifest.config.media_type == media_type::OCI_CONFIG;
            assert_eq!((is_like_an_image, manifest.artifact_type.is_some()), (!artifact, artifact));
        }
    }
}
