//! The root filesystem of a step on this machine: an overlay, or a copy of the whole tree; and, where nothing can be
//! mounted, what the step's mounts show, as copies of its own.
//! Unaware of which step it is.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{
    build::{BuildError, Kind, error::chain, layer::open_roots},
    sandbox::{self, MountKind, RootFs, Rung, Shape, Source, Spec},
    snapshot::{
        self, Snapshotter,
        copy::{self, CopyRequest, SourceRoot, Style},
        layered::{LayeredRoot, Lower},
    },
    store::SnapshotDraft,
    sys::root::RootDir,
};

/// What a copy of a mount's tree is called.
const COPIED: &str = "/mounted";

/// Overlayfs where the store's file system takes its writes; else every step starts from a copy of its root.
pub(super) fn snapshotter(draft: &SnapshotDraft) -> &'static dyn Snapshotter {
    static OVERLAY_WORKS: OnceLock<bool> = OnceLock::new();
    let probe = || sandbox::current() != Rung::Chroot && snapshot::overlay_works(draft.path()).is_ok();
    if *OVERLAY_WORKS.get_or_init(probe) { &snapshot::Overlay } else { &snapshot::Native }
}

/// Gives a step a root that it can write, on top of `lowers`. The draft has to live as long as the step.
pub fn make_writable(spec: &mut Spec, draft: &SnapshotDraft, lowers: &[PathBuf]) -> Result<(), BuildError> {
    spec.rootfs = match snapshotter(draft).prepare(draft.path(), lowers).map_err(store_error)? {
        snapshot::Root::Overlay { mut lowers, upper, work } => {
            let mount_points = draft.made_once("mount-points", make_mount_points).map_err(BuildError::store)?;
            // A step that failed had them already.
            if !lowers.is_empty() && !lowers.contains(&mount_points) {
                lowers.push(mount_points);
            }
            RootFs::Overlay { lowers, upper, work, volatile: true }
        }
        snapshot::Root::Directory(path) => RootFs::Directory(path),
    };
    if sandbox::current() != Rung::Chroot {
        return Ok(());
    }
    let scratch = draft.work().join("scratch");
    let make = |path: &Path| fs::create_dir(path).map_err(|error| cannot("create", path, &error));
    make(&scratch)?;
    spec.scratch = Some(scratch);
    for (index, mount) in spec.mounts.iter_mut().enumerate() {
        let (MountKind::Bind { source, subpath, .. } | MountKind::Discard { source, subpath, .. }) = &mount.kind else { continue };
        let place = draft.work().join(format!("mount-{index}"));
        make(&place)?;
        copy_tree(source, subpath, &place).map_err(|error| cannot("mount", &mount.target, &error))?;
        mount.kind = MountKind::Moved { source: Source::Directory(place), subpath: COPIED.into(), returns: false };
    }
    Ok(())
}

/// The same wherever it is made: a step may find it below its own /etc.
fn make_mount_points(place: &Path) -> io::Result<()> {
    let finish = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        fs::File::open(path)?.set_modified(std::time::UNIX_EPOCH)
    };
    for (name, shape) in sandbox::MOUNT_POINTS {
        let path = place.join(name);
        match shape {
            Shape::Directory => fs::create_dir(&path).and_then(|()| finish(&path, 0o755))?,
            Shape::File => {
                fs::create_dir_all(path.parent().unwrap_or(place))?;
                fs::File::create(&path)?;
                finish(&path, 0o644)?;
            }
        }
    }
    finish(&place.join("etc"), 0o755)?;
    finish(place, 0o755)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> BuildError {
    BuildError::new(Kind::Step, format!("cannot {what} {}: {error}", path.display()))
}

/// A copy of what a mount shows, with owners, modes and times.
fn copy_tree(source: &Source, subpath: &Path, place: &Path) -> io::Result<()> {
    let tree = match source {
        Source::Directory(path) => LayeredRoot::plain(&RootDir::open(path)?)?,
        Source::Overlay(layers) => LayeredRoot::read_only(open_roots(layers)?.into_iter().map(Lower::Directory).collect())?,
    };
    let path = if subpath.as_os_str().is_empty() { Path::new("/") } else { subpath };
    let found =
        tree.stat(path, true)?.ok_or_else(|| io::Error::other(format!("\"{}\": not found", Path::new("/").join(path).display())))?;
    let Some(text) = path.to_str() else { return Err(io::Error::other("a path that is no text")) };
    let mut copied = LayeredRoot::new(RootDir::open(place)?, Vec::new())?;
    let request = CopyRequest {
        sources: vec![copy::Source { root: SourceRoot::Layers(&tree), path: text, unpack: false, parents: false }],
        destination: COPIED,
        style: Style::default(),
        exclude: None,
    };
    copy::copy(&request, &mut copied).map_err(|error| io::Error::other(chain(&error)))?;
    // COPY makes the directory itself as it sees fit.
    let top = place.join(COPIED.trim_start_matches('/'));
    if found.kind == snapshot::layered::Kind::Directory {
        std::os::unix::fs::chown(&top, Some(found.uid), Some(found.gid))?;
        fs::set_permissions(&top, fs::Permissions::from_mode(found.mode & 0o7777))?;
    }
    Ok(())
}

pub(super) fn store_error(error: snapshot::Error) -> BuildError {
    BuildError::new(Kind::Store, chain(&error))
}
