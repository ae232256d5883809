//! The build graph: inert data in an arena. How far its execution is stands elsewhere.

use std::fmt;

use serde::Serialize;

use crate::{
    dockerfile::Span,
    oci::{ImageConfig, Platform, Reference},
};

/// Index of a vertex in [`Plan::vertices`]; inputs always have lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VertexId(pub usize);

/// What to do for one platform of one target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Inputs before users.
    pub vertices: Vec<Vertex>,
    /// What comes out.
    pub target: Target,
}

/// The image that a plan ends in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// Stage name, for people.
    pub name: String,
    /// What the image is for.
    pub platform: Platform,
    /// Whose root filesystem it has; None for an empty one.
    pub root: Option<VertexId>,
    /// The config without history, diff ids and creation time.
    #[serde(serialize_with = "as_json")]
    pub config: ImageConfig,
    /// The base image whose layers and history come first.
    pub base: Option<BaseKey>,
    /// One per instruction of the target's chain.
    pub history: Vec<HistoryEntry>,
    /// `SOURCE_DATE_EPOCH` in force.
    pub epoch: Option<i64>,
}

fn as_json<S: serde::Serializer>(config: &ImageConfig, serializer: S) -> Result<S::Ok, S::Error> {
    config.serialize(serializer)
}

/// A line of history before its time is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// As BuildKit words it.
    pub created_by: String,
    /// The vertex that made its layer; None for metadata.
    pub layer: Option<VertexId>,
}

/// One node: an operation on the root filesystem of its parent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// Whose root filesystem it starts from; None for an empty one.
    pub parent: Option<VertexId>,
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// The stage's name, or `stage-N`.
    pub stage: String,
    /// What it runs on.
    pub platform: Platform,
    /// Where the Dockerfile says it.
    pub span: Span,
    /// Never taken from the cache.
    pub ignore_cache: bool,
}

impl Vertex {
    /// All vertices whose results it needs, its parent first.
    pub fn inputs(&self) -> Vec<VertexId> {
        let mut list: Vec<VertexId> = self.parent.into_iter().collect();
        match &self.op {
            Op::Image(_) | Op::Workdir(_) => {}
            Op::Copy(copy) => list.extend(copy.sources.iter().filter_map(|source| match &source.from {
                SourceFrom::Input(Input::Vertex(id)) => *id,
                _ => None,
            })),
            Op::Run(run) => list.extend(run.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from: Input::Vertex(id), .. } | MountKind::Cache { from: Some(Input::Vertex(id)), .. } => *id,
                _ => None,
            })),
        }
        list.sort();
        list.dedup();
        list
    }
}

/// What a vertex does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub enum Op {
    Image(BaseKey),
    Run(Box<RunOp>),
    Copy(Box<CopyOp>),
    Workdir(WorkdirOp),
}

/// A base image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BaseKey {
    /// Where it comes from.
    pub source: BaseSource,
    /// For which platform.
    pub platform: Platform,
    /// Whether the platform was asked for (`--platform` somewhere) or is only the default.
    pub explicit_platform: bool,
}

impl fmt::Display for BaseKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            BaseSource::Registry(name) => write!(formatter, "{name}"),
            BaseSource::Context(name) => write!(formatter, "{name} (named context)"),
        }
    }
}

/// Where a base image comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BaseSource {
    /// A registry.
    Registry(Reference),
    /// A named context that is an image; the key of [`crate::plan::Options::contexts`].
    Context(String),
}

impl Serialize for BaseSource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Registry(reference) => serializer.serialize_str(&reference.to_string()),
            Self::Context(name) => serializer.serialize_str(&format!("context:{name}")),
        }
    }
}

/// Files to read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Input {
    /// A vertex's root filesystem; None for an empty one.
    Vertex(Option<VertexId>),
    /// A context of files: the main one (empty name) or a named one.
    Context(String),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunOp {
    /// The whole command line, shell included.
    pub args: Vec<String>,
    /// ENV and ARG in effect.
    pub env: Vec<(String, String)>,
    /// Proxy variables: in the process's environment, never in key or history.
    pub proxy_env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// As USER says it; empty for root.
    pub user: String,
    /// In order of the Dockerfile; later ones win at the same target.
    pub mounts: Vec<Mount>,
    /// Network of the step.
    pub network: NetworkMode,
    /// A heredoc that begins with `#!`: a file below `/dev/pipes`.
    pub script: Option<Script>,
}

/// A heredoc that is a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Script {
    /// File name below `/dev/pipes`.
    pub name: String,
    /// Its bytes, mode 0755.
    pub content: String,
}

/// Network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
pub enum NetworkMode {
    #[default]
    Default,
    None,
    Host,
}

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute; empty for a secret that is only a variable.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// How processes share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
pub enum CacheSharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum MountKind {
    Bind {
        from: Input,
        source: String,
        readonly: bool,
    },
    Cache {
        id: String,
        sharing: CacheSharing,
        from: Option<Input>,
        source: String,
        readonly: bool,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Tmpfs {
        size_bytes: u64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        readonly: bool,
    },
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyOp {
    /// ADD, for messages.
    pub is_add: bool,
    /// In order; paths first, then heredocs.
    pub sources: Vec<CopySource>,
    /// Absolute, with its trailing `/` or `/.` when it has one.
    pub destination: String,
    /// `--chown` after expansion.
    pub chown: Option<String>,
    /// `--chmod` after expansion, checked.
    pub chmod: Option<String>,
    /// `--link` (without `--chmod`, as BuildKit has it).
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns.
    pub excludes: Vec<String>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopySource {
    /// Whose files.
    pub from: SourceFrom,
    /// As written after expansion, below the source's root; unused for inline files and URLs.
    pub path: String,
    /// Archives are unpacked.
    pub unpack: bool,
}

/// Whose files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum SourceFrom {
    Input(Input),
    Inline { name: String, content: String },
    Url { url: String, file_name: String, checksum: Option<String> },
    Git { reference: String, keep_git_dir: Option<bool>, checksum: Option<String> },
}

/// WORKDIR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkdirOp {
    /// Absolute.
    pub path: String,
    /// Owner of what is made; empty for root.
    pub user: String,
}
