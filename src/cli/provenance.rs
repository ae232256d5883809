//! How an image was made, as an in-toto statement with SLSA's predicate in BuildKit's terms. Mode `min` has neither values
//! of build arguments nor the Dockerfile; no mode has a secret.

use std::{collections::BTreeMap, path::Path, process::Command};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::{
    build::{Material, MaterialKind},
    cli::{
        args::BuildArgs,
        attest::{Attester, Subjects},
        failure::Failure,
        outputs::fields,
    },
    context::redact_url,
    oci::{Platform, Reference},
};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Mode {
    #[default]
    Min,
    Max,
}

/// SLSA's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Version {
    V02,
    #[default]
    V1,
}

/// `--provenance`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Options {
    pub mode: Mode,
    pub version: Version,
    pub builder_id: Option<String>,
    /// The user says that the build is reproducible.
    pub is_reproducible: bool,
}

impl Options {
    /// The flag's value; None when nothing is to be said.
    pub fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let mut options = Self::default();
        let mut is_wanted = true;
        for field in fields(text) {
            let (key, value) = field.split_once('=').unwrap_or((field.as_str(), ""));
            match (key, value) {
                ("" | "true" | "1", "") | ("disabled" | "inline-only", "false" | "0") => {}
                // Outputs that have no place for statements get none unless it is asked for.
                ("inline-only", "true" | "1") => {}
                ("false" | "0", "") | ("disabled", "true" | "1") => is_wanted = false,
                ("mode", "min") => options.mode = Mode::Min,
                ("mode", "max" | "full") => options.mode = Mode::Max,
                ("mode", other) => return Err(Failure::usage(format!("--provenance: invalid mode {other:?}")).with_hint("min or max")),
                ("version", "v1") => options.version = Version::V1,
                ("version", "v0.2") => options.version = Version::V02,
                ("version", other) => {
                    return Err(Failure::usage(format!("--provenance: invalid version {other:?}")).with_hint("v1 or v0.2"));
                }
                ("builder-id", id) => options.builder_id = Some(id.to_owned()),
                ("reproducible", "true" | "1") => options.is_reproducible = true,
                ("reproducible", "false" | "0") => options.is_reproducible = false,
                _ => {
                    let failure = Failure::usage(format!("--provenance: invalid `{field}`"));
                    return Err(failure.with_hint("true, false, mode=min|max, version=v1|v0.2, builder-id=URI, reproducible=true|false"));
                }
            }
        }
        Ok(is_wanted.then_some(options))
    }

    /// What the statement's predicate is.
    pub fn predicate_type(&self) -> &'static str {
        match self.version {
            Version::V02 => "https://slsa.dev/provenance/v0.2",
            Version::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// Where the main context is from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// A context that was fetched: its URL without credentials, algorithm and digest.
    pub fetched: Option<(String, (String, String))>,
    /// The repository that a local context is part of: its remote without credentials.
    pub remote: Option<String>,
    /// Its commit; `-dirty` when files that are tracked were changed.
    pub revision: Option<String>,
}

impl Source {
    /// Looks at the repository around a local context. Nothing that its configuration names is run.
    pub fn of_local(args: &BuildArgs) -> Self {
        let context = Path::new(&args.context);
        let is_in_git =
            context.is_dir() && std::path::absolute(context).is_ok_and(|path| path.ancestors().any(|path| path.join(".git").exists()));
        if !is_in_git {
            return Self::default();
        }
        let git = |words: &[&str]| {
            let output = Command::new("git").arg("-C").arg(context).args(["-c", "core.fsmonitor=false"]).args(words).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(text)
        };
        let remote = git(&["config", "--get", "remote.origin.url"]).filter(|text| !text.is_empty());
        // Compares what stat says with the index: no filter has to be run for that.
        let is_dirty = || git(&["diff-index", "--no-ext-diff", "--name-only", "HEAD", "--"]).is_some_and(|names| !names.is_empty());
        let revision = git(&["rev-parse", "--verify", "HEAD"]).map(|commit| if is_dirty() { format!("{commit}-dirty") } else { commit });
        Self { fetched: None, remote: remote.map(|remote| redact_url(&remote).into_owned()), revision }
    }
}

/// The statement.
pub fn statement(options: &Options, attester: &Attester<'_>, subjects: &Subjects) -> Vec<u8> {
    let predicate = match options.version {
        Version::V02 => predicate_v02(options, attester),
        Version::V1 => predicate_v1(options, attester),
    };
    let statement_type = match options.version {
        Version::V02 => "https://in-toto.io/Statement/v0.1",
        Version::V1 => "https://in-toto.io/Statement/v1",
    };
    let value = json!({
        "_type": statement_type,
        "predicateType": options.predicate_type(),
        "subject": subjects.json(),
        "predicate": predicate,
    });
    let text = serde_json::to_string_pretty(&value).expect("a JSON value");
    attester.secrets.mask(&text).into_owned().into_bytes()
}

