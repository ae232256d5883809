//! The cache key of a step: every fact that its result depends on, by name.
//!
//! The key is the BLAKE3 hash of the facts in order, so that a miss can say which fact differs from the nearest earlier
//! build. One row per fact, one column per kind of vertex:
//!
//! | Fact | RUN | COPY/ADD | WORKDIR |
//! |---|---|---|---|
//! | `format`: version of this table | x | x | x |
//! | `instruction`: kind of the vertex | x | x | x |
//! | `platform` | x | x | x |
//! | `parent`: result of the parent (base: its chain of diff ids) | x | x, not with --link | x |
//! | `command`: argument list, shell included | x | | |
//! | `env NAME`: each ENV and ARG in effect | x | | |
//! | `user` | x | | x |
//! | `workdir` | x | | |
//! | `script`: heredoc that is a program | x | | |
//! | `mount TARGET`: type and options | x | | |
//! | `mount TARGET content`: digest of what a bind mount or a cache mount's `from` shows | x | | |
//! | `network`, `hostname` | x | | |
//! | `resources`: shm size and ulimits | x | | |
//! | `hosts`: names of --add-host | x | | |
//! | `source N`: path or file name, whether it is unpacked | | x | |
//! | `source N content`: names, types, modes, owners, sizes, links, xattrs, bytes of the used paths | | x | |
//! | `destination`, `chown`, `chmod`, `link`, `parents`, `excludes` | | x | |
//! | `path` | | | x |
//! | `epoch`: `SOURCE_DATE_EPOCH`, the time of directories that are made | only as variable | x | x |
//!
//! Not in it: modification times of sources, proxy variables, addresses of --add-host, values of secrets and ssh
//! agents, contents of cache mounts, time.
//!
//! There are two levels. The definition key takes an input stage by the result it had in an earlier build, which costs
//! no IO; when it misses, the content key takes it by the digest of exactly the used paths.

use std::collections::BTreeMap;

use crate::plan::{CopyOp, CopySource, Mount, MountKind, RunOp, SourceFrom, Vertex, WorkdirOp};

/// Raised when the meaning of a key changes: old entries are then never found.
const FORMAT: &str = "2";

/// Identity of a result: what a step or a base image made of its inputs. Random parts make a second run another result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ResultId(pub String);

impl ResultId {
    /// An empty root filesystem.
    pub fn scratch() -> Self {
        Self("scratch".to_owned())
    }

    /// A layer on top of this result.
    pub fn with_layer(&self, layer: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.0.as_bytes()).update(b"\0").update(layer.as_bytes());
        Self(hasher.finalize().to_hex().to_string())
    }
}

/// Named facts, in the order of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Facts(Vec<(String, String)>);

