//! Statements about an image, kept beside it: an artifact manifest whose subject is the image (OCI referrers). Unaware of
//! what is stated.

use super::error::{ExportError, Result};
use crate::{
    oci::{Annotations, Descriptor, Index, Manifest, Reference, media_type},
    registry::Client,
    store::Store,
};

/// What an in-toto statement is.
pub const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";

/// Writes a statement about `subject` into the store; gives its manifest.
pub fn write_attestation(store: &Store, subject: &Descriptor, predicate_type: &str, statement: &[u8]) -> Result<Descriptor> {
    let mut layer = Descriptor::new(STATEMENT_TYPE, store.put_blob(statement)?, statement.len() as u64);
    layer.annotations.insert("in-toto.io/predicate-type".to_owned(), predicate_type.to_owned());
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: Some(STATEMENT_TYPE.to_owned()),
        config: Descriptor::new(media_type::OCI_EMPTY, store.put_blob(b"{}")?, 2),
        layers: vec![layer],
        subject: Some(Descriptor { annotations: Annotations::new(), platform: None, ..subject.clone() }),
        annotations: Annotations::from([("in-toto.io/predicate-type".to_owned(), predicate_type.to_owned())]),
    };
    let bytes = manifest.to_bytes();
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes)?, bytes.len() as u64);
    descriptor.artifact_type = Some(STATEMENT_TYPE.to_owned());
    descriptor.annotations = manifest.annotations;
    Ok(descriptor)
}

/// Makes a pushed statement findable where the registry doesn't list referrers by itself: in an index under a tag made of
/// the subject's digest, as the distribution specification has it.
pub async fn list_referrer(client: &Client, name: &Reference, subject: &Descriptor, referrer: &Descriptor) -> Result<()> {
    let mut index = client.referrers(name, &subject.digest, None).await?;
    if index.manifests.iter().any(|known| known.digest == referrer.digest) {
        return Ok(());
    }
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
}
