//! The step's own mounts: each source becomes a detached mount first, then all are attached, parents before children.
//! Unaware of the root's own file systems and of what a step does.

use std::{
    ffi::OsStr,
    fs::{File, Permissions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    mount::MountAttrFlags,
};

use super::{
    outcome::InitError,
    spec::{Mount, MountKind, Source},
    stubs::{Shape, Stubs},
};
use crate::sys::{
    mountns::{self, Upper},
    recorded,
    root::RootDir,
};

/// A mount that only lacks its place.
#[derive(Debug)]
pub struct Prepared {
    target: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Tree(OwnedFd, Shape),
    /// Made when the mode of its mount point is known.
    Tmpfs {
        size_bytes: Option<u64>,
        read_only: bool,
    },
}

/// The mounts in the order of mounting; of several with one target the last one counts.
pub fn in_order(mounts: &[Mount]) -> Result<Vec<(PathBuf, &MountKind)>, InitError> {
    let mut sorted: Vec<(PathBuf, &MountKind)> = Vec::new();
    for mount in mounts {
        let target = clean(&mount.target);
        sorted.retain(|(other, _)| *other != target);
        sorted.push((target, &mount.kind));
    }
    sorted.sort_by_key(|(target, _)| target.components().count());
    match sorted.iter().find(|(target, _)| target == Path::new("/")) {
        Some((target, _)) => Err(refuse(target, "invalid mount target")),
        None => Ok(sorted),
    }
}

/// Opens all sources. The result is in the order of mounting.
pub fn prepare(mounts: &[Mount], staging: &OwnedFd) -> Result<Vec<Prepared>, InitError> {
    let mut prepared = Vec::new();
    let mut memory = Memory { staging, root: None, count: 0 };
    for (target, kind) in in_order(mounts)? {
        let content = content_of(kind, staging, &mut memory).map_err(|error| refuse(&target, error))?;
        prepared.push(Prepared { target, content });
    }
    Ok(prepared)
}

/// Attaches the prepared mounts below `root`.
pub fn attach_all(prepared: Vec<Prepared>, root: &RootDir, stubs: &mut Stubs) -> Result<(), InitError> {
    for Prepared { target, content } in prepared {
        attach_one(&target, content, root, stubs).map_err(|error| refuse(&target, error))?;
    }
    Ok(())
}

fn attach_one(target: &Path, content: Content, root: &RootDir, stubs: &mut Stubs) -> io::Result<()> {
    let shape = match &content {
        Content::Tree(_, shape) => *shape,
        Content::Tmpfs { .. } => Shape::Directory,
    };
    let is_new = root.open_in(target, OFlags::PATH, Mode::empty()).is_err();
    let at = stubs.open_or_make(root, target, shape)?;
    const KERNEL: [i64; 2] = [0x9fa0, 0x6265_6572];
    if KERNEL.contains(&mountns::filesystem_magic(&at)?) {
        return Err(io::Error::other("nothing is mounted inside /proc or /sys"));
    }
    let mount = match content {
        Content::Tree(mount, _) => mount,
        Content::Tmpfs { size_bytes, read_only } => new_tmpfs((!is_new).then_some(&at), size_bytes, read_only)?,
    };
    mountns::attach(mount, at)
}

/// As BuildKit does it, a tmpfs takes the mode of the directory that it covers; where there was none, it is everybody's.
fn new_tmpfs(covered: Option<&OwnedFd>, size_bytes: Option<u64>, read_only: bool) -> io::Result<OwnedFd> {
    let mode = covered.map_or(Ok(0o1777), |at| rustix::fs::fstat(at).map(|stat| stat.st_mode & 0o7777))?;
    let mode = format!("{mode:o}");
    let size = size_bytes.map(|bytes| bytes.to_string());
    let mut options = vec![("mode", mode.as_str())];
    options.extend(size.as_deref().map(|size| ("size", size)));
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    mountns::new_filesystem("tmpfs", &options, attributes)
}

fn content_of(kind: &MountKind, staging: &OwnedFd, memory: &mut Memory<'_>) -> io::Result<Content> {
    const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
    match kind {
        MountKind::Tmpfs { size_bytes, read_only } => Ok(Content::Tmpfs { size_bytes: *size_bytes, read_only: *read_only }),
        MountKind::Bind { source, subpath, read_only } => {
            let (tree, shape) = take(source, subpath, staging)?;
            if *read_only {
                mountns::add_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
            }
            Ok(Content::Tree(tree, shape))
        }
        MountKind::Discard { source, subpath, scratch } => discard(source, subpath, scratch.as_deref(), staging),
        MountKind::Secret { bytes, mode, uid, gid } => {
            let file = memory.file(bytes, *mode, (*uid, *gid))?;
            let attributes = HARMLESS | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
            mountns::add_attributes(&file, attributes, false)?;
            Ok(Content::Tree(file, Shape::File))
        }
        MountKind::File { bytes, mode } => {
            let file = memory.file(bytes, *mode, (0, 0))?;
            mountns::add_attributes(&file, HARMLESS | MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
            Ok(Content::Tree(file, Shape::File))
        }
        MountKind::Ssh { .. } => Err(io::Error::other("an ssh mount is made by rbuild itself")),
        MountKind::Moved { .. } => Err(io::Error::other("what is moved is for the `chroot` rung")),
    }
}

/// A detached copy of what `subpath` means inside `source`: the very file or directory that was resolved is mounted.
fn take(source: &Source, subpath: &Path, staging: &OwnedFd) -> io::Result<(OwnedFd, Shape)> {
    match source {
        Source::Directory(path) => take_from(&RootDir::open(path)?, subpath),
        Source::Overlay(lowers) => match lowers.as_slice() {
            [single] => take_from(&RootDir::open(single)?, subpath),
            _ => on_staging(staging, read_only_overlay(lowers, staging)?, |root| take_from(root, subpath)),
        },
    }
}

fn take_from(root: &RootDir, subpath: &Path) -> io::Result<(OwnedFd, Shape)> {
    let found = root.open_in(subpath, OFlags::PATH, Mode::empty()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), format!("\"{}\": not found", rooted(subpath).display())),
        _ => error,
    })?;
    let shape = match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::Directory => Shape::Directory,
        _ => Shape::File,
    };
    Ok((mountns::clone_tree(found)?, shape))
}

