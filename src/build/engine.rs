//! Decides for each vertex whether an earlier result stands or the work is to be done, and does it; independent vertices
//! at the same time.
//!
//! A vertex is realised once (its cell). First its parent is, then its definition key is looked up, which takes its
//! input stages by the results they had before: on a hit they are never realised. On a miss they are, and the content
//! key takes them by the digest of the used paths. On a miss again the step runs, alone among all processes that would
//! run it (a lease on its key).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt, join_all, try_join_all};
use tokio::sync::OnceCell;

use crate::{
    build::{
        BuildError, CommonFacts, Event, Facts, Hit, Kind, Layer, Progress, ResultId, StepId,
        abort::Abort,
        assemble::{self, NewLayer},
        bases::ResolvedBases,
        buildkit::Lookup,
        facts,
        inputs::Inputs,
        key::{mount_names, source_name},
        layer::{PolicyBlob, Stack, joined, lease},
        pack::{Made, Packed},
        recorder::Recorder,
        records::{KnownRecord, Record, new_identity},
        request::{PlatformOutcome, Request, Services},
        turns::urgencies,
    },
    plan::{Input, MountKind, Op, Plan, SourceFrom, VertexId},
    snapshot::copy::Listing,
    store::FactsRecord,
};

/// A vertex that is done.
#[derive(Clone)]
pub struct Realised {
    /// Identity of its root filesystem.
    pub result: ResultId,
    /// Its root filesystem.
    pub stack: Arc<Stack>,
}

/// What the engines of all platforms share.
pub struct World {
    pub request: Arc<Request>,
    pub services: Services,
    pub inputs: Arc<Inputs>,
    pub progress: Arc<dyn Progress>,
    pub abort: Arc<Abort>,
    pub recorder: Arc<Recorder>,
}

/// One plan in execution.
pub struct Engine {
    pub(super) plan: Plan,
    pub(super) bases: ResolvedBases,
    pub(super) request: Arc<Request>,
    pub(super) services: Services,
    pub(super) inputs: Arc<Inputs>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) abort: Arc<Abort>,
    first_step: usize,
    /// Steps in caches that BuildKit wrote.
    pub(super) buildkit: Lookup,
    /// What of the request and the plan is in the keys of all steps.
    common: CommonFacts,
    /// What the rest of the build waits for most goes first.
    urgencies: Vec<u64>,
    /// Vertices whose layers are in the result: their blobs are made while the build goes on.
    pub(super) in_result: BTreeSet<VertexId>,
    realised: Vec<OnceCell<Result<Realised, BuildError>>>,
    identities: Vec<OnceCell<Option<ResultId>>>,
    /// The record that each realised or looked-up vertex has, and the keys it stands under.
    pub(super) records: Vec<KnownRecord>,
    /// Whether some step leaves files that need emulation, once a RUN asks.
    pub(super) leaves_unreal_files: OnceLock<bool>,
    /// Content digests of inputs, by vertex and name of the fact.
    contents: Mutex<BTreeMap<(VertexId, String), ContentCell>>,
    /// What those digests were made of.
    pub(super) listings: Mutex<BTreeMap<(VertexId, String), Arc<Listing>>>,
    /// Facts to be written at the end.
    pub(super) facts: Mutex<Vec<FactsRecord>>,
}

/// A content digest that is worked out once.
type ContentCell = Arc<OnceCell<Result<String, BuildError>>>;

impl Engine {
    pub fn new(plan: Plan, bases: ResolvedBases, world: World, first_step: usize) -> Arc<Self> {
        let in_result = chain_of_target(&plan).collect();
        let realised = plan.vertices.iter().map(|_| OnceCell::new()).collect();
        let identities = plan.vertices.iter().map(|_| OnceCell::new()).collect();
        let records = plan.vertices.iter().map(|_| Mutex::default()).collect();
        let contents = Mutex::default();
        let World { request, services, inputs, progress, abort, recorder } = world;
        let common = CommonFacts { epoch: plan.target.epoch, ..request.common_facts.clone() };
        let graphs = services.remote.as_ref().map(|remote| remote.buildkit()).unwrap_or_default();
        Arc::new(Self {
            common,
            buildkit: Lookup::new(graphs, &plan.vertices),
            urgencies: urgencies(&plan),
            plan,
            bases,
            abort,
            recorder,
            request,
            services,
            inputs,
            progress,
            first_step,
            in_result,
            realised,
            identities,
            records,
            leaves_unreal_files: OnceLock::new(),
            contents,
            listings: Mutex::default(),
            facts: Mutex::default(),
        })
    }

