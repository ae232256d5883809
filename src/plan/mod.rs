//! Tree + args + base configs -> build graph. Pure: same inputs, same [`Plan`].
//! Unaware of IO, clock and environment.
//!
//! The order of questions: [`missing_bases`] says which base images the target needs (only what is reachable from it);
//! when the answer is empty, [`lower`] makes the plan. Triggers of ONBUILD may bring new bases, so the caller asks again
//! after each answer.

mod environment;
mod epoch;
mod facts;
mod graph;
mod lower;
mod options;
mod stages;

pub use epoch::{EpochSource, epoch_source};
pub use facts::{StageFacts, predefined_args, stage_bases, stage_facts};
pub use graph::{
    BaseKey, BaseSource, CacheSharing, CopyOp, CopySource, HistoryEntry, Input, Mount, MountKind, NetworkMode, Op, Plan, RunOp, Script,
    SourceFrom, Target, Vertex, VertexId, WorkdirOp,
};
pub use options::{Base, Bases, ContextKind, Options, RunDefaults, Ulimit};
pub use stages::default_context;

use std::collections::BTreeMap;

use crate::dockerfile::{Diagnostic, Dockerfile, Span};

/// The base images that the target needs and `bases` lacks, each with the line that asks for it; empty when [`lower`] can
/// run.
pub fn missing_bases(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<BTreeMap<BaseKey, Span>, Diagnostic> {
    Ok(stages::resolve(dockerfile, options, bases)?.missing)
}

/// The build graph of the target. Call when [`missing_bases`] is empty.
pub fn lower(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Plan, Diagnostic> {
    let stages = stages::resolve(dockerfile, options, bases)?;
    if let Some(key) = stages.missing.keys().next() {
        return Err(Diagnostic::whole(format!("base image {key} was not resolved")));
    }
    lower::lower(dockerfile, options, bases, stages)
}
