//! Steps of a plan found among the records of BuildKit's caches, and the layers that they have there.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::OnceCell;

use super::{
    graph::{Graph, MadeLayer},
    keys::{self, Dep, From, Key, Selector, Settings},
};
use crate::{
    build::{
        BuildError, Facts, Hit, LayerPolicy, ResultId,
        engine::{Engine, Realised, base_result},
        layer::{blocking, joined},
        records::Record,
    },
    oci::{ChainId, Digest, Image, Layer, media_type},
    plan::{Op, Vertex, VertexId},
    snapshot::{Compression, copy},
};

/// Which records a step is, by cache.
type Matches = Vec<BTreeSet<usize>>;

/// The caches, and what has been found in them.
pub struct Lookup {
    graphs: Vec<Arc<Graph>>,
    /// The steps that stand on each step.
    above: Vec<Vec<VertexId>>,
    matches: Vec<OnceCell<Matches>>,
    results: Vec<OnceCell<Vec<Known>>>,
}

impl Lookup {
    pub fn new(graphs: Vec<Arc<Graph>>, steps: &[Vertex]) -> Self {
        let (matches, results) = steps.iter().map(|_| (OnceCell::new(), OnceCell::new())).unzip();
        let mut above = vec![Vec::new(); steps.len()];
        for (index, step) in steps.iter().enumerate() {
            step.parent.into_iter().for_each(|parent| above[parent.0].push(VertexId(index)));
        }
        Self { graphs, above, matches, results }
    }

    fn none(&self) -> Matches {
        vec![BTreeSet::new(); self.graphs.len()]
    }
}

/// A result that is known for a step.
struct Known {
    /// The cache, and the records that have it.
    graph: usize,
    records: BTreeSet<usize>,
    /// All layers, bottom first.
    layers: Vec<MadeLayer>,
}

impl Engine {
    /// What BuildKit's caches have for a step on top of this very result.
    pub(in crate::build) async fn buildkit_record(self: &Arc<Self>, id: VertexId, parent: &ResultId) -> Option<Record> {
        if self.buildkit.graphs.is_empty() {
            return None;
        }
        let remote = self.services.remote.as_ref()?;
        for known in self.buildkit_results(id).await {
            let Some((top, below)) = known.layers.split_last() else { continue };
            if self.stands_on(id, below) == Some(parent.clone()) && remote.has(&top.layer.descriptor) {
                let blob = (self.buildkit_policy(&top.layer)?, top.layer.clone());
                let layer = identities(&known.layers).pop()?;
                return Some(Record {
                    layer,
                    created: top.created,
                    writer: Some(String::new()),
                    blobs: vec![blob],
                    searched: BTreeSet::new(),
                    relies_on: BTreeSet::new(),
                });
            }
        }
        None
    }

    /// A step that BuildKit's caches have, taken from there; `facts` are what our own caches would know it by.
    pub(in crate::build) async fn buildkit_hit(
        self: &Arc<Self>,
        id: VertexId,
        parent: &Realised,
        facts: Option<&Facts>,
    ) -> Option<Realised> {
        let record = self.buildkit_record(id, &parent.result).await?;
        let keys: Vec<String> = facts.iter().map(|facts| facts.key()).collect();
        self.note_record(id, &record, keys.clone());
        let key = keys.into_iter().next().unwrap_or_else(|| record.layer.clone());
        Some(self.cached(id, record, parent, &key, Hit::Remote))
    }

    /// Whether BuildKit's caches know a step's result: then its stages need not be there.
    pub(in crate::build) async fn is_known_to_buildkit(self: &Arc<Self>, id: VertexId) -> bool {
        !self.buildkit.graphs.is_empty() && !self.buildkit_results(id).await.is_empty()
    }

    /// A blob of the compression that is asked for is taken as it is, any other is compressed anew.
    fn buildkit_policy(&self, layer: &Layer) -> Option<LayerPolicy> {
        let wanted = self.request.layers.compression;
        let compression = match layer.descriptor.media_type.as_str() {
            media_type::OCI_LAYER | media_type::DOCKER_LAYER => Compression::None,
            media_type::OCI_LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => Compression::GZIP,
            media_type::OCI_LAYER_ZSTD => Compression::ZSTD,
            _ => return None,
        };
        let is_wanted = compression.media_type() == wanted.media_type() && !matches!(wanted, Compression::Estargz(_));
        Some(LayerPolicy { compression: if is_wanted { wanted } else { compression }, ..LayerPolicy::default() })
    }

