//! What is written down of a build, as JSON for tools and people. Unaware of how it comes about.
//!
//! `builds/<id>/report.json` of the store, what `rbuild logs --json` prints. Fields are only added; one that changes its
//! meaning raises [`FORMAT`]. Times are milliseconds after the build began. A step waits for its `inputs`, is `ready_ms`
//! when they are there and its key is known, gets a `worker` at `started_ms` and gives it back `duration_ms` later; its
//! layer is packed after that, beside later steps. The critical path is the chain of `inputs` that ends last.

use serde::{Deserialize, Serialize};

use crate::build::explain::Why;

/// Version of the format.
pub const FORMAT: u32 = 1;

/// One build.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Version of the format.
    #[serde(default)]
    pub format: u32,
    /// Name of the build's directory.
    pub id: String,
    /// Version of rbuild.
    pub version: String,
    /// When it began.
    pub started: jiff::Timestamp,
    /// How long it took, outputs not counted.
    pub duration_ms: u64,
    /// Whether there is a result.
    pub succeeded: bool,
    /// Why not.
    pub error: Option<String>,
    /// The Dockerfile as it was named.
    pub dockerfile: String,
    /// Where rbuild stood: `full`, `single`, ..
    pub rung: String,
    /// What was built, in the order it was asked for.
    pub platforms: Vec<String>,
    /// What was said of the build as a whole: warnings, fall-backs.
    pub notes: Vec<String>,
    /// Processor time in user mode of rbuild itself: keys, copies, layers; not of RUN's processes.
    #[serde(default)]
    pub user_us: u64,
    /// Processor time in the kernel of rbuild itself.
    #[serde(default)]
    pub system_us: u64,
    /// Largest resident set of rbuild itself.
    #[serde(default)]
    pub max_rss_kb: u64,
    /// Every step, in the order of the Dockerfile.
    pub steps: Vec<StepReport>,
    /// The image of each platform, if the build came so far.
    #[serde(default)]
    pub results: Vec<ResultReport>,
}

/// The image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultReport {
    /// What it is for.
    pub platform: String,
    /// Bottom first, those of its base too.
    pub layers: Vec<LayerReport>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Its blob and its tar.
    #[serde(flatten)]
    pub layer: crate::oci::Layer,
    /// The instruction that made it, as the image's history has it.
    pub created_by: String,
}

/// One step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StepReport {
    /// Its number in the build's output.
    pub step: usize,
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// The stage's name, or `stage-N`.
    #[serde(default)]
    pub stage: String,
    /// `FROM`, `RUN`, `COPY`, `ADD` or `WORKDIR`.
    #[serde(default)]
    pub instruction: String,
    /// The line of the Dockerfile where it begins.
    #[serde(default)]
    pub line: usize,
    /// Numbers of the steps whose results it needs, its parent first.
    #[serde(default)]
    pub inputs: Vec<usize>,
    /// What it runs on.
    pub platform: String,
    /// How it ended.
    pub result: StepResult,
    /// By which key it was found, if it was taken from a cache.
    #[serde(default)]
    pub hit: Option<Hit>,
    /// Why it was not taken from the cache.
    pub why: Option<Why>,
    /// Its cache key, as far as it was worked out.
    pub key: Option<String>,
    /// When all that it needs was there and it began to wait for a worker; for a hit, when that was known.
    #[serde(default)]
    pub ready_ms: u64,
    /// When it began, after the build did.
    pub started_ms: u64,
    /// How long it worked.
    pub duration_ms: u64,
    /// Which of the workers did it; those that are free are taken from 0 on. None if there was nothing to do.
    #[serde(default)]
    pub worker: Option<usize>,
    /// Bytes that were moved on its behalf: pulled by a FROM, copied by a COPY or ADD.
    pub bytes_in: u64,
    /// Size of its layer's blob, when it was written.
    pub bytes_out: u64,
    /// When its layer's blob began to be made, if this build made it.
    #[serde(default)]
    pub pack_started_ms: Option<u64>,
    /// How long that took.
    #[serde(default)]
    pub pack_ms: u64,
    /// What was pulled for it.
    #[serde(default)]
    pub transfers: Vec<Transfer>,
    /// Processor time in user mode: of RUN's processes, of the thread that copied.
    pub user_us: u64,
    /// Processor time in the kernel.
    pub system_us: u64,
    /// Largest resident set of one of RUN's processes; 0 for what rbuild does itself.
    pub max_rss_kb: u64,
    /// Digest of its layer's blob, when it was written.
    pub digest: Option<String>,
    /// Digest of its layer's tar.
    pub diff_id: Option<String>,
    /// How much it wrote to standard output and standard error.
    pub output_bytes: u64,
    /// The file with all of that, below the build's directory.
    pub log: Option<String>,
    /// What was said of it.
    pub notes: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Something that was pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// `pull sha256:0123456789ab`.
    pub what: String,
    /// When its first bytes came.
    pub started_ms: u64,
    /// When its last bytes came.
    pub ended_ms: u64,
    /// How many.
    pub bytes: u64,
}

/// How a result was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hit {
    /// By its definition: the same text, parent and contexts, and input stages with the results they had.
    Definition,
    /// By the content it uses: an input stage has another result, with equal files.
    Content,
    /// In a cache of `--cache-from`.
    Remote,
    /// It was not looked up: what copies from it is cached.
    Unneeded,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum StepResult {
    #[default]
    NotReached,
    Running,
    Cached,
    Done,
    Failed,
    Cancelled,
}
