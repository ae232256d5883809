//! One entry from a source to its place: content, then owner, mode, time and attributes.
//! Unaware of which entries are chosen.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, Timespec, Timestamps, UTIME_NOW},
    io::Errno,
};

use super::{CopyError, CopyReport, Source, SourceRoot, Style, crew::Usage, error::Context, shown, view::View};
use crate::snapshot::{
    Ownership,
    disk::{self, Device},
    layered::{
        Body, Directory, FileSource, Kind, LastPath, LayeredRoot, Metadata, NewEntry, Timestamp, needs_directory, set_owner, set_times,
        timespec, xattrs,
    },
};

/// How entries are written: what all threads of a copy share.
pub(crate) struct Pen<'a> {
    style: Style<'a>,
    root: &'a LayeredRoot,
    skips_xattr: fn(&[u8]) -> bool,
    /// Until the file system says that it can't share blocks.
    clones: AtomicBool,
    /// The root of the source.
    top: Arc<Directory>,
    last_source: LastPath,
}

/// One entry on its way: what it is, and the name it will have.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'e> {
    pub(crate) source: &'e Directory,
    pub(crate) source_name: &'e OsStr,
    pub(crate) metadata: &'e Metadata,
    pub(crate) target: &'e Directory,
    pub(crate) name: &'e OsStr,
}

impl Entry<'_> {
    /// Where it goes, for messages.
    fn place(&self) -> PathBuf {
        shown(self.target, self.name)
    }
}

/// Writes entries of one match; knows which inodes it has written already.
pub(crate) struct Writer<'a, 'r> {
    pub(crate) pen: &'a Pen<'a>,
    pub(crate) view: &'a View<'a>,
    written: HashMap<(u64, u64), PathBuf>,
    report: &'r mut CopyReport,
}

impl<'a, 'r> Writer<'a, 'r> {
    pub(crate) fn new(pen: &'a Pen<'a>, view: &'a View<'a>, report: &'r mut CopyReport) -> Self {
        Self { pen, view, written: HashMap::new(), report }
    }

    pub(crate) fn count_entry(&mut self) {
        self.report.entries += 1;
    }

    pub(crate) fn count_file(&mut self, metadata: &Metadata) {
        self.report.entries += 1;
        self.report.bytes += metadata.size;
    }

    pub(crate) fn count_usage(&mut self, (user_us, system_us): Usage) {
        self.report.helpers_us.0 += user_us;
        self.report.helpers_us.1 += system_us;
    }

    /// Copies anything but a directory; what has its name makes way.
    pub(crate) fn copy(&mut self, entry: Entry<'_>) -> Result<(), CopyError> {
        let metadata = entry.metadata;
        if metadata.kind != Kind::File {
            self.report.entries += 1;
            return self.pen.copy(entry);
        }
        if metadata.links > 1 {
            let inode = (metadata.device, metadata.inode);
            if let Some(first) = self.written.get(&inode) {
                self.report.entries += 1;
                return self.pen.link(first, entry);
            }
            self.written.insert(inode, entry.target.path().join(entry.name));
        }
        self.count_file(metadata);
        self.pen.copy(entry)
    }
}

impl<'a> Pen<'a> {
    pub(crate) fn new(root: &'a LayeredRoot, style: Style<'a>, view: &View<'_>) -> Self {
        let (skips_xattr, top) = (view.xattr_rule(), view.top().clone());
        Self { style, root, skips_xattr, clones: AtomicBool::new(true), top, last_source: LastPath::default() }
    }

    /// Whether nothing is written but what there is to be written.
    pub(crate) fn is_sketch(&self) -> bool {
        self.root.is_sketch()
    }

    /// Copies what is not written yet; what has its name makes way.
    pub(crate) fn copy(&self, entry: Entry<'_>) -> Result<(), CopyError> {
        self.make_way(entry)?;
        let copied = if self.is_sketch() { self.sketch(entry) } else { self.write(entry) };
        copied.while_doing("copy to", entry.place())
    }

    /// Notes what an entry will be.
    fn sketch(&self, Entry { source, source_name, metadata, target, name }: Entry<'_>) -> io::Result<()> {
        let sketch = target.sketched()?.ok_or_else(needs_directory)?;
        let (kind, body) = match metadata.kind {
            Kind::File => {
                let directory = self.last_source.share(source.path());
                let source = FileSource { top: self.top.clone(), directory, name: source_name.to_owned() };
                (Kind::File, Body::Source(source, metadata.size))
            }
            // A socket means nothing without the process that listens on it.
            Kind::Socket => (Kind::File, Body::Bytes(Vec::new())),
            Kind::Symlink => (Kind::Symlink, Body::Target(source.read_link(source_name)?.into_encoded_bytes())),
            Kind::Fifo => (Kind::Fifo, Body::Nothing),
            Kind::CharDevice | Kind::BlockDevice | Kind::Directory => return Err(needs_directory()),
        };
        let mode = if kind == Kind::Symlink { 0o777 } else { self.style.apply_mode(metadata.mode, false) };
        let owner = self.style.owner.unwrap_or((metadata.uid, metadata.gid));
        let modified = Some(self.style.time.unwrap_or(metadata.modified));
        sketch.put(name, NewEntry { kind, mode, owner, modified, body })
    }

