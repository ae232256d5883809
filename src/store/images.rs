//! Names of images: the entries of `index.json`.
//!
//! Each name is `io.containerd.image.name` in full and `org.opencontainers.image.ref.name` as people write it, so
//! `skopeo inspect oci:STORE:app` finds `-t app`; a `:latest` that may be left out has an entry with it and one without.
//! Entries and fields that other tools wrote stay as they are. Unaware of what an image holds.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use super::{
    EMPTY_INDEX, Store,
    error::{IoContext, Result, StoreError},
    lease::LeaseKind,
};
use crate::oci::{Descriptor, Index, Reference};

/// The annotation with the whole name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// The annotation that OCI tools look names up by.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// The name in full.
    pub name: Reference,
    /// The manifest or index, with its annotations.
    pub descriptor: Descriptor,
}

impl Store {
    /// Gives an image a name, taken from whichever image had it.
    pub fn tag(&self, name: &Reference, descriptor: &Descriptor) -> Result<()> {
        self.tag_all(std::slice::from_ref(name), descriptor)
    }

    /// Gives an image several names at once. Its manifest must be here, and its other blobs have been written or found
    /// through this handle, which keeps them until the name does.
    pub fn tag_all(&self, names: &[Reference], descriptor: &Descriptor) -> Result<()> {
        if !self.has_described(descriptor)? {
            return Err(StoreError::MissingBlob { digest: descriptor.digest.clone() });
        }
        self.edit_index(|entries| {
            let mut changed = false;
            for name in names {
                changed |= set_name(entries, name, descriptor);
            }
            changed
        })?;
        Ok(())
    }

    /// Takes a name away; false if no image had it.
    pub fn untag(&self, name: &Reference) -> Result<bool> {
        self.edit_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| name_of(entry).as_ref() != Some(name));
            entries.len() < before
        })
    }

    /// What a name stands for, without the annotations that say the name.
    pub fn resolve(&self, name: &Reference) -> Result<Option<Descriptor>> {
        let entries = self.index()?.manifests;
        let found = entries.into_iter().find(|entry| name_of(entry).as_ref() == Some(name));
        // A digest after a tag must agree with what the tag stands for here.
        let agrees = |entry: &Descriptor| name.digest().is_none_or(|digest| *digest == entry.digest);
        Ok(found.filter(agrees).map(without_name))
    }

    /// All names, sorted.
    pub fn images(&self) -> Result<Vec<NamedImage>> {
        let mut images = BTreeMap::new();
        for entry in self.index()?.manifests {
            if let Some(name) = name_of(&entry) {
                images.entry(name).or_insert_with(|| without_name(entry));
            }
        }
        Ok(images.into_iter().map(|(name, descriptor)| NamedImage { name, descriptor }).collect())
    }

    /// `index.json` as it is now, with entries of other tools.
    pub(super) fn index(&self) -> Result<Index> {
        let path = self.path("index.json");
        let bytes = fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::MalformedFile { path, source })
    }

    /// Edits the entries, one process at a time; the file is only written when `edit` says it changed something.
    pub(super) fn edit_index(&self, edit: impl FnOnce(&mut Vec<Descriptor>) -> bool) -> Result<bool> {
        let _lease = self.lease(LeaseKind::File, "index.json")?;
        let path = self.path("index.json");
        let malformed = |source| StoreError::MalformedFile { path: path.clone(), source };
        let bytes = fs::read(&path).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(EMPTY_INDEX.as_bytes().to_vec()),
            _ => Err(error).at("read", &path),
        })?;
        let mut whole: serde_json::Map<String, Value> = serde_json::from_slice(&bytes).map_err(malformed)?;
        let manifests = whole.get("manifests").filter(|value| !value.is_null()).cloned().unwrap_or_else(|| Value::Array(Vec::new()));
        let mut entries: Vec<Descriptor> = serde_json::from_value(manifests).map_err(malformed)?;
        if !edit(&mut entries) {
            return Ok(false);
        }
        whole.insert("manifests".to_owned(), serde_json::to_value(entries).map_err(malformed)?);
        let text = serde_json::to_vec_pretty(&whole).map_err(malformed)?;
        self.replace(&path, &text)?;
        Ok(true)
    }
}

/// Makes a name stand for an image; false if it does already.
fn set_name(entries: &mut Vec<Descriptor>, name: &Reference, descriptor: &Descriptor) -> bool {
    let shorts = short_names(name);
    let named = |short: &String| {
        let mut entry = descriptor.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        entry.annotations.insert(REF_NAME.to_owned(), short.clone());
        entry
    };
    let wanted: Vec<Descriptor> = shorts.iter().map(named).collect();
    let has_name = |entry: &Descriptor| {
        name_of(entry).as_ref() == Some(name) || entry.annotations.get(REF_NAME).is_some_and(|short| shorts.contains(short))
    };
    if entries.iter().filter(|entry| has_name(entry)).eq(&wanted) {
        return false;
    }
    entries.retain(|entry| !has_name(entry));
    entries.extend(wanted);
    true
}

