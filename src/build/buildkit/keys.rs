//! The keys that BuildKit gives to the steps of a plan, if it forms the operations that its Dockerfile frontend would.
//! A step with anything in it that is not known to be the same there has no key. Pure.

use crate::{
    oci::{ChainId, Digest, Platform},
    plan::{CacheSharing, Input, MountKind, NetworkMode, Op, RunDefaults, RunOp, Vertex, VertexId, WorkdirOp},
};

use super::{
    files,
    go::{self, Era, NONE},
};

/// What BuildKit calls a step's host name when nobody said otherwise; then it is not in the key.
const HOST_NAME: &str = "buildkitsandbox";

/// The agent that is meant when none is named.
const DEFAULT_AGENT: &str = "default";

/// The key of an operation: a record with this digest whose inputs are these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub digest: Digest,
    pub deps: Vec<Dep>,
}

/// One input of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dep {
    pub from: From,
    /// What of it is used, as a digest; empty for all.
    pub selector: String,
    /// The same for the digest of what is used.
    pub content: Vec<Selector>,
}

/// Whose result an input is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    Vertex(VertexId),
    /// A context of files: known by its content only.
    Context(String),
    /// An operation that no step of ours is.
    Key(Box<Key>),
}

/// What is used of an input.
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Selector {
    pub path: String,
    pub follow: bool,
    pub wildcard: bool,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

impl Key {
    /// Of an operation's own digest, for its first output.
    pub(super) fn new(digest: &impl std::fmt::Display, deps: Vec<Dep>) -> Self {
        Self { digest: output(digest, 0), deps }
    }
}

/// What a record's digest is: that of an operation, and which of its outputs it is.
pub fn output(digest: &impl std::fmt::Display, index: i32) -> Digest {
    Digest::of(format!("{digest}@{index}").as_bytes())
}

/// The keys of a base image: by what its name leads to, and by its layers.
pub fn image_keys(named: &Digest, platform: &Platform, chain: Option<&ChainId>) -> Vec<Digest> {
    let variant = platform.variant.as_deref().unwrap_or_default();
    let manifest = go::digest_json(&go::ImageKey { digest: named, os: &platform.os, arch: &platform.architecture, variant });
    let keys = [Some(manifest.to_string()), chain.map(ToString::to_string)];
    let digest = |key: String| output(&Digest::of(format!("buildkit.source.v0:{key}").as_bytes()), 0);
    keys.into_iter().flatten().map(digest).collect()
}

/// What is said for all steps together.
pub struct Settings<'a> {
    pub hostname: &'a str,
    pub epoch: Option<i64>,
    pub run_defaults: &'a RunDefaults,
}

/// The keys of a step that is no base image, as different versions have it.
pub fn keys(vertex: &Vertex, settings: &Settings<'_>) -> Vec<Key> {
    let key = |era| match &vertex.op {
        Op::Image(_) => None,
        Op::Run(run) => run_key(vertex, run, settings, era),
        Op::Copy(copy) => files::copy_key(vertex.parent, copy, era),
        Op::Workdir(workdir) => workdir_key(vertex.parent, workdir, settings, era),
    };
    let mut keys: Vec<Key> = Era::ALL.into_iter().filter_map(key).collect();
    keys.dedup();
    keys
}

/// Inputs of an operation in the order in which they are first used; the same one twice is one.
#[derive(Default)]
pub(super) struct Inputs(pub Vec<From>);

impl Inputs {
    pub fn add(&mut self, from: From) -> usize {
        self.0.iter().position(|known| *known == from).unwrap_or_else(|| {
            self.0.push(from);
            self.0.len() - 1
        })
    }

    pub fn add_index(&mut self, from: Option<From>) -> i64 {
        from.map_or(NONE, |from| self.add(from) as i64)
    }
}

/// None is an empty root.
pub(super) fn of_input(input: &Input) -> Option<From> {
    match input {
        Input::Vertex(id) => id.map(From::Vertex),
        Input::Context(name) => Some(From::Context(name.clone())),
    }
}

