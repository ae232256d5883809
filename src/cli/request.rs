//! Arguments, files and environment -> [`Request`]. Reads what the user named; builds nothing.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    build::{CommonFacts, ContextSource, LayerPolicy, PullPolicy, Request},
    cli::{args::BuildArgs, authorities, contexts, failure::Failure, limits, lock},
    context::LocalContext,
    oci::{Platform, Reference},
    plan::{ContextKind, NetworkMode, Options, RunDefaults, Ulimit},
    sandbox::{Agent, HOST_GATEWAY, Key, KeyError},
};

/// Secrets larger than this are refused (BuildKit's limit).
const SECRET_LIMIT_BYTES: u64 = 500 << 10;

/// No key is so long.
const KEY_LIMIT_BYTES: u64 = 100 << 10;

/// What `--ulimit` knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The request that the arguments make. `layers` is how most outputs want layers written.
pub fn request(args: &BuildArgs, layers: LayerPolicy) -> Result<Request, Failure> {
    let build_args = build_args(args)?;
    let (context, dockerfile) = contexts::read_local(args)?;
    let named_contexts = named_contexts(args)?;
    let kinds: BTreeMap<String, ContextKind> = named_contexts.iter().map(|(name, (kind, _))| (name.clone(), *kind)).collect();
    let plans = platforms(args)?.into_iter().map(|(platform, explicit)| options(args, &build_args, &kinds, platform, explicit));
    let hostname = build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned().unwrap_or_else(|| "buildkitsandbox".to_owned());
    let run_defaults = run_defaults(args)?;
    let mut hosts: Vec<String> = run_defaults.extra_hosts.iter().map(|(name, _)| name.clone()).collect();
    hosts.sort();
    let resources = format!("{:?} {:?}", run_defaults.shm_size_bytes, run_defaults.ulimits);
    Ok(Request {
        dockerfile: dockerfile.text,
        dockerfile_name: dockerfile.name,
        plans: plans.collect::<Result<_, _>>()?,
        context,
        named_contexts: named_contexts.into_iter().map(|(name, (_, source))| (name, source)).collect(),
        secrets: secrets(args)?,
        ssh: ssh(args)?,
        run_defaults,
        limits: limits::limits(&args.limits)?,
        timeout: limits::timeout(&args.limits)?,
        retries: args.limits.retry,
        authorities: authorities::of_build(args)?,
        common_facts: CommonFacts { hostname, resources, hosts, epoch: None },
        explain: args.explain,
        pull: pull_policy(args)?,
        lock: lock::read(args)?,
        locked: args.locked,
        layers,
        wants_files: false,
        cache_trust: args.cache_trust.clone(),
        cache_export: super::cache::export_mode(args)?,
    })
}

fn pull_policy(args: &BuildArgs) -> Result<PullPolicy, Failure> {
    match (args.pull, args.offline) {
        (true, true) => Err(Failure::usage("--pull and --offline can't be used together")),
        (true, false) => Ok(PullPolicy::Always),
        (false, true) => Ok(PullPolicy::Offline),
        (false, false) => Ok(PullPolicy::Missing),
    }
}

/// Values from the command line and, for names alone, from the environment; SOURCE_DATE_EPOCH is passed on as buildx does.
pub fn build_args(args: &BuildArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        map.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for text in &args.build_args {
        match text.split_once('=') {
            Some(("", _)) => return Err(Failure::usage(format!("--build-arg {text}: the name is missing"))),
            Some((name, value)) => drop(map.insert(name.to_owned(), value.to_owned())),
            None => {
                if let Ok(value) = std::env::var(text) {
                    map.insert(text.clone(), value);
                }
            }
        }
    }
    if args.reproducible && !map.contains_key("SOURCE_DATE_EPOCH") {
        map.insert("SOURCE_DATE_EPOCH".to_owned(), super::reproducible::epoch(args)?);
    }
    Ok(map)
}

