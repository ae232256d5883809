//! Contexts that arrive as an archive (on stdin, by URL): unpacked into a private directory, with suspicion.
//!
//! Links are followed as after a chroot, so nothing outside is ever reached; a name that climbs out with `..` is refused.
//! Devices are left out, owners and attributes too: files of a context belong to root, whoever packed them.
//! Unaware of where the bytes come from.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{ContextError, TemporaryTree};
use crate::{
    oci::tar::{ArchiveError, Encoding, Entry, EntryKind, Limits, TarReader, Timestamp, decompress},
    sys::{remove, root::RootDir},
};

const BLOCK_SIZE: usize = 512;

/// Dockerfiles are written by people.
const TEXT_LIMIT_BYTES: u64 = 16 << 20;

/// A context that was unpacked; removed when dropped.
#[derive(Debug)]
pub struct UnpackedContext {
    /// Where it lies.
    pub tree: TemporaryTree,
    /// The latest time of a file, seconds since 1970: `SOURCE_DATE_EPOCH=context` where the server says no time.
    pub newest_entry: Option<i64>,
    /// Device nodes that were left out.
    pub skipped: Vec<PathBuf>,
}

/// What came instead of a directory.
#[derive(Debug)]
pub enum StreamContext {
    /// A tar archive, compressed or not.
    Archive(UnpackedContext),
    /// A plain Dockerfile; its context is empty.
    Dockerfile(String),
}

/// Reads a context from stdin or a download. `parent` is a directory of our own to unpack in, `name` what to call the
/// source in errors.
pub fn read_stream(input: impl Read, name: &str, parent: &Path, limits: Limits) -> Result<StreamContext, ContextError> {
    let mut input = input;
    let mut start = Vec::with_capacity(BLOCK_SIZE);
    input.by_ref().take(BLOCK_SIZE as u64).read_to_end(&mut start).map_err(ContextError::io("read", Path::new(name)))?;
    let is_archive = is_archive(&start);
    let whole = io::Cursor::new(start).chain(input);
    if is_archive {
        return unpack(whole, parent, limits).map(StreamContext::Archive);
    }
    let mut bytes = Vec::new();
    whole.take(TEXT_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(ContextError::io("read", Path::new(name)))?;
    let (what, path) = ("dockerfile", PathBuf::from(name));
    if bytes.len() as u64 > TEXT_LIMIT_BYTES {
        return Err(ContextError::TooLarge { what, path, limit_bytes: TEXT_LIMIT_BYTES });
    }
    String::from_utf8(bytes).map(StreamContext::Dockerfile).map_err(|_| ContextError::NotText { what, path })
}

/// Told by the magic of a compression or by a tar header whose sum is right; an empty archive is one too.
pub fn is_archive(start: &[u8]) -> bool {
    if Encoding::of(start) != Encoding::Plain {
        return true;
    }
    let Some(block) = start.get(..BLOCK_SIZE) else { return false };
    let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    let stated = std::str::from_utf8(&block[148..156]).unwrap_or_default().trim_matches([' ', '\0']);
    block.iter().all(|byte| *byte == 0) || u32::from_str_radix(stated, 8) == Ok(sum)
}

/// Unpacks an archive below `parent`.
pub fn unpack(input: impl Read, parent: &Path, limits: Limits) -> Result<UnpackedContext, ContextError> {
    let tree = TemporaryTree::create(parent, "context-")?;
    let root = RootDir::open(tree.path()).map_err(ContextError::io("open", tree.path()))?;
    let mut archive = TarReader::with_limits(decompress(input).map_err(ArchiveError::Read)?, limits);
    let mut unpacker = Unpacker { root, directories: BTreeMap::new(), newest: None, skipped: Vec::new() };
    while let Some(entry) = archive.next_entry()? {
        unpacker.newest = unpacker.newest.max(time_of(&entry));
        let path = clean(&entry)?;
        unpacker.place(&mut archive, &entry, &path).map_err(|error| failed(&path, error))?;
    }
    unpacker.finish_directories()?;
    Ok(UnpackedContext { tree, newest_entry: unpacker.newest, skipped: unpacker.skipped })
}

/// The time of a file. Directories and links say nothing of when their content is from.
fn time_of(entry: &Entry) -> Option<i64> {
    matches!(entry.kind, EntryKind::File).then_some(entry.mtime.seconds)
}

/// The latest time of a file, without unpacking: seconds since 1970. None for what is no archive, or has no files.
pub fn newest_entry(input: impl Read, limits: Limits) -> Result<Option<i64>, ContextError> {
    let mut input = input;
    let mut start = Vec::with_capacity(BLOCK_SIZE);
    input.by_ref().take(BLOCK_SIZE as u64).read_to_end(&mut start).map_err(ArchiveError::Read)?;
    if !is_archive(&start) {
        return Ok(None);
    }
    let whole = io::Cursor::new(start).chain(input);
    let mut archive = TarReader::with_limits(decompress(whole).map_err(ArchiveError::Read)?, limits);
    let mut newest = None;
    while let Some(entry) = archive.next_entry()? {
        newest = newest.max(time_of(&entry));
    }
    Ok(newest)
}

struct Unpacker {
    root: RootDir,
    /// Modes and times to set when nothing more is written below.
    directories: BTreeMap<PathBuf, (u32, Timestamp)>,
    newest: Option<i64>,
    skipped: Vec<PathBuf>,
}

/// What went wrong with one entry.
enum Problem {
    Kernel(io::Error),
    Archive(ArchiveError),
}

impl<E: Into<io::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Kernel(error.into())
    }
}

