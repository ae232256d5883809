//! The graph in Graphviz's language: `rbuild plan --format dot | dot -Tpng`.

use std::fmt::Write;

use super::{Graph, word};
use crate::build::Prospect;

/// One digraph, a cluster for each stage.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "digraph {} {{", quoted(&format!("{} {}", graph.target, graph.platform)));
    let _ = writeln!(out, "  rankdir=LR; node [shape=box, style=\"rounded,filled\", fontname=monospace]; graph [fontname=\"sans-serif\"];");
    for (index, stage) in graph.stages.iter().enumerate() {
        let style = if stage.needed { "rounded" } else { "dashed" };
        let label = if stage.needed { stage.name.clone() } else { format!("{} (not needed)", stage.name) };
        let _ = writeln!(out, "  subgraph cluster_{index} {{ label={}; style={style};", quoted(&label));
        for step in graph.steps_of(stage) {
            let label = quoted(&format!("#{} {}\n{}", step.step, step.text, word(step.state)));
            let _ = writeln!(out, "    s{} [label={label}, fillcolor={}];", step.step, quoted(colour(step.state)));
        }
        if graph.steps_of(stage).next().is_none() {
            let _ = writeln!(out, "    empty_{index} [label={}, style=dashed];", quoted(&format!("FROM {}", stage.base)));
        }
        let _ = writeln!(out, "  }}");
    }
    for step in &graph.steps {
        for input in step.parent.iter().chain(&step.takes_from) {
            let style = if step.parent == Some(*input) { "" } else { " [style=dashed]" };
            let _ = writeln!(out, "  s{input} -> s{}{style};", step.step);
        }
    }
    out.push_str("}\n");
    out
}

fn colour(state: Prospect) -> &'static str {
    match state {
        Prospect::Base => "#e8e8e8",
        Prospect::Cached => "#d3efd9",
        Prospect::Runs => "#ffe0b8",
        Prospect::Open => "#dfe6f7",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_nodes_and_quotes_are_escaped() {
        let text = dot(&super::super::tests::example());
        assert!(text.contains("s2 [label=\"#2 RUN make \\\"<all>\\\"\\nruns\""), "{text}");
        assert!(text.contains("s1 -> s2;") && text.contains("s2 -> s3 [style=dashed];"), "{text}");
        assert!(text.contains("test (not needed)"), "{text}");
    }
}
