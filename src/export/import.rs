//! Images from elsewhere into the store: OCI layouts, docker and OCI archives, registries. Whatever comes in is verified
//! by its digest. Unaware of where it goes next.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use serde::Deserialize;

use super::error::{ExportError, IoContext, Result};
use crate::{
    oci::{
        Annotations, Descriptor, Digest, Index, Manifest, Reference, media_type,
        tar::{EntryKind, TarReader, decompress},
    },
    registry::Client,
    store::{BlobWriter, IMAGE_NAME, REF_NAME, Store, StoreError},
};

/// Deeper nesting is a malicious or broken image.
const MAX_NESTING: u32 = 4;

/// Copies an image of the OCI layout at `path`: the one of that tag, else the only one.
pub fn import_layout(store: &Store, path: &Path, tag: Option<&str>) -> Result<Descriptor> {
    let index_path = path.join("index.json");
    let text = fs::read(&index_path).at("read", &index_path)?;
    let index: Index = serde_json::from_slice(&text).map_err(|source| ExportError::NotAnIndex { path: index_path, source })?;
    let chosen = choose(&index, tag).ok_or_else(|| no_such_image(path, tag))?;
    let read = |descriptor: &Descriptor| {
        let blob = path.join("blobs/sha256").join(descriptor.digest.hex());
        let mut file = File::open(&blob).at("open", &blob)?;
        put(store, descriptor, &mut file)
    };
    import_tree(store, &chosen, 0, &read)?;
    Ok(plain(chosen))
}

fn plain(mut descriptor: Descriptor) -> Descriptor {
    descriptor.annotations = Annotations::new();
    descriptor
}

fn no_such_image(path: &Path, tag: Option<&str>) -> ExportError {
    let what = tag.map_or("more than one image; name one".to_owned(), |tag| format!("no image {tag}"));
    ExportError::Obtain(format!("{} has {what}", path.display()))
}

fn choose(index: &Index, tag: Option<&str>) -> Option<Descriptor> {
    let is_named = |entry: &&Descriptor, tag: &str| {
        let short = entry.annotations.get(REF_NAME).is_some_and(|name| name == tag);
        short || entry.annotations.get(IMAGE_NAME).is_some_and(|name| name == tag)
    };
    match tag {
        Some(tag) => index.manifests.iter().find(|entry| is_named(entry, tag)).cloned(),
        None => {
            let first = index.manifests.first()?;
            index.manifests.iter().all(|entry| entry.digest == first.digest).then(|| first.clone())
        }
    }
}

/// Blobs before what names them would be safer, but what names them says which they are; nothing has a name yet.
fn import_tree(store: &Store, descriptor: &Descriptor, depth: u32, bring: &impl Fn(&Descriptor) -> Result<()>) -> Result<()> {
    if depth > MAX_NESTING {
        return Err(StoreError::NestedTooDeeply { digest: descriptor.digest.clone() }.into());
    }
    if !store.has_described(descriptor)? {
        bring(descriptor)?;
    }
    if media_type::is_index(&descriptor.media_type) {
        return store.index_blob(&descriptor.digest)?.manifests.iter().try_for_each(|child| import_tree(store, child, depth + 1, bring));
    }
    let manifest = store.manifest(&descriptor.digest)?;
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        if !blob.extra.contains_key("urls") && !store.has_described(blob)? {
            bring(blob)?;
        }
    }
    Ok(())
}

fn put(store: &Store, descriptor: &Descriptor, content: &mut impl Read) -> Result<()> {
    let mut writer = store.blob_writer()?;
    io::copy(content, &mut writer).at("copy", descriptor.digest.to_string())?;
    Ok(writer.complete_verified_as(&descriptor.digest, descriptor.size)?)
}

