//! `rbuild copy`: an image from one place to another. From registry to registry only what the second lacks is moved.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use futures_util::future::FutureExt;

use crate::{
    build::{Services, chain},
    cli::{
        absent::{self, Absent},
        args::Cli,
        failure::Failure,
        find, images, services, write,
    },
    export::{self, FileDestination, LayoutOptions, Obtain},
    oci::{Descriptor, Reference},
    registry::Client,
};

/// `rbuild copy`.
#[derive(Debug, Args, Clone)]
pub struct CopyArgs {
    /// From: NAME of the store, docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]
    pub source: String,
    /// To: the same
    pub destination: String,
    /// Accept plain http and unverified TLS
    #[arg(long)]
    pub insecure: bool,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    Store(String),
    Registry(Reference),
    Layout(PathBuf, Option<String>),
    OciArchive(PathBuf, Option<String>),
    DockerArchive(PathBuf, Option<String>),
}

impl Location {
    fn parse(text: &str) -> Result<Self, Failure> {
        let place = |rest: &str| match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') && !path.is_empty() => (PathBuf::from(path), Some(tag.to_owned())),
            _ => (PathBuf::from(rest), None),
        };
        // A name in a docker archive has a colon of its own.
        let named = |rest: &str| match rest.split_once(':') {
            Some((path, name)) => (PathBuf::from(path), Some(name.to_owned())),
            None => (PathBuf::from(rest), None),
        };
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse().map_err(|error| Failure::usage(format!("{error}")))?));
        }
        Ok(match text.split_once(':') {
            Some(("oci", rest)) => place(rest).into_layout(Self::Layout),
            Some(("oci-archive", rest)) => place(rest).into_layout(Self::OciArchive),
            Some(("docker-archive", rest)) => named(rest).into_layout(Self::DockerArchive),
            Some(("store", rest)) => Self::Store(rest.to_owned()),
            _ => Self::Store(text.to_owned()),
        })
    }
}

trait IntoLocation {
    fn into_layout(self, make: fn(PathBuf, Option<String>) -> Location) -> Location;
}

impl IntoLocation for (PathBuf, Option<String>) {
    fn into_layout(self, make: fn(PathBuf, Option<String>) -> Location) -> Location {
        make(self.0, self.1)
    }
}

/// Copies.
pub fn copy(cli: &Cli, args: &CopyArgs) -> Result<ExitCode, Failure> {
    let (source, destination) = (Location::parse(&args.source)?, Location::parse(&args.destination)?);
    let entered = services::enter(cli)?;
    let services = services::services(cli, &entered, Default::default())?;
    let hosts = [&source, &destination].into_iter().filter_map(|place| match place {
        Location::Registry(name) if args.insecure => Some(name.registry().to_owned()),
        _ => None,
    });
    let client = services.client.with_insecure(&hosts.collect::<Vec<_>>());
    let runtime = services::runtime()?;
    let digest = runtime.block_on(async {
        let top = bring(&source, &services, &client).await?;
        take(&top, &source, &destination, &services, &client).await?;
        Ok::<_, Failure>(top.digest)
    })?;
    eprintln!("{digest}");
    Ok(ExitCode::SUCCESS)
}

/// Into the store; of a registry's image the metadata only.
async fn bring(source: &Location, services: &Services, client: &Client) -> Result<Descriptor, Failure> {
    let store = &services.store;
    let found = match source {
        Location::Store(name) => return find::descriptor(store, name),
        Location::Registry(name) => export::import_metadata(store, client, name).await,
        Location::Layout(path, tag) => export::import_layout(store, path, tag.as_deref()),
        Location::OciArchive(path, tag) | Location::DockerArchive(path, tag) => export::import_archive(store, path, tag.as_deref()),
    };
    found.map_err(|error| Failure::new(chain(&error)))
}