/// The full name of an entry. One that only has a short name was made by another tool; so was one whose two names are
/// not of the same image: `umoci tag` copies an entry and changes the short one.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let short = entry.annotations.get(REF_NAME);
    let full: Option<Reference> = entry.annotations.get(IMAGE_NAME).and_then(|text| text.parse().ok());
    let agrees = |full: &Reference| short.is_none_or(|short| full.tag() == Some(short) || short_names(full).contains(short));
    full.filter(agrees).or_else(|| short?.parse().ok())
}

fn without_name(mut entry: Descriptor) -> Descriptor {
    entry.annotations.remove(IMAGE_NAME);
    entry.annotations.remove(REF_NAME);
    entry
}

fn short_names(name: &Reference) -> Vec<String> {
    let familiar = name.familiar();
    match name.tag() {
        Some("latest") if name.digest().is_none() => vec![format!("{familiar}:latest"), familiar],
        _ => vec![familiar],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    fn store() -> (tempfile::TempDir, Store) {
        let top = tempfile::tempdir().unwrap();
        let store = Store::open(&top.path().join("store")).unwrap();
        (top, store)
    }

    fn put(store: &Store, text: &str) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, store.put_blob(text.as_bytes()).unwrap(), text.len() as u64)
    }

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_moves_to_the_newest_image() {
        let (_top, store) = store();
        let missing = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b"?"), 1);
        assert!(matches!(store.tag(&name("app"), &missing), Err(StoreError::MissingBlob { .. })));
        store.tag(&name("app"), &put(&store, "one")).unwrap();
        store.tag(&name("ghcr.io/me/app:1"), &put(&store, "one")).unwrap();
        store.tag(&name("app:latest"), &put(&store, "two")).unwrap();
        assert_eq!(store.resolve(&name("docker.io/library/app")).unwrap(), Some(put(&store, "two")));
        assert_eq!(store.resolve(&name("ghcr.io/me/app:1")).unwrap(), Some(put(&store, "one")));
        assert_eq!(store.resolve(&name("app:2")).unwrap(), None);
        let images: Vec<_> = store.images().unwrap().into_iter().map(|image| image.name.to_string()).collect();
        assert_eq!(images, ["docker.io/library/app:latest", "ghcr.io/me/app:1"]);
        assert!(store.untag(&name("app")).unwrap());
        assert!(!store.untag(&name("app")).unwrap());
        assert_eq!(store.resolve(&name("app")).unwrap(), None);
    }

    #[test]
    fn short_names_are_those_people_write() {
        let (_top, store) = store();
        store.tag_all(&[name("app"), name("me/app:1"), name("localhost:5000/x")], &put(&store, "one")).unwrap();
        let short: Vec<_> = store.index().unwrap().manifests.iter().map(|entry| entry.annotations[REF_NAME].clone()).collect();
        assert_eq!(short, ["app:latest", "app", "me/app:1", "localhost:5000/x:latest", "localhost:5000/x"]);
    }

    #[test]
    fn a_copied_entry_goes_by_its_new_short_name() {
        let (_top, store) = store();
        let one = put(&store, "one");
        store.tag(&name("app"), &one).unwrap();
        store
            .edit_index(|entries| {
                let mut copy = entries[0].clone();
                copy.annotations.insert(REF_NAME.to_owned(), "theirs".to_owned());
                entries.push(copy);
                true
            })
            .unwrap();
        store.tag(&name("app"), &put(&store, "two")).unwrap();
        assert_eq!(store.resolve(&name("theirs")).unwrap(), Some(one));
    }

    #[test]
    fn what_other_tools_wrote_stays() {
        let (_top, store) = store();
        let foreign = format!(
            r#"{{"schemaVersion":2,"x":[1],"manifests":[{{"mediaType":"{}","digest":"{}","size":3,"urls":["u"],"annotations":{{"{REF_NAME}":"theirs"}}}}]}}"#,
            media_type::OCI_MANIFEST,
            Digest::of(b"abc"),
        );
        fs::write(store.path("index.json"), foreign).unwrap();
        store.tag(&name("ours"), &put(&store, "one")).unwrap();
        let text = fs::read_to_string(store.path("index.json")).unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(whole["x"][0], 1);
        assert_eq!(whole["manifests"][0]["urls"][0], "u");
        assert!(store.resolve(&name("theirs")).unwrap().is_some());
    }
}
