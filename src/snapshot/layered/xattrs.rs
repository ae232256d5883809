//! Extended attributes from one open file to another, best effort. Unaware of what the attributes mean but for the few
//! that are ours or overlayfs's.

use std::{
    ffi::OsStr,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
};

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};

/// An owner that could not be set.
pub(crate) const OWNER: &[u8] = b"user.rootlesscontainers";

/// What overlayfs keeps about its own working; it means nothing elsewhere and must never be brought in from outside.
pub(crate) fn is_private_to_overlay(name: &[u8]) -> bool {
    name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.")
}

/// The same and our own notes (placeholders for devices, owners kept out of band): refused from a context.
pub(crate) fn is_private(name: &[u8]) -> bool {
    is_private_to_overlay(name) || name.starts_with(b"user.rbuild.") || name == OWNER
}

/// All attributes of `from` but those that `skip` names, sorted by name; none where they cannot be read.
pub(crate) fn read(from: BorrowedFd<'_>, skip: impl Fn(&[u8]) -> bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = [0_u8; 4096];
    let names = match flistxattr(from, &mut names) {
        Ok(length) => names[..length].to_vec(),
        Err(rustix::io::Errno::RANGE) => {
            let mut names = vec![0; 65536];
            let length = flistxattr(from, &mut names).unwrap_or(0);
            names[..length].to_vec()
        }
        Err(_) => return Vec::new(),
    };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !skip(name)) {
        let mut value = vec![0; 65536];
        if let Ok(length) = fgetxattr(from, OsStr::from_bytes(name), &mut value) {
            value.truncate(length);
            found.push((name.to_vec(), value));
        }
    }
    found.sort();
    found
}

/// Copies the attributes; one that cannot be set (another file system, no capability) is left out, as BuildKit does.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, skip: impl Fn(&[u8]) -> bool) {
    set(&read(from, skip), to);
}

/// Sets attributes, in the same way.
pub(crate) fn set(attributes: &[(Vec<u8>, Vec<u8>)], to: BorrowedFd<'_>) {
    for (name, value) in attributes {
        let _ = fsetxattr(to, OsStr::from_bytes(name), value, XattrFlags::empty());
    }
}
