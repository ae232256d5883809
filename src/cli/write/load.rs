//! `--load`: the image as an archive into docker, podman or nerdctl, whichever is there.

use std::{
    fs::File,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use super::Failure;
use crate::{
    build::{Services, chain},
    export::{self, FileDestination, LayoutOptions},
    oci::Descriptor,
};

/// Hands the image over. `context` is docker's.
pub fn load(services: &Services, top: &Descriptor, options: &LayoutOptions, context: Option<&str>) -> Result<(), Failure> {
    for program in ["docker", "podman", "nerdctl"] {
        let mut command = Command::new(program);
        if let (Some(context), "docker") = (context, program) {
            command.args(["--context", context]);
        }
        let spawned = command.arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let Ok(mut child) = spawned else { continue };
        let pipe = child.stdin.take().expect("standard input is piped");
        let stream = FileDestination::Stream(File::from(OwnedFd::from(pipe)));
        let written = export::write_docker_archive(&services.store, top, stream, options);
        let status = child.wait().map_err(|error| Failure::new(format!("{program} load: {error}")))?;
        if !status.success() {
            return Err(Failure::new(format!("{program} load failed: {status}")));
        }
        return written.map_err(|error| Failure::new(format!("{program} load: {}", chain(&error))));
    }
    Err(Failure::new("neither docker, podman nor nerdctl is here to load the image into")
        .with_hint("write a file instead: -o type=docker,dest=image.tar"))
}
