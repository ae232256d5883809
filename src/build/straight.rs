//! COPY and ADD written straight from the context into a blob, where nobody in this build reads what they make as files:
//! no inode is made and no byte is written twice. The layer is the very one that it would be by way of a directory.
//!
//! | Goes by way of a directory | because |
//! |---|---|
//! | what a later RUN, COPY --from or mount reads, or an output that is files | it would be unpacked at once |
//! | what no image of this build holds | it is not packed |
//! | files of a stage or of the web, archives, devices, very many files | a sketch does not hold them |
//! | times that the output sets (`rewrite-timestamp`) | they are not the step's own: a later build wants those |
//! | programs of another processor | whether they are meant to be where they are is asked of the files (`foreign`) |
//! | a file that becomes shorter meanwhile, or can't be read; a secret | copied first, it may go well, and errors are told better |
//!
//! A later build that has such a step cached and needs its files unpacks the blob; without the blob it is a miss.
//! Unaware of how copies choose their files.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use crate::{
    build::{
        BuildError, Kind, Layer,
        copy::OpenedCopy,
        engine::{Engine, stage_inputs},
        foreign::is_foreign,
        lowers::on_lowers,
        pack::{Packed, pack_sketch},
    },
    plan::{CopyOp, Input, Op, Plan, SourceFrom, VertexId},
    snapshot::{
        Questions,
        layered::{LayeredRoot, Sketch},
    },
};

impl Engine {
    /// Whether a COPY's layer is wanted as a blob and nothing else.
    pub(super) fn goes_straight(&self, id: VertexId, op: &CopyOp) -> bool {
        let is_at_hand = |from: &SourceFrom| matches!(from, SourceFrom::Input(Input::Context(_)) | SourceFrom::Inline { .. });
        self.is_in_result(id)
            && !self.request.wants_files
            && self.request.layers.clamp_to.is_none()
            && op.sources.iter().all(|source| is_at_hand(&source.from))
            && !is_read_later(&self.plan, id)
    }

    pub(super) async fn copy_straight(
        self: &Arc<Self>,
        copy: &Arc<OpenedCopy>,
        below: &[Arc<Layer>],
    ) -> Result<(Packed, BTreeSet<String>), BuildError> {
        let (copy, this, policy) = (copy.clone(), self.clone(), self.request.layers);
        on_lowers(below, &self.services, &self.progress, move |lowers| {
            let started = Instant::now();
            let fail = |error: std::io::Error| BuildError::new(Kind::Store, format!("cannot open a layer: {error}")).caused_by(&error);
            let sketch = Arc::new(Sketch::default());
            let root = LayeredRoot::sketched(&sketch, &lowers).map_err(fail)?;
            let mut root = root.with_ownership(this.services.ownership).stopped_by(this.services.cancel.flag());
            root.inherit_root().map_err(fail)?;
            copy.carry_out(root, || {
                let digest = |key| this.inputs.known_digest(key);
                let is_looked_at = |head: &[u8; 20]| is_foreign(head, &this.plan.vertices[copy.id.0].platform);
                let questions = Questions { digest: &digest, is_looked_at: &is_looked_at };
                let blob = pack_sketch(&sketch, lowers, policy, questions, &this.services)?;
                Ok(Packed { blob, index: Arc::new(sketch.take_index()), started, took: started.elapsed() })
            })
        })
        .await
    }
}

/// Whether a later step reads the files of what a vertex makes.
fn is_read_later(plan: &Plan, id: VertexId) -> bool {
    let stands_on = |top: VertexId| std::iter::successors(Some(top), |at| plan.vertices[at.0].parent).any(|at| at == id);
    plan.vertices.iter().any(|vertex| {
        let is_run_on = matches!(vertex.op, Op::Run(_)) && vertex.parent.is_some_and(stands_on);
        is_run_on || stage_inputs(&vertex.op).into_iter().any(stands_on)
    })
}