    /// How many steps its events speak of.
    pub fn steps(&self) -> usize {
        self.plan.vertices.len()
    }

    /// What made each new layer of the target, bottom first.
    fn steps_of_layers(&self) -> Vec<String> {
        let chain = chain_of_target(&self.plan).map(|id| &self.plan.vertices[id.0]);
        let mut names: Vec<String> = chain.filter(|vertex| !matches!(vertex.op, Op::Image(_))).map(|vertex| vertex.name.clone()).collect();
        names.reverse();
        names
    }

    /// Builds the target.
    pub async fn run(self: Arc<Self>) -> Result<PlatformOutcome, BuildError> {
        for (index, vertex) in self.plan.vertices.iter().enumerate() {
            let inputs: Vec<StepId> = vertex.inputs().into_iter().map(|id| self.step(id)).collect();
            self.progress.event(Event::Declared { step: self.step(VertexId(index)), name: &vertex.name, inputs: &inputs });
        }
        self.note_plan();
        let target = &self.plan.target;
        let stack = match target.root {
            Some(root) => self.clone().realise(root).await?.stack,
            None => Arc::default(),
        };
        // Nobody looked into stages whose copies are cached: their steps are as cached as these.
        for (index, _) in self.realised.iter().enumerate().filter(|(_, realised)| realised.get().is_none()) {
            let step = self.step(VertexId(index));
            self.recorder.note_step(step, |report| report.hit = Some(Hit::Unneeded));
            self.progress.event(Event::Cached { step });
        }
        let new = stack.iter().filter(|layer| layer.created().is_some());
        let this = &self;
        let new_layers = try_join_all(new.zip(self.steps_of_layers()).map(|(layer, name)| async move {
            let blob = match this.vertex_of(layer) {
                Some(id) => this.blob(id, layer).await?,
                None => layer.blob(this.request.layers, &this.services, &this.progress).await?,
            };
            Ok::<_, BuildError>(NewLayer { layer: blob, name, created: layer.created().unwrap_or_default() })
        }));
        let new_layers = new_layers.await?;
        self.remember_blobs()?;
        self.note_layers();
        let (cache, known_layers) = match self.request.cache_export.map(|mode| mode == super::CacheMode::Max) {
            Some(all) => (self.cache_entries(all).await?, self.known_layers(all).await?),
            None => (Vec::new(), Vec::new()),
        };
        let base = target.base.as_ref().and_then(|key| self.bases.get(key));
        let image = assemble::assemble(target, base.map(|found| &found.base), &new_layers);
        self.refuse_secrets(&image.config)?;
        self.recorder.note_result(&image);
        let base_platform = base.map(|found| found.base.image.config.platform());
        let base = target.base.as_ref().zip(base).map(|(key, found)| (key.to_string(), found.base.digest.clone()));
        let (platform, stack, materials) = (target.platform.clone(), stack.to_vec(), self.materials());
        Ok(PlatformOutcome { platform, image, stack, cache, known_layers, epoch: target.epoch, materials, base, base_platform })
    }

    /// A vertex's result as far as there is one.
    pub(super) fn realised_vertex(&self, id: VertexId) -> Option<&Result<Realised, BuildError>> {
        self.realised[id.0].get()
    }

    pub(super) fn step(&self, id: VertexId) -> StepId {
        StepId(self.first_step + id.0)
    }

