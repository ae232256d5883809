//! The graph as lines for a terminal: stages in the order of the file, their steps below them.

use super::{Graph, Stage, word};
use crate::{build::Prospect, cli::progress};

/// Columns that a step's text may take.
const TEXT_COLUMNS: usize = 72;

/// All graphs, an empty line between them.
pub fn text(graphs: &[Graph]) -> String {
    let parts: Vec<String> = graphs.iter().map(one).collect();
    parts.join("\n")
}

fn one(graph: &Graph) -> String {
    let mut out = format!("{} ({}), {}\n", graph.target, graph.platform, graph.summary());
    let steps: Vec<String> = graph.steps.iter().map(|step| progress::cut(&step.text, TEXT_COLUMNS)).collect();
    let widest = steps.iter().map(|text| progress::width(text)).max().unwrap_or(0);
    for stage in graph.stages.iter().filter(|stage| stage.needed) {
        out.push_str(&format!("\n{}\n", heading(graph, stage)));
        for step in graph.steps_of(stage) {
            let shown = &steps[step.step - 1];
            let pad = " ".repeat(widest - progress::width(shown));
            let elsewhere = step.parent.filter(|parent| graph.steps[parent - 1].stage != step.stage);
            let from: Vec<String> =
                elsewhere.iter().chain(&step.takes_from).map(|number| format!("#{number}")).chain(step.contexts.iter().cloned()).collect();
            let from = if from.is_empty() { String::new() } else { format!("  ← {}", from.join(", ")) };
            let line = format!("{:>4}  {} {shown}{pad}  {:<6}{from}", format!("#{}", step.step), mark(step.state), word(step.state));
            out.push_str(&format!("{}\n", line.trim_end()));
        }
    }
    let unneeded: Vec<&Stage> = graph.stages.iter().filter(|stage| !stage.needed).collect();
    if !unneeded.is_empty() {
        out.push_str("\nnot needed\n");
        for stage in unneeded {
            out.push_str(&format!("      {} ({})\n", stage.name, stage.place()));
        }
    }
    if graph.steps.iter().any(|step| step.state == Prospect::Open) {
        out.push_str("\nopen: cached if what it takes comes out as before\n");
    }
    out
}

fn heading(graph: &Graph, stage: &Stage) -> String {
    let users: Vec<&str> =
        graph.stages.iter().filter(|other| other.needed && other.needs.contains(&stage.name)).map(|other| other.name.as_str()).collect();
    let relation = match stage.target {
        true => "the target".to_owned(),
        false => format!("needed by {}", users.join(", ")),
    };
    format!("{}  FROM {}  (line {}, {relation})", stage.name, stage.base, stage.line)
}

fn mark(state: Prospect) -> char {
    match state {
        Prospect::Base => '▪',
        Prospect::Cached => '✓',
        Prospect::Runs => '▸',
        Prospect::Open => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_steps_and_what_is_not_needed_are_listed() {
        let expected = "\
app (linux/amd64), 2 steps: 1 to run, 1 open

builder  FROM alpine  (line 1, needed by app)
  #1  ▪ FROM alpine                base
  #2  ▸ RUN make \"<all>\"           runs

app  FROM alpine  (line 5, the target)
  #3  ? COPY --from=builder /a /a  open    ← #2

not needed
      test (line 3, 1 instruction)

open: cached if what it takes comes out as before
";
        assert_eq!(text(&[super::super::tests::example()]), expected);
    }
}
