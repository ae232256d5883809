//! kaniko's flags as they are typed (GoogleContainerTools/kaniko v1.24, cmd/executor/cmd/root.go, and its forks).

use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser};

use crate::{cli::failure::Failure, oci::Reference};

/// Flags that steer what rbuild does not do: how the running container's own file system is walked and cleaned, and
/// retries, which are built in. With whether a value follows.
const IDLE: [(&str, bool); 31] = [
    ("cache-copy-layers", false),
    ("cache-dir", true),
    ("cache-run-layers", false),
    ("cache-ttl", true),
    ("cleanup", false),
    ("compressed-caching", false),
    ("credential-helpers", true),
    ("force", false),
    ("force-build-metadata", false),
    ("ignore-var-run", false),
    ("image-download-retry", true),
    ("image-fs-extract-retry", true),
    ("initial-fs-unpacked", false),
    ("kaniko-dir", true),
    ("log-format", true),
    ("log-timestamp", false),
    ("materialize", false),
    ("pre-cleanup", false),
    ("preserve-context", false),
    ("push-ignore-immutable-tag-errors", false),
    ("push-retry", true),
    ("registry-client-cert", true),
    ("skip-default-registry-fallback", false),
    ("skip-push-permission-check", false),
    ("skip-unused-stages", false),
    ("snapshot-mode", true),
    ("snapshotMode", true),
    ("use-new-run", false),
    ("verbosity", true),
    ("use-oci-stages", false),
    ("whitelist-var-run", false),
];

/// Builds with the flags of kaniko's executor
#[derive(Debug, Parser)]
#[command(max_term_width = 110, args_override_self = true)]
pub struct Executor {
    /// Context: a directory, dir://, tar://FILE, tar://stdin, git://, https:// (an archive)
    #[arg(short, long, default_value = "/workspace/")]
    pub context: String,
    /// Directory within the context that is the context
    #[arg(long, value_name = "DIR", visible_alias = "sub-path")]
    pub context_sub_path: Option<String>,
    /// Dockerfile, from the working directory or the context
    #[arg(short = 'f', long, default_value = "Dockerfile")]
    pub dockerfile: String,
    /// Name under which the image is pushed; repeatable
    #[arg(short, long = "destination", value_name = "NAME[:TAG]")]
    pub destinations: Vec<String>,
    /// Do not push
    #[arg(long, visible_alias = "noPush", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub no_push: bool,
    /// Value of an ARG; repeatable
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub build_args: Vec<String>,
    /// Stage to build
    #[arg(long)]
    pub target: Option<String>,
    /// Label of the image; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Annotation of the manifest; repeatable
    #[arg(long = "annotation", value_name = "NAME=VALUE")]
    pub annotations: Vec<String>,
    /// A secret for RUN --mount=type=secret; repeatable
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|env=NAME]")]
    pub secrets: Vec<String>,
    /// Platform to build for
    #[arg(long, visible_alias = "customPlatform", value_name = "PLATFORM")]
    pub custom_platform: Option<String>,
    /// Take steps from the cache repository, and give it new ones
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub cache: bool,
    /// Repository of the cache, or oci:DIR [default: the first destination's, with /cache]
    #[arg(long, value_name = "REPOSITORY")]
    pub cache_repo: Option<String>,
    /// Give the cache repository nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub no_push_cache: bool,
    /// Compression of layers
    #[arg(long, value_name = "gzip|zstd")]
    pub compression: Option<String>,
    /// Level of the compression
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub compression_level: Option<i32>,
    /// Write the image as an archive for docker load
    #[arg(long, visible_alias = "tarPath", value_name = "FILE")]
    pub tar_path: Option<PathBuf>,
    /// Write the image as an OCI layout
    #[arg(long, value_name = "DIR")]
    pub oci_layout_path: Option<PathBuf>,
    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Write the image's names with its digest, a line each, to a file
    #[arg(long, value_name = "FILE")]
    pub image_name_with_digest_file: Option<PathBuf>,
    /// Write the image's names with tag and digest, a line each, to a file
    #[arg(long, value_name = "FILE")]
    pub image_name_tag_with_digest_file: Option<PathBuf>,
    /// Times of the image do not depend on the clock
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub reproducible: bool,
    /// One layer for the whole build; layers stay one a step here
    #[arg(long, visible_alias = "singleSnapshot", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub single_snapshot: bool,
    /// Paths that layers leave out; what a step writes is kept here
    #[arg(long = "ignore-path", value_name = "PATH")]
    pub ignore_paths: Vec<String>,
    /// Push by plain http or unverified TLS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub insecure: bool,
    /// Pull by plain http or unverified TLS
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub insecure_pull: bool,
    /// Push by TLS that is not verified
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub skip_tls_verify: bool,
    /// Pull by TLS that is not verified
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    pub skip_tls_verify_pull: bool,
    /// Registry reached by plain http or unverified TLS; repeatable
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,
    /// Registry whose TLS is not verified; repeatable
    #[arg(long = "skip-tls-verify-registry", value_name = "HOST")]
    pub skip_tls_verify_registries: Vec<String>,
    /// Certificate of a registry; repeatable
    #[arg(long = "registry-certificate", value_name = "HOST=FILE")]
    pub registry_certificates: Vec<String>,
    /// Registry asked before docker.io; repeatable
    #[arg(long = "registry-mirror", value_name = "HOST", env = "KANIKO_REGISTRY_MIRROR", value_delimiter = ',')]
    pub registry_mirrors: Vec<String>,
    /// Registries asked in place of another: HOST=OTHER[;HOST=OTHER]; repeatable
    #[arg(long = "registry-map", value_name = "HOST=OTHER", env = "KANIKO_REGISTRY_MAP", value_delimiter = ';')]
    pub registry_maps: Vec<String>,
    /// How git contexts are fetched: branch=NAME
    #[arg(long, value_name = "OPTIONS")]
    pub git: Option<String>,
}

