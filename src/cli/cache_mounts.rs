//! `rbuild cache`: the cache mounts of the store, out of it and into it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};

use crate::{
    build::{Event, Progress, Services, chain},
    cli::{
        args::Cli,
        failure::Failure,
        outputs::fields,
        progress::{Mode, Place, Reporter, size},
        services,
        write::Steps,
    },
    export::{self, Depot, MovedCacheMount},
    oci::Reference,
    snapshot,
    store::{CacheMountInfo, CacheMountLock, Store},
    sys::root::RootDir,
};

/// Between two looks whether a cache mount is free.
const PAUSE: Duration = Duration::from_millis(100);

/// `rbuild cache`.
#[derive(Debug, Args, Clone)]
pub struct CacheArgs {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Debug, Subcommand, Clone)]
enum CacheVerb {
    /// List the cache mounts of the store
    Ls(LsArgs),
    /// Write cache mounts to a directory or registry; what is there already is not written again
    Export(ExportArgs),
    /// Bring cache mounts from a directory or registry into the store
    Import(ImportArgs),
}

#[derive(Debug, Args, Clone)]
struct LsArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args, Clone)]
struct ExportArgs {
    /// Where to: a path with a `/` in front (./DIR), oci:DIR, type=oci,dest=DIR, NAME:TAG or type=registry,ref=NAME:TAG
    #[arg(value_name = "PLACE")]
    place: String,
    /// Ids of cache mounts, as `id=` or `target=` of the mount says them [default: all]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args, Clone)]
struct ImportArgs {
    /// Where from: the same as for `export`
    #[arg(value_name = "PLACE")]
    place: String,
    /// Ids of cache mounts [default: all that are there]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Remove what a cache mount of the store holds; else what is imported goes over it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args, Clone)]
struct How {
    /// What was moved, as JSON
    #[arg(long)]
    json: bool,
    /// Accept plain http and unverified TLS
    #[arg(long)]
    insecure: bool,
}

/// Where exported cache mounts lie.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    Directory(PathBuf),
    Registry(Reference),
}

impl Location {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |reason: &str| Failure::usage(format!("{text}: {reason}"));
        if text.starts_with("type=") {
            let value = |keys: &[&str]| {
                let fields = fields(text);
                let mut pairs = fields.iter().filter_map(|field| field.split_once('='));
                pairs.find(|(key, value)| keys.contains(key) && !value.is_empty()).map(|(_, value)| value.to_owned())
            };
            return match value(&["type"]).as_deref() {
                Some("oci" | "local") => {
                    value(&["dest", "src"]).map(|path| Self::Directory(path.into())).ok_or_else(|| wrong("dest=DIR is missing"))
                }
                Some("registry") => Self::registry(&value(&["ref"]).ok_or_else(|| wrong("ref=NAME is missing"))?),
                _ => Err(wrong("an unknown type").with_hint("type=oci,dest=DIR or type=registry,ref=NAME:TAG")),
            };
        }
        match text.strip_prefix("oci:") {
            Some(path) => Ok(Self::Directory(path.into())),
            None if [".", "/"].iter().any(|start| text.starts_with(start)) || Path::new(text).is_dir() => Ok(Self::Directory(text.into())),
            None => Self::registry(text.strip_prefix("docker://").unwrap_or(text)),
        }
    }

    fn registry(text: &str) -> Result<Self, Failure> {
        let name: Reference = text.parse().map_err(|error| Failure::usage(format!("{text}: {error}")))?;
        match name.digest() {
            Some(_) => Err(Failure::usage(format!("{text}: a place of cache mounts has a tag, not a digest"))),
            None => Ok(Self::Registry(name)),
        }
    }

    async fn open(&self, insecure: bool, services: &Services, is_written: bool) -> Result<Depot, Failure> {
        Ok(match self {
            Self::Directory(path) if is_written => Depot::new_directory(path).await.map_err(fail)?,
            Self::Directory(path) => Depot::directory(path).await.map_err(fail)?,
            Self::Registry(name) => {
                let client = if insecure { services.client.with_insecure(&[name.registry().to_owned()]) } else { services.client.clone() };
                Depot::Registry { client, name: name.clone() }
            }
        })
    }
}

/// `rbuild cache ..`.
pub fn cache(cli: &Cli, args: &CacheArgs) -> Result<ExitCode, Failure> {
    match &args.verb {
        CacheVerb::Ls(args) => list(cli, args),
        CacheVerb::Export(args) => export(cli, args),
        CacheVerb::Import(args) => import(cli, args),
    }
}

