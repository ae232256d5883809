//! Mounts where nothing can be mounted: a file or directory is moved to its place, what was there waits beside the root,
//! and afterwards everything moves back.
//!
//! All moves are renames inside one file system, of entries of held directories: what a step renames or replaces can
//! lead nowhere. Times of the directories in which something was placed come back too, unless the step changed them.
//! Unaware of what is placed.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT},
    io::Errno,
};

use super::super::stubs::{Shape, Stubs};
use crate::sys::{remove, root::RootDir};

/// An entry of an open directory.
#[derive(Debug)]
pub struct Entry {
    parent: OwnedFd,
    name: OsString,
}

/// What becomes of something placed.
#[derive(Debug)]
pub enum After {
    /// It is removed.
    Remove,
    /// It moves back to where it was.
    Return(Entry),
}

#[derive(Debug)]
struct Placed {
    at: Entry,
    /// What was made for it to cover.
    stubs: Stubs,
    /// Its name in the scratch directory.
    covered: OsString,
    after: After,
    mtime_before: Timespec,
    mtime_after: Timespec,
}

/// What was placed for one step, in this order.
#[derive(Debug)]
pub struct Covers {
    scratch: PathBuf,
    scratch_fd: OwnedFd,
    /// Made for what is placed next.
    stubs: Stubs,
    placed: Vec<Placed>,
    /// Numbers names in the scratch directory.
    next: usize,
}

impl Entry {
    /// What `path` leads to below `root`, as an entry that can be moved.
    pub fn find(root: &RootDir, path: &Path) -> io::Result<Self> {
        let found = root.open_in(path, OFlags::PATH, Mode::empty())?;
        let own_path = |fd: &dyn AsRawFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (top, whole) = (own_path(&root.as_fd())?, own_path(&found)?);
        let below = whole.strip_prefix(&top).map_err(|_| io::Error::other(format!("{} leads out of its root", path.display())))?;
        let (parent, name) = root.parent_in(below)?;
        // The link of /proc was text: it counts only if it leads to the same.
        let (ours, theirs) = (rustix::fs::fstat(&found)?, rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?);
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
            return Err(io::Error::other(format!("{} was moved", path.display())));
        }
        Ok(Self { parent, name })
    }

    /// A file or directory of our own by its path.
    pub fn of_path(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL.into()) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { parent: rustix::fs::open(parent, flags, Mode::empty())?, name: name.to_owned() })
    }

    /// An entry of a directory of ours.
    fn of(directory: &OwnedFd, name: &OsStr) -> io::Result<Self> {
        Ok(Self { parent: directory.try_clone()?, name: name.to_owned() })
    }

    fn move_to(&self, other: &Entry) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.parent, &self.name, &other.parent, &other.name)?)
    }

    fn exists(&self) -> bool {
        rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    fn shape(&self) -> io::Result<Shape> {
        let stat = rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() { Shape::Directory } else { Shape::File })
    }

    /// Times can't be read or set through a descriptor that was opened for its path alone.
    fn parent_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.parent.as_raw_fd()))
    }

    fn parent_mtime(&self) -> io::Result<Timespec> {
        let stat = rustix::fs::fstat(&self.parent)?;
        Ok(Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ })
    }

    fn set_parent_mtime(&self, time: Timespec) -> io::Result<()> {
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: time };
        Ok(rustix::fs::utimensat(rustix::fs::CWD, self.parent_path(), &times, AtFlags::empty())?)
    }
}

impl Covers {
    /// `scratch` is an empty directory of ours on the root's file system.
    pub fn new(scratch: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let scratch_fd = rustix::fs::open(scratch, flags, Mode::empty())?;
        Ok(Self { scratch: scratch.to_owned(), scratch_fd, stubs: Stubs::default(), placed: Vec::new(), next: 0 })
    }

    /// A new name in the scratch directory, for something that is to be placed.
    pub fn new_path(&mut self) -> PathBuf {
        let name = self.new_name();
        self.scratch.join(name)
    }

