//! A RUN that failed, kept so that a person can enter it: its root filesystem as the command left it, and all that the
//! command saw. It is no result: no cache key leads to it. On disk it is without secrets. Unaware of terminals.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    build::{BuildError, StepId, error::Kind, harvest, layer::open_roots, make_writable},
    sandbox::{MountKind, RootFs, Source, Spec},
    store::{SnapshotDraft, SnapshotId, Store},
};

/// What a failed step is called in the store.
const KIND: &str = "failed";
const FILE: &str = "failed.json";

/// A failed RUN.
#[derive(Clone)]
pub struct FailedRun {
    /// Which step.
    pub step: usize,
    /// `[builder 2/5] RUN make`.
    pub name: String,
    /// What ran; its root filesystem can't be written before [`FailedRun::spec`] has given it a place.
    spec: Spec,
    /// What is missing beside what the step saw.
    pub left_out: Vec<String>,
    /// Contexts and cache mounts stay while this does.
    _held: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

/// The part that is written down.
#[derive(Serialize, Deserialize)]
struct Saved {
    step: usize,
    name: String,
    spec: Spec,
    left_out: Vec<String>,
}

impl std::fmt::Debug for FailedRun {
    /// Without the spec: it may hold secrets.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FailedRun").field("step", &self.step).field("name", &self.name).finish_non_exhaustive()
    }
}

impl FailedRun {
    /// Keeps what the step left in `draft`. `secret_variables` are names of the environment that hold secrets.
    pub(super) fn keep(
        (step, name): (StepId, &str),
        mut spec: Spec,
        draft: SnapshotDraft,
        secret_variables: &[String],
        held: Arc<dyn std::any::Any + Send + Sync>,
    ) -> Result<Self, BuildError> {
        let unique = format!("{}-{}", jiff::Timestamp::now().as_nanosecond(), std::process::id());
        let id = SnapshotId::of_key(KIND, &unique);
        let saved = |spec: &Spec, lowers: Vec<PathBuf>| {
            let (spec, left_out) = without_secrets(spec, lowers, secret_variables);
            Saved { step: step.0, name: name.to_owned(), spec, left_out }
        };
        // The path after the commit is known before: it is in the file that is committed.
        let place = draft.committed_path(&id).join("fs");
        let mut lowers = vec![place];
        if let RootFs::Overlay { lowers: below, .. } = &spec.rootfs {
            lowers.extend(below.iter().cloned());
        }
        let text = serde_json::to_vec(&saved(&spec, lowers.clone())).expect("a spec has only string keys");
        let path = draft.path().join(FILE);
        std::fs::write(&path, text).map_err(|error| BuildError::new(Kind::Store, format!("cannot write {}: {error}", path.display())))?;
        draft.commit(&id).map_err(BuildError::store)?;
        spec.rootfs = RootFs::Overlay { lowers, upper: PathBuf::new(), work: PathBuf::new(), volatile: true };
        Ok(Self { step: step.0, name: name.to_owned(), spec, left_out: Vec::new(), _held: Some(held) })
    }

    /// The failed steps that the store still has, newest first.
    pub fn all(store: &Store) -> Result<Vec<Self>, BuildError> {
        let mut list = Vec::new();
        for path in store.snapshots_of_kind(KIND).map_err(BuildError::store)? {
            let Ok(text) = std::fs::read(path.join(FILE)) else { continue };
            let Ok(mut saved) = serde_json::from_slice::<Saved>(&text) else { continue };
            // Contexts are gone with the build; layers may have been removed since.
            saved.spec.mounts.retain(|mount| {
                let is_there = source_exists(&mount.kind);
                if !is_there {
                    saved.left_out.push(format!("the mount at {}", mount.target.display()));
                }
                is_there
            });
            if lowers(&saved.spec).iter().all(|path| path.exists()) {
                let Saved { step, name, spec, left_out } = saved;
                list.push(Self { step, name, spec, left_out, _held: None });
            }
        }
        Ok(list)
    }

    /// The directories that together are what the step left, top first.
    pub fn layers(&self) -> &[PathBuf] {
        lowers(&self.spec)
    }