fn predicate_v1(options: &Options, attester: &Attester<'_>) -> Value {
    let mut metadata = times(options, attester, ["startedOn", "finishedOn"]);
    metadata.insert("buildkit_metadata".to_owned(), more(options, attester));
    metadata.insert("buildkit_completeness".to_owned(), json!({ "request": options.mode == Mode::Max, "resolvedDependencies": false }));
    metadata.insert("buildkit_reproducible".to_owned(), json!(is_reproducible(options, attester)));
    let mut internal = json!({ "builderPlatform": Platform::host().to_string() });
    if options.mode == Mode::Max {
        internal["layers"] = layers(attester);
    }
    json!({
        "buildDefinition": {
            "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
            "externalParameters": { "configSource": config_source(attester, "path"), "request": request(options, attester) },
            "internalParameters": internal,
            "resolvedDependencies": materials(options, attester),
        },
        "runDetails": { "builder": builder(options), "metadata": metadata },
    })
}

fn predicate_v02(options: &Options, attester: &Attester<'_>) -> Value {
    let mut metadata = times(options, attester, ["buildStartedOn", "buildFinishedOn"]);
    let complete = json!({ "parameters": options.mode == Mode::Max, "environment": true, "materials": false });
    metadata.insert("completeness".to_owned(), complete);
    metadata.insert("reproducible".to_owned(), json!(is_reproducible(options, attester)));
    let mut more = more(options, attester);
    if options.mode == Mode::Max {
        more["layers"] = layers(attester);
    }
    metadata.insert("https://mobyproject.org/buildkit@v1#metadata".to_owned(), more);
    json!({
        "builder": builder(options),
        "buildType": "https://mobyproject.org/buildkit@v1",
        "materials": materials(options, attester),
        "invocation": {
            "configSource": config_source(attester, "entryPoint"),
            "parameters": request(options, attester),
            "environment": { "platform": Platform::host().to_string() },
        },
        "metadata": metadata,
    })
}

fn builder(options: &Options) -> Value {
    let own = || concat!("pkg:cargo/rbuild@", env!("CARGO_PKG_VERSION")).to_owned();
    json!({ "id": options.builder_id.clone().unwrap_or_else(own) })
}

/// A build whose result is the same each time has a statement that is.
fn times(options: &Options, attester: &Attester<'_>, names: [&str; 2]) -> Map<String, Value> {
    let mut map = Map::new();
    if !is_reproducible(options, attester) {
        map.insert(names[0].to_owned(), json!(attester.started.to_string()));
        map.insert(names[1].to_owned(), json!(jiff::Timestamp::now().to_string()));
    }
    map
}

fn is_reproducible(options: &Options, attester: &Attester<'_>) -> bool {
    options.is_reproducible || attester.args.reproducible
}

/// The context and where the Dockerfile is in it; a local one has no address that others could use.
fn config_source(attester: &Attester<'_>, path: &str) -> Value {
    let mut map = Map::new();
    if let Some((uri, (algorithm, digest))) = &attester.source.fetched {
        map.insert("uri".to_owned(), json!(uri));
        map.insert("digest".to_owned(), json!({ algorithm: digest }));
    }
    let file = attester.args.file.as_deref().map_or("Dockerfile", |file| file);
    let is_absolute = Path::new(file).is_absolute();
    let name = if is_absolute {
        Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned()
    } else {
        redact_url(file).into_owned()
    };
    map.insert(path.to_owned(), json!(name));
    Value::Object(map)
}

fn request(options: &Options, attester: &Attester<'_>) -> Value {
    let (args, request) = (attester.args, attester.request);
    let mut words = BTreeMap::new();
    if let Some(target) = args.target.as_ref().filter(|target| !target.is_empty()) {
        words.insert("target".to_owned(), target.clone());
    }
    if !args.platforms.is_empty() {
        words.insert("platform".to_owned(), args.platforms.join(","));
    }
    if options.mode == Mode::Max {
        for (name, value) in request.plans.first().map(|plan| plan.build_args.clone()).unwrap_or_default() {
            words.insert(format!("build-arg:{name}"), value);
        }
        for label in &args.labels {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            words.insert(format!("label:{name}"), value.to_owned());
        }
    }
    let named = |ids: Vec<&String>| -> Vec<Value> { ids.into_iter().map(|id| json!({ "id": id })).collect() };
    let mut value = json!({ "frontend": "dockerfile.v0", "args": words });
    if !request.secrets.is_empty() {
        value["secrets"] = json!(named(request.secrets.keys().collect()));
    }
    if !request.ssh.is_empty() {
        value["ssh"] = json!(named(request.ssh.keys().collect()));
    }
    if attester.source.fetched.is_none() {
        value["locals"] = json!([{ "name": "context" }, { "name": "dockerfile" }]);
    }
    value
}

