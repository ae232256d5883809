//! An image of the store to a registry. What the registry has is neither sent nor needed here: a blob that the store
//! lacks is only asked for ([`Obtain`]) once the registry has said that it lacks it too. Blobs go in parallel, manifests
//! after their blobs, the index last, so that no name ever points at half an image. Unaware of how blobs are obtained.

use std::{
    collections::BTreeSet,
    io::{self, Seek, SeekFrom},
    sync::Arc,
};

use futures_util::future::{BoxFuture, try_join_all};

use super::error::{ExportError, Result};
use crate::{
    oci::{Descriptor, Digest, Reference, media_type},
    registry::{Client, Pushed},
    store::{Store, StoreError},
};

/// Deeper nesting is a malicious or broken image.
const MAX_NESTING: u32 = 4;

/// Manifests larger than this are refused by registries.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// Brings a blob into the store.
pub type Obtain = dyn Fn(Descriptor) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// What happens during a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// So many bytes of the blob are there.
    Sent(u64),
    /// The blob is there, and how it came.
    Done(Pushed),
}

/// Told of each blob on its way.
pub type Listener = Arc<dyn Fn(&Descriptor, PushEvent) + Send + Sync>;

/// Pushes images.
pub struct Pusher<'a> {
    /// The way to registries.
    pub client: &'a Client,
    /// Where manifests, configs and our own layers are.
    pub store: &'a Store,
    /// Gets blobs that are needed and not in the store.
    pub obtain: &'a Obtain,
    /// Told about each blob.
    pub listener: Listener,
}

/// What an image consists of, as a registry takes it.
#[derive(Debug, Default)]
struct Parts {
    /// Layers and configs, each once.
    blobs: Vec<Descriptor>,
    /// Manifests and indexes, each after what it names; the image itself is the last.
    manifests: Vec<Descriptor>,
}

impl Pusher<'_> {
    /// Pushes the image `top` to the repository of `names`, which are of one repository, and gives it each of their tags;
    /// names without a tag are pushed by digest alone. `mount_from` are repositories that may have some of the blobs.
    pub async fn push(&self, top: &Descriptor, names: &[Reference], mount_from: &[Reference]) -> Result<()> {
        let Some(name) = names.first() else { return Ok(()) };
        let mut parts = Parts::default();
        collect(self.store, top, 0, &mut parts)?;
        try_join_all(parts.blobs.iter().map(|blob| self.push_blob(name, blob, mount_from))).await?;
        let last = parts.manifests.pop().expect("the image itself is in the list");
        for manifest in &parts.manifests {
            self.push_manifest(&name.with_digest(manifest.digest.clone()), manifest).await?;
        }
        for name in names {
            let wanted = if name.tag().is_some() { name.clone() } else { name.with_digest(last.digest.clone()) };
            self.push_manifest(&wanted, &last).await?;
        }
        Ok(())
    }

    /// Sends a manifest whose blobs are there.
    async fn push_manifest(&self, name: &Reference, manifest: &Descriptor) -> Result<()> {
        let bytes = self.store.read_blob(&manifest.digest, MANIFEST_LIMIT)?;
        self.client.push_manifest(name, &manifest.media_type, &bytes).await?;
        Ok(())
    }

    async fn push_blob(&self, name: &Reference, blob: &Descriptor, mount_from: &[Reference]) -> Result<()> {
        if !self.store.has_described(blob)? {
            if let Some(how) = self.client.claim_blob(name, blob, mount_from).await? {
                (self.listener)(blob, PushEvent::Done(how));
                return Ok(());
            }
            (self.obtain)(blob.clone()).await.map_err(ExportError::Obtain)?;
        }
        let open = |offset| open_at(self.store, blob, offset);
        let (listener, descriptor) = (self.listener.clone(), blob.clone());
        let progress = move |bytes| listener(&descriptor, PushEvent::Sent(bytes));
        let how = self.client.push_blob(name, blob, open, mount_from, progress).await?;
        (self.listener)(blob, PushEvent::Done(how));
        Ok(())
    }
}

fn open_at(store: &Store, blob: &Descriptor, offset: u64) -> io::Result<tokio::fs::File> {
    let mut file = store.open_described(blob).map_err(io::Error::other)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(tokio::fs::File::from_std(file))
}

fn collect(store: &Store, descriptor: &Descriptor, depth: u32, parts: &mut Parts) -> Result<()> {
    if depth > MAX_NESTING {
        return Err(StoreError::NestedTooDeeply { digest: descriptor.digest.clone() }.into());
    }
    if parts.manifests.iter().any(|known| known.digest == descriptor.digest) {
        return Ok(());
    }
    if media_type::is_index(&descriptor.media_type) {
        for child in store.index_blob(&descriptor.digest)?.manifests {
            collect(store, &child, depth + 1, parts)?;
        }
    } else {
        let manifest = store.manifest(&descriptor.digest)?;
        let known: BTreeSet<Digest> = parts.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let mut seen = known;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            // Foreign layers are fetched from their own urls by whoever needs them.
            let is_elsewhere = blob.extra.contains_key("urls") && !store.has_blob(&blob.digest)?;
            if !is_elsewhere && seen.insert(blob.digest.clone()) {
                parts.blobs.push(blob.clone());
            }
        }
    }
    parts.manifests.push(descriptor.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{
        manifest::{ImageOptions, write_image},
        testing::{image, store},
    };

    #[test]
    fn parts_come_once_and_the_image_last() {
        let (_top, store) = store();
        let images = [image(&store, "linux/amd64", &["a", "b", "a"]), image(&store, "linux/arm64", &["a"])];
        let top = write_image(&store, &images, &ImageOptions::default()).unwrap();
        let mut parts = Parts::default();
        collect(&store, &top, 0, &mut parts).unwrap();
        // Layers a and b, two configs.
        assert_eq!(parts.blobs.len(), 4);
        assert_eq!(parts.manifests.len(), 3);
        assert_eq!(parts.manifests[2].digest, top.digest);
    }
}
