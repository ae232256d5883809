//! `rbuild du`, `prune` and `fsck`: what the store holds, less of it, and whether it is whole.

use std::{io::Write, path::Path, process::ExitCode, time::SystemTime};

use clap::Args;

use crate::{
    build::{chain, downloads_directory, repositories_directory},
    cli::{args::Cli, failure::Failure, progress::size, request::size_bytes, services},
    context::{CachedSource, cached_sources, remove_cached_source},
    store::{ObjectKind, PruneOptions, Removed, Store, StoreError},
};

/// `rbuild du`.
#[derive(Debug, Args, Clone)]
pub struct DuArgs {
    /// Every object, as JSON
    #[arg(long)]
    pub json: bool,
    /// Every object
    #[arg(short, long)]
    pub verbose: bool,
}

/// `rbuild prune`.
#[derive(Debug, Args, Clone)]
pub struct PruneArgs {
    /// Named images, cache mounts and build logs too
    #[arg(short, long)]
    pub all: bool,
    /// Only what was last used longer ago than this
    #[arg(long, value_name = "90m|12h|7d")]
    pub older_than: Option<String>,
    /// Stop when the store takes up no more than this
    #[arg(long, value_name = "BYTES")]
    pub keep: Option<String>,
}

/// `rbuild fsck`.
#[derive(Debug, Args, Clone)]
pub struct FsckArgs {
    /// As JSON, one problem per line
    #[arg(long)]
    pub json: bool,
}

/// Tells what takes up how much.
pub fn du(cli: &Cli, args: &DuArgs) -> Result<ExitCode, Failure> {
    services::enter(cli)?;
    let store = services::open_store(cli)?;
    let usage = store.du().map_err(fail)?;
    let sources = sources(&store)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(&usage).expect("plain data has a JSON form");
        let _ = writeln!(out, "{text}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.verbose {
        let mut objects = usage.objects.clone();
        objects.sort_by_key(|object| std::cmp::Reverse(object.bytes));
        for object in objects {
            let name = if object.is_named { "  named" } else { "" };
            let _ = writeln!(out, "{:>10}  {}{name}", size(object.bytes), object.path.display());
        }
        let _ = writeln!(out);
    }
    let kinds = [
        ("blobs", ObjectKind::Blob),
        ("snapshots", ObjectKind::Snapshot),
        ("cache mounts", ObjectKind::CacheMount),
        ("builds", ObjectKind::Build),
        ("file digests", ObjectKind::StatCache),
        ("layer indexes", ObjectKind::LayerIndex),
    ];
    for (name, kind) in kinds {
        let (count, bytes) = usage.of_kind(kind);
        let _ = writeln!(out, "{name:<14}{count:>8}{:>12}", size(bytes));
    }
    let source_bytes = sources.iter().map(|source| source.size_bytes).sum::<u64>();
    let _ = writeln!(out, "{:<14}{:>8}{:>12}", "sources", sources.len(), size(source_bytes));
    let _ = writeln!(out, "{:<14}{:>8}{:>12}", "other", "", size(usage.other_bytes));
    let _ = writeln!(out, "{:<14}{:>8}{:>12}", "in all", "", size(usage.total_bytes() + source_bytes));
    if usage.absent_bytes > 0 {
        let _ = writeln!(out, "{:<14}{:>8}{:>12}  layers of bases that nothing has needed", "not fetched", "", size(usage.absent_bytes));
    }
    let _ = writeln!(out, "{:<14}{:>8}{:>12}", "can go", "", size(usage.reclaimable_bytes() + source_bytes));
    Ok(ExitCode::SUCCESS)
}

/// Removes what the options say and nobody uses.
pub fn prune(cli: &Cli, args: &PruneArgs) -> Result<ExitCode, Failure> {
    let older_than_seconds = args.older_than.as_deref().map(seconds).transpose()?;
    let keep_bytes = match args.keep.as_deref() {
        Some(text) => Some(size_bytes(text).ok_or_else(|| Failure::usage(format!("--keep {text}: no size")).with_hint("such as 10G"))?),
        None => None,
    };
    // As root of the namespace: files of mapped ids go too.
    services::enter(cli)?;
    let store = services::open_store(cli)?;
    let source_bytes = sources(&store)?.iter().map(|source| source.size_bytes).sum::<u64>();
    let store_bytes = keep_bytes.map(|bytes| bytes.saturating_sub(source_bytes));
    let mut removed = store.prune(&PruneOptions { all: args.all, older_than_seconds, keep_bytes: store_bytes }).map_err(fail)?;
    prune_sources(&store, older_than_seconds.unwrap_or(0), keep_bytes, &mut removed)?;
    let mut out = std::io::stdout().lock();
    for name in &removed.names {
        let _ = writeln!(out, "untagged {name}");
    }
    let in_use = if removed.in_use > 0 { format!(", {} in use", removed.in_use) } else { String::new() };
    let _ = writeln!(out, "removed {} objects, {}{in_use}", removed.objects, size(removed.bytes));
    Ok(ExitCode::SUCCESS)
}