/// Copies an image out of a tar: `docker save`'s, or an OCI layout's. Without `tag` it must be the only one.
pub fn import_archive(store: &Store, path: &Path, tag: Option<&str>) -> Result<Descriptor> {
    let file = io::BufReader::with_capacity(1 << 16, File::open(path).at("open", path)?);
    let mut tar = TarReader::new(decompress(file).at("read", path)?);
    let mut blobs: BTreeMap<String, (Digest, u64)> = BTreeMap::new();
    let mut documents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    while let Some(entry) = tar.next_entry()? {
        let name = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
        match &entry.kind {
            EntryKind::File if name == "index.json" || name == "manifest.json" => {
                let mut text = Vec::new();
                (&mut tar).take(16 << 20).read_to_end(&mut text).at("read", path)?;
                documents.insert(name, text);
            }
            EntryKind::File => {
                let mut writer = store.blob_writer()?;
                io::copy(&mut tar, &mut writer).at("read", path)?;
                blobs.insert(name, writer.complete()?);
            }
            // Older `docker save` writes a layer once and links to it.
            EntryKind::Symlink { target } | EntryKind::HardLink { target } => {
                let target = resolve(&name, &String::from_utf8_lossy(target));
                if let Some(found) = blobs.get(&target).cloned() {
                    blobs.insert(name, found);
                }
            }
            _ => {}
        }
    }
    if let Some(text) = documents.get("index.json") {
        let index: Index = serde_json::from_slice(text).map_err(|source| ExportError::NotAnIndex { path: path.to_owned(), source })?;
        if let Some(chosen) = choose(&index, tag) {
            let missing = |descriptor: &Descriptor| Err(StoreError::MissingBlob { digest: descriptor.digest.clone() }.into());
            import_tree(store, &chosen, 0, &missing)?;
            return Ok(plain(chosen));
        }
    }
    let text = documents.get("manifest.json").ok_or_else(|| no_such_image(path, tag))?;
    from_docker(store, path, text, &blobs, tag)
}

fn resolve(name: &str, target: &str) -> String {
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let mut parts: Vec<String> = Vec::new();
    for part in folder.join(target).components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// `manifest.json` names files; the image's own manifest is made from them.
fn from_docker(store: &Store, path: &Path, text: &[u8], blobs: &BTreeMap<String, (Digest, u64)>, tag: Option<&str>) -> Result<Descriptor> {
    let images: Vec<DockerImage> =
        serde_json::from_slice(text).map_err(|source| ExportError::NotAnIndex { path: path.to_owned(), source })?;
    let is_wanted = |image: &&DockerImage| tag.is_none_or(|tag| image.repo_tags.iter().flatten().any(|name| name == tag));
    let mut wanted = images.iter().filter(is_wanted);
    let (Some(image), None) = (wanted.next(), wanted.next()) else { return Err(no_such_image(path, tag)) };
    let blob = |name: &String| {
        blobs
            .get(name)
            .cloned()
            .ok_or_else(|| ExportError::Obtain(format!("{}: manifest.json names {name}, which is missing", path.display())))
    };
    let (config, config_size) = blob(&image.config)?;
    let layers = image.layers.iter().map(|name| {
        let (digest, size) = blob(name)?;
        Ok(Descriptor::new(layer_type(store, &digest)?, digest, size))
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, config, config_size),
        layers: layers.collect::<Result<_>>()?,
        subject: None,
        annotations: Annotations::new(),
    };
    let bytes = manifest.to_bytes();
    Ok(Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes)?, bytes.len() as u64))
}

/// By its first bytes: a docker archive does not say how its layers are compressed.
fn layer_type(store: &Store, digest: &Digest) -> Result<&'static str> {
    let mut start = [0; 4];
    let count = store.open_blob(digest)?.read(&mut start).at("read", digest.to_string())?;
    Ok(match &start[..count] {
        [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => media_type::OCI_LAYER_ZSTD,
        _ => media_type::OCI_LAYER,
    })
}

/// Fetches an image's manifests and configs from its registry, but no layer.
pub async fn import_metadata(store: &Store, client: &Client, reference: &Reference) -> Result<Descriptor> {
    let top = import_manifests(store, client, reference).await?;
    for manifest in super::layout::manifests(store, &top)? {
        fetch_blob(store, client, reference, &manifest.config).await?;
    }
    Ok(top)
}

