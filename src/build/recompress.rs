//! A base layer's blob in another compression (`force-compression`): the same tar, so the same diff_id; as eStargz the same
//! files in a tar of its own. Done once; the store remembers it.

use std::{io, sync::Arc};

use crate::{
    build::{BuildError, Kind, Layer, Progress, Services, error::chain, layer::blocking},
    oci::{Annotations, Descriptor},
    snapshot::{self, Ahead, Compression, TarReader},
};

impl Layer {
    /// The layer compressed anew.
    pub async fn recompressed(
        self: &Arc<Self>,
        compression: Compression,
        services: &Services,
        progress: &Arc<dyn Progress>,
    ) -> Result<crate::oci::Layer, BuildError> {
        let known = self.base_layer().map(|layer| format!("recompressed {} {compression:?} {}", layer.diff_id, snapshot::LAYER_FORMAT));
        if let Some(key) = &known
            && let Some(record) = services.store.step(key).map_err(BuildError::store)?
            && let Ok(layer) = serde_json::from_str::<crate::oci::Layer>(&record.payload)
            && services.store.has_described(&layer.descriptor).map_err(BuildError::store)?
        {
            return Ok(layer);
        }
        let layer = self.blob(Default::default(), services, progress).await?;
        let work = services.clone();
        let made = blocking(move || recompress(&layer, compression, &work)).await?;
        if let Some(key) = known {
            let payload = serde_json::to_string(&made).expect("plain data has a JSON form");
            services.store.record_step(&key, &payload, std::slice::from_ref(&made.descriptor.digest)).map_err(BuildError::store)?;
        }
        Ok(made)
    }
}

fn recompress(layer: &crate::oci::Layer, compression: Compression, services: &Services) -> Result<crate::oci::Layer, BuildError> {
    let digest = &layer.descriptor.digest;
    let fail = |error: &dyn std::error::Error| BuildError::new(Kind::Base, format!("cannot recompress layer {digest}: {}", chain(error)));
    let blob = services.store.open_described(&layer.descriptor).map_err(BuildError::store)?;
    let mut tar = Ahead::new(blob).map_err(|error| fail(&error))?;
    let sink = services.store.blob_writer().map_err(BuildError::store)?;
    let (blob, written, annotations) = if let Compression::Estargz(level) = compression {
        let mut entries = TarReader::new(&mut tar);
        snapshot::write_estargz(&mut entries, sink, level, &services.pool).map_err(|error| fail(&error))?
    } else {
        let mut writer = snapshot::LayerWriter::new(sink, compression, &services.pool).map_err(|error| fail(&error))?;
        io::copy(&mut tar, &mut writer).map_err(|error| fail(&error))?;
        let (blob, written) = writer.finish().map_err(|error| fail(&error))?;
        (blob, written, Annotations::new())
    };
    let found = tar.finish().map_err(|error| fail(&error))?;
    if found != layer.diff_id {
        let message = format!("layer {digest} unpacks to {found}, the image's config says {}", layer.diff_id);
        return Err(BuildError::new(Kind::Base, message).with_hint("the image is damaged or forged; pull it from another place"));
    }
    let (digest, size) = blob.complete().map_err(BuildError::store)?;
    let mut descriptor = Descriptor::new(compression.media_type(), digest, size);
    descriptor.annotations = annotations;
    Ok(crate::oci::Layer { descriptor, diff_id: written.diff_id })
}
