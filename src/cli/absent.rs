//! Layers that images of the store have and the store has not, as nothing has needed them yet: what is said of them, and
//! fetching them. Unaware of builds, whose steps fetch what they need themselves.

use std::{path::PathBuf, sync::Arc};

use futures_util::future::{FutureExt, try_join_all};
use serde_json::{Value, json};

use crate::{
    build::{self, Fetcher, Progress, Services, Silent, StepId, chain, short},
    cli::{
        args::Cli,
        failure::Failure,
        progress::{Mode, Place, Reporter, size},
        services, write,
    },
    export::Obtain,
    oci::{Descriptor, Digest, Image, Reference},
    store::{AbsentLayer, Store},
};

/// Layers of one image that are elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absent(Vec<AbsentLayer>);

impl Absent {
    /// Of a manifest or index of the store.
    pub fn of(store: &Store, top: &Descriptor) -> Result<Self, Failure> {
        store.absent_layers(top).map(Self).map_err(|error| Failure::new(chain(&error)))
    }

    /// The images that have them.
    pub fn places(&self) -> Vec<Reference> {
        let mut all: Vec<Reference> = self.0.iter().flat_map(|layer| layer.from.clone()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// `base layers at registry.example/x, not fetched: 1.50GB`, for each place that would be asked.
    pub fn sentences(&self) -> Vec<String> {
        self.told(", not fetched")
    }

    fn told(&self, state: &str) -> Vec<String> {
        let mut first: Vec<Option<&Reference>> = self.0.iter().map(|layer| layer.from.first()).collect();
        first.sort();
        first.dedup();
        let sentence = |place: Option<&Reference>| {
            let there = self.0.iter().filter(|layer| layer.from.first() == place);
            let bytes = size(there.map(|layer| layer.descriptor.size).sum());
            match place {
                Some(place) => format!("base layers at {}{state}: {bytes}", place.familiar()),
                None => format!("layers that are lost: {bytes}"),
            }
        };
        first.into_iter().map(sentence).collect()
    }

    /// For JSON.
    pub fn value(&self) -> Value {
        Value::Array(self.0.iter().map(value).collect())
    }

    /// The same of one layer, if it is elsewhere.
    pub fn value_of(&self, layer: &Digest) -> Option<Value> {
        self.0.iter().find(|absent| absent.descriptor.digest == *layer).map(value)
    }

    /// Fetches all of them, shown as one step.
    pub async fn fetch_shown(&self, fetcher: &Fetcher) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let (reporter, steps) = shown();
        let fetched = self.fetch(fetcher, &steps).await;
        reporter.stop();
        fetched
    }

    async fn fetch(&self, fetcher: &Fetcher, steps: &Arc<write::Steps>) -> Result<(), Failure> {
        let progress: Arc<dyn Progress> = steps.clone();
        let work = async |step| {
            let all = self.0.iter().map(|layer| fetcher.fetch_layer(&layer.descriptor, step, &progress));
            try_join_all(all).await.map(drop).map_err(Failure::from)
        };
        steps.step(&self.title(), work).await
    }

    fn title(&self) -> String {
        format!("fetching {}", self.told("").join("; "))
    }
}

fn value(layer: &AbsentLayer) -> Value {
    let from: Vec<String> = layer.from.iter().map(ToString::to_string).collect();
    json!({ "digest": layer.descriptor.digest, "size": layer.descriptor.size, "from": from })
}

/// Makes images of the store whole.
pub fn fetch(cli: &Cli, store: &Store, tops: &[&Descriptor]) -> Result<(), Failure> {
    let mut all = Absent::default();
    for top in tops {
        let new = Absent::of(store, top)?.0;
        all.0.extend(new.into_iter().filter(|layer| !all.0.contains(layer)).collect::<Vec<_>>());
    }
    if all.0.is_empty() {
        // Nothing to connect for.
        return Ok(());
    }
    let fetcher = Fetcher { store: store.clone(), client: cli.registries.client()?, offline: false };
    services::runtime()?.block_on(all.fetch_shown(&fetcher))
}

/// The directories of an image of the store, top first. What is elsewhere is unpacked while it is fetched, shown as a step.
pub async fn unpack(manifest: &Descriptor, image: &Image, services: &Services) -> Result<Vec<PathBuf>, Failure> {
    let absent = Absent::of(&services.store, manifest)?;
    if absent.0.is_empty() {
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        return build::unpack_image(image, StepId(0), services, &silent).await.map_err(Failure::from);
    }
    let (reporter, steps) = shown();
    let progress: Arc<dyn Progress> = steps.clone();
    let work = async |step| build::unpack_image(image, step, services, &progress).await.map_err(Failure::from);
    let unpacked = steps.step(&absent.title(), work).await;
    reporter.stop();
    unpacked
}

/// Steps shown on standard error.
pub fn shown() -> (Arc<Reporter>, Arc<write::Steps>) {
    let place = Place::here();
    let reporter = Reporter::new(place.mode("auto").unwrap_or(Mode::Plain), place);
    (reporter.clone(), write::Steps::new(reporter))
}

/// Brings each blob that a push turns out to need.
pub fn obtain(fetcher: Fetcher, steps: &Arc<write::Steps>) -> Box<Obtain> {
    let steps = steps.clone();
    Box::new(move |blob: Descriptor| {
        let (fetcher, steps) = (fetcher.clone(), steps.clone());
        async move {
            let progress: Arc<dyn Progress> = steps.clone();
            let work = async |step| fetcher.fetch_layer(&blob, step, &progress).await.map_err(Failure::from);
            steps.step(&format!("fetching {}", short(&blob.digest)), work).await.map_err(|failure| failure.message)
        }
        .boxed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;

    #[test]
    fn layers_are_told_by_the_place_that_would_be_asked() {
        let layer = |name: &str, size, from: &[&str]| AbsentLayer {
            descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(name.as_bytes()), size),
            from: from.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let absent = Absent(vec![
            layer("a", 1_500_000, &["h.example/x:1", "alpine"]),
            layer("b", 500_000, &["h.example/x:1"]),
            layer("c", 3, &["alpine"]),
            layer("d", 4, &[]),
        ]);
        assert_eq!(
            absent.sentences(),
            ["layers that are lost: 4B", "base layers at alpine, not fetched: 3B", "base layers at h.example/x:1, not fetched: 2.00MB",]
        );
        assert_eq!(absent.places().len(), 2);
    }
}
