//! A blob on its way into the store, read while it arrives, so that unpacking does not wait for the download.
//! What is read so is not verified yet: whoever uses it keeps nothing before the blob has its name.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, PoisonError},
    task::{Context, Poll},
};

use crate::{build::BuildError, store::BlobWriter};

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    written: u64,
    end: Option<End>,
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    Broken,
}

/// Where the download writes to. Dropped before [`ArrivingSink::whole`] it breaks the readers off.
pub struct ArrivingSink {
    writer: Option<BlobWriter>,
    shared: Arc<Shared>,
}

/// The same bytes, read behind the download.
pub struct Arriving {
    file: File,
    position: u64,
    shared: Arc<Shared>,
}

/// Both ends of a blob that is about to be downloaded; the registry client hashes it.
pub fn arriving(writer: BlobWriter) -> Result<(ArrivingSink, Arriving), BuildError> {
    let file = writer.reader().map_err(BuildError::store)?;
    let writer = writer.hashed_by_caller();
    let shared = Arc::new(Shared::default());
    Ok((ArrivingSink { writer: Some(writer), shared: shared.clone() }, Arriving { file, position: 0, shared }))
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

impl ArrivingSink {
    /// All bytes are there; gives the writer back.
    pub fn whole(mut self) -> BlobWriter {
        self.shared.tell(|progress| progress.end = Some(End::Whole));
        self.writer.take().expect("taken only here")
    }
}

impl Drop for ArrivingSink {
    fn drop(&mut self) {
        self.shared.tell(|progress| progress.end = progress.end.or(Some(End::Broken)));
    }
}

/// Disk writes are short: they go to the page cache.
impl tokio::io::AsyncWrite for ArrivingSink {
    fn poll_write(mut self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let writer = self.writer.as_mut().expect("whole takes the sink");
        let written = io::Write::write(writer, bytes)?;
        self.shared.tell(|progress| progress.written += written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let there = loop {
            match (progress.written - self.position, progress.end) {
                (0, None) => progress = self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
                (0, Some(End::Whole)) => return Ok(0),
                (_, Some(End::Broken)) => return Err(io::Error::other("the download broke off")),
                (there, _) => break there,
            }
        };
        drop(progress);
        let count = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..count], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::store::Store;

    #[test]
    fn readers_follow_the_download_to_its_end_or_to_its_failure() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        for is_whole in [true, false] {
            let (mut sink, mut reader) = arriving(store.blob_writer().unwrap()).unwrap();
            let (seen, first) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let mut start = [0; 5];
                reader.read_exact(&mut start).unwrap();
                seen.send(start).unwrap();
                let mut rest = String::new();
                reader.read_to_string(&mut rest).map(|_| rest)
            });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(sink.write_all(b"first")).unwrap();
            // Nothing more is written before the reader has had what is there.
            assert_eq!(&first.recv().unwrap(), b"first");
            runtime.block_on(sink.write_all(b" and last")).unwrap();
            if is_whole {
                let digest = crate::oci::Digest::of(b"first and last");
                sink.whole().complete_hashed(&digest, 14).unwrap();
                assert_eq!(store.read_blob(&digest, 99).unwrap(), b"first and last");
                assert_eq!(thread.join().unwrap().unwrap(), " and last");
            } else {
                drop(sink);
                assert!(thread.join().unwrap().is_err());
            }
        }
    }
}
