//! What a shell may complete beside words of our own: stages of the Dockerfile that the command line names, images, builds
//! and failed steps of the store. Whatever can't be read gives nothing.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;

use crate::{
    build::FailedRun,
    cli::{args::Cli, environment, topics},
    dockerfile,
    store::Store,
};

/// The variable that makes rbuild answer a shell.
pub const VARIABLE: &str = "RBUILD_COMPLETE";

/// The command line as shells complete it: flags of `build` also where the verb is left out.
pub fn command() -> clap::Command {
    let mut command = <Cli>::command();
    command.build();
    let build = command.find_subcommand("build").cloned();
    let own: Vec<clap::Id> = command.get_arguments().map(|arg| arg.get_id().clone()).collect();
    let flags = build.iter().flat_map(|build| build.get_arguments()).filter(|arg| !arg.is_positional() && !own.contains(arg.get_id()));
    let flags: Vec<clap::Arg> = flags.cloned().collect();
    command.args(flags)
}

/// Stages, with what they are built on.
pub fn stages() -> Vec<CompletionCandidate> {
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(2).collect();
    let Some(text) = dockerfile_of(&words).and_then(|path| std::fs::read_to_string(path).ok()) else { return Vec::new() };
    let Ok(file) = dockerfile::parse(&text) else { return Vec::new() };
    let named = file.stages.iter().filter_map(|stage| Some((stage.name.as_ref()?.text.to_lowercase(), &stage.base.text)));
    named.map(|(name, base)| CompletionCandidate::new(name).help(Some(format!("FROM {base}").into()))).collect()
}

/// The file of `-f`, else that of a directory among the words, else that of the current one.
fn dockerfile_of(words: &[OsString]) -> Option<PathBuf> {
    let texts: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let after = texts.windows(2).filter(|pair| pair[0] == "-f" || pair[0] == "--file").map(|pair| pair[1]);
    let joined = texts.iter().filter_map(|text| text.strip_prefix("--file="));
    if let Some(file) = after.chain(joined).last() {
        return Some(PathBuf::from(file));
    }
    let contexts = texts.iter().rev().filter(|text| !text.starts_with('-')).map(Path::new);
    let files = contexts.chain([Path::new(".")]).map(|directory| directory.join("Dockerfile"));
    files.into_iter().find(|path| path.is_file())
}

/// Names of images.
pub fn images() -> Vec<CompletionCandidate> {
    let images = store().and_then(|store| store.images().ok()).unwrap_or_default();
    let mut names: Vec<String> = images.iter().map(|image| image.name.familiar()).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Builds, the newest first.
pub fn builds() -> Vec<CompletionCandidate> {
    let builds = store().and_then(|store| store.builds().ok()).unwrap_or_default();
    builds.iter().map(|build| CompletionCandidate::new(build.id())).collect()
}

/// Steps that failed and can be entered, and images.
pub fn places() -> Vec<CompletionCandidate> {
    let failed = store().and_then(|store| FailedRun::all(&store).ok()).unwrap_or_default();
    let first_line = |run: &FailedRun| run.name.lines().next().unwrap_or_default().to_owned();
    // Of several builds the newest is meant.
    let newest: BTreeMap<usize, &FailedRun> = failed.iter().rev().map(|run| (run.step, run)).collect();
    let steps = newest.values().map(|run| CompletionCandidate::new(run.step.to_string()).help(Some(first_line(run).into())));
    steps.chain(images()).collect()
}

/// Words that a flag knows.
pub fn progress() -> Vec<CompletionCandidate> {
    words(&["auto", "plain", "tty", "quiet", "rawjson"])
}

/// Words that `--on-error` knows.
pub fn on_error() -> Vec<CompletionCandidate> {
    words(&["end", "shell"])
}

/// Words that `--call` knows.
pub fn call() -> Vec<CompletionCandidate> {
    words(&["build", "check", "outline", "targets"])
}

/// What help is about: topics and verbs.
pub fn topics() -> Vec<CompletionCandidate> {
    let command = <Cli>::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(|verb| CompletionCandidate::new(verb.get_name()));
    topics::names().map(CompletionCandidate::new).chain(verbs).collect()
}

fn words(known: &[&str]) -> Vec<CompletionCandidate> {
    known.iter().map(CompletionCandidate::new).collect()
}

/// The store, if there is one: completing makes none.
fn store() -> Option<Store> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let given = words.windows(2).find(|pair| pair[0] == "--store").map(|pair| PathBuf::from(&pair[1]));
    let given = given.or_else(|| std::env::var_os("RBUILD_STORE").map(PathBuf::from));
    let root = environment::store_root(given.as_ref()).ok().filter(|root| root.is_dir())?;
    Store::open(&root).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_is_the_one_that_the_words_name() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("Dockerfile"), "FROM scratch AS a\n").unwrap();
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let directory = top.path().display().to_string();
        assert_eq!(dockerfile_of(&words(&format!("build --target x {directory}"))), Some(top.path().join("Dockerfile")));
        assert_eq!(dockerfile_of(&words(&format!("-f other {directory} --target"))), Some("other".into()));
        assert_eq!(dockerfile_of(&words("build --file=mine")), Some("mine".into()));
    }

    #[test]
    fn flags_of_build_are_completed_without_the_verb() {
        assert!(command().get_arguments().any(|arg| arg.get_long() == Some("target")));
        command().debug_assert();
    }
}
