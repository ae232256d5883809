//! A walk through a directory tree, in order of names, that no link and no rename can lead out of the tree.
//!
//! Each directory is opened relative to its parent's descriptor with `O_NOFOLLOW`, and what is reported about it is what
//! its own descriptor says, so a directory swapped for a link between two calls is seen as a link or not at all.
//! Unaware of why a tree is walked.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
};

/// Descriptors held at once; deeper trees close the upper ones and open them again on the way back.
const MAX_OPEN_DIRECTORIES: usize = 128;

/// What to do with a name before the kernel is asked anything about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Report it, and what is below it.
    Take,
    /// Do not report it; if it is a directory, ask again for what is below it.
    Descend,
    /// Nothing of it and nothing below it.
    Skip,
}

/// One thing found.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Relative to the root of the walk.
    pub path: &'a Path,
    /// What the kernel says about it, links not followed.
    pub stat: &'a Stat,
    /// The directory that holds it, to open `name` in.
    pub parent: BorrowedFd<'a>,
    /// Its name in `parent`.
    pub name: &'a CStr,
}

impl Entry<'_> {
    /// Its type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading if it is still a regular file; never waits for a FIFO and never follows a link.
    pub fn open(&self) -> io::Result<std::fs::File> {
        open_regular(self.parent, self.name)
    }

    /// Where a symbolic link points.
    pub fn link_target(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(self.parent, self.name, Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }
}

/// Opens a regular file by its name in `parent`; anything else is refused.
pub fn open_regular(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no longer a regular file"));
    }
    Ok(file)
}

/// A walk that could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{}", if path.as_os_str().is_empty() { ".".into() } else { path.to_string_lossy() })]
pub struct WalkError {
    /// Relative to the root of the walk.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// Walks the tree below `root`. `decide` sees each path with its type as the directory lists it; `visit` sees what was
/// taken, a directory before what it holds. What vanishes meanwhile is passed over.
pub fn walk<E: From<WalkError>>(
    root: BorrowedFd<'_>,
    decide: &mut dyn FnMut(&Path, FileType) -> Decision,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let fd = open_directory(root, c".").map_err(|errno| failure(Path::new(""), errno))?;
    let mut walker = Walker { root, stack: Vec::new(), path: PathBuf::new(), buffer: Vec::with_capacity(32 << 10) };
    walker.enter(fd, decide)?;
    while let Some(frame) = walker.stack.last_mut() {
        let Some(child) = frame.children.pop() else {
            walker.leave()?;
            continue;
        };
        walker.step(child, decide, visit)?;
    }
    Ok(())
}

struct Child {
    name: CString,
    listed_type: FileType,
    decision: Decision,
}

struct Frame {
    /// None while too many are open.
    fd: Option<OwnedFd>,
    /// Next one last.
    children: Vec<Child>,
}

struct Walker<'a> {
    root: BorrowedFd<'a>,
    stack: Vec<Frame>,
    /// Of the directory on top of the stack.
    path: PathBuf,
    buffer: Vec<u8>,
}

impl Walker<'_> {
    fn step<E: From<WalkError>>(
        &mut self,
        child: Child,
        decide: &mut dyn FnMut(&Path, FileType) -> Decision,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.path.push(OsStr::from_bytes(child.name.as_bytes()));
        let parent = self.stack.last().and_then(|frame| frame.fd.as_ref()).expect("the top frame is open").as_fd();
        let directory = match look(parent, &child).map_err(|errno| failure(&self.path, errno))? {
            Found::Nothing => None,
            Found::Other(stat) => {
                if child.decision == Decision::Take {
                    visit(&Entry { path: &self.path, stat: &stat, parent, name: &child.name })?;
                }
                None
            }
            Found::Directory(fd, stat) => {
                if child.decision == Decision::Take {
                    visit(&Entry { path: &self.path, stat: &stat, parent, name: &child.name })?;
                }
                Some(fd)
            }
        };
        match directory {
            Some(fd) => self.enter(fd, decide)?,
            None => {
                self.path.pop();
            }
        }
        Ok(())
    }

    /// Lists a directory and makes it the top of the stack; `path` is already its path.
    fn enter(&mut self, fd: OwnedFd, decide: &mut dyn FnMut(&Path, FileType) -> Decision) -> Result<(), WalkError> {
        let mut children = Vec::new();
        let mut listing = RawDir::new(&fd, self.buffer.spare_capacity_mut() as &mut [MaybeUninit<u8>]);
        while let Some(found) = listing.next() {
            let found = found.map_err(|errno| failure(&self.path, errno))?;
            let name = found.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let listed_type = match found.file_type() {
                FileType::Unknown => match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                known => known,
            };
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            let decision = decide(&self.path, listed_type);
            self.path.pop();
            let wanted = decision == Decision::Take || (decision == Decision::Descend && listed_type == FileType::Directory);
            if wanted {
                children.push(Child { name: name.to_owned(), listed_type, decision });
            }
        }
        children.sort_unstable_by(|left, right| right.name.cmp(&left.name));
        self.stack.push(Frame { fd: Some(fd), children });
        if let Some(surplus) = self.stack.len().checked_sub(MAX_OPEN_DIRECTORIES) {
            self.stack[surplus].fd = None;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), WalkError> {
        self.stack.pop();
        self.path.pop();
        if self.stack.last().is_some_and(|frame| frame.fd.is_none() && !frame.children.is_empty()) {
            self.open_again().map_err(|errno| failure(&self.path, errno))?;
        }
        Ok(())
    }

    /// Opens the directory of `path` from the root, one name at a time, and keeps the lower half of what may be open:
    /// the way back up will ask for those next.
    fn open_again(&mut self) -> Result<(), Errno> {
        let keep_from = self.stack.len().saturating_sub(MAX_OPEN_DIRECTORIES / 2);
        let mut fd = open_directory(self.root, c".")?;
        for (level, name) in self.path.iter().enumerate() {
            let name = CString::new(name.as_bytes()).expect("names of a directory hold no NUL");
            let below = open_directory(fd.as_fd(), &name)?;
            if level >= keep_from {
                self.stack[level].fd = Some(fd);
            }
            fd = below;
        }
        self.stack.last_mut().expect("the directory of `path` is on the stack").fd = Some(fd);
        Ok(())
    }
}