    /// The identity that a stack of BuildKit's layers has for a step's parent; None unless its base is the step's.
    fn stands_on(&self, id: VertexId, layers: &[MadeLayer]) -> Option<ResultId> {
        let (image, _) = self.base_of(id);
        let diff_ids = image.map(|image| image.config.rootfs.diff_ids.as_slice()).unwrap_or_default();
        let is_base = diff_ids.len() <= layers.len() && layers.iter().zip(diff_ids).all(|(made, diff_id)| made.layer.diff_id == *diff_id);
        let result = image.map_or_else(ResultId::scratch, base_result);
        is_base.then(|| identities(layers).iter().skip(diff_ids.len()).fold(result, |result, layer| result.with_layer(layer)))
    }

    /// The base image that a step stands on, and how many steps high it is above it.
    fn base_of(&self, id: VertexId) -> (Option<&Image>, usize) {
        let (mut at, mut steps) = (Some(id), 0);
        while let Some(id) = at {
            if let Op::Image(key) = &self.plan.vertices[id.0].op {
                return (self.bases.get(key).map(|found| &found.base.image), steps);
            }
            steps += 1;
            at = self.plan.vertices[id.0].parent;
        }
        (None, steps)
    }

    /// How many layers a step's result must have.
    fn height(&self, id: VertexId) -> usize {
        let (image, steps) = self.base_of(id);
        image.map_or(0, |image| image.layers.len()) + steps
    }

    /// What is known of a step's results; worked out once, by a task of its own: a chain of steps that each ask the next
    /// would be as deep a stack.
    async fn buildkit_results(self: &Arc<Self>, id: VertexId) -> &[Known] {
        self.buildkit.results[id.0].get_or_init(|| joined(tokio::spawn(self.clone().find_results(id)))).await
    }

