//! The command line as it is typed. Meanings are given in the verb's own file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use super::complete;

/// Builds a Dockerfile into an OCI image: no daemon, no root, no set-up.
#[derive(Debug, Parser)]
#[command(name = "rbuild", version, max_term_width = 110, arg_required_else_help = false, disable_help_subcommand = true)]
pub struct Cli<V: Subcommand = Verb> {
    /// Where images, layers and caches are kept [default: $XDG_DATA_HOME/rbuild]
    #[arg(long, global = true, env = "RBUILD_STORE", value_name = "DIR", hide_env = false)]
    pub store: Option<PathBuf>,
    /// Stand on this rung of the privilege ladder (`rbuild help rungs`)
    #[arg(long, global = true, env = "RBUILD_RUNG", value_name = "auto|full|single|chroot|copy", default_value = "auto")]
    pub rung: String,
    /// Image with static qemu-user for what this machine has no emulator for (`rbuild help platforms`)
    #[arg(long, global = true, env = "RBUILD_EMULATORS", value_name = "IMAGE@DIGEST")]
    pub emulators: Option<String>,
    /// What to do; `build` when it is left out
    #[command(subcommand)]
    pub verb: V,
    /// What `rbuild kaniko` says of registries.
    #[arg(skip)]
    pub registries: super::services::RegistryAdjustments,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build an image from a Dockerfile (the verb may be left out)
    Build(Box<BuildArgs>),
    /// Show what a build would do: stages, steps, what is cached; as text, JSON, SVG or for Graphviz
    Plan(Box<super::plan::PlanArgs>),
    /// Build again whenever a file changes that the build uses, and restart the container
    Watch(Box<super::watch::WatchArgs>),
    /// Run a command in an image of the store
    Run(RunArgs),
    /// Open a shell where a step failed, or in an image
    Shell(crate::cli::shell::ShellArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Give an image of the store more names
    Tag(super::images::TagArgs),
    /// Take names of images away
    Rm(super::images::RemoveArgs),
    /// Write an image of the store as an archive
    Save(super::images::SaveArgs),
    /// Copy an image between the store, registries, layouts and archives
    Copy(super::copy::CopyArgs),
    /// Show an image's manifest, config and layers, and what they waste
    Inspect(super::inspect::InspectArgs),
    /// Show how an image was made
    History(super::inspect::HistoryArgs),
    /// Print which packages are in an image, as an SPDX document
    Sbom(super::sbom::SbomArgs),
    /// Show what differs between two images, and in which layer
    Diff(super::diff::DiffArgs),
    /// Build an image again and show what came out differently
    Verify(super::verify::VerifyArgs),
    /// Join images of several platforms
    Index(super::index::IndexArgs),
    /// Push an image of the store to its registry
    Push(super::push::PushArgs),
    /// Write down in rbuild.lock what the base images stand for now
    Lock(Box<BuildArgs>),
    /// List, export and import cache mounts (RUN --mount=type=cache)
    Cache(super::cache_mounts::CacheArgs),
    /// What the store takes up
    Du(super::upkeep::DuArgs),
    /// Remove what the store can do without
    Prune(super::upkeep::PruneArgs),
    /// Check that everything in the store is whole
    Fsck(super::upkeep::FsckArgs),
    /// Show the whole output of the steps of a build
    Logs(super::history::LogsArgs),
    /// Show a build: timeline, critical path, cache, sizes; as text, a page or JSON
    Report(super::report::ReportArgs),
    /// Say why the steps of a build ran
    Why(super::history::WhyArgs),
    /// Say what rbuild can do here, what stands in the way and what would help
    Doctor(super::doctor::DoctorArgs),
    /// Log in to a registry
    Login(super::login::LoginArgs),
    /// Forget the login at a registry
    Logout(super::login::LogoutArgs),
    /// Help of a verb or about a topic: flags, caches, outputs, attestations, platforms, rungs, secrets, reproducibility, progress, report
    Help(super::topics::HelpArgs),
    /// Print a completion script for a shell
    Completions(super::topics::CompletionsArgs),
    /// Write man pages
    Man(super::topics::ManArgs),
    /// Build with the flags of kaniko's executor
    Kaniko(super::kaniko::KanikoArgs),
    /// Print the tree of a Dockerfile as JSON
    Parse(ParseArgs),
}

/// `rbuild build`. Of a flag that has one value, the last counts, as with docker: scripts append theirs.
#[derive(Debug, Args, Clone)]
#[command(args_override_self = true)]
pub struct BuildArgs {
    /// Context: a directory, a git URL, an archive's URL, or `-` (an archive or a Dockerfile on standard input)
    #[arg(default_value = ".", value_name = "PATH|URL|-", value_hint = clap::ValueHint::DirPath)]
    pub context: String,
    /// Dockerfile [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH|URL|-", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<String>,
    /// Name of the image; repeatable
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<String>,
    /// Give the image a tag made of its digest too, beside each --tag
    #[arg(long)]
    pub tag_digest: bool,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE", add = ArgValueCandidates::new(complete::stages))]
    pub target: Option<String>,
    /// Value of an ARG; without `=` it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,
    /// Platforms to build for, such as linux/amd64,linux/arm64
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub platforms: Vec<String>,
    /// The same digest wherever and whenever it is built: times from SOURCE_DATE_EPOCH, else the context's commit, else 0
    #[arg(long)]
    pub reproducible: bool,
    /// Programs of another processor than the image's are not an error
    #[arg(long)]
    pub allow_foreign: bool,
    /// State how the image was made: true, false, or mode=min|max,version=v1|v0.2,builder-id=URI [default: mode=min for what is pushed]
    #[arg(long, value_name = "mode=min|max", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub provenance: Option<String>,
    /// State which packages are in the image (SPDX)
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub sbom: Option<String>,
    /// A statement about the image: type=provenance|sbom[,KEY=VALUE..]; repeatable
    #[arg(long = "attest", value_name = "type=sbom|provenance,..")]
    pub attest: Vec<String>,
    /// How statements go with a pushed image: beside it (referrer), or as entries of an index above it (index)
    #[arg(long, value_name = "referrer|index", default_value = "referrer", env = "RBUILD_ATTEST_FORM")]
    pub attest_form: String,
    /// Take steps from a cache: REF, type=registry,ref=REF, type=local,src=DIR or type=s3,bucket=B; repeatable
    #[arg(long = "cache-from", value_name = "REF|type=..")]
    pub cache_from: Vec<String>,
    /// Give steps to a cache: REF, type=registry,ref=REF, type=local,dest=DIR, type=s3,bucket=B (each: mode=max) or type=inline; repeatable
    #[arg(long = "cache-to", value_name = "REF|type=..")]
    pub cache_to: Vec<String>,
    /// Who we are for those who take steps from our caches
    #[arg(long, value_name = "NAME", env = "RBUILD_CACHE_WRITER")]
    pub cache_writer: Option<String>,
    /// Take steps of these writers only [default: of any]
    #[arg(long = "cache-trust", value_name = "NAME", value_delimiter = ',', env = "RBUILD_CACHE_TRUST")]
    pub cache_trust: Vec<String>,
    /// Run every step again
    #[arg(long)]
    pub no_cache: bool,
    /// Run every step of these stages again
    #[arg(long, value_name = "STAGE", value_delimiter = ',', add = ArgValueCandidates::new(complete::stages))]
    pub no_cache_filter: Vec<String>,
    /// Where the result goes: type=oci|docker|tar|local|image|registry|cacheonly,dest=PATH,...; repeatable
    #[arg(short, long = "output", value_name = "TYPE")]
    pub outputs: Vec<String>,
    /// Push the image to its registry (-o type=registry)
    #[arg(long)]
    pub push: bool,
    /// Load the image into docker, podman or containerd, whichever answers first (-o type=docker)
    #[arg(long)]
    pub load: bool,
    /// How progress is shown
    #[arg(long, env = "BUILDKIT_PROGRESS", value_name = "auto|plain|tty|quiet|rawjson", default_value = "auto", add = ArgValueCandidates::new(complete::progress))]
    pub progress: String,
    /// Print only the image's digest
    #[arg(short, long)]
    pub quiet: bool,
    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write the result's metadata to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Write warnings and the error to a file, as a code quality report: GitLab marks the lines of a merge request
    #[arg(long, value_name = "FILE")]
    pub code_quality: Option<PathBuf>,
    /// Another context: a directory, git or http URL, oci-layout://DIR, docker-image://REF
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub build_contexts: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Annotation of the manifest ([index:]NAME=VALUE)
    #[arg(long = "annotation", value_name = "[TYPE:]NAME=VALUE")]
    pub annotations: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=ID[,src=FILE|env=NAME]
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|env=NAME]")]
    pub secrets: Vec<String>,
    /// For RUN --mount=type=ssh and git by ssh: default (your agent), an agent's socket, or files with keys
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET|KEY,..]")]
    pub ssh: Vec<String>,
    /// Network of RUN steps
    #[arg(long, value_name = "default|none|host", default_value = "default")]
    pub network: String,
    /// Extra permission: network.host, or secret.NAME for a value that may be in the image
    #[arg(long = "allow", value_name = "PERMISSION", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Extra line of /etc/hosts in RUN steps; host-gateway is this machine
    #[arg(long = "add-host", value_name = "HOST:IP|host-gateway")]
    pub add_hosts: Vec<String>,
    /// Size of /dev/shm in RUN steps
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Limit of RUN steps, such as nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub ulimits: Vec<String>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Certificates of authorities that RUN steps and rbuild itself trust too, as PEM; in no layer; repeatable
    #[arg(long = "ca", value_name = "FILE")]
    pub authorities: Vec<PathBuf>,
    /// Say why each step that runs was not cached
    #[arg(long)]
    pub explain: bool,
    /// Clean up the store after the build until it is no larger
    #[arg(long, env = "RBUILD_STORE_MAX", value_name = "BYTES")]
    pub store_max: Option<String>,
    /// What to do when a RUN fails: end, or open a shell where it failed
    #[arg(long, value_name = "end|shell", default_value = "end", add = ArgValueCandidates::new(complete::on_error))]
    pub on_error: String,
    /// Bring a file or directory out of a RUN that fails; repeatable
    #[arg(long = "on-error-copy", value_name = "PATH:DEST")]
    pub on_error_copy: Vec<String>,
    /// Ask registries again for every base image
    #[arg(long)]
    pub pull: bool,
    /// Take base images exactly as rbuild.lock says, or fail
    #[arg(long)]
    pub locked: bool,
    /// Open no connection; what is not in the store is an error
    #[arg(long)]
    pub offline: bool,
    /// Check the Dockerfile and build nothing (--call=check)
    #[arg(long)]
    pub check: bool,
    /// What to do with the Dockerfile: build, check, outline or targets (with ,format=json)
    #[arg(long, value_name = "METHOD", default_value = "build", add = ArgValueCandidates::new(complete::call))]
    pub call: String,
}

