//! `--load`: the image into docker, podman or containerd, whichever answers first. What it has already is not sent to it
//! where it allows that, and need not even be here: who takes the image is asked before it is handed over. Where it turns
//! out not to have it, it gets everything. Unaware of how images are built and of where layers are fetched from.
//!
//! | into | told what is there by | left out |
//! |---|---|---|
//! | docker with its own layers | the layers of its images | the first layers that one of them has too |
//! | docker with containerd's | - | nothing |
//! | podman | the same; reads the blobs that it lacks itself | the same, if it is not here |
//! | containerd | its list of blobs | those |
//! | nerdctl | - | nothing |

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use super::Failure;
use crate::{
    build::{Services, chain},
    export::{self, ExportError, FileDestination, LayoutOptions},
    oci::{Descriptor, Digest, Manifest, media_type},
};

/// Images asked about at once.
const IMAGES_AT_ONCE: usize = 200;

/// An image on its way.
pub struct Load<'a> {
    pub services: &'a Services,
    pub top: &'a Descriptor,
    pub options: &'a LayoutOptions,
    /// Docker's; when there is one, nobody else is asked.
    pub context: Option<&'a str>,
}

/// Why somebody did not take it.
enum Refusal {
    /// There is nobody: the next is asked.
    Absent(String),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Somebody who takes the image.
pub struct Taker {
    who: Who,
    /// Layers that they have, as far as is known.
    pub has: BTreeSet<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Docker,
    Podman,
    Nerdctl,
    Containerd,
}

impl Load<'_> {
    /// The first who answers.
    pub fn ask(&self) -> Result<Taker, Failure> {
        if media_type::is_index(&self.top.media_type) {
            return Err(Failure::new(chain(&ExportError::DockerNeedsOnePlatform)).with_hint("--load takes one --platform"));
        }
        let mut absent = Vec::new();
        for who in [Who::Docker, Who::Podman, Who::Nerdctl, Who::Containerd] {
            match self.what_has(who) {
                Ok(has) => return Ok(Taker { who, has }),
                Err(Refusal::Failed(failure)) => return Err(failure),
                Err(Refusal::Absent(why)) => absent.push(why),
            }
            if self.context.is_some() {
                break;
            }
        }
        Err(Failure::new(format!("nobody takes the image: {}", absent.join("; ")))
            .with_hint("write a file instead: -o type=docker,dest=image.tar"))
    }

    /// Hands the image over, without the layers that the taker has; tells who took it, and what was not sent.
    pub fn hand_over(&self, taker: &Taker) -> Result<String, Failure> {
        match taker.who {
            Who::Docker => self.send("docker", self.command(taker.who, &["load"]), &taker.has, export::write_docker_archive),
            Who::Podman => self.to_podman(),
            Who::Nerdctl => self.send("nerdctl", self.command(taker.who, &["load"]), &taker.has, export::write_docker_archive),
            Who::Containerd => {
                self.send("containerd", self.command(taker.who, &["images", "import", "-"]), &taker.has, export::write_oci_archive)
            }
        }
    }

    fn command(&self, who: Who, words: &[&str]) -> Command {
        let mut command = Command::new(match who {
            Who::Docker => "docker",
            Who::Podman => "podman",
            Who::Nerdctl => "nerdctl",
            Who::Containerd => "ctr",
        });
        match who {
            Who::Docker => drop(command.args(self.context.iter().flat_map(|context| ["--context", context]))),
            Who::Podman => drop(command.envs(rootless())),
            Who::Nerdctl | Who::Containerd => {}
        }
        command.args(words);
        command
    }