fn failed(path: &Path, problem: Problem) -> ContextError {
    match problem {
        Problem::Kernel(error) => ContextError::io("unpack", path)(error),
        Problem::Archive(error) => error.into(),
    }
}

impl Unpacker {
    fn place<R: Read>(&mut self, archive: &mut TarReader<R>, entry: &Entry, path: &Path) -> Result<(), Problem> {
        if matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }) {
            self.skipped.push(path.to_owned());
            return Ok(());
        }
        if path.as_os_str().is_empty() {
            return match entry.kind {
                EntryKind::Directory => Ok(()),
                _ => Err(Problem::Archive(ArchiveError::archive(&entry.path, "the root can only be a directory"))),
            };
        }
        let (parent, name) = self.parent(path)?;
        if entry.kind == EntryKind::Directory {
            self.directories.insert(path.to_owned(), (entry.mode, entry.mtime));
            return Ok(make_directory(&parent, &name)?);
        }
        self.directories.remove(path);
        make_room(&parent, &name)?;
        match &entry.kind {
            EntryKind::File => self.write_file(archive, entry, &parent, &name),
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, &name)?;
                Ok(set_time(&parent, &name, entry.mtime)?)
            }
            EntryKind::HardLink { target } => self.link(entry, target, &parent, &name),
            EntryKind::Fifo => {
                rustix::fs::mknodat(&parent, &name, FileType::Fifo, Mode::from_raw_mode(entry.mode), 0)?;
                Ok(set_time(&parent, &name, entry.mtime)?)
            }
            _ => unreachable!("directories and devices are done"),
        }
    }

    fn write_file<R: Read>(&self, archive: &mut TarReader<R>, entry: &Entry, parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        archive.extract_to(&file)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        Ok(rustix::fs::futimens(&file, &times(entry.mtime))?)
    }

    /// The target is a name in the archive, and so beneath our root, whatever it looks like.
    fn link(&self, entry: &Entry, target: &[u8], parent: &OwnedFd, name: &OsStr) -> Result<(), Problem> {
        let path = clean_name(target).ok_or_else(|| {
            let target = String::from_utf8_lossy(target);
            Problem::Archive(ArchiveError::archive(&entry.path, format!("a hard link to `{target}`, which leads out of the archive")))
        })?;
        let (from, from_name) = self.root.parent_in(&path)?;
        Ok(rustix::fs::linkat(&from, &from_name, parent, name, AtFlags::empty())?)
    }

    /// The directory of an entry; missing ones are implied.
    fn parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        match self.root.parent_in(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let mut walked = PathBuf::new();
        for component in path.parent().unwrap_or(Path::new("")).components() {
            walked.push(component);
            let (parent, name) = self.root.parent_in(&walked)?;
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.root.parent_in(path)
    }

    /// Deepest first: a mode may close what is below, and changes below would touch a time.
    fn finish_directories(&self) -> Result<(), ContextError> {
        for (path, (mode, mtime)) in self.directories.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            // A later entry may have put something else above it.
            let Ok(directory) = self.root.open_in(path, flags, Mode::empty()) else { continue };
            let set = rustix::fs::futimens(&directory, &times(*mtime));
            set.and_then(|()| rustix::fs::fchmod(&directory, Mode::from_raw_mode(*mode))).map_err(ContextError::io("unpack", path))?;
        }
        Ok(())
    }
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        made => return Ok(made?),
    }
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// A later entry of a name replaces an earlier one.
fn make_room(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let name = std::ffi::CString::new(name.as_bytes())?;
    remove::remove_at(parent.as_fd(), &name)
}

