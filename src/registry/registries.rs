//! `registries.conf`: which hosts stand for a reference. Pure; unaware of files and of credentials.
//!
//! Version 2 of containers/image's format; of version 1 the insecure and blocked lists. Short-name search is ignored
//! on purpose: a reference without a registry is Docker Hub's, as in Docker.

use serde::Deserialize;

use super::Error;
use crate::oci::Reference;

/// The registries that the user has something to say about.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    entries: Vec<Entry>,
}

/// One place to ask for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `registry-1.docker.io`, `localhost:5000`.
    pub host: String,
    /// The repository's name there.
    pub repository: String,
    /// Unverified TLS and plain http are accepted.
    pub insecure: bool,
    /// Not the registry itself.
    pub mirror: bool,
}

/// What is looked for; mirrors may serve only some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A manifest by tag.
    Tag,
    /// A manifest by digest.
    Digest,
    /// A blob. Its bytes are verified, so any mirror will do.
    Blob,
    /// A push: never to a mirror.
    Push,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    registry: Vec<Entry>,
    registries: VersionOne,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionOne {
    insecure: VersionOneList,
    block: VersionOneList,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionOneList {
    registries: Vec<String>,
}

impl Registries {
    /// Adds what `text` says; an entry replaces an earlier one with the same prefix, as drop-ins do.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        for mut entry in file.registry {
            if entry.prefix.is_empty() {
                entry.prefix = entry.location.clone();
            }
            if entry.prefix.is_empty() {
                return Err("a [[registry]] needs a prefix or a location".to_owned());
            }
            self.put(entry);
        }
        for location in file.registries.insecure.registries {
            self.mark_insecure(&location);
        }
        for location in file.registries.block.registries {
            self.put(Entry { prefix: location, blocked: true, ..Entry::default() });
        }
        Ok(())
    }

    /// Accepts unverified TLS and plain http from `location` (a host, or a host and a path).
    pub fn mark_insecure(&mut self, location: &str) {
        match self.entries.iter_mut().find(|entry| entry.prefix == location) {
            Some(entry) => entry.insecure = true,
            None => self.put(Entry { prefix: location.to_owned(), insecure: true, ..Entry::default() }),
        }
    }

    fn put(&mut self, entry: Entry) {
        self.entries.retain(|other| other.prefix != entry.prefix);
        self.entries.push(entry);
    }

    /// Whom to ask, in order: the mirrors, then the registry itself.
    pub fn endpoints(&self, reference: &Reference, purpose: Purpose) -> Result<Vec<Endpoint>, Error> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let matching = self.entries.iter().filter(|entry| covers(&entry.prefix, &name));
        let Some(entry) = matching.max_by_key(|entry| entry.prefix.len()) else {
            return Ok(vec![endpoint(&name, false, false)]);
        };
        if entry.blocked {
            return Err(Error::Blocked { registry: entry.prefix.clone() });
        }
        let mut endpoints = Vec::new();
        for mirror in entry.mirror.iter().filter(|mirror| entry.mirror_serves(mirror, purpose)) {
            endpoints.push(endpoint(&entry.moved(&name, &mirror.location), mirror.insecure, true));
        }
        endpoints.push(endpoint(&entry.moved(&name, &entry.location), entry.insecure, false));
        Ok(endpoints)
    }
}

impl Entry {
    fn mirror_serves(&self, mirror: &Mirror, purpose: Purpose) -> bool {
        let digest_only = self.mirror_by_digest_only || mirror.pull_from_mirror == "digest-only";
        match purpose {
            Purpose::Tag => !digest_only,
            Purpose::Digest => mirror.pull_from_mirror != "tag-only",
            Purpose::Blob => true,
            Purpose::Push => false,
        }
    }

    /// `name` with this entry's prefix replaced by `location`.
    fn moved(&self, name: &str, location: &str) -> String {
        // Without a location the name is used as it is; a wildcard prefix replaces the host only.
        if location.is_empty() {
            return name.to_owned();
        }
        let covered = if self.prefix.starts_with("*.") { name.find('/').unwrap_or(name.len()) } else { self.prefix.len() };
        format!("{location}{}", &name[covered..])
    }
}