/// Fetches an image's manifests from its registry, and nothing that they name.
pub async fn import_manifests(store: &Store, client: &Client, reference: &Reference) -> Result<Descriptor> {
    let top = client.resolve(reference).await?;
    store.put_blob(&top.bytes)?;
    let descriptor = Descriptor::new(&top.media_type, top.digest.clone(), top.bytes.len() as u64);
    let mut waiting = vec![(descriptor.clone(), 0)];
    while let Some((current, depth)) = waiting.pop() {
        if depth > MAX_NESTING {
            return Err(StoreError::NestedTooDeeply { digest: current.digest }.into());
        }
        if !store.has_blob(&current.digest)? {
            let found = client.fetch_manifest(reference, &current.digest).await?;
            store.put_blob(&found.bytes)?;
        }
        if media_type::is_index(&current.media_type) {
            waiting.extend(store.index_blob(&current.digest)?.manifests.into_iter().map(|child| (child, depth + 1)));
        }
    }
    Ok(descriptor)
}

/// Fetches one blob, if it isn't here.
pub async fn fetch_blob(store: &Store, client: &Client, reference: &Reference, descriptor: &Descriptor) -> Result<()> {
    if store.has_described(descriptor)? {
        return Ok(());
    }
    let mut sink = Sink(store.blob_writer()?);
    client.fetch_blob(reference, descriptor, &mut sink, |_| ()).await?;
    Ok(sink.0.complete_verified_as(&descriptor.digest, descriptor.size)?)
}

/// Fetches all layers of an image whose metadata is here.
pub async fn fetch_layers(store: &Store, client: &Client, reference: &Reference, top: &Descriptor) -> Result<()> {
    let contents = super::layout::contents(store, top)?;
    let layers = contents.manifests.iter().flat_map(|manifest| &manifest.layers);
    let layers = layers.filter(|layer| !layer.extra.contains_key("urls"));
    futures_util::future::try_join_all(layers.map(|layer| fetch_blob(store, client, reference, layer))).await.map(drop)
}

/// A blob of the store as something asynchronous to write to. Disk writes are short: they go to the page cache.
struct Sink(BlobWriter);

impl tokio::io::AsyncWrite for Sink {
    fn poll_write(mut self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{
        FileDestination, ImageOptions, LayoutOptions, testing, write_docker_archive, write_image, write_oci_archive, write_oci_directory,
    };

    #[test]
    fn what_was_written_comes_back_the_same() {
        let (top, store) = testing::store();
        let image = testing::image(&store, "linux/amd64", &["a", "b"]);
        let written = write_image(&store, &[image], &ImageOptions::default()).unwrap();
        let options = LayoutOptions { names: vec!["app:1".parse().unwrap()], ..LayoutOptions::default() };
        let path = |name: &str| top.path().join(name);
        write_oci_directory(&store, &written, &path("layout"), &options).unwrap();
        write_oci_archive(&store, &written, FileDestination::Path(path("oci.tar")), &options).unwrap();
        write_docker_archive(&store, &written, FileDestination::Path(path("docker.tar")), &options).unwrap();
        let fresh = |name: &str| Store::open(&path(name)).unwrap();
        assert_eq!(import_layout(&fresh("1"), &path("layout"), Some("1")).unwrap().digest, written.digest);
        assert_eq!(import_archive(&fresh("2"), &path("oci.tar"), None).unwrap().digest, written.digest);
        assert_eq!(import_archive(&fresh("3"), &path("docker.tar"), None).unwrap().digest, written.digest);
        assert!(import_layout(&fresh("4"), &path("layout"), Some("2")).unwrap_err().to_string().ends_with("no image 2"));
    }

    #[test]
    fn links_in_an_archive_are_followed_by_name() {
        assert_eq!(resolve("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
    }
}
