//! COPY, ADD and WORKDIR carried out, and the content digests of what they and the mounts read.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::resource::UsageWho;

use crate::{
    build::{
        BuildError, Kind, Layer,
        engine::{Engine, Realised},
        error::chain,
        fetched::Fetched,
        inputs::Files,
        key::source_name,
        layer::{blocking, directories, open_roots},
        lowers::on_lowers,
        pack::Made,
        recorder::usage,
    },
    dockerfile::{chmod::Chmod, ignore::Matcher, suggest},
    plan::{CopyOp, CopySource, Input, MountKind, Op, SourceFrom, VertexId, WorkdirOp},
    snapshot::{
        self, Ownership, Timestamp,
        copy::{self, CopyRequest, Source, SourceRoot, Style},
        layered::{LayeredRoot, Lower},
    },
    store::SnapshotId,
    sys::root::RootDir,
};

/// A source's files, kept open while the step works.
pub(super) enum Opened {
    Context(Arc<Files>),
    Layers(LayeredRoot),
    Inline { name: String, content: String },
    Fetched(Arc<Fetched>),
}

impl Opened {
    pub fn root(&self) -> SourceRoot<'_> {
        match self {
            Self::Context(files) => {
                SourceRoot::Context { tree: &files.tree, ignore: files.ignore.as_ref().map(|(_, ignore)| ignore.matcher()) }
            }
            Self::Layers(tree) => SourceRoot::Layers(tree),
            Self::Inline { name, content } => SourceRoot::Bytes { name, bytes: content.as_bytes() },
            Self::Fetched(fetched) => fetched.source_root(),
        }
    }
}

/// A COPY that is about to be carried out.
pub(super) struct OpenedCopy {
    pub engine: Arc<Engine>,
    pub id: VertexId,
    pub op: CopyOp,
    pub opened: Vec<Opened>,
}

impl OpenedCopy {
    /// Copies, and lets `write` make a layer of it. What both took is noted once that is done.
    pub fn carry_out<T>(&self, mut root: LayeredRoot, write: impl FnOnce() -> Result<T, BuildError>) -> Result<T, BuildError> {
        let Self { engine, id, op, opened } = self;
        let before = usage(UsageWho::RUSAGE_THREAD);
        let flags = Flags::of(op)?;
        let owner = resolve_owner(op, (!op.link && engine.has_rootfs(*id)).then_some(&root))?;
        let request = flags.request(op, opened, owner, engine.made_time());
        let copied = copy::copy(&request, &mut root).map_err(|error| copy_error(&op.sources, opened, &error).caused_by(&error))?;
        drop(root);
        let written = write()?;
        engine.note_copy(*id, before, copied);
        Ok(written)
    }
}

/// Flags of a COPY in the form that its engine takes.
struct Flags {
    chmod: Option<Chmod>,
    excludes: Option<Matcher>,
}

impl Engine {
    /// The files of an input.
    pub(super) async fn open_input(self: &Arc<Self>, input: &Input) -> Result<Opened, BuildError> {
        match input {
            Input::Context(name) => Ok(Opened::Context(self.inputs.files(name).await?)),
            Input::Vertex(None) => open_layers(Vec::new()).map(Opened::Layers),
            Input::Vertex(Some(id)) => {
                let realised = self.clone().realise(*id).await?;
                let paths = directories(&realised.stack, &self.services, &self.progress).await?;
                open_layers(paths).map(Opened::Layers)
            }
        }
    }

    async fn open_source(self: &Arc<Self>, from: &SourceFrom) -> Result<Opened, BuildError> {
        match from {
            SourceFrom::Input(input) => self.open_input(input).await,
            SourceFrom::Inline { name, content } => Ok(Opened::Inline { name: name.clone(), content: content.clone() }),
            remote => Ok(Opened::Fetched(self.inputs.fetch(remote).await?)),
        }
    }

