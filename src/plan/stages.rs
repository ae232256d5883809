//! Which stages there are, what they need, and which of them the target reaches.
//!
//! Follows BuildKit's `buildDispatchStates`, `resolveTarget` and `resolveStages`: a stage is a node; so is every image or
//! context that only COPY --from or a mount names ("unregistered" there, [`Origin::Name`] here).
//! Unaware of what instructions do to the root filesystem.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    dockerfile::{
        self, Diagnostic, Dockerfile, Environment, Span,
        expand::expand_word,
        mount::check_mount,
        suggest,
        tree::{Instruction, InstructionKind},
        trigger_label,
    },
    oci::{Platform, Reference},
    plan::{BaseKey, BaseSource, Bases, ContextKind, Options, environment, epoch},
};

/// Index of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub usize);

/// A stage, or something named by --from.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub origin: Origin,
    /// What it starts from.
    pub ground: Ground,
    /// `stage-N` for a stage without name; empty when it is the only one.
    pub stage_name: String,
    /// FROM --platform.
    pub platform: Option<Platform>,
    /// Triggers of the base first, then its own.
    pub commands: Vec<Command>,
    pub span: Span,
    /// A named context of its own name stands for the whole stage.
    pub replaced: bool,
    triggers_read: bool,
    pub dependencies: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A FROM.
    Stage,
    /// Only named by COPY --from or a mount.
    Name,
}

/// What a node starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ground {
    Scratch,
    Stage(NodeId),
    Image(BaseKey),
    /// A context of files, in place of a stage or an image.
    Files(String),
}

#[derive(Debug, Clone)]
pub(super) struct Command {
    pub instruction: Instruction,
    /// COPY --from: one; RUN: one per mount, None where a mount has no `from`.
    pub sources: Vec<Option<NodeId>>,
    pub is_trigger: bool,
}

/// The answer of [`resolve`].
#[derive(Debug)]
pub(super) struct Stages {
    pub nodes: Vec<Node>,
    pub target: NodeId,
    pub reachable: BTreeSet<NodeId>,
    pub global_args: Environment,
    /// What `bases` lacks, and the line that asks for it first.
    pub missing: BTreeMap<BaseKey, Span>,
    pub escape: char,
    /// `SOURCE_DATE_EPOCH` as resolved.
    pub epoch: Option<i64>,
}

/// Reads the stages and finds what the target reaches, as far as `bases` are known.
pub(super) fn resolve(dockerfile: &Dockerfile, options: &Options, bases: &Bases) -> Result<Stages, Diagnostic> {
    if dockerfile.stages.is_empty() {
        return Err(Diagnostic::whole("dockerfile contains no stages to build"));
    }
    let escape = dockerfile.directives.escape.unwrap_or('\\');
    let mut global_args = environment::global_args_of(dockerfile, options, escape)?;
    let epoch = resolve_epoch(dockerfile, options, &mut global_args)?;
    let mut reader = Reader { nodes: Vec::new(), names: Vec::new(), options, global_args: &global_args, escape };
    for stage in &dockerfile.stages {
        reader.add_stage(stage)?;
    }
    let target = reader.find_target()?;
    reader.read_commands(dockerfile)?;
    reader.check_circles()?;
    if reader.nodes.len() == 1 {
        reader.nodes[0].stage_name.clear();
    }
    let (reachable, missing) = reader.reach(target, bases)?;
    let nodes = reader.nodes;
    Ok(Stages { nodes, target, reachable, global_args, missing, escape, epoch })
}

/// `SOURCE_DATE_EPOCH` as seconds; stages see the number, or nothing when there is none.
fn resolve_epoch(dockerfile: &Dockerfile, options: &Options, global_args: &mut Environment) -> Result<Option<i64>, Diagnostic> {
    let Some(text) = epoch::asked(options, global_args) else { return Ok(None) };
    let epoch = match (text.as_str(), text.parse::<i64>()) {
        ("", _) => None,
        ("context", _) => options.context_epoch,
        (_, Ok(seconds)) => Some(seconds),
        (name, Err(_)) => epoch::find(name, dockerfile, options, global_args).map(|_| options.source_epoch)?,
    };
    if global_args.value(epoch::NAME).is_some() {
        match epoch {
            Some(seconds) => global_args.set(epoch::NAME, seconds.to_string()),
            None => global_args.remove(epoch::NAME),
        }
    }
    Ok(epoch)
}

struct Reader<'a> {
    nodes: Vec<Node>,
    /// Lower-case stage names; a later one of the same name wins.
    names: Vec<(String, NodeId)>,
    options: &'a Options,
    global_args: &'a Environment,
    escape: char,
}

