//! `rbuild push`: images of the store to their registries.

use std::process::ExitCode;

use clap::Args;

use crate::{
    cli::{
        absent::{self, Absent},
        args::Cli,
        failure::Failure,
        find,
        progress::{Mode, Place, Reporter},
        services, write,
    },
    oci::Reference,
    store::Store,
};

/// `rbuild push`.
#[derive(Debug, Args, Clone)]
pub struct PushArgs {
    /// Names of images of the store; with --as also a digest or its beginning
    #[arg(required = true, value_name = "NAME[:TAG]", add = clap_complete::engine::ArgValueCandidates::new(crate::cli::complete::images))]
    pub names: Vec<String>,
    /// Push it under this name instead of its own; repeatable
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    pub other_names: Vec<String>,
    /// Accept plain http and unverified TLS
    #[arg(long)]
    pub insecure: bool,
    /// Give the image a tag made of its digest too
    #[arg(long)]
    pub tag_digest: bool,
    /// Print only the digest
    #[arg(short, long)]
    pub quiet: bool,
}

/// Pushes each of the names.
pub fn push(cli: &Cli, args: &PushArgs) -> Result<ExitCode, Failure> {
    let others = args.other_names.iter().map(|text| reference(text)).collect::<Result<Vec<_>, _>>()?;
    if args.names.len() > 1 && !others.is_empty() {
        return Err(Failure::usage("--as is for one image"));
    }
    let entered = services::enter(cli)?;
    let services = services::services(cli, &entered, Default::default())?;
    let runtime = services::runtime()?;
    let place = Place::here();
    let mode = if args.quiet { Mode::Quiet } else { place.mode("auto").unwrap_or(Mode::Plain) };
    let reporter = Reporter::new(mode, place);
    let steps = write::Steps::new(reporter.clone());
    services::tell(&services.client, &steps);
    for name in &args.names {
        let top = find::descriptor(&services.store, name)?;
        let mut targets = if others.is_empty() { vec![own_name(&services.store, name)?] } else { others.clone() };
        if args.tag_digest {
            let tagged: Vec<Reference> = targets.iter().map(|name| name.with_tag(&write::digest_tag(&top.digest))).collect();
            targets.extend(tagged);
        }
        let insecure: Vec<String> = targets.iter().filter(|_| args.insecure).map(|name| name.registry().to_owned()).collect();
        let client = if insecure.is_empty() { services.client.clone() } else { services.client.with_insecure(&insecure) };
        let mount_from = Absent::of(&services.store, &top)?.places();
        let obtain = absent::obtain(services.fetcher(), &steps);
        let pushed = runtime.block_on(write::push(&top, &targets, &mount_from, &*obtain, &client, &services, &steps));
        reporter.stop();
        pushed?;
        match args.quiet {
            true => println!("{}", top.digest),
            false => eprintln!("{} {}", top.digest, targets[0].familiar()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A digest finds an image and says nothing of where to push it.
fn own_name(store: &Store, text: &str) -> Result<Reference, Failure> {
    let name = reference(text).ok().filter(|name| name.digest().is_some() || store.resolve(name).is_ok_and(|found| found.is_some()));
    name.ok_or_else(|| Failure::usage(format!("{text} is no name")).with_hint("say where to with --as REGISTRY/NAME[:TAG]"))
}

fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(|error| Failure::usage(format!("{error}")))
}
