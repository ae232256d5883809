//! What a build would do: which steps have a result in the store, which would run. Files of contexts are read; nothing is
//! fetched, run or written. Unaware of how it is shown.

use std::sync::Arc;

use crate::{
    build::{
        BuildError, Progress, Request, ResultId, Services, abort,
        bases::{self, ResolvedBases},
        engine::{Engine, World, base_result, stage_inputs},
        inputs::Inputs,
        recorder::Recorder,
        report::Hit,
    },
    plan::{Op, Plan, SourceFrom, StageFacts, VertexId},
};

/// What would become of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prospect {
    /// A base image: nothing is done but to use its layers.
    Base,
    /// Taken from the cache.
    Cached,
    /// It runs.
    Runs,
    /// That depends on what the steps before it make, or on what lies elsewhere.
    Open,
}

/// The graph of one platform and what would become of each of its vertices.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// The graph.
    pub plan: Plan,
    /// Every stage of the Dockerfile, those that the target does without too.
    pub stages: Vec<StageFacts>,
    /// One for each vertex.
    pub prospects: Vec<Prospect>,
}

/// Looks ahead, once for each platform.
pub async fn forecast(request: &Request, services: &Services, progress: &Arc<dyn Progress>) -> Result<Vec<Forecast>, BuildError> {
    let dockerfile = crate::dockerfile::parse(&request.dockerfile).map_err(BuildError::from)?;
    let shared = Arc::new(request.clone());
    let inputs = Arc::new(Inputs::new(shared.clone(), services.clone()));
    let mut forecasts = Vec::new();
    for options in &request.plans {
        let (plan, found) = bases::plan(&dockerfile, options, request, services, progress).await?;
        let known = found.iter().map(|(key, found)| (key.clone(), found.base.clone())).collect();
        let stages = crate::plan::stage_facts(&dockerfile, options, &known)?;
        let world = World {
            request: shared.clone(),
            services: services.clone(),
            inputs: inputs.clone(),
            progress: progress.clone(),
            abort: Arc::new(abort::Abort::new(services.cancel.clone())),
            recorder: Arc::new(Recorder::forgetful(progress.clone())),
        };
        let engine = Engine::new(plan.clone(), found.clone(), world, 1);
        let prospects = engine.prospects(&found).await?;
        forecasts.push(Forecast { plan, stages, prospects });
    }
    // What was read of the contexts need not be read again by the build.
    inputs.save_digests();
    Ok(forecasts)
}

/// What is known of a root filesystem: its identity, or why there is none yet.
#[derive(Clone)]
struct Ground {
    result: Option<ResultId>,
    prospect: Prospect,
}

impl Engine {
    async fn prospects(self: &Arc<Self>, bases: &ResolvedBases) -> Result<Vec<Prospect>, BuildError> {
        let mut grounds: Vec<Ground> = Vec::new();
        let mut prospects = Vec::new();
        for (index, vertex) in self.plan.vertices.iter().enumerate() {
            if let Op::Image(key) = &vertex.op {
                let result = bases.get(key).map(|found| base_result(&found.base.image));
                grounds.push(Ground { result, prospect: Prospect::Base });
                prospects.push(Prospect::Base);
                continue;
            }
            let below = match vertex.parent {
                Some(parent) => grounds[parent.0].clone(),
                None => Ground { result: Some(ResultId::scratch()), prospect: Prospect::Base },
            };
            let (prospect, layer) = self.prospect(VertexId(index), &below, &grounds).await?;
            let result = below.result.zip(layer).map(|(below, layer)| below.with_layer(&layer));
            // A cached step on a ground that is still to be made (COPY --link) doesn't make the ground known.
            let ground = if result.is_some() || prospect != Prospect::Cached { prospect } else { below.prospect };
            grounds.push(Ground { result, prospect: ground });
            prospects.push(prospect);
        }
        Ok(prospects)
    }

    /// What becomes of one step, and its layer's identity where it has one.
    async fn prospect(
        self: &Arc<Self>,
        id: VertexId,
        below: &Ground,
        grounds: &[Ground],
    ) -> Result<(Prospect, Option<String>), BuildError> {
        let vertex = &self.plan.vertices[id.0];
        if vertex.ignore_cache {
            return Ok((Prospect::Runs, None));
        }
        if is_fetched(&vertex.op) {
            return Ok((Prospect::Open, None));
        }
        let parent = match (&below.result, self.is_link(id)) {
            (Some(result), _) => result.clone(),
            // Its key does not hold the parent.
            (None, true) => ResultId::scratch(),
            (None, false) => return Ok((below.prospect, None)),
        };
        let inputs = stage_inputs(&vertex.op);
        // A stage that runs again has another result, whose used files may still be the same.
        if inputs.iter().any(|input| grounds[input.0].result.is_none()) {
            return Ok((Prospect::Open, None));
        }
        let facts = self.definition_facts(id, &parent).await.map_err(|error| error.in_vertex(vertex))?;
        let record = facts.map(|facts| self.usable_record(&facts.key(), Hit::Definition)).transpose()?.flatten();
        Ok(match record {
            Some((record, _)) => (Prospect::Cached, Some(record.layer)),
            None if inputs.is_empty() => (Prospect::Runs, None),
            None => (Prospect::Open, None),
        })
    }
}

/// Whether what it takes has to be asked for elsewhere.
fn is_fetched(op: &Op) -> bool {
    let elsewhere = |from: &SourceFrom| matches!(from, SourceFrom::Url { .. } | SourceFrom::Git { .. });
    matches!(op, Op::Copy(copy) if copy.sources.iter().any(|source| elsewhere(&source.from)))
}