    /// Which of the image's layers somebody has.
    fn what_has(&self, who: Who) -> Result<BTreeSet<Digest>, Refusal> {
        let manifest = self.manifest()?;
        match who {
            Who::Docker => {
                let ids = answer(self.command(who, &["image", "ls", "--all", "--quiet", "--no-trunc"]))?;
                let driver = answer(self.command(who, &["info", "--format", "{{json .DriverStatus}}"])).unwrap_or_default();
                let known = if driver.contains("io.containerd.snapshotter") { 0 } else { self.layers_of_images(who, &manifest, &ids)? };
                Ok(first_layers(&manifest, known))
            }
            Who::Podman => {
                let ids = answer(self.command(who, &["image", "ls", "--all", "--quiet", "--no-trunc"]))?;
                Ok(first_layers(&manifest, self.layers_of_images(who, &manifest, &ids)?))
            }
            Who::Nerdctl => answer(self.command(who, &["image", "ls", "--quiet"])).map(|_| BTreeSet::new()),
            Who::Containerd => {
                let listed = answer(self.command(who, &["content", "ls", "--quiet"]))?;
                let there: BTreeSet<Digest> = listed.lines().filter_map(|line| line.trim().parse().ok()).collect();
                Ok(manifest.layers.into_iter().map(|layer| layer.digest).filter(|digest| there.contains(digest)).collect())
            }
        }
    }

    /// How many of the image's first layers one of somebody's images has too.
    fn layers_of_images(&self, who: Who, manifest: &Manifest, ids: &str) -> Result<usize, Failure> {
        let ours = self.diff_ids(manifest)?;
        let ids: BTreeSet<&str> = ids.lines().collect();
        let mut known = 0;
        for some in ids.iter().copied().collect::<Vec<_>>().chunks(IMAGES_AT_ONCE) {
            let words = [&["image", "inspect", "--format", "{{json .RootFS.Layers}}"], some].concat();
            for line in answer(self.command(who, &words)).unwrap_or_default().lines() {
                let theirs: Vec<Digest> = serde_json::from_str(line).unwrap_or_default();
                known = known.max(ours.iter().zip(&theirs).take_while(|(our, their)| our == their).count());
            }
        }
        Ok(known)
    }

    /// Lends it our blobs for as long as it reads them: it asks for those that it lacks.
    fn to_podman(&self) -> Result<String, Failure> {
        let podman = |words: &[&str]| self.command(Who::Podman, words);
        let cannot = |error: std::io::Error| Failure::new(format!("cannot lend podman the image: {error}"));
        let name = format!("rbuild-load-{}-{:x}", std::process::id(), jiff::Timestamp::now().subsec_nanosecond());
        let layout = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().map_err(cannot)?;
        // Podman makes a name of the path: it must be one, and have no colon.
        let is_name = |path: &&str| path.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/-_".contains(&byte));
        let Some(path) = layout.path().to_str().filter(is_name) else {
            return self.send("podman", podman(&["load"]), &BTreeSet::new(), export::write_docker_archive);
        };
        export::lend_oci_directory(&self.services.store, self.top, layout.path(), self.options).map_err(failed)?;
        let names: Vec<String> = self.options.names.iter().map(export::lent_name).collect();
        let source = names.first().map_or(format!("oci:{path}"), |name| format!("oci:{path}:{name}"));
        let pulled = answer(podman(&["pull", "--quiet", &source])).map_err(Refusal::into_failure)?;
        let id = pulled.lines().last().unwrap_or_default().trim();
        if !names.is_empty() {
            let words: Vec<&str> = ["tag", id].into_iter().chain(names.iter().map(String::as_str)).collect();
            answer(podman(&words)).map_err(Refusal::into_failure)?;
        }
        // Podman before 5 names it after the path too, later ones refuse.
        let _ = answer(podman(&["untag", id, &format!("localhost{path}:latest")]));
        Ok("podman has it, and read what it lacked".to_owned())
    }

    /// An archive into a program's standard input, without what it has.
    fn send(&self, who: &str, command: Command, has: &BTreeSet<Digest>, write: Write) -> Result<String, Failure> {
        let all = self.manifest()?.layers.iter().map(|layer| &layer.digest).collect::<BTreeSet<_>>().len();
        let options = LayoutOptions { without: has.clone(), ..self.options.clone() };
        self.feed(who, command, &options, write)?;
        Ok(format!("{who} has it, and had {} of {all} layers before", has.len()))
    }

