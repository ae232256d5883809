//! Writes tar archives, byte for byte as Go's `archive/tar` does in PAX format: ustar headers, and PAX records only for what
//! they can't say. Numeric owners, no names of owners; fractions of seconds where an entry has them, which layers' never do.
//!
//! By hand and not through the `tar` crate, because that one writes GNU long names and base-256 numbers.
//! Unaware of where entries come from.

use std::io::{self, Read, Write};

use super::{Entry, EntryKind, Timestamp, pax};

const BLOCK_SIZE: usize = 512;
const NAME_SIZE: usize = 100;

/// Writes entries one after the other; the archive ends with [`TarWriter::finish`].
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// An archive in `out`.
    pub fn new(out: W) -> Self {
        Self { out, buffer: vec![0; 128 * 1024] }
    }

    /// Writes an entry, and `entry.size` bytes of `content` if it is a file. Gives the number of bytes that `content` had:
    /// if it is less than the size, the archive is broken and must be thrown away.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<u64> {
        self.write_headers(entry)?;
        if entry.kind != EntryKind::File {
            return Ok(0);
        }
        let mut left = entry.size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match content.read(&mut self.buffer[..wanted]) {
                Ok(0) => return Ok(entry.size - left),
                Ok(count) => {
                    self.out.write_all(&self.buffer[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.pad(entry.size)?;
        Ok(entry.size)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK_SIZE])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Writes what stands before an entry's content, for who writes that and the padding after it himself.
    pub fn append_headers(&mut self, entry: &Entry) -> io::Result<()> {
        self.write_headers(entry)
    }

    /// What was written so far, without an end.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn write_headers(&mut self, entry: &Entry) -> io::Result<()> {
        let name = entry_name(entry);
        let (flag, target, device) = match &entry.kind {
            EntryKind::File => (b'0', &b""[..], (0, 0)),
            EntryKind::HardLink { target } => (b'1', &target[..], (0, 0)),
            EntryKind::Symlink { target } => (b'2', &target[..], (0, 0)),
            EntryKind::CharDevice { major, minor } => (b'3', &b""[..], (*major, *minor)),
            EntryKind::BlockDevice { major, minor } => (b'4', &b""[..], (*major, *minor)),
            EntryKind::Directory => (b'5', &b""[..], (0, 0)),
            EntryKind::Fifo => (b'6', &b""[..], (0, 0)),
        };
        let size = if entry.kind == EntryKind::File { entry.size } else { 0 };
        let mut header = Header::new(flag);
        let mut records = Records::default();
        header.text(0..NAME_SIZE, &name, "path", &mut records);
        header.text(157..257, target, "linkpath", &mut records);
        header.number(100..108, i128::from(entry.mode), "mode", &mut records);
        header.number(108..116, i128::from(entry.uid), "uid", &mut records);
        header.number(116..124, i128::from(entry.gid), "gid", &mut records);
        header.number(124..136, i128::from(size), "size", &mut records);
        match entry.mtime {
            Timestamp { seconds, nanoseconds } if nanoseconds != 0 && seconds >= 0 => {
                header.number(136..148, i128::from(seconds), "mtime", &mut Records::default());
                records.add(b"mtime", format!("{seconds}.{nanoseconds:09}").into_bytes());
            }
            Timestamp { seconds, .. } => header.number(136..148, i128::from(seconds), "mtime", &mut records),
        }
        header.number(329..337, i128::from(device.0), "SCHILY.devmajor", &mut records);
        header.number(337..345, i128::from(device.1), "SCHILY.devminor", &mut records);
        for (name, value) in &entry.xattrs {
            records.add(&[b"SCHILY.xattr.", &name[..]].concat(), value.clone());
        }
        if let Some(data) = records.into_bytes() {
            self.write_pax(&name, &data)?;
        }
        self.out.write_all(&header.finish())
    }

    fn write_pax(&mut self, name: &[u8], data: &[u8]) -> io::Result<()> {
        let mut header = Header::new(b'x');
        let mut ignored = Records::default();
        let name: Vec<u8> = pax_name(name).into_iter().filter(u8::is_ascii).take(NAME_SIZE).collect();
        header.text(0..NAME_SIZE, trim_slashes(&name), "path", &mut ignored);
        for field in [100..108, 108..116, 116..124, 136..148] {
            header.number(field, 0, "", &mut ignored);
        }
        header.number(124..136, data.len() as i128, "size", &mut ignored);
        self.out.write_all(&header.finish())?;
        self.out.write_all(data)?;
        self.pad(data.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK_SIZE as u64) - size;
        self.out.write_all(&[0; BLOCK_SIZE][..padding as usize])
    }
}

/// Directories end in a slash.
fn entry_name(entry: &Entry) -> Vec<u8> {
    let mut name = entry.path.clone();
    if entry.kind == EntryKind::Directory && !name.ends_with(b"/") {
        name.push(b'/');
    }
    name
}

fn pax_name(name: &[u8]) -> Vec<u8> {
    let split = name.iter().rposition(|byte| *byte == b'/').map_or(0, |index| index + 1);
    let (directory, file) = name.split_at(split);
    [directory, b"PaxHeaders.0/", file].concat()
}

fn trim_slashes(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |index| index + 1);
    &name[..end]
}

/// PAX records, written in the order of their keys.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    fn add(&mut self, key: &[u8], value: Vec<u8>) {
        self.0.push((key.to_vec(), value));
    }

    fn into_bytes(mut self) -> Option<Vec<u8>> {
        self.0.sort();
        let mut data = Vec::new();
        for (key, value) in &self.0 {
            pax::push_record(&mut data, key, value);
        }
        (!data.is_empty()).then_some(data)
    }
}

struct Header([u8; BLOCK_SIZE]);

impl Header {
    fn new(flag: u8) -> Self {
        let mut block = [0; BLOCK_SIZE];
        block[156] = flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        Self(block)
    }

    /// A name that is long or not ASCII goes into a record, and its ASCII start here.
    fn text(&mut self, field: std::ops::Range<usize>, text: &[u8], key: &str, records: &mut Records) {
        let field = &mut self.0[field];
        if text.len() > field.len() || !text.is_ascii() {
            records.add(key.as_bytes(), text.to_vec());
        }
        let ascii: Vec<u8> = text.iter().copied().filter(u8::is_ascii).collect();
        let count = ascii.len().min(field.len());
        field[..count].copy_from_slice(&ascii[..count]);
        // A cut that ends in a slash would look like a directory to some readers.
        if ascii.len() > field.len() && field.ends_with(b"/") {
            let end = trim_slashes(&field[..count - 1]).len();
            field[end] = 0;
        }
    }

    /// A number that doesn't fit goes into a record, and zero here.
    fn number(&mut self, field: std::ops::Range<usize>, number: i128, key: &str, records: &mut Records) {
        let digits = field.len() - 1;
        let fits = number >= 0 && number < 1 << (3 * digits);
        if !fits {
            records.add(key.as_bytes(), number.to_string().into_bytes());
        }
        let text = format!("{:0digits$o}", if fits { number } else { 0 });
        self.0[field][..digits].copy_from_slice(text.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK_SIZE] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.0[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0
    }
}