fn workdir_key(parent: Option<VertexId>, workdir: &WorkdirOp, settings: &Settings<'_>, era: Era) -> Option<Key> {
    let owner = match workdir.user.as_str() {
        "" => None,
        user => Some(files::owner(user, if parent.is_some() { 0 } else { NONE }, era)?),
    };
    let timestamp = settings.epoch.map_or(Some(NONE), |seconds| seconds.checked_mul(1_000_000_000))?;
    let action = go::to_json(&go::MakeDirectory { path: workdir.path.clone(), mode: 0o755, make_parents: true, owner, timestamp });
    let input = if parent.is_some() { 0 } else { NONE };
    let digest = files::digest_actions(&[action], vec![[input, NONE, 0]]);
    let deps = parent.into_iter().map(|id| Dep { from: From::Vertex(id), selector: String::new(), content: Vec::new() });
    Some(Key::new(&digest, deps.collect()))
}

fn run_key(vertex: &Vertex, run: &RunOp, settings: &Settings<'_>, era: Era) -> Option<Key> {
    let RunOp { args, env, proxy_env: _, cwd, user, mounts: _, network, script: _ } = run;
    let Settings { hostname, epoch: _, run_defaults } = settings;
    let RunDefaults { extra_hosts, shm_size_bytes, ulimits } = run_defaults;
    if !extra_hosts.is_empty() || shm_size_bytes.is_some() || !ulimits.is_empty() {
        return None;
    }
    let Mounted { mounts, inputs_of, secretenv, inputs, socket } = mounted(vertex.parent, run, era)?;
    let mut env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(socket) = socket.filter(|_| !run.env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK")) {
        env.push(format!("SSH_AUTH_SOCK={socket}"));
    }
    let hostname = if *hostname == HOST_NAME { String::new() } else { (*hostname).to_owned() };
    let meta = go::Meta { args: args.clone(), env, cwd: cwd.clone(), user: user.clone(), hostname, remove_mount_stubs_recursive: true };
    let network = match network {
        NetworkMode::Default => 0,
        NetworkMode::Host => 1,
        NetworkMode::None => 2,
    };
    // The root alone is left out: so it was before mounts were in the key.
    let only_root = [go::Mount { input: era.number(0), ..root(era) }];
    let is_plain = mounts == only_root;
    let selectors = selected(&inputs_of, inputs.0.len());
    let mounts = if is_plain { Vec::new() } else { mounts };
    let (os, arch) = (vertex.platform.os.clone(), vertex.platform.architecture.clone());
    let variant = vertex.platform.variant.clone().unwrap_or_default();
    let exec = go::Exec { meta, mounts, network, secretenv };
    let digest = go::digest_json(&go::ExecKey { kind: "buildkit.exec.v0", exec, os, arch, variant });
    let deps = inputs.0.into_iter().zip(selectors).map(|(from, paths)| {
        let is_whole = paths.iter().all(|path| path == "/");
        let selector = match era {
            Era::Selectors if is_whole => String::new(),
            _ => Digest::of(paths.join("\0").as_bytes()).to_string(),
        };
        Dep { from, selector, content: content_of_mounts(paths) }
    });
    Some(Key::new(&digest, deps.collect()))
}

/// What is mounted in a RUN.
struct Mounted {
    mounts: Vec<go::Mount>,
    /// Inputs and the paths that are mounted of them.
    inputs_of: Vec<(i64, String)>,
    secretenv: Vec<go::SecretVariable>,
    inputs: Inputs,
    /// Of the first agent.
    socket: Option<String>,
}

