//! What variables are worth, line by line, without building anything: for lint and outline.
//! Unaware of images (the caller tells what a base sets) and of rules.

use super::environment::{Environment, NOT_VARIABLES};
use super::expand::{Expanded, Lookup, expand_heredoc, expand_word};
use super::mount::{MountOptions, parse_mount};
use super::tree::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What stages hand down to those built on them: the last one to ask gets the thing itself, those before it a copy, and
/// what nobody will ask for is dropped. So a long chain of stages costs no more than its instructions.
#[derive(Debug)]
pub struct Heritage<T> {
    heirs: Vec<usize>,
    kept: Vec<Option<T>>,
}

impl<T: Clone> Heritage<T> {
    /// `bases` has for each stage the one that it is built on.
    pub fn new(bases: impl IntoIterator<Item = Option<usize>>) -> Self {
        let bases: Vec<Option<usize>> = bases.into_iter().collect();
        let mut heirs = vec![0; bases.len()];
        bases.iter().flatten().for_each(|base| heirs[*base] += 1);
        Self { kept: bases.iter().map(|_| None).collect(), heirs }
    }

    /// What a stage built on `base` begins with; None when `base` was never kept.
    pub fn of(&mut self, base: usize) -> Option<T> {
        self.heirs[base] = self.heirs[base].saturating_sub(1);
        if self.heirs[base] == 0 { self.kept[base].take() } else { self.kept[base].clone() }
    }

    /// What `stage` ends with.
    pub fn keep(&mut self, stage: usize, state: T) {
        self.kept[stage] = (self.heirs[stage] > 0).then_some(state);
    }
}

/// What is known of one ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArgInfo {
    pub(super) value: String,
    pub(super) description: String,
    /// Names its default refers to.
    pub(super) refers_to: BTreeSet<String>,
    pub(super) span: Span,
}

/// The global scope: predefined args and the ARGs before the first FROM.
#[derive(Debug, Clone, Default)]
pub(super) struct Globals {
    pub(super) values: Environment,
    pub(super) infos: BTreeMap<String, Rc<ArgInfo>>,
}

impl Globals {
    /// Evaluates the global ARGs. `predefined` are the platform args and their like.
    pub(super) fn new(file: &Dockerfile, predefined: &[(String, String)], build_args: &BTreeMap<String, String>) -> Result<Self, String> {
        let overridden = predefined.iter().map(|(name, value)| (name.clone(), build_args.get(name).unwrap_or(value).clone()));
        let mut globals = Self { values: Environment::new(overridden), infos: BTreeMap::new() };
        for instruction in &file.global_args {
            let InstructionKind::Arg(definitions) = &instruction.kind else { continue };
            for definition in definitions {
                globals.define(definition, instruction, escape_of(file), build_args)?;
            }
        }
        Ok(globals)
    }

    fn define(
        &mut self,
        definition: &ArgDefinition,
        at: &Instruction,
        escape: char,
        build_args: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let name = &definition.name.text;
        let mut refers_to = BTreeSet::new();
        let value = match (build_args.get(name), &definition.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => {
                let expanded = expand_word(&default.text, escape, &self.values)?;
                refers_to = expanded.matched;
                // What refers to itself refers to what its earlier definition refers to.
                if refers_to.remove(name) {
                    refers_to.extend(self.infos.get(name).into_iter().flat_map(|info| info.refers_to.clone()));
                }
                Some(expanded.text)
            }
            (None, None) => None,
        };
        if let Some(value) = &value {
            self.values.set(name, value);
        }
        let description = doc_comment(&at.comments, name);
        let info = ArgInfo { value: value.unwrap_or_default(), description, refers_to, span: at.span };
        self.infos.insert(name.clone(), Rc::new(info));
        Ok(())
    }
}

/// The escape character in force.
pub(super) fn escape_of(file: &Dockerfile) -> char {
    file.directives.escape.unwrap_or('\\')
}

/// `# name what it is` -> `what it is`.
pub(super) fn doc_comment(comments: &[String], name: &str) -> String {
    let text = comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '));
    if name.is_empty() { String::new() } else { text.unwrap_or_default().to_owned() }
}

/// A stage's variables at some line.
#[derive(Debug, Clone, Default)]
pub(super) struct StageScope {
    pub(super) environment: Environment,
    /// ARGs that were declared, with a value or without.
    pub(super) declared: BTreeSet<String>,
}

/// What is the same for all stages.
pub(super) struct Surroundings<'a> {
    pub(super) escape: char,
    pub(super) globals: &'a Globals,
    pub(super) build_args: &'a BTreeMap<String, String>,
}

