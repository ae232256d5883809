//! What is written down of a build, as JSON for tools and people. Unaware of how it comes about.

use serde::{Deserialize, Serialize};

use crate::build::explain::Why;

/// One build.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
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
    /// Every step, in the order of the Dockerfile.
    pub steps: Vec<StepReport>,
}

/// One step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StepReport {
    /// Its number in the build's output.
    pub step: usize,
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// What it runs on.
    pub platform: String,
    /// How it ended.
    pub result: StepResult,
    /// Why it was not taken from the cache.
    pub why: Option<Why>,
    /// Its cache key, as far as it was worked out.
    pub key: Option<String>,
    /// When it began, after the build did.
    pub started_ms: u64,
    /// How long it worked.
    pub duration_ms: u64,
    /// Bytes that were moved on its behalf: pulled, copied.
    pub bytes_in: u64,
    /// Size of its layer's blob, when it was written.
    pub bytes_out: u64,
    /// Processor time in user mode of its processes.
    pub user_us: u64,
    /// Processor time in the kernel of its processes.
    pub system_us: u64,
    /// Largest resident set of a process.
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
