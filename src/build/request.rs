//! What a build is asked to do, what it works with and what it gives back.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use crate::{
    build::{
        Layer,
        key::CommonFacts,
        sources::{SourceOptions, Sources},
    },
    oci::{Image, Platform, Reference},
    plan::{Options, RunDefaults},
    registry::Client,
    sandbox::{Cancel, Entered, Rung},
    snapshot::{CompressPool, Ownership},
    store::{SnapshotId, Store},
    sys::limits::{memory_bytes, raise_open_files},
};

/// What a step may take up before fewer of them work at once.
const MEMORY_PER_STEP: u64 = 512 << 20;

/// One build. The default is an empty Dockerfile and an empty context, for no platform.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Text of the Dockerfile.
    pub dockerfile: String,
    /// The Dockerfile's name for messages.
    pub dockerfile_name: String,
    /// One per platform; they differ in their target platform only.
    pub plans: Vec<Options>,
    /// The main context.
    pub context: ContextSource,
    /// Named contexts by the names of `plans[..].contexts`.
    pub named_contexts: BTreeMap<String, ContextSource>,
    /// `--secret` values by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// `--ssh`: agents by id.
    pub ssh: BTreeMap<String, crate::sandbox::Agent>,
    /// What all RUN steps share.
    pub run_defaults: RunDefaults,
    /// What each RUN may use; in no key, as it decides whether a step works and not what it makes.
    pub limits: crate::sandbox::Limits,
    /// How long each RUN may take.
    pub timeout: Option<std::time::Duration>,
    /// How often a RUN that failed is tried again.
    pub retries: u32,
    /// Whom RUN steps trust beside those that their image does.
    pub authorities: Option<Arc<crate::build::Authorities>>,
    /// What of it the cache keys hold.
    pub common_facts: CommonFacts,
    /// Say why each step runs.
    pub explain: bool,
    /// When registries are asked.
    pub pull: PullPolicy,
    /// The lock file beside the Dockerfile.
    pub lock: Option<crate::build::Lock>,
    /// Take base images only as the lock says.
    pub locked: bool,
    /// How layers are written.
    pub layers: LayerPolicy,
    /// Some output is files: what is not needed as such need not be there as such.
    pub wants_files: bool,
    /// Writers of caches whose steps count, here too once they have been taken; all, if there are none.
    pub cache_trust: Vec<String>,
    /// Which steps are given to caches elsewhere: none, those of the result (`min`), all (`max`).
    pub cache_export: Option<CacheMode>,
}

/// Where files or an image come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ContextSource {
    /// No files at all.
    #[default]
    Empty,
    /// A directory, with the text of its ignore file and that file's name.
    Directory {
        /// Its path.
        path: PathBuf,
        /// Name and text of the ignore file.
        ignore: Option<(String, String)>,
    },
    /// A tree that was fetched for this build and goes with it; nothing in it is ignored.
    Fetched {
        /// Where it lies.
        path: PathBuf,
    },
    /// An image of a registry.
    Image(Reference),
    /// An image of an OCI layout on disk: directory, tag, digest.
    Layout {
        /// The layout's directory.
        path: PathBuf,
        /// `:tag`.
        tag: Option<String>,
        /// `@digest`.
        digest: Option<crate::oci::Digest>,
    },
}

/// When registries are asked about a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Once; what a tag pointed at is remembered.
    #[default]
    Missing,
    /// Each time.
    Always,
    /// Never.
    Offline,
}

/// How much goes to caches elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheMode {
    /// The layers of the result.
    Min,
    /// Those of all steps.
    Max,
}

/// How the layers of the result are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerPolicy {
    /// The version of the bytes: what an earlier one wrote is not the blob that this one would write.
    #[serde(default)]
    pub format: u32,
    /// Times later than this are set to it (`rewrite-timestamp`).
    pub clamp_to: Option<i64>,
    /// Earlier times are set to it too (`--reproducible`).
    #[serde(default)]
    pub all_times: bool,
    /// The compression.
    pub compression: crate::snapshot::Compression,
}

impl Default for LayerPolicy {
    fn default() -> Self {
        Self { format: crate::snapshot::LAYER_FORMAT, clamp_to: None, all_times: false, compression: Default::default() }
    }
}

