//! `rbuild sbom`: which packages are in an image of the store.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    build::chain,
    cli::{absent, args::Cli, failure::Failure, find, services},
    export,
    oci::{Descriptor, Image},
    sbom::{Subject, document},
    store::Store,
};

/// `rbuild sbom`.
#[derive(Debug, Args, Clone)]
pub struct SbomArgs {
    /// Image of the store: a name, or a digest or its beginning
    pub image: String,
    /// Of an index, the image of this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Write it to a file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Reads and prints.
pub fn sbom(cli: &Cli, args: &SbomArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let (manifest, image) = find::image(&store, &args.image, args.platform.as_deref())?;
    absent::fetch(cli, &store, &[&manifest])?;
    let bytes = of_image(&store, &image, Some(&manifest), &args.image)?;
    match &args.output {
        Some(path) => {
            let destination = export::FileDestination::Path(path.clone());
            export::write_file(destination, &bytes).map_err(|error| Failure::new(chain(&error)))?;
        }
        None => {
            let written = std::io::stdout().write_all(&bytes);
            written.map_err(|error| Failure::new(format!("standard output: {error}")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The SPDX document of an image. Its time is the image's.
pub fn of_image(store: &Store, image: &Image, manifest: Option<&Descriptor>, name: &str) -> Result<Vec<u8>, Failure> {
    let inventory = export::inventory(store, image)
        .map_err(|error| Failure::new(format!("cannot read which packages are in {name}: {}", chain(&error))))?;
    let sha256 = manifest.map(|manifest| manifest.digest.hex().to_owned());
    let subject = Subject { name: name.to_owned(), sha256, created: image.config.created.clone() };
    Ok(document(&subject, &inventory, concat!("rbuild-", env!("CARGO_PKG_VERSION"))))
}
