//! A package, whatever manages it. Unaware of how it was found.

use std::collections::BTreeSet;

use packageurl::PackageUrl;

/// What manages a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Ecosystem {
    Apk,
    Cargo,
    Deb,
    Npm,
    Pypi,
    Rpm,
}

impl Ecosystem {
    /// The type in a package URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Cargo => "cargo",
            Self::Deb => "deb",
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Rpm => "rpm",
        }
    }

    /// Whether it is the distribution's: the same name means another package elsewhere.
    fn is_of_distribution(self) -> bool {
        matches!(self, Self::Apk | Self::Deb | Self::Rpm)
    }
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Package {
    pub ecosystem: Ecosystem,
    /// With its scope, for npm.
    pub name: String,
    pub version: String,
    pub architecture: Option<String>,
    pub epoch: Option<String>,
    /// The source package that it was built from, where that has another name or version.
    pub upstream: Option<String>,
    /// As its maker wrote it.
    pub license: Option<String>,
    /// `Person: NAME (ADDRESS)` or `Organization: NAME`.
    pub supplier: Option<String>,
    pub homepage: Option<String>,
    /// Of what was installed, in hex.
    pub sha256: Option<String>,
    /// Files that say it is there, with a leading slash.
    pub found_in: BTreeSet<String>,
}

impl Package {
    /// A package of which nothing more is known.
    pub fn new(ecosystem: Ecosystem, name: &str, version: &str) -> Self {
        Self {
            ecosystem,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: None,
            epoch: None,
            upstream: None,
            license: None,
            supplier: None,
            homepage: None,
            sha256: None,
            found_in: BTreeSet::new(),
        }
    }

    /// Its package URL. `distribution` is `(id, id-version)` of `os-release`.
    pub fn url(&self, distribution: Option<(&str, &str)>) -> String {
        let namespace = match self.ecosystem {
            ecosystem if ecosystem.is_of_distribution() => distribution.map(|(id, _)| id.to_owned()),
            _ => self.name.rsplit_once('/').map(|(scope, _)| scope.to_owned()),
        };
        let name = match self.ecosystem {
            Ecosystem::Npm => self.name.rsplit('/').next().unwrap_or(&self.name).to_owned(),
            _ => self.name.clone(),
        };
        let build = || -> packageurl::Result<String> {
            let mut url = PackageUrl::new(self.ecosystem.name(), name.clone())?;
            if let Some(namespace) = &namespace {
                url.with_namespace(namespace.clone())?;
            }
            if !self.version.is_empty() {
                url.with_version(self.version.clone())?;
            }
            let distribution = distribution.filter(|_| self.ecosystem.is_of_distribution()).map(|(_, version)| version.to_owned());
            let qualifiers =
                [("arch", &self.architecture), ("distro", &distribution), ("epoch", &self.epoch), ("upstream", &self.upstream)];
            for (key, value) in qualifiers {
                if let Some(value) = value {
                    url.add_qualifier(key, value.clone())?;
                }
            }
            Ok(url.to_string())
        };
        // A name that no package URL can have is still a package.
        build().unwrap_or_else(|_| format!("pkg:{}/unnamed", self.ecosystem.name()))
    }
}

/// `Name <address>` as SPDX has it.
pub fn person(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    Some(match text.split_once('<') {
        Some((name, address)) if !name.trim().is_empty() => {
            format!("Person: {} ({})", clean(name), address.trim_end().trim_end_matches('>').trim())
        }
        _ => format!("Person: {}", clean(text)),
    })
}

/// Brackets stand for addresses in SPDX.
pub fn clean(text: &str) -> String {
    text.replace(['(', ')'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_say_where_a_package_is_from() {
        let debian = Some(("debian", "debian-12"));
        let mut deb = Package::new(Ecosystem::Deb, "libstdc++6", "12.2.0-14+deb12u1");
        deb.architecture = Some("amd64".to_owned());
        deb.upstream = Some("gcc-12".to_owned());
        let url = deb.url(debian);
        assert!(url.starts_with("pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"), "{url}");
        assert_eq!(Package::new(Ecosystem::Npm, "@babel/core", "7.0.0").url(debian), "pkg:npm/%40babel/core@7.0.0");
        assert_eq!(Package::new(Ecosystem::Pypi, "requests", "2").url(None), "pkg:pypi/requests@2");
    }

    #[test]
    fn people_are_written_as_spdx_has_them() {
        assert_eq!(person("A (B) <a@b.c>").as_deref(), Some("Person: A B (a@b.c)"));
        assert_eq!(person("Only Name").as_deref(), Some("Person: Only Name"));
        assert_eq!(person(" "), None);
    }
}
