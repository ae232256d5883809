//! What a stage is at one of its lines: config, variables, root filesystem, history.

use crate::{
    dockerfile::{
        Diagnostic, Environment,
        redact::redact_url,
        tree::{Instruction, InstructionKind},
    },
    oci::{ImageConfig, Platform},
    plan::{
        BaseKey, CopyOp, CopySource, HistoryEntry, Input, Op, SourceFrom, Vertex, VertexId,
        stages::{Command, Ground, Node, NodeId},
    },
};

use super::Lowerer;

/// PATH of an image that has none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Clone)]
pub(super) struct StageState {
    /// ENV and ARG, last writer wins.
    pub environment: Environment,
    pub config: ImageConfig,
    pub platform: Platform,
    pub root: Option<VertexId>,
    pub base: Option<BaseKey>,
    pub history: Vec<HistoryEntry>,
    /// ARGs of the stage chain in order, for the history of RUN.
    pub args: Vec<(String, Option<String>)>,
    /// Whether this stage said CMD: ENTRYPOINT then leaves it alone.
    pub cmd_set: bool,
    stage_name: String,
    steps_total: usize,
    steps_begun: usize,
}

impl StageState {
    pub fn new(node: &Node, config: ImageConfig, platform: Platform) -> Self {
        let mut state = Self {
            environment: Environment::default(),
            config,
            platform,
            root: None,
            base: None,
            history: Vec::new(),
            args: Vec::new(),
            cmd_set: false,
            stage_name: node.stage_name.clone(),
            steps_total: 0,
            steps_begun: 0,
        };
        state.take_config();
        state
    }

    /// Variables, PATH and working directory as the config of the base has them. Its variables come last and count: an ARG
    /// that stood over one of them did so only in the stage that said it.
    fn take_config(&mut self) {
        let has_path = self.config.config.env.iter().any(|entry| entry.starts_with("PATH="));
        if !has_path && self.platform.os != "windows" {
            self.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        self.environment.set_all(self.config.config.env.iter().map(|entry| entry.split_once('=').unwrap_or((entry, ""))));
        // Joined with itself when it is relative, as BuildKit does.
        let working_dir = &mut self.config.config.working_dir;
        *working_dir = normalize_workdir(working_dir, working_dir);
    }

    /// Where relative paths start.
    pub fn cwd(&self) -> &str {
        if self.config.config.working_dir.is_empty() { "/" } else { &self.config.config.working_dir }
    }

    pub fn add_history(&mut self, created_by: String, layer: Option<VertexId>) {
        self.history.push(HistoryEntry { created_by, layer });
    }

    /// `n` of `[stage i/n]`: FROM of an image and what makes a layer; all triggers, as BuildKit counts.
    pub fn count_steps(&mut self, node: &Node, commands: &[Command]) {
        let is_step = |command: &&Command| {
            let kind = &command.instruction.kind;
            command.is_trigger
                || matches!(
                    kind,
                    InstructionKind::Run(_) | InstructionKind::Copy(_) | InstructionKind::Add(_) | InstructionKind::Workdir(_)
                )
        };
        self.steps_total =
            usize::from(matches!(node.ground, Ground::Image(_) | Ground::Files(_))) + commands.iter().filter(is_step).count();
        self.steps_begun = 0;
        self.stage_name = node.stage_name.clone();
    }

    /// `[builder 2/5] RUN make`.
    pub fn step_name(&mut self, instruction: &Instruction, is_trigger: bool, with_platform: bool) -> String {
        let text = one_line(&redact_url(&instruction.original));
        let trigger = if is_trigger { "ONBUILD " } else { "" };
        format!("{}{trigger}{text}", self.step_prefix(with_platform))
    }

    pub fn step_prefix(&mut self, with_platform: bool) -> String {
        if self.steps_total == 0 {
            return String::new();
        }
        self.steps_begun += 1;
        let width = self.steps_total.to_string().len();
        let platform = if with_platform { format!("{} ", self.platform) } else { String::new() };
        let stage = if self.stage_name.is_empty() { String::new() } else { format!("{} ", self.stage_name) };
        format!("[{platform}{stage}{:>width$}/{}] ", self.steps_begun, self.steps_total)
    }
}

impl Lowerer<'_> {
    /// A stage on an image of a registry or a named context.
    pub(super) fn on_image(&self, node: &Node, key: &BaseKey) -> Result<StageState, Diagnostic> {
        let base = self.bases.get(key).ok_or_else(|| Diagnostic::at(node.span, format!("base image {key} was not resolved")))?;
        let mut config = base.image.config.clone();
        config.created = None;
        config.history = Vec::new();
        config.rootfs.diff_ids = Vec::new();
        config.config.on_build = Vec::new();
        let platform = match (&node.platform, self.options.explicit_platform) {
            // Nobody asked for a platform: what the image is for is what the stage is for.
            (None, false) => base.image.config.platform(),
            _ => key.platform.clone(),
        };
        let mut state = StageState::new(node, config, platform);
        state.base = Some(key.clone());
        Ok(state)
    }

