//! A build's result to where `--tag` and `--output` want it.

use std::{
    fs::File,
    process::{Command, Stdio},
    sync::Arc,
};

use crate::{
    build::{LayerPolicy, Outcome, Progress, Services, chain},
    cli::{
        failure::Failure,
        outputs::{OutputKind, OutputSpec},
    },
    export::{self, FileDestination, ImageOptions, LayoutOptions, RootfsTree},
    oci::{Annotations, Descriptor, Digest, Image, Reference, media_type},
    sys::root::RootDir,
};

/// Writes everything; gives the digest that `--iidfile` and `--quiet` tell.
pub async fn write(
    outcome: &Outcome,
    tags: &[Reference],
    outputs: &[OutputSpec],
    policy: LayerPolicy,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Digest, Failure> {
    let only_files =
        !outputs.is_empty() && tags.is_empty() && outputs.iter().all(|output| matches!(output.kind, OutputKind::Local | OutputKind::Tar));
    if !only_files {
        for platform in &outcome.platforms {
            let blobs = platform.stack.iter().map(|layer| layer.blob(policy, services, progress));
            futures_util::future::try_join_all(blobs).await.map_err(|error| Failure::new(error.message))?;
        }
    }
    let images: Vec<Image> = outcome.platforms.iter().map(|platform| platform.image.clone()).collect();
    let top = write_image(services, &images, outputs.first())?;
    services.store.tag_all(tags, &top).map_err(|error| Failure::new(chain(&error)))?;
    for output in outputs {
        write_output(outcome, &images, &top, tags, output, services, progress).await?;
    }
    image_id(services, &top)
}

/// The config's digest for one platform, the index's for several (buildx `getImageID`).
fn image_id(services: &Services, top: &Descriptor) -> Result<Digest, Failure> {
    if media_type::is_index(&top.media_type) {
        return Ok(top.digest.clone());
    }
    let manifest = services.store.manifest(&top.digest).map_err(|error| Failure::new(chain(&error)))?;
    Ok(manifest.config.digest)
}

fn write_image(services: &Services, images: &[Image], output: Option<&OutputSpec>) -> Result<Descriptor, Failure> {
    let mut options = ImageOptions::default();
    if let Some(output) = output {
        options.oci_media_types = output.flag("oci-mediatypes", true)?;
        for (key, value) in &output.attributes {
            let pair = |name: &str| (name.to_owned(), value.clone());
            if let Some(name) = key.strip_prefix("annotation.") {
                options.manifest_annotations.extend([pair(name)]);
            } else if let Some(name) = key.strip_prefix("annotation-index.") {
                options.index_annotations.extend([pair(name)]);
            } else if let Some(name) = key.strip_prefix("annotation-manifest-descriptor.") {
                options.manifest_descriptor_annotations.extend([pair(name)]);
            }
        }
    }
    export::write_image(&services.store, images, &options).map_err(|error| Failure::new(chain(&error)))
}

async fn write_output(
    outcome: &Outcome,
    images: &[Image],
    top: &Descriptor,
    tags: &[Reference],
    output: &OutputSpec,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<(), Failure> {
    let top = if output.attributes.contains_key("oci-mediatypes") { write_image(services, images, Some(output))? } else { top.clone() };
    let options = layout_options(tags, output)?;
    let fail = |error: export::ExportError| Failure::new(format!("cannot export: {}", chain(&error)));
    match output.kind {
        OutputKind::CacheOnly => Ok(()),
        OutputKind::Image => services.store.tag_all(&options.names, &top).map_err(|error| Failure::new(chain(&error))),
        OutputKind::Oci if !output.flag("tar", true)? => {
            let path = output.dest.clone().ok_or_else(|| Failure::usage("--output type=oci,tar=false needs dest=DIRECTORY"))?;
            export::write_oci_directory(&services.store, &top, &path, &options).map_err(fail)
        }
        OutputKind::Oci => export::write_oci_archive(&services.store, &top, destination(output)?, &options).map_err(fail),
        OutputKind::Docker if output.dest.is_none() => load(services, &top, &options),
        OutputKind::Docker => export::write_docker_archive(&services.store, &top, destination(output)?, &options).map_err(fail),
        OutputKind::Tar => {
            let trees = trees(outcome, output, services, progress).await?;
            export::write_rootfs_tar(&trees, split(output, &trees)?, destination(output)?).map_err(fail)
        }
        OutputKind::Local => {
            let trees = trees(outcome, output, services, progress).await?;
            let path = output.dest.clone().ok_or_else(|| Failure::usage("--output type=local needs dest=DIRECTORY"))?;
            let left_out = export::write_rootfs_directory(&trees, split(output, &trees)?, &path).map_err(fail)?;
            for path in left_out {
                eprintln!("warning: the device {} can't be made here and was left out", path.display());
            }
            Ok(())
        }
        OutputKind::Registry => Err(Failure::new("not supported yet: pushing to a registry")),
    }
}

fn layout_options(tags: &[Reference], output: &OutputSpec) -> Result<LayoutOptions, Failure> {
    let mut names = tags.to_vec();
    if let Some(given) = output.attributes.get("name") {
        names.clear();
        for name in given.split(',').filter(|name| !name.is_empty()) {
            names.push(name.parse().map_err(|error| Failure::usage(format!("--output name={name}: {error}")))?);
        }
    }
    let prefix = "annotation-index-descriptor.";
    let annotations = output.attributes.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())));
    Ok(LayoutOptions { names, created: None, descriptor_annotations: annotations.collect::<Annotations>() })
}

