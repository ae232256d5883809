//! Layouts as one tar: `type=oci`, and `type=docker`, which is the same with a `manifest.json` for `docker load`.
//! Entries are sorted, owned by root, at time 0. Unaware of what the blobs hold.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Read},
};

use serde_json::json;

use super::{
    destination::{FileDestination, Output},
    error::{ExportError, IoContext, Result},
    layout::{Contents, LayoutOptions, OCI_LAYOUT, contents, entries, index_json},
};
use crate::{
    oci::{
        Descriptor, Digest, Reference, media_type,
        tar::{Entry, EntryKind, TarWriter, Timestamp},
    },
    store::Store,
};

/// Writes an image as the tar of an OCI layout.
pub fn write_oci_archive(store: &Store, top: &Descriptor, destination: FileDestination, options: &LayoutOptions) -> Result<()> {
    let mut contents = contents(store, top)?;
    let index = index_json(entries(store, top, &contents, options)?);
    let files = [("index.json", index), ("oci-layout", OCI_LAYOUT.into())];
    contents.blobs.retain(|digest, _| !options.without.contains(digest));
    options.meter.expect(contents.blobs.values().sum());
    write(store, &contents, files.into(), Output::open(destination, &options.meter)?)
}

/// Writes an image of one platform for `docker load`; it is an OCI layout too.
pub fn write_docker_archive(store: &Store, top: &Descriptor, destination: FileDestination, options: &LayoutOptions) -> Result<()> {
    let mut contents = contents(store, top)?;
    if !media_type::is_manifest(&top.media_type) || contents.manifests.len() != 1 {
        return Err(ExportError::DockerNeedsOnePlatform);
    }
    let index = index_json(entries(store, top, &contents, options)?);
    let manifest = docker_manifest(&contents, &options.names);
    let files = [("index.json", index), ("manifest.json", manifest), ("oci-layout", OCI_LAYOUT.into())];
    contents.blobs.retain(|digest, _| !options.without.contains(digest));
    options.meter.expect(contents.blobs.values().sum());
    write(store, &contents, files.into(), Output::open(destination, &options.meter)?)
}

/// What `docker load` reads first.
fn docker_manifest(contents: &Contents, names: &[Reference]) -> Vec<u8> {
    let manifest = &contents.manifests[0];
    let tags: Option<Vec<String>> = (!names.is_empty()).then(|| names.iter().map(docker_name).collect());
    let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
    let value = json!([{ "Config": blob_path(&manifest.config.digest), "RepoTags": tags, "Layers": layers }]);
    serde_json::to_vec(&value).expect("it has only string keys")
}

