//! A layer's tar read ahead of whoever uses it: one thread undoes the compression, one hashes, and the caller has the
//! plain bytes as they come. At most a few chunks are under way. Unaware of tar.

use std::{
    io::{self, Read},
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender};

use super::decompress;
use crate::oci::{DiffId, Sha256};

const CHUNK_SIZE: usize = 256 << 10;

/// Chunks that each of the two readers may lag behind.
const QUEUE: usize = 8;

type Chunk = Arc<Vec<u8>>;

/// Reads the plain bytes of a layer.
#[derive(Debug)]
pub struct Ahead {
    chunks: Receiver<io::Result<Chunk>>,
    current: Chunk,
    position: usize,
    hasher: JoinHandle<DiffId>,
}

impl Ahead {
    /// Starts reading `layer`, however it is compressed.
    pub fn new(layer: impl Read + Send + 'static) -> io::Result<Self> {
        let (to_reader, chunks) = crossbeam_channel::bounded(QUEUE);
        let (to_hasher, hashed) = crossbeam_channel::bounded::<Chunk>(QUEUE);
        let hasher = Builder::new().name("diff-id".to_owned()).spawn(move || {
            let mut hash = Sha256::new();
            hashed.iter().for_each(|chunk| hash.update(&chunk));
            DiffId(hash.finish())
        })?;
        // Nobody waits for it: it ends when nobody listens, or when its input does.
        Builder::new().name("decompress".to_owned()).spawn(move || {
            if let Err(error) = pump(layer, &to_reader, &to_hasher) {
                let _ = to_reader.send(Err(error));
            }
        })?;
        Ok(Self { chunks, current: Arc::default(), position: 0, hasher })
    }

    /// Reads what is left, and gives the digest of all of it.
    pub fn finish(mut self) -> io::Result<DiffId> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.join().expect("hashing does not panic"))
    }
}

/// Returns early, without an error, when the reader is gone.
fn pump(layer: impl Read, to_reader: &Sender<io::Result<Chunk>>, to_hasher: &Sender<Chunk>) -> io::Result<()> {
    let mut plain = decompress(layer)?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_SIZE);
        plain.by_ref().take(CHUNK_SIZE as u64).read_to_end(&mut chunk)?;
        let chunk = Arc::new(chunk);
        if chunk.is_empty() || to_hasher.send(chunk.clone()).is_err() || to_reader.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.position) = (chunk?, 0),
                // The end; after an error nothing else comes either, but that was said.
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_read_and_what_is_hashed_are_the_plain_bytes() {
        for size in [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, 5 * CHUNK_SIZE + 7] {
            let data: Vec<u8> = (0..size).map(|number| (number * 7 / 3) as u8).collect();
            let mut ahead = Ahead::new(io::Cursor::new(gzip(&data))).unwrap();
            let mut back = vec![0; size / 2];
            ahead.read_exact(&mut back).unwrap();
            assert!(back == data[..size / 2]);
            assert_eq!(ahead.finish().unwrap().0, Digest::of(&data), "{size}");
        }
    }

    #[test]
    fn a_layer_that_breaks_off_is_an_error_and_never_a_digest() {
        let whole = gzip(&vec![7; 3 * CHUNK_SIZE]);
        assert!(Ahead::new(io::Cursor::new(whole[..whole.len() - 5].to_vec())).unwrap().finish().is_err());
        // Who gives up does not wait.
        drop(Ahead::new(io::repeat(0)).unwrap());
    }
}