/// The platforms asked for; without any our own, which is then not "explicit".
fn platforms(args: &BuildArgs) -> Result<Vec<(Platform, bool)>, Failure> {
    let mut list: Vec<(Platform, bool)> = Vec::new();
    for text in args.platforms.iter().filter(|text| !text.is_empty()) {
        let platform: Platform =
            text.parse().map_err(|error| Failure::usage(format!("--platform: {error}")).with_hint("such as linux/amd64"))?;
        if !list.iter().any(|(known, _)| *known == platform) {
            list.push((platform, true));
        }
    }
    if list.is_empty() {
        list.push((Platform::host(), false));
    }
    Ok(list)
}

fn options(
    args: &BuildArgs,
    build_args: &BTreeMap<String, String>,
    contexts: &BTreeMap<String, ContextKind>,
    target_platform: Platform,
    explicit_platform: bool,
) -> Result<Options, Failure> {
    // Whoever asks for the host's network for all steps has allowed it, as with buildx.
    let allow_host_network = args.network == "host" || args.allow.iter().any(|name| name == "network.host");
    if let Some(other) = args.allow.iter().find(|name| *name != "network.host" && super::guarded::allowed(name).is_none()) {
        return Err(Failure::usage(format!("--allow {other} is not possible here"))
            .with_hint("rbuild has no privileged mode; network.host and secret.NAME are what can be allowed"));
    }
    Ok(Options {
        target: args.target.clone().filter(|target| !target.is_empty()),
        build_args: build_args.clone(),
        labels: pairs("--label", &args.labels)?,
        target_platform,
        explicit_platform,
        build_platform: Platform::host(),
        multi_platform: args.platforms.len() > 1,
        contexts: contexts.clone(),
        no_cache: args.no_cache,
        no_cache_stages: args.no_cache_filter.clone(),
        network: network(&args.network)?,
        allow_host_network,
        context_epoch: None,
        source_epoch: None,
    })
}

/// `--network`.
pub fn network(text: &str) -> Result<NetworkMode, Failure> {
    match text {
        "default" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        other => Err(Failure::usage(format!("--network {other} is unknown")).with_hint("default, none or host")),
    }
}

/// `NAME=VALUE` values of a repeatable flag; a name alone has an empty value.
fn pairs(flag: &str, values: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let read = |text: &String| match text.split_once('=') {
        Some(("", _)) => Err(Failure::usage(format!("{flag} {text}: the name is missing"))),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Ok((text.clone(), String::new())),
    };
    values.iter().map(read).collect()
}

type NamedContexts = BTreeMap<String, (ContextKind, ContextSource)>;

fn named_contexts(args: &BuildArgs) -> Result<NamedContexts, Failure> {
    let mut map = NamedContexts::new();
    for text in &args.build_contexts {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| Failure::usage(format!("--build-context {text}: expected NAME=VALUE")))?;
        let name =
            crate::plan::default_context(name).ok_or_else(|| Failure::usage(format!("--build-context: invalid context name {name}")))?;
        map.insert(name.clone(), named_context(&name, value)?);
    }
    Ok(map)
}

/// Named contexts that have to be fetched: name and URL.
pub fn remote_contexts(args: &BuildArgs) -> Vec<(String, String)> {
    let pairs = args.build_contexts.iter().filter_map(|text| text.split_once('='));
    let remote =
        pairs.filter(|(_, value)| !value.contains("://") || is_url_of_files(value)).filter(|(_, value)| contexts::is_remote(value));
    remote.filter_map(|(name, value)| Some((crate::plan::default_context(name)?, value.to_owned()))).collect()
}

fn is_url_of_files(value: &str) -> bool {
    !["docker-image://", "oci-layout://"].iter().any(|scheme| value.starts_with(scheme))
}

fn named_context(name: &str, value: &str) -> Result<(ContextKind, ContextSource), Failure> {
    if let Some(reference) = value.strip_prefix("docker-image://") {
        if reference == "scratch" {
            return Ok((ContextKind::Scratch, ContextSource::Empty));
        }
        let reference: Reference = reference.parse().map_err(|error| Failure::usage(format!("--build-context {name}: {error}")))?;
        return Ok((ContextKind::Image, ContextSource::Image(reference)));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        return Ok((ContextKind::Image, layout_source(name, layout)?));
    }
    if contexts::is_remote(value) {
        return Ok((ContextKind::Files, ContextSource::Empty));
    }
    let path = PathBuf::from(value);
    let local =
        LocalContext::open(&path).map_err(|error| Failure::new(format!("--build-context {name}: {}", crate::build::chain(&error))))?;
    let ignore = local.read_ignore_file().map_err(|error| Failure::new(crate::build::chain(&error)))?;
    let ignore = ignore.map(|file| (file.path.display().to_string(), file.text));
    Ok((ContextKind::Files, ContextSource::Directory { path, ignore }))
}

