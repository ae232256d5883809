//! A layer's blob made a directory. Unaware of which layers are wanted as directories.

use crate::{
    build::{BuildError, Kind, abort::UntilCancelled, blob::BlobReader, error::chain, request::Services},
    oci::DiffId,
    snapshot::{self, Ahead, ApplyOptions},
    store::SnapshotDraft,
    sys::root::RootDir,
};

/// Unpacks into a draft that is not committed yet.
pub fn unpack_blob(
    blob: BlobReader,
    layer: &crate::oci::Layer,
    is_own: bool,
    below: snapshot::Below<'_>,
    services: &Services,
) -> Result<SnapshotDraft, BuildError> {
    let fail = |error: &dyn std::error::Error| unreadable(layer, &chain(error));
    let draft = services.store.new_snapshot().map_err(BuildError::store)?;
    let mut tar = Ahead::new(UntilCancelled::new(blob, &services.cancel)).map_err(|error| fail(&error))?;
    let dest = RootDir::open(&draft.fs()).map_err(|error| fail(&error))?;
    let options = ApplyOptions { ownership: services.ownership, ..ApplyOptions::default() };
    snapshot::apply_layer(&mut tar, &dest, below, &options).map_err(|error| fail(&error))?;
    check_diff_id(layer, tar.finish().map_err(|error| fail(&error))?)?;
    if is_own && layer.descriptor.annotations.contains_key(snapshot::TOC_DIGEST) {
        // What the format added to the tar, the step did not make.
        for name in [snapshot::TOC_NAME, snapshot::NO_PREFETCH_LANDMARK] {
            std::fs::remove_file(draft.fs().join(name)).map_err(|error| fail(&error))?;
        }
    }
    draft.set_layer(layer).map_err(BuildError::store)?;
    Ok(draft)
}

/// A layer's blob that can't be read to its end.
pub fn unreadable(layer: &crate::oci::Layer, why: &str) -> BuildError {
    BuildError::new(Kind::Base, format!("cannot unpack layer {}: {why}", layer.descriptor.digest))
}

/// What was read must be what the image says.
pub fn check_diff_id(layer: &crate::oci::Layer, found: DiffId) -> Result<(), BuildError> {
    if found == layer.diff_id {
        return Ok(());
    }
    let message = format!("layer {} unpacks to {found}, the image's config says {}", layer.descriptor.digest, layer.diff_id);
    Err(BuildError::new(Kind::Base, message).with_hint("the image is damaged or forged; pull it from another place"))
}
