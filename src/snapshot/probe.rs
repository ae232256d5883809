//! Whether overlayfs does here what the overlay snapshotter relies on: asked by doing it once, in a directory that goes away.
//! Unaware of what is done when it doesn't.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::MountAttrFlags,
};

use super::disk;
use crate::sys::{
    mountns::{self, Upper},
    root::RootDir,
};

/// Tries an overlay whose layers are in `directory`; the reason why not, as a sentence.
pub fn overlay_works(directory: &Path) -> Result<(), String> {
    let home = tempfile::Builder::new().prefix("overlay-probe-").tempdir_in(directory);
    let home = home.map_err(|error| format!("no temporary directory in {}: {error}", directory.display()))?;
    probe(home.path())
}

fn probe(home: &Path) -> Result<(), String> {
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    lay_out(home).map_err(step("layers can't be laid out"))?;
    let merged = mount(home).map_err(step("overlayfs can't be mounted with userxattr"))?;
    let root = RootDir::from_fd(merged);
    let exists = |path: &str| root.open_in(Path::new(path), OFlags::PATH, Mode::empty()).is_ok();
    if !exists("seen") || exists("opaque/hidden") {
        return Err("overlayfs ignores user.overlay.opaque".to_owned());
    }
    let delete = || Ok(rustix::fs::unlinkat(&root, "seen", rustix::fs::AtFlags::empty())?);
    delete().map_err(step("a file of a layer can't be deleted"))?;
    let upper = RootDir::open(&home.join("upper")).map_err(step("the upper directory can't be read"))?;
    match disk::stat_at(&upper, c"seen").map_err(step("the upper directory can't be read"))? {
        Some(stat) if disk::is_whiteout(&stat) => Ok(()),
        _ => Err("overlayfs marks deletions in another way than by a device 0:0".to_owned()),
    }
}

fn lay_out(home: &Path) -> io::Result<()> {
    for directory in ["lower/opaque", "upper/opaque", "work"] {
        fs::create_dir_all(home.join(directory))?;
    }
    fs::write(home.join("lower/seen"), "")?;
    fs::write(home.join("lower/opaque/hidden"), "")?;
    disk::set_opaque(disk::open_directory(RootDir::open(&home.join("upper"))?, c"opaque")?)
}

fn mount(home: &Path) -> io::Result<OwnedFd> {
    let lower = mountns::open_directory(&home.join("lower"))?;
    let (upper, work) = (home.join("upper"), home.join("work"));
    // As steps mount it; and the end of any other mount waits until the disk has all that is still to be written to it.
    let upper = Upper { upper: &upper, work: &work, volatile: true };
    mountns::overlay(&[lower.as_fd()], Some(upper), MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_can_hold_no_layers_is_told_with_its_reason() {
        assert!(overlay_works(Path::new("/proc")).unwrap_err().starts_with("no temporary directory in /proc"));
        let home = tempfile::tempdir().unwrap();
        if let Err(reason) = overlay_works(home.path()) {
            assert!(!reason.is_empty());
            println!("overlayfs does not work here: {reason}");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "the probe leaves nothing behind");
    }
}