fn set_time(parent: &OwnedFd, name: &OsStr, mtime: Timestamp) -> Result<(), Errno> {
    rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn clean(entry: &Entry) -> Result<PathBuf, ContextError> {
    clean_name(&entry.path).ok_or_else(|| ArchiveError::archive(&entry.path, "leads out of the archive").into())
}

/// Without `.`, `..` and leading `/`; None when it climbs above its beginning.
fn clean_name(name: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir if !path.pop() => return None,
            _ => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    /// Entries as `type path [-> target] [= content]`; the raw header takes any name, as an attacker's would.
    fn archive(lines: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (index, line) in lines.iter().enumerate() {
            let (kind, rest) = line.split_once(' ').unwrap();
            let (rest, content) = rest.split_once(" = ").unwrap_or((rest, ""));
            let (path, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(tar::EntryType::new(match kind {
                "file" => b'0',
                "hard" => b'1',
                "link" => b'2',
                "char" => b'3',
                "dir" => b'5',
                "fifo" => b'6',
                other => panic!("{other}"),
            }));
            header.set_mode(if kind == "dir" { 0o750 } else { 0o640 });
            header.set_mtime(1_000_000_000 + index as u64);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    struct Bench {
        top: tempfile::TempDir,
    }

    impl Bench {
        /// A canary beside and above the directory that archives are unpacked in.
        fn new() -> Self {
            let top = tempfile::tempdir().unwrap();
            fs::create_dir(top.path().join("work")).unwrap();
            fs::write(top.path().join("H"), "canary").unwrap();
            fs::write(top.path().join("work/H"), "canary").unwrap();
            Self { top }
        }

        fn unpack(&self, lines: &[&str]) -> Result<UnpackedContext, String> {
            let result = unpack(&archive(lines)[..], &self.top.path().join("work"), Limits::default());
            for canary in ["H", "work/H"] {
                let path = self.top.path().join(canary);
                assert_eq!(fs::read_to_string(&path).unwrap(), "canary", "{lines:?}");
                assert_eq!(fs::metadata(&path).unwrap().nlink(), 1, "{lines:?}");
            }
            result.map_err(|error| error.to_string())
        }

        fn left_over(&self) -> usize {
            fs::read_dir(self.top.path().join("work")).unwrap().count() - 1
        }
    }

    fn listing(context: &UnpackedContext) -> Vec<String> {
        let walked = walkdir::WalkDir::new(context.tree.path()).min_depth(1).sort_by_file_name();
        let line = |entry: walkdir::DirEntry| {
            let path = entry.path().strip_prefix(context.tree.path()).unwrap().display().to_string();
            match entry.file_type() {
                kind if kind.is_dir() => format!("{path}/"),
                kind if kind.is_symlink() => format!("{path} -> {}", fs::read_link(entry.path()).unwrap().display()),
                kind if kind.is_file() => format!("{path} = {}", fs::read_to_string(entry.path()).unwrap()),
                _ => format!("{path} |"),
            }
        };
        walked.into_iter().map(|entry| line(entry.unwrap())).collect()
    }

    #[test]
    fn an_ordinary_archive_arrives_whole() {
        let bench = Bench::new();
        let context = bench
            .unpack(&[
                "dir ./",
                "dir ./a",
                "file ./a/f = text",
                "link ./a/l -> f",
                "hard ./h -> ./a/f",
                "fifo p",
                "file implied/parents/x = y",
            ])
            .unwrap();
        assert_eq!(
            listing(&context),
            ["a/", "a/f = text", "a/l -> f", "h = text", "implied/", "implied/parents/", "implied/parents/x = y", "p |"]
        );
        assert_eq!(context.newest_entry, Some(1_000_000_006));
        let metadata = |path: &str| fs::symlink_metadata(context.tree.path().join(path)).unwrap();
        assert_eq!((metadata("a").permissions().mode() & 0o7777, metadata("a").mtime()), (0o750, 1_000_000_001));
        assert_eq!((metadata("a/f").permissions().mode() & 0o7777, metadata("a/f").mtime()), (0o640, 1_000_000_002));
        assert_eq!(metadata("a/l").mtime(), 1_000_000_003);
        assert_eq!(metadata("h").ino(), metadata("a/f").ino());
        assert_eq!(fs::metadata(context.tree.path()).unwrap().permissions().mode() & 0o777, 0o700, "private");
        drop(context);
        assert_eq!(bench.left_over(), 0);
    }

    /// Security list 1.
    #[test]
    fn names_that_climb_are_refused_and_absolute_ones_stay_inside() {
        let bench = Bench::new();
        for name in ["../H", "a/../../H", "/../H", "a/b/../../../H", ".."] {
            let error = bench.unpack(&["dir a", &format!("file {name} = evil")]).unwrap_err();
            assert_eq!(error, format!("bad archive, entry `{name}`: leads out of the archive"));
            assert_eq!(bench.left_over(), 0);
        }
        let canary = bench.top.path().join("H");
        let context = bench.unpack(&[&format!("file {} = inside", canary.display()), "file a/../b = b"]).unwrap();
        assert_eq!(fs::read_to_string(context.tree.path().join(canary.strip_prefix("/").unwrap())).unwrap(), "inside");
        assert_eq!(fs::read_to_string(context.tree.path().join("b")).unwrap(), "b");
    }

    /// Security list 2.
    #[test]
    fn links_lead_back_to_the_root() {
        let bench = Bench::new();
        for target in ["/", "../../..", "..", "/../.."] {
            let context = bench.unpack(&[&format!("link d -> {target}"), "file d/H = inside", "dir d/e", "hard d/g -> d/H"]).unwrap();
            assert_eq!(listing(&context), ["H = inside", &format!("d -> {target}"), "e/", "g = inside"]);
        }
        // A file where a link is replaces the link, not what it points to.
        let outside = bench.top.path().join("H");
        let listed = |lines: &[&str]| listing(&bench.unpack(lines).unwrap());
        assert_eq!(listed(&[&format!("link f -> {}", outside.display()), "file f = mine"]), ["f = mine"]);
        assert_eq!(listed(&["dir real", "link d -> real", "dir d", "file d/x = x"]), ["d/", "d/x = x", "real/"]);
        assert!(bench.unpack(&["link d -> missing", "file d/x = x"]).is_err());
        assert!(bench.unpack(&["link d -> d", "file d/x = x"]).is_err());
        assert_eq!(bench.left_over(), 0);
    }

    /// Security list 3: the link of a Dockerfile in an archive is resolved inside it, and a broken one is an error, not a reason
    /// to look elsewhere.
    #[test]
    fn a_linked_dockerfile_never_leaves_the_archive() {
        let bench = Bench::new();
        let read = |lines: &[&str]| {
            let context = bench.unpack(lines).unwrap();
            let root = RootDir::open(context.tree.path()).unwrap();
            super::super::read_dockerfile_in(&root, None).map(|found| found.text).map_err(|error| error.to_string())
        };
        assert_eq!(read(&["file sub/D = FROM scratch", "link Dockerfile -> sub/D"]).unwrap(), "FROM scratch");
        let missing = "failed to read dockerfile: Dockerfile does not exist";
        for target in ["../../H", "/H", "sub/../../../H", "half/way"] {
            assert_eq!(read(&["dir half", &format!("link Dockerfile -> {target}")]).unwrap_err(), missing, "{target}");
        }
        assert!(read(&["dir Dockerfile"]).unwrap_err().contains("is a directory"));
        assert!(read(&["fifo Dockerfile"]).unwrap_err().contains("is a named pipe"));
        assert!(read(&["link Dockerfile -> Dockerfile"]).is_err());
    }

    /// Security list 4.
    #[test]
    fn hard_links_reach_entries_of_the_archive_only() {
        let bench = Bench::new();
        let outside = bench.top.path().join("H");
        let in_current_directory = "Cargo.toml";
        assert!(Path::new(in_current_directory).exists(), "the test needs a file in its current directory");
        for target in [outside.to_str().unwrap(), "../H", "../../H", in_current_directory, "/etc/passwd", "./missing"] {
            assert!(bench.unpack(&[&format!("hard h -> {target}")]).is_err(), "{target}");
        }
        let context = bench.unpack(&["link d -> /", "file f = one", "hard g -> /f", "hard i -> d/f", "file f = two"]).unwrap();
        assert_eq!(listing(&context), ["d -> /", "f = two", "g = one", "i = one"]);
        // A hard link to a link is that link, not what it points to.
        let context = bench.unpack(&[&format!("link l -> {}", outside.display()), "hard h -> l"]).unwrap();
        assert!(fs::symlink_metadata(context.tree.path().join("h")).unwrap().is_symlink());
    }

    #[test]
    fn the_newest_entry_is_found_without_unpacking() {
        let newest = |bytes: &[u8]| newest_entry(bytes, Limits::default()).unwrap();
        assert_eq!(newest(&archive(&["file a = x", "dir b", "file c = y"])), Some(1_000_000_002));
        assert_eq!(newest(&archive(&[])), None);
        assert_eq!(newest(b"FROM scratch"), None);
    }

    #[test]
    fn devices_are_left_out_and_named() {
        let bench = Bench::new();
        let context = bench.unpack(&["char dev/null", "file x = x"]).unwrap();
        assert_eq!(listing(&context), ["x = x"]);
        assert_eq!(context.skipped, [Path::new("dev/null")]);
    }

    /// Security list 9, the part of it that is ours.
    #[test]
    fn limits_and_truncation_end_cleanly() {
        let bench = Bench::new();
        let work = bench.top.path().join("work");
        let whole = archive(&["file a = 0123456789", "file b = 0123456789"]);
        for length in [1, 511, 513, 520, 1000, 1025, 1500, 1600] {
            assert!(unpack(&whole[..length], &work, Limits::default()).is_err(), "cut at {length}");
        }
        let limits = Limits { total_size: 19, ..Limits::default() };
        assert!(unpack(&whole[..], &work, limits).unwrap_err().to_string().contains("more than 19 bytes"));
        let limits = Limits { entries: 1, ..Limits::default() };
        assert!(unpack(&whole[..], &work, limits).unwrap_err().to_string().contains("more than 1 entries"));
        assert_eq!(bench.left_over(), 0);
    }

    #[test]
    fn stdin_is_an_archive_or_a_dockerfile() {
        let bench = Bench::new();
        let read = |bytes: &[u8]| match read_stream(bytes, "-", bench.top.path(), Limits::default()) {
            Ok(StreamContext::Archive(context)) => listing(&context).join(","),
            Ok(StreamContext::Dockerfile(text)) => format!("dockerfile {text}"),
            Err(error) => format!("error {error}"),
        };
        let plain = archive(&["file f = text"]);
        assert_eq!(read(&plain), "f = text");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        assert_eq!(read(&gzip.finish().unwrap()), "f = text");
        assert_eq!(read(&zstd::encode_all(&plain[..], 1).unwrap()), "f = text");
        assert_eq!(read(&[0; 1024]), "");
        assert_eq!(read(b"FROM scratch\n"), "dockerfile FROM scratch\n");
        assert_eq!(read(b""), "dockerfile ");
        let long = format!("FROM scratch\n#{}", "x".repeat(2000));
        assert_eq!(read(long.as_bytes()), format!("dockerfile {long}"));
        assert_eq!(read(b"\xff\xfe"), "error failed to read dockerfile: - is not UTF-8 text");
    }
}
