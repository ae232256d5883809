//! Mounts as descriptors: made detached, given attributes, then attached to an open directory. No path of a root
//! filesystem is ever resolved by the mount calls themselves.
//! Unaware of what is mounted and why.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

/// Takes the whole mount table out of propagation, so that nothing we mount is seen elsewhere and nothing arrives.
pub fn make_all_private() -> io::Result<()> {
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?)
}

/// A detached copy of the mount (with what is mounted below it) at an open file or directory.
pub fn clone_tree(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(at, "", flags)?)
}

/// The same for a path of the host, such as `/dev/null`.
pub fn clone_host_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// Adds attributes to a mount and, if asked, to all mounts below it.
pub fn add_attributes(mount: impl AsFd, attributes: MountAttrFlags, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { set: u64::from(attributes.bits()), clear: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is the kernel's struct of the size told, both live during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches a detached mount on top of an open file or directory.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// Takes away the mount whose root is `fd`; it lives on while descriptors and clones use it.
pub fn detach(fd: impl AsFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH)?)
}

/// A new file system of a kind that needs no device, detached. An option without a value is a flag.
pub fn new_filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Where an overlay writes.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// Receives the changes.
    pub upper: &'a Path,
    /// The kernel's own working directory, on the same file system.
    pub work: &'a Path,
    /// Leave out all syncing: right when the result is read back before it must survive a power cut.
    pub volatile: bool,
}

/// An overlay of `lowers` (top first), detached; read-only without `upper`.
///
/// Directories are named to the kernel by descriptor: long or odd paths need no escaping, and /proc/mounts in the
/// overlay tells nothing about the host.
pub fn overlay(lowers: &[BorrowedFd<'_>], upper: Option<Upper<'_>>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    match overlay_one_by_one(lowers, upper, attributes) {
        // Before 6.7 there is no such option. From 6.5 on that is said at once, before only when all is there.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => overlay_joined(lowers, upper, attributes),
        result => result,
    }
}

/// The same for any number of lowers on kernels before 6.7 too. There it is mounted on `place` and taken off again, and the
/// working directory changes.
pub fn overlay_on(place: &Path, lowers: &[BorrowedFd<'_>], upper: Option<Upper<'_>>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    match overlay(lowers, upper, attributes) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let mounted = overlay_by_mount(lowers, upper, place)?;
            let copy = clone_tree(&mounted)?;
            detach(mounted)?;
            add_attributes(&copy, attributes, false)?;
            Ok(copy)
        }
        result => result,
    }
}

fn overlay_one_by_one(lowers: &[BorrowedFd<'_>], upper: Option<Upper<'_>>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in lowers {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", by_fd(*lower))?;
    }
    finish_overlay(&context, upper, attributes)
}

/// With all lowers in one option, for kernels before 6.7. Takes as many as 255 bytes can name, about 15.
pub fn overlay_joined(lowers: &[BorrowedFd<'_>], upper: Option<Upper<'_>>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let names: Vec<String> = lowers.iter().map(|lower| by_fd(*lower)).collect();
    rustix::mount::fsconfig_set_string(&context, "lowerdir", names.join(":"))?;
    finish_overlay(&context, upper, attributes)
}

fn by_fd(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn finish_overlay(context: &OwnedFd, upper: Option<Upper<'_>>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let mut held = Vec::new();
    if let Some(Upper { upper, work, volatile }) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            let fd = open_directory(path)?;
            rustix::mount::fsconfig_set_string(context, key, by_fd(fd.as_fd()))?;
            held.push(fd);
        }
        if volatile {
            rustix::mount::fsconfig_set_flag(context, "volatile")?;
        }
    }
    rustix::mount::fsconfig_set_flag(context, "userxattr")?;
    rustix::mount::fsconfig_create(context)?;
    Ok(rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The same through `mount(2)` on `target`, for many lowers on kernels before 6.7; returns the mounted root.
/// Changes the working directory.
pub fn overlay_by_mount(lowers: &[BorrowedFd<'_>], upper: Option<Upper<'_>>, target: &Path) -> io::Result<OwnedFd> {
    // In /proc/self/fd a descriptor's name is its number: 500 lowers fit into the page that mount(2) takes.
    rustix::process::chdir("/proc/self/fd")?;
    let names: Vec<String> = lowers.iter().map(|lower| lower.as_raw_fd().to_string()).collect();
    let mut data = format!("userxattr,lowerdir={}", names.join(":"));
    let mut held = Vec::new();
    if let Some(Upper { upper, work, volatile }) = upper {
        let (upper, work) = (open_directory(upper)?, open_directory(work)?);
        data.push_str(&format!(",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd()));
        data.push_str(if volatile { ",volatile" } else { "" });
        held.extend([upper, work]);
    }
    let data = CString::new(data)?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(data.as_c_str()))?;
    open_directory(target)
}

/// Makes the mounted root `fd` the root of this mount namespace and forgets the old one.
pub fn pivot_into(fd: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(fd)?;
    // New and old root in one place: the old root lands on top and is taken away again (see pivot_root(2)).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// The magic number of the file system that holds `fd`.
pub fn filesystem_magic(fd: impl AsFd) -> io::Result<i64> {
    Ok(rustix::fs::fstatfs(fd)?.f_type)
}

/// Opens a directory of ours for use in mount calls.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(error @ (Errno::NOENT | Errno::NOTDIR)) => {
            Err(io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", String::from_utf8_lossy(path.as_os_str().as_bytes()))))
        }
        result => Ok(result?),
    }
}
