//! Instructions that change only the config.

use crate::{
    dockerfile::{
        Diagnostic, Environment, NOT_VARIABLES, Span, Word, expand, ports, signal,
        tree::{ArgDefinition, CommandLine, Instruction, InstructionKind, KeyValues},
    },
    oci::Empty,
    plan::{Options, environment, stages::Stages},
};

use super::{history, state::StageState};

pub(super) fn lower(state: &mut StageState, instruction: &Instruction, stages: &Stages, options: &Options) -> Result<(), Diagnostic> {
    let escape = stages.escape;
    match &instruction.kind {
        InstructionKind::Arg(definitions) => arg(state, definitions, instruction.span, stages, options),
        InstructionKind::Env(pairs) => env(state, pairs, escape),
        InstructionKind::Label(pairs) => label(state, pairs, escape),
        InstructionKind::Cmd(line) => cmd(state, line),
        InstructionKind::Entrypoint(line) => entrypoint(state, line),
        InstructionKind::Expose(words) => expose(state, words, escape),
        InstructionKind::Healthcheck(healthcheck) => {
            let health = history::health_config(healthcheck);
            state.add_history(format!("HEALTHCHECK {}", history::healthcheck(&health)), None);
            state.config.config.healthcheck = Some(health);
            Ok(())
        }
        InstructionKind::Maintainer(name) => {
            state.add_history(format!("MAINTAINER {}", name.text), None);
            state.config.author = Some(name.text.clone());
            Ok(())
        }
        InstructionKind::Onbuild { trigger, .. } => {
            state.config.config.on_build.push(trigger.clone());
            Ok(())
        }
        InstructionKind::Shell(words) => {
            state.add_history(format!("SHELL {}", history::plain_list(words)), None);
            state.config.config.shell.clone_from(words);
            Ok(())
        }
        InstructionKind::Stopsignal(word) => stopsignal(state, word, escape),
        InstructionKind::User(word) => {
            let user = environment::word(word, escape, &state.environment)?;
            state.add_history(format!("USER {user}"), None);
            state.config.config.user = user;
            Ok(())
        }
        InstructionKind::Volume(words) => volume(state, words, escape),
        InstructionKind::Run(_) | InstructionKind::Copy(_) | InstructionKind::Add(_) | InstructionKind::Workdir(_) => {
            unreachable!("the caller lowers what makes a layer")
        }
    }
}

/// BuildKit `dispatchArg`: a --build-arg wins, then the default, then the global ARG of that name.
fn arg(state: &mut StageState, definitions: &[ArgDefinition], span: Span, stages: &Stages, options: &Options) -> Result<(), Diagnostic> {
    let mut texts = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let name = &definition.name.text;
        let given = options.build_args.get(name).filter(|_| name != "SOURCE_DATE_EPOCH");
        let value = match (given, &definition.default) {
            (Some(value), _) => Some(value.clone()),
            (None, _) if name == "SOURCE_DATE_EPOCH" && options.build_args.contains_key(name) && stages.epoch.is_some() => {
                stages.epoch.map(|seconds| seconds.to_string())
            }
            (None, Some(default)) => Some(environment::text(&default.text, span, stages.escape, &state.environment)?),
            (None, None) => stages.global_args.value(name).map(str::to_owned),
        };
        if let Some(value) = &value
            && !NOT_VARIABLES.contains(&name.as_str())
        {
            state.environment.set(name, value);
        }
        texts.push(match &value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        });
        state.args.push((name.clone(), value));
    }
    state.add_history(format!("ARG {}", texts.join(" ")), None);
    Ok(())
}

/// All words see the variables as they were before the instruction.
fn expanded_pairs(pairs: &KeyValues, escape: char, environment: &Environment) -> Result<Vec<(String, String)>, Diagnostic> {
    pairs
        .pairs
        .iter()
        .map(|(key, value)| Ok((environment::word(key, escape, environment)?, environment::word(value, escape, environment)?)))
        .collect()
}

fn pairs_text(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(key, value)| format!(" {key}={value}")).collect()
}

