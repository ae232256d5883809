//! `rbuild images`, `tag`, `rm` and `save`: names in the store, and images out of it.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    build::chain,
    cli::{
        absent::{self, Absent},
        args::{Cli, ImagesArgs},
        failure::Failure,
        find,
        progress::size,
        services, write,
    },
    export::{self, FileDestination, LayoutOptions},
    oci::{Descriptor, Platform, Reference, media_type},
    store::{NamedImage, Store},
};

/// `rbuild tag`.
#[derive(Debug, Args, Clone)]
pub struct TagArgs {
    /// Image: a name, or a digest or its beginning
    #[arg(add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::images))]
    pub image: String,
    /// Names to give it
    #[arg(required = true, value_name = "NAME[:TAG]")]
    pub names: Vec<String>,
}

/// `rbuild rm`.
#[derive(Debug, Args, Clone)]
pub struct RemoveArgs {
    /// Names to take away; `rbuild prune` then frees the space
    #[arg(required = true, value_name = "NAME[:TAG]", add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::images))]
    pub names: Vec<String>,
}

/// `rbuild save`.
#[derive(Debug, Args, Clone)]
pub struct SaveArgs {
    /// Image: a name, or a digest or its beginning
    #[arg(add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::images))]
    pub image: String,
    /// File [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// An archive for docker load, or one that is an OCI layout (both are that)
    #[arg(long, value_name = "docker|oci", default_value = "docker")]
    pub format: String,
    /// Of these platforms only
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}

/// Lists names.
pub fn images(cli: &Cli, args: &ImagesArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let images = wanted(&store, &args.names)?;
    if args.fetch {
        absent::fetch(cli, &store, &images.iter().map(|image| &image.descriptor).collect::<Vec<_>>())?;
    }
    let mut out = std::io::stdout().lock();
    let width = images.iter().map(|image| image.name.familiar().len()).max().unwrap_or(0).max(4);
    if !args.json && !images.is_empty() {
        let _ = writeln!(out, "{:width$}  {:19}  {:10}  {:9}  PLATFORMS", "NAME", "DIGEST", "CREATED", "SIZE");
    }
    for image in images {
        let facts = Facts::of(&store, &image.descriptor);
        let _ = match args.json {
            true => {
                let value = serde_json::json!({
                    "name": image.name.to_string(),
                    "digest": image.descriptor.digest,
                    "platforms": facts.platforms,
                    "size": facts.size_bytes,
                    "created": facts.created,
                    "absent": facts.absent.value(),
                });
                writeln!(out, "{value}")
            }
            false => {
                let (name, digest) = (image.name.familiar(), crate::build::short(&image.descriptor.digest));
                let day = facts.created.as_deref().and_then(|time| time.get(..10)).unwrap_or("-");
                let _ = writeln!(out, "{name:width$}  {digest}  {day:10}  {:9}  {}", size(facts.size_bytes), facts.platforms.join(" "));
                facts.absent.sentences().iter().try_for_each(|sentence| writeln!(out, "{:width$}  {sentence}", ""))
            }
        };
    }
    Ok(ExitCode::SUCCESS)
}

/// The images of these names, or all.
fn wanted(store: &Store, texts: &[String]) -> Result<Vec<NamedImage>, Failure> {
    let names = names(texts)?;
    let images = store.images().map_err(|error| Failure::new(chain(&error)))?;
    match names.iter().find(|name| !images.iter().any(|image| image.name == **name)) {
        Some(unknown) => Err(Failure::new(format!("the store has no image {}", unknown.familiar()))),
        None => Ok(images.into_iter().filter(|image| names.is_empty() || names.contains(&image.name)).collect()),
    }
}

/// What a list says of an image.
#[derive(Default)]
struct Facts {
    platforms: Vec<String>,
    size_bytes: u64,
    created: Option<String>,
    absent: Absent,
}

impl Facts {
    /// What can be read: a list does not fail for one damaged image.
    fn of(store: &Store, top: &Descriptor) -> Self {
        let mut facts = Self { absent: Absent::of(store, top).unwrap_or_default(), ..Self::default() };
        facts.add(store, top, 0);
        facts
    }

