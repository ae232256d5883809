//! The push verbs: a blob by mount or upload, a manifest, and small questions about a repository. Unaware of what the
//! blobs are and of how their bytes travel (`upload`).

use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION},
};
use serde::Deserialize;
use tokio::io::AsyncRead;

use super::{
    Client, Error,
    auth::Access,
    exchange::{Target, read_limited},
    registries::{Endpoint, Purpose},
    retry::Attempts,
    upload::Upload,
};
use crate::oci::{Descriptor, Digest, Index, Reference};

/// How a blob came to be in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// Mounted from this repository of the same registry.
    Mounted(String),
    /// Its bytes were sent.
    Uploaded,
}

/// At most this many repositories are tried for a mount: each refusal costs a round trip.
const MOUNT_CANDIDATES: usize = 3;

impl Client {
    /// Makes sure that `reference`'s repository has the blob. `open` gives a reader of the blob from an offset; it is
    /// called only when bytes must be sent, and again after a failure. `mount_from` names repositories that may have the
    /// blob; those of other registries are skipped. `progress` is told how many bytes the registry has (or was sent).
    pub async fn push_blob<R: AsyncRead + Send + 'static>(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: impl Fn(u64) -> std::io::Result<R> + Send + Sync,
        mount_from: &[Reference],
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Pushed, Error> {
        let _permit = self.inner.permits.acquire().await.expect("the semaphore is never closed");
        let endpoint = self.push_endpoint(reference)?;
        let target = Target { endpoint: &endpoint, access: Access::push(&endpoint), what: reference.familiar() };
        if self.has_blob_at(&target, &descriptor.digest).await? {
            return Ok(Pushed::Existed);
        }
        let candidates =
            mount_from.iter().filter(|from| from.registry() == reference.registry() && from.repository() != reference.repository());
        let mut session = None;
        for from in candidates.take(MOUNT_CANDIDATES) {
            match self.mount(&endpoint, &descriptor.digest, from).await {
                Mount::Done(repository) => return Ok(Pushed::Mounted(repository)),
                Mount::Session(location) => session = Some(location),
                Mount::Refused => {}
            }
        }
        Upload::new(self, target, descriptor, open, progress).run(session).await?;
        Ok(Pushed::Uploaded)
    }

