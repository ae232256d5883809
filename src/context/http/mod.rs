//! Files from the web: `ADD <url>`, contexts and Dockerfiles by URL.
//!
//! A download is kept under the digest of its bytes, with a note per URL (validators, Last-Modified). The next build asks
//! the server with one HEAD whether the note still holds; a stated checksum makes even that needless. Bytes from the
//! cache are hashed again before they are used. Unaware of what the files are for.

mod cache;
mod client;
mod error;
pub(super) mod policy;
mod transfer;

use std::{fs::File, path::PathBuf};

use reqwest::{Method, StatusCode, Url, header};

pub use self::error::HttpError;
use self::{
    cache::{Cache, Note},
    client::send,
};
use super::redact_url;
use crate::oci::{Checksum, Digest};

/// What a Dockerfile's `ADD` calls a file whose URL names none.
pub const UNNAMED: &str = "__unnamed__";

/// How downloads are made.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Where downloads are kept; created when missing.
    pub cache_dir: PathBuf,
    /// Answer from the cache without asking anyone, or fail.
    pub offline: bool,
    /// Larger files are refused.
    pub max_size_bytes: u64,
    /// Until a connection stands.
    pub connect_timeout_ms: u64,
    /// Between two arrivals of bytes.
    pub read_timeout_ms: u64,
    /// How often a failed transfer is tried again.
    pub retries: u32,
    /// Pause before the first retry; doubles each time.
    pub retry_pause_ms: u64,
    /// Whether link-local addresses, where clouds keep their machines' credentials, may be asked.
    pub allow_link_local: bool,
    /// Proxies, first match wins.
    pub proxies: Vec<reqwest::Proxy>,
    /// Certificate authorities besides the system's.
    pub certificates: Vec<reqwest::Certificate>,
}

impl HttpOptions {
    /// Reasonable bounds.
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            cache_dir,
            offline: false,
            max_size_bytes: 64 << 30,
            connect_timeout_ms: 30_000,
            read_timeout_ms: 60_000,
            retries: 4,
            retry_pause_ms: 250,
            allow_link_local: false,
            proxies: Vec::new(),
            certificates: Vec::new(),
        }
    }
}

/// Looks a secret up by its id.
pub type Secrets<'a> = &'a (dyn Fn(&str) -> Option<String> + Send + Sync);

/// What is wanted.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    /// http or https; may hold credentials, which are sent and never shown.
    pub url: &'a str,
    /// What the bytes must hash to.
    pub checksum: Option<&'a Checksum>,
    /// `HTTP_AUTH_TOKEN_<host>` (a bearer token) and `HTTP_AUTH_HEADER_<host>` (a whole Authorization header).
    pub secrets: Secrets<'a>,
}

/// A file from the web, verified.
#[derive(Debug)]
pub struct Download {
    /// Open for reading, at its start; stays readable whatever happens to the cache.
    pub file: File,
    /// Bytes.
    pub size_bytes: u64,
    /// Of the bytes.
    pub digest: Digest,
    /// Seconds since 1970, if the server said; an `ADD`ed file without has time 0.
    pub last_modified: Option<i64>,
    /// Whether no byte of it was sent.
    pub from_cache: bool,
}

/// A client and its cache.
#[derive(Debug)]
pub struct HttpSource {
    options: HttpOptions,
    client: reqwest::Client,
    cache: Cache,
}

impl HttpSource {
    /// Sets the client up; nothing is sent.
    pub fn new(options: HttpOptions) -> Result<Self, HttpError> {
        let client = client::client(&options)?;
        let cache = Cache::open(&options.cache_dir)?;
        Ok(Self { options, client, cache })
    }

    /// Gets a file: from the cache if nothing changed, else from the server.
    pub async fn fetch(&self, request: HttpRequest<'_>) -> Result<Download, HttpError> {
        let url = policy::parse(request.url, self.options.allow_link_local)?;
        let note = self.cache.note(&url);
        if let (Some(note), Some(checksum)) = (&note, request.checksum)
            && let Some(download) = self.cache.open_verified(note, Some(checksum)).filter(|_| note.holds(checksum))
        {
            return Ok(download);
        }
        let cached = note.as_ref().and_then(|note| self.cache.open_verified(note, None).map(|download| (note, download)));
        if self.options.offline {
            let (_, download) = cached.ok_or_else(|| HttpError::Offline { url: redact_url(request.url).into_owned() })?;
            return self.checked(download, request);
        }
        if let Some((note, download)) = cached
            && self.is_unchanged(&url, note, request.secrets).await
        {
            return self.checked(download, request);
        }
        let (download, note) = self.transfer(&url, request).await?;
        self.cache.save_note(&url, &note)?;
        Ok(download)
    }

    /// A whole small text, such as a Dockerfile by URL.
    pub async fn fetch_text(&self, request: HttpRequest<'_>, limit_bytes: u64) -> Result<String, HttpError> {
        let download = self.fetch(request).await?;
        let url = || redact_url(request.url).into_owned();
        if download.size_bytes > limit_bytes {
            return Err(HttpError::TooLarge { url: url(), limit_bytes });
        }
        std::io::read_to_string(download.file).map_err(|source| HttpError::Body { url: url(), source })
    }

    fn checked(&self, mut download: Download, request: HttpRequest<'_>) -> Result<Download, HttpError> {
        if let Some(checksum) = request.checksum {
            cache::verify(&mut download.file, checksum)
                .map_err(|source| HttpError::Body { url: redact_url(request.url).into_owned(), source })?
                .map_err(|found| HttpError::Mismatch { expected: checksum.clone(), found })?;
        }
        Ok(download)
    }

    /// Asks with HEAD; any doubt, and any failure, is an answer of "changed".
    async fn is_unchanged(&self, url: &Url, note: &Note, secrets: Secrets<'_>) -> bool {
        if note.etag.is_none() && note.last_modified.is_none() {
            return false;
        }
        let mut request = self.client.request(Method::HEAD, url.clone());
        if let Some(etag) = &note.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        match send(request, url, secrets).await {
            Ok(response) if response.status() == StatusCode::NOT_MODIFIED => note.etag.is_some(),
            Ok(response) if response.status() == StatusCode::OK => note.agrees_with(response.headers()),
            _ => false,
        }
    }
}

/// The name an `ADD`ed file gets in a directory: the last part of the URL's path, nothing the server says.
pub fn file_name(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return UNNAMED.to_owned() };
    let path = String::from_utf8_lossy(&percent_decoded(url.path())).into_owned();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match name {
        "" | "." | ".." => UNNAMED.to_owned(),
        name if name.contains('\0') => UNNAMED.to_owned(),
        name => name.to_owned(),
    }
}

/// Undoes `%41`; what is no such sequence stays.
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[index], digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                index += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                index += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests;
