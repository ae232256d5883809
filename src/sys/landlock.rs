//! Landlock's scopes: what a process and its descendants can reach of the processes outside, by means that are no files.
//! Unaware of who is kept inside.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Out of reach from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Abstract unix sockets of processes outside.
    AbstractSockets = 1,
    /// Sending signals to processes outside.
    Signals = 2,
}

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct Attributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Keeps this thread and its children to themselves, for ever. Needs CAP_SYS_ADMIN here, or no_new_privs, and Linux 6.12.
pub fn restrict(scopes: &[Scope]) -> io::Result<()> {
    let scoped = scopes.iter().fold(0, |all, scope| all | *scope as u64);
    let attributes = Attributes { handled_access_fs: 0, handled_access_net: 0, scoped };
    // SAFETY: the kernel reads `size` bytes from `attributes` and makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attributes as *const Attributes, size_of::<Attributes>(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: both arguments are numbers.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