/// `app:latest`: short, but always with its tag.
fn docker_name(name: &Reference) -> String {
    let short = name.familiar();
    if name.tag() == Some("latest") && name.digest().is_none() { format!("{short}:latest") } else { short }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Writes blobs and files, sorted by name: `blobs` comes before all of ours.
fn write(store: &Store, contents: &Contents, files: BTreeMap<&str, Vec<u8>>, output: Output) -> Result<()> {
    let path = output.path();
    let mut tar = TarWriter::new(BufWriter::with_capacity(1 << 16, output));
    for directory in ["blobs", "blobs/sha256"] {
        tar.append(&entry(directory, EntryKind::Directory, 0), &mut std::io::empty()).at("write", &path)?;
    }
    for (digest, size) in &contents.blobs {
        let descriptor = Descriptor::new("", digest.clone(), *size);
        let mut file = store.open_described(&descriptor)?;
        let found = tar.append(&entry(&blob_path(digest), EntryKind::File, *size), &mut file).at("write", &path)?;
        if found != *size {
            return Err(ExportError::Shrunk { digest: digest.clone(), expected: *size, found });
        }
    }
    for (name, bytes) in files {
        let mut content: &mut dyn Read = &mut bytes.as_slice();
        tar.append(&entry(name, EntryKind::File, bytes.len() as u64), &mut content).at("write", &path)?;
    }
    let buffered = tar.finish().at("write", &path)?;
    let output = buffered.into_inner().map_err(|error| error.into_error()).at("write", &path)?;
    output.finish()
}

fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
    let mode = if kind == EntryKind::Directory { 0o755 } else { 0o444 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: Timestamp::default(), size, xattrs: Vec::new() }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        export::{
            manifest::{ImageOptions, write_image},
            testing::{image, store},
        },
        oci::tar::TarReader,
    };

    fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut reader = TarReader::new(fs::File::open(path).unwrap());
        let mut files = BTreeMap::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            files.insert(String::from_utf8(entry.path).unwrap(), bytes);
        }
        files
    }

    fn options() -> LayoutOptions {
        LayoutOptions { names: vec!["app".parse().unwrap(), "ghcr.io/me/app:1".parse().unwrap()], ..LayoutOptions::default() }
    }

    #[test]
    fn an_oci_archive_has_an_entry_for_each_name_and_every_blob() {
        let (top, store) = store();
        let images = [image(&store, "linux/amd64", &["a", "b"]), image(&store, "linux/arm64", &["a"])];
        let written = write_image(&store, &images, &ImageOptions::default()).unwrap();
        let path = top.path().join("app.tar");
        write_oci_archive(&store, &written, FileDestination::Path(path.clone()), &options()).unwrap();
        let files = files(&path);
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let annotation = |entry: usize, key: &str| index["manifests"][entry]["annotations"][key].as_str().unwrap().to_owned();
        assert_eq!(annotation(0, "io.containerd.image.name"), "docker.io/library/app:latest");
        assert_eq!(annotation(0, "org.opencontainers.image.ref.name"), "latest");
        assert_eq!(annotation(1, "io.containerd.image.name"), "ghcr.io/me/app:1");
        assert_eq!(annotation(1, "org.opencontainers.image.ref.name"), "1");
        assert_eq!(annotation(1, "org.opencontainers.image.created"), "2024-05-06T07:08:09Z");
        assert_eq!(index["manifests"][0]["digest"], written.digest.as_str());
        // An index, two manifests, two configs, two layers.
        assert_eq!(files.keys().filter(|name| name.starts_with("blobs/sha256/") && name.len() > 20).count(), 7);
        for (name, bytes) in files.iter().filter(|(name, _)| name.len() > 20) {
            assert_eq!(*name, blob_path(&Digest::of(bytes)));
        }
    }

    #[test]
    fn a_docker_archive_is_of_one_platform() {
        let (top, store) = store();
        let images = [image(&store, "linux/amd64", &["a", "a"]), image(&store, "linux/arm64", &["a"])];
        let path = top.path().join("app.tar");
        let destination = || FileDestination::Path(path.clone());
        let one = write_image(&store, &images[..1], &ImageOptions::default()).unwrap();
        write_docker_archive(&store, &one, destination(), &options()).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&files(&path)["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["app:latest", "ghcr.io/me/app:1"]));
        assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 2);
        assert!(files(&path).contains_key(manifest[0]["Config"].as_str().unwrap()));
        let many = write_image(&store, &images, &ImageOptions::default()).unwrap();
        let error = write_docker_archive(&store, &many, destination(), &options()).unwrap_err();
        assert_eq!(error.to_string(), "docker exporter does not currently support exporting manifest lists");
    }

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        let archives = [(), ()].map(|()| {
            let (top, store) = store();
            let written = write_image(&store, &[image(&store, "linux/amd64", &["a", "b"])], &ImageOptions::default()).unwrap();
            let path = top.path().join("app.tar");
            write_docker_archive(&store, &written, FileDestination::Path(path.clone()), &options()).unwrap();
            fs::read(path).unwrap()
        });
        assert!(archives[0] == archives[1]);
    }

    #[test]
    fn a_missing_layer_leaves_no_file() {
        let (top, store) = store();
        let mut image = image(&store, "linux/amd64", &["a"]);
        image.layers[0].descriptor.digest = Digest::of(b"missing");
        let written = write_image(&store, &[image], &ImageOptions::default()).unwrap();
        fs::create_dir(top.path().join("out")).unwrap();
        let destination = FileDestination::Path(top.path().join("out/app.tar"));
        let error = write_oci_archive(&store, &written, destination, &options()).unwrap_err();
        assert!(error.to_string().ends_with("is not in the store"), "{error}");
        assert_eq!(fs::read_dir(top.path().join("out")).unwrap().count(), 0);
    }
}