    /// The vertex that stands for the base's files; none when it has no layers.
    pub(super) fn image_vertex(&mut self, node: &Node, key: &BaseKey, state: &mut StageState) {
        let Some(base) = self.bases.get(key) else { return };
        if base.image.layers.is_empty() {
            return;
        }
        let name = match &key.source {
            crate::plan::BaseSource::Registry(reference) => match reference.digest() {
                Some(_) => reference.to_string(),
                None => format!("{reference}@{}", base.digest),
            },
            crate::plan::BaseSource::Context(name) => format!("{name} (named context)"),
        };
        let prefix = state.step_prefix(self.options.multi_platform);
        let vertex = Vertex {
            op: Op::Image(key.clone()),
            parent: None,
            name: format!("{prefix}FROM {name}"),
            stage: node.stage_name.clone(),
            platform: state.platform.clone(),
            span: node.span,
            ignore_cache: false,
        };
        state.root = Some(self.add_vertex(vertex));
    }

    /// A stage on an earlier stage.
    pub(super) fn on_stage(&mut self, node: &Node, base: NodeId) -> Result<StageState, Diagnostic> {
        let base = self.heritage.of(base.0);
        let mut state = base.ok_or_else(|| Diagnostic::at(node.span, "the base stage was not lowered"))?;
        state.config.config.on_build = Vec::new();
        state.cmd_set = false;
        state.take_config();
        Ok(state)
    }

    /// A stage whose root filesystem is a context of files.
    pub(super) fn on_files(&mut self, node: &Node, name: &str) -> StageState {
        let platform = self.platform_of(node).clone();
        let mut state = StageState::new(node, empty_config(&platform), platform.clone());
        let op = CopyOp {
            is_add: false,
            sources: vec![CopySource { from: SourceFrom::Input(Input::Context(name.to_owned())), path: "/".to_owned(), unpack: false }],
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            link: true,
            parents: false,
            excludes: Vec::new(),
        };
        let vertex = Vertex {
            op: Op::Copy(Box::new(op)),
            parent: None,
            name: format!("[context {name}] load files"),
            stage: node.stage_name.clone(),
            platform,
            span: node.span,
            ignore_cache: self.ignores_cache(node),
        };
        state.root = Some(self.add_vertex(vertex));
        state
    }
}

impl Vertex {
    /// Gives inputs their new numbers.
    pub(super) fn renumber(&mut self, numbers: &[VertexId]) {
        let change = |id: &mut Option<VertexId>| *id = id.map(|id| numbers[id.0]);
        change(&mut self.parent);
        match &mut self.op {
            Op::Image(_) | Op::Workdir(_) => {}
            Op::Copy(copy) => {
                for source in &mut copy.sources {
                    if let SourceFrom::Input(Input::Vertex(id)) = &mut source.from {
                        change(id);
                    }
                }
            }
            Op::Run(run) => {
                use crate::plan::MountKind;
                for mount in &mut run.mounts {
                    if let MountKind::Bind { from: Input::Vertex(id), .. } | MountKind::Cache { from: Some(Input::Vertex(id)), .. } =
                        &mut mount.kind
                    {
                        change(id);
                    }
                }
            }
        }
    }
}

/// The config of an empty image (BuildKit `emptyImage`).
pub(super) fn empty_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    if platform.os != "windows" {
        config.config.env = vec![format!("PATH={DEFAULT_PATH}")];
    }
    config
}

/// Go's `path.Clean` of an absolute path.
pub(super) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` on top of `cwd` unless it is absolute; cleaned.
pub(super) fn join_path(cwd: &str, path: &str) -> String {
    if path.starts_with('/') { clean_path(path) } else { clean_path(&format!("{cwd}/{path}")) }
}

/// WORKDIR on top of the one before: an absolute path stays as it is written (BuildKit `NormalizeWorkdir`).
pub(super) fn normalize_workdir(cwd: &str, path: &str) -> String {
    match path {
        "" => cwd.to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => clean_path(&format!("{cwd}/{relative}")),
    }
}

/// A name for a step: one line, white space folded.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_ascii_uppercase()),
        None => text,
    }
}
