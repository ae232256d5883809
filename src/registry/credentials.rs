//! Credentials: docker's `config.json`, containers' `auth.json`, credential helpers. Unaware of how they are sent.

use std::{collections::BTreeMap, ffi::OsStr, fmt, process::Stdio, time::Duration};

use base64::Engine;
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::Error;

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User and password.
    Password {
        /// The user's name.
        user: String,
        /// The password or access token.
        password: String,
    },
    /// An OAuth2 refresh token (`identitytoken`).
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(formatter, "Password {{ user: {user:?}, .. }}"),
            Self::IdentityToken(_) => formatter.write_str("IdentityToken(..)"),
        }
    }
}

/// One credential file.
#[derive(Debug, Clone, Default)]
pub struct CredentialFile {
    auths: BTreeMap<String, Credential>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

/// Where a host's credential is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// In the file.
    Known(Credential),
    /// From `docker-credential-<name>`.
    Helper(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct File {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl CredentialFile {
    /// Parses docker's or containers' JSON; they differ in nothing that is read here.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File =
            if text.trim().is_empty() { File::default() } else { serde_json::from_str(text).map_err(|error| error.to_string())? };
        let mut auths = BTreeMap::new();
        for (key, auth) in file.auths {
            if let Some(credential) = auth.credential().map_err(|reason| format!("auths of {key}: {reason}"))? {
                auths.insert(normalized(&key), credential);
            }
        }
        let helpers = file.cred_helpers.into_iter().map(|(key, helper)| (normalized(&key), helper)).collect();
        Ok(Self { auths, helpers, store: file.creds_store.filter(|name| !name.is_empty()) })
    }

    /// Knows one credential for `host`.
    pub fn with(host: &str, credential: Credential) -> Self {
        Self { auths: BTreeMap::from([(normalized(host), credential)]), ..Self::default() }
    }

    /// Hosts and passwords or tokens.
    pub fn passwords(&self) -> impl Iterator<Item = (String, String)> {
        self.auths.iter().map(|(host, credential)| match credential {
            Credential::Password { password, .. } => (host.clone(), password.clone()),
            Credential::IdentityToken(token) => (host.clone(), token.clone()),
        })
    }

    /// The helper that keeps the credential of `host`.
    pub fn helper(&self, host: &str) -> Option<&str> {
        self.helpers.get(&key_of_host(host)).or(self.store.as_ref()).map(String::as_str)
    }

    /// Whether a key of `auths` stands for `host`.
    pub fn same_host(key: &str, host: &str) -> bool {
        normalized(key) == key_of_host(host)
    }

    /// Where to look for `host`, the likeliest first: its own helper, the store for all hosts, the file's entries from
    /// `host/repository` upwards.
    pub fn lookups(&self, host: &str, repository: &str) -> Vec<Lookup> {
        let host = key_of_host(host);
        if let Some(helper) = self.helpers.get(&host) {
            return vec![Lookup::Helper(helper.clone())];
        }
        let mut name = format!("{host}/{repository}");
        let mut found = Vec::new();
        loop {
            if let Some(credential) = self.auths.get(&name) {
                found.push(Lookup::Known(credential.clone()));
                break;
            }
            let Some(end) = name.rfind('/') else { break };
            name.truncate(end);
        }
        found.extend(self.store.clone().map(Lookup::Helper));
        found
    }
}

impl Auth {
    fn credential(self) -> Result<Option<Credential>, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken)));
        }
        if self.auth.is_empty() {
            let given = !self.username.is_empty();
            return Ok(given.then_some(Credential::Password { user: self.username, password: self.password }));
        }
        let engine = base64::engine::general_purpose::STANDARD;
        let bytes = engine.decode(self.auth.trim()).map_err(|_| "auth is not base64".to_owned())?;
        let text = String::from_utf8(bytes).map_err(|_| "auth is not UTF-8".to_owned())?;
        let (user, password) = text.split_once(':').ok_or("auth has no colon")?;
        Ok(Some(Credential::Password { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
    }
}

/// The key under which a host is found: `docker.io` for every name of Docker Hub.
fn key_of_host(host: &str) -> String {
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    if hub.contains(&host) { "docker.io".to_owned() } else { host.to_owned() }
}

/// `https://index.docker.io/v1/` -> `docker.io`; `https://host/v2/` -> `host`; `host/team` stays.
fn normalized(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let name = match bare {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
    };
    match name.split_once('/') {
        Some((host, path)) => format!("{}/{path}", key_of_host(host)),
        None => key_of_host(name),
    }
}

/// What helpers know Docker Hub by.
pub(super) fn server_address(host: &str) -> String {
    if key_of_host(host) == "docker.io" { "https://index.docker.io/v1/".to_owned() } else { host.to_owned() }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<name> get` for `host`; None when it knows none.
pub async fn ask_helper(name: &str, host: &str, search_path: Option<&OsStr>) -> Result<Option<Credential>, Error> {
    let Some(text) = call_helper(name, "get", host, &server_address(host), search_path).await? else { return Ok(None) };
    let malformed = |_| helper_error(name, host, "it does not answer with Username and Secret".to_owned());
    let answer: HelperAnswer = serde_json::from_str(&text).map_err(malformed)?;
    Ok(match answer {
        HelperAnswer { secret, .. } if secret.is_empty() => None,
        HelperAnswer { username, secret } if username == "<token>" => Some(Credential::IdentityToken(secret)),
        HelperAnswer { username, secret } => Some(Credential::Password { user: username, password: secret }),
    })
}

/// Has `docker-credential-<name>` do `verb` with `input`; false when it knows nothing of it.
pub async fn tell_helper(name: &str, verb: &str, host: &str, input: &str, search_path: Option<&OsStr>) -> Result<bool, Error> {
    call_helper(name, verb, host, input, search_path).await.map(|answer| answer.is_some())
}

fn helper_error(name: &str, host: &str, reason: String) -> Error {
    Error::CredentialHelper { helper: name.to_owned(), host: host.to_owned(), reason }
}

/// What the helper prints; None when it has no such credential.
async fn call_helper(name: &str, verb: &str, host: &str, input: &str, search_path: Option<&OsStr>) -> Result<Option<String>, Error> {
    let fail = |reason: String| helper_error(name, host, reason);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(fail("the name of a helper has only letters, digits, `-`, `_` and `.`".to_owned()));
    }
    let output = timeout(Duration::from_secs(60), run_helper(name, verb, input, search_path));
    let output = output.await.map_err(|_| fail("no answer within 60 s".to_owned()))?.map_err(|error| fail(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(Some(text));
    }
    // What a helper prints when it fails is its error message, not a secret.
    let message = if text.trim().is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { text };
    let unknown = message.contains("credentials not found") || message.contains("credentials missing");
    if unknown { Ok(None) } else { Err(fail(message.trim().chars().take(500).collect())) }
}

async fn run_helper(name: &str, verb: &str, input: &str, search_path: Option<&OsStr>) -> std::io::Result<std::process::Output> {
    let mut command = Command::new(format!("docker-credential-{name}"));
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(path) = search_path {
        command.env("PATH", path);
    }
    let mut child = command.spawn()?;
    let mut pipe = child.stdin.take().expect("stdin is piped");
    // A helper that answers without reading is no error.
    let _ = pipe.write_all(input.as_bytes()).await;
    drop(pipe);
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": { "auth": "aHViOnB3" },
            "plain.example": { "auth": "dTpwOnE=" },
            "https://url.example/v2/": { "username": "u", "password": "p" },
            "empty.example": {},
            "token.example": { "auth": "dTpw", "identitytoken": "refresh" },
            "quay.io/team": { "auth": "dGVhbTpw" },
            "quay.io": { "auth": "YWxsOnA=" }
        },
        "credHelpers": { "aws.example": "ecr-login" },
        "HttpHeaders": { "x": "y" }
    }"#;

    fn check(host: &str, repository: &str, expected: &str) {
        let file = CredentialFile::parse(TEXT).unwrap();
        let found = match file.lookups(host, repository).as_slice() {
            [] => "-".to_owned(),
            [Lookup::Known(Credential::Password { user, password })] => format!("{user}/{password}"),
            [Lookup::Known(Credential::IdentityToken(token))] => format!("token {token}"),
            [Lookup::Helper(name)] => format!("helper {name}"),
            other => format!("{other:?}"),
        };
        assert_eq!(found, expected, "{host}/{repository}");
    }

    #[test]
    fn the_nearest_entry_is_found() {
        check("registry-1.docker.io", "library/alpine", "hub/pw");
        check("docker.io", "library/alpine", "hub/pw");
        check("plain.example", "a", "u/p:q");
        check("url.example", "a", "u/p");
        check("empty.example", "a", "-");
        check("other.example", "a", "-");
        check("example", "a", "-");
        check("token.example", "a", "token refresh");
        check("quay.io", "team/app", "team/p");
        check("quay.io", "teams/app", "all/p");
        check("aws.example", "a", "helper ecr-login");
    }

    #[test]
    fn a_store_serves_all_hosts_after_the_file() {
        let file = CredentialFile::parse(r#"{"auths":{"a.example":{"auth":"dTpw"}},"credsStore":"desktop"}"#).unwrap();
        assert_eq!(file.lookups("b.example", "x"), [Lookup::Helper("desktop".to_owned())]);
        assert_eq!(file.lookups("a.example", "x").len(), 2);
    }

    #[test]
    fn broken_files_are_named() {
        assert!(CredentialFile::parse("").is_ok());
        assert!(CredentialFile::parse("{").is_err());
        assert!(CredentialFile::parse(r#"{"auths":{"h":{"auth":"***"}}}"#).unwrap_err().contains("auths of h"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", CredentialFile::parse(TEXT).unwrap());
        assert!(!text.contains("p:q") && !text.contains("refresh"), "{text}");
    }

    #[tokio::test]
    async fn helper_names_with_a_path_are_refused() {
        for name in ["../evil", "/bin/sh", "a/b", "", "a b"] {
            assert!(matches!(ask_helper(name, "h", None).await, Err(Error::CredentialHelper { .. })), "{name}");
        }
    }
}