/// `DIR[:TAG][@DIGEST]`.
fn layout_source(name: &str, text: &str) -> Result<ContextSource, Failure> {
    let (rest, digest) = match text.rsplit_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|error| Failure::usage(format!("--build-context {name}: {error}")))?)),
        None => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !Path::new(rest).exists() => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    Ok(ContextSource::Layout { path: PathBuf::from(path), tag, digest })
}

/// `id=ID[,src=FILE|env=NAME][,type=file|env]`.
fn secrets(args: &BuildArgs) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let mut map = BTreeMap::new();
    for text in &args.secrets {
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        for field in crate::cli::outputs::fields(text) {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--secret {text}: invalid field '{field}' must be a key=value pair")))?;
            let key = match key.to_ascii_lowercase().as_str() {
                "source" => "src".to_owned(),
                other => other.to_owned(),
            };
            if !["id", "src", "env", "type"].contains(&key.as_str()) {
                return Err(Failure::usage(format!("--secret {text}: unexpected key '{key}'")));
            }
            given.insert(key, value.to_owned());
        }
        let id = given.get("id").filter(|id| !id.is_empty()).ok_or_else(|| Failure::usage(format!("--secret {text}: id is missing")))?;
        map.insert(id.clone(), secret_value(id, &given)?);
    }
    Ok(map)
}

fn secret_value(id: &str, given: &BTreeMap<String, String>) -> Result<Vec<u8>, Failure> {
    let from_env = |name: &str| std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec);
    let kind = given.get("type").map(String::as_str);
    if let Some(name) = given.get("env") {
        return from_env(name).ok_or_else(|| Failure::new(format!("--secret {id}: the variable {name} is not set")));
    }
    let source = given.get("src").cloned();
    if kind == Some("env") || (kind.is_none() && source.is_none()) {
        let name = source.clone().unwrap_or_else(|| id.to_owned());
        if let Some(value) = from_env(&name) {
            return Ok(value);
        }
        if kind == Some("env") {
            return Err(Failure::new(format!("--secret {id}: the variable {name} is not set")));
        }
    }
    let path = source.unwrap_or_else(|| id.to_owned());
    let file = std::fs::File::open(&path).map_err(|error| Failure::new(format!("--secret {id}: cannot read {path}: {error}")))?;
    let mut bytes = Vec::new();
    file.take(SECRET_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("--secret {id}: cannot read {path}: {error}")))?;
    if bytes.len() as u64 > SECRET_LIMIT_BYTES {
        return Err(Failure::new(format!("--secret {id}: {path} is larger than 500 KiB")));
    }
    Ok(bytes)
}

/// `default` or `ID[=SOCKET|KEY,..]`.
fn ssh(args: &BuildArgs) -> Result<BTreeMap<String, Agent>, Failure> {
    let mut map = BTreeMap::new();
    for text in &args.ssh {
        let (id, agent) = match text.split_once('=') {
            Some((id, paths)) => (id, agent(text, paths)?),
            None => {
                let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
                let socket = socket.ok_or_else(|| {
                    let failure = Failure::new(format!("--ssh {text}: SSH_AUTH_SOCK is not set"));
                    failure.with_hint(format!("start an agent with `eval $(ssh-agent)`, or give a key: --ssh {text}=FILE"))
                })?;
                (text.as_str(), agent(text, &socket.to_string_lossy())?)
            }
        };
        let id = if id.is_empty() { "default" } else { id };
        if map.insert(id.to_owned(), agent).is_some() {
            return Err(Failure::usage(format!("--ssh {text}: the id {id} is given twice")));
        }
    }
    Ok(map)
}