impl Facts {
    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// The hash of all names and values.
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in &self.0 {
            for text in [name, value] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Each fact that differs: name, value before, value now.
    pub fn differences<'a>(&'a self, earlier: &'a Facts) -> Vec<(&'a str, Option<&'a str>, Option<&'a str>)> {
        let before: BTreeMap<&str, &str> = earlier.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let now: BTreeMap<&str, &str> = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let names: std::collections::BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
        let changed = names.into_iter().filter(|name| before.get(name) != now.get(name));
        changed.map(|name| (name, before.get(name).copied(), now.get(name).copied())).collect()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// What all steps of a build have in common.
#[derive(Debug, Clone, Default)]
pub struct CommonFacts {
    /// Host name inside RUN.
    pub hostname: String,
    /// Shm size and ulimits as text.
    pub resources: String,
    /// Names of --add-host. Not their addresses: as with BuildKit, a service that moved is the same service.
    pub hosts: Vec<String>,
    /// `SOURCE_DATE_EPOCH`; without it made directories get the time of day.
    pub epoch: Option<i64>,
}

/// The facts of a vertex. `parent` is its parent's result; `contents` gives the identity of each input's content by
/// the name of its fact (`source 0`, `mount /target`).
pub fn facts(vertex: &Vertex, parent: &ResultId, contents: &BTreeMap<String, String>, common: &CommonFacts) -> Facts {
    let mut facts = Facts::default();
    facts.add("format", FORMAT);
    match &vertex.op {
        crate::plan::Op::Image(_) => facts.add("instruction", "FROM"),
        crate::plan::Op::Run(run) => run_facts(&mut facts, run, parent, contents, common),
        crate::plan::Op::Copy(copy) => copy_facts(&mut facts, copy, parent, contents, common),
        crate::plan::Op::Workdir(workdir) => workdir_facts(&mut facts, workdir, parent, common),
    }
    facts.add("platform", vertex.platform.to_string());
    facts
}

fn run_facts(facts: &mut Facts, run: &RunOp, parent: &ResultId, contents: &BTreeMap<String, String>, common: &CommonFacts) {
    // No `..`: a new field does not compile until it is decided whether it counts.
    let RunOp { args, env, proxy_env: _, cwd, user, mounts, network, script } = run;
    // The epoch is among the variables where the stage declares it; else the step can't see it.
    let CommonFacts { hostname, resources, hosts, epoch: _ } = common;
    facts.add("instruction", "RUN");
    facts.add("parent", &parent.0);
    facts.add("command", json(args));
    for (name, value) in env {
        facts.add(format!("env {name}"), value);
    }
    facts.add("user", user);
    facts.add("workdir", cwd);
    if let Some(script) = script {
        facts.add("script", json(script));
    }
    for (mount, name) in mounts.iter().zip(mount_names(mounts)) {
        facts.add(&name, mount_options(&mount.kind));
        if let Some(content) = contents.get(&name) {
            facts.add(format!("{name} content"), content);
        }
    }
    facts.add("network", json(network));
    facts.add("hostname", hostname);
    facts.add("resources", resources);
    if !hosts.is_empty() {
        facts.add("hosts", json(hosts));
    }
}

/// The names of mounts' facts. Of two on one target the later one hides the earlier one: they are told apart.
pub fn mount_names(mounts: &[Mount]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(mounts.len());
    for Mount { target, kind } in mounts {
        let mut name = match kind {
            MountKind::Secret { id, .. } if target.is_empty() => format!("mount secret {id}"),
            MountKind::Ssh { id, .. } if target.is_empty() => format!("mount ssh {id}"),
            _ => format!("mount {target}"),
        };
        while names.contains(&name) {
            name.push('+');
        }
        names.push(name);
    }
    names
}

/// The name of a source's fact.
pub fn source_name(index: usize) -> String {
    format!("source {index}")
}

/// Type and options; where the content comes from is told by its own fact.
fn mount_options(kind: &MountKind) -> String {
    let mut kind = kind.clone();
    if let MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } = &mut kind {
        *from = crate::plan::Input::Vertex(None);
    }
    json(&kind)
}

fn copy_facts(facts: &mut Facts, copy: &CopyOp, parent: &ResultId, contents: &BTreeMap<String, String>, common: &CommonFacts) {
    let CopyOp { is_add, sources, destination, chown, chmod, link, parents, excludes } = copy;
    facts.add("instruction", if *is_add { "ADD" } else { "COPY" });
    if !link {
        facts.add("parent", &parent.0);
    }
    for (index, source) in sources.iter().enumerate() {
        let name = source_name(index);
        facts.add(&name, source_text(source));
        if let Some(content) = contents.get(&name) {
            facts.add(format!("{name} content"), content);
        }
    }
    facts.add("destination", destination);
    facts.add("chown", chown.as_deref().unwrap_or_default());
    facts.add("chmod", chmod.as_deref().unwrap_or_default());
    facts.add("link", link.to_string());
    facts.add("parents", parents.to_string());
    facts.add("excludes", json(excludes));
    epoch_fact(facts, common);
}

fn source_text(source: &CopySource) -> String {
    match &source.from {
        SourceFrom::Input(_) => json(&(&source.path, source.unpack)),
        SourceFrom::Url { file_name, .. } => json(&("url", file_name, source.unpack)),
        SourceFrom::Git { .. } => json(&("git", source.unpack)),
        inline @ SourceFrom::Inline { .. } => json(&(inline, source.unpack)),
    }
}

fn workdir_facts(facts: &mut Facts, workdir: &WorkdirOp, parent: &ResultId, common: &CommonFacts) {
    let WorkdirOp { path, user } = workdir;
    facts.add("instruction", "WORKDIR");
    facts.add("parent", &parent.0);
    facts.add("path", path);
    facts.add("user", user);
    epoch_fact(facts, common);
}

/// As in BuildKit another epoch is another result: what the step makes is dated with it, and later steps see that.
fn epoch_fact(facts: &mut Facts, common: &CommonFacts) {
    if let Some(seconds) = common.epoch {
        facts.add("epoch", seconds.to_string());
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dockerfile::Span,
        plan::{CacheSharing, Input, NetworkMode, Op, Script, VertexId},
    };

    fn vertex(op: Op) -> Vertex {
        Vertex {
            op,
            parent: None,
            name: "[1/1] X".into(),
            stage: "s".into(),
            platform: "linux/amd64".parse().unwrap(),
            span: Span { start: 0, end: 1 },
            ignore_cache: false,
        }
    }

    fn run() -> RunOp {
        let bind = MountKind::Bind { from: Input::Context(String::new()), source: "/s".into(), readonly: true };
        RunOp {
            args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            env: vec![("A".into(), "1".into())],
            proxy_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            mounts: vec![Mount { target: "/m".into(), kind: bind }],
            network: NetworkMode::Default,
            script: Some(Script { name: "s".into(), content: "#!x".into() }),
        }
    }

    fn copy() -> CopyOp {
        let from = SourceFrom::Input(Input::Context(String::new()));
        CopyOp {
            is_add: false,
            sources: vec![CopySource { from, path: "a".into(), unpack: false }],
            destination: "/d".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
        }
    }

    fn of(op: Op, parent: &str, content: &str, common: &CommonFacts) -> Facts {
        let contents = ["source 0", "mount /m"].map(|name| (name.to_owned(), content.to_owned()));
        facts(&vertex(op), &ResultId(parent.to_owned()), &contents.into(), common)
    }

    fn key_of_run(change: impl FnOnce(&mut RunOp)) -> String {
        let mut op = run();
        change(&mut op);
        of(Op::Run(Box::new(op)), "p", "c", &CommonFacts::default()).key()
    }

    fn key_of_copy(change: impl FnOnce(&mut CopyOp)) -> String {
        let mut op = copy();
        change(&mut op);
        of(Op::Copy(Box::new(op)), "p", "c", &CommonFacts::default()).key()
    }

    #[test]
    fn each_fact_of_a_run_changes_the_key_and_nothing_else_does() {
        let of_run = |parent, content, common: &CommonFacts| of(Op::Run(Box::new(run())), parent, content, common).key();
        let cache = |id: &str, sharing| MountKind::Cache {
            id: id.into(),
            sharing,
            from: None,
            source: String::new(),
            readonly: false,
            mode: None,
            uid: None,
            gid: None,
        };
        let secret = |id: &str| MountKind::Secret { id: id.into(), env: None, required: false, mode: 0o400, uid: 0, gid: 0 };
        let keys = [
            key_of_run(|_| ()),
            key_of_run(|op| op.args[2] = "make all".into()),
            key_of_run(|op| op.args = vec!["/bin/sh".into(), "-cmake".into()]),
            key_of_run(|op| op.env[0].1 = "2".into()),
            key_of_run(|op| op.env[0].0 = "B".into()),
            key_of_run(|op| op.env.push(("B".into(), "1".into()))),
            key_of_run(|op| op.cwd = "/w".into()),
            key_of_run(|op| op.user = "u".into()),
            key_of_run(|op| op.network = NetworkMode::None),
            key_of_run(|op| op.network = NetworkMode::Host),
            key_of_run(|op| op.script.as_mut().unwrap().content.push('y')),
            key_of_run(|op| op.script = None),
            key_of_run(|op| op.mounts[0].target = "/n".into()),
            key_of_run(|op| op.mounts.clear()),
            key_of_run(|op| op.mounts[0].kind = MountKind::Tmpfs { size_bytes: 0, readonly: false }),
            key_of_run(|op| op.mounts[0].kind = MountKind::Tmpfs { size_bytes: 0, readonly: true }),
            key_of_run(|op| op.mounts[0].kind = MountKind::Tmpfs { size_bytes: 1, readonly: false }),
            key_of_run(|op| op.mounts[0].kind = cache("a", CacheSharing::Shared)),
            key_of_run(|op| op.mounts[0].kind = cache("a", CacheSharing::Locked)),
            key_of_run(|op| op.mounts[0].kind = cache("b", CacheSharing::Shared)),
            key_of_run(|op| op.mounts[0].kind = secret("a")),
            key_of_run(|op| op.mounts[0].kind = secret("b")),
            of_run("q", "c", &CommonFacts::default()),
            of_run("p", "d", &CommonFacts::default()),
            of_run("p", "c", &CommonFacts { hostname: "h".into(), ..CommonFacts::default() }),
            of_run("p", "c", &CommonFacts { resources: "r".into(), ..CommonFacts::default() }),
            of_run("p", "c", &CommonFacts { hosts: vec!["h".into()], ..CommonFacts::default() }),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(keys[0], key_of_run(|op| op.proxy_env.push(("HTTP_PROXY".into(), "http://p".into()))));
    }

    #[test]
    fn each_option_of_a_mount_changes_the_key() {
        let from = || Input::Vertex(Some(VertexId(1)));
        let bind = |source: &str, readonly| MountKind::Bind { from: from(), source: source.into(), readonly };
        let cache = |change: &dyn Fn(&mut MountKind)| {
            let (source, sharing) = (String::new(), CacheSharing::Shared);
            let mut kind =
                MountKind::Cache { id: "i".into(), sharing, from: None, source, readonly: false, mode: None, uid: None, gid: None };
            change(&mut kind);
            kind
        };
        let set = |number: u32, value: u32| {
            cache(&|kind| {
                let MountKind::Cache { mode, uid, gid, .. } = kind else { unreachable!("it is a cache") };
                *[mode, uid, gid][number as usize] = Some(value);
            })
        };
        let secret = |env: Option<&str>, required, mode, uid, gid| {
            let env = env.map(str::to_owned);
            MountKind::Secret { id: "s".into(), env, required, mode, uid, gid }
        };
        let ssh = |required, mode, uid, gid| MountKind::Ssh { id: "s".into(), required, mode, uid, gid };
        let kinds = [
            bind("/", true),
            bind("/", false),
            bind("/other", true),
            cache(&|_| ()),
            cache(&|kind| {
                if let MountKind::Cache { id, .. } = kind {
                    id.push('x')
                }
            }),
            cache(&|kind| {
                if let MountKind::Cache { sharing, .. } = kind {
                    *sharing = CacheSharing::Private
                }
            }),
            cache(&|kind| {
                if let MountKind::Cache { sharing, .. } = kind {
                    *sharing = CacheSharing::Locked
                }
            }),
            cache(&|kind| {
                if let MountKind::Cache { from, .. } = kind {
                    *from = Some(Input::Vertex(None))
                }
            }),
            cache(&|kind| {
                if let MountKind::Cache { source, .. } = kind {
                    source.push('x')
                }
            }),
            cache(&|kind| {
                if let MountKind::Cache { readonly, .. } = kind {
                    *readonly = true
                }
            }),
            set(0, 0o700),
            set(1, 7),
            set(2, 7),
            MountKind::Tmpfs { size_bytes: 0, readonly: false },
            MountKind::Tmpfs { size_bytes: 1, readonly: true },
            secret(None, false, 0o400, 0, 0),
            secret(Some("T"), false, 0o400, 0, 0),
            secret(None, true, 0o400, 0, 0),
            secret(None, false, 0o440, 0, 0),
            secret(None, false, 0o400, 1, 0),
            secret(None, false, 0o400, 0, 1),
            ssh(false, 0o600, 0, 0),
            ssh(true, 0o600, 0, 0),
            ssh(false, 0o660, 0, 0),
            ssh(false, 0o600, 1, 0),
            ssh(false, 0o600, 0, 1),
        ];
        let count = kinds.len();
        let keys: std::collections::BTreeSet<_> = kinds.into_iter().map(|kind| key_of_run(|op| op.mounts[0].kind = kind)).collect();
        assert_eq!(keys.len(), count);
        // Another stage with the same content is the same.
        let of_stage = |id| {
            key_of_run(|op| {
                op.mounts[0].kind = MountKind::Bind { from: Input::Vertex(Some(VertexId(id))), source: "/".into(), readonly: true }
            })
        };
        assert_eq!(of_stage(1), of_stage(2));
    }

    #[test]
    fn two_mounts_on_one_target_have_a_content_each() {
        let mount =
            || Mount { target: "/m".into(), kind: MountKind::Bind { from: Input::Vertex(None), source: "/".into(), readonly: true } };
        let names = mount_names(&[mount(), mount(), mount()]);
        assert_eq!(names, ["mount /m", "mount /m+", "mount /m++"]);
    }

    #[test]
    fn each_fact_of_a_workdir_changes_the_key() {
        let key = |path: &str, user: &str, parent: &str, epoch| {
            let op = Op::Workdir(WorkdirOp { path: path.into(), user: user.into() });
            of(op, parent, "c", &CommonFacts { epoch, ..CommonFacts::default() }).key()
        };
        let keys = [
            key("/w", "", "p", None),
            key("/x", "", "p", None),
            key("/w", "u", "p", None),
            key("/w", "", "q", None),
            key("/w", "", "p", Some(0)),
            key("/w", "", "p", Some(1)),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn each_fact_of_a_copy_changes_the_key() {
        let of_copy = |parent, content| of(Op::Copy(Box::new(copy())), parent, content, &CommonFacts::default()).key();
        let other_platform = {
            let vertex = Vertex { platform: "linux/arm64".parse().unwrap(), ..vertex(Op::Copy(Box::new(copy()))) };
            facts(&vertex, &ResultId("p".into()), &BTreeMap::from([("source 0".into(), "c".into())]), &CommonFacts::default()).key()
        };
        let at_epoch = |seconds| {
            let common = CommonFacts { epoch: Some(seconds), ..CommonFacts::default() };
            of(Op::Copy(Box::new(copy())), "p", "c", &common).key()
        };
        let inline = |content: &str| SourceFrom::Inline { name: "n".into(), content: content.into() };
        let keys = [
            key_of_copy(|_| ()),
            key_of_copy(|op| op.is_add = true),
            key_of_copy(|op| op.sources[0].path = "b".into()),
            key_of_copy(|op| op.sources[0].unpack = true),
            key_of_copy(|op| op.sources[0].from = inline("1")),
            key_of_copy(|op| op.sources[0].from = inline("2")),
            key_of_copy(|op| op.destination = "/d/".into()),
            key_of_copy(|op| op.chown = Some("1".into())),
            key_of_copy(|op| op.chmod = Some("1".into())),
            key_of_copy(|op| op.link = true),
            key_of_copy(|op| op.parents = true),
            key_of_copy(|op| op.excludes = vec!["1".into()]),
            of_copy("q", "c"),
            of_copy("p", "d"),
            at_epoch(0),
            at_epoch(1),
            other_platform,
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        // Where it comes from doesn't count, only what it is.
        assert_eq!(keys[0], key_of_copy(|op| op.sources[0].from = SourceFrom::Input(Input::Vertex(Some(VertexId(7))))));
        let linked = |parent| of(Op::Copy(Box::new(CopyOp { link: true, ..copy() })), parent, "c", &CommonFacts::default()).key();
        assert_eq!(linked("p"), linked("q"));
    }

    #[test]
    fn every_fact_stands_in_the_table() {
        let table: String = include_str!("key.rs").lines().take_while(|line| line.starts_with("//!")).collect();
        let workdir = WorkdirOp { path: "/w".into(), user: "u".into() };
        for op in [Op::Run(Box::new(run())), Op::Copy(Box::new(copy())), Op::Workdir(workdir)] {
            let common = CommonFacts { hosts: vec!["h".into()], epoch: Some(1), ..CommonFacts::default() };
            for (name, _) in of(op, "p", "c", &common).iter() {
                let row = match name.split(' ').collect::<Vec<_>>()[..] {
                    ["env", _] => "env NAME".to_owned(),
                    ["mount", _] => "mount TARGET".to_owned(),
                    ["mount", _, "content"] => "mount TARGET content".to_owned(),
                    ["source", _] => "source N".to_owned(),
                    ["source", _, "content"] => "source N content".to_owned(),
                    _ => name.to_owned(),
                };
                assert!(table.contains(&format!("`{row}`")), "{name} is not in the table");
            }
        }
    }
}
