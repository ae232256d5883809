//! Places that the environment names: the store, the configuration files of registries.

use std::path::PathBuf;

use crate::{cli::failure::Failure, registry::ConfigPaths};

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
    ConfigPaths { registries, registries_folders, credentials, certificates, authorities: variable("SSL_CERT_FILE").into_iter().collect() }
}