/// The agent at a socket, or one of ours that has the keys of some files.
fn agent(text: &str, paths: &str) -> Result<Agent, Failure> {
    use std::os::unix::fs::FileTypeExt;
    let mut keys = Vec::new();
    for path in paths.split(',') {
        let failed = |error: std::io::Error| Failure::new(format!("--ssh {text}: {path}: {error}"));
        if std::fs::metadata(path).map_err(failed)?.file_type().is_socket() {
            return match paths == path {
                true => Ok(Agent::At(path.into())),
                false => Err(Failure::usage(format!("--ssh {text}: an agent's socket stands alone, without keys and other sockets"))),
            };
        }
        keys.push(key(text, path)?);
    }
    Ok(Agent::with_keys(keys))
}

fn key(text: &str, path: &str) -> Result<Key, Failure> {
    let mut content = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(KEY_LIMIT_BYTES).read_to_string(&mut content));
    read.map_err(|error| Failure::new(format!("--ssh {text}: cannot read {path}: {error}")))?;
    Key::read(&content, path).map_err(|error| {
        let failure = Failure::usage(format!("--ssh {text}: {path}: {error}"));
        match error {
            KeyError::Protected => failure.with_hint("let an agent have it: `eval $(ssh-agent)`, `ssh-add KEY`, then --ssh default"),
            _ => failure.with_hint("a file with a private key of type ed25519, ecdsa or rsa, or the socket of an agent"),
        }
    })
}

fn run_defaults(args: &BuildArgs) -> Result<RunDefaults, Failure> {
    let mut extra_hosts = Vec::new();
    for text in &args.add_hosts {
        let (name, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or_else(|| Failure::usage(format!("--add-host {text}: expected HOST:IP")))?;
        // What it is depends on the network of the step.
        if address == HOST_GATEWAY {
            extra_hosts.push((name.to_owned(), address.to_owned()));
            continue;
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address: std::net::IpAddr = address.parse().map_err(|_| {
            Failure::usage(format!("--add-host {text}: `{address}` is no IP address")).with_hint("an IP address, or host-gateway")
        })?;
        extra_hosts.push((name.to_owned(), address.to_string()));
    }
    let shm_size_bytes = args
        .shm_size
        .as_deref()
        .map(|text| size_bytes(text).ok_or_else(|| Failure::usage(format!("--shm-size {text}: no size"))))
        .transpose()?;
    let ulimits = args.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?;
    Ok(RunDefaults { extra_hosts, shm_size_bytes, ulimits })
}

/// `64m`, `1g`, `512k`, `100`: powers of 1024 as docker reads them.
pub fn size_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (number, factor) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        't' => (&text[..text.len() - 1], 1u64 << 40),
        _ => (text, 1),
    };
    let number: f64 = number.trim().parse().ok()?;
    (number >= 0.0).then_some((number * factor as f64) as u64)
}

fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    let wrong = || Failure::usage(format!("--ulimit {text}: expected NAME=SOFT[:HARD]"));
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    if !ULIMITS.contains(&name) {
        let near = crate::dockerfile::suggest::nearest(name, ULIMITS).map(|near| format!("did you mean {near}?"));
        return Err(Failure::usage(format!("--ulimit {text}: no limit is called {name}"))
            .with_hint(near.unwrap_or_else(|| format!("the limits are {}", ULIMITS.join(", ")))));
    }
    let number = |text: &str| if text == "-1" { Ok(u64::MAX) } else { text.parse().map_err(|_| wrong()) };
    let (soft, hard) = (number(soft)?, number(hard)?);
    match soft <= hard {
        true => Ok(Ulimit { name: name.to_owned(), soft, hard }),
        false => Err(Failure::usage(format!("--ulimit {text}: the soft limit is above the hard limit"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        assert_eq!(size_bytes("64m"), Some(64 << 20));
        assert_eq!(size_bytes("1.5kB"), Some(1536));
        assert_eq!(size_bytes("12"), Some(12));
        assert_eq!(size_bytes("2GiB"), Some(2 << 30));
        assert_eq!(size_bytes("x"), None);
    }
}