    /// The vertex's result; worked out once, whoever asks.
    pub(super) fn realise(self: Arc<Self>, id: VertexId) -> BoxFuture<'static, Result<Realised, BuildError>> {
        async move {
            let made = self.realised[id.0].get_or_init(|| {
                let this = self.clone();
                // A task of its own: work goes on in parallel whoever polls.
                joined(tokio::spawn(async move {
                    let result = this.clone().work_out(id).await;
                    if let Err(error) = &result {
                        this.abort.fail(error);
                    }
                    result
                }))
            });
            made.await.clone()
        }
        .boxed()
    }

    async fn work_out(self: Arc<Self>, id: VertexId) -> Result<Realised, BuildError> {
        let vertex = &self.plan.vertices[id.0];
        if let Op::Image(key) = &vertex.op {
            return self.image(id, key);
        }
        // Stages that have to be built anyway start now, beside the parent.
        let eager = self.clone().realise_unknown_inputs(id);
        let parent = async {
            match vertex.parent {
                Some(parent) => self.clone().realise(parent).await,
                None => Ok(Realised { result: ResultId::scratch(), stack: Arc::default() }),
            }
        };
        let (eager, parent) = tokio::join!(eager, parent);
        let parent = parent?;
        eager?;
        self.with_parent(id, parent).await.map_err(|error| error.in_vertex(vertex))
    }

    fn image(&self, id: VertexId, key: &crate::plan::BaseKey) -> Result<Realised, BuildError> {
        let found = self.bases.get(key).ok_or_else(|| BuildError::new(Kind::Base, format!("base image {key} was not resolved")))?;
        let step = self.step(id);
        let stack = Layer::base_stack(&found.base.image.layers, &found.source, step, &self.services);
        self.progress.event(Event::Started { step });
        self.progress.event(Event::Finished { step, duration: Duration::ZERO });
        Ok(Realised { result: base_result(&found.base.image), stack: Arc::new(stack) })
    }

    async fn realise_unknown_inputs(self: Arc<Self>, id: VertexId) -> Result<(), BuildError> {
        if self.is_known_to_buildkit(id).await {
            return Ok(());
        }
        let inputs = stage_inputs(&self.plan.vertices[id.0].op);
        let known = join_all(inputs.iter().map(|input| self.identity(*input))).await;
        let unknown = inputs.iter().zip(known).filter(|(_, identity)| identity.is_none()).map(|(input, _)| *input);
        try_join_all(unknown.map(|input| self.clone().realise(input))).await.map(drop)
    }

    async fn with_parent(self: &Arc<Self>, id: VertexId, parent: Realised) -> Result<Realised, BuildError> {
        let vertex = &self.plan.vertices[id.0];
        let by_definition = match vertex.ignore_cache {
            true => None,
            false => self.definition_facts(id, &parent.result).await?,
        };
        if let Some(facts) = &by_definition
            && let Some((record, hit)) = self.usable_record(&facts.key(), Hit::Definition)?
        {
            self.note_record(id, &record, vec![facts.key()]);
            if stage_inputs(&vertex.op).is_empty() {
                self.keep_facts_of_hit(id, facts);
            }
            return Ok(self.cached(id, record, &parent, &facts.key(), hit));
        }
        if let Some(found) = self.buildkit_hit(id, &parent, by_definition.as_ref()).await {
            return Ok(found);
        }
        let inputs = stage_inputs(&vertex.op);
        try_join_all(inputs.iter().map(|input| self.clone().realise(*input))).await?;
        let by_content = self.content_facts(id, &parent.result).await?;
        let key = by_content.key();
        let _lease = self.lease(id, &key).await?;
        if !vertex.ignore_cache
            && let Some((record, hit)) = self.usable_record(&key, Hit::Content)?
        {
            self.write_record(id, &parent.result, &key, &record, false).await?;
            self.keep_facts_of_hit(id, &by_content);
            return Ok(self.cached(id, record, &parent, &key, hit));
        }
        self.execute(id, parent, by_content).await
    }

    /// Makes the step's layer and writes it down.
    async fn execute(self: &Arc<Self>, id: VertexId, parent: Realised, facts: Facts) -> Result<Realised, BuildError> {
        let step = self.step(id);
        let ready_ms = self.recorder.ms_of(Instant::now());
        let key = facts.key();
        let layer = new_identity(&key);
        self.recorder.note_step(step, |report| (report.key, report.ready_ms) = (Some(key.clone()), ready_ms));
        let (result, duration) = {
            let _turn = self.services.turns.take(self.urgencies[id.0]).await;
            self.abort.check()?;
            self.tell_why(id, &facts);
            let started = Instant::now();
            self.progress.event(Event::Started { step });
            let snapshot = self.services.snapshot_of_step(&layer);
            let result = match &self.plan.vertices[id.0].op {
                Op::Run(run) => self.execute_run(id, run, &parent, &snapshot).await.map(|()| Made::default()),
                Op::Copy(copy) => self.execute_copy(id, copy, &parent, &snapshot).await,
                Op::Workdir(workdir) => self.execute_workdir(workdir, &parent, &snapshot).await,
                Op::Image(_) => unreachable!("images are never executed"),
            };
            (result, started.elapsed())
        };
        let Made { packed, relies_on } = match result {
            Ok(made) => made,
            Err(error) => {
                self.progress.event(Event::Failed { step, error: &error.message, duration });
                return Err(error);
            }
        };
        self.progress.event(Event::Finished { step, duration });
        let blobs: Vec<PolicyBlob> = packed.iter().map(|packed| (self.request.layers, packed.blob.clone())).collect();
        let searched = if blobs.is_empty() { BTreeSet::new() } else { self.services.secrets.names() };
        let record = Record { layer, created: jiff::Timestamp::now(), writer: None, blobs, searched, relies_on };
        self.write_record(id, &parent.result, &key, &record, true).await?;
        self.keep_facts(id, &facts);
        Ok(self.realised_from(id, record, &parent, packed))
    }

    pub(super) fn cached(self: &Arc<Self>, id: VertexId, record: Record, parent: &Realised, key: &str, hit: Hit) -> Realised {
        self.recorder.note_step(self.step(id), |report| (report.key, report.hit) = (Some(key.to_owned()), Some(hit)));
        self.progress.event(Event::Cached { step: self.step(id) });
        self.realised_from(id, record, parent, None)
    }

    fn realised_from(self: &Arc<Self>, id: VertexId, record: Record, parent: &Realised, packed: Option<Packed>) -> Realised {
        let below = if self.is_link(id) { Stack::new() } else { parent.stack.to_vec() };
        let blobs = self.faithful(&record.blobs);
        let snapshot = self.services.snapshot_of_step(&record.layer);
        let layer = Layer::of_step(snapshot, below, record.created, blobs, record.searched.clone());
        let layer = Arc::new(match packed {
            Some(packed) => layer.known_by(packed),
            None => layer,
        });
        if self.in_result.contains(&id) && !record.blobs.iter().any(|(policy, _)| *policy == self.request.layers) {
            // Packed in the background of the next step; whoever needs the blob waits on the same cell.
            let (layer, this) = (layer.clone(), self.clone());
            tokio::spawn(async move { this.blob(id, &layer).await });
        }
        let mut stack = parent.stack.to_vec();
        stack.push(layer);
        Realised { result: parent.result.with_layer(&record.layer), stack: Arc::new(stack) }
    }

    pub(super) fn is_link(&self, id: VertexId) -> bool {
        matches!(&self.plan.vertices[id.0].op, Op::Copy(copy) if copy.link)
    }

    pub(super) fn is_in_result(&self, id: VertexId) -> bool {
        self.in_result.contains(&id)
    }

    /// The cell of an input's content digest.
    pub(super) fn content_cell(&self, id: VertexId, name: &str) -> ContentCell {
        self.contents.lock().expect("no holder panics").entry((id, name.to_owned())).or_default().clone()
    }

    /// The result that a vertex had in an earlier build, found without working anything out.
    fn identity(self: &Arc<Self>, id: VertexId) -> BoxFuture<'static, Option<ResultId>> {
        let this = self.clone();
        async move {
            if let Some(Ok(realised)) = this.realised[id.0].get() {
                return Some(realised.result.clone());
            }
            // As with results, no step waits on the stack of another.
            let find = this.clone().find_identity(id);
            this.identities[id.0].get_or_init(|| joined(tokio::spawn(find))).await.clone()
        }
        .boxed()
    }

    async fn find_identity(self: Arc<Self>, id: VertexId) -> Option<ResultId> {
        let vertex = &self.plan.vertices[id.0];
        if vertex.ignore_cache {
            return None;
        }
        if let Op::Image(key) = &vertex.op {
            return self.bases.get(key).map(|found| base_result(&found.base.image));
        }
        let parent = match vertex.parent {
            Some(parent) => self.identity(parent).await?,
            None => ResultId::scratch(),
        };
        let facts = self.definition_facts(id, &parent).await.ok()??;
        // That its layer may be gone doesn't change what it was.
        let known = self.record(&facts.key()).ok()?;
        let record = if known.is_some() { known } else { self.buildkit_record(id, &parent).await }?;
        // A cache that this build writes has to say it too, or what copies from the stage would not be found by definition.
        self.records[id.0].lock().expect("no holder panics").get_or_insert_with(|| (record.clone(), vec![facts.key()]));
        Some(parent.with_layer(&record.layer))
    }

    /// Facts with input stages taken by their results; None while one has none.
    pub(super) async fn definition_facts(self: &Arc<Self>, id: VertexId, parent: &ResultId) -> Result<Option<Facts>, BuildError> {
        let mut contents = BTreeMap::new();
        for (name, input) in self.named_inputs(id) {
            let content = match &input {
                Input::Vertex(Some(vertex)) => match self.identity(*vertex).await {
                    Some(result) => format!("result:{}", result.0),
                    None => return Ok(None),
                },
                Input::Vertex(None) => "empty".to_owned(),
                Input::Context(_) => self.content_of(id, &name).await?,
            };
            contents.insert(name, content);
        }
        self.add_remote_contents(id, &mut contents).await?;
        Ok(Some(facts(&self.plan.vertices[id.0], parent, &contents, &self.common)))
    }

    /// Facts with every input taken by the digest of what is used of it.
    pub(super) async fn content_facts(self: &Arc<Self>, id: VertexId, parent: &ResultId) -> Result<Facts, BuildError> {
        let mut contents = BTreeMap::new();
        for (name, input) in self.named_inputs(id) {
            let content = match &input {
                Input::Vertex(None) => "empty".to_owned(),
                _ => self.content_of(id, &name).await?,
            };
            contents.insert(name, content);
        }
        self.add_remote_contents(id, &mut contents).await?;
        Ok(facts(&self.plan.vertices[id.0], parent, &contents, &self.common))
    }

    /// Each input with the name of its fact.
    pub(super) fn named_inputs(&self, id: VertexId) -> Vec<(String, Input)> {
        match &self.plan.vertices[id.0].op {
            Op::Image(_) | Op::Workdir(_) => Vec::new(),
            Op::Copy(copy) => {
                let named = copy.sources.iter().enumerate();
                named
                    .filter_map(|(index, source)| match &source.from {
                        SourceFrom::Input(input) => Some((source_name(index), input.clone())),
                        _ => None,
                    })
                    .collect()
            }
            Op::Run(run) => {
                let named = run.mounts.iter().zip(mount_names(&run.mounts));
                let inputs = named.filter_map(|(mount, name)| match &mount.kind {
                    MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => Some((name, from.clone())),
                    _ => None,
                });
                inputs.collect()
            }
        }
    }

    /// One process at a time works on a key; the others wait and find the result.
    async fn lease(&self, id: VertexId, key: &str) -> Result<crate::store::Lease, BuildError> {
        let text = "waiting for another build that runs this step";
        lease(&self.services.store, key, || self.progress.event(Event::Note { step: Some(self.step(id)), text })).await
    }
}

/// The vertices that the target stands on, top first.
fn chain_of_target(plan: &Plan) -> impl Iterator<Item = VertexId> + '_ {
    std::iter::successors(plan.target.root, |id| plan.vertices[id.0].parent)
}

/// The stages that an operation reads beside its parent.
pub(super) fn stage_inputs(op: &Op) -> Vec<VertexId> {
    let mut list: Vec<VertexId> = match op {
        Op::Image(_) | Op::Workdir(_) => Vec::new(),
        Op::Copy(copy) => {
            let from = copy.sources.iter().filter_map(|source| match &source.from {
                SourceFrom::Input(Input::Vertex(id)) => *id,
                _ => None,
            });
            from.collect()
        }
        Op::Run(run) => {
            let from = run.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from: Input::Vertex(id), .. } | MountKind::Cache { from: Some(Input::Vertex(id)), .. } => *id,
                _ => None,
            });
            from.collect()
        }
    };
    list.sort();
    list.dedup();
    list
}

pub(super) fn base_result(image: &crate::oci::Image) -> ResultId {
    match crate::oci::ChainId::of(&image.config.rootfs.diff_ids) {
        Some(chain) => ResultId(format!("chain:{chain}")),
        None => ResultId::scratch(),
    }
}
