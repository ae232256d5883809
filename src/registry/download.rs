//! Blobs: streamed, verified, resumed where they broke. Unaware of where the bytes go.

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_RANGE, RANGE},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    Client, Error,
    auth::Access,
    exchange::{Target, next_chunk},
    registries::{Endpoint, Purpose},
    retry::Attempts,
};
use crate::oci::{Descriptor, Reference, Sha256};

/// How much of a blob is already where it belongs, and its running hash.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// Bytes in the sink.
    pub bytes: u64,
    /// Hash of those bytes.
    pub hasher: Sha256,
}

impl Received {
    fn take(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
    }
}

/// Less than this between two failures is no progress: a server that sends byte by byte must come to an end.
const PROGRESS: u64 = 64 << 10;

impl Client {
    /// Streams the blob into `sink`. When this returns, the sink holds exactly the descriptor's bytes; on an error it
    /// holds a useless part. `progress` is told how many of the blob's bytes are there. Wrong bytes of a mirror end in
    /// `DigestMismatch`, as the sink can't be emptied from here; a second call with a new sink asks others.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut (impl AsyncWrite + Unpin + Send),
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), Error> {
        self.fetch_blob_after(reference, descriptor, Received::default(), sink, progress).await
    }

    /// The same, when the sink already holds the blob's first bytes from an earlier try.
    pub async fn fetch_blob_after(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mut received: Received,
        sink: &mut (impl AsyncWrite + Unpin + Send),
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), Error> {
        let _permit = self.inner.permits.acquire().await.expect("the semaphore is never closed");
        let sources = self.sources(reference, Purpose::Blob)?;
        for (position, (endpoint, policy)) in sources.iter().enumerate() {
            let mut attempts = Attempts::new(policy);
            let error = loop {
                let before = received.bytes;
                match self.fetch_rest(endpoint, descriptor, &mut received, sink, &progress).await {
                    Ok(()) => {
                        return finish(endpoint, descriptor, received, sink).await.inspect_err(|_| self.rest(endpoint));
                    }
                    Err(error) => {
                        if received.bytes - before >= PROGRESS {
                            attempts.progressed();
                        }
                        match self.pause(&mut attempts, error).await {
                            Ok(()) => {}
                            Err(error) => break error,
                        }
                    }
                }
            };
            self.turn_to(endpoint, sources.get(position + 1).map(|(next, _)| next), error)?;
        }
        unreachable!("the last source's error is returned")
    }

    /// One request for what is missing; what arrives stays in the sink also when the stream breaks.
    async fn fetch_rest(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        received: &mut Received,
        sink: &mut (impl AsyncWrite + Unpin + Send),
        progress: &(impl Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        if received.bytes == descriptor.size {
            return Ok(());
        }
        let mismatch = |found| Error::SizeMismatch {
            host: endpoint.host.clone(),
            digest: descriptor.digest.clone(),
            expected: descriptor.size,
            found,
        };
        let mut response = self.request_from(endpoint, descriptor, received.bytes).await?;
        let mut skip = bytes_to_skip(&response, endpoint, received.bytes)?;
        let start = received.bytes - skip;
        if let Some(length) = response.content_length().filter(|length| *length != descriptor.size - start) {
            return Err(mismatch(start + length));
        }
        let stall = self.inner.options.timeouts.stall;
        while let Some(chunk) = next_chunk(&mut response, &endpoint.host, stall).await? {
            let chunk = chunk.as_ref();
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            let fresh = &chunk[known as usize..];
            if received.bytes + fresh.len() as u64 > descriptor.size {
                return Err(mismatch(received.bytes + fresh.len() as u64));
            }
            sink.write_all(fresh).await.map_err(|source| Error::Sink { host: endpoint.host.clone(), source })?;
            received.take(fresh);
            progress(received.bytes);
        }
        if received.bytes < descriptor.size {
            return Err(Error::Truncated { host: endpoint.host.clone(), received: received.bytes, expected: descriptor.size });
        }
        Ok(())
    }

    async fn request_from(&self, endpoint: &Endpoint, descriptor: &Descriptor, offset: u64) -> Result<Response, Error> {
        let target = Target { endpoint, access: Access::pull(endpoint), what: format!("blob {}", descriptor.digest) };
        let path = format!("blobs/{}", descriptor.digest);
        let request = |client: &reqwest::Client, url| match offset {
            0 => client.get(url),
            _ => client.get(url).header(RANGE, format!("bytes={offset}-")),
        };
        self.exchange(&target, &path, request).await
    }
}

/// How many bytes of the body are already known: all of them where the server ignores Range.
fn bytes_to_skip(response: &Response, endpoint: &Endpoint, offset: u64) -> Result<u64, Error> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(offset);
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let start = range.strip_prefix("bytes ").and_then(|range| range.split('-').next()).and_then(|start| start.parse::<u64>().ok());
    match start {
        Some(start) if start <= offset => Ok(offset - start),
        _ => Err(Error::Malformed { host: endpoint.host.clone(), reason: format!("range `{range}` for one from {offset}") }),
    }
}

async fn finish(
    endpoint: &Endpoint,
    descriptor: &Descriptor,
    received: Received,
    sink: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<(), Error> {
    let found = received.hasher.finish();
    if found != descriptor.digest {
        return Err(Error::DigestMismatch { host: endpoint.host.clone(), expected: descriptor.digest.clone(), found });
    }
    sink.flush().await.map_err(|source| Error::Sink { host: endpoint.host.clone(), source })
}
