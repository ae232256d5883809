//! Rules that follow a stage line by line: variables, repeated and relative instructions, copies.
//! Unaware of where the facts about images and contexts come from.

use super::super::diagnostic::trigger_label;
use super::super::environment::Environment;
use super::super::expand::{Expanded, Lookup, expand_word, expand_words};
use super::super::glob::clean;
use super::super::ports;
use super::super::quote::go_quote;
use super::super::redact::redact_url;
use super::super::scope::{Globals, Heritage, StageGraph, StageScope, Surroundings, escape_of, target_index};
use super::super::suggest::nearest;
use super::super::tree::*;
use super::{Base, Linter, Options, Rule, rules, sensitive};
use std::collections::{BTreeMap, BTreeSet};

const PLATFORM_ARGS: [&str; 10] = [
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
];

/// All rules of this file. Variables that can't be evaluated end it: the build will say why.
pub(super) fn check(file: &Dockerfile, options: &Options<'_>, linter: &mut Linter<'_>) {
    check_default_bases(file, options, linter);
    check_global_args(file, linter);
    let Ok(globals) = Globals::new(file, &options.predefined_args, &options.build_args) else { return };
    let base_names: Vec<String> = file.stages.iter().map(|stage| check_from(file, stage, &globals, options, linter)).collect();
    let triggers = |name: &str| (options.base)(name).map(|base| base.triggers).unwrap_or_default();
    let graph = StageGraph::new(file, &base_names, &triggers);
    let reachable: BTreeSet<usize> = if options.all_stages {
        (0..file.stages.len()).collect()
    } else {
        target_index(file, options.target).map(|target| graph.reachable(target)).unwrap_or_default()
    };
    check_platforms(file, &reachable, options, linter);
    let around = Surroundings { escape: escape_of(file), globals: &globals, build_args: &options.build_args };
    let built_on = |index: usize| graph.base[index].filter(|_| reachable.contains(&index));
    let mut heritage: Heritage<StageState> = Heritage::new((0..file.stages.len()).map(built_on));
    for index in reachable.iter().copied() {
        let mut state = match graph.base[index].and_then(|base| heritage.of(base)) {
            Some(base) => base.inherited(),
            None => StageState::of_base(&base_names[index], options),
        };
        for (number, instruction) in graph.instructions(file, index).enumerate() {
            let is_trigger = number < graph.triggers[index].len();
            let label = is_trigger.then(|| redact_url(&trigger_label(&instruction.original)).into_owned());
            linter.labelled(label, |linter| StageLinter { around: &around, options, linter, instruction }.check(&mut state));
        }
        heritage.keep(index, state);
    }
}

/// Names of bases that the defaults alone make invalid.
fn check_default_bases(file: &Dockerfile, options: &Options<'_>, linter: &mut Linter<'_>) {
    let Ok(defaults) = Globals::new(file, &options.predefined_args, &BTreeMap::new()) else { return };
    for stage in &file.stages {
        let Ok(name) = expand_word(&stage.base.text, escape_of(file), &defaults.values) else { return };
        if !(options.is_reference)(&name.text) {
            let message = format!("Default value for ARG {} results in empty or invalid base image name", stage.base.text);
            linter.warn(&rules::INVALID_DEFAULT_ARG_IN_FROM, stage.span, message);
        }
    }
}

fn check_global_args(file: &Dockerfile, linter: &mut Linter<'_>) {
    for instruction in &file.global_args {
        let InstructionKind::Arg(definitions) = &instruction.kind else { continue };
        for definition in definitions {
            // In the global scope the builder's value is there to fall back from: `ARG TARGETARCH=${TARGETARCH:-x}`.
            let refers_to_itself = definition.default.as_ref().is_some_and(|default| default.text.contains(&definition.name.text));
            if !refers_to_itself {
                check_shadowing(definition, instruction, linter);
            }
        }
    }
}