impl Executor {
    /// The files that tell the digest, and what they hold.
    pub fn digest_files(&self, digest: &str) -> Vec<(&Path, String)> {
        let names = |of: &dyn Fn(&Reference) -> String| -> String {
            let parsed = self.destinations.iter().filter_map(|name| name.parse::<Reference>().ok());
            parsed.map(|name| format!("{}@{digest}\n", of(&name))).collect()
        };
        let mut files = Vec::new();
        files.extend(self.digest_file.as_deref().map(|path| (path, digest.to_owned())));
        files.extend(self.image_name_with_digest_file.as_deref().map(|path| (path, names(&|name| repository(name)))));
        let with_tag = |name: &Reference| format!("{}:{}", repository(name), name.tag().unwrap_or("latest"));
        files.extend(self.image_name_tag_with_digest_file.as_deref().map(|path| (path, names(&with_tag))));
        files
    }
}

/// Registry and path of a name. Docker's hub is `index.docker.io`, as kaniko's library writes it.
pub fn repository(name: &Reference) -> String {
    let host = if name.registry() == "docker.io" { "index.docker.io" } else { name.registry() };
    format!("{host}/{}", name.repository())
}

/// The words without the flags that have nothing to do here, and those flags.
pub fn without_idle(words: &[String]) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut kept, mut idle) = (Vec::new(), Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let name = word.strip_prefix("--").map(|text| text.split('=').next().unwrap_or(text));
        let short = word.starts_with("-v") && !word.starts_with("--");
        let known = IDLE.iter().find(|(flag, _)| name == Some(flag) || (short && *flag == "verbosity"));
        let Some((flag, has_value)) = known else {
            kept.push(word.clone());
            continue;
        };
        let has_own_value = if short { word.len() > 2 } else { word.contains('=') };
        if *has_value && !has_own_value && rest.next().is_none() {
            return Err(Failure::usage(format!("--{flag} needs a value")));
        }
        let flag = format!("--{flag}");
        if !idle.contains(&flag) {
            idle.push(flag);
        }
    }
    Ok((kept, idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn idle_flags_go_with_their_values() {
        let (kept, idle) =
            without_idle(&words("-c x --snapshot-mode redo -v=debug --cache-ttl=24h -v info --cleanup --cache=true")).unwrap();
        assert_eq!(kept, words("-c x --cache=true"));
        assert_eq!(idle, ["--snapshot-mode", "--verbosity", "--cache-ttl", "--cleanup"]);
        assert!(without_idle(&words("--push-retry")).is_err());
    }

    #[test]
    fn no_flag_is_both_idle_and_known() {
        use clap::CommandFactory;
        let command = Executor::command();
        command.clone().debug_assert();
        for (flag, _) in IDLE {
            assert!(command.get_arguments().all(|argument| argument.get_long() != Some(flag)), "{flag}");
        }
    }

    #[test]
    fn digest_files_hold_what_kanikos_do() {
        let executor = Executor::parse_from(words(
            "k -d r.example/a/b:1 -d busybox --digest-file d --image-name-with-digest-file n --image-name-tag-with-digest-file t",
        ));
        let files = executor.digest_files("sha256:ab");
        assert_eq!(files[0], (Path::new("d"), "sha256:ab".to_owned()));
        assert_eq!(files[1].1, "r.example/a/b@sha256:ab\nindex.docker.io/library/busybox@sha256:ab\n");
        assert_eq!(files[2].1, "r.example/a/b:1@sha256:ab\nindex.docker.io/library/busybox:latest@sha256:ab\n");
    }
}
