//! The files of an image: `type=tar` and `type=local`. Both read the merged tree as one stream of entries.
//!
//! A directory gets files of the caller's own, with modes and times but not owners, as `docker buildx` writes them;
//! what is there already stays unless something of the same name comes. Nothing below the destination is followed: a
//! link in the way is replaced. Unaware of manifests and configs.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};

use super::{
    destination::{FileDestination, Output, write_file},
    error::{ExportError, IoContext, Result},
    meter::Meter,
};
use crate::{
    oci::{
        Platform,
        tar::{Entry, EntryKind, Limits, TarReader, TarWriter, Timestamp},
    },
    snapshot::{TimestampPolicy, write_merged},
    sys::{
        remove::{remove_at, remove_tree},
        root::RootDir,
    },
};

/// The merged tree of one platform's image.
#[derive(Debug)]
pub struct RootfsTree {
    /// Names its directory when there are several.
    pub platform: Platform,
    /// The layers' directories, top first.
    pub layers: Vec<RootDir>,
    /// Every entry's time, in seconds since 1970; as in the layers if it is not given.
    pub epoch: Option<i64>,
    /// Files that are added beside those of the image, by name: statements about it.
    pub extra: Vec<(String, Vec<u8>)>,
}

/// Writes the files as a tar; with `split`, each platform in a directory such as `linux_arm_v7`.
pub fn write_rootfs_tar(trees: &[RootfsTree], split: bool, destination: FileDestination, meter: &Meter) -> Result<()> {
    let output = Output::open(destination, meter)?;
    let path = output.path();
    let mut tar = TarWriter::new(BufWriter::with_capacity(1 << 16, output));
    for tree in trees {
        tree.each_entry(split, |entry, content| {
            let found = tar.append(entry, content).at("write", &path)?;
            if entry.kind == EntryKind::File && found != entry.size {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).at("read", OsStr::from_bytes(&entry.path));
            }
            Ok(())
        })?;
        for (entry, bytes) in tree.extra_entries(split) {
            tar.append(&entry, &mut &bytes[..]).at("write", &path)?;
        }
    }
    let output = tar.finish().at("write", &path)?.into_inner().map_err(|error| error.into_error()).at("write", &path)?;
    output.finish()
}

/// Writes the files into a directory, made if it isn't there; with `split`, each platform in one below it. Returns the
/// paths of devices, which are left out: making them takes powers that a build doesn't have.
pub fn write_rootfs_directory(trees: &[RootfsTree], split: bool, path: &Path, meter: &Meter) -> Result<Vec<PathBuf>> {
    fs::DirBuilder::new().recursive(true).mode(0o777).create(path).at("create", path)?;
    let root = RootDir::open(path).at("open", path)?;
    let mut writer = DirectoryWriter { root, top: path, parent: None, directories: BTreeMap::new(), devices: Vec::new(), meter };
    for tree in trees {
        tree.each_entry(split, |entry, content| writer.write(entry, content))?;
    }
    let left_out = writer.finish()?;
    for (entry, bytes) in trees.iter().flat_map(|tree| tree.extra_entries(split)) {
        write_file(FileDestination::Path(path.join(OsStr::from_bytes(&entry.path))), bytes)?;
    }
    Ok(left_out)
}

/// Removes everything in a directory, whose own links are not followed; one that isn't there is empty.
pub fn empty_directory(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.at("list", path)?,
    };
    for entry in entries {
        let entry = entry.at("list", path)?;
        remove_tree(&entry.path()).at("remove", entry.path())?;
    }
    Ok(())
}

impl RootfsTree {
    fn extra_entries(&self, split: bool) -> impl Iterator<Item = (Entry, &[u8])> {
        let prefix = self.prefix(split);
        self.extra.iter().map(move |(name, bytes)| {
            let mtime = Timestamp { seconds: self.epoch.unwrap_or(0), nanoseconds: 0 };
            let (path, size) = (format!("{prefix}{name}").into_bytes(), bytes.len() as u64);
            let entry = Entry { path, kind: EntryKind::File, mode: 0o644, uid: 0, gid: 0, mtime, size, xattrs: Vec::new() };
            (entry, bytes.as_slice())
        })
    }

