//! `stat` and `statx` as the bytes that the kernel writes, to be handed to another process.
//! Unaware of what the bytes mean.
#![allow(unsafe_code)]

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

/// The size of the kernel's `struct stat`.
#[cfg(target_arch = "x86_64")]
pub const STAT_SIZE: usize = 144;
/// The size of the kernel's `struct stat`.
#[cfg(not(target_arch = "x86_64"))]
pub const STAT_SIZE: usize = 128;

/// The size of `struct statx`.
pub const STATX_SIZE: usize = 256;

/// What `newfstatat` writes.
pub fn stat(path: &Path, nofollow: bool) -> io::Result<[u8; STAT_SIZE]> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut bytes = [0; STAT_SIZE];
    let flags = if nofollow { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
    // SAFETY: the path is a C string and the buffer has the size of what this architecture's kernel writes.
    let result = unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), bytes.as_mut_ptr(), flags) };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// What `statx` writes.
pub fn statx(path: &Path, flags: u32, mask: u32) -> io::Result<[u8; STATX_SIZE]> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut bytes = [0; STATX_SIZE];
    // SAFETY: the path is a C string and the buffer has the size of `struct statx`, which never changes.
    let result = unsafe { libc::syscall(libc::SYS_statx, libc::AT_FDCWD, path.as_ptr(), flags, mask, bytes.as_mut_ptr()) };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}
