//! Small images in a store of their own, for the tests of this room.

use std::io::Write;

use crate::{
    oci::{
        Descriptor, DiffId, Digest, Image, ImageConfig, Layer, Platform, media_type,
        tar::{Entry, EntryKind, TarWriter, Timestamp},
    },
    store::Store,
};

pub(super) fn store() -> (tempfile::TempDir, Store) {
    let top = tempfile::tempdir().unwrap();
    let store = Store::open(&top.path().join("store")).unwrap();
    (top, store)
}

/// An entry of a tar, owned by root, with a fixed time.
pub(super) fn entry(path: &str, kind: EntryKind, size: usize) -> Entry {
    let mode = if kind == EntryKind::Directory { 0o755 } else { 0o644 };
    let mtime = Timestamp { seconds: 1_000_000_000, nanoseconds: 0 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime, size: size as u64, xattrs: Vec::new() }
}

/// A layer of these entries, not compressed: path, kind and content of each.
pub(super) fn layer(store: &Store, entries: &[(&str, EntryKind, &str)]) -> Layer {
    let tar = tar(entries);
    let digest = store.put_blob(&tar).unwrap();
    Layer { descriptor: Descriptor::new(media_type::OCI_LAYER, digest.clone(), tar.len() as u64), diff_id: DiffId(digest) }
}

fn tar(entries: &[(&str, EntryKind, &str)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (path, kind, text) in entries {
        tar.append(&entry(path, kind.clone(), text.len()), &mut text.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

/// An image with a layer for each text: one file, named and filled by it, gzipped.
pub(super) fn image(store: &Store, platform: &str, texts: &[&str]) -> Image {
    let layers: Vec<Layer> = texts.iter().map(|text| packed(store, text)).collect();
    let platform: Platform = platform.parse().unwrap();
    let mut config = ImageConfig {
        created: Some("2024-05-06T07:08:09Z".to_owned()),
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config.cmd = Some(vec!["/hello".to_owned()]);
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    Image { platform, config, layers }
}

fn packed(store: &Store, text: &str) -> Layer {
    let tar = tar(&[(text, EntryKind::File, text)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).unwrap();
    let bytes = gzip.finish().unwrap();
    let digest = store.put_blob(&bytes).unwrap();
    Layer { descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, digest, bytes.len() as u64), diff_id: DiffId(Digest::of(&tar)) }
}
