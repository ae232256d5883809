//! Reads tar archives as a stream of entries, suspicious of all they say.
//!
//! `tar-core` frames the archive (headers, PAX, GNU long names, sparse maps); what it leaves open is decided here, as Go's
//! `archive/tar` decides it, because that is what wrote and reads most layers: numbers must be in range, PAX records
//! exact, one zero block followed by data is damage, entries other than files have no content.
//! Unaware of where entries go and of what compressed them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use tar_core::{
    Header, SparseEntry,
    parse::{ParseEvent, ParsedEntry, Parser},
};

use super::{ArchiveError as Error, pax};

const BLOCK_SIZE: usize = 512;
const BUFFER_SIZE: usize = 256 * 1024;
/// All headers of one entry: metadata, and the blocks of a sparse map.
const MAX_HEADERS_SIZE: usize = 4 * 1024 * 1024;

/// Bounds on what an archive may make us hold or do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// PAX records and long names of one entry, in bytes.
    pub metadata_size: u32,
    /// Names and link targets, in bytes.
    pub path_length: u32,
    /// Entries in the archive.
    pub entries: u64,
    /// Content of all files together, in bytes, holes counted.
    pub total_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { metadata_size: 1024 * 1024, path_length: 4096, entries: 10_000_000, total_size: 1 << 44 }
    }
}

/// Seconds since 1970, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[allow(missing_docs)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What an entry is. Link targets and names are bytes as the archive has them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EntryKind {
    File,
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Fifo,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry; a file's content is read from the [`TarReader`] before the next entry is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the archive has it: may be absolute, climb, or end in a slash.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Bytes of content, holes expanded; 0 for all but files.
    pub size: u64,
    /// Extended attributes, in the archive's order, without duplicates.
    pub xattrs: Xattrs,
}

/// A streaming reader of entries. `Read` gives the current file's content, holes as zeros.
pub struct TarReader<R> {
    input: R,
    parser: Parser,
    limits: Limits,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    content: Content,
    entries: u64,
    total_size: u64,
    finished: bool,
}

/// What is left of the current entry.
#[derive(Default)]
struct Content {
    /// Bytes of it still in the archive.
    stored: u64,
    padding: u64,
    /// Where we are in the expanded file, and where it ends.
    position: u64,
    size: u64,
    /// Data still to come, ascending; between them are holes.
    segments: VecDeque<SparseEntry>,
}

enum Step {
    Entry(Box<Entry>, Content, usize),
    Skip(usize),
    More(usize),
    End,
}

impl<R: Read> TarReader<R> {
    /// Reads the archive in `input` under the default limits.
    pub fn new(input: R) -> Self {
        Self::with_limits(input, Limits::default())
    }

    /// Reads the archive in `input`.
    pub fn with_limits(input: R, limits: Limits) -> Self {
        let mut parser = Parser::new(tar_core::parse::Limits {
            max_metadata_size: limits.metadata_size,
            max_path_len: Some(limits.path_length),
            ..Default::default()
        });
        // `pax` checks every record again and knows negative and fractional times, at which tar-core would stop.
        parser.set_ignore_pax_errors(true);
        Self {
            input,
            parser,
            limits,
            buffer: vec![0; BUFFER_SIZE],
            start: 0,
            end: 0,
            content: Content::default(),
            entries: 0,
            total_size: 0,
            finished: false,
        }
    }

