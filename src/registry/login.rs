//! Logging in and out: asks the registry whether a credential is good, and keeps it where docker keeps it: with the
//! credential helper that the file names, else in the file. Unaware of terminals and of where the file is.

use std::{fs, io::Write, path::Path};

use base64::Engine;
use serde_json::{Map, Value, json};

use super::{
    Client, Credential, Error,
    auth::Access,
    credentials::{CredentialFile, server_address, tell_helper},
    exchange::{Patience, Target},
};
use crate::oci::Reference;

/// Where a credential was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file, readable by whoever reads the file.
    InFile,
    /// With `docker-credential-<name>`.
    WithHelper(String),
}

impl Client {
    /// Whether `host` takes the credential that this client's configuration has for it.
    pub async fn check_login(&self, host: &str) -> Result<(), Error> {
        let malformed = |_| Error::Malformed { host: host.to_owned(), reason: "not a registry's name".to_owned() };
        let reference: Reference = format!("{host}/login").parse().map_err(malformed)?;
        let endpoint = self.push_endpoint(&reference)?;
        let target = Target { endpoint: &endpoint, access: Access::none(), what: "the registry's API".to_owned() };
        let connection = self.host(&endpoint)?;
        let patience = self.inner.options.timeouts.response;
        let url = connection.base(patience).await?.join("v2/").expect("a constant path");
        let patience = Patience::Fixed(patience);
        self.persist(|| self.exchange_at(&connection, &target, url.clone(), patience, |client, url| client.get(url))).await.map(drop)
    }
}

/// Keeps `credential` for `host` in the docker `config.json` at `path`, or with the helper that it names.
pub async fn store_login(path: &Path, host: &str, credential: &Credential) -> Result<Kept, Error> {
    let text = read(path)?;
    let parsed = CredentialFile::parse(&text).map_err(|reason| invalid(path, reason))?;
    let server = server_address(host);
    if let Some(helper) = parsed.helper(host) {
        let (user, secret) = match credential {
            Credential::Password { user, password } => (user.as_str(), password),
            Credential::IdentityToken(token) => ("<token>", token),
        };
        let entry = json!({ "ServerURL": server, "Username": user, "Secret": secret });
        tell_helper(helper, "store", host, &entry.to_string(), None).await?;
        return Ok(Kept::WithHelper(helper.to_owned()));
    }
    edit(path, &text, |auths| {
        forget(auths, host);
        auths.insert(server, entry(credential));
        true
    })?;
    Ok(Kept::InFile)
}

/// Forgets the credential of `host`; false when there was none.
pub async fn remove_login(path: &Path, host: &str) -> Result<bool, Error> {
    let text = read(path)?;
    let parsed = CredentialFile::parse(&text).map_err(|reason| invalid(path, reason))?;
    let with_helper = match parsed.helper(host) {
        Some(helper) => tell_helper(helper, "erase", host, &server_address(host), None).await?,
        None => false,
    };
    Ok(edit(path, &text, |auths| forget(auths, host))? || with_helper)
}

fn entry(credential: &Credential) -> Value {
    match credential {
        Credential::Password { user, password } => {
            json!({ "auth": base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")) })
        }
        // As docker writes it: the user is `<token>`, the password empty.
        Credential::IdentityToken(token) => {
            json!({ "auth": base64::engine::general_purpose::STANDARD.encode("<token>:"), "identitytoken": token })
        }
    }
}

/// Removes every spelling of `host`.
fn forget(auths: &mut Map<String, Value>, host: &str) -> bool {
    let count = auths.len();
    auths.retain(|key, _| !CredentialFile::same_host(key, host));
    auths.len() < count
}

/// Changes `auths` and keeps everything else as it is, in its order.
fn edit(path: &Path, text: &str, change: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<bool, Error> {
    let mut file: Value = if text.trim().is_empty() { json!({}) } else { serde_json::from_str(text).expect("it was just parsed") };
    let object = file.as_object_mut().ok_or_else(|| invalid(path, "not a JSON object".to_owned()))?;
    let auths = object.entry("auths").or_insert_with(|| json!({}));
    let changed = change(auths.as_object_mut().ok_or_else(|| invalid(path, "`auths` is not a JSON object".to_owned()))?);
    if changed {
        let mut text = serde_json::to_string_pretty(&file).expect("a JSON value");
        text.push('\n');
        replace(path, &text).map_err(|error| invalid(path, error.to_string()))?;
    }
    Ok(changed)
}

/// Only the user may read the new file, and there is never half a file. A symbolic link stays one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(invalid(path, error.to_string())),
    }
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::Configuration { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::registry::credentials::Lookup;

    #[tokio::test]
    async fn a_login_is_found_again_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.json");
        let credential = Credential::Password { user: "u".to_owned(), password: "p:q".to_owned() };
        let found = |host: &str| CredentialFile::parse(&read(&path).unwrap()).unwrap().lookups(host, "x");
        for host in ["docker.io", "localhost:5000"] {
            assert!(!remove_login(&path, host).await.unwrap());
            assert_eq!(store_login(&path, host, &credential).await.unwrap(), Kept::InFile);
            assert_eq!(found(host), [Lookup::Known(credential.clone())]);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path).unwrap().contains("https://index.docker.io/v1/"));
        assert!(remove_login(&path, "docker.io").await.unwrap());
        assert_eq!(found("docker.io"), []);
        assert_eq!(found("localhost:5000").len(), 1);
    }

    #[tokio::test]
    async fn what_else_is_in_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real.json");
        let path = folder.path().join("config.json");
        std::os::unix::fs::symlink(&real, &path).unwrap();
        fs::write(&real, r#"{"psFormat":"x","auths":{"https://h.example/v1/":{"auth":"dTpw"}},"detachKeys":"y"}"#).unwrap();
        store_login(&path, "h.example", &Credential::IdentityToken("t".to_owned())).await.unwrap();
        let value: Value = serde_json::from_str(&fs::read_to_string(&real).unwrap()).unwrap();
        let expected =
            json!({ "psFormat": "x", "auths": { "h.example": { "auth": "PHRva2VuPjo=", "identitytoken": "t" } }, "detachKeys": "y" });
        assert_eq!(value, expected);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        fs::write(&real, "{").unwrap();
        assert!(matches!(remove_login(&path, "h.example").await, Err(Error::Configuration { .. })));
    }
}
