//! What happens to a step or an image in which a secret is found. Unaware of how secrets are searched for.

use std::sync::Arc;

use crate::{
    build::{
        BuildError, Kind, Layer,
        engine::Engine,
        secrets::{self, Secrets},
    },
    plan::VertexId,
};

impl Engine {
    /// The blob of a step's layer. One that holds a secret ends the build, and its step is forgotten.
    pub(super) async fn blob(&self, id: VertexId, layer: &Arc<Layer>) -> Result<crate::oci::Layer, BuildError> {
        let made = layer.blob(self.request.layers, &self.services, &self.progress).await;
        made.map_err(|error| {
            if error.kind != Kind::Secret {
                return error;
            }
            if let Some((_, keys)) = self.noted_record(id) {
                // A step that can't be forgotten is searched again by whoever uses it: nothing says that it was.
                keys.iter().for_each(|key| drop(self.services.store.forget_step(key)));
            }
            let error = error.in_vertex(&self.plan.vertices[id.0]);
            self.abort.fail(&error);
            error
        })
    }

    /// The vertex that a layer of the result belongs to.
    pub(super) fn vertex_of(&self, layer: &Arc<Layer>) -> Option<VertexId> {
        let is_its = |id: &VertexId| match self.realised_vertex(*id) {
            Some(Ok(realised)) => realised.stack.last().is_some_and(|last| Arc::ptr_eq(last, layer)),
            _ => false,
        };
        (0..self.plan.vertices.len()).map(VertexId).filter(|id| self.is_in_result(*id)).find(is_its)
    }

    /// Config and history hold no secret.
    pub(super) fn refuse_secrets(&self, config: &crate::oci::ImageConfig) -> Result<(), BuildError> {
        let Some(place) = secrets::search_image(config, &self.services.secrets) else { return Ok(()) };
        let error = Secrets::refusal(&place.found, &place.what);
        // Our entries are the last ones of the history.
        let inherited = config.history.len() - self.plan.target.history.len().min(config.history.len());
        let entry = place.history.and_then(|index| self.plan.target.history.get(index.checked_sub(inherited)?));
        Err(match entry.and_then(|entry| entry.layer) {
            Some(id) => error.in_vertex(&self.plan.vertices[id.0]),
            None => match self.services.secrets.place_in(&self.request.dockerfile) {
                Some(range) => error.at(crate::dockerfile::Span { start: range.start, end: range.end }),
                None => error,
            },
        })
    }
}