/// What each RUN step may use.
#[derive(Debug, Args, Clone, Default)]
pub struct LimitArgs {
    /// Memory of each RUN step, such as 2g
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 for any amount of swap [default: twice the memory]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors of each RUN step, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Length of a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Weight of RUN steps against others; everybody's is 1024
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Processors that RUN steps may use, such as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that RUN steps may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes of each RUN step; -1 for any number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// End a RUN step that takes longer, such as 10m
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Try a RUN step that fails so often again
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub retry: u32,
}

/// `rbuild run`.
#[derive(Debug, Args, Clone)]
pub struct RunArgs {
    /// Image of the store, by name or digest
    #[arg(add = ArgValueCandidates::new(complete::images))]
    pub image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// The image for this platform [default: ours, else the first of the index]
    #[arg(long)]
    pub platform: Option<String>,
    /// What the container gets
    #[command(flatten)]
    pub container: ContainerArgs,
    /// Network of the container [default: host, or a private one where ports are published]
    #[arg(long, value_name = "default|none|host")]
    pub network: Option<String>,
    /// Accepted for compatibility: containers never stay
    #[arg(long)]
    pub rm: bool,
    /// Keep standard input open (it always is)
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Refused: there is no daemon that would keep it
    #[arg(short, long, hide = true)]
    pub detach: bool,
}