    /// What to start in its place: other arguments, and changes that go to `draft`.
    pub fn spec(&self, args: Vec<String>, draft: &SnapshotDraft) -> Result<Spec, BuildError> {
        let mut spec = Spec { args, ..self.spec.clone() };
        make_writable(&mut spec, draft, self.layers())?;
        Ok(spec)
    }

    /// The step's working directory.
    pub fn directory(&self) -> &str {
        &self.spec.cwd
    }

    /// The command that failed.
    pub fn command(&self) -> &[String] {
        &self.spec.args
    }
}

fn lowers(spec: &Spec) -> &[PathBuf] {
    match &spec.rootfs {
        RootFs::Overlay { lowers, .. } => lowers,
        RootFs::Directory(_) => &[],
    }
}

/// The spec as it may be written down, and what it lacks.
fn without_secrets(spec: &Spec, lowers: Vec<PathBuf>, secret_variables: &[String]) -> (Spec, Vec<String>) {
    let mut spec = spec.clone();
    let mut left_out = Vec::new();
    spec.mounts.retain(|mount| {
        let is_secret = matches!(mount.kind, MountKind::Secret { .. } | MountKind::Ssh { .. });
        if is_secret {
            left_out.push(format!("the secret or agent at {}", mount.target.display()));
        }
        !is_secret
    });
    spec.env.retain(|(name, _)| {
        let is_secret = secret_variables.contains(name);
        if is_secret {
            left_out.push(format!("the variable {name}"));
        }
        !is_secret
    });
    spec.rootfs = RootFs::Overlay { lowers, upper: PathBuf::new(), work: PathBuf::new(), volatile: true };
    (spec, left_out)
}

fn source_exists(kind: &MountKind) -> bool {
    match kind {
        MountKind::Bind { source, .. } | MountKind::Discard { source, .. } | MountKind::Moved { source, .. } => match source {
            Source::Directory(path) => path.exists(),
            Source::Overlay(paths) => paths.iter().all(|path| path.exists()),
        },
        _ => true,
    }
}

/// Copies a file or directory of the step's root filesystem to this machine.
pub fn copy_out(run: &FailedRun, path: &str, destination: &std::path::Path) -> Result<PathBuf, String> {
    let roots = open_roots(run.layers()).map_err(|error| format!("cannot open what the step left: {error}"))?;
    harvest::copy(roots, path, destination).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Mount;

    #[test]
    fn what_is_written_down_holds_no_secret() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let secret = MountKind::Secret { bytes: b"hunter2".to_vec(), mode: 0o400, uid: 0, gid: 0 };
        let spec = Spec {
            args: vec!["/bin/sh".into()],
            env: vec![("PATH".into(), "/bin".into()), ("TOKEN".into(), "hunter2".into())],
            mounts: vec![Mount { target: "/run/secrets/a".into(), kind: secret }],
            ..Spec::default()
        };
        let draft = store.new_snapshot().unwrap();
        std::fs::write(draft.fs().join("report.xml"), "r").unwrap();
        let kept = FailedRun::keep((StepId(3), "RUN x"), spec, draft, &["TOKEN".to_owned()], Arc::new(())).unwrap();
        assert_eq!(kept.spec.env.len(), 2, "the build itself still has all");
        let found = FailedRun::all(&store).unwrap();
        assert_eq!((found.len(), found[0].step, found[0].name.as_str()), (1, 3, "RUN x"));
        assert_eq!(found[0].left_out, ["the secret or agent at /run/secrets/a", "the variable TOKEN"]);
        assert_eq!(std::fs::read(found[0].layers()[0].join("report.xml")).unwrap(), b"r");
        let mut files =
            walkdir::WalkDir::new(top.path()).into_iter().map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file());
        // Bytes are written as numbers in JSON.
        let traces: [&[u8]; 2] = [b"hunter2", b"104,117,110,116,101,114,50"];
        let holds = |path: &std::path::Path| std::fs::read(path).unwrap_or_default();
        assert!(files.all(|entry| traces.iter().all(|trace| !holds(entry.path()).windows(trace.len()).any(|part| part == *trace))));
    }
}
