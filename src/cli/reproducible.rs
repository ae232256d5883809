//! `--reproducible`: the time that everything made by this build has, and what is written down so that `rbuild verify` can
//! build again.
//!
//! The time is SOURCE_DATE_EPOCH, else that of the context's git commit, else 0. Every file of our own layers gets it,
//! older ones too: a checkout's times depend on who made it when.

use std::{path::Path, process::Command};

use serde::{Deserialize, Serialize};

use super::{args::BuildArgs, cache, failure::Failure, words, write::Written};
use crate::{build::chain, oci::Digest, store::Store};

/// How `rbuild` was called for a result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// The words of the command line.
    pub words: Vec<String>,
    /// Where it was.
    pub directory: String,
    /// SOURCE_DATE_EPOCH of the environment.
    pub epoch: Option<String>,
    /// Hash of the Dockerfile's text.
    #[serde(default)]
    pub dockerfile: String,
    /// Version of rbuild.
    pub version: String,
    /// The manifest or index without what is stated about it, where that has another digest.
    #[serde(default)]
    pub image: Option<Digest>,
}

/// The time of a local context: its commit's, or 0 where there is none.
pub fn epoch(args: &BuildArgs) -> Result<String, Failure> {
    let context = Path::new(&args.context);
    let is_in_git =
        context.is_dir() && std::path::absolute(context).is_ok_and(|path| path.ancestors().any(|path| path.join(".git").exists()));
    if !is_in_git {
        return Ok("0".to_owned());
    }
    // rev-list runs nothing that the repository's configuration names.
    let mut command = Command::new("git");
    command.arg("-C").arg(context).args(["rev-list", "--max-count=1", "--timestamp", "HEAD"]);
    let fail = |reason: String| {
        Failure::new(format!("--reproducible: cannot read the time of the context's commit: {reason}"))
            .with_hint("set SOURCE_DATE_EPOCH yourself")
    };
    let output = command.output().map_err(|error| fail(format!("git: {error}")))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // A repository without a commit.
        let is_empty = reason.contains("unknown revision") || reason.contains("bad revision");
        return if is_empty { Ok("0".to_owned()) } else { Err(fail(reason)) };
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seconds = text.split_whitespace().next().filter(|seconds| seconds.parse::<i64>().is_ok());
    seconds.map(str::to_owned).ok_or_else(|| fail(format!("git says `{}`", text.trim())))
}

/// Writes down how a result came about. A verification that gives the same image leaves what is known of it.
pub fn record(store: &Store, written: &Written, dockerfile: &str) -> Result<(), Failure> {
    let given: Vec<_> = std::env::args_os().collect();
    let is_repeated = words::verb(&given).is_some_and(|verb| verb == "verify");
    if is_repeated && recorded(store, &written.descriptor.digest)?.is_some() {
        return Ok(());
    }
    // Building again needs no cache, and so none of its keys.
    let words = given.iter().map(|word| cache::shown(&word.to_string_lossy())).collect();
    let directory = std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default();
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let dockerfile = Digest::of(dockerfile.as_bytes()).to_string();
    let image = (written.image.digest != written.descriptor.digest).then(|| written.image.digest.clone());
    let call = Call { words, directory, epoch, dockerfile, version: env!("CARGO_PKG_VERSION").to_owned(), image };
    let payload = serde_json::to_string(&call).expect("plain data has a JSON form");
    let key = key(&written.descriptor.digest);
    let fail = |error| Failure::new(chain(&error));
    if store.step(&key).map_err(fail)?.is_some_and(|found| found.payload == payload) {
        return Ok(());
    }
    store.record_step(&key, &payload, &[]).map_err(fail)
}

/// How an image came about, if it was built here.
pub fn recorded(store: &Store, digest: &Digest) -> Result<Option<Call>, Failure> {
    let found = store.step(&key(digest)).map_err(|error| Failure::new(chain(&error)))?;
    Ok(found.and_then(|found| serde_json::from_str(&found.payload).ok()))
}

fn key(digest: &Digest) -> String {
    format!("made {digest}")
}