fn more(options: &Options, attester: &Attester<'_>) -> Value {
    let mut map = Map::new();
    let vcs: BTreeMap<&str, &String> = [("source", &attester.source.remote), ("revision", &attester.source.revision)]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?)))
        .collect();
    if !vcs.is_empty() {
        map.insert("vcs".to_owned(), json!(vcs));
    }
    if options.mode == Mode::Max {
        let data = base64::engine::general_purpose::STANDARD.encode(attester.secrets.mask(&attester.request.dockerfile).as_bytes());
        let info = json!({ "filename": attester.request.dockerfile_name, "language": "Dockerfile", "data": data });
        map.insert("source".to_owned(), json!({ "infos": [info] }));
    }
    Value::Object(map)
}

fn layers(attester: &Attester<'_>) -> Value {
    let layers = attester.outcome.platforms.iter().flat_map(|platform| &platform.image.layers);
    json!(layers.map(|layer| layer.descriptor.digest.to_string()).collect::<Vec<_>>())
}

/// Base images of all stages, files from the web, repositories, and the context if it was fetched; each once.
fn materials(options: &Options, attester: &Attester<'_>) -> Value {
    let mut list: Vec<Value> = Vec::new();
    for material in attester.outcome.platforms.iter().flat_map(|platform| &platform.materials) {
        let value = self::material(options, attester, material);
        if !list.contains(&value) {
            list.push(value);
        }
    }
    if let Some((uri, (algorithm, digest))) = &attester.source.fetched {
        list.push(json!({ "uri": uri, "digest": { algorithm: digest } }));
    }
    Value::Array(list)
}

fn material(options: &Options, attester: &Attester<'_>, material: &Material) -> Value {
    let (algorithm, digest) = &material.digest;
    let build_args = attester.request.plans.first().map(|plan| &plan.build_args);
    let values = || build_args.into_iter().flatten().map(|(_, value)| value).filter(|value| !value.is_empty());
    let uri = match &material.kind {
        MaterialKind::Image(reference, platform) => image_uri(reference, Some(platform)),
        MaterialKind::Layout(platform) => format!("oci-layout:{}?platform={platform}", material.name),
        MaterialKind::File | MaterialKind::Repository => material.name.clone(),
    };
    // A name that the Dockerfile does not spell out may hold the value of a build argument: its own text holds none.
    let is_spelled_out = match &material.kind {
        MaterialKind::Image(reference, _) => {
            let familiar = reference.familiar();
            let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
            [reference.to_string().as_str(), short].iter().any(|name| material.text.contains(name))
        }
        _ => material.text.contains(&material.name),
    };
    if options.mode == Mode::Min && !is_spelled_out && values().any(|value| material.name.contains(value.as_str())) {
        let name = material.text.lines().next().unwrap_or_default().trim();
        return json!({ "name": redact_url(name), "digest": { algorithm: digest } });
    }
    json!({ "uri": uri, "digest": { algorithm: digest } })
}

/// `pkg:docker/alpine@3.20?platform=linux%2Famd64`, as BuildKit names images.
pub fn image_uri(reference: &Reference, platform: Option<&Platform>) -> String {
    let familiar = reference.familiar();
    let name = familiar.split('@').next().unwrap_or(&familiar);
    let name = name.strip_suffix(&format!(":{}", reference.tag().unwrap_or_default())).unwrap_or(name);
    let tag = reference.tag().or(if reference.digest().is_none() { Some("latest") } else { None });
    let mut qualifiers = Vec::new();
    qualifiers.extend(reference.digest().map(|digest| format!("digest={digest}")));
    qualifiers.extend(platform.map(|platform| format!("platform={}", platform.to_string().replace('/', "%2F"))));
    let tag = tag.map(|tag| format!("@{tag}")).unwrap_or_default();
    let qualifiers = if qualifiers.is_empty() { String::new() } else { format!("?{}", qualifiers.join("&")) };
    format!("pkg:docker/{}{tag}{qualifiers}", name.replace(':', "%3A"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_package_urls() {
        let uri = |name: &str, platform: &str| image_uri(&name.parse().unwrap(), platform.parse().ok().as_ref());
        assert_eq!(uri("docker.io/library/alpine:3.20", "linux/amd64"), "pkg:docker/alpine@3.20?platform=linux%2Famd64");
        assert_eq!(uri("alpine", "linux/amd64"), "pkg:docker/alpine@latest?platform=linux%2Famd64");
        assert!(uri("h.example:5000/a/b:1", "linux/arm64").starts_with("pkg:docker/h.example%3A5000/a/b@1?platform="));
        let digest = format!("alpine@sha256:{}", "ab".repeat(32));
        assert!(uri(&digest, "linux/amd64").starts_with("pkg:docker/alpine?digest=sha256:abab"));
    }
}
