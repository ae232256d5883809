//! Stages -> vertices: each reachable stage in the order of the file, each instruction on the state that the one before
//! left (BuildKit `dispatchStages`).

mod files;
mod history;
mod metadata;
mod run;
mod state;

use std::collections::BTreeMap;

use crate::{
    dockerfile::{Diagnostic, Dockerfile, scope::Heritage, tree::InstructionKind},
    oci::ImageConfig,
    plan::{
        Bases, Input, Op, Options, Plan, Target, Vertex, VertexId,
        environment::proxy_variables,
        stages::{Command, Ground, Node, NodeId, Origin, Stages},
    },
};
use state::{StageState, empty_config};

/// What a node became.
enum Lowered {
    Stage(Box<StageState>),
    Files(String),
}

struct Lowerer<'a> {
    options: &'a Options,
    bases: &'a Bases,
    stages: &'a Stages,
    proxy_env: Vec<(String, String)>,
    vertices: Vec<Vertex>,
    /// Vertices by what they stand on: twins have the same parent.
    by_parent: BTreeMap<Option<usize>, Vec<usize>>,
    /// What others take files from; None until it is lowered.
    inputs: Vec<Option<Input>>,
    /// What stages leave to those built on them.
    heritage: Heritage<StageState>,
}

pub(super) fn lower(_dockerfile: &Dockerfile, options: &Options, bases: &Bases, stages: Stages) -> Result<Plan, Diagnostic> {
    let mut lowerer = Lowerer {
        options,
        bases,
        stages: &stages,
        proxy_env: proxy_variables(&options.build_args),
        vertices: Vec::new(),
        by_parent: BTreeMap::new(),
        inputs: vec![None; stages.nodes.len()],
        heritage: Heritage::new(stages.nodes.iter().enumerate().map(|(index, node)| match node.ground {
            Ground::Stage(base) if stages.reachable.contains(&NodeId(index)) => Some(base.0),
            _ => None,
        })),
    };
    let mut target = None;
    // What is only named by --from has no instructions: it is there before any stage asks.
    for origin in [Origin::Name, Origin::Stage] {
        for id in stages.reachable.iter().filter(|id| stages.nodes[id.0].origin == origin) {
            lowerer.inputs[id.0] = Some(match lowerer.lower_node(*id)? {
                Lowered::Files(name) => Input::Context(name),
                Lowered::Stage(state) => {
                    let root = state.root;
                    if *id == stages.target {
                        target = Some((*state).clone());
                    }
                    lowerer.heritage.keep(id.0, *state);
                    Input::Vertex(root)
                }
            });
        }
    }
    let target = target.ok_or_else(|| Diagnostic::whole("the target is a context of files, not a stage"))?;
    let target = lowerer.finish(stages.target, target);
    Ok(prune(Plan { vertices: lowerer.vertices, target }))
}