/// What a build works with. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Blobs, snapshots, records.
    pub store: Store,
    /// Registries.
    pub client: Client,
    /// Files from the web and trees from git.
    pub sources: Arc<Sources>,
    /// RUN steps and copies at once.
    pub turns: crate::build::Turns,
    /// Layers that are unpacked at once.
    pub unpacking: Arc<tokio::sync::Semaphore>,
    /// Whether owners are set or written down.
    pub ownership: crate::snapshot::Ownership,
    /// Ends all running steps.
    pub cancel: Arc<crate::sandbox::Cancel>,
    /// No connection may be opened.
    pub offline: bool,
    /// Where rbuild stands, for the report.
    pub rung: String,
    /// The soft and hard limit of open files that RUN steps get.
    pub open_files: (u64, u64),
    /// Where emulators of other processors are looked for.
    pub search_path: Arc<[PathBuf]>,
    /// An image that has those that are not found there; named by digest.
    pub emulators: Option<Reference>,
    /// A cache elsewhere.
    pub remote: Option<Arc<dyn crate::build::RemoteCache>>,
    /// What must not get into anything that the build makes.
    pub secrets: Arc<crate::build::Secrets>,
    /// Threads that compress.
    pub pool: Arc<crate::snapshot::CompressPool>,
}

impl Services {
    /// The kind of a snapshot here. Where one id is mapped, owners are written down and not set: directories that were made
    /// the other way show owners that are nobody's.
    pub fn kind_of_snapshot(&self, kind: &str) -> String {
        match self.ownership {
            Ownership::Set => kind.to_owned(),
            Ownership::Record => format!("{kind}recorded"),
        }
    }

    /// The snapshot of what a step made.
    pub fn snapshot_of_step(&self, layer: &str) -> SnapshotId {
        SnapshotId::of_key(&self.kind_of_snapshot("step"), layer)
    }

    /// What a process needs to build in `store` where it stands after [`crate::sandbox::enter()`]: a thread for each core,
    /// emulators from nowhere, no cache elsewhere. Raises the process's limit of open files.
    pub fn new(store: Store, client: Client, entered: &Entered, sources: SourceOptions) -> std::io::Result<Self> {
        let threads = crate::sys::process::processors();
        Ok(Self {
            offline: sources.offline,
            sources: Arc::new(Sources::new(store.clone(), sources)),
            store,
            client,
            turns: crate::build::Turns::new(steps_at_once(threads)),
            // As many as are downloaded at once: most of them wait for the network.
            unpacking: Arc::new(tokio::sync::Semaphore::new(threads.max(6))),
            ownership: if matches!(entered.rung, Rung::Full | Rung::Chroot) { Ownership::Set } else { Ownership::Record },
            cancel: Arc::new(Cancel::new()?),
            open_files: raise_open_files(),
            remote: None,
            secrets: Arc::default(),
            search_path: Arc::new([]),
            emulators: None,
            rung: entered.rung.to_string(),
            pool: Arc::new(CompressPool::new(threads)),
        })
    }
}

/// As many steps as there are processors (std counts what the control group grants), but some that wait for the network
/// on a small machine, and no more than there is memory for.
fn steps_at_once(processors: usize) -> usize {
    let by_memory = memory_bytes().map_or(usize::MAX, |bytes| usize::try_from(bytes / MEMORY_PER_STEP).unwrap_or(usize::MAX));
    processors.max(4).min(by_memory).max(1)
}

/// What came out.
pub struct Outcome {
    /// One per platform, in the order they were asked for.
    pub platforms: Vec<PlatformOutcome>,
}

/// The result for one platform.
pub struct PlatformOutcome {
    /// What it is for.
    pub platform: Platform,
    /// The image.
    pub image: Image,
    /// Its layers, bottom first, for what needs their files or blobs.
    pub stack: Vec<Arc<Layer>>,
    /// Its steps, for caches elsewhere.
    pub cache: Vec<crate::build::CacheEntry>,
    /// The layers that later builds may copy onto, for the same.
    pub known_layers: Vec<crate::build::KnownLayer>,
    /// `SOURCE_DATE_EPOCH` in force.
    pub epoch: Option<i64>,
    /// What came from elsewhere.
    pub materials: Vec<crate::build::Material>,
    /// The base image's name and digest, for annotations and reports.
    pub base: Option<(String, crate::oci::Digest)>,
    /// What the base says it is for, whatever was asked for.
    pub base_platform: Option<Platform>,
}
