//! What lint and outline need to know of a plan: predefined arguments and the bases of stages. Unaware of rules.

use crate::{
    dockerfile::{Diagnostic, Dockerfile},
    plan::{
        BaseKey, Bases, Options, environment,
        stages::{self, Ground, Origin},
    },
};

/// Platform arguments and `TARGETSTAGE`, as the global scope has them.
pub fn predefined_args(dockerfile: &Dockerfile, options: &Options) -> Vec<(String, String)> {
    let last_name = dockerfile.stages.last().and_then(|stage| stage.name.as_ref()).map(|name| name.text.to_lowercase());
    let target = options.target.clone().or(last_name).unwrap_or_default();
    environment::platform_args(options, &target).to_list()
}

/// The base image of each stage that the target reaches; None for other stages and for stages without an image.
pub fn stage_bases(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Vec<Option<BaseKey>>, Diagnostic> {
    let stages = stages::resolve(dockerfile, options, bases)?;
    let count = dockerfile.stages.len();
    let base = |(index, node): (usize, &stages::Node)| match &node.ground {
        Ground::Image(key) if node.origin == Origin::Stage && stages.reachable.contains(&stages::NodeId(index)) => Some(key.clone()),
        _ => None,
    };
    Ok(stages.nodes.iter().enumerate().take(count).map(base).collect())
}
