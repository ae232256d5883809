//! One blob's upload: a session whose bytes go on from where the registry has them. Unaware of mounts and manifests.
//!
//! ```text
//! POST uploads/ -> location
//! PATCH location, all bytes from the registry's offset -> location      (small blobs: none)
//!   broken? GET location -> offset: go on there, in pieces if the registry keeps only finished pieces;
//!           the session is gone: POST again
//! PUT location?digest=.. (small blobs: with all bytes)
//! ```
//!
//! A long body waits a moment behind its head, so that a registry that is busy or wants another token can say so
//! before the bytes are sent for nothing (what `Expect: 100-continue` is for, which few registries answer).
//!
//! One PATCH with everything is what docker and crane send, so it is what every registry takes. The registry
//! `distribution` forgets a session whose PATCH broke, so that cutting a blob into pieces would only add ways to fail.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::stream;
use reqwest::{
    Body, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    Client, Error, Timeouts,
    exchange::{Patience, Target},
    push::location,
    retry::Attempts,
};
use crate::oci::Descriptor;

/// Up to this size a blob travels in the PUT.
const SMALL: u64 = 1 << 20;
/// The size of a piece, once pieces are needed.
const PIECE: u64 = 16 << 20;
const BUFFER: usize = 128 << 10;

pub(super) struct Upload<'a, Open, Progress> {
    client: &'a Client,
    target: Target<'a>,
    descriptor: &'a Descriptor,
    open: Open,
    progress: Arc<Progress>,
}

/// What is known of the session.
struct Session {
    location: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// The least size of a piece but the last (`OCI-Chunk-Min-Length`).
    minimum: u64,
    in_pieces: bool,
    /// How long a refusal takes to come: twice the time of an empty request.
    round_trip: Duration,
    /// It went on after a failure.
    resumed: bool,
}