    fn new_name(&mut self) -> OsString {
        self.next += 1;
        OsString::from(format!("cover-{}", self.next))
    }

    /// An entry of the scratch directory, made there by its path.
    pub fn entry(&self, path: &Path) -> io::Result<Entry> {
        Entry::of(&self.scratch_fd, path.file_name().unwrap_or_default())
    }

    /// The mode of what will be covered, which a tmpfs takes over; where there is nothing, it is everybody's.
    pub fn mode_at(&mut self, root: &RootDir, target: &Path) -> io::Result<u32> {
        let is_new = root.open_in(target, OFlags::PATH, Mode::empty()).is_err();
        let found = self.stubs.open_or_make(root, target, Shape::Directory)?;
        Ok(if is_new { 0o1777 } else { rustix::fs::fstat(found)?.st_mode & 0o7777 })
    }

    /// Puts `what` where `target` leads below `root`.
    pub fn place(&mut self, root: &RootDir, target: &Path, what: Entry, returns: bool) -> io::Result<()> {
        let shape = what.shape()?;
        let found = self.stubs.open_or_make(root, target, shape)?;
        let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode).is_dir();
        if is_directory != (shape == Shape::Directory) {
            return Err(if is_directory { Errno::ISDIR.into() } else { Errno::NOTDIR.into() });
        }
        let at = Entry::find(root, target)?;
        let mtime_before = at.parent_mtime()?;
        let covered = self.new_name();
        at.move_to(&Entry::of(&self.scratch_fd, &covered)?)?;
        let mut placed =
            Placed { at, stubs: std::mem::take(&mut self.stubs), covered, after: After::Remove, mtime_before, mtime_after: mtime_before };
        let moved = what.move_to(&placed.at);
        if returns && moved.is_ok() {
            placed.after = After::Return(what);
        }
        placed.mtime_after = placed.at.parent_mtime()?;
        self.placed.push(placed);
        moved
    }

    /// Undoes everything, last first. Call it when no process of the step is left. All that can be undone is, whatever fails.
    pub fn take_away(mut self) -> io::Result<()> {
        let mut result = Ok(());
        std::mem::take(&mut self.stubs).remove();
        while let Some(placed) = self.placed.pop() {
            let one = take_one_away(&self.scratch, &self.scratch_fd, &placed);
            placed.stubs.remove();
            result = result.and(one);
        }
        result
    }
}