fn list(cli: &Cli, args: &LsArgs) -> Result<ExitCode, Failure> {
    services::enter(cli)?;
    let store = services::open_store(cli)?;
    let mounts = store.cache_mounts().map_err(fail)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let value = |mount: &CacheMountInfo| {
            let (id, variant) = split(&mount.id);
            serde_json::json!({
                "id": id, "variant": variant, "copies": mount.copies, "size_bytes": mount.bytes,
                "last_used": jiff::Timestamp::from_second(mount.used_unix as i64).unwrap_or_default().to_string(),
            })
        };
        let _ = writeln!(out, "{}", serde_json::to_string_pretty(&mounts.iter().map(value).collect::<Vec<_>>()).expect("plain data"));
        return Ok(ExitCode::SUCCESS);
    }
    for mount in &mounts {
        let used = jiff::Timestamp::from_second(mount.used_unix as i64).unwrap_or_default();
        let copies = if mount.copies > 1 { format!("  {} copies", mount.copies) } else { String::new() };
        let (id, variant) = split(&mount.id);
        let variant = if variant.is_empty() { String::new() } else { format!("  ({variant})") };
        let _ = writeln!(out, "{:>10}  {used}  {id}{variant}{copies}", size(mount.bytes));
    }
    Ok(ExitCode::SUCCESS)
}

/// The id as the Dockerfile has it, and what else makes the store tell cache mounts apart: beginnings and owners.
fn split(id: &str) -> (&str, String) {
    let (id, rest) = id.split_once('\0').unwrap_or((id, ""));
    let name = id.strip_prefix('/').filter(|name| !name.is_empty() && !name.contains('/')).unwrap_or(id);
    (name, rest.replace('\0', ", "))
}

/// Whether a person means a cache mount by `text`.
fn is_meant(id: &str, text: &str) -> bool {
    let id = id.split('\0').next().unwrap_or_default();
    id.trim_start_matches('/') == text.trim_start_matches('/')
}

/// The ones that are meant; all if nothing is said.
fn chosen<T: Clone>(all: &[T], id_of: impl Fn(&T) -> &str, ids: &[String], place: &str) -> Result<Vec<T>, Failure> {
    if let Some(missing) = ids.iter().find(|id| !all.iter().any(|one| is_meant(id_of(one), id))) {
        let known: Vec<&str> = all.iter().map(|one| split(id_of(one)).0).collect();
        let hint = if known.is_empty() { "there are none".to_owned() } else { format!("there are {}", known.join(", ")) };
        return Err(Failure::new(format!("{place} has no cache mount {missing}")).with_hint(hint));
    }
    Ok(all.iter().filter(|one| ids.is_empty() || ids.iter().any(|id| is_meant(id_of(one), id))).cloned().collect())
}

fn export(cli: &Cli, args: &ExportArgs) -> Result<ExitCode, Failure> {
    let location = Location::parse(&args.place)?;
    let work = Work::begin(cli)?;
    let mounts = chosen(&work.services.store.cache_mounts().map_err(fail)?, |mount| &mount.id, &args.ids, "the store")?;
    if mounts.is_empty() {
        return Err(Failure::new("the store has no cache mounts").with_hint("RUN --mount=type=cache,.. makes them"));
    }
    let Work { services, steps, reporter, runtime } = work;
    let moved = services::drive(runtime, &services, async {
        let depot = location.open(args.how.insecure, &services, true).await?;
        let mut list = Vec::new();
        for mount in &mounts {
            let name = format!("exporting cache mount {} to {}", split(&mount.id).0, args.place);
            let moved = steps.step(&name, async |step| {
                let note = |text: &str| steps.event(Event::Note { step: Some(step), text });
                let lock = lock(&services.store, &mount.id, &note).await?;
                // Pruned since it was listed.
                let Some(path) = lock.path() else { return Ok(None) };
                if mount.copies > 1 {
                    note(&format!("{} more copies, of sharing=private, are not exported", mount.copies - 1));
                }
                let moved = export::export_cache_mount(&depot, &mount.id, &path).await.map_err(fail)?;
                note(&sentence(&moved, "written"));
                Ok(Some(moved))
            });
            list.extend(moved.await?);
        }
        Ok(list)
    });
    tell(moved, &reporter, args.how.json)
}