    fn prefix(&self, split: bool) -> String {
        if split { format!("{}/", self.platform.to_string().replace('/', "_")) } else { String::new() }
    }

    /// Calls `visit` with each entry, directories before what is in them.
    fn each_entry(
        &self,
        split: bool,
        mut visit: impl FnMut(&Entry, &mut TarReader<BufReader<io::PipeReader>>) -> Result<()>,
    ) -> Result<()> {
        let prefix = self.prefix(split);
        let (reader, writer) = io::pipe().at("make", "a pipe")?;
        std::thread::scope(|scope| {
            let producer =
                scope.spawn(move || write_merged(&self.layers, BufWriter::with_capacity(1 << 16, writer), TimestampPolicy::Keep));
            // Its own limits have been held when the layers were unpacked.
            let limits = Limits { entries: u64::MAX, total_size: u64::MAX, ..Limits::default() };
            // Takes the pipe along, and closes it: a producer whose consumer has failed must not wait for it.
            let consumed = self.consume(&prefix, TarReader::with_limits(BufReader::with_capacity(1 << 16, reader), limits), &mut visit);
            let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(ExportError::Snapshot);
            match (consumed, produced) {
                // Broken off because of the producer's own error, which says more.
                (Err(ExportError::Archive(_)), Err(error)) => Err(error),
                (Err(error), _) => Err(error),
                (Ok(()), produced) => produced.map(drop),
            }
        })
    }

    fn consume(
        &self,
        prefix: &str,
        mut tar: TarReader<BufReader<io::PipeReader>>,
        visit: &mut impl FnMut(&Entry, &mut TarReader<BufReader<io::PipeReader>>) -> Result<()>,
    ) -> Result<()> {
        if !prefix.is_empty() {
            visit(&self.prefix_entry(prefix), &mut tar)?;
        }
        while let Some(mut entry) = tar.next_entry()? {
            entry.path.splice(0..0, prefix.bytes());
            if let EntryKind::HardLink { target } = &mut entry.kind {
                target.splice(0..0, prefix.bytes());
            }
            if let Some(seconds) = self.epoch {
                entry.mtime = Timestamp { seconds, nanoseconds: 0 };
            }
            visit(&entry, &mut tar)?;
        }
        // To the very end, or the producer finds its pipe broken.
        Ok(tar.drain().map(drop)?)
    }

    fn prefix_entry(&self, prefix: &str) -> Entry {
        let mtime = Timestamp { seconds: self.epoch.unwrap_or(0), nanoseconds: 0 };
        Entry { path: prefix.into(), kind: EntryKind::Directory, mode: 0o755, uid: 0, gid: 0, mtime, size: 0, xattrs: Vec::new() }
    }
}

struct DirectoryWriter<'a> {
    root: RootDir,
    /// For messages.
    top: &'a Path,
    /// The last entry's directory: entries come in walk order.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Modes and times, set last: what is put into a directory needs the one and changes the other.
    directories: BTreeMap<PathBuf, (u32, Timestamp)>,
    devices: Vec<PathBuf>,
    meter: &'a Meter,
}