impl Lowerer<'_> {
    fn lower_node(&mut self, id: NodeId) -> Result<Lowered, Diagnostic> {
        let node = &self.stages.nodes[id.0];
        let mut state = match &node.ground {
            Ground::Files(name) if node.origin == Origin::Name => return Ok(Lowered::Files(name.clone())),
            Ground::Files(name) => self.on_files(node, name),
            Ground::Scratch => StageState::new(node, empty_config(self.platform_of(node)), self.platform_of(node).clone()),
            Ground::Image(key) => self.on_image(node, key)?,
            Ground::Stage(base) => self.on_stage(node, *base)?,
        };
        let commands: &[Command] = if node.replaced { &[] } else { &node.commands };
        if node.origin == Origin::Stage {
            state.count_steps(node, commands);
        }
        if let Ground::Image(key) = &node.ground {
            self.image_vertex(node, key, &mut state);
        }
        for command in commands {
            self.dispatch(id, node, &mut state, command).map_err(|fault| match command.is_trigger {
                true => super::stages::in_trigger(fault, node.span, &command.instruction.original),
                false => Diagnostic { span: fault.span.or(Some(command.instruction.span)), ..fault },
            })?;
        }
        Ok(Lowered::Stage(Box::new(state)))
    }

    fn platform_of<'n>(&'n self, node: &'n Node) -> &'n crate::oci::Platform {
        node.platform.as_ref().unwrap_or(&self.options.target_platform)
    }

    fn dispatch(&mut self, id: NodeId, node: &Node, state: &mut StageState, command: &Command) -> Result<(), Diagnostic> {
        match &command.instruction.kind {
            InstructionKind::Run(run) => self.lower_run(id, node, state, command, run),
            InstructionKind::Copy(copy) => self.lower_copy(id, node, state, command, copy),
            InstructionKind::Add(add) => self.lower_add(node, state, command, add),
            InstructionKind::Workdir(path) => self.lower_workdir(node, state, command, path),
            _ => metadata::lower(state, &command.instruction, self.stages, self.options),
        }
    }

    /// Adds a vertex, or finds its twin: equal work is done once.
    fn add_vertex(&mut self, vertex: Vertex) -> VertexId {
        let same = |other: &Vertex| {
            other.op == vertex.op
                && other.parent == vertex.parent
                && other.platform == vertex.platform
                && other.ignore_cache == vertex.ignore_cache
        };
        let siblings = self.by_parent.entry(vertex.parent.map(|id| id.0)).or_default();
        if let Some(index) = siblings.iter().copied().find(|index| same(&self.vertices[*index])) {
            return VertexId(index);
        }
        siblings.push(self.vertices.len());
        self.vertices.push(vertex);
        VertexId(self.vertices.len() - 1)
    }

    fn input_of(&self, id: NodeId) -> Option<Input> {
        self.inputs[id.0].clone()
    }

    fn ignores_cache(&self, node: &Node) -> bool {
        self.options.no_cache || self.options.no_cache_stages.iter().any(|name| name.eq_ignore_ascii_case(&node.stage_name))
    }

    fn step(&mut self, node: &Node, state: &mut StageState, command: &Command, op: Op) -> VertexId {
        let name = state.step_name(&command.instruction, command.is_trigger, self.options.multi_platform);
        let vertex = Vertex {
            op,
            parent: state.root,
            name,
            stage: node.stage_name.clone(),
            platform: state.platform.clone(),
            span: command.instruction.span,
            ignore_cache: self.ignores_cache(node),
        };
        let id = self.add_vertex(vertex);
        state.root = Some(id);
        id
    }

    fn finish(&self, target: NodeId, state: StageState) -> Target {
        let mut config: ImageConfig = state.config;
        for (name, value) in &self.options.labels {
            config.config.labels.insert(name.clone(), value.clone());
        }
        if self.options.explicit_platform {
            adopt_platform(&mut config, &self.options.target_platform);
        }
        let platform = config.platform();
        config.variant = platform.variant.clone();
        config.architecture = platform.architecture.clone();
        let name = self.stages.nodes[target.0].stage_name.clone();
        Target { name, platform, root: state.root, config, base: state.base, history: state.history, epoch: self.stages.epoch }
    }
}

/// The platform that was asked for wins over what the base says of itself (BuildKit `finalizeResultImage`).
fn adopt_platform(config: &mut ImageConfig, wanted: &crate::oci::Platform) {
    let same = wanted.os == config.os && wanted.architecture == config.architecture;
    config.os.clone_from(&wanted.os);
    config.architecture.clone_from(&wanted.architecture);
    if wanted.variant.is_some() || !same {
        config.variant.clone_from(&wanted.variant);
    }
    if wanted.os_version.is_some() || !same {
        config.os_version.clone_from(&wanted.os_version);
    }
    if !wanted.os_features.is_empty() {
        config.os_features.clone_from(&wanted.os_features);
    }
}

/// Leaves only what the target's root and its inputs need.
fn prune(plan: Plan) -> Plan {
    let mut needed = vec![false; plan.vertices.len()];
    let mut pending: Vec<VertexId> =
        plan.target.root.into_iter().chain(plan.target.history.iter().filter_map(|entry| entry.layer)).collect();
    while let Some(id) = pending.pop() {
        if !std::mem::replace(&mut needed[id.0], true) {
            pending.extend(plan.vertices[id.0].inputs());
        }
    }
    let mut renumbered = vec![VertexId(usize::MAX); needed.len()];
    let mut vertices = Vec::new();
    for (index, vertex) in plan.vertices.into_iter().enumerate().filter(|(index, _)| needed[*index]) {
        renumbered[index] = VertexId(vertices.len());
        vertices.push(vertex);
    }
    for vertex in &mut vertices {
        vertex.renumber(&renumbered);
    }
    let mut target = plan.target;
    target.root = target.root.map(|id| renumbered[id.0]);
    for entry in &mut target.history {
        entry.layer = entry.layer.map(|id| renumbered[id.0]);
    }
    Plan { vertices, target }
}
