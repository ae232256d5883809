//! A layer written: tar -> digests, search for secrets and compressed blob, in one pass. The tar comes from a directory,
//! or from a sketch and the files that it names. Unaware of steps and records.

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    build::{
        BuildError, Kind,
        abort::UntilCancelled,
        error::chain,
        request::{LayerPolicy, Services},
        secrets::{self, Found, Searching, Secrets},
    },
    oci::{Annotations, Descriptor},
    snapshot::{
        self, Compression, Questions, TimestampPolicy,
        layered::{LayerIndex, LayeredRoot, Lower, Sketch},
    },
    sys::root::RootDir,
};

/// A layer that was packed without a directory.
pub struct Packed {
    pub blob: crate::oci::Layer,
    pub index: Arc<LayerIndex>,
    pub started: Instant,
    pub took: Duration,
}

/// What carrying out a step gives beside its directory.
#[derive(Default)]
pub struct Made {
    /// The layer's blob, if that is all that was made.
    pub packed: Option<Packed>,
    /// Those whose word was taken for what is in the layers below.
    pub relies_on: BTreeSet<String>,
}

fn fail(error: &dyn std::error::Error) -> BuildError {
    BuildError::new(Kind::Step, format!("cannot write the layer: {}", chain(error)))
}

/// Packs a directory. A secret in it is an error, and the blob gets no name.
pub fn pack_directory(upper: &Path, lowers: Vec<Lower>, policy: LayerPolicy, services: &Services) -> Result<crate::oci::Layer, BuildError> {
    let root = RootDir::open(upper).map_err(|error| fail(&error))?;
    let below = LayeredRoot::read_only(lowers).map_err(|error| fail(&error))?;
    let changes = snapshot::diff_overlay(&root, &below).map_err(|error| fail(&error).caused_by(&error))?;
    let packed = pack(policy, services, |out, timestamps| {
        snapshot::write_layer(&changes, &root, out, timestamps).map(drop).map_err(|error| fail(&error))
    })?;
    packed.map_err(|found| {
        let path = secrets::name_file(&changes, &root, &services.secrets).unwrap_or_default();
        Secrets::refusal(&found, &format!("/{path}"))
    })
}

/// Packs what a sketch says. What may go well by way of a directory (a file has become shorter), or is better told of one
/// (a secret), is an error that says so.
pub fn pack_sketch(
    sketch: &Arc<Sketch>,
    lowers: Vec<Lower>,
    policy: LayerPolicy,
    questions: Questions<'_>,
    services: &Services,
) -> Result<crate::oci::Layer, BuildError> {
    let below = LayeredRoot::read_only(lowers).map_err(|error| fail(&error))?;
    let changes = snapshot::diff_sketch(sketch, &below).map_err(|error| fail(&error).caused_by(&error))?;
    let packed = pack(policy, services, |out, timestamps| {
        snapshot::write_sketch(&changes, sketch, questions, out, timestamps).map(drop).map_err(|error| {
            let is_of_a_file = matches!(error, snapshot::Error::Changed { .. } | snapshot::Error::Io { .. });
            BuildError { needs_directory: is_of_a_file, ..fail(&error) }
        })
    })?;
    packed.map_err(|found| BuildError { needs_directory: true, ..Secrets::refusal(&found, "the layer") })
}

/// The blob, or the secret that is in it: then it has no name, and gets none.
fn pack(
    policy: LayerPolicy,
    services: &Services,
    produce: impl FnOnce(&mut dyn Write, TimestampPolicy) -> Result<(), BuildError> + Send,
) -> Result<Result<crate::oci::Layer, Found>, BuildError> {
    let timestamps = match policy.clamp_to {
        None => TimestampPolicy::Keep,
        Some(epoch) if policy.all_times => TimestampPolicy::Set(epoch),
        Some(epoch) => TimestampPolicy::Clamp(epoch),
    };
    let blob = services.store.blob_writer().map_err(BuildError::store)?.hashed_by_caller();
    let (blob, written, annotations) = match policy.compression {
        Compression::Estargz(level) => {
            let produce = |out: &mut dyn Write| {
                let mut out = Searching::new(out, &services.secrets);
                produce(&mut UntilCancelled::new(&mut out, &services.cancel), timestamps).map(|()| out.finish().1)
            };
            let made =
                snapshot::write_estargz_of(|mut out| produce(&mut out), blob, level, &services.pool).map_err(|error| fail(&error))?;
            if let Some(found) = made.0? {
                return Ok(Err(found));
            }
            made.1.map_err(|error| fail(&error))?
        }
        compression => {
            let writer = snapshot::LayerWriter::new(blob, compression, &services.pool).map_err(|error| fail(&error))?;
            let mut writer = Searching::new(writer, &services.secrets);
            produce(&mut UntilCancelled::new(&mut writer, &services.cancel), timestamps)?;
            let (writer, found) = writer.finish();
            if let Some(found) = found {
                return Ok(Err(found));
            }
            let (blob, written) = writer.finish().map_err(|error| fail(&error))?;
            (blob, written, Annotations::new())
        }
    };
    blob.complete_hashed(&written.digest, written.size_bytes).map_err(BuildError::store)?;
    let mut descriptor = Descriptor::new(policy.compression.media_type(), written.digest, written.size_bytes);
    descriptor.annotations = annotations;
    Ok(Ok(crate::oci::Layer { descriptor, diff_id: written.diff_id }))
}
