//! Downloads on disk: `<sha256>` holds bytes, `<sha256 of the URL>.json` what is known of a URL. Both appear by rename and
//! are checked on use; a note that can't be read, or bytes that hash to something else, are as good as absent.
//! Credentials in a URL are neither stored nor part of the name. Unaware of the network.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use reqwest::{
    Url,
    header::{self, HeaderMap},
};
use serde::{Deserialize, Serialize};

use super::{Download, HttpError, redact_url};
use crate::oci::{Checksum, Digest, Sha256};

/// A Last-Modified time proves nothing about writes in the same second, or on a server whose clock lags a little.
const STRONG_AFTER_SECONDS: i64 = 60;

/// The directory of downloads.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
}

/// What is known of a URL since its last download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Redacted; for people who look at the cache.
    pub(super) url: String,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) etag: Option<String>,
    /// Seconds since 1970.
    pub(super) last_modified: Option<i64>,
    /// When the server said it sent this.
    pub(super) date: Option<i64>,
}

impl Note {
    /// What a response says of the bytes that follow it.
    pub(super) fn of(url: &Url, headers: &HeaderMap, digest: Digest, size_bytes: u64) -> Self {
        let url = redact_url(url.as_str()).into_owned();
        let etag = headers.get(header::ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { url, digest, size_bytes, etag, last_modified: time(headers, header::LAST_MODIFIED), date: time(headers, header::DATE) }
    }

    /// Whether a later answer describes the same bytes: by ETag, or by a Last-Modified old enough to be strong.
    pub(super) fn agrees_with(&self, headers: &HeaderMap) -> bool {
        if let Some(etag) = &self.etag {
            return headers.get(header::ETAG).is_some_and(|value| value.as_bytes() == etag.as_bytes());
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        match (self.last_modified, self.date) {
            (Some(modified), Some(date)) => {
                date - modified >= STRONG_AFTER_SECONDS
                    && time(headers, header::LAST_MODIFIED) == Some(modified)
                    && length == Some(self.size_bytes)
            }
            _ => false,
        }
    }

    /// Whether the bytes may have this checksum; only SHA-256 can be told without reading them.
    pub(super) fn holds(&self, checksum: &Checksum) -> bool {
        checksum.algorithm() != "sha256" || checksum.as_str() == self.digest.as_str()
    }
}

impl Cache {
    /// Creates the directory when missing.
    pub(super) fn open(path: &Path) -> Result<Self, HttpError> {
        fs::create_dir_all(path).map_err(|source| HttpError::Cache { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned() })
    }

    /// What is known of a URL.
    pub(super) fn note(&self, url: &Url) -> Option<Note> {
        let text = fs::read(self.note_path(url)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Replaces what is known of a URL.
    pub(super) fn save_note(&self, url: &Url, note: &Note) -> Result<(), HttpError> {
        let path = self.note_path(url);
        let text = serde_json::to_vec_pretty(note).expect("a note is plain data");
        let written = self.temporary().and_then(|mut file| {
            file.write_all(&text).map_err(self.failed())?;
            file.persist(&path).map_err(|error| self.failed()(error.error))
        });
        written.map(|_| ())
    }

    /// The bytes of a note, if they are still what it says and, where given, what `checksum` says.
    pub(super) fn open_verified(&self, note: &Note, checksum: Option<&Checksum>) -> Option<Download> {
        let mut file = File::open(self.path.join(note.digest.hex())).ok()?;
        let mut hasher = Sha256::new();
        let size_bytes = io::copy(&mut file, &mut hasher).ok()?;
        if size_bytes != note.size_bytes || hasher.finish() != note.digest {
            return None;
        }
        if let Some(checksum) = checksum {
            verify(&mut file, checksum).ok()?.ok()?;
        }
        file.rewind().ok()?;
        // For clean-ups that begin with the least recently used.
        let _ = file.set_modified(SystemTime::now());
        Some(Download { file, size_bytes, digest: note.digest.clone(), last_modified: note.last_modified, from_cache: true })
    }

    /// A file that will become a download or a note.
    pub(super) fn temporary(&self) -> Result<tempfile::NamedTempFile, HttpError> {
        tempfile::Builder::new().prefix(".tmp-").tempfile_in(&self.path).map_err(self.failed())
    }

    /// Names a download by its digest; gives a handle that reads it from its start.
    pub(super) fn keep(&self, file: tempfile::NamedTempFile, digest: &Digest) -> Result<File, HttpError> {
        let path = self.path.join(digest.hex());
        file.persist(&path).map_err(|error| self.failed()(error.error))?;
        File::open(&path).map_err(self.failed())
    }

    fn failed(&self) -> impl Fn(io::Error) -> HttpError {
        let path = self.path.clone();
        move |source| HttpError::Cache { path: path.clone(), source }
    }

    fn note_path(&self, url: &Url) -> PathBuf {
        let mut bare = url.clone();
        // Only URLs without a host refuse this, and those have no user either.
        let _ = bare.set_username("");
        let _ = bare.set_password(None);
        self.path.join(format!("{}.json", Digest::of(bare.as_str().as_bytes()).hex()))
    }
}

/// Hashes a file from its start and leaves it there; the inner error is what it hashes to instead.
pub(super) fn verify(file: &mut File, checksum: &Checksum) -> io::Result<Result<(), Checksum>> {
    file.rewind()?;
    let mut hasher = checksum.hasher();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    let found = hasher.finish();
    Ok(if found == *checksum { Ok(()) } else { Err(found) })
}

/// A header's time in seconds since 1970.
fn time(headers: &HeaderMap, name: header::HeaderName) -> Option<i64> {
    let text = headers.get(name)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}
