//! Searches layers that are written already, and names the file of a find. Unaware of how layers come about.

use std::io::Read;

use super::{Found, Searching, Secrets};
use crate::{
    oci::{Descriptor, tar::TarReader},
    snapshot::{self, Change, TimestampPolicy},
    store::Store,
    sys::root::RootDir,
};

/// The first find in a layer's blob, with the file.
pub fn search_blob(store: &Store, layer: &Descriptor, secrets: &Secrets) -> Result<Option<(Found, String)>, Box<dyn std::error::Error>> {
    let mut tar = TarReader::new(snapshot::decompress(store.open_described(layer)?)?);
    let mut buffer = vec![0; 256 << 10];
    while let Some(entry) = tar.next_entry()? {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let attributes = entry.xattrs.iter().map(|(_, value)| value);
        if let Some(found) = std::iter::once(&entry.path).chain(attributes).find_map(|text| secrets.find(text)) {
            return Ok(Some((found, name)));
        }
        let mut search = secrets.search();
        loop {
            match tar.read(&mut buffer)? {
                0 => break,
                count => search.feed(&buffer[..count]),
            }
            if let Some(found) = search.found() {
                return Ok(Some((found.clone(), name)));
            }
        }
    }
    Ok(None)
}

/// Which of the changes it is that a secret was found in while they were packed.
pub fn name_file(changes: &[Change], root: &RootDir, secrets: &Secrets) -> Option<String> {
    let holds = |change: &&Change| {
        let mut sink = Searching::new(std::io::sink(), secrets);
        let written = snapshot::write_layer(std::slice::from_ref(change), root, &mut sink, TimestampPolicy::Keep);
        written.is_ok() && sink.finish().1.is_some()
    };
    changes.iter().find(holds).map(|change| change.path.display().to_string())
}