/// What a container gets, of `rbuild run` and `rbuild watch --run`.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Container")]
pub struct ContainerArgs {
    /// Variable: NAME=VALUE, or NAME to pass ours on
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Variables from the lines of a file
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Host name of the container
    #[arg(long)]
    pub hostname: Option<String>,
    /// User instead of the image's
    #[arg(short, long)]
    pub user: Option<String>,
    /// Working directory instead of the image's
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Program instead of the image's entrypoint
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Port of the container that a port here leads to
    #[arg(short, long = "publish", value_name = "[[ADDRESS:]PORT:]PORT[/udp]")]
    pub publish: Vec<String>,
    /// Mount a file or directory: SOURCE:TARGET[:ro]
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub volumes: Vec<String>,
}

/// `rbuild parse`.
#[derive(Debug, Args, Clone)]
pub struct ParseArgs {
    /// Dockerfile, or `-` for standard input
    #[arg(default_value = "Dockerfile", value_name = "FILE")]
    pub file: String,
}

/// `rbuild images`.
#[derive(Debug, Args, Clone)]
pub struct ImagesArgs {
    /// Only these
    #[arg(value_name = "NAME[:TAG]", add = ArgValueCandidates::new(complete::images))]
    pub names: Vec<String>,
    /// Fetch the layers of their bases that nothing has needed yet
    #[arg(long)]
    pub fetch: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_repeated_flag_the_last_counts_and_lists_grow() {
        let words =
            ["rbuild", "build", "-f", "a", "-t", "x", "-f", "b", "-t", "y", "--pull", "--pull", "--build-arg", "a=1", "--build-arg", "b"];
        let cli = Cli::try_parse_from(words).unwrap();
        let Verb::Build(args) = cli.verb else { panic!("not a build") };
        assert_eq!(args.file.as_deref(), Some("b"));
        assert_eq!((args.tags, args.build_args), (vec!["x".to_owned(), "y".to_owned()], vec!["a=1".to_owned(), "b".to_owned()]));
    }
}
