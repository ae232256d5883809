//! What the files of one root filesystem say is installed: read file by file, in any order; put together at the end, when
//! it is known which distribution it is and what each file stands beside.

use std::collections::BTreeMap;

use super::{Format, Package, apk, cargo, dpkg, npm, python, rpm};

/// Files that name packages, with what they say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    files: BTreeMap<String, Found>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Packages(Format, Vec<Package>),
    Release { id: String, version: String },
    Unreadable(String),
}

impl Inventory {
    /// Reads a file; what it said before, if it was there before, is forgotten.
    pub fn add(&mut self, path: &str, format: Format, bytes: &[u8]) {
        let packages = match format {
            Format::Dpkg => Ok(dpkg::read(&String::from_utf8_lossy(bytes))),
            Format::Apk => Ok(apk::read(&String::from_utf8_lossy(bytes))),
            Format::RpmSqlite => rpm::read_sqlite(bytes),
            Format::RpmNdb => rpm::read_ndb(bytes),
            Format::RpmBdb => Err("Berkeley DB files are not read".to_owned()),
            Format::NpmPackage => npm::read_package(bytes),
            Format::NpmLock => npm::read_lock(bytes),
            Format::Python => Ok(python::read(&String::from_utf8_lossy(bytes)).into_iter().collect()),
            Format::CargoLock => cargo::read_lock(&String::from_utf8_lossy(bytes)),
            Format::Program => cargo::read_program(bytes),
            Format::OsRelease => {
                let (id, version) = release(&String::from_utf8_lossy(bytes));
                self.files.insert(path.to_owned(), Found::Release { id, version });
                return;
            }
        };
        let found = match packages {
            Ok(packages) => Found::Packages(format, packages),
            Err(reason) => Found::Unreadable(reason),
        };
        self.files.insert(path.to_owned(), found);
    }

    /// Notes a file that could not be read.
    pub fn add_unreadable(&mut self, path: &str, reason: &str) {
        self.files.insert(path.to_owned(), Found::Unreadable(reason.to_owned()));
    }

    /// Whether a file was read.
    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Forgets files.
    pub fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.files.retain(|path, _| is_kept(path));
    }

    /// `(id, id-version)` of the distribution, as package URLs have it.
    pub fn distribution(&self) -> Option<(String, String)> {
        let names = ["etc/os-release", "usr/lib/os-release"];
        names.iter().find_map(|name| match self.files.get(*name) {
            Some(Found::Release { id, version }) if !id.is_empty() => {
                Some((id.clone(), if version.is_empty() { id.clone() } else { format!("{id}-{version}") }))
            }
            _ => None,
        })
    }

    /// Each package once, sorted, with its package URL and all files that name it.
    pub fn packages(&self) -> Vec<(String, Package)> {
        let distribution = self.distribution();
        let distribution = distribution.as_ref().map(|(id, version)| (id.as_str(), version.as_str()));
        let mut all: BTreeMap<(Package, String), Package> = BTreeMap::new();
        for (path, found) in &self.files {
            let Found::Packages(format, packages) = found else { continue };
            if *format == Format::NpmLock && self.is_installed_beside(path) {
                continue;
            }
            for package in packages {
                // Two files that name one package may know different things of it.
                let key = Package {
                    architecture: package.architecture.clone(),
                    epoch: package.epoch.clone(),
                    ..Package::new(package.ecosystem, &package.name, &package.version)
                };
                let known = all.entry((key, package.url(distribution))).or_insert_with(|| package.clone());
                known.license = known.license.take().or_else(|| package.license.clone());
                known.supplier = known.supplier.take().or_else(|| package.supplier.clone());
                known.sha256 = known.sha256.take().or_else(|| package.sha256.clone());
                known.found_in.insert(format!("/{path}"));
            }
        }
        all.into_iter().map(|((_, url), package)| (url, package)).collect()
    }

    /// Files that should have named packages and could not be read, with the reason.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        let files = self.files.iter().filter_map(|(path, found)| match found {
            Found::Unreadable(reason) => Some((format!("/{path}"), reason.clone())),
            _ => None,
        });
        files.collect()
    }

    /// A lock pins what may be installed, also for development; the directory beside it has what is.
    fn is_installed_beside(&self, lock: &str) -> bool {
        let directory = lock.rsplit_once('/').map(|(directory, _)| format!("{directory}/")).unwrap_or_default();
        let modules = format!("{directory}node_modules/");
        self.files.range(modules.clone()..).next().is_some_and(|(path, _)| path.starts_with(&modules))
    }
}

/// ID and VERSION_ID.
fn release(text: &str) -> (String, String) {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    (value("ID"), value("VERSION_ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_named_twice_is_one() {
        let mut inventory = Inventory::default();
        inventory.add("a/node_modules/x/package.json", Format::NpmPackage, br#"{"name":"x","version":"1"}"#);
        inventory.add("b/node_modules/x/package.json", Format::NpmPackage, br#"{"name":"x","version":"1","license":"MIT"}"#);
        inventory.add("a/package-lock.json", Format::NpmLock, br#"{"dependencies":{"only-for-development":{"version":"1"}}}"#);
        inventory.add("c/package-lock.json", Format::NpmLock, br#"{"dependencies":{"y":{"version":"2"}}}"#);
        let packages = inventory.packages();
        let names: Vec<_> = packages.iter().map(|(url, package)| (url.as_str(), package.found_in.len())).collect();
        assert_eq!(names, [("pkg:npm/x@1", 2), ("pkg:npm/y@2", 1)]);
        assert_eq!(packages[0].1.license.as_deref(), Some("MIT"));
    }

    #[test]
    fn the_distribution_counts_wherever_it_is_read() {
        let mut inventory = Inventory::default();
        inventory.add("var/lib/dpkg/status.d/x", Format::Dpkg, b"Package: x\nVersion: 1\n");
        inventory.add("usr/lib/os-release", Format::OsRelease, b"NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n");
        assert_eq!(inventory.packages()[0].0, "pkg:deb/debian/x@1?distro=debian-12");
        inventory.retain(|path| !path.starts_with("var/"));
        assert!(inventory.packages().is_empty());
    }

    #[test]
    fn what_can_not_be_read_is_told() {
        let mut inventory = Inventory::default();
        inventory.add("var/lib/rpm/rpmdb.sqlite", Format::RpmSqlite, b"junk");
        assert_eq!(inventory.unreadable()[0].0, "/var/lib/rpm/rpmdb.sqlite");
    }
}
