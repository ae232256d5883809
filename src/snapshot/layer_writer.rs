//! One pass from tar bytes to a blob: hashed (diff_id), compressed, hashed again (digest), written to a sink.
//!
//! The caller's thread cuts blocks, writes what is compressed and hashes it; one thread hashes the plain bytes; the pool
//! compresses. At most a few blocks are under way, so memory is bounded. Unaware of what the bytes mean and where they go.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender};

use super::compress::{CompressPool, Compression};
use crate::oci::{DiffId, Digest, Sha256};

/// Blocks that the hashing thread may lag behind.
const HASH_QUEUE: usize = 4;

/// What a finished layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the plain tar.
    pub diff_id: DiffId,
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Size of the blob.
    pub size_bytes: u64,
    /// Size of the plain tar.
    pub uncompressed_bytes: u64,
}

/// Takes a layer's tar, gives its blob to `sink`.
#[derive(Debug)]
pub struct LayerWriter<'a, W: Write> {
    sink: Hashing<W>,
    compression: Compression,
    pool: &'a CompressPool,
    block: Vec<u8>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    /// Where each block that was written begins in the blob.
    offsets: Vec<u64>,
    hasher: Hasher,
}

impl<'a, W: Write> LayerWriter<'a, W> {
    /// Starts a blob.
    pub fn new(sink: W, compression: Compression, pool: &'a CompressPool) -> io::Result<Self> {
        let sink = Hashing { inner: sink, hash: Sha256::new(), size_bytes: 0 };
        let block = Vec::with_capacity(compression.block_size());
        Ok(Self { sink, compression, pool, block, pending: VecDeque::new(), offsets: Vec::new(), hasher: Hasher::default() })
    }

    /// Ends the blob; gives the sink back.
    pub fn finish(mut self) -> io::Result<(W, LayerBlob)> {
        self.cut(true)?;
        self.finish_with(&[])
    }

    /// What follows begins a block of its own; gives that block's number.
    pub(super) fn start_member(&mut self) -> io::Result<u64> {
        if !self.block.is_empty() {
            self.cut(false)?;
        }
        Ok((self.offsets.len() + self.pending.len()) as u64)
    }

    /// Where each block so far begins, and where the next one will; waits for all of them.
    pub(super) fn offsets(&mut self) -> io::Result<Vec<u64>> {
        while !self.pending.is_empty() {
            self.write_next()?;
        }
        let mut offsets = self.offsets.clone();
        offsets.push(self.sink.size_bytes);
        Ok(offsets)
    }

    /// Ends the blob with bytes that are compressed already and stand for no plain ones.
    pub(super) fn finish_with(mut self, tail: &[u8]) -> io::Result<(W, LayerBlob)> {
        if !self.block.is_empty() {
            self.cut(true)?;
        }
        while !self.pending.is_empty() {
            self.write_next()?;
        }
        self.sink.write_all(tail)?;
        let (hash, uncompressed_bytes) = self.hasher.finish();
        self.sink.flush()?;
        let Hashing { inner, hash: compressed, size_bytes } = self.sink;
        Ok((inner, LayerBlob { diff_id: DiffId(hash), digest: compressed.finish(), size_bytes, uncompressed_bytes }))
    }

    /// Sends the current block on its way.
    fn cut(&mut self, is_last: bool) -> io::Result<()> {
        let next = if is_last { Vec::new() } else { Vec::with_capacity(self.compression.block_size()) };
        let data = Arc::new(std::mem::replace(&mut self.block, next));
        self.hasher.send(data.clone())?;
        if self.compression == Compression::None {
            return self.sink.write_all(&data);
        }
        self.pending.push_back(self.pool.submit(data, self.compression));
        // What is ready goes out; when too much is under way, we wait for the oldest.
        while self.pending.len() > self.pool.depth() || self.pending.front().is_some_and(|first| !first.is_empty()) {
            self.write_next()?;
        }
        Ok(())
    }

    fn write_next(&mut self) -> io::Result<()> {
        let Some(first) = self.pending.pop_front() else { return Ok(()) };
        let block = first.recv().map_err(|_| io::Error::other("a compression thread died"))??;
        self.offsets.push(self.sink.size_bytes);
        self.sink.write_all(&block)
    }
}