fn mounted(parent: Option<VertexId>, run: &RunOp, era: Era) -> Option<Mounted> {
    let script = run.script.as_ref().map(|script| {
        let file = files::made_file(&script.name, 0o755, &script.content);
        let mount = go::Mount { dest: "/dev/pipes/".into(), readonly: true, ..nowhere() };
        (mount, Some(From::Key(Box::new(file))), "/".to_owned())
    });
    let root = (root(era), parent.map(From::Vertex), "/".to_owned());
    let mut shown: Vec<_> = [root].into_iter().chain(script).collect();
    let (mut held, mut secretenv, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for mount in &run.mounts {
        match &mount.kind {
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                if let Some(name) = env {
                    secretenv.push(go::SecretVariable { id: id.clone(), name: name.clone(), optional: !required });
                }
                if !mount.target.is_empty() {
                    let secret = Some(go::Held { id: id.clone(), uid: *uid, gid: *gid, mode: *mode, optional: !required });
                    held.push(go::Mount { dest: mount.target.clone(), mount_type: go::mount_type::SECRET, secret, ..outside(era) });
                } else if env.is_none() {
                    return None;
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let dest = match mount.target.as_str() {
                    "" => format!("/run/buildkit/ssh_agent.{}", sockets.len()),
                    target => target.to_owned(),
                };
                // The usual one has no name there; one that was given this very name has, and is missed.
                let id = if id == DEFAULT_AGENT { String::new() } else { id.clone() };
                let ssh = Some(go::Held { id, uid: *uid, gid: *gid, mode: *mode, optional: !required });
                sockets.push(go::Mount { dest, mount_type: go::mount_type::SSH, ssh, ..outside(era) });
            }
            kind => shown.push(directory(&mount.target, kind, era)?),
        }
    }
    shown.sort_by(|(one, ..), (other, ..)| one.dest.cmp(&other.dest));
    // Of two on one target BuildKit's sort leaves open which is first.
    if shown.windows(2).any(|pair| pair[0].0.dest == pair[1].0.dest) {
        return None;
    }
    let (mut inputs, mut inputs_of, mut mounts) = (Inputs::default(), Vec::new(), Vec::new());
    for (mount, from, path) in shown {
        let input = inputs.add_index(from);
        inputs_of.push((input, path));
        mounts.push(go::Mount { input: era.number(input), ..mount });
    }
    let socket = sockets.first().map(|mount| mount.dest.clone());
    mounts.extend(held.into_iter().chain(sockets));
    Some(Mounted { mounts, inputs_of, secretenv, inputs, socket })
}

/// The mount that the step's result is.
fn root(era: Era) -> go::Mount {
    go::Mount { dest: "/".into(), output: era.number(0), ..go::Mount::default() }
}

/// A mount whose changes go nowhere.
fn nowhere() -> go::Mount {
    go::Mount { output: Some(NONE), ..go::Mount::default() }
}

/// A mount of what is no input; its output, which it has not, is the first one by default, as its input once was.
fn outside(era: Era) -> go::Mount {
    let input = if era == Era::Selectors { 0 } else { NONE };
    go::Mount { input: Some(input), output: era.number(0), ..go::Mount::default() }
}

/// A mount of a directory, what is in it, and which part of that.
fn directory(target: &str, kind: &MountKind, era: Era) -> Option<(go::Mount, Option<From>, String)> {
    let mount = go::Mount { dest: target.to_owned(), ..nowhere() };
    Some(match kind {
        MountKind::Bind { from, source, readonly } => (go::Mount { readonly: *readonly, ..mount }, of_input(from), source.clone()),
        MountKind::Tmpfs { size_bytes, readonly } => {
            let tmpfs = Some(go::Tmpfs { size: *size_bytes });
            (go::Mount { readonly: *readonly, mount_type: go::mount_type::TMPFS, tmpfs, ..mount }, None, String::new())
        }
        // With an owner or a mode of its own, its directory is made by an operation that is not followed here.
        MountKind::Cache { mode: None, uid: None, gid: None, id, sharing, from, source, readonly } => {
            let cache = Some(cache(id, *sharing, target, era));
            let from = from.as_ref().and_then(of_input);
            (go::Mount { readonly: *readonly, mount_type: go::mount_type::CACHE, cache, ..mount }, from, source.clone())
        }
        _ => return None,
    })
}

/// A name of one's own is not in the key, nor is how it is shared; once both were.
fn cache(id: &str, sharing: CacheSharing, target: &str, era: Era) -> go::Cache {
    let is_default = id == target || id.split_once('/').is_some_and(|(_, name)| name == target);
    let number = match sharing {
        CacheSharing::Shared => 0,
        CacheSharing::Private => 1,
        CacheSharing::Locked => 2,
    };
    match era == Era::Selectors || is_default && number == 0 {
        true => go::Cache { id: id.to_owned(), sharing: number },
        false => go::Cache::default(),
    }
}

/// Which paths of each input are mounted.
fn selected(inputs_of: &[(i64, String)], inputs: usize) -> Vec<Vec<String>> {
    let mut selected = vec![Vec::new(); inputs];
    for (input, path) in inputs_of {
        if let Some(paths) = usize::try_from(*input).ok().and_then(|index| selected.get_mut(index)) {
            paths.push(path.clone());
        }
    }
    selected
}

fn content_of_mounts(paths: Vec<String>) -> Vec<Selector> {
    let paths = files::outermost(paths);
    if paths.iter().any(|path| path == "/") {
        return vec![Selector::default()];
    }
    paths.into_iter().map(|path| Selector { path, follow: true, ..Selector::default() }).collect()
}
