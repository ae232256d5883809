//! Outputs that are files: `type=local` and `type=tar`; and where archives go.

use std::{fs::File, io::IsTerminal, os::fd::AsFd, sync::Arc};

use super::{Failure, steps::Steps};
use crate::{
    build::{Outcome, Progress, Services, chain},
    cli::outputs::{OutputKind, OutputSpec},
    export::{self, FileDestination, Meter, RootfsTree},
    sys::root::RootDir,
};

/// Writes the files of the result.
///
/// `statements` are files for each platform, by name.
pub async fn write(
    outcome: &Outcome,
    output: &OutputSpec,
    statements: &[Vec<(String, Vec<u8>)>],
    services: &Services,
    steps: &Arc<Steps>,
) -> Result<(), Failure> {
    let fail = |error: export::ExportError| Failure::new(format!("cannot export: {}", chain(&error)));
    let meter = Meter::default();
    match output.kind {
        OutputKind::Tar => {
            let work = async |_| {
                let trees = trees(outcome, output, statements, services, steps).await?;
                export::write_rootfs_tar(&trees, split(output, &trees)?, destination(output)?, &meter).map_err(fail)
            };
            steps.metered("exporting files as tar", &meter, work).await
        }
        OutputKind::Local => {
            let path = output.dest.as_deref().expect("a directory without a place was refused");
            let work = async |_| {
                let trees = trees(outcome, output, statements, services, steps).await?;
                if output.attributes.get("mode").is_some_and(|mode| mode == "delete") {
                    export::empty_directory(path).map_err(fail)?;
                }
                export::write_rootfs_directory(&trees, split(output, &trees)?, path, &meter).map_err(fail)
            };
            let left_out = steps.metered(&format!("exporting files to {}", path.display()), &meter, work).await?;
            for path in left_out {
                eprintln!("warning: the device {} can't be made here and was left out", path.display());
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A file or standard output.
pub fn destination(output: &OutputSpec) -> Result<FileDestination, Failure> {
    match &output.dest {
        Some(path) if !output.is_to_stdout() => Ok(FileDestination::Path(path.clone())),
        _ => standard_output(),
    }
}

/// Standard output, unless somebody would have to look at it.
pub fn standard_output() -> Result<FileDestination, Failure> {
    if std::io::stdout().is_terminal() {
        let failure = Failure::usage("an archive is not written to a terminal");
        return Err(failure.with_hint("redirect standard output, or name a file"));
    }
    let fd = std::io::stdout().as_fd().try_clone_to_owned();
    Ok(FileDestination::Stream(File::from(fd.map_err(|error| Failure::new(format!("standard output: {error}")))?)))
}

fn split(output: &OutputSpec, trees: &[RootfsTree]) -> Result<bool, Failure> {
    output.flag("platform-split", trees.len() > 1)
}

async fn trees(
    outcome: &Outcome,
    output: &OutputSpec,
    statements: &[Vec<(String, Vec<u8>)>],
    services: &Services,
    steps: &Arc<Steps>,
) -> Result<Vec<RootfsTree>, Failure> {
    let progress: Arc<dyn Progress> = steps.clone();
    let mut list = Vec::with_capacity(outcome.platforms.len());
    for (index, platform) in outcome.platforms.iter().enumerate() {
        let directories = platform.stack.iter().rev().map(|layer| layer.directory(services, &progress));
        let directories = futures_util::future::try_join_all(directories).await.map_err(Failure::from)?;
        let open = |path| RootDir::open(path).map_err(|error| Failure::new(format!("cannot open a layer: {error}")));
        let layers = directories.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        let own = output.attributes.get("source-date-epoch").map(|text| text.parse().ok());
        let extra = statements.get(index).cloned().unwrap_or_default();
        list.push(RootfsTree { platform: platform.platform.clone(), layers, epoch: own.unwrap_or(platform.epoch), extra });
    }
    Ok(list)
}
