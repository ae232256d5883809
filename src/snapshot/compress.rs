//! Compression in fixed-size blocks on a pool of threads that all layers share.
//!
//! Where a block begins and what it may look back on depends on the bytes alone, so the result does not depend on the
//! number of threads, nor on how the bytes arrived. gzip is a single member of 1 MiB blocks as pigz makes them: raw
//! deflate with the 32 KiB before it as dictionary, each ended by a sync flush. zstd is a row of independent 4 MiB frames.
//! Unaware of tar and of hashing.

use crate::oci::media_type;
use std::{io, sync::Arc, thread::JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use flate2::{Compress, FlushCompress, Status};

const GZIP_BLOCK_SIZE: usize = 1 << 20;
const GZIP_WINDOW_SIZE: usize = 32 * 1024;
const ZSTD_FRAME_SIZE: usize = 4 << 20;
/// Like Go and gzp: no time, no name, "unknown" system, so that nothing but the bytes counts.
pub(super) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// Level 0 to 9.
    Gzip(u32),
    /// Level 1 to 22.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::GZIP
    }
}

impl Compression {
    /// gzip as docker and buildkit do it by default.
    pub const GZIP: Self = Self::Gzip(6);
    /// zstd at its own default.
    pub const ZSTD: Self = Self::Zstd(3);

    /// What a registry calls a layer that is written so.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER,
            Self::Gzip(_) => media_type::OCI_LAYER_GZIP,
            Self::Zstd(_) => media_type::OCI_LAYER_ZSTD,
        }
    }

    pub(super) fn block_size(self) -> usize {
        match self {
            Self::Zstd(_) => ZSTD_FRAME_SIZE,
            _ => GZIP_BLOCK_SIZE,
        }
    }
}

/// Threads that compress blocks. Dropping it waits for them.
#[derive(Debug)]
pub struct CompressPool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A block of plain bytes and what gzip may look back on.
pub(super) struct Block {
    pub data: Arc<Vec<u8>>,
    pub before: Option<Arc<Vec<u8>>>,
    pub is_last: bool,
}

struct Job {
    block: Block,
    compression: Compression,
    done: Sender<io::Result<Vec<u8>>>,
}

impl CompressPool {
    /// A pool of `threads` threads, at least one.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let (sender, receiver) = crossbeam_channel::bounded::<Job>(threads);
        let work = |receiver: Receiver<Job>| {
            move || {
                for job in receiver {
                    // A layer that was given up no longer waits for its blocks.
                    let _ = job.done.send(compress(&job.block, job.compression));
                }
            }
        };
        let threads = (0..threads).map(|_| std::thread::spawn(work(receiver.clone()))).collect();
        Self { jobs: Some(sender), threads }
    }

    /// How many blocks are worth having under way.
    pub(super) fn depth(&self) -> usize {
        self.threads.len() * 2 + 1
    }

    /// Hands a block to the pool; waits while the pool is full.
    pub(super) fn submit(&self, block: Block, compression: Compression) -> Receiver<io::Result<Vec<u8>>> {
        let (done, result) = crossbeam_channel::bounded(1);
        let jobs = self.jobs.as_ref().expect("the pool lives until it is dropped");
        // A pool without threads would be a bug of ours; the reader of `result` would see it as an error.
        let _ = jobs.send(Job { block, compression, done });
        result
    }
}

impl Drop for CompressPool {
    fn drop(&mut self) {
        self.jobs.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn compress(block: &Block, compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(block.data.to_vec()),
        Compression::Gzip(level) => deflate(block, level),
        // An empty stream is one empty frame.
        Compression::Zstd(level) => zstd::bulk::compress(&block.data, level),
    }
}

fn deflate(block: &Block, level: u32) -> io::Result<Vec<u8>> {
    let mut deflate = Compress::new(flate2::Compression::new(level), false);
    if let Some(before) = &block.before {
        let dictionary = &before[before.len().saturating_sub(GZIP_WINDOW_SIZE)..];
        deflate.set_dictionary(dictionary)?;
    }
    let flush = if block.is_last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut out = Vec::with_capacity(block.data.len() / 2 + 1024);
    loop {
        let consumed = deflate.total_in() as usize;
        let status = deflate.compress_vec(&block.data[consumed..], &mut out, flush)?;
        let has_room = out.len() < out.capacity();
        match status {
            Status::StreamEnd => return Ok(out),
            // A sync flush is complete once it leaves room.
            _ if has_room && !block.is_last && deflate.total_in() as usize == block.data.len() => return Ok(out),
            _ => out.reserve(block.data.len() / 4 + 1024),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn blocks_make_one_member_that_reads_back() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|number| (number / 7 * 12_345).to_le_bytes()).collect();
        let chunks: Vec<_> = text.chunks(100_000).map(|chunk| Arc::new(chunk.to_vec())).collect();
        for level in [1, 6, 9] {
            let mut out = GZIP_HEADER.to_vec();
            for (index, data) in chunks.iter().enumerate() {
                let before = index.checked_sub(1).map(|index| chunks[index].clone());
                out.extend(deflate(&Block { data: data.clone(), before, is_last: index + 1 == chunks.len() }, level).unwrap());
            }
            let mut crc = flate2::Crc::new();
            crc.update(&text);
            out.extend(crc.sum().to_le_bytes());
            out.extend(crc.amount().to_le_bytes());
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut back).unwrap();
            assert!(back == text, "level {level}");
        }
    }
}
