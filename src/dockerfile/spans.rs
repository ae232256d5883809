//! Walking over the places in a tree: moving them all, or forgetting them.
//! Unaware of what stands there.

use super::tree::*;

/// Puts every place within an instruction at `span`: what a trigger says stands where the trigger fired.
pub fn place_all(instruction: &mut Instruction, span: Span) {
    visit_instruction(instruction, &mut |place| *place = span);
}

/// A file without what depends on its layout: places, the joined lines as written, empty continuation lines.
/// For comparing what files say.
pub fn forget_layout(mut file: Dockerfile) -> Dockerfile {
    file.empty_continuation_lines.clear();
    let stages = file.stages.iter_mut().flat_map(|stage| &mut stage.instructions);
    file.global_args.iter_mut().chain(stages).for_each(forget_original);
    forget_all(&mut file);
    file
}

fn forget_original(instruction: &mut Instruction) {
    instruction.original.clear();
    if let InstructionKind::Onbuild { instruction: Some(inner), .. } = &mut instruction.kind {
        forget_original(inner);
    }
}

fn forget_all(dockerfile: &mut Dockerfile) {
    let forget = &mut |place: &mut Span| *place = Span::default();
    for word in [&mut dockerfile.directives.syntax, &mut dockerfile.directives.check] {
        visit_option(word, forget);
    }
    for instruction in &mut dockerfile.global_args {
        visit_instruction(instruction, forget);
    }
    for stage in &mut dockerfile.stages {
        forget(&mut stage.span);
        forget(&mut stage.base.span);
        visit_option(&mut stage.name, forget);
        visit_option(&mut stage.platform, forget);
        for instruction in &mut stage.instructions {
            visit_instruction(instruction, forget);
        }
    }
}

type Visit<'a> = &'a mut dyn FnMut(&mut Span);

fn visit_option(word: &mut Option<Word>, visit: Visit<'_>) {
    if let Some(word) = word {
        visit(&mut word.span);
    }
}

fn visit_words(words: &mut [Word], visit: Visit<'_>) {
    words.iter_mut().for_each(|word| visit(&mut word.span));
}

fn visit_instruction(instruction: &mut Instruction, visit: Visit<'_>) {
    visit(&mut instruction.span);
    match &mut instruction.kind {
        InstructionKind::Add(add) => {
            visit_transfer(&mut add.transfer, visit);
            visit_option(&mut add.checksum, visit);
        }
        InstructionKind::Arg(definitions) => {
            for definition in definitions {
                visit(&mut definition.name.span);
                visit_option(&mut definition.default, visit);
            }
        }
        InstructionKind::Copy(copy) => {
            visit_transfer(&mut copy.transfer, visit);
            visit_option(&mut copy.from, visit);
        }
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            for (key, value) in &mut pairs.pairs {
                visit(&mut key.span);
                visit(&mut value.span);
            }
        }
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => visit_words(words, visit),
        InstructionKind::Maintainer(word)
        | InstructionKind::Stopsignal(word)
        | InstructionKind::User(word)
        | InstructionKind::Workdir(word) => {
            visit(&mut word.span);
        }
        InstructionKind::Onbuild { instruction, .. } => {
            if let Some(instruction) = instruction {
                visit_instruction(instruction, visit);
            }
        }
        InstructionKind::Run(run) => visit_run(run, visit),
        InstructionKind::Cmd(_) | InstructionKind::Entrypoint(_) | InstructionKind::Healthcheck(_) | InstructionKind::Shell(_) => {}
    }
}

fn visit_run(run: &mut RunInstruction, visit: Visit<'_>) {
    run.heredocs.iter_mut().for_each(|heredoc| visit(&mut heredoc.span));
    visit_words(&mut run.mounts, visit);
    visit_words(&mut run.devices, visit);
    visit_option(&mut run.network, visit);
    visit_option(&mut run.security, visit);
}

fn visit_transfer(transfer: &mut Transfer, visit: Visit<'_>) {
    for source in &mut transfer.sources {
        match source {
            Source::Path(word) => visit(&mut word.span),
            Source::Heredoc(heredoc) => visit(&mut heredoc.span),
        }
    }
    visit(&mut transfer.destination.span);
    visit_option(&mut transfer.chown, visit);
    visit_option(&mut transfer.chmod, visit);
    visit_words(&mut transfer.excludes, visit);
}
