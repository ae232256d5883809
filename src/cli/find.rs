//! Which image of the store a word means: a name, or the digest of a manifest, index or config, whole or its beginning.

use crate::{
    build::chain,
    cli::failure::Failure,
    oci::{Descriptor, Image, Platform, Reference},
    store::{Store, StoreError},
};

/// Fewer digits are more likely a typing error.
const SHORTEST_DIGEST: usize = 4;

/// The manifest or index.
pub fn descriptor(store: &Store, text: &str) -> Result<Descriptor, Failure> {
    let fail = |error: StoreError| Failure::new(chain(&error));
    let name = text.parse::<Reference>();
    if let Ok(name) = &name
        && let Some(found) = store.resolve(name).map_err(fail)?
    {
        return Ok(found);
    }
    let digits = text.strip_prefix("sha256:").or_else(|| text.rsplit_once("@sha256:").map(|(_, digits)| digits)).unwrap_or(text);
    let is_digest = digits.len() >= SHORTEST_DIGEST && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if is_digest {
        let found = store.find_images(digits).map_err(fail)?;
        match found.as_slice() {
            [] => {}
            [only] => return Ok(only.clone()),
            many => return several(store, text, many).map_err(fail)?,
        }
    } else if let Err(error) = name {
        return Err(Failure::usage(error.to_string()));
    }
    Err(Failure::new(format!("the store has no image {text}")).with_hint("`rbuild images` lists them; `rbuild -t NAME` builds one"))
}

/// One of several images that share a config or the beginning of a digest: the one with a name, if only one has.
fn several(store: &Store, text: &str, found: &[Descriptor]) -> Result<Result<Descriptor, Failure>, StoreError> {
    let named: Vec<Descriptor> = store.images()?.into_iter().map(|image| image.descriptor).collect();
    let mut with_name: Vec<&Descriptor> = found.iter().filter(|found| named.iter().any(|named| named.digest == found.digest)).collect();
    with_name.dedup_by(|a, b| a.digest == b.digest);
    if let [only] = with_name.as_slice() {
        return Ok(Ok((*only).clone()));
    }
    let list: Vec<String> = found.iter().map(|found| found.digest.to_string()).collect();
    Ok(Err(Failure::new(format!("{text} is not the beginning of one image's digest only"))
        .with_hint(format!("it may be {}", list.join(" or ")))))
}

/// The image of a platform; of our own if none is said, or of the only one that there is.
pub fn image(store: &Store, text: &str, platform: Option<&str>) -> Result<(Descriptor, Image), Failure> {
    let fail = |error: StoreError| Failure::new(chain(&error));
    let top = descriptor(store, text)?;
    let wanted: Option<Platform> = platform.map(str::parse).transpose().map_err(|error| Failure::usage(format!("--platform: {error}")))?;
    let chosen = match store.manifest_for(&top, wanted.as_ref().unwrap_or(&Platform::host())) {
        Err(StoreError::NoPlatform { .. }) if wanted.is_none() => {
            let index = store.index_blob(&top.digest).map_err(fail)?;
            let first = index.manifests.first().ok_or_else(|| Failure::new(format!("{text} is an index of nothing")))?;
            store.manifest_for(first, &first.platform.clone().unwrap_or_else(Platform::host)).map_err(fail)?
        }
        chosen => chosen.map_err(fail)?,
    };
    let image = store.image(&chosen, &Platform::host()).map_err(fail)?;
    Ok((Descriptor { annotations: Default::default(), ..chosen }, image))
}