impl DirectoryWriter<'_> {
    fn write(&mut self, entry: &Entry, content: &mut TarReader<impl Read>) -> Result<()> {
        let path = PathBuf::from(OsStr::from_bytes(&entry.path));
        let message_path = self.top.join(&path);
        self.create(entry, &path, content).at("write", message_path)
    }

    fn create(&mut self, entry: &Entry, path: &Path, content: &mut TarReader<impl Read>) -> io::Result<()> {
        let Some(name) = path.file_name().map(OsStr::to_owned) else { return Ok(()) };
        let parent = self.parent_of(path.parent().unwrap_or(Path::new("")))?;
        match &entry.kind {
            EntryKind::Directory => {
                make_directory(&parent, &name)?;
                self.directories.insert(path.to_owned(), (entry.mode, entry.mtime));
            }
            EntryKind::File => {
                clear(&parent, &name)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(&parent, &*name, flags, Mode::from_raw_mode(0o600))?);
                content.extract_to(&file)?;
                self.meter.add(entry.size);
                rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode & 0o7777))?;
                rustix::fs::futimens(&file, &times(entry.mtime))?;
            }
            EntryKind::Symlink { target } => {
                clear(&parent, &name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, &*name)?;
                rustix::fs::utimensat(&parent, &*name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryKind::HardLink { target } => {
                clear(&parent, &name)?;
                let (from, target) = self.root.parent_in(Path::new(OsStr::from_bytes(target)))?;
                rustix::fs::linkat(from, &*target, &parent, &*name, AtFlags::empty())?;
            }
            EntryKind::Fifo => {
                clear(&parent, &name)?;
                rustix::fs::mknodat(&parent, &*name, FileType::Fifo, Mode::from_raw_mode(entry.mode & 0o7777), 0)?;
            }
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => self.devices.push(path.to_owned()),
        }
        self.parent = Some((path.parent().unwrap_or(Path::new("")).to_owned(), parent));
        Ok(())
    }

    /// An entry's directory; all of its components have been made as directories before, none is a link.
    fn parent_of(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match self.parent.take() {
            Some((known, fd)) if known == path => Ok(fd),
            _ => self.root.open_in(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()),
        }
    }

    fn finish(self) -> Result<Vec<PathBuf>> {
        for (path, (mode, mtime)) in self.directories.iter().rev() {
            let set = || -> io::Result<()> {
                let directory = self.root.open_in(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode & 0o7777))?;
                Ok(rustix::fs::futimens(&directory, &times(*mtime))?)
            };
            set().at("set the attributes of", self.top.join(path))?;
        }
        Ok(self.devices)
    }
}

fn make_directory(parent: &OwnedFd, name: &OsString) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, &**name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        result => return Ok(result?),
    }
    let stat = rustix::fs::statat(parent, &**name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(());
    }
    clear(parent, name)?;
    Ok(rustix::fs::mkdirat(parent, &**name, Mode::RWXU)?)
}