fn destination(output: &OutputSpec) -> Result<FileDestination, Failure> {
    match &output.dest {
        Some(path) => Ok(FileDestination::Path(path.clone())),
        None => {
            use std::{io::IsTerminal, os::fd::AsFd};
            if std::io::stdout().is_terminal() {
                return Err(
                    Failure::usage("an archive is not written to a terminal").with_hint("redirect standard output, or say dest=FILE")
                );
            }
            let fd = std::io::stdout().as_fd().try_clone_to_owned();
            Ok(FileDestination::Stream(File::from(fd.map_err(|error| Failure::new(format!("standard output: {error}")))?)))
        }
    }
}

fn split(output: &OutputSpec, trees: &[RootfsTree]) -> Result<bool, Failure> {
    output.flag("platform-split", trees.len() > 1)
}

async fn trees(
    outcome: &Outcome,
    output: &OutputSpec,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<RootfsTree>, Failure> {
    let mut list = Vec::with_capacity(outcome.platforms.len());
    for platform in &outcome.platforms {
        let mut layers = Vec::with_capacity(platform.stack.len());
        for layer in platform.stack.iter().rev() {
            let path = layer.directory(services, progress).await.map_err(|error| Failure::new(error.message))?;
            layers.push(RootDir::open(&path).map_err(|error| Failure::new(format!("cannot open a layer: {error}")))?);
        }
        let own = output.attributes.get("source-date-epoch").map(|text| text.parse().ok());
        list.push(RootfsTree { platform: platform.platform.clone(), layers, epoch: own.unwrap_or(platform.epoch) });
    }
    Ok(list)
}

/// Hands the image to docker or podman, whichever is there.
fn load(services: &Services, top: &Descriptor, options: &LayoutOptions) -> Result<(), Failure> {
    for program in ["docker", "podman"] {
        let spawned = Command::new(program).arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let Ok(mut child) = spawned else { continue };
        let pipe = child.stdin.take().expect("standard input is piped");
        let stream = FileDestination::Stream(File::from(std::os::fd::OwnedFd::from(pipe)));
        let written = export::write_docker_archive(&services.store, top, stream, options);
        let status = child.wait().map_err(|error| Failure::new(format!("{program} load: {error}")))?;
        if !status.success() {
            return Err(Failure::new(format!("{program} load failed: {status}")));
        }
        return written.map_err(|error| Failure::new(format!("{program} load: {}", chain(&error))));
    }
    Err(Failure::new("neither docker nor podman is here to load the image into")
        .with_hint("write a file instead: -o type=docker,dest=image.tar"))
}
