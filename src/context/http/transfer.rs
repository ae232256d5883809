//! One download: bytes to a file while they are hashed, begun again where they broke off. Unaware of what was known before.

use std::{io, io::Write, time::Duration};

use futures_util::StreamExt;
use reqwest::{Method, Response, StatusCode, Url, header};

use super::{
    Download, HttpError, HttpRequest, HttpSource,
    cache::Note,
    client::{failed, send},
    redact_url,
};
use crate::oci::{Checksum, ChecksumHasher, Digest, Sha256};

/// Servers that ask for a longer pause than this are not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What has arrived so far.
struct Arrived {
    file: tempfile::NamedTempFile,
    size_bytes: u64,
    sha256: Sha256,
    stated: Option<ChecksumHasher>,
    /// A strong ETag of these bytes, to ask for the rest with.
    etag: Option<header::HeaderValue>,
    headers: header::HeaderMap,
}

/// Whether trying again makes sense, and when the server wants it.
struct Setback {
    error: HttpError,
    is_lasting: bool,
    pause: Option<Duration>,
}

impl From<HttpError> for Setback {
    fn from(error: HttpError) -> Self {
        let is_lasting = match &error {
            HttpError::Request { source, .. } => source.is_builder() || source.is_redirect(),
            HttpError::Body { .. } => false,
            _ => true,
        };
        Self { error, is_lasting, pause: None }
    }
}

impl HttpSource {
    /// Downloads, verifies and keeps a file.
    pub(super) async fn transfer(&self, url: &Url, request: HttpRequest<'_>) -> Result<(Download, Note), HttpError> {
        let mut arrived = self.nothing_yet(request.checksum)?;
        let mut tries = 0;
        loop {
            match self.attempt(url, request, &mut arrived).await {
                Ok(()) => return self.finish(url, arrived, request.checksum),
                Err(setback) if setback.is_lasting || tries == self.options.retries => return Err(setback.error),
                Err(setback) => {
                    let own = Duration::from_millis(self.options.retry_pause_ms << tries.min(6));
                    tokio::time::sleep(setback.pause.unwrap_or(own)).await;
                    tries += 1;
                }
            }
        }
    }

    async fn attempt(&self, url: &Url, request: HttpRequest<'_>, arrived: &mut Arrived) -> Result<(), Setback> {
        let mut message = self.client.request(Method::GET, url.clone());
        if let (true, Some(etag)) = (arrived.size_bytes > 0, &arrived.etag) {
            message = message.header(header::RANGE, format!("bytes={}-", arrived.size_bytes)).header(header::IF_RANGE, etag);
        }
        let response = send(message, url, request.secrets).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if continues(&response, arrived.size_bytes) => {}
            StatusCode::PARTIAL_CONTENT => {
                return Err(self.start_over(url, request, arrived, "the server sent another part than asked for"));
            }
            StatusCode::OK => {
                *arrived = self.nothing_yet(request.checksum)?;
                let etag = response.headers().get(header::ETAG).cloned();
                arrived.etag = etag.filter(|etag| !etag.as_bytes().starts_with(b"W/"));
                arrived.headers = response.headers().clone();
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.start_over(url, request, arrived, "the file shrank on the server")),
            status => return Err(refused(url, &response, status)),
        }
        self.receive(url, response, arrived).await
    }

    fn start_over(&self, url: &Url, request: HttpRequest<'_>, arrived: &mut Arrived, why: &str) -> Setback {
        match self.nothing_yet(request.checksum) {
            Ok(nothing) => *arrived = nothing,
            Err(error) => return error.into(),
        }
        HttpError::Body { url: redact_url(url.as_str()).into_owned(), source: io::Error::other(why.to_owned()) }.into()
    }

    async fn receive(&self, url: &Url, response: Response, arrived: &mut Arrived) -> Result<(), Setback> {
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| failed(url, error))?;
            arrived.size_bytes += bytes.len() as u64;
            if arrived.size_bytes > self.options.max_size_bytes {
                let limit_bytes = self.options.max_size_bytes;
                return Err(HttpError::TooLarge { url: redact_url(url.as_str()).into_owned(), limit_bytes }.into());
            }
            arrived.sha256.update(&bytes);
            if let Some(stated) = &mut arrived.stated {
                stated.update(&bytes);
            }
            let written = arrived.file.write_all(&bytes);
            written.map_err(|source| HttpError::Cache { path: self.options.cache_dir.clone(), source })?;
        }
        Ok(())
    }

    fn finish(&self, url: &Url, arrived: Arrived, checksum: Option<&Checksum>) -> Result<(Download, Note), HttpError> {
        if let (Some(expected), Some(found)) = (checksum, arrived.stated.map(ChecksumHasher::finish))
            && found != *expected
        {
            return Err(HttpError::Mismatch { expected: expected.clone(), found });
        }
        let digest: Digest = arrived.sha256.finish();
        let note = Note::of(url, &arrived.headers, digest.clone(), arrived.size_bytes);
        let file = self.cache.keep(arrived.file, &digest)?;
        let download = Download { file, size_bytes: arrived.size_bytes, digest, last_modified: note.last_modified, from_cache: false };
        Ok((download, note))
    }

    fn nothing_yet(&self, checksum: Option<&Checksum>) -> Result<Arrived, HttpError> {
        Ok(Arrived {
            file: self.cache.temporary()?,
            size_bytes: 0,
            sha256: Sha256::new(),
            stated: checksum.map(Checksum::hasher),
            etag: None,
            headers: header::HeaderMap::new(),
        })
    }
}

fn continues(response: &Response, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    from > 0 && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

fn refused(url: &Url, response: &Response, status: StatusCode) -> Setback {
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = after.map(Duration::from_secs);
    let is_passing = status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    let error = HttpError::Status { url: redact_url(url.as_str()).into_owned(), status: status.as_u16() };
    Setback { error, is_lasting: !is_passing || pause.is_some_and(|pause| pause > LONGEST_PAUSE), pause }
}