impl<'a, Open, Progress, Reader> Upload<'a, Open, Progress>
where
    Open: Fn(u64) -> io::Result<Reader> + Send + Sync,
    Progress: Fn(u64) + Send + Sync + 'static,
    Reader: AsyncRead + Send + 'static,
{
    pub(super) fn new(client: &'a Client, target: Target<'a>, descriptor: &'a Descriptor, open: Open, progress: Progress) -> Self {
        Self { client, target, descriptor, open, progress: Arc::new(progress) }
    }

    /// Sends the blob; `opened` is a session that a refused mount left behind.
    pub(super) async fn run(&self, opened: Option<Url>) -> Result<(), Error> {
        let policy = &self.client.inner.options.retry;
        let mut attempts = Attempts::new(policy);
        let mut session = opened.map(Session::at);
        let mut in_pieces = false;
        loop {
            let before = session.as_ref().map_or(0, |session| session.offset);
            let error = match self.advance(&mut session, in_pieces).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // Something between us and the registry limits bodies.
            let too_long = !in_pieces && matches!(error, Error::Server { status: 413, .. });
            in_pieces |= too_long;
            let lost = session.as_ref().is_some_and(|session| session.is_lost(&error));
            let error = if lost || too_long { self.lost(error) } else { error };
            self.client.pause(&mut attempts, error).await?;
            if lost {
                session = None;
            } else if let Some(known) = session.take() {
                session = self.ask_offset(known).await;
            }
            if session.as_ref().is_some_and(|session| session.offset > before) {
                attempts.progressed();
            }
        }
    }

    /// From wherever the session is to the end.
    async fn advance(&self, session: &mut Option<Session>, in_pieces: bool) -> Result<(), Error> {
        if session.is_none() {
            *session = Some(self.begin().await?);
        }
        let session = session.as_mut().expect("it was just begun");
        session.in_pieces |= in_pieces;
        let size = self.descriptor.size;
        if size > SMALL || session.offset > 0 {
            while session.offset < size {
                self.patch(session).await?;
            }
        }
        self.put(session).await
    }

    async fn begin(&self) -> Result<Session, Error> {
        let request = |client: &reqwest::Client, url| client.post(url).header(CONTENT_LENGTH, 0);
        let start = Instant::now();
        let response = self.client.exchange(&self.target, "blobs/uploads/", request).await?;
        let mut session = Session::at(self.location(&response)?);
        session.round_trip = (2 * start.elapsed()).clamp(Duration::from_millis(20), Duration::from_millis(250));
        session.minimum = header_number(&response, "oci-chunk-min-length").unwrap_or(0);
        Ok(session)
    }

    async fn patch(&self, session: &mut Session) -> Result<(), Error> {
        let rest = self.descriptor.size - session.offset;
        let length = if session.in_pieces { rest.min(PIECE.max(session.minimum)) } else { rest };
        let offset = session.offset;
        let in_pieces = session.in_pieces || offset > 0;
        let response = self
            .send(session, &session.location, offset, length, |client, url| {
                let request = client.patch(url).header(CONTENT_TYPE, "application/octet-stream");
                let range = format!("{offset}-{}", offset + length - 1);
                if in_pieces { request.header(CONTENT_RANGE, range) } else { request }
            })
            .await?;
        session.location = self.location(&response)?;
        // What the registry says it has counts, not what was sent.
        session.offset = match received(&response) {
            Some(end) if end > offset && end <= offset + length => end,
            _ => offset + length,
        };
        Ok(())
    }

    async fn put(&self, session: &Session) -> Result<(), Error> {
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", self.descriptor.digest.as_str());
        let rest = self.descriptor.size - session.offset;
        let request = |client: &reqwest::Client, url| client.put(url).header(CONTENT_TYPE, "application/octet-stream");
        match self.send(session, &url, session.offset, rest, request).await {
            Ok(_) => Ok(()),
            // The answer to an earlier PUT may have been what broke.
            Err(error) if self.client.has_blob_now(&self.target, self.descriptor).await => {
                drop(error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends `length` bytes of the blob from `offset`.
    async fn send(
        &self,
        session: &Session,
        url: &Url,
        offset: u64,
        length: u64,
        request: impl Fn(&reqwest::Client, Url) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let host = self.client.host(self.target.endpoint)?;
        let sent = Arc::new(Sent::default());
        let with_body = |client: &reqwest::Client, url: Url| {
            let request = request(client, url).header(CONTENT_LENGTH, length);
            if length == 0 {
                // The registry hashes what it has before it answers.
                sent.all.store(true, Relaxed);
                return request;
            }
            sent.restart();
            request.body(self.body(offset, length, session.round_trip, &sent))
        };
        let answer = self.client.exchange_at(&host, &self.target, url.clone(), Patience::WhileSending(&sent), with_body).await;
        // The request's own error says only "body error".
        answer.map_err(|error| match sent.take_failure() {
            Some(source) => Error::Source { digest: self.descriptor.digest.clone(), source },
            None => error,
        })
    }

    fn body(&self, offset: u64, length: u64, round_trip: Duration, sent: &Arc<Sent>) -> Body {
        let reader = (self.open)(offset).map(|reader| Box::pin(reader.take(length)));
        let (progress, sent) = (self.progress.clone(), sent.clone());
        let pieces = stream::unfold((Some(reader), offset, vec![0; BUFFER]), move |(reader, mut position, mut buffer)| {
            let (progress, sent) = (progress.clone(), sent.clone());
            async move {
                let mut reader = match reader? {
                    Ok(reader) => reader,
                    Err(error) => return Some((sent.failed(error), (None, position, buffer))),
                };
                if position == offset && length > SMALL {
                    tokio::time::sleep(round_trip).await;
                }
                match reader.read(&mut buffer).await {
                    Ok(0) if position < offset + length => {
                        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the blob is shorter than its descriptor says");
                        Some((sent.failed(error), (None, position, buffer)))
                    }
                    Ok(0) => None,
                    Ok(count) => {
                        position += count as u64;
                        sent.bytes.store(position - offset, Relaxed);
                        sent.all.store(position == offset + length, Relaxed);
                        progress(position);
                        Some((Ok(buffer[..count].to_vec()), (Some(Ok(reader)), position, buffer)))
                    }
                    Err(error) => Some((sent.failed(error), (None, position, buffer))),
                }
            }
        });
        Body::wrap_stream(pieces)
    }

    /// What the registry has after something broke; None when the session is no more.
    async fn ask_offset(&self, known: Session) -> Option<Session> {
        let host = self.client.host(self.target.endpoint).ok()?;
        let patience = Patience::Fixed(self.client.inner.options.timeouts.response);
        let ask = || self.client.exchange_at(&host, &self.target, known.location.clone(), patience, |client, url| client.get(url));
        let response = self.client.persist(ask).await.ok()?;
        let location = location(&response).unwrap_or_else(|| known.location.clone());
        let offset = received(&response).unwrap_or(0).min(self.descriptor.size);
        // Nothing of a long PATCH was kept: only finished ones are.
        let in_pieces = known.in_pieces || offset <= known.offset;
        Some(Session { location, offset, in_pieces, resumed: offset > 0, ..known })
    }

    fn location(&self, response: &Response) -> Result<Url, Error> {
        let host = &self.target.endpoint.host;
        location(response).ok_or_else(|| Error::Malformed { host: host.clone(), reason: "an upload without a location".to_owned() })
    }

    /// A lost session is as passing as what broke it.
    fn lost(&self, error: Error) -> Error {
        Error::UploadLost { host: self.target.endpoint.host.clone(), digest: self.descriptor.digest.clone(), source: Box::new(error) }
    }
}

impl Session {
    fn at(location: Url) -> Self {
        Self { location, offset: 0, minimum: 0, in_pieces: false, round_trip: Duration::from_millis(50), resumed: false }
    }

    /// Whether `error` says that the registry no longer knows the session. What it says of the content is final, unless
    /// the two sides may have disagreed about an offset.
    fn is_lost(&self, error: &Error) -> bool {
        match error {
            Error::NotFound { .. } => true,
            Error::Server { status: 400 | 404 | 409 | 416, code, .. } => {
                self.resumed || !matches!(code.as_str(), "DIGEST_INVALID" | "SIZE_INVALID")
            }
            _ => false,
        }
    }
}

/// What has left the reader, seen from outside the request.
#[derive(Default)]
pub(super) struct Sent {
    bytes: AtomicU64,
    all: AtomicBool,
    failure: std::sync::Mutex<Option<io::Error>>,
}

impl Sent {
    fn restart(&self) {
        self.bytes.store(0, Relaxed);
        self.all.store(false, Relaxed);
    }

    /// Waits for the answer as long as bytes are leaving.
    pub(super) async fn wait(&self, host: &str, request: RequestBuilder, timeouts: &Timeouts) -> Result<Response, Error> {
        let mut answer = pin!(request.send());
        let mut seen = self.bytes.load(Relaxed);
        loop {
            let all = self.all.load(Relaxed);
            let patience = if all { timeouts.finish } else { timeouts.stall };
            match tokio::time::timeout(patience, answer.as_mut()).await {
                Ok(answer) => return answer.map_err(|source| Error::of_request(host, source)),
                Err(_) if all || self.bytes.load(Relaxed) == seen => return Err(Error::Stalled { host: host.to_owned(), after: patience }),
                Err(_) => seen = self.bytes.load(Relaxed),
            }
        }
    }

    /// Keeps the reader's error, since the request's own says only "body error".
    fn failed(&self, error: io::Error) -> io::Result<Vec<u8>> {
        let kind = error.kind();
        *self.failure.lock().expect("no panic while locked") = Some(error);
        Err(kind.into())
    }

    fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().expect("no panic while locked").take()
    }
}

/// How many bytes the registry has, by its `Range: 0-<last>`. `0-0` is nothing: registries say so of an empty session.
fn received(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

fn header_number(response: &Response, name: &str) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

impl Client {
    /// One question, no patience: it only saves work.
    async fn has_blob_now(&self, target: &Target<'_>, descriptor: &Descriptor) -> bool {
        let path = format!("blobs/{}", descriptor.digest);
        let response = self.exchange(target, &path, |client, url| client.head(url)).await;
        response.is_ok_and(|response| response.status() == StatusCode::OK)
    }
}
