//! Programs of another processor than the image's: the usual sign of a cross-build that went wrong.
//!
//! Looked at is what this build added in the directories of the image's PATH, and its entrypoint or command. Elsewhere
//! files for other processors are often meant to be there: prebuilt modules, cross-compilers, test data.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use crate::{
    build::{PlatformOutcome, Services},
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
pub fn foreign_programs(outcome: &PlatformOutcome, services: &Services) -> Vec<ForeignProgram> {
    let own = outcome.stack.iter().rev().filter(|layer| layer.base_layer().is_none());
    let roots: Vec<PathBuf> = own.filter_map(|layer| Some(services.store.snapshot(&layer.snapshot).ok()??.join("fs"))).collect();
    let config = &outcome.image.config.config;
    let path = config.env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
    let directories: Vec<&str> = path.split(':').filter(|directory| directory.starts_with('/')).collect();
    let mut programs: Vec<PathBuf> = Vec::new();
    for directory in &directories {
        let inside = Path::new(directory.trim_start_matches('/'));
        for root in roots.iter().filter(|root| is_plain(root, inside)) {
            let entries = std::fs::read_dir(root.join(inside)).into_iter().flatten().flatten();
            programs.extend(entries.map(|entry| inside.join(entry.file_name())));
        }
    }
    let command = config.entrypoint.as_ref().or(config.cmd.as_ref()).and_then(|words| words.first());
    if let Some(command) = command.filter(|command| command.contains('/')) {
        programs
            .push(Path::new(&config.working_dir).join(command).strip_prefix("/").map_or_else(|_| PathBuf::from(command), PathBuf::from));
    }
    programs.sort();
    programs.dedup();
    let foreign = programs.into_iter().filter_map(|path| {
        let architecture = machine(&roots, &path)?;
        let fits = runs(&outcome.platform, architecture);
        (!fits).then(|| ForeignProgram { path: Path::new("/").join(path), architecture: architecture.to_owned() })
    });
    foreign.collect()
}

/// Whether none of a directory's names is a link: those are looked at where they lead.
fn is_plain(root: &Path, inside: &Path) -> bool {
    let mut path = root.to_owned();
    inside.components().all(|part| {
        path.push(part);
        std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// The processor of the program that the topmost of our layers has at `path`; links are followed inside them.
fn machine(roots: &[PathBuf], path: &Path) -> Option<&'static str> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = path.parent().unwrap_or(Path::new(""));
        let (file, metadata) = roots.iter().filter(|root| is_plain(root, parent)).find_map(|root| {
            let file = root.join(&path);
            let metadata = std::fs::symlink_metadata(&file).ok()?;
            Some((file, metadata))
        })?;
        if metadata.is_symlink() {
            path = normalised(&parent.join(std::fs::read_link(&file).ok()?));
            continue;
        }
        let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        return is_program.then(|| elf_machine(&file)).flatten();
    }
    None
}

/// Without `..` and a leading slash, as if it were the root of the image.
fn normalised(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::Normal(part) => out.push(part),
            // An absolute link starts again.
            Component::RootDir => out = PathBuf::new(),
            _ => {}
        }
    }
    out
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
    }
}