    /// Gives a directory that all is in what the source's looks like, or its time alone.
    pub(crate) fn finish_directory(&self, source: &Directory, metadata: &Metadata, target: &Directory, everything: bool) -> io::Result<()> {
        if !everything {
            return self.date(metadata, target);
        }
        let Some(sketch) = target.sketched()? else {
            let upper = target.upper()?;
            self.finish(metadata, upper)?;
            if let Ok(from) = source.fd() {
                self.copy_xattrs(from, upper);
            }
            return Ok(());
        };
        let (uid, gid) = self.style.owner.unwrap_or((metadata.uid, metadata.gid));
        target.set_owner(uid, gid, self.root.ownership())?;
        target.set_mode(self.style.apply_mode(metadata.mode, true))?;
        if let Ok(from) = source.fd() {
            sketch.add_xattrs(xattrs::read(from, self.skips_xattr));
        }
        self.date(metadata, target)
    }

    /// Gives a directory the source's time.
    pub(crate) fn date(&self, metadata: &Metadata, target: &Directory) -> io::Result<()> {
        let accessed = self.style.time.unwrap_or(metadata.accessed);
        target.set_times(accessed, self.style.time.unwrap_or(metadata.modified))
    }

    /// Whether an entry that is no directory may take the name, and copies go on at all.
    fn make_way(&self, entry: Entry<'_>) -> Result<(), CopyError> {
        if !entry.target.is_no_directory(entry.name).while_doing("lstat", entry.place())? {
            return Err(CopyError::ReplacesDirectory { path: entry.place() });
        }
        self.root.check_stop().while_doing("copy to", entry.place())
    }

    /// A second name for a file that is written.
    fn link(&self, first: &Path, entry: Entry<'_>) -> Result<(), CopyError> {
        self.make_way(entry)?;
        let Entry { target, name, .. } = entry;
        if let Some(sketch) = target.sketched().while_doing("copy to", entry.place())? {
            return sketch.link(first, name).while_doing("copy to", entry.place());
        }
        let top = self.root.top().upper();
        let linked = top.and_then(|top| target.make_in_upper(name, |at| rustix::fs::linkat(top, first, at, name, AtFlags::empty())));
        linked.while_doing("copy to", entry.place())
    }

    fn write(&self, entry: Entry<'_>) -> io::Result<()> {
        let Entry { source, source_name, metadata, target, name } = entry;
        match metadata.kind {
            Kind::File => self.write_file(entry),
            Kind::Symlink => {
                target.make_symlink(name, &source.read_link(source_name)?)?;
                self.finish_at(metadata, target, name)
            }
            Kind::Fifo => target.make_fifo(name).and_then(|()| self.finish_at(metadata, target, name)),
            Kind::CharDevice | Kind::BlockDevice => self.write_device(metadata, target, name),
            Kind::Socket => target.create_file(name).and_then(|file| self.finish(metadata, file.as_fd())),
            Kind::Directory => Err(Errno::ISDIR.into()),
        }
    }

    fn write_file(&self, Entry { source, source_name, metadata, target, name }: Entry<'_>) -> io::Result<()> {
        let from = source.open_file(source_name)?;
        let mut to = target.create_file(name)?;
        self.copy_content(&from, &mut to, metadata.size)?;
        self.finish(metadata, to.as_fd())?;
        self.copy_xattrs(from.as_fd(), to.as_fd());
        Ok(())
    }

    /// Clones the blocks where the file system can, else lets the kernel copy them, else copies them here.
    fn copy_content(&self, from: &File, to: &mut File, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        if self.clones.load(Ordering::Relaxed) {
            match rustix::fs::ioctl_ficlone(&*to, from) {
                Ok(()) => return Ok(()),
                Err(_) => self.clones.store(false, Ordering::Relaxed),
            }
        }
        copy_bytes(from, to, size)
    }

    /// Makes the node, or the placeholder for it.
    fn write_device(&self, metadata: &Metadata, target: &Directory, name: &OsStr) -> io::Result<()> {
        let is_block = metadata.kind == Kind::BlockDevice;
        let kind = if is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        if target.make_device(name, kind, metadata.rdev, self.root.is_overlay())? {
            return self.finish_at(metadata, target, name);
        }
        let file = target.create_file(name)?;
        let (major, minor) = (rustix::fs::major(metadata.rdev), rustix::fs::minor(metadata.rdev));
        disk::set_device(&file, Device { is_block, major, minor })?;
        self.finish(metadata, file.as_fd())
    }

