//! Locks on single bytes of one file, shared or exclusive, that vanish with the process that held them.
//!
//! Open-file-description locks: they belong to an open file, not to a process, so two opens in one process exclude
//! each other as two processes do, and closing another descriptor of the file loses nothing. One file holds any number
//! of locks, costs one descriptor, and leaves nothing to clean up. Unaware of what a byte stands for.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt, path::Path};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};

/// One open file whose bytes are locks. Dropping it gives up all that it holds.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

/// How a byte is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Along with other readers.
    Shared,
    /// Alone.
    Exclusive,
}

impl LockFile {
    /// Opens the file, made if it isn't there; a link in its place is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Self { file })
    }

    /// Takes the byte if nobody else's hold forbids it.
    pub fn try_lock(&self, byte: i64, mode: LockMode) -> io::Result<bool> {
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&request(byte, kind(mode)))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the byte, waiting for others to give it up.
    pub fn lock(&self, byte: i64, mode: LockMode) -> io::Result<()> {
        loop {
            match fcntl(&self.file, FcntlArg::F_OFD_SETLKW(&request(byte, kind(mode)))) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives one byte back.
    pub fn unlock(&self, byte: i64) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&request(byte, libc::F_UNLCK)))?;
        Ok(())
    }
}

fn kind(mode: LockMode) -> libc::c_int {
    match mode {
        LockMode::Shared => libc::F_RDLCK,
        LockMode::Exclusive => libc::F_WRLCK,
    }
}

fn request(byte: i64, kind: libc::c_int) -> libc::flock {
    // l_pid must be 0 for locks of an open file description.
    libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: byte, l_len: 1, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_held_apart_and_given_up_on_close() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("locks");
        let (one, two) = (LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap());
        let far = (1 << 62) - 1;
        assert!(one.try_lock(far, LockMode::Shared).unwrap());
        assert!(two.try_lock(far, LockMode::Shared).unwrap());
        assert!(!two.try_lock(far, LockMode::Exclusive).unwrap());
        assert!(two.try_lock(far - 1, LockMode::Exclusive).unwrap());
        drop(one);
        assert!(two.try_lock(far, LockMode::Exclusive).unwrap());
        let three = LockFile::open(&path).unwrap();
        assert!(!three.try_lock(far, LockMode::Shared).unwrap());
        two.unlock(far).unwrap();
        three.lock(far, LockMode::Shared).unwrap();
    }

    #[test]
    fn a_link_is_not_opened() {
        let top = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("elsewhere", top.path().join("locks")).unwrap();
        assert!(LockFile::open(&top.path().join("locks")).is_err());
    }
}
