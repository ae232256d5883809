//! A directory that nothing below it can lead out of.
//!
//! Every path from an image, a tar, a context, a mount option or a git tree is opened here and nowhere else:
//! `openat2` with `RESOLVE_IN_ROOT`, so that absolute links and `..` stay inside as they would after a chroot. Where
//! `openat2` is refused (an old kernel, a seccomp filter), a walk with `O_NOFOLLOW` gives the same answers.
//! Unaware of why a path is opened.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// As many links as the kernel follows before it says ELOOP.
const MAX_LINKS: usize = 40;

static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// An open directory, the root of all paths given to it.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl RootDir {
    /// Opens a directory of our own by its path; never a path that came from outside.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Takes an open directory (or a detached mount) as root.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Opens `path` below the root; links are followed inside the root, the last one too unless `O_NOFOLLOW` is given.
    pub fn open_in(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            match self.open_by_kernel(path, flags, mode) {
                Err(Errno::NOSYS | Errno::PERM) if !openat2_works() => NO_OPENAT2.store(true, Ordering::Relaxed),
                result => return Ok(result?),
            }
        }
        self.open_by_walk(path, flags, mode)
    }

    fn open_by_kernel(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel answers EAGAIN when a rename anywhere raced with a `..`; trying again is what it asks for.
        for _ in 0..128 {
            match rustix::fs::openat2(&self.fd, relative(path), flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) => continue,
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The same as `open_by_kernel`, one component at a time.
    fn open_by_walk(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let mut stack: Vec<OwnedFd> = Vec::new();
        let mut pending: Vec<OsString> = components_reversed(path);
        let mut links = 0;
        if pending.is_empty() {
            return Ok(rustix::fs::openat(&self.fd, ".", flags | OFlags::CLOEXEC, mode)?);
        }
        while let Some(name) = pending.pop() {
            if name == ".." {
                stack.pop();
                if pending.is_empty() {
                    let at = stack.last().unwrap_or(&self.fd);
                    return Ok(rustix::fs::openat(at, ".", flags | OFlags::CLOEXEC, mode)?);
                }
                continue;
            }
            let at = stack.last().unwrap_or(&self.fd);
            let is_last = pending.is_empty();
            match read_link_at(at.as_fd(), &name) {
                Ok(target) if !is_last || !flags.contains(OFlags::NOFOLLOW) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        stack.clear();
                    }
                    pending.extend(components_reversed(&target));
                    if pending.is_empty() {
                        let at = stack.last().unwrap_or(&self.fd);
                        return Ok(rustix::fs::openat(at, ".", flags | OFlags::CLOEXEC, mode)?);
                    }
                }
                _ if is_last => return Ok(rustix::fs::openat(at, &*name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?),
                _ => {
                    let next = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let opened = rustix::fs::openat(at, &*name, next, Mode::empty())?;
                    stack.push(opened);
                }
            }
        }
        unreachable!("the last component returns")
    }

    /// Opens the directory that holds `path` and gives the last name; the last component itself is not followed.
    /// A path that ends in `..` or names the root has no last name and is refused.
    pub fn parent_in(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => name.to_owned(),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no entry", path.display()))),
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let fd = self.open_in(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok((fd, name))
    }

    /// Opens a directory below the root as a root of its own.
    pub fn sub_root(&self, path: &Path) -> io::Result<RootDir> {
        Ok(Self { fd: self.open_in(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())? })
    }

    /// Reads a regular file of at most `limit` bytes; a FIFO or device is refused, not waited for.
    pub fn read_in(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        use std::io::Read;
        let fd = self.open_in(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        let file = std::fs::File::from(fd);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a regular file", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} is larger than {limit} bytes", path.display())));
        }
        Ok(bytes)
    }
}

/// Whether the kernel has `openat2` at all, asked where nothing else can go wrong.
fn openat2_works() -> bool {
    rustix::fs::openat2(rustix::fs::CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
}

fn read_link_at(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(at, name, Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

/// `openat2` takes the root for an empty path only by another name.
fn relative(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// The components still to walk, next one last.
fn components_reversed(path: &Path) -> Vec<OsString> {
    let mut list: Vec<OsString> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect();
    list.reverse();
    list
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Opener = fn(&RootDir, &Path) -> io::Result<OwnedFd>;

    fn by_kernel(root: &RootDir, path: &Path) -> io::Result<OwnedFd> {
        Ok(root.open_by_kernel(path, OFlags::RDONLY, Mode::empty())?)
    }

    fn by_walk(root: &RootDir, path: &Path) -> io::Result<OwnedFd> {
        root.open_by_walk(path, OFlags::RDONLY, Mode::empty())
    }

    fn read(opened: io::Result<OwnedFd>) -> String {
        match opened {
            Ok(fd) => std::io::read_to_string(std::fs::File::from(fd)).unwrap_or_else(|error| error.kind().to_string()),
            Err(error) => error.kind().to_string(),
        }
    }

    #[test]
    fn kernel_and_walk_agree_and_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "outside").unwrap();
        let top = outside.path().join("root");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/b/file"), "inside").unwrap();
        std::fs::write(top.join("canary"), "decoy").unwrap();
        symlink("/a/b", top.join("absolute")).unwrap();
        symlink("../../../../a", top.join("a/climbing")).unwrap();
        symlink("/", top.join("slash")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        symlink("missing", top.join("dangling")).unwrap();
        let root = RootDir::open(&top).unwrap();
        let openers: [Opener; 2] = [by_kernel, by_walk];
        for open in openers {
            let text = |path: &str| read(open(&root, Path::new(path)));
            assert_eq!(text("a/b/file"), "inside");
            assert_eq!(text("/a/b/file"), "inside");
            assert_eq!(text("absolute/file"), "inside");
            assert_eq!(text("a/climbing/b/file"), "inside");
            assert_eq!(text("../canary"), "decoy");
            assert_eq!(text("slash/../../canary"), "decoy");
            assert_eq!(text("slash/slash/a/b/file"), "inside");
            assert_eq!(text("absolute/../../canary"), "decoy");
            assert_eq!(text("dangling"), "entity not found");
            assert_eq!(text("a/b/file/x"), "not a directory");
            assert!(open(&root, Path::new("loop")).is_err());
            assert!(open(&root, Path::new("..")).is_ok());
            assert!(open(&root, Path::new("slash")).is_ok());
        }
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("big"), [0; 100]).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, top.path().join("fifo"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        let root = RootDir::open(top.path()).unwrap();
        assert!(root.read_in(Path::new("big"), 99).is_err());
        assert_eq!(root.read_in(Path::new("big"), 100).unwrap().len(), 100);
        assert!(root.read_in(Path::new("fifo"), 100).is_err());
    }
}
