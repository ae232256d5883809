//! What is installed in an image, read from its layers' tars in one pass: of each file that names packages, the one that
//! no later layer replaces or removes. Unaware of what the files say.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use super::{
    error::{ExportError, Result},
    listing::{Listing, list_with},
};
use crate::{
    oci::{
        Image,
        tar::{Entry, EntryKind},
    },
    sbom::{Format, Inventory, format_of},
    store::Store,
};

/// Larger files are named as unread: one is in memory at a time.
const FILE_LIMIT_BYTES: u64 = 128 << 20;

/// Reads an image of which all layers are in the store.
pub fn inventory(store: &Store, image: &Image) -> Result<Inventory> {
    for layer in &image.layers {
        if !store.has_described(&layer.descriptor)? {
            return Err(ExportError::MissingLayer { digest: layer.descriptor.digest.clone() });
        }
    }
    let mut inventory = Inventory::default();
    let mut read_in: BTreeMap<String, usize> = BTreeMap::new();
    let mut visit = |path: &[u8], layer: usize, entry: &Entry, content: &mut dyn Read| {
        if let Ok(path) = std::str::from_utf8(path)
            && let Some(format) = format_of(path, entry.mode & 0o111 != 0)
        {
            read(path, format, entry.size, content, &mut inventory)?;
            read_in.insert(path.to_owned(), layer);
        }
        Ok(None)
    };
    let listing = list_with(store, image, Some(&mut visit))?;
    let is_there = |path: &str| listing.files.get(path.as_bytes()).is_some_and(|file| Some(&file.layer) == read_in.get(path));
    inventory.retain(is_there);
    add_links(store, image, &listing, &mut inventory)?;
    Ok(inventory)
}

fn read(path: &str, format: Format, size: u64, content: &mut dyn Read, inventory: &mut Inventory) -> io::Result<()> {
    if format == Format::Program && !is_program(content)? {
        return Ok(());
    }
    if size > FILE_LIMIT_BYTES {
        inventory.add_unreadable(path, &format!("it is larger than {} MiB", FILE_LIMIT_BYTES >> 20));
        return Ok(());
    }
    let mut bytes = if format == Format::Program { PROGRAM_START.to_vec() } else { Vec::new() };
    content.read_to_end(&mut bytes)?;
    inventory.add(path, format, &bytes);
    Ok(())
}

const PROGRAM_START: [u8; 4] = *b"\x7fELF";

/// Scripts are executable too, and small files shorter than this.
fn is_program(content: &mut dyn Read) -> io::Result<bool> {
    let mut start = Vec::new();
    content.take(PROGRAM_START.len() as u64).read_to_end(&mut start)?;
    Ok(start == PROGRAM_START)
}

/// A hard link has the content of another name, which may be one that says nothing: package managers link from their stores.
fn add_links(store: &Store, image: &Image, listing: &Listing, inventory: &mut Inventory) -> Result<()> {
    // By layer and name of what they lead to.
    let mut wanted = BTreeMap::<(usize, Vec<u8>), Vec<_>>::new();
    for (path, file) in &listing.files {
        let EntryKind::HardLink { target } = &file.kind else { continue };
        let Ok(path) = std::str::from_utf8(path) else { continue };
        // Of a program one name is enough, and links of programs are many.
        let Some(format) = format_of(path, false) else { continue };
        let target = target.strip_prefix(b"./").or(target.strip_prefix(b"/")).unwrap_or(target).to_vec();
        wanted.entry((file.layer, target)).or_default().push((path.to_owned(), format));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let mut visit = |path: &[u8], layer: usize, entry: &Entry, content: &mut dyn Read| {
        if let Some(links) = wanted.get(&(layer, path.to_vec())) {
            let mut bytes = Vec::new();
            content.take(FILE_LIMIT_BYTES.min(entry.size)).read_to_end(&mut bytes)?;
            links.iter().for_each(|(path, format)| inventory.add(path, *format, &bytes));
        }
        Ok(None)
    };
    list_with(store, image, Some(&mut visit)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        export::testing::{image, layer, store},
        oci::Layer,
    };

    fn names(store: &Store, layers: Vec<Layer>) -> Vec<String> {
        let mut image = image(store, "linux/amd64", &[]);
        image.layers = layers;
        inventory(store, &image).unwrap().packages().into_iter().map(|(url, _)| url).collect()
    }

    #[test]
    fn only_what_the_last_layer_leaves_is_installed() {
        let (_top, store) = store();
        let status = |name: &str| format!("Package: {name}\nStatus: install ok installed\nVersion: 1\n");
        let (old, new) = (status("old"), status("new"));
        let package = |name: &str| format!(r#"{{"name":"{name}","version":"1"}}"#);
        let (kept, removed) = (package("kept"), package("removed"));
        let first = layer(
            &store,
            &[
                ("var/lib/dpkg/status", EntryKind::File, &old),
                ("a/node_modules/removed/package.json", EntryKind::File, &removed),
                ("store/3f", EntryKind::File, &kept),
                ("a/node_modules/kept/package.json", EntryKind::HardLink { target: b"store/3f".to_vec() }, ""),
            ],
        );
        let second = layer(&store, &[("var/lib/dpkg/status", EntryKind::File, &new), ("a/node_modules/.wh.removed", EntryKind::File, "")]);
        assert_eq!(names(&store, vec![first, second]), ["pkg:deb/new@1", "pkg:npm/kept@1"]);
    }

    #[test]
    fn a_layer_that_is_missing_is_an_error() {
        let (_top, store) = store();
        let mut image = image(&store, "linux/amd64", &["a"]);
        image.layers[0].descriptor.digest = crate::oci::Digest::of(b"missing");
        assert!(matches!(inventory(&store, &image), Err(ExportError::MissingLayer { .. })));
    }
}
