//! What lint, outline and pictures need to know of a plan: predefined arguments, stages, the bases of stages. Unaware of
//! rules.

use serde::Serialize;

use crate::{
    dockerfile::{Diagnostic, Dockerfile, Span},
    plan::{
        BaseKey, Bases, Options, environment,
        stages::{self, Ground},
    },
};

/// Platform arguments and `TARGETSTAGE`, as the global scope has them.
pub fn predefined_args(dockerfile: &Dockerfile, options: &Options) -> Vec<(String, String)> {
    let last_name = dockerfile.stages.last().and_then(|stage| stage.name.as_ref()).map(|name| name.text.to_lowercase());
    let target = options.target.clone().or(last_name).unwrap_or_default();
    environment::platform_args(options, &target).to_list()
}

/// The base image of each stage; None for stages without one.
pub fn stage_bases(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Vec<Option<BaseKey>>, Diagnostic> {
    let stages = stages::resolve(dockerfile, options, bases)?;
    let count = dockerfile.stages.len();
    let base = |node: &stages::Node| match &node.ground {
        Ground::Image(key) => Some(key.clone()),
        _ => None,
    };
    Ok(stages.nodes.iter().take(count).map(base).collect())
}

/// A stage among the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageFacts {
    /// Its name, or `stage-N`; empty when it is the only one.
    pub name: String,
    /// What stands behind FROM, as written.
    pub base: String,
    /// Whether the target needs it; the target is needed.
    pub is_needed: bool,
    /// Whether it is the target.
    pub is_target: bool,
    /// The stages that it needs itself: its base, and those that it takes files from.
    pub needs: Vec<usize>,
    /// How many instructions it has, FROM not counted.
    pub instructions: usize,
    /// The FROM line.
    pub span: Span,
}

/// Every stage of the file, in its order.
pub fn stage_facts(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Vec<StageFacts>, Diagnostic> {
    let stages = stages::resolve(dockerfile, options, bases)?;
    let facts = dockerfile.stages.iter().zip(&stages.nodes).enumerate().map(|(index, (stage, node))| {
        let own = stages::NodeId(index);
        let needs = node.dependencies.iter().chain(match &node.ground {
            Ground::Stage(base) => Some(base),
            _ => None,
        });
        let needs: std::collections::BTreeSet<usize> = needs.map(|id| id.0).filter(|id| *id < dockerfile.stages.len()).collect();
        StageFacts {
            name: node.stage_name.clone(),
            base: stage.base.text.clone(),
            is_needed: stages.reachable.contains(&own),
            is_target: stages.target == own,
            needs: needs.into_iter().collect(),
            instructions: stage.instructions.len(),
            span: stage.span,
        }
    });
    Ok(facts.collect())
}