/// The worth of an ARG of a stage.
pub(super) struct Evaluated {
    /// None when it has no value.
    pub(super) value: Option<String>,
    /// The value is the global one: what it means is said there.
    pub(super) inherited: bool,
    /// The default's expansion, when it counted.
    pub(super) default: Option<Expanded>,
}

impl StageScope {
    /// Takes an ENV's pairs in, all of them expanded before any is set. Gives the expanded keys.
    pub(super) fn set_env(&mut self, pairs: &KeyValues, around: &Surroundings<'_>) -> Vec<String> {
        let text = |word: &Word| {
            expand_word(&word.text, around.escape, &self.environment).map_or_else(|_| word.text.clone(), |expanded| expanded.text)
        };
        let expanded: Vec<_> = pairs.pairs.iter().map(|(key, value)| (text(key), text(value))).collect();
        for (key, value) in &expanded {
            self.environment.set(key, value);
        }
        expanded.into_iter().map(|(key, _)| key).collect()
    }

    /// What an ARG is worth here.
    pub(super) fn evaluate(&self, definition: &ArgDefinition, around: &Surroundings<'_>) -> Evaluated {
        let name = &definition.name.text;
        let mut found = Evaluated { value: around.build_args.get(name).cloned(), inherited: false, default: None };
        match &definition.default {
            _ if found.value.is_some() => {}
            None => {
                found.value = around.globals.values.get(name);
                found.inherited = found.value.is_some();
            }
            Some(default) => {
                found.default = expand_word(&default.text, around.escape, &self.environment).ok();
                found.value = found.default.as_ref().map(|expanded| expanded.text.clone());
            }
        }
        found
    }

    /// Declares an ARG with what it is worth.
    pub(super) fn declare(&mut self, definition: &ArgDefinition, value: Option<String>) {
        let name = &definition.name.text;
        if let Some(value) = value.filter(|_| !NOT_VARIABLES.contains(&name.as_str())) {
            self.environment.set(name, value);
        }
        self.declared.insert(name.clone());
    }

    /// Expands what the builder expands of an instruction, in its order; ENV and ARG set nothing here.
    pub(super) fn expand_all(&self, kind: &InstructionKind, around: &Surroundings<'_>) -> Vec<Expanded> {
        let mut found = Vec::new();
        let mut word = |text: &str| found.extend(expand_word(text, around.escape, &self.environment));
        match kind {
            InstructionKind::Add(add) => {
                transfer_words(&add.transfer, add.checksum.as_ref()).for_each(&mut word);
                found.extend(self.expand_bodies(&add.transfer));
            }
            InstructionKind::Copy(copy) => {
                transfer_words(&copy.transfer, None).for_each(&mut word);
                found.extend(self.expand_bodies(&copy.transfer));
            }
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
                pairs.pairs.iter().flat_map(|(key, value)| [&key.text, &value.text]).for_each(|text| word(text));
            }
            InstructionKind::Stopsignal(text) | InstructionKind::User(text) | InstructionKind::Workdir(text) => word(&text.text),
            InstructionKind::Volume(words) => words.iter().for_each(|text| word(&text.text)),
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    let mut collect = |value: &str| {
                        let expanded = expand_word(value, around.escape, &self.environment)?;
                        found.push(expanded.clone());
                        Ok(expanded.text)
                    };
                    // What is wrong with a mount is for the plan to say.
                    let _ = parse_mount(&mount.text, &mut collect);
                }
            }
            _ => {}
        }
        found
    }

    fn expand_bodies(&self, transfer: &Transfer) -> Vec<Expanded> {
        let bodies = transfer.sources.iter().filter_map(|source| match source {
            Source::Heredoc(heredoc) if heredoc.expand => Some(heredoc.content()),
            _ => None,
        });
        bodies.filter_map(|body| expand_heredoc(&body, &self.environment).ok()).collect()
    }

    /// The mounts of a RUN that can be read.
    pub(super) fn mounts(&self, run: &RunInstruction, escape: char) -> Vec<MountOptions> {
        let mut expand = |value: &str| Ok(expand_word(value, escape, &self.environment)?.text);
        run.mounts.iter().filter_map(|mount| parse_mount(&mount.text, &mut expand).ok()).collect()
    }
}

fn transfer_words<'a>(transfer: &'a Transfer, checksum: Option<&'a Word>) -> impl Iterator<Item = &'a str> {
    let flags = [transfer.chown.as_ref(), transfer.chmod.as_ref(), checksum].into_iter().flatten();
    let paths = transfer.sources.iter().filter_map(|source| if let Source::Path(word) = source { Some(word) } else { None });
    flags.chain(paths).chain([&transfer.destination]).map(|word| word.text.as_str())
}

