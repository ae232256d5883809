//! Manifests and indexes: from a reference to verified bytes. Unaware of what is in them but their media type.

use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde::Deserialize;

use super::{
    Client, Error,
    auth::Access,
    exchange::{Target, read_limited},
    registries::{Endpoint, Purpose},
    retry::Attempts,
};
use crate::oci::{Digest, MediaType, Reference, media_type};

/// A manifest or index as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Of `bytes`.
    pub digest: Digest,
    /// An index's or a manifest's.
    pub media_type: MediaType,
    /// As they came; their digest is verified.
    pub bytes: Vec<u8>,
    /// The host that had it.
    pub host: String,
}

/// What a registry says of a reference without sending it. Only as true as the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the reference points to.
    pub digest: Digest,
    /// As the registry calls it.
    pub media_type: MediaType,
    /// The host that answered.
    pub host: String,
}

/// The distribution spec's advice for registries; nothing real is larger.
const MANIFEST_LIMIT: u64 = 4 << 20;

const ACCEPTED: [&str; 4] = [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST];

impl Client {
    /// Fetches the manifest or index that `reference` points to. With both tag and digest, the digest counts.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        let sources = self.sources(reference, purpose(reference))?;
        for (position, (endpoint, policy)) in sources.iter().enumerate() {
            let mut attempts = Attempts::new(policy);
            let error = loop {
                match self.resolve_once(reference, endpoint).await {
                    Ok(resolved) => return Ok(resolved),
                    Err(error) => match self.pause(&mut attempts, error).await {
                        Ok(()) => {}
                        Err(error) => break error,
                    },
                }
            };
            self.turn_to(endpoint, sources.get(position + 1).map(|(next, _)| next), error)?;
        }
        unreachable!("the last source's error is returned")
    }

    /// Fetches the manifest or index with `digest` from `reference`'s repository.
    pub async fn fetch_manifest(&self, reference: &Reference, digest: &Digest) -> Result<Resolved, Error> {
        self.resolve(&reference.with_digest(digest.clone())).await
    }

    /// Asks what `reference` points to, without fetching it where the registry can tell.
    pub async fn head(&self, reference: &Reference) -> Result<Head, Error> {
        let sources = self.sources(reference, purpose(reference))?;
        for (position, (endpoint, policy)) in sources.iter().enumerate() {
            let mut attempts = Attempts::new(policy);
            let error = loop {
                match self.head_once(reference, endpoint).await {
                    Ok(Some(head)) => return Ok(head),
                    Ok(None) => {
                        let Resolved { digest, media_type, host, .. } = self.resolve(reference).await?;
                        return Ok(Head { digest, media_type, host });
                    }
                    Err(error) => match self.pause(&mut attempts, error).await {
                        Ok(()) => {}
                        Err(error) => break error,
                    },
                }
            };
            self.turn_to(endpoint, sources.get(position + 1).map(|(next, _)| next), error)?;
        }
        unreachable!("the last source's error is returned")
    }

    async fn resolve_once(&self, reference: &Reference, endpoint: &Endpoint) -> Result<Resolved, Error> {
        let target = target(reference, endpoint);
        let accept = ACCEPTED.join(", ");
        let path = format!("manifests/{}", tag_or_digest(reference));
        let response = self.exchange(&target, &path, |client, url| client.get(url).header(ACCEPT, &accept)).await?;
        let said = content_type(&response);
        let announced = announced_digest(&response);
        let bytes = read_limited(response, &endpoint.host, "a manifest", MANIFEST_LIMIT, self.inner.options.timeouts.stall).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest().cloned().or(announced).filter(|expected| *expected != digest) {
            return Err(Error::DigestMismatch { host: endpoint.host.clone(), expected, found: digest });
        }
        let media_type = manifest_media_type(&bytes, &said);
        if !media_type::is_index(&media_type) && !media_type::is_manifest(&media_type) {
            return Err(Error::MediaType { reference: reference.familiar(), media_type });
        }
        Ok(Resolved { digest, media_type, bytes, host: endpoint.host.clone() })
    }

    /// None when the registry answers without a digest.
    async fn head_once(&self, reference: &Reference, endpoint: &Endpoint) -> Result<Option<Head>, Error> {
        let accept = ACCEPTED.join(", ");
        let path = format!("manifests/{}", tag_or_digest(reference));
        let target = target(reference, endpoint);
        let response = self.exchange(&target, &path, |client, url| client.head(url).header(ACCEPT, &accept)).await?;
        let media_type = content_type(&response);
        if let (Some(expected), Some(found)) = (reference.digest(), announced_digest(&response))
            && *expected != found
        {
            return Err(Error::DigestMismatch { host: endpoint.host.clone(), expected: expected.clone(), found });
        }
        let digest = announced_digest(&response);
        Ok(digest.map(|digest| Head { digest, media_type, host: endpoint.host.clone() }))
    }
}

fn purpose(reference: &Reference) -> Purpose {
    if reference.digest().is_some() { Purpose::Digest } else { Purpose::Tag }
}

fn target<'a>(reference: &Reference, endpoint: &'a Endpoint) -> Target<'a> {
    Target { endpoint, access: Access::pull(endpoint), what: reference.familiar() }
}

fn tag_or_digest(reference: &Reference) -> &str {
    reference.digest().map(Digest::as_str).or(reference.tag()).unwrap_or("latest")
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

fn announced_digest(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    schema_version: u32,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The document's own word first (it is what the digest covers), then the header's, then its shape.
fn manifest_media_type(bytes: &[u8], said: &str) -> String {
    let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else { return format!("{said} (not a JSON object)") };
    if shape.schema_version == 1 {
        return "application/vnd.docker.distribution.manifest.v1+json".to_owned();
    }
    if !shape.media_type.is_empty() {
        return shape.media_type;
    }
    match (shape.manifests, shape.layers, shape.config) {
        // A document that can be read both ways must not be (CVE-2021-41190).
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => "ambiguous: manifest and index at once".to_owned(),
        (Some(_), None, None) => media_type::OCI_INDEX.to_owned(),
        (None, _, Some(_)) => media_type::OCI_MANIFEST.to_owned(),
        (None, ..) => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_found_without_trusting_the_header() {
        for (body, said, expected) in [
            (r#"{"schemaVersion":2,"mediaType":"x","manifests":[]}"#, "y", "x"),
            (r#"{"schemaVersion":2,"manifests":[]}"#, media_type::OCI_MANIFEST, media_type::OCI_INDEX),
            (r#"{"schemaVersion":2,"config":{},"layers":[]}"#, "text/plain", media_type::OCI_MANIFEST),
            (r#"{"schemaVersion":2,"config":{},"manifests":[]}"#, media_type::OCI_INDEX, "ambiguous: manifest and index at once"),
            (r#"{"schemaVersion":1}"#, "", "application/vnd.docker.distribution.manifest.v1+json"),
            ("<html>", "text/html", "text/html (not a JSON object)"),
        ] {
            assert_eq!(manifest_media_type(body.as_bytes(), said), expected);
        }
    }
}