/// Reads the whole store; the exit code says whether it is whole.
pub fn fsck(cli: &Cli, args: &FsckArgs) -> Result<ExitCode, Failure> {
    services::enter(cli)?;
    let store = services::open_store(cli)?;
    let problems = store.fsck().map_err(fail)?;
    let mut out = std::io::stdout().lock();
    for problem in &problems {
        let line = match args.json {
            true => serde_json::to_string(problem).expect("plain data has a JSON form"),
            false => problem.to_string(),
        };
        let _ = writeln!(out, "{line}");
    }
    match problems.len() {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(Failure::new(format!("{count} problems in {}", store.root().display())).with_hint("`rbuild prune --all` starts anew")),
    }
}

/// Brings the store down to its configured size after a build. Nothing that goes wrong here fails the build.
pub fn collect(store: &Store, max: Option<&str>) -> Result<(), Failure> {
    let Some(text) = max.filter(|text| !text.is_empty()) else { return Ok(()) };
    let max_bytes = size_bytes(text).ok_or_else(|| Failure::usage(format!("--store-max {text}: no size")).with_hint("such as 20G"))?;
    if let Err(failure) = collect_to(store, max_bytes) {
        eprintln!("warning: cannot clean up the store: {}", failure.message);
    }
    Ok(())
}

fn collect_to(store: &Store, max_bytes: u64) -> Result<(), Failure> {
    let source_bytes = sources(store)?.iter().map(|source| source.size_bytes).sum::<u64>();
    store.gc_if_grown(max_bytes.saturating_sub(source_bytes)).map_err(fail)?;
    if source_bytes > 0 {
        prune_sources(store, 0, Some(max_bytes), &mut Removed::default())?;
    }
    Ok(())
}

fn sources(store: &Store) -> Result<Vec<CachedSource>, Failure> {
    let mut list = Vec::new();
    for directory in [downloads_directory(store.root()), repositories_directory(store.root())] {
        list.extend(cached_sources(&directory).map_err(|error| unreadable(&directory, &error))?);
    }
    Ok(list)
}

/// Removes downloads and repositories, least recently used first, until they and the store are small enough.
fn prune_sources(store: &Store, older_than_seconds: u64, keep_bytes: Option<u64>, removed: &mut Removed) -> Result<(), Failure> {
    let now = SystemTime::now();
    let mut list = sources(store)?;
    list.sort_by_key(|source| source.last_used);
    let mut total = match keep_bytes {
        Some(_) => store.du().map_err(fail)?.total_bytes() + list.iter().map(|source| source.size_bytes).sum::<u64>(),
        None => u64::MAX,
    };
    for source in list {
        if keep_bytes.is_some_and(|keep| total <= keep) {
            break;
        }
        let age_seconds = now.duration_since(source.last_used).map_or(0, |age| age.as_secs());
        if age_seconds < older_than_seconds {
            continue;
        }
        match remove_cached_source(&source).map_err(|error| unreadable(&source.path, &error))? {
            true => {
                total = total.saturating_sub(source.size_bytes);
                (removed.objects, removed.bytes) = (removed.objects + 1, removed.bytes + source.size_bytes);
            }
            false => removed.in_use += 1,
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot look after {}: {error}", path.display()))
}

/// `90m`, `12h`, `7d`, `2w`; seconds without a unit.
fn seconds(text: &str) -> Result<u64, Failure> {
    let wrong = || Failure::usage(format!("--older-than {text}: no time")).with_hint("such as 90m, 12h or 7d");
    let (number, factor) = match text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()) {
        number if number.len() == text.len() => (number, 1),
        number => {
            let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
            let factor = units.into_iter().find(|(unit, _)| *unit == &text[number.len()..]).ok_or_else(wrong)?.1;
            (number, factor)
        }
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}

fn fail(error: StoreError) -> Failure {
    Failure::new(chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in [("90", 90), ("90s", 90), ("5m", 300), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for text in ["", "d", "7y", "-1d", "1.5h", "99999999999999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
