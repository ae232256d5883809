//! Files of a step's root filesystem copied to this machine: directories, files and links, with plain permissions.
//! What is there before is replaced, never written through. Unaware of builds.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    snapshot::layered::{Kind, LayeredRoot, Lower},
    sys::root::RootDir,
};

/// Copies `path` as `docker cp` does: into `destination` if that is a directory, else to that name.
pub fn copy(layers: Vec<RootDir>, path: &str, destination: &Path) -> io::Result<PathBuf> {
    let root = LayeredRoot::read_only(layers.into_iter().map(Lower::Directory).collect())?;
    let path = root.resolve(Path::new(path), true)?;
    let is_into = destination.is_dir() || destination.as_os_str().as_encoded_bytes().ends_with(b"/");
    let target = match (is_into, path.file_name()) {
        (true, Some(name)) => destination.join(name),
        _ => destination.to_owned(),
    };
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    copy_entry(&root, &path, &target)?;
    Ok(target)
}

fn copy_entry(root: &LayeredRoot, path: &Path, target: &Path) -> io::Result<()> {
    let Some(metadata) = root.stat(path, false)? else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display())));
    };
    match metadata.kind {
        Kind::Directory => {
            make_directory(target)?;
            for name in root.read_dir(path)? {
                copy_entry(root, &path.join(&name), &target.join(&name))?;
            }
            Ok(())
        }
        Kind::File => {
            remove_file(target)?;
            let mut from = root.open_file(path)?;
            let mode = metadata.mode & 0o755 | 0o600;
            let mut to = File::options().write(true).create_new(true).mode(mode).open(target)?;
            io::copy(&mut from, &mut to).map(drop)
        }
        Kind::Symlink => {
            remove_file(target)?;
            std::os::unix::fs::symlink(root.read_link(path)?, target)
        }
        // Sockets, fifos and devices are no results.
        _ => Ok(()),
    }
}

/// A directory of our own: a link in its place would lead out.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return fs::set_permissions(path, fs::Permissions::from_mode(found.permissions().mode() | 0o700)),
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    fs::DirBuilder::new().mode(0o755).create(path)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_arrives_and_links_lead_nowhere() {
        let top = tempfile::tempdir().unwrap();
        let (image, out) = (top.path().join("image"), top.path().join("out"));
        fs::create_dir_all(image.join("reports/sub")).unwrap();
        fs::create_dir_all(out.join("reports")).unwrap();
        fs::write(image.join("reports/a.xml"), "a").unwrap();
        fs::write(image.join("reports/sub/b.xml"), "b").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", image.join("reports/link")).unwrap();
        std::os::unix::fs::symlink("/reports", image.join("alias")).unwrap();
        // An earlier harvest has left links where files and directories come now.
        let outside = top.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a.xml"), "untouched").unwrap();
        std::os::unix::fs::symlink(&outside, out.join("reports/sub")).unwrap();
        std::os::unix::fs::symlink(outside.join("a.xml"), out.join("reports/a.xml")).unwrap();
        let layers = || vec![RootDir::open(&image).unwrap()];
        assert_eq!(copy(layers(), "/alias", &out).unwrap(), out.join("reports"));
        assert_eq!(fs::read_to_string(out.join("reports/a.xml")).unwrap(), "a");
        assert_eq!(fs::read_to_string(out.join("reports/sub/b.xml")).unwrap(), "b");
        assert_eq!(fs::read_link(out.join("reports/link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read_to_string(outside.join("a.xml")).unwrap(), "untouched");
        assert!(!outside.join("b.xml").exists());
        assert_eq!(copy(layers(), "reports/a.xml", &out.join("renamed.xml")).unwrap(), out.join("renamed.xml"));
        assert!(copy(layers(), "/nowhere", &out).is_err());
    }
}
