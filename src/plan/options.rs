//! What a plan depends on beside the Dockerfile.

use std::collections::BTreeMap;

use crate::{
    oci::{Digest, Image, Platform},
    plan::{BaseKey, NetworkMode},
};

/// What the caller asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, values known.
    pub build_args: BTreeMap<String, String>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// What the image is for.
    pub target_platform: Platform,
    /// False when nobody asked for a platform: the base image's may then be adopted.
    pub explicit_platform: bool,
    /// What this machine is.
    pub build_platform: Platform,
    /// Step names carry the platform.
    pub multi_platform: bool,
    /// `--build-context` by normalised name (see [`crate::plan::default_context`]).
    pub contexts: BTreeMap<String, ContextKind>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: stage names.
    pub no_cache_stages: Vec<String>,
    /// `--network`.
    pub network: NetworkMode,
    /// Whether `--network=host` of a RUN is allowed.
    pub allow_host_network: bool,
    /// Resolved `SOURCE_DATE_EPOCH=context` (git commit time of the context), when there is one.
    pub context_epoch: Option<i64>,
    /// The time of what `SOURCE_DATE_EPOCH` names otherwise (see [`crate::plan::epoch_source`]), when it has one.
    pub source_epoch: Option<i64>,
}

impl Default for Options {
    /// The last stage, for this machine.
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: Vec::new(),
            target_platform: Platform::host(),
            explicit_platform: false,
            build_platform: Platform::host(),
            multi_platform: false,
            contexts: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            network: NetworkMode::Default,
            allow_host_network: false,
            context_epoch: None,
            source_epoch: None,
        }
    }
}

/// What all RUN steps of a build have in common and no step's key holds.
#[derive(Debug, Clone, Default)]
pub struct RunDefaults {
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
}

/// `--ulimit name=soft:hard`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ulimit {
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// What a named context holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextKind {
    /// A directory, a git tree, an archive.
    Files,
    /// An image of a registry or of a layout.
    Image,
    /// `docker-image://scratch`.
    Scratch,
}

/// A resolved base image.
#[derive(Debug, Clone)]
pub struct Base {
    /// Config and layers.
    pub image: Image,
    /// Digest of its manifest.
    pub digest: Digest,
}

/// Resolved base images.
pub type Bases = BTreeMap<BaseKey, Base>;