fn check_shadowing(definition: &ArgDefinition, instruction: &Instruction, linter: &mut Linter<'_>) {
    let name = definition.name.text.as_str();
    let Some(default) = definition.default.as_ref().filter(|_| PLATFORM_ARGS.contains(&name)) else { return };
    let message = format!("Default value {} of ARG {name} hides the value that the builder sets", go_quote(&default.text));
    linter.warn_at(&instruction.comments, &rules::SHADOWED_PLATFORM_ARG, instruction.span, message);
}

/// FROM's variables and platform; gives the name of the base.
fn check_from(file: &Dockerfile, stage: &Stage, globals: &Globals, options: &Options<'_>, linter: &mut Linter<'_>) -> String {
    let expand = |word: &Word| expand_word(&word.text, escape_of(file), &globals.values).ok();
    let name = expand(&stage.base);
    let platform = stage.platform.as_ref().and_then(|word| Some((word, expand(word)?)));
    for expanded in name.iter().chain(platform.as_ref().map(|(_, expanded)| expanded)) {
        report_undeclared(expanded, stage, globals, linter);
    }
    if let Some((word, expanded)) = platform {
        check_platform_flag(word, &expanded, stage, globals, options, linter);
    }
    name.map_or_else(|| stage.base.text.clone(), |expanded| expanded.text)
}

fn report_undeclared(expanded: &Expanded, stage: &Stage, globals: &Globals, linter: &mut Linter<'_>) {
    if expanded.unmatched.is_empty() {
        return;
    }
    let mut known = globals.values.names();
    known.extend(globals.infos.keys().cloned());
    for name in expanded.unmatched.iter().filter(|name| !known.contains(name)) {
        let mut message = format!("FROM argument '{name}' is not declared");
        if let Some(suggestion) = nearest(name, &known) {
            message += &format!(" (did you mean {suggestion}?)");
        }
        linter.warn_at(&stage.comments, &rules::UNDEFINED_ARG_IN_FROM, stage.span, message);
    }
}

fn check_platform_flag(word: &Word, expanded: &Expanded, stage: &Stage, globals: &Globals, options: &Options<'_>, linter: &mut Linter<'_>) {
    const TARGET: &str = "TARGETPLATFORM";
    let only_target = expanded.unmatched.is_empty() && expanded.matched.iter().eq([TARGET]);
    if only_target && globals.values.get(TARGET).as_ref() == Some(&expanded.text) {
        let message = format!("Setting platform to predefined {} in FROM is redundant as this is the default behavior", word.text);
        linter.warn_at(&stage.comments, &rules::REDUNDANT_TARGET_PLATFORM, stage.span, message);
    }
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Some((os, architecture)) = (options.platform)(&expanded.text) else { return };
    // A stage that says its platform in its name means it.
    let name = stage.name.as_ref().map(|name| name.text.to_lowercase()).unwrap_or_default();
    if !name.contains(&os) && !name.contains(&architecture) {
        let message = format!("FROM --platform flag should not use constant value {}", go_quote(&expanded.text));
        linter.warn_at(&stage.comments, &rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED, stage.span, message);
    }
}

fn check_platforms(file: &Dockerfile, reachable: &BTreeSet<usize>, options: &Options<'_>, linter: &mut Linter<'_>) {
    for (index, image, actual, expected) in options.wrong_platforms.iter().filter(|wrong| reachable.contains(&wrong.0)) {
        let Some(stage) = file.stages.get(*index) else { continue };
        let (actual, expected) = (go_quote(actual), go_quote(expected));
        let message = format!("Base image {image} was pulled with platform {actual}, expected {expected} for current build");
        linter.warn(&rules::INVALID_BASE_IMAGE_PLATFORM, stage.span, message);
    }
}