/// Whether `prefix` names `name` or something above it.
fn covers(prefix: &str, name: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split('/').next().unwrap_or(name);
        // `*` alone is what a command line says of all registries; the file format has no such prefix.
        return domain.is_empty() || domain.starts_with('.') && host.split(':').next().is_some_and(|host| host.ends_with(domain));
    }
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn endpoint(name: &str, insecure: bool, mirror: bool) -> Endpoint {
    let (host, repository) = name.split_once('/').unwrap_or((name, ""));
    let host = if host == "docker.io" || host == "index.docker.io" { "registry-1.docker.io" } else { host };
    Endpoint { host: host.to_owned(), repository: repository.to_owned(), insecure: insecure || is_loopback(host), mirror }
}

/// Docker's rule: what doesn't leave the machine needs no TLS.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        unqualified-search-registries = ["quay.io"]
        short-name-mode = "enforcing"
        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example"
        [[registry.mirror]]
        location = "cache.example/hub"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "docker.io/secret"
        blocked = true
        [[registry]]
        location = "lab.example:5000"
        insecure = true
        [[registry]]
        prefix = "old.example/team"
        location = "new.example/group"
        mirror-by-digest-only = true
        mirror = [{ location = "near.example/group" }]
        [[registry]]
        prefix = "*.corp.example"
        location = "gate.example"
    "#;

    fn check(reference: &str, purpose: Purpose, expected: &str) {
        let mut registries = Registries::default();
        registries.add(TEXT).unwrap();
        let found = match registries.endpoints(&reference.parse().unwrap(), purpose) {
            Ok(list) => list
                .iter()
                .map(|one| format!("{}{}/{}", if one.insecure { "!" } else { "" }, one.host, one.repository))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{reference} {purpose:?}");
    }

    #[test]
    fn endpoints_follow_the_longest_prefix() {
        check("alpine", Purpose::Tag, "mirror.example/library/alpine registry-1.docker.io/library/alpine");
        let all = "mirror.example/library/alpine !cache.example/hub/library/alpine registry-1.docker.io/library/alpine";
        check("alpine", Purpose::Digest, all);
        check("alpine", Purpose::Blob, all);
        check("alpine", Purpose::Push, "registry-1.docker.io/library/alpine");
        check("secret/app", Purpose::Tag, "docker.io/secret is blocked by registries.conf");
        check("secretive/app", Purpose::Push, "registry-1.docker.io/secretive/app");
        check("lab.example:5000/a", Purpose::Tag, "!lab.example:5000/a");
        check("old.example/team/a", Purpose::Tag, "new.example/group/a");
        check("old.example/team/a", Purpose::Digest, "near.example/group/a new.example/group/a");
        check("old.example/teams/a", Purpose::Tag, "old.example/teams/a");
        check("a.b.corp.example/x/y", Purpose::Tag, "gate.example/x/y");
        check("localhost:5000/a", Purpose::Tag, "!localhost:5000/a");
        check("127.0.0.1:5000/a", Purpose::Tag, "!127.0.0.1:5000/a");
        check("localhost.example/a", Purpose::Tag, "localhost.example/a");
    }

    #[test]
    fn later_files_replace_entries_and_version_one_is_read() {
        let mut registries = Registries::default();
        registries.add(TEXT).unwrap();
        registries.add("[[registry]]\nprefix='docker.io'\n").unwrap();
        registries.add("[registries.insecure]\nregistries=['one.example']\n[registries.block]\nregistries=['two.example']").unwrap();
        let hosts = |text: &str| registries.endpoints(&text.parse().unwrap(), Purpose::Tag);
        assert_eq!(hosts("alpine").unwrap().len(), 1);
        assert!(hosts("one.example/a").unwrap()[0].insecure);
        assert!(matches!(hosts("two.example/a"), Err(Error::Blocked { .. })));
        assert!(registries.add("[[registry]]\ninsecure = true").is_err());
        assert!(registries.add("[[registry").is_err());
    }
}