    /// The next entry; what was not read of the last one's content is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        if self.finished {
            return Ok(None);
        }
        self.skip_content()?;
        loop {
            match self.step()? {
                Step::Entry(entry, content, consumed) => {
                    self.start += consumed;
                    self.content = content;
                    self.count(&entry)?;
                    return Ok(Some(*entry));
                }
                Step::Skip(consumed) => self.start += consumed,
                Step::More(wanted) => {
                    if !self.fill(wanted)? {
                        self.finished = true;
                        return self.at_end_of_input();
                    }
                }
                Step::End => {
                    self.finished = true;
                    return Ok(None);
                }
            }
        }
    }

    /// Reads what follows the archive's end, so that whoever hashes the input has seen all of it.
    pub fn drain(mut self) -> Result<R, Error> {
        io::copy(&mut self.input, &mut io::sink()).map_err(Error::Read)?;
        Ok(self.input)
    }

    /// Writes the current file's content into `file`, which is new and empty; holes stay holes.
    pub fn extract_to(&mut self, file: &File) -> io::Result<()> {
        let size = self.content.size;
        let mut written = 0;
        while let Some(segment) = self.content.segments.front().copied() {
            let (mut offset, end) = (segment.offset.max(self.content.position), segment.offset + segment.length);
            while offset < end {
                if self.start == self.end {
                    self.refill()?;
                }
                let count = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.end - self.start);
                file.write_all_at(&self.buffer[self.start..self.start + count], offset)?;
                self.start += count;
                self.content.stored -= count as u64;
                offset += count as u64;
            }
            written = end;
            self.content.segments.pop_front();
        }
        self.content.position = size;
        if written < size { file.set_len(size) } else { Ok(()) }
    }

    fn step(&mut self) -> Result<Step, Error> {
        let available = &self.buffer[self.start..self.end];
        if is_lone_zero_block(available) {
            return Err(Error::archive(b"", "a single zero block is followed by data"));
        }
        match self.parser.parse(available).map_err(|error| Error::archive(b"", error.to_string()))? {
            ParseEvent::NeedData { min_bytes } => Ok(Step::More(min_bytes)),
            ParseEvent::GlobalExtensions { consumed, .. } => Ok(Step::Skip(consumed)),
            ParseEvent::End { .. } => Ok(Step::End),
            ParseEvent::Entry { consumed, entry } => {
                let stored = entry.size;
                let entry = convert(&entry, stored)?;
                let whole = VecDeque::from(vec![SparseEntry { offset: 0, length: entry.size }]);
                let content = Content::new(&entry, entry.size, whole)?;
                Ok(Step::Entry(Box::new(entry), content, consumed))
            }
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                let stored = entry.size;
                let entry = convert(&entry, real_size)?;
                let content = Content::new(&entry, stored, sparse_map.into())?;
                Ok(Step::Entry(Box::new(entry), content, consumed))
            }
        }
    }

    fn count(&mut self, entry: &Entry) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::archive(&entry.path, format!("more than {} entries", self.limits.entries)));
        }
        self.total_size = self.total_size.saturating_add(entry.size);
        if self.total_size > self.limits.total_size {
            return Err(Error::archive(&entry.path, format!("more than {} bytes of content", self.limits.total_size)));
        }
        Ok(())
    }

    /// Input that ends without zero blocks is fine between entries, nowhere else.
    fn at_end_of_input(&self) -> Result<Option<Entry>, Error> {
        let rest = &self.buffer[self.start..self.end];
        if rest.is_empty() || (rest.len() == BLOCK_SIZE && rest.iter().all(|byte| *byte == 0)) {
            Ok(None)
        } else {
            Err(Error::archive(b"", "ends in the middle of an entry's header"))
        }
    }

    /// Makes at least `wanted` bytes available, if the input has them, and always more than there were: of a sparse map that
    /// is not one the parser asks for what it has.
    fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        let wanted = wanted.max(self.end - self.start + 1);
        if wanted > MAX_HEADERS_SIZE {
            return Err(Error::archive(b"", format!("headers of one entry are larger than {MAX_HEADERS_SIZE} bytes")));
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted.next_power_of_two(), 0);
        }
        while self.end < wanted {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        Ok(true)
    }

    /// Fills the empty buffer; an end here is in the middle of content.
    fn refill(&mut self) -> io::Result<()> {
        (self.start, self.end) = (0, 0);
        loop {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of a file")),
                Ok(count) => self.end = count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }

    fn skip_content(&mut self) -> Result<(), Error> {
        let mut left = std::mem::take(&mut self.content).left_in_archive();
        while left > 0 {
            if self.start == self.end {
                self.refill().map_err(Error::Read)?;
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += count;
            left -= count as u64;
        }
        Ok(())
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            self.refill()?;
        }
        let count = buffer.len().min(self.end - self.start);
        buffer[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let position = self.content.position;
        let (until, is_data) = match self.content.segments.front() {
            Some(segment) if segment.offset <= position => (segment.offset + segment.length, true),
            Some(segment) => (segment.offset, false),
            None => (self.content.size, false),
        };
        let wanted = usize::try_from(until - position).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = if is_data {
            self.read_stored(&mut buffer[..wanted])?
        } else {
            buffer[..wanted].fill(0);
            wanted
        };
        self.content.advance(count as u64, is_data);
        Ok(count)
    }
}

impl Content {
    /// Checks that the map is ascending, inside the file, and accounts for what is stored.
    fn new(entry: &Entry, stored: u64, mut segments: VecDeque<SparseEntry>) -> Result<Self, Error> {
        let bad = |problem: &str| Error::archive(&entry.path, problem);
        let mut covered = 0_u64;
        let mut total = 0_u64;
        for segment in &segments {
            if segment.offset < covered {
                return Err(bad("its sparse map overlaps itself"));
            }
            covered = segment.offset.checked_add(segment.length).ok_or_else(|| bad("its sparse map overflows"))?;
            total += segment.length;
        }
        if covered > entry.size || total != stored {
            return Err(bad("its sparse map does not fit its size"));
        }
        segments.retain(|segment| segment.length > 0);
        let padding = stored.next_multiple_of(BLOCK_SIZE as u64) - stored;
        Ok(Self { stored, padding, position: 0, size: entry.size, segments })
    }

    fn advance(&mut self, count: u64, is_data: bool) {
        self.position += count;
        if is_data {
            self.stored -= count;
            if self.segments.front().is_some_and(|segment| segment.offset + segment.length == self.position) {
                self.segments.pop_front();
            }
        }
    }

    fn left_in_archive(self) -> u64 {
        self.stored + self.padding
    }
}

fn convert(parsed: &ParsedEntry<'_>, size: u64) -> Result<Entry, Error> {
    let path = parsed.path.to_vec();
    let bad = |problem: String| Error::archive(&path, problem);
    check_numbers(parsed.header).map_err(bad)?;
    let records = pax::records(parsed.pax.unwrap_or_default()).map_err(bad)?;
    let mut mtime = match negative_time(parsed.header) {
        Some(seconds) => Timestamp { seconds, nanoseconds: 0 },
        None => Timestamp { seconds: i64::try_from(parsed.mtime).map_err(|_| bad("its time is out of range".into()))?, nanoseconds: 0 },
    };
    pax::check_numbers(&records).map_err(bad)?;
    if let Some(time) = pax::mtime(&records).map_err(bad)? {
        mtime = time;
    }
    let kind = kind(parsed).map_err(bad)?;
    if path.contains(&0) {
        return Err(bad("its name holds a NUL byte".into()));
    }
    // As in Go: whatever size a directory or link claims, no content follows it.
    let size = if kind == EntryKind::File { size } else { 0 };
    let id = |number: u64| u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or_else(|| bad(format!("no such owner: {number}")));
    let (uid, gid) = (id(parsed.uid)?, id(parsed.gid)?);
    let xattrs = pax::xattrs(&records).map_err(bad)?;
    Ok(Entry { kind, mode: parsed.mode & 0o7777, uid, gid, mtime, size, xattrs, path })
}

fn kind(parsed: &ParsedEntry<'_>) -> Result<EntryKind, String> {
    let target = || match &parsed.link_target {
        Some(target) if !target.contains(&0) => Ok(target.to_vec()),
        _ => Err("a link without a target".to_owned()),
    };
    let device = || (parsed.dev_major.unwrap_or(0), parsed.dev_minor.unwrap_or(0));
    match parsed.header.as_bytes()[156] {
        // Before ustar, a directory was a file with a slash at its end.
        0 if parsed.path.ends_with(b"/") => Ok(EntryKind::Directory),
        0 | b'0' | b'7' | b'S' => Ok(EntryKind::File),
        b'1' => Ok(EntryKind::HardLink { target: target()? }),
        b'2' => Ok(EntryKind::Symlink { target: target()? }),
        b'3' => Ok(EntryKind::CharDevice { major: device().0, minor: device().1 }),
        b'4' => Ok(EntryKind::BlockDevice { major: device().0, minor: device().1 }),
        b'5' => Ok(EntryKind::Directory),
        b'6' => Ok(EntryKind::Fifo),
        other => Err(format!("unknown type `{}`", char::from(other).escape_default())),
    }
}

/// Offsets of a header's numbers: mode, uid, gid, size, device major and minor.
const NUMBERS: [(&str, usize, usize); 6] =
    [("mode", 100, 108), ("uid", 108, 116), ("gid", 116, 124), ("size", 124, 136), ("device major", 329, 337), ("device minor", 337, 345)];

/// tar-core 0.1.0 reads negative and oversized base-256 numbers as others than they are.
fn check_numbers(header: &Header) -> Result<(), String> {
    for (name, from, to) in NUMBERS {
        let field = &header.as_bytes()[from..to];
        let is_base_256 = field[0] & 0x80 != 0;
        if is_base_256 && field[0] & 0x40 != 0 {
            return Err(format!("its {name} is negative"));
        }
        let high = field.len() - 8;
        if is_base_256 && high > 0 && (field[0] & 0x7f != 0 || field[1..high].iter().any(|byte| *byte != 0)) {
            return Err(format!("its {name} is out of range"));
        }
    }
    Ok(())
}

/// Times before 1970 are legal; base-256 is the only way a plain header can say them.
fn negative_time(header: &Header) -> Option<i64> {
    let field = &header.as_bytes()[136..148];
    (field[0] == 0xff).then(|| i64::from_be_bytes(field[4..].try_into().expect("eight bytes")))
}

fn is_lone_zero_block(available: &[u8]) -> bool {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    available.len() >= 2 * BLOCK_SIZE && is_zero(&available[..BLOCK_SIZE]) && !is_zero(&available[BLOCK_SIZE..2 * BLOCK_SIZE])
}
