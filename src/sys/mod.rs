//! The kernel door: the only room with `unsafe`; one function per call; paths resolved beneath a root fd.
//! Unaware of images and builds.

pub mod fdpass;
pub mod landlock;
pub mod limits;
pub mod lock;
pub mod loopback;
pub mod mountns;
pub mod notify;
pub mod process;
pub mod rawstat;
pub mod recorded;
pub mod remove;
pub mod root;
pub mod seccomp;
pub mod stat_key;
pub mod walk;
