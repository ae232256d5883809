//! What an image holds, file by file, read from its layers' tars: which layer each file is from, what of each layer later
//! ones hide. Unaware of what is done with it.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use super::error::{ExportError, Result};
use crate::{
    oci::{
        Digest, Image, Layer, Sha256,
        tar::{Entry, EntryKind, TarReader, decompress},
    },
    store::Store,
};

/// A file, directory or whatever has a name, as its layer's tar has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Listed {
    pub kind: EntryKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a file's bytes, where it was asked for.
    pub content: Option<Digest>,
    /// Counted from 0, the lowest.
    pub layer: usize,
}

/// What one layer brings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerFacts {
    /// Whether its blob is here; otherwise nothing is known of it.
    pub is_here: bool,
    /// Entries of its tar.
    pub entries: u64,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Bytes of its files that later layers replace or remove.
    pub wasted_bytes: u64,
    /// Names that it removes from lower layers.
    pub whiteouts: u64,
}

/// An image's files and layers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// By path without a leading slash.
    pub files: BTreeMap<Vec<u8>, Listed>,
    /// Lowest first.
    pub layers: Vec<LayerFacts>,
    /// What later layers replace or remove.
    pub hidden: Vec<Hidden>,
}

/// A file that a layer has and the image has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Without a leading slash.
    pub path: Vec<u8>,
    /// Its size.
    pub size: u64,
    /// The layer that has it.
    pub layer: usize,
}

/// Reads all layers that are here; with `contents`, the digest of each file too.
pub fn list(store: &Store, image: &Image, contents: bool) -> Result<Listing> {
    let mut content = |_: &[u8], _: usize, _: &Entry, content: &mut dyn Read| digest_of(content).map(Some);
    list_with(store, image, contents.then_some(&mut content as &mut Visit<'_>))
}

/// Told of each file of each layer that has content, lowest layer first: its path, the layer, its entry, its bytes. Gives
/// the digest of what it read, if it knows it.
pub(super) type Visit<'a> = dyn FnMut(&[u8], usize, &Entry, &mut dyn Read) -> io::Result<Option<Digest>> + 'a;

/// As [`list`], with somebody who looks at the files on the way.
pub(super) fn list_with(store: &Store, image: &Image, mut visit: Option<&mut Visit<'_>>) -> Result<Listing> {
    let mut listing = Listing::default();
    for (index, layer) in image.layers.iter().enumerate() {
        listing.layers.push(LayerFacts::default());
        if store.has_described(&layer.descriptor)? {
            listing.layers[index].is_here = true;
            listing.add(store, layer, index, visit.as_deref_mut())?;
        }
    }
    Ok(listing)
}

impl Listing {
    fn add(&mut self, store: &Store, layer: &Layer, index: usize, mut visit: Option<&mut Visit<'_>>) -> Result<()> {
        let blob = io::BufReader::with_capacity(1 << 16, store.open_described(&layer.descriptor)?);
        let unreadable = |source| ExportError::Io { action: "read", path: layer.descriptor.digest.to_string().into(), source };
        let mut tar = TarReader::new(decompress(blob).map_err(unreadable)?);
        while let Some(entry) = tar.next_entry()? {
            let path = trimmed(&entry.path);
            if path.is_empty() {
                continue;
            }
            self.layers[index].entries += 1;
            let (parent, name) = split(&path);
            if name == b".wh..wh..opq" {
                self.layers[index].whiteouts += 1;
                self.remove_below(parent, index);
            } else if let Some(hidden) = name.strip_prefix(b".wh.") {
                self.layers[index].whiteouts += 1;
                let hidden = if parent.is_empty() { hidden.to_vec() } else { [parent, b"/", hidden].concat() };
                self.remove(&hidden, index);
            } else {
                let content = match visit.as_deref_mut().filter(|_| entry.kind == EntryKind::File) {
                    Some(visit) => visit(&path, index, &entry, &mut tar).map_err(unreadable)?,
                    None => None,
                };
                self.put(path, &entry, index, content);
            }
        }
        Ok(())
    }

    fn put(&mut self, path: Vec<u8>, entry: &Entry, layer: usize, content: Option<Digest>) {
        let listed = Listed {
            kind: entry.kind.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.seconds,
            size: entry.size,
            xattrs: entry.xattrs.clone(),
            content,
            layer,
        };
        self.layers[layer].file_bytes += entry.size;
        if entry.kind != EntryKind::Directory {
            self.remove_below(&path, layer);
        }
        if let Some(before) = self.files.insert(path.clone(), listed) {
            self.waste(path, &before);
        }
    }

    fn remove(&mut self, path: &[u8], layer: usize) {
        if self.files.get(path).is_some_and(|found| found.layer < layer)
            && let Some(found) = self.files.remove(path)
        {
            self.waste(path.to_vec(), &found);
        }
        self.remove_below(path, layer);
    }

    /// What lower layers have below a directory goes.
    fn remove_below(&mut self, path: &[u8], layer: usize) {
        let from = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let below = self.files.range(from.clone()..).take_while(|(path, _)| path.starts_with(&from));
        let gone: Vec<Vec<u8>> = below.filter(|(_, found)| found.layer < layer).map(|(path, _)| path.clone()).collect();
        for path in gone {
            if let Some(found) = self.files.remove(&path) {
                self.waste(path, &found);
            }
        }
    }

    fn waste(&mut self, path: Vec<u8>, gone: &Listed) {
        self.layers[gone.layer].wasted_bytes += gone.size;
        if gone.size > 0 {
            self.hidden.push(Hidden { path, size: gone.size, layer: gone.layer });
        }
    }
}

fn digest_of(content: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Without `./`, slashes at either end and doubled ones.
fn trimmed(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{image, layer, store};

    #[test]
    fn what_later_layers_hide_is_wasted() {
        let (_top, store) = store();
        let mut image = image(&store, "linux/amd64", &[]);
        image.layers = vec![
            layer(&store, &[("d", EntryKind::Directory, ""), ("d/a", EntryKind::File, "12345"), ("./d/b", EntryKind::File, "123")]),
            layer(&store, &[("d/a", EntryKind::File, "1"), ("e", EntryKind::File, "1234567")]),
            layer(&store, &[("d/.wh..wh..opq", EntryKind::File, ""), ("d/c", EntryKind::File, "x"), (".wh.e", EntryKind::File, "")]),
        ];
        let listing = list(&store, &image, true).unwrap();
        let wasted: Vec<u64> = listing.layers.iter().map(|layer| layer.wasted_bytes).collect();
        assert_eq!(wasted, [8, 8, 0]);
        let hidden: u64 = listing.hidden.iter().map(|hidden| hidden.size).sum();
        assert_eq!((listing.hidden.len(), hidden), (4, 16));
        let names: Vec<_> = listing.files.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["d", "d/c"]);
        assert_eq!(listing.files[&b"d/c"[..]].content, Some(Digest::of(b"x")));
        assert_eq!((listing.layers[2].whiteouts, listing.layers[1].file_bytes), (2, 8));
    }

    #[test]
    fn a_layer_that_is_not_here_says_so() {
        let (_top, store) = store();
        let mut image = image(&store, "linux/amd64", &["a", "b"]);
        image.layers[0].descriptor.digest = Digest::of(b"missing");
        let listing = list(&store, &image, false).unwrap();
        assert_eq!(listing.layers.iter().map(|layer| layer.is_here).collect::<Vec<_>>(), [false, true]);
    }
}
