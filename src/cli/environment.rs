//! Places that the environment names: the store, the configuration files of registries, proxies.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    build::SourceOptions,
    cli::{authorities, failure::Failure},
    registry::ConfigPaths,
    sandbox::{Agent, Runner},
};

/// Variables that git's process is told: where its programs are and how to get out.
const GIT_VARIABLES: [&str; 12] = [
    "PATH",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TMPDIR",
];

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `--store`, else `$XDG_DATA_HOME/rbuild`, else `~/.local/share/rbuild`.
pub fn store_root(given: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return std::path::absolute(path).map_err(|error| Failure::new(format!("--store {}: {error}", path.display())));
    }
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    let data = data.ok_or_else(|| {
        Failure::new("where is the store? neither HOME nor XDG_DATA_HOME is set").with_hint("say it with --store DIR or RBUILD_STORE")
    })?;
    Ok(data.join("rbuild"))
}

/// Where logins are kept: what the variables of the containers tools and docker name, else docker's own file.
pub fn login_file() -> Result<PathBuf, Failure> {
    let named = variable("REGISTRY_AUTH_FILE").or_else(|| variable("DOCKER_CONFIG").map(|folder| folder.join("config.json")));
    named
        .or_else(|| variable("HOME").map(|home| home.join(".docker/config.json")))
        .ok_or_else(|| Failure::new("where are logins kept? HOME is not set").with_hint("name a folder with DOCKER_CONFIG"))
}

/// Where registries are configured, in the order of the containers tools and docker.
pub fn registry_paths() -> ConfigPaths {
    let home = variable("HOME");
    let config_home = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let mut registries = Vec::new();
    match variable("CONTAINERS_REGISTRIES_CONF") {
        Some(path) => registries.push(path),
        None => {
            registries.extend(config_home.iter().map(|config| config.join("containers/registries.conf")));
            registries.push("/etc/containers/registries.conf".into());
        }
    }
    let mut registries_folders = vec![PathBuf::from("/etc/containers/registries.conf.d")];
    registries_folders.extend(config_home.iter().map(|config| config.join("containers/registries.conf.d")));
    let mut credentials = Vec::new();
    credentials.extend(variable("REGISTRY_AUTH_FILE"));
    credentials.extend(variable("DOCKER_CONFIG").map(|folder| folder.join("config.json")));
    credentials.extend(variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")));
    credentials.extend(config_home.iter().map(|config| config.join("containers/auth.json")));
    if std::env::var_os("DOCKER_CONFIG").is_none() {
        credentials.extend(home.iter().map(|home| home.join(".docker/config.json")));
    }
    let mut certificates: Vec<PathBuf> = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from).to_vec();
    certificates.extend(config_home.iter().map(|config| config.join("containers/certs.d")));
    let authorities = variable("SSL_CERT_FILE").into_iter().chain(authorities::files().iter().cloned()).collect();
    ConfigPaths { registries, registries_folders, credentials, certificates, authorities }
}

/// How files and trees are fetched. Repositories by ssh use the agent of `--ssh default`; the user's own only where it was
/// the user who named the repository.
pub fn source_options(offline: bool, ssh: &BTreeMap<String, Agent>, lend_agent: bool) -> Result<SourceOptions, Failure> {
    let given = ssh.get("default").map(Agent::socket).transpose();
    let given = given.map_err(|error| Failure::new(format!("--ssh default: cannot start an agent: {error}")))?;
    let bundle = authorities::bundle_path().map(|path| ("GIT_SSL_CAINFO".into(), path.into()));
    let pairs = GIT_VARIABLES.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)));
    let known_hosts = variable("HOME").map(|home| home.join(".ssh/known_hosts")).filter(|path| path.exists());
    Ok(SourceOptions {
        offline,
        proxies: proxies(),
        certificates: variable("SSL_CERT_FILE").into_iter().chain(authorities::files().iter().cloned()).collect(),
        git_environment: pairs.chain(bundle).collect(),
        ssh_agent: given.or_else(|| variable("SSH_AUTH_SOCK").filter(|_| lend_agent)),
        known_hosts,
    })
}

/// `http_proxy`, `https_proxy` and `all_proxy` as curl reads them; lower case wins.
fn proxies() -> Vec<reqwest::Proxy> {
    let value = |name: &str| {
        [name.to_lowercase(), name.to_owned()].iter().find_map(|name| std::env::var(name).ok()).filter(|text| !text.is_empty())
    };
    let except = || reqwest::NoProxy::from_string(&value("NO_PROXY").unwrap_or_default());
    let mut list = Vec::new();
    list.extend(value("HTTP_PROXY").and_then(|url| reqwest::Proxy::http(url).ok()));
    list.extend(value("HTTPS_PROXY").and_then(|url| reqwest::Proxy::https(url).ok()));
    list.extend(value("ALL_PROXY").and_then(|url| reqwest::Proxy::all(url).ok()));
    list.into_iter().map(|proxy| proxy.no_proxy(except())).collect()
}

/// Who runs us, where it says so.
pub fn runner() -> Option<Runner> {
    match (variable("GITHUB_ACTIONS"), variable("GITLAB_CI")) {
        (Some(_), _) => Some(Runner::GitHub),
        (None, Some(_)) => Some(Runner::GitLab),
        (None, None) => None,
    }
}

/// The directories of PATH.
pub fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}
