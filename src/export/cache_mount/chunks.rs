//! Cuts a stream where its content says: a change moves only the cuts beside it. Unaware of what the bytes are.

use std::io::{self, Write};

use fastcdc::v2020::FastCDC;

/// Average size of chunks of a small cache.
const AVERAGE: u64 = 512 << 10;
/// So many chunks are few enough for a manifest of at most 4 MiB, which is what registries take.
const MAX_CHUNKS: u64 = 16_384;
/// The largest average that the cutter knows.
const MAX_AVERAGE: u64 = 4 << 20;
/// No chunk is larger than this, whatever its average.
pub const MAX_CHUNK_BYTES: u64 = 4 * MAX_AVERAGE;

/// Takes a stream, gives its chunks to `each`.
pub struct Chunker<F: FnMut(&[u8]) -> io::Result<()>> {
    buffer: Vec<u8>,
    average: usize,
    each: F,
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Chunker<F> {
    /// For a stream of about so many bytes. Sizes double with the stream, seldom enough that a growing cache keeps its
    /// chunks.
    pub fn new(about_bytes: u64, each: F) -> Self {
        let mut average = AVERAGE;
        while about_bytes / average > MAX_CHUNKS && average < MAX_AVERAGE {
            average *= 2;
        }
        Self { buffer: Vec::new(), average: average as usize, each }
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<()> {
        self.cut(0)
    }

    /// Gives away chunks as long as more than `keep` bytes are left: where a cut is depends on what follows.
    fn cut(&mut self, keep: usize) -> io::Result<()> {
        let mut start = 0;
        while self.buffer.len() - start > keep {
            let rest = &self.buffer[start..];
            let Some(chunk) = FastCDC::new(rest, self.average / 4, self.average, self.average * 4).next() else { break };
            (self.each)(&rest[..chunk.length])?;
            start += chunk.length;
        }
        self.buffer.drain(..start);
        Ok(())
    }
}

impl<F: FnMut(&[u8]) -> io::Result<()>> Write for Chunker<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        // Twice the largest chunk: what is left over is moved only once for several chunks.
        if self.buffer.len() >= 8 * self.average {
            self.cut(4 * self.average)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..size).map(|_| next()).collect()
    }

    fn chunks(data: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut list = Vec::new();
        let mut chunker = Chunker::new(data.len() as u64, |chunk: &[u8]| {
            list.push(chunk.to_vec());
            Ok(())
        });
        data.chunks(step).for_each(|bytes| chunker.write_all(bytes).unwrap());
        chunker.finish().unwrap();
        list
    }

    #[test]
    fn cuts_depend_on_the_content_alone_and_a_change_is_local() {
        let mut data = noise(20 << 20);
        let before = chunks(&data, 1000);
        assert_eq!(before, chunks(&data, 3 << 20));
        assert_eq!(before.concat(), data);
        assert!(before.len() > 10 && before.iter().all(|chunk| chunk.len() as u64 <= MAX_CHUNK_BYTES));
        data.splice(10_000_000..10_000_000, *b"something is put in");
        let known: BTreeSet<_> = before.into_iter().collect();
        let new = chunks(&data, 4096).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!(new <= 3, "{new} new chunks");
    }
}