impl Reader<'_> {
    fn find(&self, name: &str) -> Option<NodeId> {
        let wanted = name.to_lowercase();
        self.names.iter().rfind(|(name, _)| *name == wanted).map(|(_, id)| *id)
    }

    fn add_stage(&mut self, stage: &dockerfile::tree::Stage) -> Result<(), Diagnostic> {
        let base_name = environment::word(&stage.base, self.escape, self.global_args)
            .map_err(|fault| Diagnostic { span: Some(stage.span), ..fault })?;
        if base_name.is_empty() {
            return Err(Diagnostic::at(stage.span, format!("base name ({}) should not be blank", stage.base.text))
                .with_hint("an ARG used in FROM must be declared before the first FROM, or given with --build-arg"));
        }
        let platform = stage.platform.as_ref().map(|word| self.platform(word, stage.span)).transpose()?;
        let name = stage.name.as_ref().map(|word| word.text.to_lowercase());
        let index = self.nodes.len();
        let replaced = match &name {
            // A stage of a reserved name is never replaced.
            Some(name) if !matches!(name.as_str(), "scratch" | "context") => self.named_context(name, platform.as_ref(), stage.span)?,
            _ => None,
        };
        let is_replaced = replaced.is_some();
        let (ground, platform) = match replaced {
            Some(ground) => (ground, platform),
            None => self.ground(&base_name, platform, stage.span)?,
        };
        self.nodes.push(Node {
            origin: Origin::Stage,
            ground,
            stage_name: name.clone().unwrap_or_else(|| format!("stage-{index}")),
            platform,
            commands: Vec::new(),
            span: stage.span,
            replaced: is_replaced,
            triggers_read: is_replaced,
            dependencies: BTreeSet::new(),
        });
        if let Some(name) = name {
            self.names.push((name, NodeId(index)));
        }
        Ok(())
    }

    fn platform(&self, word: &dockerfile::Word, span: Span) -> Result<Platform, Diagnostic> {
        let expanded = expand_word(&word.text, self.escape, self.global_args)
            .map_err(|message| Diagnostic::at(span, format!("failed to process arguments for platform: {message}")))?;
        let suggestion = || {
            let names = crate::dockerfile::expand::Lookup::names(self.global_args);
            expanded.unmatched.iter().find_map(|name| suggest::nearest(name, &names)).map(|near| format!("did you mean {near}?"))
        };
        let complain = |message: String| match suggestion() {
            Some(hint) => Diagnostic::at(span, format!("{message} ({hint})")).with_hint(hint),
            None => Diagnostic::at(span, message),
        };
        if expanded.text.is_empty() {
            return Err(complain(format!("empty platform value from expression {}", word.text)));
        }
        expanded.text.parse().map_err(|error| complain(format!("failed to parse platform {}: {error}", word.text)))
    }

    /// An earlier stage, the empty image, a named context or an image of a registry.
    fn ground(&self, base_name: &str, platform: Option<Platform>, span: Span) -> Result<(Ground, Option<Platform>), Diagnostic> {
        // As written: `FROM Builder` does not find a stage `builder` (BuildKit's addState).
        if let Some((_, id)) = self.names.iter().rfind(|(name, _)| name == base_name) {
            return Ok((Ground::Stage(*id), platform));
        }
        if base_name == "scratch" {
            return Ok((Ground::Scratch, platform));
        }
        let reference: Reference =
            base_name.parse().map_err(|error| Diagnostic::at(span, format!("failed to parse stage name \"{base_name}\": {error}")))?;
        let wanted = platform.clone().unwrap_or_else(|| self.options.target_platform.clone());
        if let Some(ground) = self.named_context(&reference.to_string(), Some(&wanted), span)? {
            return Ok((ground, platform));
        }
        let key = BaseKey {
            source: BaseSource::Registry(reference),
            explicit_platform: platform.is_some() || self.options.explicit_platform,
            platform: wanted,
        };
        Ok((Ground::Image(key), platform))
    }

    /// The context given for `name` with --build-context; one for the platform (`name::linux/amd64`) is preferred.
    fn named_context(&self, name: &str, platform: Option<&Platform>, span: Span) -> Result<Option<Ground>, Diagnostic> {
        let name = default_context(name).ok_or_else(|| {
            Diagnostic::at(span, format!("invalid context name {name}: invalid reference format")).with_hint(
                "a --build-context can stand for a stage, so its name must be one that an image can have: single separators between words",
            )
        })?;
        let wanted = platform.unwrap_or(&self.options.target_platform);
        let of_platform = format!("{name}::{wanted}");
        let found = [of_platform, name].into_iter().find_map(|name| self.options.contexts.get(&name).map(|kind| (name, *kind)));
        Ok(found.map(|(name, kind)| match kind {
            ContextKind::Files => Ground::Files(name),
            ContextKind::Scratch => Ground::Scratch,
            ContextKind::Image => Ground::Image(BaseKey {
                source: BaseSource::Context(name),
                platform: wanted.clone(),
                explicit_platform: platform.is_some() && self.options.explicit_platform,
            }),
        }))
    }

    fn find_target(&self) -> Result<NodeId, Diagnostic> {
        let Some(wanted) = &self.options.target else { return Ok(NodeId(self.nodes.len() - 1)) };
        self.find(wanted).ok_or_else(|| {
            let names: Vec<String> = self.nodes.iter().map(|node| node.stage_name.clone()).collect();
            let hint = suggest::nearest(wanted, &names).map(|near| format!("did you mean {near}?"));
            let suffix = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let fault = Diagnostic::whole(format!("target stage \"{wanted}\" could not be found{suffix}"));
            match hint {
                Some(hint) => fault.with_hint(hint),
                None => fault.with_hint(format!("the stages are: {}", names.join(", "))),
            }
        })
    }

    fn read_commands(&mut self, dockerfile: &Dockerfile) -> Result<(), Diagnostic> {
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            for instruction in &stage.instructions {
                let command = self.command(instruction.clone(), false)?;
                self.add_command(NodeId(index), command);
            }
        }
        Ok(())
    }

    fn add_command(&mut self, id: NodeId, command: Command) {
        let node = &mut self.nodes[id.0];
        node.dependencies.extend(command.sources.iter().flatten());
        node.commands.push(command);
    }

    /// The instruction with the nodes that it takes files from.
    fn command(&mut self, instruction: Instruction, is_trigger: bool) -> Result<Command, Diagnostic> {
        let sources = match &instruction.kind {
            InstructionKind::Copy(copy) => match &copy.from {
                Some(from) => {
                    let id = self.copy_source(&from.text, instruction.span)?;
                    vec![Some(id)]
                }
                None => Vec::new(),
            },
            InstructionKind::Run(run) => {
                let mut list = Vec::with_capacity(run.mounts.len());
                for mount in &run.mounts {
                    // A mount that is wrong is refused when it is read, with the variables it needs.
                    let from = check_mount(&mount.text).ok().flatten();
                    list.push(from.map(|name| self.named_source(&name, instruction.span)).transpose()?);
                }
                list
            }
            _ => Vec::new(),
        };
        Ok(Command { instruction, sources, is_trigger })
    }

    fn copy_source(&mut self, from: &str, span: Span) -> Result<NodeId, Diagnostic> {
        let expanded = expand_word(from, self.escape, &Environment::default()).map_err(|message| Diagnostic::at(span, message))?;
        if expanded.text != from {
            return Err(Diagnostic::at(
                span,
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            ));
        }
        match from.parse::<i64>() {
            Ok(number) if number >= 0 && (number as usize) < self.nodes.len() => Ok(NodeId(number as usize)),
            Ok(number) => Err(Diagnostic::at(span, format!("invalid stage index {number}"))),
            Err(_) => self.named_source(from, span),
        }
    }

    /// A stage by name, else a new node for an image or a named context.
    fn named_source(&mut self, name: &str, span: Span) -> Result<NodeId, Diagnostic> {
        if let Some(id) = self.find(name) {
            return Ok(id);
        }
        let (ground, platform) = self.ground(name, None, span)?;
        let twin = self.nodes.iter().position(|node| node.origin == Origin::Name && node.ground == ground);
        Ok(NodeId(twin.unwrap_or_else(|| {
            self.nodes.push(Node {
                origin: Origin::Name,
                ground,
                stage_name: name.to_owned(),
                platform,
                commands: Vec::new(),
                span,
                replaced: false,
                triggers_read: true,
                dependencies: BTreeSet::new(),
            });
            self.nodes.len() - 1
        })))
    }

    /// Stages that copy from each other. A base is always above, so what stands on itself through one is told by its copy
    /// from a later stage (BuildKit's `validateCircularDependency`). In time that grows with the file.
    fn check_circles(&self) -> Result<(), Diagnostic> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut reached_from = vec![0; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut pending = vec![(start, false)];
            while let Some((at, left)) = pending.pop() {
                match (left, marks[at]) {
                    (true, _) => marks[at] = Mark::Done,
                    (false, Mark::New) => {
                        marks[at] = Mark::Open;
                        pending.push((at, true));
                        for next in &self.nodes[at].dependencies {
                            match marks[next.0] {
                                Mark::New => {
                                    reached_from[next.0] = at;
                                    pending.push((next.0, false));
                                }
                                Mark::Open => {
                                    if next.0 == start {
                                        reached_from[start] = at;
                                    }
                                    return Err(self.circle(start, next.0, &reached_from));
                                }
                                Mark::Done => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The first step from `start` into the circle that `stage` is in.
    fn circle(&self, start: usize, stage: usize, reached_from: &[usize]) -> Diagnostic {
        let mut first = stage;
        while reached_from[first] != start {
            first = reached_from[first];
        }
        let node = &self.nodes[start];
        let guilty = node.commands.iter().find(|command| command.sources.contains(&Some(NodeId(first))));
        let span = guilty.map_or(node.span, |command| command.instruction.span);
        Diagnostic::at(span, format!("circular dependency detected on stage: {}", node.stage_name))
    }

    fn direct(&self, id: NodeId) -> Vec<NodeId> {
        let node = &self.nodes[id.0];
        let mut list: Vec<NodeId> = node.dependencies.iter().copied().collect();
        if let Ground::Stage(base) = node.ground {
            list.push(base);
        }
        list
    }

    fn reachable(&self, target: NodeId) -> BTreeSet<NodeId> {
        let mut seen = BTreeSet::from([target]);
        let mut pending = vec![target];
        while let Some(id) = pending.pop() {
            pending.extend(self.direct(id).into_iter().filter(|id| seen.insert(*id)));
        }
        seen
    }

    /// Reads triggers of known bases until they bring nothing new.
    fn reach(&mut self, target: NodeId, bases: &Bases) -> Result<(BTreeSet<NodeId>, BTreeMap<BaseKey, Span>), Diagnostic> {
        loop {
            let reachable = self.reachable(target);
            let mut changed = false;
            for id in &reachable {
                if self.nodes[id.0].triggers_read {
                    continue;
                }
                if let Some(triggers) = self.triggers(*id, bases) {
                    self.nodes[id.0].triggers_read = true;
                    changed |= !triggers.is_empty();
                    self.add_triggers(*id, &triggers)?;
                }
            }
            if !changed {
                let mut missing = BTreeMap::new();
                for id in &reachable {
                    let node = &self.nodes[id.0];
                    if let Ground::Image(key) = &node.ground
                        && !bases.contains_key(key)
                    {
                        missing.entry(key.clone()).or_insert(node.span);
                    }
                }
                return Ok((reachable, missing));
            }
        }
    }

    /// ONBUILD texts that fire in this node; None while its base is not known.
    fn triggers(&self, id: NodeId, bases: &Bases) -> Option<Vec<String>> {
        match &self.nodes[id.0].ground {
            Ground::Scratch | Ground::Files(_) => Some(Vec::new()),
            Ground::Image(key) => bases.get(key).map(|base| base.image.config.config.on_build.clone()),
            Ground::Stage(base) => {
                let base = &self.nodes[base.0];
                base.triggers_read.then(|| {
                    let own = base.commands.iter().filter_map(|command| match &command.instruction.kind {
                        InstructionKind::Onbuild { trigger, .. } => Some(trigger.clone()),
                        _ => None,
                    });
                    own.collect()
                })
            }
        }
    }

    fn add_triggers(&mut self, id: NodeId, triggers: &[String]) -> Result<(), Diagnostic> {
        let span = self.nodes[id.0].span;
        let mut commands = Vec::with_capacity(triggers.len());
        for trigger in triggers {
            let mut instruction = dockerfile::parse_trigger(trigger).map_err(|fault| in_trigger(fault, span, trigger))?;
            instruction.span = span;
            let command = self.command(instruction, true).map_err(|fault| in_trigger(fault, span, trigger))?;
            self.nodes[id.0].dependencies.extend(command.sources.iter().flatten().filter(|source| **source != id));
            commands.push(command);
        }
        let own = std::mem::take(&mut self.nodes[id.0].commands);
        self.nodes[id.0].commands = commands.into_iter().chain(own).collect();
        Ok(())
    }
}

/// A fault of a trigger: the trigger's text is elsewhere, so the FROM that brings it is shown, and what it says.
pub(super) fn in_trigger(fault: Diagnostic, span: Span, trigger: &str) -> Diagnostic {
    Diagnostic { span: Some(span), label: Some(trigger_label(trigger)), ..fault }
}

/// The name under which a --build-context is kept: familiar, without `:latest`. None when it is no name at all.
pub fn default_context(name: &str) -> Option<String> {
    let (name, platform) = match name.split_once("::") {
        Some((name, platform)) => (name, Some(platform)),
        None => (name, None),
    };
    let familiar = name.parse::<Reference>().ok()?.familiar();
    Some(match platform.and_then(|text| text.parse::<Platform>().ok()) {
        Some(platform) => format!("{familiar}::{platform}"),
        None => familiar,
    })
}
