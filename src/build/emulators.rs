//! Emulators of other processors: those of the machine, else those of an image that the user has pinned by its digest. It
//! is fetched when a step is the first to need it, verified as every image is, and kept in the store.
//! Unaware of what runs them.

use std::{fs::File, path::Path, sync::Arc};

use crate::{
    build::{
        BuildError, Kind, Progress, PullPolicy, StepId, bases,
        copy::open_layers,
        layer::{Layer, blocking, directories},
        request::Services,
    },
    oci::{Platform, Reference},
    plan::{BaseKey, BaseSource},
    sandbox::{EmulationError, emulation},
};

/// Where images of emulators keep them.
const PLACES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/"];

/// Makes programs of `platform` runnable. What stands against it is no error yet: a step may run programs of this machine
/// alone. That the pinned image can't be had is one.
pub async fn prepare_emulation(
    platform: &Platform,
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<Option<EmulationError>, BuildError> {
    let mut pinned = None;
    if let Some(image) = &services.emulators
        && let Some(names) = emulation::lacks(platform, &services.search_path)
    {
        pinned = Some(find(image, &names, step, services, progress).await?);
    }
    let (platform, search_path) = (platform.clone(), services.search_path.clone());
    blocking(move || Ok(emulation::prepare(&platform, &search_path, pinned.as_ref()).err())).await
}

/// The first of `names` that the image has.
async fn find(
    image: &Reference,
    names: &[String],
    step: StepId,
    services: &Services,
    progress: &Arc<dyn Progress>,
) -> Result<File, BuildError> {
    let host = Platform::host();
    let key = BaseKey { source: BaseSource::Registry(image.clone()), platform: host.clone(), explicit_platform: true };
    let pull = if services.offline { PullPolicy::Offline } else { PullPolicy::Missing };
    let found = bases::find(image, &key, pull, services).await?;
    let stack = Layer::base_stack(&found.base.image.layers, &found.source, step, services);
    let layers = directories(&stack, services, progress).await?;
    let (image, names) = (image.clone(), names.to_vec());
    blocking(move || {
        let tree = open_layers(layers)?;
        let paths = names.iter().flat_map(|name| PLACES.map(|place| Path::new(place).join(name)));
        let mut programs = paths.filter_map(|path| tree.open_file(&path).ok());
        programs.find(|file| emulation::is_static(file).unwrap_or(false)).ok_or_else(|| {
            let message = format!("{image} has no static {} for {host} in {}", names.join(" or "), PLACES.join(", "));
            BuildError::new(Kind::Base, message).with_hint("--emulators names another image, or is left out")
        })
    })
    .await
}
