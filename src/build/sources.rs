//! What fetches files and trees from elsewhere, for ADD and for contexts: set up when first needed, caches below the store.
//! Unaware of what is done with them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use tokio::sync::OnceCell;

use crate::{
    build::{BuildError, Kind, error::chain},
    context::{
        git::{GitOptions, GitSource},
        http::{HttpOptions, HttpSource},
    },
    store::{SnapshotDraft, Store},
};

/// What the environment says about fetching.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Ask nobody.
    pub offline: bool,
    /// Proxies, first match wins.
    pub proxies: Vec<reqwest::Proxy>,
    /// Files of more certificate authorities, read when something is fetched.
    pub certificates: Vec<PathBuf>,
    /// What git's process may know: PATH, proxies, certificates.
    pub git_environment: Vec<(OsString, OsString)>,
    /// Socket of the agent for repositories by ssh.
    pub ssh_agent: Option<PathBuf>,
    /// Keys of hosts to trust.
    pub known_hosts: Option<PathBuf>,
}

/// The clients.
#[derive(Debug)]
pub struct Sources {
    store: Store,
    options: SourceOptions,
    http: OnceCell<HttpSource>,
    git: OnceCell<GitSource>,
    work: std::sync::Mutex<Option<SnapshotDraft>>,
}

/// Where downloads of a store are kept.
pub fn downloads_directory(store: &Path) -> PathBuf {
    store.join("sources/http")
}

/// Where repositories of a store are kept.
pub fn repositories_directory(store: &Path) -> PathBuf {
    store.join("sources/git")
}

impl Sources {
    /// Nothing is made yet.
    pub fn new(store: Store, options: SourceOptions) -> Self {
        Self { store, options, http: OnceCell::new(), git: OnceCell::new(), work: std::sync::Mutex::default() }
    }

    /// The client for files.
    pub async fn http(&self) -> Result<&HttpSource, BuildError> {
        let make = || async {
            let mut options = HttpOptions::new(downloads_directory(self.store.root()));
            options.offline = self.options.offline;
            options.proxies.clone_from(&self.options.proxies);
            // A file that can't be read adds no trust.
            let texts = self.options.certificates.iter().filter_map(|path| std::fs::read(path).ok());
            options.certificates = texts.flat_map(|text| reqwest::Certificate::from_pem_bundle(&text).unwrap_or_default()).collect();
            HttpSource::new(options).map_err(|error| BuildError::new(Kind::Step, chain(&error)))
        };
        self.http.get_or_try_init(make).await
    }

    /// The client for repositories.
    pub async fn git(&self) -> Result<&GitSource, BuildError> {
        let make = || async {
            let work = self.work_directory()?;
            let environment = self.options.git_environment.clone();
            let mut options = GitOptions::new(repositories_directory(self.store.root()), work, environment);
            options.offline = self.options.offline;
            options.ssh_agent.clone_from(&self.options.ssh_agent);
            options.known_hosts.clone_from(&self.options.known_hosts);
            Ok(GitSource::new(options))
        };
        self.git.get_or_try_init(make).await
    }

    /// A directory for trees that go with this build. The store knows it as in use.
    pub fn work_directory(&self) -> Result<PathBuf, BuildError> {
        let mut work = self.work.lock().expect("no holder panics");
        if let Some(draft) = &*work {
            return Ok(draft.fs());
        }
        let draft = self.store.new_snapshot().map_err(BuildError::store)?;
        Ok(work.insert(draft).fs())
    }
}
