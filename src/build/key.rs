//! The cache key of a step: every fact that its result depends on, by name.
//!
//! The key is the BLAKE3 hash of the facts in order, so that a miss can say which fact differs from the nearest earlier
//! build. One row per fact, one column per kind of vertex:
//!
//! | Fact | RUN | COPY/ADD | WORKDIR |
//! |---|---|---|---|
//! | format version of this table | x | x | x |
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
//! | `source N`: path or file name, whether it is unpacked | | x | |
//! | `source N content`: names, types, modes, owners, sizes, links, xattrs, bytes of the used paths | | x | |
//! | `destination`, `chown`, `chmod`, `link`, `parents`, `excludes` | | x | |
//! | `path` | | | x |
//!
//! Not in it: modification times of sources, proxy variables, addresses of --add-host, values of secrets and ssh
//! agents, contents of cache mounts, time.
//!
//! There are two levels. The definition key takes an input stage by the result it had in an earlier build, which costs
//! no IO; when it misses, the content key takes it by the digest of exactly the used paths.

use std::collections::BTreeMap;

use crate::plan::{CopyOp, CopySource, MountKind, RunOp, SourceFrom, Vertex, WorkdirOp};

/// Raised when the meaning of a key changes: old entries are then never found.
const FORMAT: &str = "1";

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
}

/// The facts of a vertex. `parent` is its parent's result; `contents` gives the identity of each input's content by
/// the name of its fact (`source 0`, `mount /target`).
pub fn facts(vertex: &Vertex, parent: &ResultId, contents: &BTreeMap<String, String>, common: &CommonFacts) -> Facts {
    let mut facts = Facts::default();
    facts.add("format", FORMAT);
    match &vertex.op {
        crate::plan::Op::Image(_) => facts.add("instruction", "FROM"),
        crate::plan::Op::Run(run) => run_facts(&mut facts, run, parent, contents, common),
        crate::plan::Op::Copy(copy) => copy_facts(&mut facts, copy, parent, contents),
        crate::plan::Op::Workdir(workdir) => workdir_facts(&mut facts, workdir, parent),
    }
    facts.add("platform", vertex.platform.to_string());
    facts
}

fn run_facts(facts: &mut Facts, run: &RunOp, parent: &ResultId, contents: &BTreeMap<String, String>, common: &CommonFacts) {
    facts.add("instruction", "RUN");
    facts.add("parent", &parent.0);
    facts.add("command", json(&run.args));
    for (name, value) in &run.env {
        facts.add(format!("env {name}"), value);
    }
    facts.add("user", &run.user);
    facts.add("workdir", &run.cwd);
    if let Some(script) = &run.script {
        facts.add("script", json(script));
    }
    for mount in &run.mounts {
        let name = mount_name(&mount.target, &mount.kind);
        facts.add(&name, mount_options(&mount.kind));
        if let Some(content) = contents.get(&name) {
            facts.add(format!("{name} content"), content);
        }
    }
    facts.add("network", json(&run.network));
    facts.add("hostname", &common.hostname);
    facts.add("resources", &common.resources);
}

/// The name of a mount's fact.
pub fn mount_name(target: &str, kind: &MountKind) -> String {
    match kind {
        MountKind::Secret { id, .. } if target.is_empty() => format!("mount secret {id}"),
        MountKind::Ssh { id, .. } if target.is_empty() => format!("mount ssh {id}"),
        _ => format!("mount {target}"),
    }
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

fn copy_facts(facts: &mut Facts, copy: &CopyOp, parent: &ResultId, contents: &BTreeMap<String, String>) {
    facts.add("instruction", if copy.is_add { "ADD" } else { "COPY" });
    if !copy.link {
        facts.add("parent", &parent.0);
    }
    for (index, source) in copy.sources.iter().enumerate() {
        let name = source_name(index);
        facts.add(&name, source_text(source));
        if let Some(content) = contents.get(&name) {
            facts.add(format!("{name} content"), content);
        }
    }
    facts.add("destination", &copy.destination);
    facts.add("chown", copy.chown.as_deref().unwrap_or_default());
    facts.add("chmod", copy.chmod.as_deref().unwrap_or_default());
    facts.add("link", copy.link.to_string());
    facts.add("parents", copy.parents.to_string());
    facts.add("excludes", json(&copy.excludes));
}

/// Where something was fetched from, and what it was checked against, says nothing about what it is.
fn source_text(source: &CopySource) -> String {
    match &source.from {
        SourceFrom::Input(_) => json(&(&source.path, source.unpack)),
        SourceFrom::Url { file_name, .. } => json(&("url", file_name, source.unpack)),
        SourceFrom::Git { .. } => json(&("git", source.unpack)),
        inline @ SourceFrom::Inline { .. } => json(&(inline, source.unpack)),
    }
}

fn workdir_facts(facts: &mut Facts, workdir: &WorkdirOp, parent: &ResultId) {
    facts.add("instruction", "WORKDIR");
    facts.add("parent", &parent.0);
    facts.add("path", &workdir.path);
    facts.add("user", &workdir.user);
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}
