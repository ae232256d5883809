//! Where a layer can be had that is not here: an image may have layers of its base that nothing has needed yet. The image
//! layout of OCI allows that ("MAY be missing referenced blobs"). Unaware of registries: to this room their names are text
//! that was noted beside the blob's place.
//!
//! `origins/<hex>` is written before an image that lacks the blob gets a name, held by leases like a blob, and goes only
//! when no name leads to the blob. That the blob has come meanwhile changes nothing: where it came from stays known.

use std::{collections::BTreeSet, fs, io};

use serde::{Deserialize, Serialize};

use super::{
    Store,
    error::{IoContext, Result, StoreError},
    lease::LeaseKind,
    touch,
};
use crate::oci::{Descriptor, Digest, Reference};

/// Older ones are forgotten: a layer of many tags of one repository needs one of them.
const MOST: usize = 8;

/// What `origins/<hex>` says.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    size: u64,
    /// Images that have the layer, the last noted first.
    from: Vec<String>,
}

impl Origin {
    fn references(&self) -> Vec<Reference> {
        self.from.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

/// A layer that an image has and the store has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsentLayer {
    /// The layer.
    pub descriptor: Descriptor,
    /// Images of registries that have it; none if it is lost.
    pub from: Vec<Reference>,
}

impl Store {
    /// Notes that the image `from` of a registry has a blob that is not here. It stays noted while this handle lives, and
    /// while a name leads to the blob.
    pub fn note_origin(&self, blob: &Descriptor, from: &Reference) -> Result<()> {
        let path = self.origin_path(&blob.digest);
        self.0.leases.hold(LeaseKind::File, &lease_key(blob.digest.hex()))?;
        let _one_at_a_time = self.lease(LeaseKind::File, "origins")?;
        let known = self.origin(&blob.digest)?.filter(|known| known.size == blob.size).map(|known| known.references()).unwrap_or_default();
        if known.first() == Some(from) {
            return touch(&path).at("touch", path);
        }
        // A repository has a blob whatever the tag.
        let place = |reference: &Reference| (reference.registry().to_owned(), reference.repository().to_owned());
        let others = known.into_iter().filter(|other| place(other) != place(from));
        let all = std::iter::once(from.clone()).chain(others).take(MOST);
        let origin = Origin { size: blob.size, from: all.map(|reference| reference.to_string()).collect() };
        self.replace(&path, &serde_json::to_vec(&origin).expect("plain data has a JSON form"))
    }

    /// Images of registries that have a blob, as far as that was noted, the last noted first.
    pub fn origins(&self, blob: &Descriptor) -> Result<Vec<Reference>> {
        let hex = blob.digest.hex();
        self.0.leases.hold(LeaseKind::File, &lease_key(hex))?;
        match self.origin(&blob.digest)?.filter(|origin| origin.size == blob.size) {
            Some(origin) => Ok(origin.references()),
            None => {
                self.0.leases.release(LeaseKind::File, &lease_key(hex));
                Ok(Vec::new())
            }
        }
    }

    /// The layers that a manifest or index of the store has and the store has not, each once, lowest first.
    pub fn absent_layers(&self, top: &Descriptor) -> Result<Vec<AbsentLayer>> {
        let mut list = Vec::new();
        let mut seen = BTreeSet::new();
        for layer in self.layers_below(top, 0)? {
            // Foreign layers are had from their own urls by whoever needs them.
            if seen.insert(layer.digest.clone()) && !layer.extra.contains_key("urls") && !self.has_described(&layer)? {
                list.push(AbsentLayer { from: self.origins(&layer)?, descriptor: layer });
            }
        }
        Ok(list)
    }

    fn layers_below(&self, descriptor: &Descriptor, depth: u32) -> Result<Vec<Descriptor>> {
        use crate::oci::media_type;
        if !media_type::is_index(&descriptor.media_type) {
            return Ok(self.manifest(&descriptor.digest)?.layers);
        }
        if depth > 4 {
            return Err(StoreError::NestedTooDeeply { digest: descriptor.digest.clone() });
        }
        let children = self.index_blob(&descriptor.digest)?.manifests;
        let lists = children.iter().map(|child| self.layers_below(child, depth + 1)).collect::<Result<Vec<_>>>()?;
        Ok(lists.concat())
    }

    /// Bytes that images of the store have and the store has not: those of the noted blobs among `digests`.
    pub(super) fn absent_bytes(&self, digests: &BTreeSet<Digest>) -> Result<u64> {
        let mut bytes = 0;
        for (name, _) in super::usage::list(&self.path("origins"))? {
            if let Some(digest) = super::usage::digest_of(name.as_ref())
                && digests.contains(&digest)
                && !self.blob_path(&digest).exists()
            {
                bytes += self.origin(&digest)?.map_or(0, |origin| origin.size);
            }
        }
        Ok(bytes)
    }

