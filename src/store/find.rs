//! Images by the digest of their manifest, index or config, or its beginning. Unaware of names.

use std::{fs, io::Read};

use super::{
    Store,
    error::{IoContext, Result},
};
use crate::oci::{Descriptor, Digest, Index, Manifest, media_type};

/// Larger files are no documents.
const MAX_DOCUMENT: u64 = 4 << 20;

impl Store {
    /// The images whose own digest or whose config's begins with `prefix` (hex digits). Those without a name are found too.
    pub fn find_images(&self, prefix: &str) -> Result<Vec<Descriptor>> {
        let folder = self.path("blobs/sha256");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            let metadata = entry.metadata().at("look at", entry.path())?;
            if !metadata.is_file() || metadata.len() > MAX_DOCUMENT {
                continue;
            }
            let Some(hex) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else { continue };
            let Some(text) = document(&entry.path()) else { continue };
            let media_type = if let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) {
                let is_wanted = hex.starts_with(prefix) || manifest.config.digest.hex().starts_with(prefix);
                is_wanted.then(|| or(&manifest.media_type, media_type::OCI_MANIFEST))
            } else if hex.starts_with(prefix) {
                let index = serde_json::from_slice::<Index>(&text).ok().filter(|index| !index.manifests.is_empty());
                index.map(|index| or(&index.media_type, media_type::OCI_INDEX))
            } else {
                None
            };
            if let Some(media_type) = media_type {
                found.push(Descriptor::new(&media_type, digest, metadata.len()));
            }
        }
        found.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(found)
    }
}

fn or(found: &str, default: &str) -> String {
    if found.is_empty() { default.to_owned() } else { found.to_owned() }
}

/// A file's text if it looks like JSON; most blobs show in their first byte that they don't.
fn document(path: &std::path::Path) -> Option<Vec<u8>> {
    let mut file = fs::File::open(path).ok()?;
    let mut text = vec![0; 1];
    file.read_exact(&mut text).ok()?;
    if text[0] != b'{' {
        return None;
    }
    file.read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Annotations;

    #[test]
    fn images_are_found_by_the_digest_of_manifest_config_and_index() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        let config = store.put_blob(b"{}").unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, config.clone(), 2),
            layers: Vec::new(),
            subject: None,
            annotations: Annotations::new(),
        };
        let bytes = manifest.to_bytes();
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes).unwrap(), bytes.len() as u64);
        let manifests = vec![manifest.clone()];
        let index = Index { schema_version: 2, media_type: String::new(), manifests, annotations: Annotations::new() };
        let index = store.put_blob(&index.to_bytes()).unwrap();
        let found = |prefix: &str| store.find_images(prefix).unwrap().into_iter().map(|found| found.digest).collect::<Vec<_>>();
        assert_eq!(found(&config.hex()[..12]), std::slice::from_ref(&manifest.digest));
        assert_eq!(found(&manifest.digest.hex()[..12]), std::slice::from_ref(&manifest.digest));
        assert_eq!(found(index.hex()), std::slice::from_ref(&index));
        assert_eq!(store.find_images(index.hex()).unwrap()[0].media_type, media_type::OCI_INDEX);
        assert_eq!(found("0123456789abcdef0123"), []);
    }
}