fn take_one_away(scratch: &Path, scratch_fd: &OwnedFd, placed: &Placed) -> io::Result<()> {
    let mtime = placed.at.parent_mtime()?;
    // Every covered thing has a name of its own.
    let mut name = placed.covered.clone();
    name.push("-out");
    let out = Entry::of(scratch_fd, &name)?;
    match (&placed.after, placed.at.exists()) {
        (_, true) => placed.at.move_to(&out)?,
        // The step has removed it; of a mount it could only have removed the content.
        (After::Return(_), false) => rustix::fs::mkdirat(&out.parent, &out.name, Mode::from_raw_mode(0o755))?,
        (After::Remove, false) => {}
    }
    match &placed.after {
        After::Return(home) => out.move_to(home)?,
        After::Remove => remove::remove_tree(&scratch.join(&out.name))?,
    }
    match Entry::of(scratch_fd, &placed.covered)?.move_to(&placed.at) {
        // The step removed the whole directory, with what was covered.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    // Nobody else changed the directory: it has never been touched.
    placed.at.set_parent_mtime(if mtime == placed.mtime_after { placed.mtime_before } else { mtime })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    struct Bed {
        top: tempfile::TempDir,
        root: RootDir,
    }

    impl Bed {
        fn new() -> Self {
            let top = tempfile::tempdir().unwrap();
            for name in ["root/etc", "root/old", "scratch", "home"] {
                fs::create_dir_all(top.path().join(name)).unwrap();
            }
            fs::write(top.path().join("root/etc/hosts"), "image's").unwrap();
            fs::write(top.path().join("root/old/x"), "image's").unwrap();
            let root = RootDir::open(&top.path().join("root")).unwrap();
            Self { top, root }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.top.path().join(path)
        }

        fn covers(&self) -> Covers {
            Covers::new(&self.at("scratch")).unwrap()
        }

        fn place_file(&self, covers: &mut Covers, target: &str) -> io::Result<()> {
            let path = covers.new_path();
            fs::write(&path, "ours").unwrap();
            let entry = covers.entry(&path).unwrap();
            covers.place(&self.root, Path::new(target), entry, false)
        }
    }

    #[test]
    fn what_was_there_comes_back_with_its_times() {
        let bed = Bed::new();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1234);
        fs::File::open(bed.at("root/etc")).unwrap().set_modified(long_ago).unwrap();
        let mut covers = bed.covers();
        bed.place_file(&mut covers, "/etc/hosts").unwrap();
        bed.place_file(&mut covers, "/etc/new").unwrap();
        bed.place_file(&mut covers, "/made/for/it").unwrap();
        assert_eq!(fs::read_to_string(bed.at("root/etc/hosts")).unwrap(), "ours");
        covers.take_away().unwrap();
        assert_eq!(fs::read_to_string(bed.at("root/etc/hosts")).unwrap(), "image's");
        assert!(!bed.at("root/etc/new").exists() && !bed.at("root/made").exists());
        assert_eq!(fs::metadata(bed.at("root/etc")).unwrap().mtime(), 1234);
        assert_eq!(fs::read_dir(bed.at("scratch")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_lent_goes_home_with_the_steps_changes() {
        let bed = Bed::new();
        fs::create_dir(bed.at("home/cache")).unwrap();
        let home = RootDir::open(&bed.at("home")).unwrap();
        let mut covers = bed.covers();
        covers.place(&bed.root, Path::new("/old"), Entry::find(&home, Path::new("cache")).unwrap(), true).unwrap();
        assert!(!bed.at("home/cache").exists() && !bed.at("root/old/x").exists());
        fs::write(bed.at("root/old/made"), "").unwrap();
        covers.take_away().unwrap();
        assert!(bed.at("home/cache/made").exists() && bed.at("root/old/x").exists() && !bed.at("root/old/made").exists());
    }

    #[test]
    fn a_step_that_moves_and_replaces_things_leads_nowhere_else() {
        let bed = Bed::new();
        fs::create_dir(bed.at("home/cache")).unwrap();
        let home = RootDir::open(&bed.at("home")).unwrap();
        let mut covers = bed.covers();
        bed.place_file(&mut covers, "/etc/hosts").unwrap();
        covers.place(&bed.root, Path::new("/old"), Entry::find(&home, Path::new("cache")).unwrap(), true).unwrap();
        fs::rename(bed.at("root/etc"), bed.at("root/etc2")).unwrap();
        symlink("/", bed.at("root/etc")).unwrap();
        fs::remove_dir(bed.at("root/old")).unwrap();
        covers.take_away().unwrap();
        assert_eq!(fs::read_to_string(bed.at("root/etc2/hosts")).unwrap(), "image's");
        assert!(bed.at("home/cache").is_dir() && bed.at("root/old/x").exists());
    }

    #[test]
    fn a_file_covers_no_directory_and_links_stay_inside() {
        let bed = Bed::new();
        symlink("../../../../home", bed.at("root/climbing")).unwrap();
        let mut covers = bed.covers();
        assert!(bed.place_file(&mut covers, "/old").is_err());
        bed.place_file(&mut covers, "/climbing/x").unwrap();
        assert!(bed.at("root/home/x").exists() && !bed.at("home/x").exists());
        covers.take_away().unwrap();
        assert!(!bed.at("root/home").exists());
    }
}