async fn take(top: &Descriptor, source: &Location, to: &Location, services: &Services, client: &Client) -> Result<(), Failure> {
    let store = &services.store;
    let fail = Failure::from;
    if let Location::Registry(name) = to {
        let (reporter, steps) = absent::shown();
        services::tell(client, &steps);
        let (obtain, from) = match source {
            Location::Registry(source) => (from_registry(source, services, client), vec![source.clone()]),
            _ => (absent::obtain(services.fetcher(), &steps), Absent::of(store, top)?.places()),
        };
        let pushed = write::push(top, std::slice::from_ref(name), &from, &*obtain, client, services, &steps).await;
        reporter.stop();
        return pushed;
    }
    match (source, to) {
        (Location::Registry(name), _) => export::fetch_layers(store, client, name, top).await.map_err(fail)?,
        // Another name of the same image.
        (Location::Store(_), Location::Store(_)) => {}
        _ => Absent::of(store, top)?.fetch_shown(&services.fetcher()).await?,
    }
    let named = |tag: &Option<String>| -> Result<LayoutOptions, Failure> {
        let own = match source {
            Location::Registry(name) => Some(name.clone()),
            Location::Store(name) => name.parse::<Reference>().ok().filter(|name| store.resolve(name).is_ok_and(|found| found.is_some())),
            _ => None,
        };
        let given = tag.as_ref().map(|tag| tag.parse::<Reference>().map_err(|error| Failure::usage(format!("{error}")))).transpose()?;
        Ok(LayoutOptions { names: given.or(own).into_iter().collect(), ..LayoutOptions::default() })
    };
    match to {
        Location::Store(name) => {
            let name: Reference = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
            if name.digest().is_some_and(|digest| *digest != top.digest) {
                return Err(Failure::usage(format!("{}: the image is {}", name.familiar(), top.digest)));
            }
            store.tag(&name, top).map_err(|error| Failure::new(chain(&error)))
        }
        Location::Layout(path, tag) => export::write_oci_directory(store, top, path, &layout_names(tag, named(&None)?)).map_err(fail),
        Location::OciArchive(path, tag) => {
            export::write_oci_archive(store, top, FileDestination::Path(path.clone()), &layout_names(tag, named(&None)?)).map_err(fail)
        }
        Location::DockerArchive(path, tag) => {
            let top = images::only_image(store, top.clone())?;
            export::write_docker_archive(store, &top, FileDestination::Path(path.clone()), &named(tag)?).map_err(fail)
        }
        Location::Registry(_) => unreachable!("registries were pushed to above"),
    }
}

/// A layout's tag is a tag: the name before it is the image's own.
fn layout_names(tag: &Option<String>, options: LayoutOptions) -> LayoutOptions {
    let Some(tag) = tag else { return options };
    let names = match options.names.first() {
        Some(name) => vec![name.with_tag(tag)],
        None => format!("image:{tag}").parse().ok().into_iter().collect(),
    };
    LayoutOptions { names, ..options }
}

fn from_registry(source: &Reference, services: &Services, client: &Client) -> Box<Obtain> {
    let (source, store, client) = (source.clone(), services.store.clone(), client.clone());
    Box::new(move |blob: Descriptor| {
        let (source, store, client) = (source.clone(), store.clone(), client.clone());
        async move { export::fetch_blob(&store, &client, &source, &blob).await.map_err(|error| chain(&error)) }.boxed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_their_prefix() {
        for (text, expected) in [
            ("app:1", Location::Store("app:1".to_owned())),
            ("docker://app", Location::Registry("app".parse().unwrap())),
            ("oci:a/b", Location::Layout("a/b".into(), None)),
            ("oci:a/b:tag", Location::Layout("a/b".into(), Some("tag".to_owned()))),
            ("oci-archive:x.tar", Location::OciArchive("x.tar".into(), None)),
            ("docker-archive:x.tar:app:1", Location::DockerArchive("x.tar".into(), Some("app:1".to_owned()))),
        ] {
            assert_eq!(Location::parse(text).unwrap(), expected, "{text}");
        }
    }
}
