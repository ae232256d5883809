//! `rbuild.lock`: the digests that the names of base images stand for, for all platforms, as a package manager's lock
//! file pins versions. Unaware of where the file is.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    build::{
        BuildError, Kind, Progress, bases,
        request::{ContextSource, PullPolicy, Request, Services},
    },
    oci::{Digest, Reference},
    plan::{BaseKey, BaseSource},
};

const VERSION: u32 = 1;

/// What names are pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lock(BTreeMap<String, Digest>);

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(default, rename = "image")]
    images: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    digest: Digest,
}

impl Lock {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.version != VERSION {
            return Err(format!("version {} is not known; this rbuild writes version {VERSION}", file.version));
        }
        Ok(Self(file.images.into_iter().map(|entry| (entry.name, entry.digest)).collect()))
    }

    /// The file's text; equal locks have equal texts.
    pub fn to_text(&self) -> String {
        let images = self.0.iter().map(|(name, digest)| Entry { name: name.clone(), digest: digest.clone() }).collect();
        let body = toml::to_string(&File { version: VERSION, images }).expect("plain data has a TOML form");
        format!("# Base images by digest, for all platforms. Written by `rbuild lock`, used by `rbuild build --locked`.\n{body}")
    }

    /// What a name is pinned to.
    pub fn digest(&self, reference: &Reference) -> Option<&Digest> {
        self.0.get(&reference.to_string())
    }

    /// All names and digests.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Digest)> {
        self.0.iter().map(|(name, digest)| (name.as_str(), digest))
    }
}

/// Asks the registries what every base image of every stage stands for now.
pub async fn lock(request: &Request, services: &Services, progress: &Arc<dyn Progress>) -> Result<Lock, BuildError> {
    let dockerfile = crate::dockerfile::parse(&request.dockerfile).map_err(BuildError::from)?;
    let request = Request { pull: PullPolicy::Always, locked: false, lock: None, ..request.clone() };
    let mut lock = Lock::default();
    for options in &request.plans {
        // Every stage that a build can be asked for; what none of them reaches is never built.
        let named = dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| Some(name.text.clone()));
        for target in named.chain([None]) {
            let options = crate::plan::Options { target, ..options.clone() };
            let (_, resolved) = bases::plan(&dockerfile, &options, &request, services, progress).await?;
            for reference in resolved.keys().filter_map(|key| reference_of(key, &request)).filter(|reference| reference.digest().is_none())
            {
                let known = services.store.remembered(reference).map_err(BuildError::store)?;
                if let Some(known) = known {
                    lock.0.insert(reference.to_string(), known.descriptor.digest);
                }
            }
        }
    }
    Ok(lock)
}

/// The name that a base is asked for by, if it comes from a registry.
pub fn reference_of<'a>(key: &'a BaseKey, request: &'a Request) -> Option<&'a Reference> {
    match &key.source {
        BaseSource::Registry(reference) => Some(reference),
        BaseSource::Context(name) => match request.named_contexts.get(name) {
            Some(ContextSource::Image(reference)) => Some(reference),
            _ => None,
        },
    }
}

/// What to ask for instead of a name: with `--locked` what the lock says, or nothing.
pub fn pinned(reference: &Reference, request: &Request) -> Result<Reference, BuildError> {
    if !request.locked || reference.digest().is_some() {
        return Ok(reference.clone());
    }
    let digest = request.lock.as_ref().and_then(|lock| lock.digest(reference));
    let digest = digest.ok_or_else(|| {
        BuildError::new(Kind::Base, format!("{} is not in the lock file, and --locked takes nothing else", reference.familiar()))
            .with_hint("`rbuild lock` adds it")
    })?;
    Ok(reference.with_digest(digest.clone()))
}

/// A sentence when a name no longer stands for what the lock says.
pub fn drift(reference: &Reference, found: &Digest, request: &Request) -> Option<String> {
    let pinned = request.lock.as_ref()?.digest(reference).filter(|pinned| *pinned != found)?;
    Some(format!("warning: {} is {found} now, the lock file says {pinned}; `rbuild lock` takes the new one", reference.familiar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_read_as_it_is_written() {
        let mut lock = Lock::default();
        for (name, text) in [("docker.io/library/node:20", "b"), ("docker.io/library/alpine:latest", "a")] {
            lock.0.insert(name.to_owned(), Digest::of(text.as_bytes()));
        }
        let text = lock.to_text();
        assert!(text.find("alpine").unwrap() < text.find("node").unwrap(), "{text}");
        assert_eq!(Lock::parse(&text).unwrap(), lock);
        assert_eq!(lock.digest(&"alpine".parse().unwrap()), Some(&Digest::of(b"a")));
        assert_eq!(lock.digest(&"alpine:3".parse().unwrap()), None);
        assert_eq!(Lock::parse("version = 1\n").unwrap(), Lock::default());
        for text in ["", "version = 2", "version = 1\n[[image]]\nname = \"a\"\ndigest = \"sha256:1\"", "version = 1\n[[image]]\nname = 1"] {
            assert!(Lock::parse(text).is_err(), "{text}");
        }
    }
}