/// Where a stage stands.
#[derive(Debug, Clone, Default)]
struct StageState {
    scope: StageScope,
    /// All variables of the base are known.
    complete: bool,
    has_shell: bool,
    has_workdir: bool,
    /// Where CMD, ENTRYPOINT and HEALTHCHECK came last.
    last: BTreeMap<&'static str, Span>,
}

impl StageState {
    fn of_base(name: &str, options: &Options<'_>) -> Self {
        let known = if name == "scratch" { Some(Base::default()) } else { (options.base)(name) };
        let complete = known.is_some();
        let Base { mut environment, has_shell, .. } = known.unwrap_or_default();
        if environment.get("PATH").is_none() {
            environment.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        }
        let scope = StageScope { environment, declared: BTreeSet::new() };
        Self { scope, complete, has_shell, ..Self::default() }
    }

    /// For a stage built on this one: it may have a CMD of its own.
    fn inherited(self) -> Self {
        Self { last: BTreeMap::new(), ..self }
    }
}

struct StageLinter<'a, 'b, 'c> {
    around: &'a Surroundings<'a>,
    options: &'a Options<'b>,
    linter: &'a mut Linter<'c>,
    instruction: &'a Instruction,
}

impl StageLinter<'_, '_, '_> {
    fn warn(&mut self, rule: &'static Rule, message: String) {
        self.linter.warn_at(&self.instruction.comments, rule, self.instruction.span, message);
    }

    fn check(mut self, state: &mut StageState) {
        let instruction = self.instruction;
        for expanded in state.scope.expand_all(&instruction.kind, self.around) {
            self.report_undefined(&expanded, state);
        }
        match &instruction.kind {
            InstructionKind::Arg(definitions) => definitions.iter().for_each(|definition| self.check_arg(definition, state)),
            InstructionKind::Env(pairs) => {
                self.check_legacy(pairs);
                for key in state.scope.set_env(pairs, self.around) {
                    self.check_secret("ENV", &key);
                }
            }
            InstructionKind::Label(pairs) => self.check_legacy(pairs),
            InstructionKind::Cmd(command) => self.check_command("CMD", command, state),
            InstructionKind::Entrypoint(command) => self.check_command("ENTRYPOINT", command, state),
            InstructionKind::Healthcheck(_) => self.check_once("HEALTHCHECK", state),
            InstructionKind::Shell(_) => state.has_shell = true,
            InstructionKind::Workdir(path) => self.check_workdir(path, state),
            InstructionKind::Expose(words) => self.check_expose(words, &state.scope.environment),
            InstructionKind::Add(add) => self.check_copy("Add", &add.transfer, state),
            InstructionKind::Copy(copy) if copy.from.is_none() => self.check_copy("Copy", &copy.transfer, state),
            _ => {}
        }
    }

    fn report_undefined(&mut self, expanded: &Expanded, state: &StageState) {
        if !state.complete {
            return;
        }
        let undeclared =
            expanded.unmatched.iter().filter(|name| !state.scope.declared.contains(*name) && !name.starts_with("BUILDKIT_SBOM_SCAN_"));
        for name in undeclared {
            let mut message = format!("Usage of undefined variable '${name}'");
            if let Some(suggestion) = nearest(name, state.scope.environment.iter_names()) {
                message += &format!(" (did you mean ${suggestion}?)");
            }
            self.warn(&rules::UNDEFINED_VAR, message);
        }
    }

    fn check_arg(&mut self, definition: &ArgDefinition, state: &mut StageState) {
        self.check_secret("ARG", &definition.name.text);
        check_shadowing(definition, self.instruction, self.linter);
        // What the default refers to is looked for as of before this line.
        let declared = state.scope.evaluate(definition, self.around);
        if let Some(default) = &declared.default {
            self.report_undefined(default, state);
        }
        state.scope.declare(definition, declared.value);
    }

    fn check_secret(&mut self, keyword: &str, key: &str) {
        const SECRET: [&str; 10] = ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
        const HARMLESS: [&str; 3] = ["public", "file", "version"];
        let has = |words: &[&str]| key.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
        if has(&SECRET) && !has(&HARMLESS) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {})", go_quote(key));
            self.warn(&rules::SECRETS_USED_IN_ARG_OR_ENV, message);
        }
    }

    fn check_legacy(&mut self, pairs: &KeyValues) {
        if pairs.legacy {
            let keyword = &self.instruction.keyword;
            let message = format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
            self.warn(&rules::LEGACY_KEY_VALUE_FORMAT, message);
        }
    }

    fn check_command(&mut self, name: &'static str, command: &CommandLine, state: &mut StageState) {
        self.check_once(name, state);
        if matches!(command, CommandLine::Shell(_)) && !state.has_shell {
            let keyword = &self.instruction.keyword;
            let message = format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
            self.warn(&rules::JSON_ARGS_RECOMMENDED, message);
        }
    }

    /// The one before is what goes unused, so it is what is flagged.
    fn check_once(&mut self, name: &'static str, state: &mut StageState) {
        let Some(before) = state.last.insert(name, self.instruction.span) else { return };
        let keyword = &self.instruction.keyword;
        let message =
            format!("Multiple {keyword} instructions should not be used in the same stage because only the last one will be used");
        self.linter.warn_at(&self.instruction.comments, &rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, before, message);
    }

    fn check_workdir(&mut self, path: &Word, state: &mut StageState) {
        let expanded = expand_word(&path.text, self.around.escape, &state.scope.environment)
            .map_or_else(|_| path.text.clone(), |expanded| expanded.text);
        if !state.has_workdir && !expanded.starts_with('/') {
            let message = format!("Relative workdir {} can have unexpected results if the base image changes", go_quote(&expanded));
            self.warn(&rules::WORKDIR_RELATIVE_PATH, message);
        }
        state.has_workdir = true;
    }

    fn check_expose(&mut self, words: &[Word], environment: &Environment) {
        for port in words.iter().flat_map(|word| expand_words(&word.text, self.around.escape, environment).unwrap_or_default()) {
            let style = ports::style(&port);
            if style.mixed_case {
                self.warn(&rules::EXPOSE_PROTO_CASING, format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase"));
            }
            if style.maps_host {
                let message = format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
                self.warn(&rules::EXPOSE_INVALID_FORMAT, message);
            }
        }
    }

    fn check_copy(&mut self, verb: &str, transfer: &Transfer, state: &StageState) {
        let paths = transfer.sources.iter().filter_map(|source| if let Source::Path(word) = source { Some(word) } else { None });
        let expanded = paths.filter_map(|word| expand_word(&word.text, self.around.escape, &state.scope.environment).ok());
        let sources: Vec<String> = expanded.map(|expanded| expanded.text).filter(|path| is_local(path)).collect();
        for source in &sources {
            self.check_ignored(verb, source);
        }
        for message in sensitive::check(&verb.to_uppercase(), &sources, &transfer.excludes, self.options) {
            self.warn(&rules::COPY_SENSITIVE_FILE, message);
        }
    }

    /// Not with exceptions: a directory may be ignored and yet hold something that isn't.
    fn check_ignored(&mut self, verb: &str, source: &str) {
        let Some(ignored) = self.options.ignored.filter(|ignored| !ignored.is_empty() && !ignored.has_exceptions()) else { return };
        let path = clean(source);
        let is_root = path == "." || path == "/";
        let hidden =
            if is_root { ignored.patterns().any(|pattern| matches!(pattern, "*" | "**" | "**/*")) } else { ignored.matches(&path) };
        if hidden {
            let message = format!("Attempting to {verb} file {} that is excluded by .dockerignore", go_quote(&path));
            self.warn(&rules::COPY_IGNORED_FILE, message);
        }
    }
}

fn is_local(source: &str) -> bool {
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    !is_url && !matches!(super::super::git_reference::parse(source), Ok(Some(git)) if !git.looks_local)
}