/// Which stages each stage needs.
#[derive(Debug, Clone, Default)]
pub(super) struct StageGraph {
    /// The stage that FROM names.
    pub(super) base: Vec<Option<usize>>,
    /// All others: COPY --from and mounts, of ONBUILD triggers of the base too.
    pub(super) needs: Vec<Vec<usize>>,
    /// What the base says with ONBUILD. It stands where FROM stands: nobody sees the lines it comes from.
    pub(super) triggers: Vec<Vec<Instruction>>,
}

impl StageGraph {
    /// `base_names` are the FROM names after expansion; `of_image` gives the ONBUILD texts of an image.
    pub(super) fn new(file: &Dockerfile, base_names: &[String], of_image: &dyn Fn(&str) -> Vec<String>) -> Self {
        let mut graph = Self::default();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for (index, stage) in file.stages.iter().enumerate() {
            // The name of a base is looked up as written, among the stages above.
            let name = base_names.get(index).map_or("", String::as_str);
            let base = names.get(name).copied();
            let texts = base.map_or_else(|| of_image(name), |base| onbuild_texts(&file.stages[base]));
            graph.base.push(base);
            graph.triggers.push(texts.iter().filter_map(|text| trigger(text, stage.span)).collect());
            names.extend(stage.name.as_ref().map(|name| (name.text.to_lowercase(), index)));
        }
        for index in 0..file.stages.len() {
            let needs = graph.instructions(file, index).flat_map(|instruction| sources(instruction, &names, file.stages.len())).collect();
            graph.needs.push(needs);
        }
        graph
    }

    /// What a stage does: triggers of its base, then its own instructions.
    pub(super) fn instructions<'a>(&'a self, file: &'a Dockerfile, index: usize) -> impl Iterator<Item = &'a Instruction> {
        self.triggers[index].iter().chain(&file.stages[index].instructions)
    }

    /// The stage and all it needs, in order.
    pub(super) fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if seen.insert(index) {
                open.extend(self.base[index]);
                open.extend(&self.needs[index]);
            }
        }
        seen
    }
}

fn onbuild_texts(stage: &Stage) -> Vec<String> {
    let texts = stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::Onbuild { trigger, .. } => Some(trigger.clone()),
        _ => None,
    });
    texts.collect()
}

/// None for a trigger that can't be read: the build will say why.
fn trigger(text: &str, span: Span) -> Option<Instruction> {
    Some(Instruction { span, ..super::parse_trigger(text).ok()? })
}

/// The stages that an instruction takes files from.
fn sources(instruction: &Instruction, names: &BTreeMap<String, usize>, count: usize) -> Vec<usize> {
    let named = |name: &str| names.get(&name.to_lowercase()).copied();
    match &instruction.kind {
        InstructionKind::Copy(copy) => {
            let from = copy.from.as_ref().map(|from| from.text.as_str()).unwrap_or_default();
            from.parse().ok().filter(|index: &usize| *index < count).or_else(|| named(from)).into_iter().collect()
        }
        InstructionKind::Run(run) => {
            let from = |mount: &Word| super::mount::check_mount(&mount.text).ok().flatten();
            run.mounts.iter().filter_map(|mount| named(&from(mount)?)).collect()
        }
        _ => Vec::new(),
    }
}

/// The index of the stage to build: by name in any case, else the last.
pub(super) fn target_index(file: &Dockerfile, target: Option<&str>) -> Option<usize> {
    match target {
        None => file.stages.len().checked_sub(1),
        Some(target) => {
            let matches = |stage: &Stage| stage.name.as_ref().is_some_and(|name| name.text.to_lowercase() == target.to_lowercase());
            file.stages.iter().rposition(matches)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_heir_gets_the_thing_itself() {
        let mut heritage = Heritage::new([None, Some(0), Some(0), Some(2)]);
        let state = Rc::new(());
        heritage.keep(0, state.clone());
        drop(heritage.of(0).unwrap());
        assert_eq!(Rc::strong_count(&state), 2, "one is still to come");
        let last = heritage.of(0).unwrap();
        assert_eq!(Rc::strong_count(&state), 2, "nothing was copied");
        heritage.keep(3, last);
        assert_eq!(Rc::strong_count(&state), 1, "nobody is built on 3");
        assert_eq!(heritage.of(2), None);
    }
}
