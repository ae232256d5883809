//! What to run and what it sees: the whole input of a step, sent to RUN's init as JSON.
//! Unaware of how it is carried out.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::cgroup::Limits;

/// One process in one root filesystem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// What `/` is.
    pub rootfs: RootFs,
    /// Program and arguments; the program is searched in the `PATH` of `env`.
    pub args: Vec<String>,
    /// The whole environment; `HOME` is added from the image's passwd when it is missing.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute; created for the user when it is missing.
    pub cwd: String,
    /// `name`, `uid`, `name:group`, `uid:gid`; empty is root.
    pub user: String,
    /// Mounts in any order: parents are mounted first, of equal targets the last one counts.
    pub mounts: Vec<Mount>,
    /// The host name inside.
    pub hostname: String,
    /// More lines of /etc/hosts: name and address, or `host-gateway` for this machine's.
    pub extra_hosts: Vec<(String, String)>,
    /// What the process can reach.
    pub network: Network,
    /// Size of /dev/shm.
    pub shm_size_bytes: u64,
    /// Resource limits as `--ulimit` gives them.
    pub ulimits: Vec<Ulimit>,
    /// What it may use altogether.
    pub limits: Limits,
    /// The processors that it may run on; None is all of ours.
    pub processors: Option<Vec<usize>>,
    /// Where output goes and input comes from.
    pub stdio: Stdio,
    /// The step is killed after this time.
    pub timeout: Option<Duration>,
    /// An empty directory of ours on the root's file system; only the `chroot` rung needs it.
    pub scratch: Option<PathBuf>,
    /// The step speaks of ids that are not mapped: all its ids are emulated, as where there is one id only.
    pub emulate_ids: bool,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            rootfs: RootFs::Directory(PathBuf::new()),
            args: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            mounts: Vec::new(),
            hostname: "buildkitsandbox".into(),
            extra_hosts: Vec::new(),
            network: Network::Default,
            shm_size_bytes: 64 << 20,
            ulimits: Vec::new(),
            limits: Limits::default(),
            processors: None,
            stdio: Stdio::Capture,
            timeout: None,
            scratch: None,
            emulate_ids: false,
        }
    }
}

/// A root filesystem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RootFs {
    /// An overlay, mounted for this step only.
    Overlay {
        /// Read-only directories, top first.
        lowers: Vec<PathBuf>,
        /// Receives the changes.
        upper: PathBuf,
        /// The kernel's working directory beside `upper`.
        work: PathBuf,
        /// No syncing: the step's fsync calls cost nothing, and what it wrote may be lost in a power cut.
        volatile: bool,
    },
    /// A directory that is written in place.
    Directory(PathBuf),
}

/// Something mounted for the step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside.
    pub target: PathBuf,
    /// What is there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory below `source`; also cache mounts (`read_only: false`).
    Bind {
        /// The tree it comes from.
        source: Source,
        /// Path in that tree, resolved inside it.
        subpath: PathBuf,
        /// Refuse writes.
        read_only: bool,
    },
    /// A bind that can be written, whose writes are thrown away.
    Discard {
        /// The tree it comes from.
        source: Source,
        /// Path in that tree, resolved inside it.
        subpath: PathBuf,
        /// An empty directory for the writes, which the caller deletes; without it they go to memory.
        scratch: Option<PathBuf>,
    },
    /// Where nothing can be mounted (the `chroot` rung): a file or directory on the root's file system that is moved to its
    /// place for the time of the step.
    Moved {
        /// The tree it comes from.
        source: Source,
        /// Path in that tree, resolved inside it.
        subpath: PathBuf,
        /// It moves back afterwards, as the step leaves it; else it is removed.
        returns: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// At most so many bytes.
        size_bytes: Option<u64>,
        /// Refuse writes (not on the `chroot` rung, where nothing is mounted).
        read_only: bool,
    },
    /// A file that exists in memory only.
    Secret {
        /// Content.
        bytes: Vec<u8>,
        /// Permissions.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A read-only file of root's, such as a heredoc script.
    File {
        /// Content.
        bytes: Vec<u8>,
        /// Permissions.
        mode: u32,
    },
    /// A socket on which the ssh agent at `agent` answers.
    Ssh {
        /// The agent's socket on the host.
        agent: PathBuf,
        /// Permissions.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// A tree that a mount takes something from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Source {
    /// A directory on disk.
    Directory(PathBuf),
    /// Layers, top first, seen as one tree.
    Overlay(Vec<PathBuf>),
}

/// What a step can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The build's private network where there is one, else the host's.
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// One `--ulimit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, ..
    pub name: String,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// Standard streams of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Input is empty, output is handed to the caller.
    Capture,
    /// All three are rbuild's own; a terminal among them is not the step's to control (`rbuild run`).
    Inherit,
    /// Input is empty, outputs are rbuild's own (`rbuild watch`).
    Outputs,
    /// A terminal of the step's own (`rbuild run -t`).
    Terminal,
}
