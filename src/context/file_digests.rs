//! Digests of files' bytes, from memory where nothing can have changed and by reading where it can.
//!
//! Remembered is only what had rested when it was read and was the same before and after, on file systems whose times are
//! this kernel's own. Unaware of where the memory is kept and of what the digests are for.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::sys::stat_cache::{FileDigest, StatCache, StatKey, now_ns};

/// Bytes read at a time.
const BUFFER_BYTES: u64 = 1 << 20;

/// A memory of digests and what this build adds to it. Shared by the threads of a build.
pub struct FileDigests<'a> {
    cache: &'a dyn StatCache,
    /// Whether times on a device can be believed.
    devices: Mutex<HashMap<u64, bool>>,
    hits: AtomicU64,
    bytes_read: AtomicU64,
}

impl fmt::Debug for FileDigests<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FileDigests").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// What the memory was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DigestCounts {
    /// Files whose digest was remembered.
    pub hits: u64,
    /// Bytes that had to be read.
    pub bytes_read: u64,
}

impl<'a> FileDigests<'a> {
    /// Asks `cache`, and tells it what it did not know.
    pub fn new(cache: &'a dyn StatCache) -> Self {
        Self { cache, devices: Mutex::default(), hits: AtomicU64::new(0), bytes_read: AtomicU64::new(0) }
    }

    /// The digest of the file that `key` was taken from; `open` is called only when it has to be read.
    pub fn digest(&self, key: StatKey, open: &dyn Fn() -> io::Result<File>) -> io::Result<FileDigest> {
        if let [Some(digest)] = self.cache.lookup(&[key])[..] {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(digest);
        }
        let begun_ns = now_ns();
        let mut file = open()?;
        let before = StatKey::of(&rustix::fs::fstat(&file)?);
        let (digest, size) = hash(&mut file, before.size)?;
        self.bytes_read.fetch_add(size, Ordering::Relaxed);
        let after = StatKey::of(&rustix::fs::fstat(&file)?);
        if before == after && size == after.size && after.rested_at(begun_ns) && self.is_believable(after.device, &file) {
            self.cache.record(&[(after, digest)]);
        }
        Ok(digest)
    }

    /// What the memory was worth so far.
    pub fn counts(&self) -> DigestCounts {
        DigestCounts { hits: self.hits.load(Ordering::Relaxed), bytes_read: self.bytes_read.load(Ordering::Relaxed) }
    }

    fn is_believable(&self, device: u64, file: &File) -> bool {
        *self.devices.lock().expect("nothing panics while it holds the lock").entry(device).or_insert_with(|| has_own_clock(file))
    }
}

/// Reads to the end; gives the number of bytes too, for a file that grows meanwhile.
fn hash(file: &mut File, size: u64) -> io::Result<(FileDigest, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; usize::try_from(size.clamp(1, BUFFER_BYTES)).expect("at most a megabyte") + 1];
    loop {
        match io::Read::read(file, &mut buffer) {
            Ok(0) => return Ok((FileDigest(*hasher.finalize().as_bytes()), hasher.count())),
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
    use crate::sys::stat_cache::RACY_WINDOW_NS;

    /// A memory in memory.
    #[derive(Default)]
    struct Memory(Mutex<HashMap<StatKey, FileDigest>>);

    impl Memory {
        fn with(key: StatKey, digest: FileDigest) -> Self {
            Self(Mutex::new(HashMap::from([(key, digest)])))
        }
    }

    impl StatCache for Memory {
        fn lookup(&self, keys: &[StatKey]) -> Vec<Option<FileDigest>> {
            keys.iter().map(|key| self.0.lock().unwrap().get(key).copied()).collect()
        }

        fn record(&self, entries: &[(StatKey, FileDigest)]) {
            self.0.lock().unwrap().extend(entries.iter().copied());
        }
    }

    fn key(path: &Path) -> StatKey {
        StatKey::of(&rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).unwrap())
    }

    fn digest(memory: &Memory, path: &Path) -> FileDigest {
        FileDigests::new(memory).digest(key(path), &|| File::open(path)).unwrap()
    }

    fn of(text: &str) -> FileDigest {
        FileDigest(*blake3::hash(text.as_bytes()).as_bytes())
    }

    fn set_mtime(path: &Path, seconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        rustix::fs::utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
    }

    /// A memory that holds what a build after the racy window would have remembered.
    fn rested(path: &Path, text: &str) -> Memory {
        Memory::with(key(path), of(text))
    }

    #[test]
    fn an_unchanged_file_is_not_opened() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        let memory = rested(&path, "one");
        let digests = FileDigests::new(&memory);
        let found = digests.digest(key(&path), &|| panic!("opened a file that is remembered")).unwrap();
        assert_eq!(found, of("one"));
        assert_eq!(digests.counts(), DigestCounts { hits: 1, bytes_read: 0 });
    }

    #[test]
    fn a_file_touched_a_moment_ago_is_never_remembered() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        // An old mtime is no proof of rest: the ctime tells.
        set_mtime(&path, 1_000_000_000);
        let memory = Memory::default();
        assert_eq!(digest(&memory, &path), of("one"));
        assert!(memory.0.into_inner().unwrap().is_empty());
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
        let memory = Memory::default();
        let digests = FileDigests::new(&memory);
        for _ in 0..2 {
            assert_eq!(digests.digest(key(&path), &|| File::open(&path)).unwrap(), of("one"));
        }
        assert_eq!(digests.counts(), DigestCounts { hits: 1, bytes_read: 3 });
    }

    /// moby/buildkit#4950, #4817, #2592: same size and same mtime, other content.
    #[test]
    fn same_size_and_mtime_with_other_content_is_read_again() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("f");
        fs::write(&path, "one").unwrap();
        set_mtime(&path, 1_000_000_000);
        let memory = rested(&path, "one");
        let inode = fs::metadata(&path).unwrap().ino();
        fs::write(&path, "two").unwrap();
        set_mtime(&path, 1_000_000_000);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "written in place");
        assert_eq!(digest(&memory, &path), of("two"));
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
        let memory = rested(&first, "one");
        assert_eq!(digest(&memory, &second), of("two"));
    }

    #[test]
    fn a_file_renamed_over_another_is_read() {
        let top = tempfile::tempdir().unwrap();
        let (path, other) = (top.path().join("f"), top.path().join("g"));
        fs::write(&path, "one").unwrap();
        fs::write(&other, "two").unwrap();
        set_mtime(&path, 1_000_000_000);
        set_mtime(&other, 1_000_000_000);
        let memory = rested(&path, "one");
        fs::rename(&other, &path).unwrap();
        assert_eq!(digest(&memory, &path), of("two"));
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
            let memory = Memory::with(remembered, of("lie"));
            assert_eq!(digest(&memory, &path), of("truth"), "{remembered:?}");
        }
    }
}