    pub(super) async fn execute_copy(
        self: &Arc<Self>,
        id: VertexId,
        op: &CopyOp,
        parent: &Realised,
        snapshot: &SnapshotId,
    ) -> Result<Made, BuildError> {
        let mut opened = Vec::with_capacity(op.sources.len());
        for source in &op.sources {
            opened.push(self.open_source(&source.from).await?);
        }
        let below: &[Arc<Layer>] = if op.link { &[] } else { &parent.stack };
        let copy = Arc::new(OpenedCopy { engine: self.clone(), id, op: op.clone(), opened });
        if self.goes_straight(id, op) {
            match self.copy_straight(&copy, below).await {
                Err(error) if error.needs_directory => {}
                result => return result.map(|(packed, relies_on)| Made { packed: Some(packed), relies_on }),
            }
        }
        let (this, snapshot) = (self.clone(), snapshot.clone());
        let into_directory = move |lowers| {
            let draft = this.services.store.new_snapshot().map_err(BuildError::store)?;
            let root = writable(&draft.fs(), lowers, this.services.ownership)?.stopped_by(this.services.cancel.flag());
            copy.carry_out(root, || draft.commit(&snapshot).map(drop).map_err(BuildError::store))
        };
        let ((), relies_on) = on_lowers(below, &self.services, &self.progress, into_directory).await?;
        Ok(Made { packed: None, relies_on })
    }

    pub(super) async fn execute_workdir(
        self: &Arc<Self>,
        op: &WorkdirOp,
        parent: &Realised,
        snapshot: &SnapshotId,
    ) -> Result<Made, BuildError> {
        let time = self.made_time();
        let (op, snapshot, services) = (op.clone(), snapshot.clone(), self.services.clone());
        let made = on_lowers(&parent.stack, &self.services, &self.progress, move |lowers| {
            let draft = services.store.new_snapshot().map_err(BuildError::store)?;
            let has_lowers = !lowers.is_empty();
            let mut root = writable(&draft.fs(), lowers, services.ownership)?;
            let fail = |error: &copy::CopyError| {
                BuildError::new(Kind::Step, format!("cannot make the directory {}: {}", op.path, chain(error))).caused_by(error)
            };
            let owner = match op.user.as_str() {
                "" => (0, 0),
                // As for COPY: without a root filesystem below there is nobody to look up.
                user => copy::resolve_chown(user, has_lowers.then_some(&root)).map_err(|error| fail(&error))?,
            };
            copy::make_workdir(&mut root, Path::new(&op.path), owner, time).map_err(|error| fail(&error))?;
            drop(root);
            draft.commit(&snapshot).map(drop).map_err(BuildError::store)
        });
        let ((), relies_on) = made.await?;
        Ok(Made { packed: None, relies_on })
    }

    /// The time of what a step makes without copying it, when the clock is not to decide.
    fn made_time(&self) -> Option<Timestamp> {
        self.plan.target.epoch.map(|seconds| Timestamp { seconds, nanoseconds: 0 })
    }

    /// Names of users can only be looked up where there is a root filesystem.
    fn has_rootfs(&self, id: VertexId) -> bool {
        self.plan.vertices[id.0].parent.is_some()
    }

    /// The digest of what a vertex uses of one of its inputs; worked out once.
    pub(super) async fn content_of(self: &Arc<Self>, id: VertexId, name: &str) -> Result<String, BuildError> {
        let cell = self.content_cell(id, name);
        let made = cell.get_or_init(|| async { self.digest_input(id, name).await.map(|digest| format!("content:{digest}")) });
        made.await.clone()
    }

    async fn digest_input(self: &Arc<Self>, id: VertexId, name: &str) -> Result<String, BuildError> {
        match &self.plan.vertices[id.0].op {
            Op::Copy(copy) => self.digest_source(id, copy, name).await,
            Op::Run(run) => {
                let named = super::key::mount_names(&run.mounts).into_iter().position(|known| known == name);
                match named.map(|index| &run.mounts[index].kind) {
                    Some(MountKind::Bind { from, source, .. } | MountKind::Cache { from: Some(from), source, .. }) => {
                        self.digest_mount(id, name, from, source).await
                    }
                    _ => Ok(String::new()),
                }
            }
            Op::Image(_) | Op::Workdir(_) => Ok(String::new()),
        }
    }