    /// The blob in `reference`'s repository without its bytes: it is there, or a repository of `mount_from` gives it. None
    /// when its bytes must be sent, so that who hasn't got them fetches them only then.
    pub async fn claim_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: &[Reference],
    ) -> Result<Option<Pushed>, Error> {
        let _permit = self.inner.permits.acquire().await.expect("the semaphore is never closed");
        let endpoint = self.push_endpoint(reference)?;
        let target = Target { endpoint: &endpoint, access: Access::push(&endpoint), what: reference.familiar() };
        if self.has_blob_at(&target, &descriptor.digest).await? {
            return Ok(Some(Pushed::Existed));
        }
        // By host, not by name: what a base is called may be another name of the same registry.
        let same_host = |from: &&Reference| self.push_endpoint(from).is_ok_and(|source| source.host == endpoint.host);
        for from in mount_from.iter().filter(same_host).take(MOUNT_CANDIDATES) {
            // A session that is opened instead of a mount is left to the registry, which forgets it.
            if let Mount::Done(repository) = self.mount(&endpoint, &descriptor.digest, from).await {
                return Ok(Some(Pushed::Mounted(repository)));
            }
        }
        Ok(None)
    }

    /// Whether `reference`'s repository has the blob already.
    pub async fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, Error> {
        let endpoint = self.push_endpoint(reference)?;
        self.has_blob_at(&Target { endpoint: &endpoint, access: Access::pull(&endpoint), what: reference.familiar() }, digest).await
    }

    /// Puts a manifest or index under `reference`'s digest and tag (either may be absent). Its blobs must be there.
    pub async fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let endpoint = self.push_endpoint(reference)?;
        let digest = Digest::of(bytes);
        if let Some(expected) = reference.digest().filter(|expected| **expected != digest) {
            return Err(Error::DigestMismatch { host: "the caller".to_owned(), expected: expected.clone(), found: digest });
        }
        let name = reference.tag().unwrap_or(digest.as_str());
        let target = Target { endpoint: &endpoint, access: Access::push(&endpoint), what: reference.familiar() };
        let path = format!("manifests/{name}");
        let response = self
            .persist(|| self.exchange(&target, &path, |client, url| client.put(url).header(CONTENT_TYPE, media_type).body(bytes.to_vec())))
            .await?;
        let stored = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match stored {
            Some(found) if found != digest => Err(Error::DigestMismatch { host: endpoint.host, expected: digest, found }),
            _ => Ok(digest),
        }
    }

    /// The manifests that refer to `digest` (OCI referrers); of `artifact_type` only, if given. An empty index where
    /// there are none.
    pub async fn referrers(&self, reference: &Reference, digest: &Digest, artifact_type: Option<&str>) -> Result<Index, Error> {
        let mut index = match self.listed_referrers(reference, digest).await {
            Err(Error::NotFound { .. }) => self.tagged_referrers(reference, digest).await?,
            other => other?,
        };
        if let Some(wanted) = artifact_type {
            index.manifests.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        Ok(index)
    }

    /// The list under a tag that a registry without the referrers API keeps; None where the registry lists by itself.
    pub async fn referrers_tag(&self, reference: &Reference, digest: &Digest) -> Result<Option<Index>, Error> {
        match self.listed_referrers(reference, digest).await {
            Err(Error::NotFound { .. }) => self.tagged_referrers(reference, digest).await.map(Some),
            other => other.map(|_| None),
        }
    }

    /// A registry without the API keeps the list under a tag made of the digest.
    async fn tagged_referrers(&self, reference: &Reference, digest: &Digest) -> Result<Index, Error> {
        match self.resolve(&reference.with_tag(&digest.as_str().replace(':', "-"))).await {
            Ok(resolved) => serde_json::from_slice(&resolved.bytes).map_err(|error| malformed(&resolved.host, error)),
            Err(Error::NotFound { .. }) => Ok(Index {
                schema_version: 2,
                media_type: crate::oci::media_type::OCI_INDEX.to_owned(),
                manifests: Vec::new(),
                annotations: Default::default(),
            }),
            Err(error) => Err(error),
        }
    }

    /// All pages of what the registry lists by itself.
    async fn listed_referrers(&self, reference: &Reference, digest: &Digest) -> Result<Index, Error> {
        let path = format!("referrers/{digest}");
        let (mut index, mut next) = self.get_json::<Index>(reference, &path).await?;
        while let Some(query) = next {
            let (page, after) = self.get_json::<Index>(reference, &format!("{path}?{query}")).await?;
            // An empty page with a successor would go on for ever.
            next = after.filter(|_| !page.manifests.is_empty());
            index.manifests.extend(page.manifests);
        }
        Ok(index)
    }

    /// All tags of the repository.
    pub async fn list_tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let mut path = "tags/list".to_owned();
        let mut all = Vec::new();
        loop {
            let (page, next) = self.get_json::<Tags>(reference, &path).await?;
            let count = all.len();
            all.extend(page.tags.unwrap_or_default());
            match next {
                // An empty page with a successor would go on for ever.
                Some(query) if all.len() > count => path = format!("tags/list?{query}"),
                _ => return Ok(all),
            }
        }
    }

    /// Asks the repository itself; gives the answer and the query of the next page.
    async fn get_json<T: serde::de::DeserializeOwned>(&self, reference: &Reference, path: &str) -> Result<(T, Option<String>), Error> {
        let endpoint = self.push_endpoint(reference)?;
        let target = Target { endpoint: &endpoint, access: Access::pull(&endpoint), what: reference.familiar() };
        let response = self.persist(|| self.exchange(&target, path, |client, url| client.get(url))).await?;
        let next = next_query(&response);
        let body = read_limited(response, &endpoint.host, "a list", 4 << 20, self.inner.options.timeouts.stall).await?;
        let value = serde_json::from_slice(&body).map_err(|error| malformed(&endpoint.host, error))?;
        Ok((value, next))
    }

    /// Finds out how `reference`'s registry is spoken to, so that a push does not wait for that. Failing is for the push.
    pub async fn greet(&self, reference: &Reference) {
        let host = self.push_endpoint(reference).and_then(|endpoint| self.host(&endpoint));
        if let Ok(host) = host {
            let _ = host.base(self.inner.options.timeouts.response).await;
        }
    }

    pub(super) fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint, Error> {
        let mut endpoints = self.inner.configuration.endpoints(reference, Purpose::Push)?;
        Ok(endpoints.pop().expect("the registry itself is always an endpoint"))
    }

    async fn has_blob_at(&self, target: &Target<'_>, digest: &Digest) -> Result<bool, Error> {
        let path = format!("blobs/{digest}");
        match self.persist(|| self.exchange(target, &path, |client, url| client.head(url))).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn mount(&self, endpoint: &Endpoint, digest: &Digest, from: &Reference) -> Mount {
        // The registry may know `from` under another name than we do.
        let Ok(source) = self.push_endpoint(from) else { return Mount::Refused };
        if source.host != endpoint.host {
            return Mount::Refused;
        }
        let target = Target { endpoint, access: Access::mount(endpoint, &source.repository), what: from.familiar() };
        let path = format!("blobs/uploads/?mount={digest}&from={}", source.repository);
        match self.persist(|| self.exchange(&target, &path, |client, url| client.post(url).header(CONTENT_LENGTH, 0))).await {
            Ok(response) if response.status() == StatusCode::CREATED => Mount::Done(from.repository().to_owned()),
            Ok(response) => location(&response).map_or(Mount::Refused, Mount::Session),
            // Not being allowed to read `from`, or whatever else: sending the bytes is the way that always works.
            Err(_) => Mount::Refused,
        }
    }

    /// Repeats `work` as the policy says.
    pub(super) async fn persist<T, Work>(&self, work: impl Fn() -> Work) -> Result<T, Error>
    where
        Work: Future<Output = Result<T, Error>>,
    {
        let mut attempts = Attempts::new(&self.inner.options.retry);
        loop {
            match work().await {
                Ok(value) => return Ok(value),
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }
}

enum Mount {
    Done(String),
    /// Not mounted, but an upload was opened.
    Session(Url),
    Refused,
}

/// Where an upload goes on; may be relative.
pub(super) fn location(response: &Response) -> Option<Url> {
    let text = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(text).ok()
}

/// The query of `Link: </v2/...?query>; rel="next"`.
fn next_query(response: &Response) -> Option<String> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.split_once('?').map(|(_, query)| query.to_owned()))?
}

fn malformed(host: &str, error: serde_json::Error) -> Error {
    Error::Malformed { host: host.to_owned(), reason: error.to_string() }
}