/// Takes away whatever has the name.
fn clear(parent: &OwnedFd, name: &OsString) -> io::Result<()> {
    let name = std::ffi::CString::new(name.as_bytes())?;
    match rustix::fs::unlinkat(parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(_) => remove_at(parent.as_fd(), &name),
    }
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn tree(top: &Path, platform: &str, epoch: Option<i64>) -> RootfsTree {
        let layer = top.join(platform.replace('/', "-"));
        fs::create_dir_all(layer.join("d/closed")).unwrap();
        fs::write(layer.join("d/file"), platform).unwrap();
        fs::set_permissions(layer.join("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(layer.join("d/file"), layer.join("d/link")).unwrap();
        symlink("/etc/passwd", layer.join("d/symlink")).unwrap();
        fs::set_permissions(layer.join("d/closed"), fs::Permissions::from_mode(0o500)).unwrap();
        RootfsTree { platform: platform.parse().unwrap(), layers: vec![RootDir::open(&layer).unwrap()], epoch, extra: Vec::new() }
    }

    fn names(path: &Path) -> Vec<String> {
        let mut reader = TarReader::new(File::open(path).unwrap());
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    }

    #[test]
    fn a_directory_gets_the_files_and_keeps_what_it_has() {
        let top = tempfile::tempdir().unwrap();
        let tree = tree(top.path(), "linux/amd64", Some(1_000));
        let dest = top.path().join("new/dest");
        for _ in 0..2 {
            assert_eq!(
                write_rootfs_directory(std::slice::from_ref(&tree), false, &dest, &Meter::default()).unwrap(),
                Vec::<PathBuf>::new()
            );
            fs::write(dest.join("kept"), "kept").unwrap();
        }
        let file = fs::symlink_metadata(dest.join("d/file")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.mtime(), file.nlink()), (0o4751, 1_000, 2));
        assert_eq!(fs::read_to_string(dest.join("d/link")).unwrap(), "linux/amd64");
        assert_eq!(fs::read_link(dest.join("d/symlink")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::metadata(dest.join("d/closed")).unwrap().mode() & 0o777, 0o500);
        assert_eq!(fs::metadata(dest.join("d")).unwrap().mtime(), 1_000);
        assert_eq!(fs::read_to_string(dest.join("kept")).unwrap(), "kept");
    }

    #[test]
    fn a_directory_is_emptied_and_links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let dest = top.path().join("dest");
        fs::create_dir_all(dest.join("d/e")).unwrap();
        fs::write(top.path().join("outside"), "kept").unwrap();
        symlink("../outside", dest.join("link")).unwrap();
        empty_directory(&dest).unwrap();
        assert_eq!(fs::read_dir(&dest).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(top.path().join("outside")).unwrap(), "kept");
        empty_directory(&top.path().join("missing")).unwrap();
    }

    #[test]
    fn links_in_the_destination_are_replaced_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let tree = tree(top.path(), "linux/amd64", None);
        let outside = top.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let dest = top.path().join("dest");
        fs::create_dir(&dest).unwrap();
        symlink(&outside, dest.join("d")).unwrap();
        write_rootfs_directory(std::slice::from_ref(&tree), false, &dest, &Meter::default()).unwrap();
        assert!(fs::symlink_metadata(dest.join("d")).unwrap().is_dir());
        fs::remove_file(dest.join("d/file")).unwrap();
        symlink(outside.join("file"), dest.join("d/file")).unwrap();
        fs::remove_file(dest.join("d/link")).unwrap();
        fs::create_dir_all(dest.join("d/link/full")).unwrap();
        write_rootfs_directory(std::slice::from_ref(&tree), false, &dest, &Meter::default()).unwrap();
        assert!(fs::symlink_metadata(dest.join("d/link")).unwrap().is_file());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn platforms_are_kept_apart() {
        let top = tempfile::tempdir().unwrap();
        let trees = [tree(top.path(), "linux/amd64", None), tree(top.path(), "linux/arm/v7", None)];
        let path = top.path().join("out.tar");
        write_rootfs_tar(&trees, true, FileDestination::Path(path.clone()), &Meter::default()).unwrap();
        let found = names(&path);
        let inside: Vec<_> = found.iter().filter_map(|name| name.strip_prefix("linux_arm_v7/")).collect();
        assert_eq!(inside, ["", "d/", "d/closed/", "d/file", "d/link", "d/symlink"]);
        assert_eq!(found.len(), 12);
        let dest = top.path().join("dest");
        write_rootfs_directory(&trees, true, &dest, &Meter::default()).unwrap();
        assert_eq!(fs::read_to_string(dest.join("linux_arm_v7/d/link")).unwrap(), "linux/arm/v7");
        assert_eq!(fs::read_to_string(dest.join("linux_amd64/d/file")).unwrap(), "linux/amd64");
    }

    #[test]
    fn the_same_tree_gives_the_same_tar() {
        let tars = [(), ()].map(|()| {
            let top = tempfile::tempdir().unwrap();
            let tree = tree(top.path(), "linux/amd64", Some(5));
            let path = top.path().join("out.tar");
            write_rootfs_tar(&[tree], false, FileDestination::Path(path.clone()), &Meter::default()).unwrap();
            fs::read(path).unwrap()
        });
        assert!(tars[0] == tars[1]);
    }
}
