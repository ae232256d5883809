//! What the user's files say about registries, as data. Only [`load`] reads files, and only those it is given.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Credential, Error,
    credentials::CredentialFile,
    registries::{Endpoint, Purpose, Registries},
};
use crate::oci::Reference;

/// Which files to read. What doesn't exist is skipped.
#[derive(Debug, Clone, Default)]
pub struct ConfigPaths {
    /// `registries.conf` candidates; the first that exists counts.
    pub registries: Vec<PathBuf>,
    /// `registries.conf.d` folders; later ones override earlier ones.
    pub registries_folders: Vec<PathBuf>,
    /// `auth.json` and `config.json`, the preferred first.
    pub credentials: Vec<PathBuf>,
    /// `certs.d` folders: `HOST/*.crt`, `HOST/*.cert` with `HOST/*.key`.
    pub certificates: Vec<PathBuf>,
    /// PEM bundles that every host may be signed by, beside the system's.
    pub authorities: Vec<PathBuf>,
}

/// All that is known of registries before asking one.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    registries: Registries,
    credentials: Vec<CredentialFile>,
    certificates: BTreeMap<String, HostCertificates>,
    /// Read when a host is first talked to: most builds talk to none, and a bundle is large.
    authority_files: Vec<PathBuf>,
    authorities: Vec<Vec<u8>>,
}

/// What `certs.d/HOST` holds, as PEM.
#[derive(Clone, Default)]
pub(super) struct HostCertificates {
    pub(super) authorities: Vec<Vec<u8>>,
    /// Certificate and key of the client, one after the other.
    pub(super) identity: Option<Vec<u8>>,
}

impl std::fmt::Debug for HostCertificates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "HostCertificates({} authorities)", self.authorities.len())
    }
}

impl Configuration {
    /// Adds the text of a `registries.conf` or of a drop-in.
    pub fn add_registries(&mut self, text: &str) -> Result<(), String> {
        self.registries.add(text)
    }

    /// Adds the text of a credential file; files added earlier are preferred.
    pub fn add_credentials(&mut self, text: &str) -> Result<(), String> {
        self.credentials.push(CredentialFile::parse(text)?);
        Ok(())
    }

    /// Uses `credential` for `host`, before all files.
    pub fn put_credential(&mut self, host: &str, credential: Credential) {
        self.credentials.insert(0, CredentialFile::with(host, credential));
    }

    /// Accepts unverified TLS and plain http from `location`.
    pub fn mark_insecure(&mut self, location: &str) {
        self.registries.mark_insecure(location);
    }

    /// Accepts certificates signed by the authorities in `pem`, from any host.
    pub fn add_authorities(&mut self, pem: Vec<u8>) {
        self.authorities.push(pem);
    }

    pub(super) fn endpoints(&self, reference: &Reference, purpose: Purpose) -> Result<Vec<Endpoint>, Error> {
        self.registries.endpoints(reference, purpose)
    }

    pub(super) fn credentials(&self) -> &[CredentialFile] {
        &self.credentials
    }

    pub(super) fn authorities(&self) -> Result<Vec<Vec<u8>>, Error> {
        let read = self.authority_files.iter().filter_map(|path| read(path).transpose());
        read.chain(self.authorities.iter().cloned().map(Ok)).collect()
    }

    pub(super) fn certificates(&self, host: &str) -> Option<&HostCertificates> {
        let host = if host == "registry-1.docker.io" { "docker.io" } else { host };
        self.certificates.get(host)
    }
}

/// Reads all files of `paths` but the bundles of authorities.
pub fn load(paths: &ConfigPaths) -> Result<Configuration, Error> {
    let mut configuration = Configuration::default();
    let add_registries = |configuration: &mut Configuration, path: &Path| -> Result<bool, Error> {
        let Some(text) = read_text(path)? else { return Ok(false) };
        configuration.add_registries(&text).map_err(|reason| invalid(path, reason))?;
        Ok(true)
    };
    for path in &paths.registries {
        if add_registries(&mut configuration, path)? {
            break;
        }
    }
    for folder in &paths.registries_folders {
        for path in files_with_extension(folder, "conf")? {
            add_registries(&mut configuration, &path)?;
        }
    }
    for path in &paths.credentials {
        if let Some(text) = read_text(path)? {
            configuration.add_credentials(&text).map_err(|reason| invalid(path, reason))?;
        }
    }
    for folder in &paths.certificates {
        load_certificates(folder, &mut configuration.certificates)?;
    }
    configuration.authority_files.clone_from(&paths.authorities);
    Ok(configuration)
}

fn load_certificates(folder: &Path, certificates: &mut BTreeMap<String, HostCertificates>) -> Result<(), Error> {
    for host in entries(folder)? {
        let Some(name) = host.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        let mut found = HostCertificates::default();
        for path in files_with_extension(&host, "crt")? {
            found.authorities.extend(read(&path)?);
        }
        for path in files_with_extension(&host, "cert")? {
            let key = read(&path.with_extension("key"))?;
            if let (Some(mut pem), Some(key)) = (read(&path)?, key) {
                pem.push(b'\n');
                pem.extend(key);
                found.identity = Some(pem);
            }
        }
        if !found.authorities.is_empty() || found.identity.is_some() {
            certificates.insert(name, found);
        }
    }
    Ok(())
}

fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let mut paths = entries(folder)?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    Ok(paths)
}

/// A folder's entries, sorted; none when it isn't there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::PermissionDenied];
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if absent.contains(&error.kind()) => return Ok(Vec::new()),
        Err(error) => return Err(invalid(folder, error.to_string())),
    };
    let paths: io::Result<Vec<_>> = listing.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(|error| invalid(folder, error.to_string()))?;
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> Result<Option<String>, Error> {
    let bytes = read(path)?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| invalid(path, "not UTF-8".to_owned()))).transpose()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(invalid(path, error.to_string())),
    }
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::Configuration { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let paths = ConfigPaths {
            registries: vec![
                folder.path().join("absent.conf"),
                write("registries.conf", "[[registry]]\nlocation='a.example'\ninsecure=true\n"),
                write("ignored.conf", "not toml"),
            ],
            registries_folders: vec![write("d/10.conf", "[[registry]]\nlocation='a.example'\nblocked=true").parent().unwrap().to_owned()],
            credentials: vec![folder.path().join("absent.json"), write("config.json", "{}")],
            certificates: vec![folder.path().join("certs.d")],
            authorities: vec![write("ca.pem", "pem")],
        };
        write("certs.d/b.example:5000/ca.crt", "first");
        write("certs.d/b.example:5000/client.cert", "cert");
        write("certs.d/b.example:5000/client.key", "key");
        write("d/readme", "not toml");
        let configuration = load(&paths).unwrap();
        let blocked = configuration.endpoints(&"a.example/x".parse().unwrap(), Purpose::Tag);
        assert!(matches!(blocked, Err(Error::Blocked { .. })));
        let certificates = configuration.certificates("b.example:5000").unwrap();
        assert_eq!(certificates.authorities, [b"first"]);
        assert_eq!(certificates.identity.as_deref(), Some(&b"cert\nkey"[..]));
        assert_eq!(configuration.authorities().unwrap(), [b"pem"]);
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, "{").unwrap();
        let error = load(&ConfigPaths { credentials: vec![path.clone()], ..ConfigPaths::default() }).unwrap_err();
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    }
}
