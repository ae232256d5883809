//! Reads a layer or archive through whatever compressed it, told by its first bytes and never by its name.
//! Unaware of tar.

use std::io::{self, BufRead, BufReader, Read};

/// Bytes looked at: enough for the longest magic and for a tar header's own.
const PEEK_SIZE: usize = 512;

/// zstd frames that ask for a larger window are refused; it is what bounds our memory (zstd's own default).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The same for xz dictionaries: 64 MiB is what `xz -9` asks for, in KiB, with room for the rest of the state.
const XZ_MEMORY_LIMIT_KIB: u32 = 96 * 1024;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Encoding {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Encoding {
    /// Told by the first bytes of a stream.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Self::Bzip2,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// A reader of the plain bytes, and what they were wrapped in.
pub struct Decompressed<R: Read> {
    /// What was found.
    pub encoding: Encoding,
    inner: Inner<Peeked<R>>,
}

type Peeked<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

enum Inner<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<R>>),
    Xz(Box<lzma_rust2::XzReader<R>>),
}

/// Looks at the first bytes of `input` and undoes its compression, all members and frames of it.
pub fn decompress<R: Read>(mut input: R) -> io::Result<Decompressed<R>> {
    let mut start = Vec::with_capacity(PEEK_SIZE);
    input.by_ref().take(PEEK_SIZE as u64).read_to_end(&mut start)?;
    let encoding = Encoding::of(&start);
    let peeked = BufReader::with_capacity(128 * 1024, io::Cursor::new(start).chain(input));
    let inner = match encoding {
        Encoding::Plain => Inner::Plain(peeked),
        Encoding::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(peeked))),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(peeked)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Inner::Zstd(Box::new(decoder))
        }
        Encoding::Bzip2 => Inner::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(peeked))),
        Encoding::Xz => Inner::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(peeked, true, XZ_MEMORY_LIMIT_KIB))),
    };
    Ok(Decompressed { encoding, inner })
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(reader) => reader.read(buffer),
            Inner::Gzip(reader) => reader.read(buffer),
            Inner::Zstd(reader) => reader.read(buffer),
            Inner::Bzip2(reader) => reader.read(buffer),
            Inner::Xz(reader) => reader.read(buffer),
        }
    }
}