enum Found {
    Nothing,
    Directory(OwnedFd, Stat),
    Other(Stat),
}

/// What a listed name is by now. A directory is described by its own descriptor; what is swapped meanwhile is looked at again.
fn look(parent: BorrowedFd<'_>, child: &Child) -> Result<Found, Errno> {
    let mut is_directory = child.listed_type == FileType::Directory;
    for _ in 0..1000 {
        if is_directory {
            match open_directory(parent, &child.name) {
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd)?;
                    return Ok(Found::Directory(fd, stat));
                }
                Err(Errno::NOENT) => return Ok(Found::Nothing),
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno),
            }
        }
        match rustix::fs::statat(parent, &child.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => is_directory = true,
            Ok(stat) => return Ok(Found::Other(stat)),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::AGAIN)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn failure(path: &Path, errno: Errno) -> WalkError {
    WalkError { path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::sys::root::RootDir;

    fn names(top: &Path, decide: &mut dyn FnMut(&Path, FileType) -> Decision) -> Vec<String> {
        let root = RootDir::open(top).unwrap();
        let mut seen = Vec::new();
        walk(root.as_fd(), decide, &mut |entry| {
            seen.push(entry.path.to_str().unwrap().to_owned());
            Ok::<(), WalkError>(())
        })
        .unwrap();
        seen
    }

    fn take(_: &Path, _: FileType) -> Decision {
        Decision::Take
    }

    #[test]
    fn order_is_by_name_and_links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("b/inner")).unwrap();
        fs::write(top.path().join("b/inner/x"), "").unwrap();
        fs::write(top.path().join("a"), "").unwrap();
        fs::write(top.path().join("b.txt"), "").unwrap();
        symlink("/", top.path().join("c")).unwrap();
        assert_eq!(names(top.path(), &mut take), ["a", "b", "b/inner", "b/inner/x", "b.txt", "c"]);
    }

    #[test]
    fn descend_reports_only_what_is_below() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("kept/x")).unwrap();
        fs::create_dir_all(top.path().join("gone/x")).unwrap();
        let mut decide = |path: &Path, _: FileType| match path.to_str() {
            Some("kept") => Decision::Descend,
            Some("gone") => Decision::Skip,
            _ => Decision::Take,
        };
        assert_eq!(names(top.path(), &mut decide), ["kept/x"]);
    }

    #[test]
    fn deep_directories_need_few_descriptors() {
        let top = tempfile::tempdir().unwrap();
        let mut fd: OwnedFd = fs::File::open(top.path()).unwrap().into();
        let depth = 3_000;
        for _ in 0..depth {
            rustix::fs::mkdirat(&fd, "d", Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::mkdirat(&fd, "e", Mode::from_raw_mode(0o755)).unwrap();
            fd = rustix::fs::openat(&fd, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let root = RootDir::open(top.path()).unwrap();
        let mut count = 0;
        walk(root.as_fd(), &mut take, &mut |_| {
            count += 1;
            Ok::<(), WalkError>(())
        })
        .unwrap();
        assert_eq!(count, 2 * depth);
        remove_deep(top.path());
    }

    /// `std::fs::remove_dir_all` holds a descriptor for each level.
    fn remove_deep(top: &Path) {
        assert!(std::process::Command::new("rm").arg("-rf").arg(top.join("d")).status().unwrap().success());
    }

    /// Security list 13: what is swapped during the walk is seen as a link or a directory of ours, never as what the link points to.
    #[test]
    fn swapping_a_directory_for_a_link_shows_nothing_outside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), "outside").unwrap();
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("real")).unwrap();
        fs::write(top.path().join("real/file"), "inside").unwrap();
        symlink(outside.path(), top.path().join("link")).unwrap();
        let stop = AtomicBool::new(false);
        let root = RootDir::open(top.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (real, link) = (top.path().join("real"), top.path().join("link"));
                while !stop.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(rustix::fs::CWD, &real, rustix::fs::CWD, &link, rustix::fs::RenameFlags::EXCHANGE);
                }
            });
            // Also when an assertion fails: the scope waits for its threads.
            let _stop = Stop(&stop);
            let rounds = std::env::var("RBUILD_RACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
            for _ in 0..rounds {
                let walked = walk(root.as_fd(), &mut take, &mut |entry| {
                    assert!(!entry.path.ends_with("canary"));
                    if entry.path.ends_with("file")
                        && let Ok(file) = entry.open()
                    {
                        assert_eq!(io::read_to_string(file).unwrap(), "inside");
                    }
                    Ok::<(), WalkError>(())
                });
                walked.unwrap();
            }
        });
    }

    /// Ends what asks for it, whichever way its owner ends.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
