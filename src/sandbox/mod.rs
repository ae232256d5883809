//! Runs one process in a root filesystem: namespaces, ids, mounts, network, the privilege ladder.
//! Unaware of images, layers and Dockerfiles.
//!
//! `main` calls [`init_if_asked`] and [`enter()`] first, in this order and before any thread; then [`run()`] works from any
//! thread. See [`init`] for the processes of a step.

mod bpf;
pub mod cgroup;
mod chroot;
mod console;
mod emulate;
pub mod emulation;
pub mod enter;
mod exec;
mod fallback;
mod files;
mod forkserver;
mod gateway;
mod idmap;
pub mod init;
pub mod limits;
mod mounts;
pub mod network;
mod oom;
pub mod outcome;
pub mod probe;
mod rootfs;
pub mod run;
mod seccomp;
mod selfexe;
pub mod spec;
mod ssh;
mod stubs;
pub mod user;

pub use cgroup::Limits;
pub use emulation::{Emulation, EmulationError};
pub use enter::{EnterError, Entered, Options, Rung, current, enter, highest_id, obstacle};
pub use forkserver::end_server;
pub use gateway::HOST_GATEWAY;
pub use init::{MOUNT_POINTS, init_if_asked};
pub use network::{DefaultNetwork, Published, default_network, publish};
pub use outcome::{Exit, InitError, RunError};
pub use probe::{Findings, Gate, Outcome, ProbeOptions, Runner, probe};
pub use run::{Attached, Cancel, Stream, run, run_attached};
pub use spec::{Mount, MountKind, Network, RootFs, Source, Spec, Stdio, Ulimit};
pub use ssh::{Agent, Key, KeyError};
pub use stubs::Shape;
