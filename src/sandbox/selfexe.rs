//! The program that RUN's init is: rbuild itself, seen through a read-only mount.
//!
//! A step that gets hold of /proc/PID/exe of its init could write to rbuild's own file after the build. Through a
//! read-only mount it can't, whoever it is. Unaware of what init does.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    sync::OnceLock,
};

use rustix::mount::MountAttrFlags;

use crate::sys::mountns;

static SEALED: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// A path for the next `Command`.
pub fn path() -> io::Result<PathBuf> {
    let sealed = SEALED.get_or_init(|| seal().ok());
    // Where no mounts are possible there is no such step either: rbuild's file then belongs to somebody else.
    Ok(sealed.as_ref().map_or_else(|| PathBuf::from("/proc/self/exe"), |fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))))
}

fn seal() -> io::Result<OwnedFd> {
    let path = std::env::current_exe()?;
    let mount = mountns::clone_host_path(&path)?;
    mountns::add_attributes(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
    let sealed = File::open(format!("/proc/self/fd/{}", mount.as_raw_fd()))?;
    let (ours, running) = (sealed.metadata()?, std::fs::metadata("/proc/self/exe")?);
    // The file may have been replaced since we were started; another version of init would not understand us.
    if (ours.dev(), ours.ino()) != (running.dev(), running.ino()) {
        return Err(io::Error::other("the program file has been replaced"));
    }
    Ok(sealed.into())
}