    /// The results that a step's own records have; then the lower parts of those of the steps on top of it, where their
    /// records say that they were made on nothing but what this step is.
    fn find_results(self: Arc<Self>, id: VertexId) -> BoxFuture<'static, Vec<Known>> {
        async move {
            let matches = self.buildkit_matches(id).await;
            // Then nothing on top of it is known either.
            if matches.iter().all(BTreeSet::is_empty) {
                return Vec::new();
            }
            let height = self.height(id);
            let mut results: Vec<Known> = Vec::new();
            for (graph, records) in matches.iter().enumerate() {
                for record in records {
                    let own = self.buildkit.graphs[graph].results(*record).into_iter().filter(|layers| layers.len() == height);
                    results.extend(own.map(|layers| Known { graph, records: BTreeSet::from([*record]), layers }));
                }
            }
            for above in &self.buildkit.above[id.0] {
                for known in self.buildkit_results(*above).await {
                    let (graph, layers) = (&self.buildkit.graphs[known.graph], &known.layers[..height]);
                    let records: BTreeSet<usize> = known.records.iter().flat_map(|record| graph.parents(*record)).collect();
                    let is_new = !results.iter().any(|result| result.graph == known.graph && result.layers == layers);
                    if is_new && !records.is_empty() && records.is_subset(&matches[known.graph]) {
                        results.push(Known { graph: known.graph, records, layers: layers.to_vec() });
                    }
                }
            }
            results
        }
        .boxed()
    }

    /// Which records a step is; worked out once, as are its results.
    async fn buildkit_matches(self: &Arc<Self>, id: VertexId) -> &Matches {
        self.buildkit.matches[id.0].get_or_init(|| joined(tokio::spawn(self.clone().find_in_buildkit(id)))).await
    }

    fn find_in_buildkit(self: Arc<Self>, id: VertexId) -> BoxFuture<'static, Matches> {
        async move {
            let vertex = &self.plan.vertices[id.0];
            // What is made anew is not what it was, nor is what comes of it.
            if vertex.ignore_cache {
                return self.buildkit.none();
            }
            if let Op::Image(name) = &vertex.op {
                let Some(found) = self.bases.get(name) else { return self.buildkit.none() };
                let chain = ChainId::of(&found.base.image.config.rootfs.diff_ids);
                let keys = keys::image_keys(&found.top, &vertex.platform, chain.as_ref());
                let roots = |graph: &Arc<Graph>| keys.iter().flat_map(|key| roots(graph, key)).collect();
                return self.buildkit.graphs.iter().map(roots).collect();
            }
            let (facts, run_defaults) = (&self.request.common_facts, &self.request.run_defaults);
            let settings = Settings { hostname: &facts.hostname, epoch: self.plan.target.epoch, run_defaults };
            let mut found = self.buildkit.none();
            for key in keys::keys(vertex, &settings) {
                for (found, more) in found.iter_mut().zip(self.matching(&key).await) {
                    found.extend(more);
                }
            }
            found
        }
        .boxed()
    }

    /// The records of a key.
    fn matching<'a>(self: &'a Arc<Self>, key: &'a Key) -> BoxFuture<'a, Matches> {
        async move {
            let candidates = |graph: &Arc<Graph>| -> BTreeSet<usize> {
                let fits = |index: &usize| graph.record(*index).inputs.len() == key.deps.len();
                graph.with_digest(&key.digest).iter().copied().filter(fits).collect()
            };
            let mut found: Matches = self.buildkit.graphs.iter().map(candidates).collect();
            for (index, dep) in key.deps.iter().enumerate() {
                // Files are read only for what could be a hit.
                if found.iter().all(BTreeSet::is_empty) {
                    break;
                }
                let (inputs, content) = self.inputs_of(dep).await;
                for ((found, graph), inputs) in found.iter_mut().zip(&self.buildkit.graphs).zip(&inputs) {
                    found.retain(|record| {
                        graph.record(*record).inputs[index].iter().any(|link| {
                            let by_record = link.selector == dep.selector && inputs.contains(&link.link);
                            let by_content =
                                link.selector.is_empty() && content.as_ref().is_some_and(|digest| graph.is_root(link.link, digest));
                            by_record || by_content
                        })
                    });
                }
            }
            found
        }
        .boxed()
    }

    /// The records that an input may be, and the digest that the files used of it go by.
    async fn inputs_of(self: &Arc<Self>, dep: &Dep) -> (Matches, Option<Digest>) {
        match &dep.from {
            From::Vertex(id) => (self.buildkit_matches(*id).await.clone(), None),
            From::Key(key) => (self.matching(key).await, None),
            // One that can't be read is told of by the step itself.
            From::Context(name) => (self.buildkit.none(), self.context_sum(name, &dep.content).await.ok().flatten()),
        }
    }

    async fn context_sum(self: &Arc<Self>, name: &str, selectors: &[Selector]) -> Result<Option<Digest>, BuildError> {
        // What a fetched tree is known by is not its files' owners and modes here.
        if selectors.is_empty() || !self.inputs.is_directory(name) {
            return Ok(None);
        }
        let (files, selectors) = (self.inputs.files(name).await?, selectors.to_vec());
        let sum = move || {
            let ignore = files.ignore.as_ref().map(|(_, ignore)| ignore.matcher());
            let mut sums = Vec::new();
            for Selector { path, follow, wildcard, include, exclude } in &selectors {
                let path = if path.is_empty() { "/" } else { path };
                let selection = copy::Selection { path, wildcard: *wildcard, follow: *follow, include, exclude };
                match copy::tarsum(&files.tree, ignore, &selection) {
                    Ok(Some(sum)) => sums.push(sum.to_string()),
                    _ => return Ok(None),
                }
            }
            Ok(Some(keys::output(&Digest::of(sums.join("\0").as_bytes()), -1)))
        };
        blocking(sum).await
    }
}

fn roots(graph: &Graph, digest: &Digest) -> Vec<usize> {
    graph.with_digest(digest).iter().copied().filter(|index| graph.is_root(*index, digest)).collect()
}

/// The identity of each layer of a stack: two caches with the same layers have the same.
fn identities(layers: &[MadeLayer]) -> Vec<String> {
    let mut chain = blake3::Hasher::new();
    chain.update(b"buildkit");
    let next = |made: &MadeLayer| {
        chain.update(made.layer.diff_id.to_string().as_bytes());
        chain.finalize().to_hex().to_string()
    };
    layers.iter().map(next).collect()
}