    /// After the owner is set, which takes capabilities away; an owner written down gives way to `--chown`.
    fn copy_xattrs(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
        let given = self.style.owner.is_some();
        xattrs::copy(from, to, |name| (self.skips_xattr)(name) || (given && name == xattrs::OWNER));
    }

    /// Owner and mode, then the time, which nothing may change after.
    fn finish(&self, metadata: &Metadata, to: BorrowedFd<'_>) -> io::Result<()> {
        match self.style.owner {
            // Owners that are written down came along with the attributes.
            None if self.root.ownership() == Ownership::Record => {}
            owner => {
                let (uid, gid) = owner.unwrap_or((metadata.uid, metadata.gid));
                set_owner(to, uid, gid, self.root.ownership())?;
            }
        }
        let mode = self.style.apply_mode(metadata.mode, metadata.is_directory());
        rustix::fs::fchmod(to, Mode::from_raw_mode(mode))?;
        self.set_time(metadata, to)
    }

    fn set_time(&self, metadata: &Metadata, to: BorrowedFd<'_>) -> io::Result<()> {
        let accessed = self.style.time.unwrap_or(metadata.accessed);
        set_times(to, accessed, self.style.time.unwrap_or(metadata.modified))
    }

    /// The same for what cannot be opened: links and nodes.
    fn finish_at(&self, metadata: &Metadata, target: &Directory, name: &OsStr) -> io::Result<()> {
        let at = target.upper()?;
        let (uid, gid) = self.style.owner.unwrap_or((metadata.uid, metadata.gid));
        disk::keep_owner_at(at, name, uid, gid, self.root.ownership())?;
        if metadata.kind != Kind::Symlink {
            let mode = self.style.apply_mode(metadata.mode, false);
            rustix::fs::chmodat(at, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        let time = |own: Timestamp| timespec(self.style.time.unwrap_or(own));
        let times = Timestamps { last_access: time(metadata.accessed), last_modification: time(metadata.modified) };
        Ok(rustix::fs::utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn copy_bytes(from: &File, to: &mut File, size: u64) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let chunk = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
        match rustix::fs::copy_file_range(from, None, &*to, None, chunk) {
            // The file has become shorter since it was looked at.
            Ok(0) => return Ok(()),
            Ok(copied) => left -= copied as u64,
            Err(Errno::INTR) => {}
            Err(_) if left == size => return io::copy(&mut from.take(size), to).map(drop),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes a heredoc or a download.
pub(crate) fn write_single(
    source: &Source<'_>,
    style: &Style<'_>,
    target: &Arc<Directory>,
    name: &OsString,
    ownership: Ownership,
    report: &mut CopyReport,
) -> Result<(), CopyError> {
    let path = shown(target, name);
    if !target.is_no_directory(name).while_doing("lstat", &path)? {
        return Err(CopyError::ReplacesDirectory { path });
    }
    if let Some(sketch) = target.sketched().while_doing("create", &path)? {
        let SourceRoot::Bytes { bytes, .. } = source.root else { return Err(needs_directory()).while_doing("create", &path) };
        (report.bytes, report.entries) = (report.bytes + bytes.len() as u64, report.entries + 1);
        let (owner, mode) = (style.owner.unwrap_or((0, 0)), style.apply_mode(0o644, false));
        let modified = style.time.or(style.made_time);
        let entry = NewEntry { kind: Kind::File, mode, owner, modified, body: Body::Bytes(bytes.to_vec()) };
        return sketch.put(name, entry).while_doing("create", &path);
    }
    let mut to = target.create_file(name).while_doing("create", &path)?;
    let (written, mode, time) = match &source.root {
        SourceRoot::Bytes { bytes, .. } => (to.write_all(bytes).map(|()| bytes.len() as u64), 0o644, style.made_time),
        SourceRoot::File { file, mode, modified, .. } => (copy_all(file, &mut to), *mode, Some(*modified)),
        SourceRoot::Context { .. } | SourceRoot::Layers(_) | SourceRoot::Checkout(_) => unreachable!("trees are not single files"),
    };
    report.bytes += written.while_doing("write", &path)?;
    report.entries += 1;
    finish_single(&to, style, mode, time, ownership).while_doing("write", &path)
}

fn copy_all(file: &File, to: &mut File) -> io::Result<u64> {
    let mut from = file;
    from.rewind()?;
    let size = file.metadata()?.len();
    copy_bytes(file, to, size)?;
    Ok(size)
}

fn finish_single(to: &File, style: &Style<'_>, mode: u32, time: Option<Timestamp>, ownership: Ownership) -> io::Result<()> {
    let (uid, gid) = style.owner.unwrap_or((0, 0));
    set_owner(to.as_fd(), uid, gid, ownership)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(style.apply_mode(mode, false)))?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let time = style.time.or(time).map_or(now, timespec);
    Ok(rustix::fs::futimens(to, &Timestamps { last_access: time, last_modification: time })?)
}
