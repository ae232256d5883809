//! Mount points that a root filesystem lacks: made for the step, taken away after it when they are still empty.
//!
//! Everything happens on held directory descriptors inside the root; a name is never looked up twice through links.
//! Unaware of what is mounted.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};

use crate::sys::{recorded, root::RootDir};

/// As many dangling links as are followed to where a mount point has to be made.
const MAX_LINKS: usize = 40;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// For a mounted directory.
    Directory,
    /// For a mounted file, socket or device.
    File,
}

#[derive(Debug)]
struct Stub {
    parent: OwnedFd,
    name: OsString,
    inode: (u64, u64),
    mtime_before: Timespec,
    mtime_after: Timespec,
}

/// The stubs of one step, in the order they were made.
#[derive(Debug, Default)]
pub struct Stubs {
    made: Vec<Stub>,
}

impl Stubs {
    /// Opens the mount point `target` in `root`; what is missing is made and remembered.
    pub fn open_or_make(&mut self, root: &RootDir, target: &Path, shape: Shape) -> io::Result<OwnedFd> {
        match root.open_in(target, OFlags::PATH, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(root, target, shape),
            result => result,
        }
    }

    fn make(&mut self, root: &RootDir, target: &Path, shape: Shape) -> io::Result<OwnedFd> {
        let mut done = PathBuf::from("/");
        let mut pending: Vec<OsString> = reversed_names(target);
        let mut links = 0;
        while let Some(name) = pending.pop() {
            let path = done.join(&name);
            match root.open_in(&path, OFlags::PATH, Mode::empty()) {
                Ok(_) => {
                    done = path;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let parent = root.open_in(&done, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            // Missing, yet there is a link: it dangles, and the mount point is to be made where it leads.
            if let Ok(link) = rustix::fs::readlinkat(&parent, name.as_os_str(), Vec::new()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let link = PathBuf::from(OsStr::from_bytes(link.as_bytes()));
                if link.is_absolute() {
                    done = PathBuf::from("/");
                }
                pending.extend(reversed_names(&link));
                continue;
            }
            let shape = if pending.is_empty() { shape } else { Shape::Directory };
            self.made.push(make_stub(parent, name, shape)?);
            done = path;
        }
        root.open_in(&done, OFlags::PATH, Mode::empty())
    }

    /// Removes the stubs that nothing was put into. Call it when no process of the step is left and nothing is mounted
    /// on them in this mount namespace's view of `root`.
    pub fn remove(self) {
        for stub in self.made.into_iter().rev() {
            // What the step did to its own files is its right: a stub that is gone, replaced or refused stays as it is.
            let _ = stub.remove();
        }
    }
}

impl Stubs {
    /// Gives what was made to a user and lets it stay.
    pub fn keep_as(self, uid: u32, gid: u32) -> io::Result<()> {
        for stub in self.made {
            recorded::give_at(stub.parent.as_fd(), &stub.name, uid, gid)?;
        }
        Ok(())
    }
}

impl Stub {
    fn remove(self) -> io::Result<()> {
        let stat = rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (stat.st_dev, stat.st_ino) != self.inode {
            return Ok(());
        }
        let flags = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
            _ => return Ok(()),
        };
        let current = modified(&rustix::fs::fstat(&self.parent)?);
        rustix::fs::unlinkat(&self.parent, &self.name, flags)?;
        // Nobody else changed the directory: it has never been touched. Otherwise it keeps the step's own time.
        let time = if current == self.mtime_after { self.mtime_before } else { current };
        Ok(rustix::fs::futimens(&self.parent, &only_modified(time))?)
    }
}

fn make_stub(parent: OwnedFd, name: OsString, shape: Shape) -> io::Result<Stub> {
    let mtime_before = modified(&rustix::fs::fstat(&parent)?);
    let fd = match shape {
        Shape::Directory => {
            rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
            rustix::fs::openat(&parent, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
        }
        Shape::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644))?
        }
    };
    let stat = rustix::fs::fstat(fd.as_fd())?;
    let mtime_after = modified(&rustix::fs::fstat(&parent)?);
    Ok(Stub { parent, name, inode: (stat.st_dev, stat.st_ino), mtime_before, mtime_after })
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ }
}

fn only_modified(time: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time }
}

/// The names of a path, first one last; `..` is kept, the root resolves it.
fn reversed_names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    fn root() -> (tempfile::TempDir, RootDir) {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("root")).unwrap();
        let root = RootDir::open(&top.path().join("root")).unwrap();
        (top, root)
    }

    #[test]
    fn empty_stubs_vanish_and_the_time_of_their_parent_comes_back() {
        let (top, root) = root();
        let etc = top.path().join("root/etc");
        fs::create_dir(&etc).unwrap();
        fs::File::open(&etc).unwrap().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1234)).unwrap();
        let mut stubs = Stubs::default();
        stubs.open_or_make(&root, Path::new("/etc/hosts"), Shape::File).unwrap();
        stubs.open_or_make(&root, Path::new("/new/deep/point"), Shape::Directory).unwrap();
        assert!(etc.join("hosts").is_file() && top.path().join("root/new/deep/point").is_dir());
        stubs.remove();
        assert!(!etc.join("hosts").exists() && !top.path().join("root/new").exists());
        assert_eq!(fs::metadata(&etc).unwrap().mtime(), 1234);
    }

    #[test]
    fn what_was_there_or_was_written_stays() {
        let (top, root) = root();
        let at = |path: &str| top.path().join("root").join(path);
        fs::create_dir(at("old")).unwrap();
        let mut stubs = Stubs::default();
        stubs.open_or_make(&root, Path::new("/old"), Shape::Directory).unwrap();
        stubs.open_or_make(&root, Path::new("/filled"), Shape::Directory).unwrap();
        stubs.open_or_make(&root, Path::new("/written"), Shape::File).unwrap();
        stubs.open_or_make(&root, Path::new("/swapped"), Shape::File).unwrap();
        fs::write(at("filled/x"), "x").unwrap();
        fs::write(at("written"), "x").unwrap();
        fs::remove_file(at("swapped")).unwrap();
        symlink("../canary", at("swapped")).unwrap();
        fs::write(top.path().join("canary"), "").unwrap();
        stubs.remove();
        assert!(at("old").is_dir() && at("filled/x").exists() && at("written").exists());
        assert!(top.path().join("canary").exists() && fs::symlink_metadata(at("swapped")).is_ok());
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let (top, root) = root();
        let at = |path: &str| top.path().join("root").join(path);
        symlink("/made/later", at("dangling")).unwrap();
        symlink("../../../up", at("climbing")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let mut stubs = Stubs::default();
        stubs.open_or_make(&root, Path::new("/dangling/point"), Shape::Directory).unwrap();
        stubs.open_or_make(&root, Path::new("/climbing"), Shape::File).unwrap();
        assert!(at("made/later/point").is_dir() && at("up").is_file());
        assert!(stubs.open_or_make(&root, Path::new("/loop"), Shape::File).is_err());
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
        stubs.remove();
        assert!(!at("made").exists() && !at("up").exists());
    }
}
