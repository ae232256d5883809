//! Rules about how a file is written: keywords, names, comments.
//! Unaware of variables and of what instructions do.

use super::super::quote::go_quote;
use super::super::tree::*;
use super::{Linter, rules};

/// All rules of this file.
pub(super) fn check(file: &Dockerfile, linter: &mut Linter<'_>) {
    check_lines(file, linter);
    check_stage_names(file, linter);
    check_keyword_casing(file, linter);
}

/// The rules that look at one instruction alone; they hold for a file that breaks off, too.
pub(super) fn check_lines(file: &Dockerfile, linter: &mut Linter<'_>) {
    for line in &file.empty_continuation_lines {
        let start = linter.lines.start_of(*line);
        linter.warn(&rules::NO_EMPTY_CONTINUATION, Span { start, end: start + 1 }, "Empty continuation line".to_owned());
    }
    for instruction in &file.global_args {
        check_instruction(instruction, linter);
    }
    for stage in &file.stages {
        check_from(stage, linter);
        for instruction in &stage.instructions {
            check_instruction(instruction, linter);
        }
    }
}

fn check_from(stage: &Stage, linter: &mut Linter<'_>) {
    let Some(name) = &stage.name else { return };
    if name.text != name.text.to_lowercase() {
        let message = format!("Stage name '{}' should be lowercase", name.text);
        linter.warn_at(&stage.comments, &rules::STAGE_NAME_CASING, stage.span, message);
    }
    let from = stage.keyword.as_str();
    let as_keyword = stage.as_keyword.as_deref().unwrap_or("AS");
    // A mixed-case FROM is the casing rule's.
    let differs = (from == from.to_lowercase() && as_keyword != as_keyword.to_lowercase())
        || (from == from.to_uppercase() && as_keyword != as_keyword.to_uppercase());
    if differs {
        let message = format!("'{as_keyword}' and '{from}' keywords' casing do not match");
        linter.warn_at(&stage.comments, &rules::FROM_AS_CASING, stage.span, message);
    }
    check_description("FROM", &[&name.text.to_lowercase()], &stage.comments, stage.span, linter);
}

fn check_instruction(instruction: &Instruction, linter: &mut Linter<'_>) {
    match &instruction.kind {
        InstructionKind::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
            linter.warn_at(&instruction.comments, &rules::MAINTAINER_DEPRECATED, instruction.span, message);
        }
        InstructionKind::Arg(definitions) => {
            let names: Vec<&str> = definitions.iter().map(|definition| definition.name.text.as_str()).collect();
            check_description("ARG", &names, &instruction.comments, instruction.span, linter);
        }
        _ => {}
    }
}

/// The comment right above a definition must begin with the name it defines.
fn check_description(keyword: &str, names: &[&str], comments: &[String], span: Span, linter: &mut Linter<'_>) {
    let Some(first) = comments.last().and_then(|comment| comment.split(' ').next()) else { return };
    if names.contains(&first) {
        return;
    }
    let example = if let [name] = names { name } else { "<arg_key>" };
    let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    linter.warn_at(comments, &rules::INVALID_DEFINITION_DESCRIPTION, span, message);
}

fn check_stage_names(file: &Dockerfile, linter: &mut Linter<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for stage in &file.stages {
        let Some(name) = stage.name.as_ref().map(|name| name.text.to_lowercase()) else { continue };
        if name == "scratch" || name == "context" {
            let message = format!("Stage name should not use the same name as reserved stage {}", go_quote(&name));
            linter.warn(&rules::RESERVED_STAGE_NAME, stage.span, message);
        }
        if seen.contains(&name) {
            let message = format!("Duplicate stage name {}, stage names should be unique", go_quote(&name));
            linter.warn(&rules::DUPLICATE_STAGE_NAME, stage.span, message);
        }
        seen.push(name);
    }
}

/// The majority of uniform keywords says which case is right; a draw says upper case. Global ARGs have no vote.
fn check_keyword_casing(file: &Dockerfile, linter: &mut Linter<'_>) {
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let own = stage.instructions.iter().map(|instruction| (instruction.keyword.as_str(), instruction.span));
            std::iter::once((stage.keyword.as_str(), stage.span)).chain(own)
        })
    };
    let lower = keywords().filter(|(keyword, _)| *keyword == keyword.to_lowercase()).count();
    let upper = keywords().filter(|(keyword, _)| *keyword == keyword.to_uppercase()).count();
    for (keyword, span) in keywords() {
        let (right, name) = if lower > upper { (keyword.to_lowercase(), "lowercase") } else { (keyword.to_uppercase(), "uppercase") };
        if keyword != right {
            let message = format!("Command '{keyword}' should match the case of the command majority ({name})");
            linter.warn(&rules::CONSISTENT_INSTRUCTION_CASING, span, message);
        }
    }
}
