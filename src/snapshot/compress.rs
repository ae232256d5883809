//! Compression in fixed-size blocks on a pool of threads that all layers share.
//!
//! Where a block begins depends on the bytes alone and no block knows of another, so the result depends neither on the
//! number of threads nor on how the bytes arrived. gzip is a row of members of 1 MiB each, as estargz and bgzip write it
//! and every gzip reads it: libdeflate packs whole buffers, two to three times faster than zlib, and smaller. zstd is a
//! row of 4 MiB frames.
//! Unaware of tar and of hashing.

use crate::oci::media_type;
use std::{
    io,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender};
use libdeflater::{CompressionLvl, Compressor};

/// The version of what layers' bytes are: the order and headers of tar entries, the compressors with their versions, block
/// sizes and levels. The same tree has the same digest as long as this number stays; it goes up when anything of that
/// changes, and blobs of earlier versions are then packed again instead of being taken from a cache.
/// `the_format_has_not_changed` in the integration tests holds the digest of one build.
pub const LAYER_FORMAT: u32 = 2;

const GZIP_MEMBER_SIZE: usize = 1 << 20;
const ZSTD_FRAME_SIZE: usize = 4 << 20;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// Level 0 to 9.
    Gzip(u32),
    /// Level 1 to 22.
    Zstd(i32),
    /// gzip that can be read file by file; level 0 to 9. Written by [`super::write_estargz`].
    Estargz(u32),
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
            Self::Gzip(_) | Self::Estargz(_) => media_type::OCI_LAYER_GZIP,
            Self::Zstd(_) => media_type::OCI_LAYER_ZSTD,
        }
    }

    pub(super) fn block_size(self) -> usize {
        match self {
            Self::Zstd(_) => ZSTD_FRAME_SIZE,
            _ => GZIP_MEMBER_SIZE,
        }
    }
}

/// Threads that compress blocks, started by the first one. Dropping it waits for them.
#[derive(Debug)]
pub struct CompressPool {
    count: usize,
    running: OnceLock<Running>,
}

#[derive(Debug)]
struct Running {
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

struct Job {
    block: Arc<Vec<u8>>,
    compression: Compression,
    done: Sender<io::Result<Vec<u8>>>,
}

impl CompressPool {
    /// A pool of `threads` threads, at least one.
    pub fn new(threads: usize) -> Self {
        Self { count: threads.max(1), running: OnceLock::new() }
    }

    fn start(&self) -> Running {
        let (jobs, receiver) = crossbeam_channel::bounded::<Job>(self.count);
        let work = |receiver: Receiver<Job>| {
            move || {
                let mut tools = Tools::default();
                for job in receiver {
                    // A layer that was given up no longer waits for its blocks.
                    let _ = job.done.send(tools.compress(&job.block, job.compression));
                }
            }
        };
        let threads = (0..self.count).map(|_| std::thread::spawn(work(receiver.clone()))).collect();
        Running { jobs, threads }
    }

    /// How many blocks are worth having under way.
    pub(super) fn depth(&self) -> usize {
        self.count * 2 + 1
    }

    /// Hands a block to the pool; waits while the pool is full.
    pub(super) fn submit(&self, block: Arc<Vec<u8>>, compression: Compression) -> Receiver<io::Result<Vec<u8>>> {
        let (done, result) = crossbeam_channel::bounded(1);
        // A pool without threads would be a bug of ours; the reader of `result` would see it as an error.
        let _ = self.running.get_or_init(|| self.start()).jobs.send(Job { block, compression, done });
        result
    }
}

impl Drop for CompressPool {
    fn drop(&mut self) {
        let Some(Running { jobs, threads }) = self.running.take() else { return };
        drop(jobs);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// What one thread compresses with; kept from block to block.
#[derive(Default)]
struct Tools {
    gzip: Option<(u32, Compressor)>,
}

impl Tools {
    fn compress(&mut self, block: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
        match compression {
            Compression::None => Ok(block.to_vec()),
            Compression::Gzip(level) | Compression::Estargz(level) => self.gzip_member(block, level),
            // An empty stream is one empty frame.
            Compression::Zstd(level) => zstd::bulk::compress(block, level),
        }
    }

    fn gzip_member(&mut self, block: &[u8], level: u32) -> io::Result<Vec<u8>> {
        let compressor = match &mut self.gzip {
            Some((known, compressor)) if *known == level => compressor,
            other => &mut other.insert((level, Compressor::new(libdeflate_level(level)?))).1,
        };
        let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
        let length = compressor.gzip_compress(block, &mut member).map_err(io::Error::other)?;
        member.truncate(length);
        // It waits for those before it: not with the room that it did not need.
        member.shrink_to_fit();
        Ok(member)
    }
}

/// Levels are zlib's, as every tool counts them: the fastest libdeflate level that packs trees of files as well. From 6
/// on that is one lower. The header has neither time nor name, and says "unknown" for the system.
fn libdeflate_level(level: u32) -> io::Result<CompressionLvl> {
    let level = if (6..9).contains(&level) { level - 1 } else { level };
    CompressionLvl::new(level as i32).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a gzip level is 0 to 9"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn members_read_back_as_one_stream_with_headers_that_say_nothing() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|number| (number / 7 * 12_345).to_le_bytes()).collect();
        for level in 0..=9 {
            let mut tools = Tools::default();
            let members = text.chunks(100_000).map(|chunk| tools.compress(chunk, Compression::Gzip(level)).unwrap());
            let members: Vec<Vec<u8>> = members.collect();
            for member in &members {
                assert_eq!(member[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "level {level}");
                assert_eq!(member[9], 0xff, "level {level}");
            }
            let mut back = Vec::new();
            flate2::read::MultiGzDecoder::new(&members.concat()[..]).read_to_end(&mut back).unwrap();
            assert!(back == text, "level {level}");
        }
        assert!(Tools::default().compress(b"x", Compression::Gzip(13)).is_err());
    }

    #[test]
    fn a_tree_of_files_is_about_as_small_as_zlib_makes_it_at_the_same_level() {
        // Our own sources. Other text may come out a few per cent larger, trees with programs in them are smaller.
        let files = walk(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
        let text: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        for level in 1..=9 {
            let ours = Tools::default().compress(&text, Compression::Gzip(level)).unwrap();
            let mut zlib = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            io::Write::write_all(&mut zlib, &text).unwrap();
            let zlib = zlib.finish().unwrap();
            assert!(ours.len() * 100 <= zlib.len() * 103, "level {level}: {} > {}", ours.len(), zlib.len());
        }
    }

    fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }
}
