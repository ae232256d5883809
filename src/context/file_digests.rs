//! Digests of files' bytes, from memory where nothing can have changed and by reading where it can.
//!
//! Remembered is only what had rested when it was read and was the same before and after, on file systems whose times are
//! this kernel's own. Unaware of where the memory is kept and of what the digests are for.

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::sys::stat_key::{StatKey, now_ns};

/// BLAKE3 of a file's bytes. Local only: never part of an image.
pub type FileDigest = [u8; 32];

/// From this size on, hashing maps the file and uses all processors.
const PARALLEL_FROM_BYTES: u64 = 1 << 20;

/// Rows of files that this build did not ask for are kept up to this many, and as many again as it did ask for.
const UNSEEN_ROWS: usize = 100_000;

/// A memory of digests and what this build adds to it. Shared by the threads of a build.
#[derive(Debug)]
pub struct FileDigests {
    state: Mutex<State>,
    hits: AtomicU64,
    bytes_read: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// By device and inode: a file has one state at a time.
    rows: HashMap<(u64, u64), Row>,
    /// Whether times on a device can be believed.
    devices: HashMap<u64, bool>,
    changed: bool,
}

#[derive(Debug)]
struct Row {
    key: StatKey,
    digest: FileDigest,
    seen: bool,
}

/// What the memory was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DigestCounts {
    /// Files whose digest was remembered.
    pub hits: u64,
    /// Bytes that had to be read.
    pub bytes_read: u64,
}

impl FileDigests {
    /// Starts with what an earlier build remembered.
    pub fn new(rows: impl IntoIterator<Item = (StatKey, FileDigest)>) -> Self {
        let rows = rows.into_iter().map(|(key, digest)| ((key.device, key.inode), Row { key, digest, seen: false })).collect();
        let state = State { rows, ..State::default() };
        Self { state: Mutex::new(state), hits: AtomicU64::new(0), bytes_read: AtomicU64::new(0) }
    }

    /// The digest of the file that `key` was taken from; `open` is called only when it has to be read.
    pub fn digest(&self, key: StatKey, open: &dyn Fn() -> io::Result<File>) -> io::Result<FileDigest> {
        if let Some(digest) = self.remembered(key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(digest);
        }
        let begun_ns = now_ns();
        let mut file = open()?;
        let before = StatKey::of(&rustix::fs::fstat(&file)?);
        let (digest, size) = hash(&mut file, before.size)?;
        self.bytes_read.fetch_add(size, Ordering::Relaxed);
        let after = StatKey::of(&rustix::fs::fstat(&file)?);
        if before == after && size == after.size && after.rested_at(begun_ns) {
            self.remember(after, digest, &file);
        }
        Ok(digest)
    }

    /// What the memory was worth so far.
    pub fn counts(&self) -> DigestCounts {
        DigestCounts { hits: self.hits.load(Ordering::Relaxed), bytes_read: self.bytes_read.load(Ordering::Relaxed) }
    }

    /// What the next build should start with, ordered; None when nothing is new.
    pub fn rows(&self) -> Option<Vec<(StatKey, FileDigest)>> {
        let state = self.state.lock().expect("no thread panics while it holds the memory");
        let seen = state.rows.values().filter(|row| row.seen).count();
        let keeps_unseen = state.rows.len() - seen <= seen + UNSEEN_ROWS;
        if !state.changed && keeps_unseen {
            return None;
        }
        let mut rows: Vec<_> = state.rows.values().filter(|row| row.seen || keeps_unseen).map(|row| (row.key, row.digest)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        Some(rows)
    }

    /// The digest of the file that `key` was taken from, if it is remembered.
    pub fn remembered(&self, key: StatKey) -> Option<FileDigest> {
        let mut state = self.state.lock().expect("no thread panics while it holds the memory");
        let row = state.rows.get_mut(&(key.device, key.inode)).filter(|row| row.key == key)?;
        row.seen = true;
        Some(row.digest)
    }

    fn remember(&self, key: StatKey, digest: FileDigest, file: &File) {
        let mut state = self.state.lock().expect("no thread panics while it holds the memory");
        if *state.devices.entry(key.device).or_insert_with(|| has_own_clock(file)) {
            state.rows.insert((key.device, key.inode), Row { key, digest, seen: true });
            state.changed = true;
        }
    }
}

/// Reads to the end; gives the number of bytes too, for a file that grows meanwhile.
fn hash(file: &mut File, size: u64) -> io::Result<(FileDigest, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; usize::try_from(size.clamp(1, PARALLEL_FROM_BYTES)).expect("at most a megabyte") + 1];
    loop {
        match io::Read::read(file, &mut buffer) {
            Ok(0) => return Ok((*hasher.finalize().as_bytes(), hasher.count())),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}

/// On network and user-space file systems another machine's clock sets the times, and attributes may be old.
fn has_own_clock(file: &File) -> bool {
    const FOREIGN: [u32; 8] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f];
    rustix::fs::fstatfs(file).is_ok_and(|found| !FOREIGN.contains(&(found.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt, path::Path};

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

    use super::*;
    use crate::sys::stat_key::RACY_WINDOW_NS;

    fn key(path: &Path) -> StatKey {
        StatKey::of(&rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).unwrap())
    }

    fn digest(digests: &FileDigests, path: &Path) -> FileDigest {
        digests.digest(key(path), &|| File::open(path)).unwrap()
    }

    fn of(text: &str) -> FileDigest {
        *blake3::hash(text.as_bytes()).as_bytes()
    }

    fn set_mtime(path: &Path, seconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        rustix::fs::utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
    }

    /// A memory that holds what a build after the racy window would have remembered.
    fn rested(path: &Path, text: &str) -> FileDigests {
        FileDigests::new([(key(path), of(text))])
    }

    #[test]
    fn an_unchanged_file_is_not_opened() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        let digests = rested(&path, "one");
        let found = digests.digest(key(&path), &|| panic!("opened a file that is remembered")).unwrap();
        assert_eq!(found, of("one"));
        assert_eq!(digests.counts(), DigestCounts { hits: 1, bytes_read: 0 });
        assert!(digests.rows().is_none(), "nothing new to save");
    }

    #[test]
    fn a_file_touched_a_moment_ago_is_never_remembered() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        // An old mtime is no proof of rest: the ctime tells.
        set_mtime(&path, 1_000_000_000);
        let digests = FileDigests::new([]);
        assert_eq!(digest(&digests, &path), of("one"));
        assert_eq!(digest(&digests, &path), of("one"));
        assert_eq!(digests.counts(), DigestCounts { hits: 0, bytes_read: 6 });
        assert!(digests.rows().is_none());
    }