fn read_only_overlay(lowers: &[PathBuf], staging: &OwnedFd) -> io::Result<OwnedFd> {
    let opened = open_all(lowers)?;
    let lowers: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    mountns::overlay_on(&path_of(staging)?, &lowers, None, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// What `subpath` means in an overlay over the whole source, whose upper directory nobody keeps.
fn discard(source: &Source, subpath: &Path, scratch: Option<&Path>, staging: &OwnedFd) -> io::Result<Content> {
    let lowers = match source {
        Source::Directory(path) => std::slice::from_ref(path),
        Source::Overlay(lowers) => lowers,
    };
    let make = |scratch: &RootDir| on_staging(staging, overlay_over(lowers, scratch, staging)?, |root| take_from(root, subpath));
    let (tree, shape) = match scratch {
        Some(scratch) => make(&RootDir::open(scratch)?)?,
        None => on_staging(staging, mountns::new_filesystem("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())?, make)?,
    };
    Ok(Content::Tree(tree, shape))
}

fn overlay_over(lowers: &[PathBuf], scratch: &RootDir, staging: &OwnedFd) -> io::Result<OwnedFd> {
    let opened = open_all(lowers)?;
    let lowers: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    let make = |name: &str| -> io::Result<PathBuf> {
        rustix::fs::mkdirat(scratch.as_fd(), name, Mode::from_raw_mode(0o755))?;
        Ok(fd_path(scratch.as_fd()).join(name))
    };
    let (upper, work) = (make("upper")?, make("work")?);
    if let Some(lower) = lowers.first() {
        // The merged root shows the upper directory's attributes.
        let stat = rustix::fs::fstat(lower)?;
        recorded::give(&upper, stat.st_uid, stat.st_gid)?;
        std::fs::set_permissions(&upper, Permissions::from_mode(stat.st_mode & 0o7777))?;
    }
    let upper = Some(Upper { upper: &upper, work: &work, volatile: true });
    mountns::overlay_on(&path_of(staging)?, &lowers, upper, MountAttrFlags::empty())
}

/// Where a directory of ours is: the path of its descriptor would not lead to what is mounted there.
fn path_of(directory: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(fd_path(directory.as_fd()))
}

fn open_all(paths: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    paths.iter().map(|path| mountns::open_directory(path)).collect()
}

fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Where the files of a step lie that are on no disk: one tmpfs, of which nobody sees more than the mounts of its files; it
/// is gone with the last process of the step.
struct Memory<'a> {
    staging: &'a OwnedFd,
    /// Mounted on `staging`, for clones can only be taken of what is mounted.
    root: Option<RootDir>,
    count: usize,
}

impl Memory<'_> {
    /// A file as a detached mount.
    fn file(&mut self, bytes: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<OwnedFd> {
        let name = self.count.to_string();
        self.count += 1;
        let root = self.root()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(root.as_fd(), &name, flags, Mode::RUSR)?);
        file.write_all(bytes)?;
        // Owner first: chown clears the special bits that the mode may set.
        recorded::give_at(root.as_fd(), OsStr::new(&name), owner.0, owner.1)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        mountns::clone_tree(rustix::fs::openat(root.as_fd(), &name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn root(&mut self) -> io::Result<&RootDir> {
        let root = match self.root.take() {
            Some(root) => root,
            None => {
                let tmpfs = mountns::new_filesystem("tmpfs", &[("mode", "0700")], MountAttrFlags::empty())?;
                mountns::attach(&tmpfs, self.staging)?;
                RootDir::from_fd(tmpfs)
            }
        };
        Ok(self.root.insert(root))
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        let _ = self.root.take().map(|root| mountns::detach(root.as_fd()));
    }
}

/// Clones can only be taken of what is mounted: `mount` is, on `staging`, while `work` runs.
fn on_staging<T>(staging: &OwnedFd, mount: OwnedFd, work: impl FnOnce(&RootDir) -> io::Result<T>) -> io::Result<T> {
    mountns::attach(&mount, staging)?;
    let root = RootDir::from_fd(mount);
    let result = work(&root);
    mountns::detach(root.as_fd())?;
    result
}

fn refuse(target: &Path, reason: impl std::fmt::Display) -> InitError {
    InitError::Mount { target: target.display().to_string(), reason: reason.to_string() }
}

fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// The path as words: no `.`, `..` resolved without looking at links, absolute.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_cleaned_before_they_are_compared() {
        for (path, expected) in [("/a/./b/", "/a/b"), ("a/../../b", "/b"), ("/", "/"), ("//x//y", "/x/y")] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