    fn feed(&self, who: &str, mut command: Command, options: &LayoutOptions, write: Write) -> Result<(), Failure> {
        let cannot = |error: std::io::Error| Failure::new(format!("cannot run {who}: {error}"));
        // A file and no pipe: nobody has to read it while we write.
        let mut said = tempfile::tempfile().map_err(cannot)?;
        let errors = said.try_clone().map_err(cannot)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors).spawn().map_err(cannot)?;
        let pipe = child.stdin.take().expect("standard input is piped");
        let stream = FileDestination::Stream(File::from(OwnedFd::from(pipe)));
        let written = write(&self.services.store, self.top, stream, options);
        let status = child.wait().map_err(cannot)?;
        if !status.success() {
            let mut text = String::new();
            said.rewind().and_then(|()| said.read_to_string(&mut text)).map_err(cannot)?;
            return Err(Failure::new(format!("{who} did not take the image ({status}): {}", last_line(&text))));
        }
        written.map_err(failed)
    }

    fn manifest(&self) -> Result<Manifest, Failure> {
        self.services.store.manifest(&self.top.digest).map_err(|error| Failure::new(chain(&error)))
    }

    fn diff_ids(&self, manifest: &Manifest) -> Result<Vec<Digest>, Failure> {
        let config = self.services.store.config(&manifest.config.digest).map_err(|error| Failure::new(chain(&error)))?;
        Ok(config.rootfs.diff_ids.into_iter().map(|diff_id| diff_id.0).collect())
    }
}

/// Writes an archive.
type Write = fn(&crate::store::Store, &Descriptor, FileDestination, &LayoutOptions) -> export::Result<()>;

impl Refusal {
    fn into_failure(self) -> Failure {
        match self {
            Self::Absent(why) => Failure::new(why),
            Self::Failed(failure) => failure,
        }
    }
}

fn failed(error: ExportError) -> Failure {
    Failure::new(format!("cannot export: {}", chain(&error)))
}

/// The first `count` layers, save those that come again later.
fn first_layers(manifest: &Manifest, count: usize) -> BTreeSet<Digest> {
    let (first, others) = manifest.layers.split_at(count.min(manifest.layers.len()));
    let is_again = |digest: &Digest| others.iter().any(|layer| layer.digest == *digest);
    first.iter().map(|layer| layer.digest.clone()).filter(|digest| !is_again(digest)).collect()
}

/// What a program prints. One that isn't there or refuses is nobody to hand an image to.
fn answer(mut command: Command) -> Result<String, Refusal> {
    let who = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::Absent(format!("{who} is not here")),
        _ => Refusal::Absent(format!("{who}: {error}")),
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Refusal::Absent(format!("{who}: {}", last_line(&String::from_utf8_lossy(&output.stderr))))),
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or("it does not say why")
}

/// Inside our user namespace podman would take itself for root: told as `podman unshare` tells it, it uses the user's own
/// images. The ids mean the same to both of us.
fn rootless() -> Vec<(&'static str, String)> {
    let outside = |map: &str| -> Option<String> {
        let text = std::fs::read_to_string(map).ok()?;
        let mut numbers = text.lines().next()?.split_whitespace().map(str::to_owned);
        (numbers.next()? == "0").then_some(numbers.next()?).filter(|id| id != "0")
    };
    let (Some(uid), Some(gid)) = (outside("/proc/self/uid_map"), outside("/proc/self/gid_map")) else { return Vec::new() };
    vec![("_CONTAINERS_USERNS_CONFIGURED", "done".to_owned()), ("_CONTAINERS_ROOTLESS_UID", uid), ("_CONTAINERS_ROOTLESS_GID", gid)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Annotations;

    #[test]
    fn layers_that_come_again_are_sent() {
        let layer = |name: &str| Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(name.as_bytes()), 1);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: layer("config"),
            layers: ["a", "empty", "b", "empty"].map(layer).to_vec(),
            subject: None,
            annotations: Annotations::new(),
        };
        let digests = |names: &[&str]| names.iter().map(|name| Digest::of(name.as_bytes())).collect::<BTreeSet<_>>();
        assert_eq!(first_layers(&manifest, 0), digests(&[]));
        assert_eq!(first_layers(&manifest, 3), digests(&["a", "b"]));
        assert_eq!(first_layers(&manifest, 4), digests(&["a", "b", "empty"]));
    }
}
