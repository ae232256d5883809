//! A file that has no name until it is whole, in an open directory: a process that is killed while it writes leaves
//! nothing. Where the file system has no such files, one with a name beside it. Unaware of what is written.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
};

/// A file being written. Dropped without a name, it is gone.
#[derive(Debug)]
pub(super) struct Unnamed {
    /// Open for writing.
    pub file: File,
    directory: OwnedFd,
    name: OsString,
    /// The name it has meanwhile, where it must have one.
    beside: Option<OsString>,
}

impl Unnamed {
    /// Starts what is to become `name`; the umask decides who may read it, as for any file that a program makes.
    pub(super) fn create(directory: OwnedFd, name: &OsStr) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        // Without /proc a file that has no name can't be given one.
        if Path::new("/proc/self/fd").exists()
            && let Ok(fd) = rustix::fs::openat(&directory, ".", flags | OFlags::TMPFILE, mode)
        {
            return Ok(Self { file: fd.into(), directory, name: name.to_owned(), beside: None });
        }
        let beside = beside(name);
        // What a killed process of the same number left.
        let _ = rustix::fs::unlinkat(&directory, &*beside, AtFlags::empty());
        let fd = rustix::fs::openat(&directory, &*beside, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, mode)?;
        Ok(Self { file: fd.into(), directory, name: name.to_owned(), beside: Some(beside) })
    }

    /// Gives it its name, in place of whatever had that.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.beside.is_none() {
            match self.link(&self.name) {
                Err(Errno::EXIST) => {}
                result => return Ok(result?),
            }
            let beside = beside(&self.name);
            let _ = rustix::fs::unlinkat(&self.directory, &*beside, AtFlags::empty());
            self.link(&beside)?;
            self.beside = Some(beside);
        }
        let beside = self.beside.as_deref().expect("it has been set above");
        rustix::fs::renameat(&self.directory, beside, &self.directory, &*self.name)?;
        self.beside = None;
        Ok(())
    }

    fn link(&self, name: &OsStr) -> Result<(), Errno> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, own, &self.directory, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            let _ = rustix::fs::unlinkat(&self.directory, &**beside, AtFlags::empty());
        }
    }
}

fn beside(name: &OsStr) -> OsString {
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    beside
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn a_name_comes_last_with_either_kind_of_file() {
        let top = tempfile::tempdir().unwrap();
        let open = || rustix::fs::open(top.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let named = |name: &str| {
            let beside = OsString::from(".other");
            let file = File::create(top.path().join(".other")).unwrap();
            Unnamed { file, directory: open(), name: name.into(), beside: Some(beside) }
        };
        let unnamed = |name: &str| Unnamed::create(open(), OsStr::new(name)).unwrap();
        let makers: [&dyn Fn(&str) -> Unnamed; 2] = [&named, &unnamed];
        for make in makers {
            for text in ["first", "second"] {
                let mut file = make("file");
                file.file.write_all(text.as_bytes()).unwrap();
                file.finish().unwrap();
                assert_eq!(fs::read_to_string(top.path().join("file")).unwrap(), text);
                assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
            }
            drop(make("dropped"));
            assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
            fs::remove_file(top.path().join("file")).unwrap();
        }
    }
}