    #[test]
    fn a_rested_file_is_remembered() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        // Waits for the window itself: nothing else can make a ctime old.
        while !key(&path).rested_at(now_ns()) {
            std::thread::sleep(std::time::Duration::from_nanos(RACY_WINDOW_NS as u64 / 20));
        }
        let digests = FileDigests::new([]);
        assert_eq!(digest(&digests, &path), of("one"));
        assert_eq!(digest(&digests, &path), of("one"));
        assert_eq!(digests.counts(), DigestCounts { hits: 1, bytes_read: 3 });
        assert_eq!(digests.rows().unwrap(), [(key(&path), of("one"))]);
    }

    /// moby/buildkit#4950, #4817, #2592: same size and same mtime, other content.
    #[test]
    fn same_size_and_mtime_with_other_content_is_read_again() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        set_mtime(&path, 1_000_000_000);
        let digests = rested(&path, "one");
        let inode = fs::metadata(&path).unwrap().ino();
        fs::write(&path, "two").unwrap();
        set_mtime(&path, 1_000_000_000);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "written in place");
        assert_eq!(digest(&digests, &path), of("two"));
    }

    /// moby/buildkit#4950: two checkouts whose files agree in size and mtime.
    #[test]
    fn two_directories_with_equal_sizes_and_times_are_told_apart() {
        let top = tempfile::tempdir().unwrap();
        let (first, second) = (top.path().join("first"), top.path().join("second"));
        fs::write(&first, "one").unwrap();
        fs::write(&second, "two").unwrap();
        set_mtime(&first, 1_000_000_000);
        set_mtime(&second, 1_000_000_000);
        let digests = rested(&first, "one");
        assert_eq!(digest(&digests, &second), of("two"));
    }

    #[test]
    fn a_file_renamed_over_another_is_read() {
        let top = tempfile::tempdir().unwrap();
        let (path, other) = (top.path().join("f"), top.path().join("g"));
        fs::write(&path, "one").unwrap();
        fs::write(&other, "two").unwrap();
        set_mtime(&path, 1_000_000_000);
        set_mtime(&other, 1_000_000_000);
        let digests = rested(&path, "one");
        fs::rename(&other, &path).unwrap();
        assert_eq!(digest(&digests, &path), of("two"));
    }

    #[test]
    fn every_field_of_the_key_counts() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "truth").unwrap();
        let right = key(&path);
        let wrong = [
            StatKey { device: right.device + 1, ..right },
            StatKey { inode: right.inode + 1, ..right },
            StatKey { size: right.size + 1, ..right },
            StatKey { mtime_ns: right.mtime_ns + 1, ..right },
            StatKey { ctime_ns: right.ctime_ns + 1, ..right },
        ];
        for remembered in wrong {
            let digests = FileDigests::new([(remembered, of("lie"))]);
            assert_eq!(digest(&digests, &path), of("truth"), "{remembered:?}");
        }
    }

    #[test]
    fn rows_of_files_not_asked_for_are_kept_within_bounds() {
        let row = |inode| (StatKey { device: 1, inode, size: 0, mtime_ns: 0, ctime_ns: 0 }, [0; 32]);
        let few = FileDigests::new((0..10).map(row));
        assert!(few.rows().is_none());
        let many = FileDigests::new((0..UNSEEN_ROWS as u64 + 10).map(row));
        assert_eq!(many.rows().unwrap(), []);
    }
}