    async fn digest_source(self: &Arc<Self>, id: VertexId, op: &CopyOp, name: &str) -> Result<String, BuildError> {
        let Some(index) = (0..op.sources.len()).find(|index| source_name(*index) == name) else { return Ok(String::new()) };
        let only = CopyOp { sources: vec![op.sources[index].clone()], ..op.clone() };
        if matches!(only.sources[0].from, SourceFrom::Git { .. }) {
            let identity = self.inputs.git_identity(&only.sources[0].from).await?;
            return Ok(format!("{identity} without {:?}", only.excludes));
        }
        let opened = vec![self.open_source(&only.sources[0].from).await?];
        let (this, fact) = (self.clone(), name.to_owned());
        blocking(move || {
            let flags = Flags::of(&only)?;
            let request = flags.request(&only, &opened, None, None);
            let digests = |key, open: &dyn Fn() -> std::io::Result<File>| this.inputs.file_digest(key, open);
            let (digest, listing) = copy::digest_listed(&request, &digests).map_err(|error| copy_error(&only.sources, &opened, &error))?;
            this.keep_listing(id, &fact, listing);
            Ok(digest.to_string())
        })
        .await
    }

    /// What a mount shows: the whole tree below its source.
    async fn digest_mount(self: &Arc<Self>, id: VertexId, name: &str, from: &Input, source: &str) -> Result<String, BuildError> {
        let opened = [self.open_input(from).await?];
        let sources = [CopySource { from: SourceFrom::Input(from.clone()), path: source.to_owned(), unpack: false }];
        let (this, fact) = (self.clone(), name.to_owned());
        blocking(move || {
            let request = CopyRequest {
                sources: vec![Source { root: opened[0].root(), path: &sources[0].path, unpack: false, parents: false }],
                destination: "/",
                style: Style::default(),
                exclude: None,
            };
            let digests = |key, open: &dyn Fn() -> std::io::Result<File>| this.inputs.file_digest(key, open);
            let (digest, listing) = copy::digest_listed(&request, &digests).map_err(|error| copy_error(&sources, &opened, &error))?;
            this.keep_listing(id, &fact, listing);
            Ok(digest.to_string())
        })
        .await
    }

    /// Content of sources that are fetched: they are known only by fetching (or revalidating) them.
    pub(super) async fn add_remote_contents(
        self: &Arc<Self>,
        id: VertexId,
        contents: &mut BTreeMap<String, String>,
    ) -> Result<(), BuildError> {
        let Op::Copy(copy) = &self.plan.vertices[id.0].op else { return Ok(()) };
        for (index, source) in copy.sources.iter().enumerate() {
            if matches!(source.from, SourceFrom::Url { .. } | SourceFrom::Git { .. }) {
                let name = source_name(index);
                let content = self.content_of(id, &name).await?;
                contents.insert(name, content);
            }
        }
        Ok(())
    }
}

/// The cause rather than the symptom: a file that an ignore file hides is said to be hidden, and by which line.
fn copy_error(sources: &[CopySource], opened: &[Opened], error: &copy::CopyError) -> BuildError {
    let text = chain(error);
    let mut failed = BuildError::new(Kind::Step, format!("failed to compute cache key: {text}"));
    if !text.contains("not found") {
        failed.message = text.clone();
    }
    for (source, opened) in sources.iter().zip(opened) {
        let Opened::Context(files) = opened else { continue };
        let Some((file, ignore)) = &files.ignore else { continue };
        let path = source.path.trim_start_matches("./").trim_matches('/');
        if let Some((line, pattern)) = ignore.deciding_line(path).filter(|_| ignore.matches(path) && text.contains(path)) {
            failed.label = Some(format!("hidden by `{pattern}`"));
            return failed.with_hint(format!("{file}:{line} hides it: `{pattern}`; add `!{path}` below that line to let it through"));
        }
    }
    match error {
        copy::CopyError::NotFound { path } => match near_file(path, sources, opened) {
            Some(near) => failed.with_hint(format!("did you mean {near}?")),
            None => failed,
        },
        _ => failed,
    }
}