    fn add(&mut self, store: &Store, descriptor: &Descriptor, depth: u32) {
        if media_type::is_index(&descriptor.media_type) {
            let children = store.index_blob(&descriptor.digest).map(|index| index.manifests).unwrap_or_default();
            let images = children.iter().filter(|child| depth < 4 && !export::is_attestation(child));
            images.for_each(|child| self.add(store, child, depth + 1));
        } else if let Ok(image) = store.image(descriptor, &Platform::host()) {
            self.platforms.push(image.platform.to_string());
            self.size_bytes += image.layers.iter().map(|layer| layer.descriptor.size).sum::<u64>();
            self.created = image.config.created;
        }
    }
}

/// Gives an image more names.
pub fn tag(cli: &Cli, args: &TagArgs) -> Result<ExitCode, Failure> {
    let names = names(&args.names)?;
    if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
        return Err(Failure::usage(format!("{}: a name to give can't have a digest", name.familiar())));
    }
    let store = services::open_store(cli)?;
    let found = find::descriptor(&store, &args.image)?;
    store.tag_all(&names, &found).map_err(|error| Failure::new(chain(&error)))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes names away.
pub fn remove(cli: &Cli, args: &RemoveArgs) -> Result<ExitCode, Failure> {
    let names = names(&args.names)?;
    let store = services::open_store(cli)?;
    for (name, text) in names.iter().zip(&args.names) {
        if !store.untag(name).map_err(|error| Failure::new(chain(&error)))? {
            return Err(Failure::new(format!("the store has no image of the name {}", name.familiar())).with_hint(names_of(&store, text)));
        }
        eprintln!("removed {}", name.familiar());
    }
    Ok(ExitCode::SUCCESS)
}

/// The image of an index that has but one, beside what is stated about it: docker's archives know no indexes.
pub fn only_image(store: &Store, top: Descriptor) -> Result<Descriptor, Failure> {
    if !media_type::is_index(&top.media_type) {
        return Ok(top);
    }
    let index = store.index_blob(&top.digest).map_err(|error| Failure::new(chain(&error)))?;
    let mut images = index.manifests.into_iter().filter(|entry| !export::is_attestation(entry));
    match (images.next(), images.next()) {
        (Some(only), None) => Ok(only),
        _ => Ok(top),
    }
}

/// What somebody may have meant who gave something else than a name.
fn names_of(store: &Store, text: &str) -> String {
    let list = || -> Option<String> {
        let digest = find::descriptor(store, text).ok()?.digest;
        let images = store.images().ok()?.into_iter().filter(|image| image.descriptor.digest == digest);
        let names: Vec<String> = images.map(|image| image.name.familiar()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    list().map_or_else(|| "`rbuild images` lists them".to_owned(), |names| format!("{text} is the digest of {names}"))
}

/// Writes an archive.
pub fn save(cli: &Cli, args: &SaveArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let top = match (&args.platform, args.format.as_str()) {
        (Some(platform), _) => find::image(&store, &args.image, Some(platform))?.0,
        (None, "docker") => only_image(&store, find::descriptor(&store, &args.image)?)?,
        _ => find::descriptor(&store, &args.image)?,
    };
    absent::fetch(cli, &store, &[&top])?;
    let names = args.image.parse::<Reference>().ok().filter(|name| store.resolve(name).is_ok_and(|found| found.is_some()));
    let options = LayoutOptions { names: names.into_iter().collect(), ..LayoutOptions::default() };
    let destination = match &args.output {
        Some(path) => FileDestination::Path(path.clone()),
        None => write::standard_output()?,
    };
    let written = match args.format.as_str() {
        "docker" => export::write_docker_archive(&store, &top, destination, &options),
        "oci" => export::write_oci_archive(&store, &top, destination, &options),
        other => return Err(Failure::usage(format!("--format {other} is unknown")).with_hint("docker or oci")),
    };
    written?;
    Ok(ExitCode::SUCCESS)
}

fn names(texts: &[String]) -> Result<Vec<Reference>, Failure> {
    texts.iter().map(|text| text.parse().map_err(|error| Failure::usage(format!("{error}")))).collect()
}
