//! `type=oci,tar=false`: an OCI layout as a directory. Added to a layout that is there; blobs first, the index last, each
//! complete when it appears, in an open directory, so that no link below the destination is followed. Unaware of what the blobs hold.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, symlink},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    error::{ExportError, IoContext, Result},
    layout::{LayoutOptions, OCI_LAYOUT, contents, entries, index_json},
    unnamed::Unnamed,
};
use crate::{
    oci::{Descriptor, Index, Reference},
    store::{IMAGE_NAME, REF_NAME, Store},
};

/// Writes an image as an OCI layout in `path`, made if it isn't there. Images of other names that are there stay.
pub fn write_oci_directory(store: &Store, top: &Descriptor, path: &Path, options: &LayoutOptions) -> Result<()> {
    let contents = contents(store, top)?;
    let ours = entries(store, top, &contents, options)?;
    fs::DirBuilder::new().recursive(true).mode(0o777).create(path).at("create", path)?;
    let layout = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)?;
    let blobs = make_directory(layout.as_fd(), "blobs", path)?;
    let blobs = make_directory(blobs.as_fd(), "sha256", path)?;
    options.meter.expect(contents.blobs.values().sum());
    for (digest, size) in &contents.blobs {
        // By size alone: a blob that is there was named when it was whole.
        if size_of(blobs.as_fd(), digest.hex()) == Some(*size) {
            options.meter.add(*size);
            continue;
        }
        let mut source = store.open_described(&Descriptor::new("", digest.clone(), *size))?;
        put(blobs.as_fd(), digest.hex(), |file| io::copy(&mut source, file).map(drop)).at("write", path.join(digest.hex()))?;
        options.meter.add(*size);
    }
    let mut all = existing_entries(layout.as_fd(), path)?;
    all.retain(|entry| !is_replaced_by(entry, &ours));
    all.extend(ours);
    put_bytes(layout.as_fd(), "oci-layout", OCI_LAYOUT.as_bytes()).at("write", path.join("oci-layout"))?;
    put_bytes(layout.as_fd(), "index.json", &index_json(all)).at("write", path.join("index.json"))
}

/// Makes a layout of an image in an empty directory for readers on this machine, as long as the store is there: its blobs
/// are the store's own.
pub fn lend_oci_directory(store: &Store, top: &Descriptor, path: &Path, options: &LayoutOptions) -> Result<()> {
    let contents = contents(store, top)?;
    let mut entries = entries(store, top, &contents, options)?;
    for (entry, name) in entries.iter_mut().zip(&options.names) {
        entry.annotations.insert(REF_NAME.to_owned(), lent_name(name));
    }
    symlink(store.root().join("blobs"), path.join("blobs")).at("create", path.join("blobs"))?;
    fs::write(path.join("oci-layout"), OCI_LAYOUT).at("write", path.join("oci-layout"))?;
    fs::write(path.join("index.json"), index_json(entries)).at("write", path.join("index.json"))
}

/// What an image is called in a layout that is lent: its whole name, because there is no other place for it.
pub fn lent_name(name: &Reference) -> String {
    let name = name.to_string();
    if name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':')) { name } else { format!("{name}:latest") }
}

/// The same name, or the same image without one.
fn is_replaced_by(entry: &Descriptor, ours: &[Descriptor]) -> bool {
    ours.iter().any(|our| match (our.annotations.get(IMAGE_NAME), entry.annotations.get(IMAGE_NAME)) {
        (Some(our), Some(name)) => our == name,
        (None, None) => our.digest == entry.digest,
        _ => false,
    })
}

fn existing_entries(layout: BorrowedFd<'_>, path: &Path) -> Result<Vec<Descriptor>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(layout, "index.json", flags, Mode::empty()) {
        // A link is replaced like any other file of that name.
        Err(Errno::NOENT | Errno::LOOP) => return Ok(Vec::new()),
        opened => File::from(opened.at("open", path.join("index.json"))?),
    };
    let text = io::read_to_string(file).at("read", path.join("index.json"))?;
    let index: Index = serde_json::from_str(&text).map_err(|source| ExportError::NotAnIndex { path: path.join("index.json"), source })?;
    Ok(index.manifests)
}

fn make_directory(parent: BorrowedFd<'_>, name: &str, path: &Path) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).at("create", path.join(name)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => Err(ExportError::LinkInLayout { path: path.join(name) }),
        opened => opened.at("open", path.join(name)),
    }
}

fn size_of(directory: BorrowedFd<'_>, name: &str) -> Option<u64> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
    is_file.then_some(stat.st_size as u64)
}

fn put_bytes(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    put(directory, name, |file| io::Write::write_all(file, bytes))
}

/// Writes a file that appears when it is whole.
fn put(directory: BorrowedFd<'_>, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut unnamed = Unnamed::create(directory.try_clone_to_owned()?, OsStr::new(name))?;
    write(&mut unnamed.file)?;
    unnamed.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{
        export::{
            manifest::{ImageOptions, write_image},
            testing::{image, store},
        },
        oci::Digest,
    };

    fn named(name: &str) -> LayoutOptions {
        LayoutOptions { names: vec![name.parse().unwrap()], ..LayoutOptions::default() }
    }

    fn read_index(path: &Path) -> Vec<(String, Digest)> {
        let index: Index = serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
        index.manifests.into_iter().map(|entry| (entry.annotations[IMAGE_NAME].clone(), entry.digest)).collect()
    }

    #[test]
    fn images_are_added_and_names_move() {
        let (top, store) = store();
        let path = top.path().join("new/layout");
        let [one, two] =
            ["a", "b"].map(|text| write_image(&store, &[image(&store, "linux/amd64", &[text])], &ImageOptions::default()).unwrap());
        write_oci_directory(&store, &one, &path, &named("app:1")).unwrap();
        write_oci_directory(&store, &one, &path, &named("app:2")).unwrap();
        write_oci_directory(&store, &two, &path, &named("app:1")).unwrap();
        let full = |tag: &str| format!("docker.io/library/app:{tag}");
        assert_eq!(read_index(&path), [(full("2"), one.digest), (full("1"), two.digest)]);
        let blobs = fs::read_dir(path.join("blobs/sha256")).unwrap();
        for entry in blobs.map(|entry| entry.unwrap()) {
            let bytes = fs::read(entry.path()).unwrap();
            assert_eq!(entry.file_name().to_str(), Some(Digest::of(&bytes).hex()));
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
    }

    #[test]
    fn links_in_the_destination_lead_nowhere() {
        let (top, store) = store();
        let outside = top.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let written = write_image(&store, &[image(&store, "linux/amd64", &["a"])], &ImageOptions::default()).unwrap();
        let path = top.path().join("layout");
        fs::create_dir(&path).unwrap();
        symlink(&outside, path.join("blobs")).unwrap();
        let error = write_oci_directory(&store, &written, &path, &named("app")).unwrap_err();
        assert!(matches!(error, ExportError::LinkInLayout { .. }), "{error}");
        fs::remove_file(path.join("blobs")).unwrap();
        symlink(outside.join("file"), path.join("index.json")).unwrap();
        write_oci_directory(&store, &written, &path, &named("app")).unwrap();
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(read_index(&path).len(), 1);
    }
}