fn import(cli: &Cli, args: &ImportArgs) -> Result<ExitCode, Failure> {
    let location = Location::parse(&args.place)?;
    let Work { services, steps, reporter, runtime } = Work::begin(cli)?;
    let moved = services::drive(runtime, &services, async {
        let depot = location.open(args.how.insecure, &services, false).await?;
        let exported = export::exported_cache_mounts(&depot).await.map_err(fail)?;
        let entries = chosen(&exported, |(id, _)| id, &args.ids, &args.place)?;
        if entries.is_empty() {
            return Err(
                Failure::new(format!("{} has no exported cache mounts", args.place)).with_hint("`rbuild cache export` puts them there")
            );
        }
        let mut list = Vec::new();
        for (id, entry) in &entries {
            let name = format!("importing cache mount {} from {}", split(id).0, args.place);
            let moved = steps.step(&name, async |step| {
                let note = |text: &str| steps.event(Event::Note { step: Some(step), text });
                // Beside the cache mount, which others may use meanwhile.
                let draft = services.store.new_cache_mount().map_err(fail)?;
                let moved = export::import_cache_mount(&depot, entry, &draft.path(), services.ownership).await.map_err(fail)?;
                let lock = lock(&services.store, id, &note).await?;
                match lock.path().filter(|_| !args.replace) {
                    None => lock.replace(draft).map_err(fail)?,
                    Some(path) => merge(&draft.path(), &path)?,
                }
                note(&sentence(&moved, "read"));
                Ok(moved)
            });
            list.push(moved.await?);
        }
        Ok(list)
    });
    tell(moved, &reporter, args.how.json)
}

fn merge(from: &Path, to: &Path) -> Result<(), Failure> {
    let open = |path: &Path| RootDir::open(path).map_err(|error| Failure::new(format!("cannot open {}: {error}", path.display())));
    snapshot::merge_tree(&open(from)?, &open(to)?).map_err(|error| Failure::new(chain(&error)))
}

/// What both ways need.
struct Work {
    services: Services,
    steps: Arc<Steps>,
    reporter: Arc<Reporter>,
    runtime: tokio::runtime::Runtime,
}

impl Work {
    fn begin(cli: &Cli) -> Result<Self, Failure> {
        let entered = services::enter(cli)?;
        let services = services::services(cli, &entered, Default::default())?;
        let runtime = services::runtime()?;
        let place = Place::here();
        let mode = place.mode("auto").unwrap_or(Mode::Plain);
        let reporter = Reporter::new(mode, place);
        Ok(Self { services, steps: Steps::new(reporter.clone()), reporter, runtime })
    }
}

/// Takes a cache mount alone; builds that use it go first.
async fn lock(store: &Store, id: &str, note: &impl Fn(&str)) -> Result<CacheMountLock, Failure> {
    let mut is_told = false;
    loop {
        if let Some(lock) = store.lock_cache_mount(id).map_err(fail)? {
            return Ok(lock);
        }
        if !std::mem::replace(&mut is_told, true) {
            note("waiting for a build that uses it");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn sentence(moved: &MovedCacheMount, how: &str) -> String {
    let MovedCacheMount { chunks, bytes, moved_chunks, moved_bytes, .. } = moved;
    format!("{} in {chunks} chunks; {moved_chunks} of them {how}, {}", size(*bytes), size(*moved_bytes))
}

fn tell(moved: Result<Vec<MovedCacheMount>, Failure>, reporter: &Reporter, json: bool) -> Result<ExitCode, Failure> {
    reporter.stop();
    let moved = moved?;
    if json {
        let value = |moved: &MovedCacheMount| serde_json::to_value(MovedCacheMount { id: split(&moved.id).0.to_owned(), ..moved.clone() });
        let values = moved.iter().map(value).collect::<Result<Vec<_>, _>>().expect("plain data has a JSON form");
        let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&values).expect("plain data has a JSON form"));
    }
    Ok(ExitCode::SUCCESS)
}

fn fail(error: impl std::error::Error) -> Failure {
    Failure::new(chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_places() {
        let directory = |text: &str| Location::Directory(text.into());
        for (text, expected) in [
            ("./d", directory("./d")),
            ("/d", directory("/d")),
            ("oci:d", directory("d")),
            ("type=oci,dest=d", directory("d")),
            ("type=local,src=d", directory("d")),
            ("h.example/c:1", Location::Registry("h.example/c:1".parse().unwrap())),
            ("type=registry,ref=h.example/c", Location::Registry("h.example/c".parse().unwrap())),
        ] {
            assert_eq!(Location::parse(text).unwrap(), expected, "{text}");
        }
        for text in ["type=oci", "type=s3,bucket=b", "type=registry", "UPPER", &format!("h.example/c@sha256:{}", "0".repeat(64))] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_name_a_cache_mount_as_their_dockerfile_does() {
        assert_eq!(split("/go"), ("go", String::new()));
        assert_eq!(split("/root/.cache\0None Some(1) None"), ("/root/.cache", "None Some(1) None".to_owned()));
        assert!(is_meant("/go", "go") && is_meant("//root/.cache", "/root/.cache") && is_meant("/go\0x", "go") && !is_meant("/go", "gone"));
    }
}
