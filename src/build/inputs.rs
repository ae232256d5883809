//! The files that a build reads beside its stages: the contexts, opened once and when first needed.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::sync::OnceCell;

use crate::{
    build::{
        BuildError, Kind,
        error::chain,
        fetched::{self, Fetched},
        layer::blocking,
        request::{ContextSource, Request, Services},
    },
    context::FileDigests,
    dockerfile::ignore::IgnoreFile,
    plan::SourceFrom,
    snapshot::{
        copy::{self, CopyRequest, Source, SourceRoot, Style},
        layered::LayeredRoot,
    },
    store::SnapshotDraft,
    sys::{root::RootDir, stat_key::StatKey},
};

/// Where a mounted part of a context lies below its private copy.
pub const MOUNTED: &str = "/content";

/// A directory of files and what of it does not exist for the build.
pub struct Files {
    /// The directory.
    pub tree: LayeredRoot,
    /// `.dockerignore`, with its name.
    pub ignore: Option<(String, IgnoreFile)>,
}

/// The contexts of a build.
pub struct Inputs {
    request: Arc<Request>,
    services: Services,
    open: Mutex<BTreeMap<String, Arc<Files>>>,
    mounted: Mutex<BTreeMap<(String, String), MountCell>>,
    fetched: Mutex<BTreeMap<String, FetchCell>>,
    digests: FileDigests,
    scope: String,
}

/// A private copy of a part of a context, made once.
type MountCell = Arc<OnceCell<Result<Arc<SnapshotDraft>, BuildError>>>;

/// What ADD names, fetched once.
type FetchCell = Arc<OnceCell<Result<Arc<Fetched>, BuildError>>>;

impl Inputs {
    pub fn new(request: Arc<Request>, services: Services) -> Self {
        // A fetched tree lies elsewhere each time: nothing of it is known again.
        let scope = match &request.context {
            ContextSource::Directory { path, .. } => format!("{path:?}"),
            _ => String::new(),
        };
        let rows = services.store.stat_cache(&scope).unwrap_or_default();
        let digests = FileDigests::new(rows);
        let (open, mounted, fetched) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { request, services, open, mounted, fetched, digests, scope }
    }

    /// Keeps the digests of this build's files for the next build. A cache that can't be written is none.
    pub fn save_digests(&self) {
        if let Some(rows) = self.digests.rows().filter(|_| !self.scope.is_empty()) {
            let _ = self.services.store.save_stat_cache(&self.scope, &rows);
        }
    }

    /// A file's digest, remembered if its stat says that nothing changed.
    pub fn file_digest(&self, key: StatKey, open: &dyn Fn() -> io::Result<File>) -> io::Result<[u8; 32]> {
        self.digests.digest(key, open)
    }

    /// A file's digest, if it is known without reading it.
    pub fn known_digest(&self, key: StatKey) -> Option<[u8; 32]> {
        self.digests.remembered(key)
    }

    /// Fetches what ADD names.
    pub async fn fetch(&self, from: &SourceFrom) -> Result<Arc<Fetched>, BuildError> {
        let cell = self.fetched.lock().expect("no holder panics").entry(format!("{from:?}")).or_default().clone();
        let fetch = || async { fetched::fetch(from, &self.request, &self.services.sources).await.map(Arc::new) };
        cell.get_or_init(fetch).await.clone()
    }

    /// What ADD names, if it was fetched.
    pub fn fetched(&self, from: &SourceFrom) -> Option<Result<Arc<Fetched>, BuildError>> {
        let cell = self.fetched.lock().expect("no holder panics").get(&format!("{from:?}")).cloned();
        cell?.get().cloned()
    }

    /// What a repository's tree is known by without fetching it.
    pub async fn git_identity(&self, from: &SourceFrom) -> Result<String, BuildError> {
        fetched::git_identity(from, &self.request, &self.services.sources).await
    }

    /// A private copy of a part of a context, as a mount shows it: root's, without what is ignored.
    pub async fn mount_directory(&self, name: &str, source: &str) -> Result<PathBuf, BuildError> {
        let cell = self.mounted.lock().expect("no holder panics").entry((name.to_owned(), source.to_owned())).or_default().clone();
        let files = self.files(name).await?;
        let made = cell.get_or_init(|| async {
            let (store, source) = (self.services.store.clone(), source.to_owned());
            blocking(move || {
                let draft = store.new_snapshot().map_err(BuildError::store)?;
                let fail = |error: &dyn std::error::Error| {
                    BuildError::new(Kind::Step, format!("cannot mount {source} of the context: {}", chain(error)))
                };
                let root = RootDir::open(&draft.fs()).map_err(|error| fail(&error))?;
                let mut tree = LayeredRoot::new(root, Vec::new()).map_err(|error| fail(&error))?;
                let ignore = files.ignore.as_ref().map(|(_, ignore)| ignore.matcher());
                let root = SourceRoot::Context { tree: &files.tree, ignore };
                let request = CopyRequest {
                    sources: vec![Source { root, path: &source, unpack: false, parents: false }],
                    destination: MOUNTED,
                    style: Style::default(),
                    exclude: None,
                };
                copy::copy(&request, &mut tree).map_err(|error| fail(&error))?;
                Ok(Arc::new(draft))
            })
            .await
        });
        made.await.clone().map(|draft| draft.fs())
    }

    /// Whether a context is a directory of the user's.
    pub fn is_directory(&self, name: &str) -> bool {
        matches!(self.source(name), Some(ContextSource::Directory { .. }))
    }

    fn source(&self, name: &str) -> Option<&ContextSource> {
        if name.is_empty() { Some(&self.request.context) } else { self.request.named_contexts.get(name) }
    }

    /// The main context (empty name) or a named one.
    pub async fn files(&self, name: &str) -> Result<Arc<Files>, BuildError> {
        if let Some(files) = self.open.lock().expect("no holder panics").get(name) {
            return Ok(files.clone());
        }
        let files = Arc::new(open(self.source(name), name)?);
        self.open.lock().expect("no holder panics").insert(name.to_owned(), files.clone());
        Ok(files)
    }
}

fn open(source: Option<&ContextSource>, name: &str) -> Result<Files, BuildError> {
    let fail = |text: String| BuildError::new(Kind::Step, text);
    match source {
        Some(ContextSource::Directory { path, ignore }) => {
            let opened = RootDir::open(path).and_then(|root| LayeredRoot::plain(&root));
            let tree = opened.map_err(|error| fail(format!("cannot open the context {}: {error}", path.display())))?;
            let ignore = match ignore {
                None => None,
                Some((file, text)) => {
                    let parsed = IgnoreFile::parse(text).map_err(|message| fail(format!("{file}: {message}")))?;
                    Some((file.clone(), parsed))
                }
            };
            Ok(Files { tree, ignore })
        }
        Some(ContextSource::Fetched { path }) => {
            let opened = RootDir::open(path).and_then(|root| LayeredRoot::plain(&root));
            Ok(Files { tree: opened.map_err(|error| fail(format!("cannot open the fetched context: {error}")))?, ignore: None })
        }
        Some(ContextSource::Empty) | None => {
            let empty = LayeredRoot::read_only(Vec::new()).map_err(|error| fail(error.to_string()))?;
            Ok(Files { tree: empty, ignore: None })
        }
        Some(_) => Err(fail(format!("the context {name} is an image, not files"))),
    }
}
