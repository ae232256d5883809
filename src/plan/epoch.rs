//! `SOURCE_DATE_EPOCH`: a number, `context`, a named context, or a stage that is nothing but one file or tree from afar.
//! Says what the value names; asking that for its time is the caller's.

use crate::{
    dockerfile::{
        Diagnostic, Dockerfile, Environment,
        expand::expand_word,
        git_reference,
        tree::{AddInstruction, ArgDefinition, InstructionKind, Source, Stage},
    },
    plan::{Options, environment, stages},
};

/// The variable.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// What a `SOURCE_DATE_EPOCH` that is no number gets its time from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpochSource {
    /// A context given with --build-context.
    Context(String),
    /// The file of the one ADD of a stage.
    Url {
        /// Where it is.
        url: String,
        /// As `--checksum` gives it.
        checksum: Option<String>,
    },
    /// The repository of the one ADD of a stage.
    Git {
        /// As ADD gives it.
        reference: String,
        /// As `--checksum` gives it.
        checksum: Option<String>,
    },
}

/// What the value in force names; None when it names nothing or is resolved without asking anybody.
pub fn epoch_source(dockerfile: &Dockerfile, options: &Options) -> Result<Option<EpochSource>, Diagnostic> {
    let escape = dockerfile.directives.escape.unwrap_or('\\');
    let global_args = environment::global_args_of(dockerfile, options, escape)?;
    match asked(options, &global_args) {
        Some(text) if !text.is_empty() && text != "context" && text.parse::<i64>().is_err() => {
            find(&text, dockerfile, options, &global_args).map(Some)
        }
        _ => Ok(None),
    }
}

/// The value in force: of the build args, else of a global ARG.
pub(super) fn asked(options: &Options, global_args: &Environment) -> Option<String> {
    let global = || global_args.value(NAME).filter(|value| !value.is_empty()).map(str::to_owned);
    options.build_args.get(NAME).cloned().or_else(global)
}

/// The source that `text` names (BuildKit `resolveSourceDateEpochState`).
pub(super) fn find(text: &str, dockerfile: &Dockerfile, options: &Options, global_args: &Environment) -> Result<EpochSource, Diagnostic> {
    if let Some(name) = stages::default_context(text).filter(|name| options.contexts.contains_key(name)) {
        return Ok(EpochSource::Context(name));
    }
    let is_named = |stage: &&Stage| stage.name.as_ref().is_some_and(|name| name.text.eq_ignore_ascii_case(text));
    let Some(stage) = dockerfile.stages.iter().find(is_named) else {
        let fault = Diagnostic::whole(format!("invalid SOURCE_DATE_EPOCH: {text}"));
        return Err(fault.with_hint("expected seconds since 1970, `context`, or the name of a context or of a stage with one remote ADD"));
    };
    let escape = dockerfile.directives.escape.unwrap_or('\\');
    let mut environment = global_args.clone();
    environment.remove(NAME);
    source_of(stage, environment, escape, options).map_err(|message| Diagnostic::at(stage.span, message))
}

/// A stage that is a source and nothing else: FROM scratch, ARG, exactly one ADD of one remote file or repository.
fn source_of(stage: &Stage, mut environment: Environment, escape: char, options: &Options) -> Result<EpochSource, String> {
    const ONE: &str = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
    if expand_word(&stage.base.text, escape, &environment)?.text != "scratch" {
        return Err("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned());
    }
    let mut found = None;
    for instruction in &stage.instructions {
        match &instruction.kind {
            InstructionKind::Arg(definitions) => take_args(definitions, &mut environment, escape, options)?,
            InstructionKind::Add(_) if found.is_some() => return Err(ONE.to_owned()),
            InstructionKind::Add(add) => found = Some(added(add, &environment, escape)?),
            _ => {
                let keyword = instruction.original.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                return Err(format!("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {keyword} instruction"));
            }
        }
    }
    found.ok_or_else(|| ONE.to_owned())
}

fn take_args(definitions: &[ArgDefinition], environment: &mut Environment, escape: char, options: &Options) -> Result<(), String> {
    for definition in definitions {
        let name = &definition.name.text;
        match (options.build_args.get(name), &definition.default) {
            (Some(value), _) => environment.set(name, value),
            (None, Some(default)) => {
                let value = expand_word(&default.text, escape, environment)?.text;
                environment.set(name, &value);
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn added(add: &AddInstruction, environment: &Environment, escape: char) -> Result<EpochSource, String> {
    let [Source::Path(word)] = add.transfer.sources.as_slice() else {
        return Err("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source".to_owned());
    };
    let source = expand_word(&word.text, escape, environment)?.text;
    let checksum =
        add.checksum.as_ref().map(|word| expand_word(&word.text, escape, environment)).transpose()?.map(|expanded| expanded.text);
    if git_reference::parse(&source)?.is_some_and(|reference| !reference.looks_local) {
        return Ok(EpochSource::Git { reference: source, checksum });
    }
    if source.starts_with("http://") || source.starts_with("https://") {
        return Ok(EpochSource::Url { url: source, checksum });
    }
    Err("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned())
}
