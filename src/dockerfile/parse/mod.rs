//! Dockerfile text -> [`Dockerfile`]: lines, then nodes, then typed instructions, then stages.
//! Unaware of variables' values and of files.
//!
//! As in BuildKit all lines are split before any instruction is typed, so a line that can't be split
//! (`ENV x`, an open heredoc) is reported before an earlier unknown instruction.

mod directive;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod node;
mod words;

pub(super) use directive::split as split_directive;
pub(super) use heredoc::heredocs_of_line;
pub(super) use lines::split_continuation;

use super::diagnostic::Diagnostic;
use super::tree::*;
use instruction::{Item, typed};

/// Reads a whole Dockerfile.
pub fn parse(text: &str) -> Result<Dockerfile, Diagnostic> {
    match parse_partly(text)? {
        (_, Some(error)) => Err(error),
        (dockerfile, None) => Ok(dockerfile),
    }
}

/// Reads as far as possible: what stands before the first instruction that is wrong, and what is wrong with it.
/// Err when the text can't even be split into lines.
pub(super) fn parse_partly(text: &str) -> Result<(Dockerfile, Option<Diagnostic>), Diagnostic> {
    let lines = lines::read(text)?;
    let directives = Directives { escape: lines.escape, ..directive::detect(text) };
    let mut dockerfile =
        Dockerfile { directives, global_args: Vec::new(), stages: Vec::new(), empty_continuation_lines: lines.empty_continuations };
    for node in lines.nodes {
        let span = node.line_span;
        if let Err(error) = typed(node).and_then(|item| place(&mut dockerfile, item, span)) {
            return Ok((dockerfile, Some(error)));
        }
    }
    let error = dockerfile.stages.is_empty().then(|| Diagnostic::whole("dockerfile contains no stages to build"));
    Ok((dockerfile, error))
}

fn place(dockerfile: &mut Dockerfile, item: Item, span: Span) -> Result<(), Diagnostic> {
    match (item, dockerfile.stages.last_mut()) {
        (Item::From(stage), _) => dockerfile.stages.push(stage),
        (Item::Instruction(instruction), Some(stage)) => stage.instructions.push(instruction),
        (Item::Instruction(instruction), None) if matches!(instruction.kind, InstructionKind::Arg(_)) => {
            dockerfile.global_args.push(instruction);
        }
        (Item::Instruction(_), None) => {
            return Err(Diagnostic::at(span, "no build stage in current context").with_hint("only ARG may stand before the first FROM"));
        }
    }
    Ok(())
}

/// Reads an ONBUILD trigger as stored in an image's config. Places are within `text`.
pub fn parse_trigger(text: &str) -> Result<Instruction, Diagnostic> {
    let mut nodes = lines::read(text)?.nodes;
    let (Some(node), true) = (nodes.pop(), nodes.is_empty()) else {
        return Err(Diagnostic::whole("onbuild trigger should be a single expression"));
    };
    match typed(node)? {
        Item::Instruction(instruction) => Ok(instruction),
        Item::From(stage) => Err(Diagnostic::at(stage.span, "FROM isn't allowed as an ONBUILD trigger")),
    }
}

#[cfg(test)]
mod tests;