fn env(state: &mut StageState, pairs: &KeyValues, escape: char) -> Result<(), Diagnostic> {
    let pairs = expanded_pairs(pairs, escape, &state.environment)?;
    for (name, value) in &pairs {
        state.environment.set(name, value);
        let entry = format!("{name}={value}");
        let list = &mut state.config.config.env;
        match list.iter_mut().find(|old| old.split('=').next() == Some(name)) {
            Some(old) => *old = entry,
            None => list.push(entry),
        }
    }
    state.add_history(format!("ENV{}", pairs_text(&pairs)), None);
    Ok(())
}

fn label(state: &mut StageState, pairs: &KeyValues, escape: char) -> Result<(), Diagnostic> {
    let pairs = expanded_pairs(pairs, escape, &state.environment)?;
    state.add_history(format!("LABEL{}", pairs_text(&pairs)), None);
    state.config.config.labels.extend(pairs);
    Ok(())
}

/// The argument list of a command: exec form as it is, shell form behind the shell in force.
pub(super) fn command_words(state: &StageState, line: &CommandLine) -> Vec<String> {
    match line {
        CommandLine::Exec(words) => words.clone(),
        CommandLine::Shell(text) => with_shell(state, text),
    }
}

pub(super) fn with_shell(state: &StageState, text: &str) -> Vec<String> {
    let mut words = match state.config.config.shell.as_slice() {
        [] if state.config.os == "windows" => ["cmd", "/S", "/C"].map(str::to_owned).to_vec(),
        [] => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
        shell => shell.to_vec(),
    };
    words.push(text.to_owned());
    words
}

fn cmd(state: &mut StageState, line: &CommandLine) -> Result<(), Diagnostic> {
    let words = command_words(state, line);
    state.add_history(format!("CMD {}", history::quoted_list(&words)), None);
    state.config.config.cmd = Some(words);
    state.config.config.args_escaped = true;
    state.cmd_set = true;
    Ok(())
}

fn entrypoint(state: &mut StageState, line: &CommandLine) -> Result<(), Diagnostic> {
    let words = command_words(state, line);
    state.add_history(format!("ENTRYPOINT {}", history::quoted_list(&words)), None);
    state.config.config.entrypoint = Some(words).filter(|words| !words.is_empty());
    if !state.cmd_set {
        state.config.config.cmd = None;
    }
    Ok(())
}

fn expose(state: &mut StageState, words: &[Word], escape: char) -> Result<(), Diagnostic> {
    // As written they are sorted; the history repeats what the line repeats.
    let mut sorted: Vec<&Word> = words.iter().collect();
    sorted.sort_by(|a, b| a.text.cmp(&b.text));
    let mut texts = Vec::new();
    for word in sorted {
        let split = expand::expand_words(&word.text, escape, &state.environment);
        texts.extend(split.map_err(|message| Diagnostic::at(word.span, message))?.into_iter().map(|text| (text, word.span)));
    }
    let mut all = Vec::new();
    for (text, span) in texts {
        all.extend(ports::parse_port(&text).map_err(|message| Diagnostic::at(span, message))?);
    }
    state.add_history(format!("EXPOSE {}", history::plain_list(&all)), None);
    state.config.config.exposed_ports.extend(all.into_iter().map(|port| (port, Empty {})));
    Ok(())
}

fn stopsignal(state: &mut StageState, word: &Word, escape: char) -> Result<(), Diagnostic> {
    let name = environment::word(word, escape, &state.environment)?;
    if !signal::is_valid(&name) {
        return Err(Diagnostic::at(word.span, format!("invalid signal: {name}")).with_hint("a name such as SIGTERM, or a number"));
    }
    state.add_history(format!("STOPSIGNAL {name}"), None);
    state.config.config.stop_signal = name;
    Ok(())
}

fn volume(state: &mut StageState, words: &[Word], escape: char) -> Result<(), Diagnostic> {
    let paths: Vec<String> = words.iter().map(|word| environment::word(word, escape, &state.environment)).collect::<Result<_, _>>()?;
    if let Some((_, word)) = paths.iter().zip(words).find(|(path, _)| path.is_empty()) {
        return Err(Diagnostic::at(word.span, "VOLUME specified can not be an empty string"));
    }
    state.add_history(format!("VOLUME {}", history::plain_list(&paths)), None);
    state.config.config.volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
    Ok(())
}