impl<W: Write> Write for LayerWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.compression.block_size() - self.block.len();
        let count = bytes.len().min(room);
        self.block.extend_from_slice(&bytes[..count]);
        // A full block is cut when more follows: only then is it known not to be the last.
        if count < bytes.len() && count == room {
            self.cut(false)?;
        }
        if count == 0 && !bytes.is_empty() { self.write(bytes) } else { Ok(count) }
    }

    /// Blocks are not cut short: their bounds must depend on the bytes alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Hashing<W: Write> {
    inner: W,
    hash: Sha256,
    size_bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes plain bytes: on a thread of its own where there is more than a block of them.
#[derive(Debug, Default)]
struct Hasher {
    first: Option<Arc<Vec<u8>>>,
    thread: Option<HashThread>,
}

/// Ends when its queue is dropped.
#[derive(Debug)]
struct HashThread {
    queue: Sender<Arc<Vec<u8>>>,
    thread: JoinHandle<(Digest, u64)>,
}

impl Hasher {
    fn send(&mut self, block: Arc<Vec<u8>>) -> io::Result<()> {
        match (&self.thread, self.first.take()) {
            (Some(thread), _) => thread.send(block),
            (None, None) => self.first = Some(block),
            (None, Some(first)) => {
                let thread = HashThread::start()?;
                thread.send(first);
                thread.send(block);
                self.thread = Some(thread);
            }
        }
        Ok(())
    }

    fn finish(self) -> (Digest, u64) {
        match self.thread {
            Some(thread) => thread.finish(),
            None => hash(self.first),
        }
    }
}

impl HashThread {
    fn start() -> io::Result<Self> {
        let (queue, blocks) = crossbeam_channel::bounded::<Arc<Vec<u8>>>(HASH_QUEUE);
        let thread = std::thread::Builder::new().name("diff-id".to_owned()).spawn(move || hash(blocks))?;
        Ok(Self { queue, thread })
    }

    fn send(&self, block: Arc<Vec<u8>>) {
        self.queue.send(block).expect("the hashing thread lives as long as its queue");
    }

    fn finish(self) -> (Digest, u64) {
        drop(self.queue);
        self.thread.join().expect("hashing does not panic")
    }
}

fn hash(blocks: impl IntoIterator<Item = Arc<Vec<u8>>>) -> (Digest, u64) {
    let (mut hash, mut size) = (Sha256::new(), 0);
    for block in blocks {
        hash.update(&block);
        size += block.len() as u64;
    }
    (hash.finish(), size)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn blob(data: &[u8], compression: Compression, threads: usize, step: usize) -> (Vec<u8>, LayerBlob) {
        let pool = CompressPool::new(threads);
        let mut writer = LayerWriter::new(Vec::new(), compression, &pool).unwrap();
        for chunk in data.chunks(step) {
            writer.write_all(chunk).unwrap();
        }
        writer.finish().unwrap()
    }

    fn sample(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x1f
        };
        (0..size).map(|_| next()).collect()
    }

    #[test]
    fn bytes_depend_neither_on_threads_nor_on_how_they_arrive() {
        let data = sample(5_000_001);
        for compression in [Compression::None, Compression::Gzip(1), Compression::GZIP, Compression::ZSTD] {
            let (one, said) = blob(&data, compression, 1, data.len());
            for (threads, step) in [(2, 65_536), (5, 1_000_003), (3, 1 << 20)] {
                assert!(blob(&data, compression, threads, step) == (one.clone(), said.clone()), "{compression:?} {threads} {step}");
            }
            assert_eq!(said.diff_id.0, Digest::of(&data));
            assert_eq!(said.digest, Digest::of(&one));
            assert_eq!((said.size_bytes, said.uncompressed_bytes), (one.len() as u64, data.len() as u64));
        }
    }

    #[test]
    fn blobs_read_back_at_all_block_bounds() {
        for compression in [Compression::None, Compression::GZIP, Compression::ZSTD] {
            for size in [0, 1, compression.block_size() - 1, compression.block_size(), compression.block_size() + 1] {
                let data = sample(size);
                let (bytes, _) = blob(&data, compression, 2, 4096);
                let mut back = Vec::new();
                super::super::decompress(&bytes[..]).unwrap().read_to_end(&mut back).unwrap();
                assert!(back == data, "{compression:?} {size}");
            }
        }
    }
}