    /// What was noted of a blob; one that can't be read was not.
    fn origin(&self, digest: &Digest) -> Result<Option<Origin>> {
        let path = self.origin_path(digest);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", path),
        }
    }

    /// Whether something is noted that says nothing.
    pub(super) fn is_origin_unreadable(&self, digest: &Digest) -> bool {
        self.origin_path(digest).exists() && !matches!(self.origin(digest), Ok(Some(_)))
    }

    fn origin_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.path("origins").join(digest.hex())
    }
}

/// What the lease on an origin is called.
pub(super) fn lease_key(hex: &str) -> String {
    format!("origin {hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oci::{Annotations, Manifest, media_type},
        store::{Problem, PruneOptions},
    };

    fn store() -> (tempfile::TempDir, Store) {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        (top, store)
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    /// An image of one layer that is not here.
    fn lazy_image(store: &Store, layer: &[u8]) -> (Descriptor, Descriptor) {
        let config = Descriptor::new(media_type::OCI_CONFIG, store.put_blob(b"{}").unwrap(), 2);
        let layer = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(layer), layer.len() as u64);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers: vec![layer.clone()],
            subject: None,
            annotations: Annotations::new(),
        };
        let bytes = manifest.to_bytes();
        (Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(&bytes).unwrap(), bytes.len() as u64), layer)
    }

    #[test]
    fn the_last_noted_place_of_a_repository_comes_first() {
        let (_top, store) = store();
        let blob = Descriptor::new("x", Digest::of(b"layer"), 5);
        assert_eq!(store.origins(&blob).unwrap(), []);
        for name in ["h.example/a:1", "h.example/b:1", "h.example/a:2"] {
            store.note_origin(&blob, &reference(name)).unwrap();
        }
        assert_eq!(store.origins(&blob).unwrap(), [reference("h.example/a:2"), reference("h.example/b:1")]);
        // What was said of a blob of another size is of another blob.
        assert_eq!(store.origins(&Descriptor::new("x", blob.digest.clone(), 6)).unwrap(), []);
        (0..20).for_each(|number| store.note_origin(&blob, &reference(&format!("h.example/c{number}"))).unwrap());
        assert_eq!(store.origins(&blob).unwrap().len(), MOST);
    }

    #[test]
    fn an_absent_layer_is_no_damage_while_its_origin_is_known() {
        let (_top, store) = store();
        let (top, layer) = lazy_image(&store, b"layer");
        store.note_origin(&layer, &reference("h.example/base")).unwrap();
        store.tag(&reference("app"), &top).unwrap();
        assert_eq!(store.fsck().unwrap(), []);
        let absent = AbsentLayer { descriptor: layer.clone(), from: vec![reference("h.example/base")] };
        assert_eq!(store.absent_layers(&top).unwrap(), [absent]);
        assert_eq!(store.du().unwrap().absent_bytes, layer.size);
        fs::remove_file(store.origin_path(&layer.digest)).unwrap();
        assert!(matches!(store.fsck().unwrap()[..], [Problem::MissingBlob { .. }, ..]));
        assert_eq!(store.absent_layers(&top).unwrap()[0].from, []);
        fs::write(store.path("origins/odd"), "").unwrap();
        fs::write(store.origin_path(&layer.digest), "{").unwrap();
        let strange = |problem: &Problem| matches!(problem, Problem::StrangeFile { .. } | Problem::Unreadable { .. });
        assert_eq!(store.fsck().unwrap().iter().filter(|problem| strange(problem)).count(), 2);
    }

    #[test]
    fn an_origin_stays_while_a_name_leads_to_its_layer_or_somebody_holds_it() {
        let (top, first) = store();
        let (image, named) = lazy_image(&first, b"named");
        let loose = Descriptor::new("x", Digest::of(b"loose"), 5);
        let held = Descriptor::new("x", Digest::of(b"held"), 4);
        for layer in [&named, &loose] {
            first.note_origin(layer, &reference("h.example/base")).unwrap();
        }
        first.tag(&reference("app"), &image).unwrap();
        drop(first);
        let root = top.path().join("store");
        let user = Store::open(&root).unwrap();
        user.note_origin(&held, &reference("h.example/base")).unwrap();
        let store = Store::open(&root).unwrap();
        store.prune(&PruneOptions::default()).unwrap();
        assert_eq!(store.origins(&loose).unwrap(), []);
        for layer in [&named, &held] {
            assert_eq!(store.origins(layer).unwrap().len(), 1);
        }
        drop((user, store));
        let store = Store::open(&root).unwrap();
        assert!(store.untag(&reference("app")).unwrap());
        store.gc(0).unwrap();
        assert_eq!(fs::read_dir(store.path("origins")).unwrap().count(), 0);
    }
}
