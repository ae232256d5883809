//! Programs of another processor than the image's: the usual sign of a cross-build that went wrong.
//!
//! Looked at is what this build added in the directories of the image's PATH, and its entrypoint or command, be it the
//! base's. Elsewhere files for other processors are often meant to be there: prebuilt modules, cross-compilers, test data.
//! A base that has not been unpacked is unpacked for that only if it says that it is for another platform.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use crate::{
    build::{BuildError, Layer, PlatformOutcome, Progress, Services, layer::directories},
    oci::Platform,
};

/// Links longer than this lead nowhere.
const MAX_LINKS: usize = 8;

/// A program that the image's processor can't run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignProgram {
    /// In the image.
    pub path: PathBuf,
    /// What it is for, such as `arm64`.
    pub architecture: String,
}

/// Finds them in the layers of this build that are unpacked here; a layer that isn't was looked at when it was made.
pub async fn foreign_programs(
    outcome: &PlatformOutcome,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<ForeignProgram>, BuildError> {
    let is_own = |layer: &&Arc<Layer>| layer.base_layer().is_none();
    let roots = |layers: &mut dyn Iterator<Item = &Arc<Layer>>| -> Vec<PathBuf> {
        layers.filter_map(|layer| Some(services.store.snapshot(&layer.snapshot).ok()??.join("fs"))).collect()
    };
    let own = roots(&mut outcome.stack.iter().rev().filter(is_own));
    let config = &outcome.image.config.config;
    let path = config.env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
    let search: Vec<&str> = path.split(':').filter(|directory| directory.starts_with('/')).collect();
    let with_machine = |roots: &[PathBuf], path: PathBuf| machine(roots, &path).map(|machine| (path, machine));
    let mut found: Vec<(PathBuf, &'static str)> = added(&own, &search).into_iter().filter_map(|path| with_machine(&own, path)).collect();
    let command = config.entrypoint.as_ref().or(config.cmd.as_ref()).and_then(|words| words.first());
    if let Some(command) = command {
        // A base that says it is for another platform is looked at, be it unpacked or not.
        let is_in_doubt = outcome.base_platform.as_ref().is_some_and(|base| !runs(&outcome.platform, &base.architecture));
        let all = match is_in_doubt {
            true => directories(&outcome.stack, services, progress).await?,
            false => roots(&mut outcome.stack.iter().rev()),
        };
        let places = places(command, &config.working_dir, &search);
        found.extend(places.into_iter().find_map(|path| with_machine(&all, path)));
    }
    found.sort();
    found.dedup();
    let foreign = found.into_iter().filter(|(_, architecture)| !runs(&outcome.platform, architecture));
    Ok(foreign
        .map(|(path, architecture)| ForeignProgram { path: Path::new("/").join(path), architecture: architecture.to_owned() })
        .collect())
}

/// Everything that layers have in these directories.
fn added(roots: &[PathBuf], directories: &[&str]) -> Vec<PathBuf> {
    let mut programs = Vec::new();
    for directory in directories {
        let inside = Path::new(directory.trim_start_matches('/'));
        for root in roots.iter().filter(|root| is_plain(root, inside)) {
            let entries = std::fs::read_dir(root.join(inside)).into_iter().flatten().flatten();
            programs.extend(entries.map(|entry| inside.join(entry.file_name())));
        }
    }
    programs
}

/// Where a command may be, without leading slashes.
fn places(command: &str, working_dir: &str, search: &[&str]) -> Vec<PathBuf> {
    let inside = |path: PathBuf| path.strip_prefix("/").map_or_else(|_| path.clone(), Path::to_owned);
    match command.contains('/') {
        true => vec![inside(Path::new("/").join(working_dir).join(command))],
        false => search.iter().map(|directory| inside(Path::new(directory).join(command))).collect(),
    }
}

/// Whether none of a directory's names is a link: those are looked at where they lead.
fn is_plain(root: &Path, inside: &Path) -> bool {
    let mut path = root.to_owned();
    inside.components().all(|part| {
        path.push(part);
        std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// The processor of the program that the topmost of these layers has at `path`; links are followed inside them.
fn machine(roots: &[PathBuf], path: &Path) -> Option<&'static str> {
    let names = |path: &Path| -> Vec<OsString> { path.iter().rev().map(OsString::from).collect() };
    let (mut at, mut left, mut links) = (PathBuf::new(), names(path), 0);
    while let Some(name) = left.pop() {
        match Path::new(&name).components().next()? {
            // An absolute link starts again.
            Component::RootDir => at = PathBuf::new(),
            Component::ParentDir => drop(at.pop()),
            Component::Normal(name) => {
                let (file, metadata) = roots.iter().filter(|root| is_plain(root, &at)).find_map(|root| {
                    let file = root.join(&at).join(name);
                    let metadata = std::fs::symlink_metadata(&file).ok()?;
                    Some((file, metadata))
                })?;
                if metadata.is_symlink() {
                    links += 1;
                    left.extend(names(&std::fs::read_link(&file).ok().filter(|_| links <= MAX_LINKS)?));
                } else if left.is_empty() {
                    let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
                    return is_program.then(|| elf_machine(&file)).flatten();
                } else {
                    at.push(name);
                }
            }
            _ => {}
        }
    }
    None
}

fn elf_machine(file: &Path) -> Option<&'static str> {
    let mut header = [0; 20];
    File::open(file).ok()?.read_exact(&mut header).ok()?;
    architecture(&header)
}

/// Whether a file that begins like this is a program that a platform can't run.
pub(super) fn is_foreign(header: &[u8; 20], platform: &Platform) -> bool {
    architecture(header).is_some_and(|architecture| !runs(platform, architecture))
}

/// The processor of an ELF file by its header; None for anything else and for those we have no name for.
fn architecture(header: &[u8; 20]) -> Option<&'static str> {
    if header[..4] != *b"\x7fELF" {
        return None;
    }
    let little = header[5] == 1;
    let number = if little { u16::from_le_bytes([header[18], header[19]]) } else { u16::from_be_bytes([header[18], header[19]]) };
    Some(match (number, header[4], little) {
        (62, ..) => "amd64",
        (3, ..) => "386",
        (183, ..) => "arm64",
        (40, ..) => "arm",
        (243, 2, _) => "riscv64",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (22, ..) => "s390x",
        (8, 2, true) => "mips64le",
        (258, ..) => "loong64",
        _ => return None,
    })
}

fn runs(platform: &Platform, architecture: &str) -> bool {
    let own = platform.architecture.as_str();
    own == architecture || matches!((own, architecture), ("amd64", "386") | ("arm64", "arm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(number: u16) -> [u8; 20] {
        let mut header = [0; 20];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        header[18..].copy_from_slice(&number.to_le_bytes());
        header
    }

    #[test]
    fn processors_are_known_by_their_number() {
        assert_eq!([62, 183, 243, 999].map(|number| architecture(&header(number))), [Some("amd64"), Some("arm64"), Some("riscv64"), None]);
        assert_eq!(architecture(b"#!/bin/sh\n0123456789"), None);
        let amd64: Platform = "linux/amd64".parse().unwrap();
        assert!(runs(&amd64, "386") && !runs(&amd64, "arm64"));
    }

    #[test]
    fn links_lead_to_programs_of_the_layers_only() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("fs");
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::write(root.join("usr/bin/real"), header(183)).unwrap();
        std::fs::set_permissions(root.join("usr/bin/real"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("/usr/bin/real", root.join("usr/bin/link")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", root.join("usr/bin/outside")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("usr/bin/loop")).unwrap();
        let found = |name: &str| machine(std::slice::from_ref(&root), Path::new(name));
        assert_eq!(found("usr/bin/link"), Some("arm64"));
        assert_eq!([found("usr/bin/outside"), found("usr/bin/loop"), found("usr/bin/missing")], [None, None, None]);
        // A directory of a lower layer may be a link; what is in a layer above it counts.
        let upper = top.path().join("upper");
        std::fs::create_dir_all(upper.join("usr/bin")).unwrap();
        std::fs::create_dir_all(root.join("opt")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        std::os::unix::fs::symlink("../bin/./real", root.join("opt/run")).unwrap();
        let both = [upper.clone(), root.clone()];
        assert_eq!([machine(&both, Path::new("bin/real")), machine(&both, Path::new("opt/run"))], [Some("arm64"); 2]);
        std::fs::write(upper.join("usr/bin/real"), "#!/bin/sh").unwrap();
        std::fs::set_permissions(upper.join("usr/bin/real"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(machine(&both, Path::new("bin/real")), None);
    }

    #[test]
    fn a_command_is_at_its_path_or_in_path() {
        let search = ["/usr/bin", "/bin"];
        assert_eq!(places("/app/run", "/srv", &search), [Path::new("app/run")]);
        assert_eq!(places("./run", "/srv", &search), [Path::new("srv/./run")]);
        assert_eq!(places("sh", "/srv", &search), [Path::new("usr/bin/sh"), Path::new("bin/sh")]);
    }
}