/// A file beside the missing one whose name is nearly the same.
fn near_file(missing: &Path, sources: &[CopySource], opened: &[Opened]) -> Option<String> {
    let parent = missing.parent()?;
    let name = missing.file_name()?.to_str()?;
    let is_source = |path: &str| Path::new("/").join(path.trim_start_matches("./").trim_start_matches('/')) == *missing;
    let (_, opened) = sources.iter().zip(opened).find(|(source, _)| is_source(source.path.trim_end_matches('/')))?;
    let names = match opened {
        Opened::Context(files) => files.tree.read_dir(parent).ok()?,
        Opened::Layers(tree) => tree.read_dir(parent).ok()?,
        Opened::Inline { .. } | Opened::Fetched(_) => return None,
    };
    let names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    let same = names.iter().find(|known| known.eq_ignore_ascii_case(name)).cloned();
    let near = same.or_else(|| suggest::nearest(name, &names))?;
    Some(parent.join(near).display().to_string().trim_start_matches('/').to_owned())
}

impl Flags {
    fn of(op: &CopyOp) -> Result<Self, BuildError> {
        let fail = |message: String| BuildError::new(Kind::Step, message);
        let excludes = match op.excludes.as_slice() {
            [] => None,
            patterns => Some(Matcher::new(patterns).map_err(fail)?),
        };
        Ok(Self { chmod: op.chmod.as_deref().map(Chmod::parse).transpose().map_err(fail)?, excludes })
    }

    fn request<'a>(
        &'a self,
        op: &'a CopyOp,
        opened: &'a [Opened],
        owner: Option<(u32, u32)>,
        made_time: Option<Timestamp>,
    ) -> CopyRequest<'a> {
        let sources = op.sources.iter().zip(opened).map(|(source, opened)| Source {
            root: opened.root(),
            path: &source.path,
            unpack: source.unpack,
            parents: op.parents,
        });
        CopyRequest {
            sources: sources.collect(),
            destination: &op.destination,
            style: Style { owner, mode: self.chmod.as_ref(), time: None, made_time },
            exclude: self.excludes.as_ref(),
        }
    }
}

/// The ids of `--chown`; names are looked up in the destination.
fn resolve_owner(op: &CopyOp, root: Option<&LayeredRoot>) -> Result<Option<(u32, u32)>, BuildError> {
    let Some(text) = &op.chown else { return Ok(None) };
    copy::resolve_chown(text, root).map(Some).map_err(|error| BuildError::new(Kind::Step, chain(&error)).caused_by(&error))
}

/// A stack of layers to read from; paths are top first.
pub(super) fn open_layers(paths: Vec<PathBuf>) -> Result<LayeredRoot, BuildError> {
    let fail = |error: std::io::Error| BuildError::new(Kind::Store, format!("cannot open a layer: {error}"));
    let roots = open_roots(&paths).map_err(fail)?;
    LayeredRoot::read_only(roots.into_iter().map(Lower::Directory).collect()).map_err(fail)
}

/// A stack with a new layer on top.
fn writable(upper: &Path, lowers: Vec<Lower>, ownership: Ownership) -> Result<LayeredRoot, BuildError> {
    let fail = |error: std::io::Error| BuildError::new(Kind::Store, format!("cannot open a layer: {error}"));
    let has_lowers = !lowers.is_empty();
    let mut root = LayeredRoot::new(RootDir::open(upper).map_err(fail)?, lowers).map_err(fail)?.with_ownership(ownership);
    if has_lowers {
        root.inherit_root().map_err(fail)?;
    } else {
        inherit_root(upper, &[])?;
    }
    Ok(root)
}

/// The merged root looks as its uppermost layer does: a new one begins as the one below.
pub(super) fn inherit_root(upper: &Path, below: &[PathBuf]) -> Result<(), BuildError> {
    snapshot::inherit_root(upper, below).map_err(|error| BuildError::new(Kind::Store, chain(&error)))
}
