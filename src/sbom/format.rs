//! Which files say what is installed, told by their paths. Unaware of what is in them.

/// What a file that names packages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `/var/lib/dpkg/status`, and the single files in `status.d` that distroless images have instead.
    Dpkg,
    /// `/lib/apk/db/installed`.
    Apk,
    /// `rpmdb.sqlite`: rpm 4.16 and later.
    RpmSqlite,
    /// `Packages.db`: SUSE.
    RpmNdb,
    /// `Packages`: rpm up to 4.15.
    RpmBdb,
    /// `package.json` of an installed package.
    NpmPackage,
    /// `package-lock.json`.
    NpmLock,
    /// `METADATA` or `PKG-INFO`.
    Python,
    /// `Cargo.lock`.
    CargoLock,
    /// A program, which may have cargo-auditable's list in it.
    Program,
    /// `/etc/os-release`: which distribution it is.
    OsRelease,
}

/// What the file at `path` (without a leading slash) is to us; most are nothing.
pub fn format_of(path: &str, is_executable: bool) -> Option<Format> {
    let exact = match path {
        "var/lib/dpkg/status" => Some(Format::Dpkg),
        "lib/apk/db/installed" | "usr/lib/apk/db/installed" => Some(Format::Apk),
        "etc/os-release" | "usr/lib/os-release" => Some(Format::OsRelease),
        _ => None,
    };
    if exact.is_some() {
        return exact;
    }
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        _ if directory == "var/lib/dpkg/status.d" => (!name.ends_with(".md5sums")).then_some(Format::Dpkg),
        _ if matches!(directory, "var/lib/rpm" | "usr/lib/sysimage/rpm" | "usr/share/rpm") => match name {
            "rpmdb.sqlite" => Some(Format::RpmSqlite),
            "Packages.db" => Some(Format::RpmNdb),
            "Packages" => Some(Format::RpmBdb),
            _ => None,
        },
        "package.json" => is_package_directory(directory).then_some(Format::NpmPackage),
        "package-lock.json" => (!is_below(directory, "node_modules")).then_some(Format::NpmLock),
        "METADATA" => directory.ends_with(".dist-info").then_some(Format::Python),
        "PKG-INFO" => (directory.ends_with(".egg-info") || directory.ends_with("EGG-INFO")).then_some(Format::Python),
        _ if name.ends_with(".egg-info") => Some(Format::Python),
        // The sources of dependencies come with locks of their own that nothing was built by.
        "Cargo.lock" => (!directory.contains("/registry/src/") && !directory.contains("/git/checkouts/")).then_some(Format::CargoLock),
        _ => is_executable.then_some(Format::Program),
    }
}

/// `../node_modules/NAME` or `../node_modules/@SCOPE/NAME`: a package, not a directory of one.
fn is_package_directory(directory: &str) -> bool {
    let mut parts = directory.rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some("node_modules"), _) => !name.starts_with('@') && !name.starts_with('.'),
        (Some(_), Some(scope), Some("node_modules")) => scope.starts_with('@'),
        _ => false,
    }
}

fn is_below(directory: &str, name: &str) -> bool {
    directory.split('/').any(|part| part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_paths() {
        for (path, expected) in [
            ("var/lib/dpkg/status", Some(Format::Dpkg)),
            ("var/lib/dpkg/status.d/base-files", Some(Format::Dpkg)),
            ("var/lib/dpkg/status.d/base-files.md5sums", None),
            ("backup/var/lib/dpkg/status", None),
            ("usr/lib/sysimage/rpm/rpmdb.sqlite", Some(Format::RpmSqlite)),
            ("app/node_modules/a/package.json", Some(Format::NpmPackage)),
            ("app/node_modules/@s/a/package.json", Some(Format::NpmPackage)),
            ("app/node_modules/@s/package.json", None),
            ("app/node_modules/a/dist/esm/package.json", None),
            ("app/package.json", None),
            ("package-lock.json", Some(Format::NpmLock)),
            ("app/node_modules/a/package-lock.json", None),
            ("usr/lib/python3/dist-packages/x-1.dist-info/METADATA", Some(Format::Python)),
            ("usr/lib/python3/dist-packages/x.egg-info", Some(Format::Python)),
            ("root/.cargo/registry/src/index/a-1/Cargo.lock", None),
            ("app/Cargo.lock", Some(Format::CargoLock)),
        ] {
            assert_eq!(format_of(path, false), expected, "{path}");
        }
        assert_eq!(format_of("usr/bin/x", true), Some(Format::Program));
    }
}
