//! The graph as a picture: one file, no scripts, no fonts of its own; light or dark as its reader is.

use std::fmt::Write;

use super::{
    Graph, Stage, Step,
    layout::{self, Layout, PADDING, Placed, ROW, ROW_GAP, TITLE},
    word,
};
use crate::cli::progress;

const MARGIN: f64 = 24.0;
const HEADER: f64 = 76.0;
/// Of a letter at the size that steps have.
const LETTER: f64 = 7.25;
/// Letters of a step that are shown; the tooltip has all.
const LETTERS: usize = 46;
/// For the state at the end of a row.
const STATE: f64 = 62.0;
const UNNEEDED_WIDTH: f64 = 210.0;
const UNNEEDED_HEIGHT: f64 = 46.0;

const STYLE: &str = "
  svg { --bg: #ffffff; --fg: #1d2330; --soft: #667085; --box: #f5f7fa; --line: #d4dae3; --row: #ffffff; --arrow: #8491a6;
        --cached: #1f9254; --runs: #c8660a; --open: #3f66c4; --base: #7a8599; background: var(--bg); }
  @media (prefers-color-scheme: dark) {
    svg { --bg: #14171d; --fg: #e4e8ef; --soft: #97a1b3; --box: #1c2129; --line: #343c49; --row: #242a34; --arrow: #6f7c91;
          --cached: #55c98a; --runs: #f2a452; --open: #86a5f5; --base: #8f9bb0; }
  }
  text { font: 13px system-ui, sans-serif; fill: var(--fg); }
  .title { font-size: 19px; font-weight: 600; }
  .soft { fill: var(--soft); }
  .name { font-weight: 600; font-size: 14px; }
  .step { font: 12px ui-monospace, 'SF Mono', Menlo, 'DejaVu Sans Mono', monospace; }
  .state { font-size: 11px; font-weight: 600; }
  .page { fill: var(--bg); }
  .stage { fill: var(--box); stroke: var(--line); }
  .target { stroke: var(--fg); stroke-width: 1.6; }
  .unneeded { fill: none; stroke: var(--line); stroke-dasharray: 5 4; }
  .row { fill: var(--row); stroke: var(--line); }
  .then { stroke: var(--arrow); stroke-width: 1.4; }
  .arrow { fill: none; stroke: var(--arrow); stroke-width: 1.6; }
  .head { fill: var(--arrow); }
  .cached { fill: var(--cached); } .runs { fill: var(--runs); } .open { fill: var(--open); } .base { fill: var(--base); }
  g.link:hover .arrow { stroke: var(--fg); stroke-width: 2.4; }
";

/// One picture of all graphs, one below the other.
pub fn svg(graphs: &[Graph]) -> String {
    let parts: Vec<(f64, f64, String)> = graphs.iter().map(one).collect();
    let width = parts.iter().map(|part| part.0).fold(0.0, f64::max);
    let height: f64 = parts.iter().map(|part| part.1).sum();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">"
    );
    let _ = writeln!(out, "<style>{STYLE}</style>");
    let _ = writeln!(
        out,
        "<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head\" d=\"M0 0 L8 4 L0 8 z\"/></marker></defs>"
    );
    let _ = writeln!(out, "<rect class=\"page\" width=\"100%\" height=\"100%\"/>");
    let mut y = 0.0;
    for (_, height, part) in &parts {
        let _ = writeln!(out, "<g transform=\"translate(0 {y:.0})\">\n{part}</g>");
        y += height;
    }
    out.push_str("</svg>\n");
    out
}

/// Width, height and elements of one graph.
fn one(graph: &Graph) -> (f64, f64, String) {
    let text_of = |number: &usize| progress::cut(&graph.steps[number - 1].text, LETTERS);
    let width_of = |steps: &[usize]| {
        let widest = steps.iter().map(|step| progress::width(&text_of(step))).max().unwrap_or(0);
        (widest as f64 * LETTER + 52.0 + STATE + 2.0 * PADDING).max(240.0)
    };
    let layout = layout::layout(graph, width_of);
    let unneeded: Vec<&Stage> = graph.stages.iter().filter(|stage| !stage.needed).collect();
    let width = (layout.width + 2.0 * MARGIN).max(560.0);
    let per_line = (((width - 2.0 * MARGIN + 16.0) / (UNNEEDED_WIDTH + 16.0)) as usize).max(1);
    let unneeded_height = match unneeded.len() {
        0 => 0.0,
        count => 56.0 + count.div_ceil(per_line) as f64 * (UNNEEDED_HEIGHT + 12.0),
    };
    let mut out = header(graph);
    let _ = writeln!(out, "<g transform=\"translate({MARGIN} {HEADER})\">");
    out.push_str(&body(graph, &layout));
    for (index, stage) in unneeded.iter().enumerate() {
        let x = (index % per_line) as f64 * (UNNEEDED_WIDTH + 16.0);
        let y = layout.height + 48.0 + (index / per_line) as f64 * (UNNEEDED_HEIGHT + 12.0);
        if index == 0 {
            let _ = writeln!(out, "<text class=\"soft\" x=\"0\" y=\"{:.1}\">not needed by {}</text>", y - 12.0, escape(&graph.target));
        }
        out.push_str(&unneeded_stage(stage, x, y));
    }
    out.push_str("</g>\n");
    (width, HEADER + layout.height + unneeded_height + MARGIN, out)
}

fn header(graph: &Graph) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "<text class=\"title\" x=\"{MARGIN}\" y=\"36\">{}</text>", escape(&graph.target));
    let _ = writeln!(
        out,
        "<text class=\"soft\" x=\"{MARGIN}\" y=\"57\">{} · {} · {}</text>",
        escape(&graph.dockerfile),
        escape(&graph.platform),
        graph.summary()
    );
    out
}

fn body(graph: &Graph, layout: &Layout) -> String {
    let mut out = String::new();
    for placed in &layout.boxes {
        out.push_str(&stage_box(graph, placed));
    }
    for arrow in &layout.arrows {
        let (from, to) = (&graph.steps[arrow.from - 1], &graph.steps[arrow.to - 1]);
        let _ = writeln!(
            out,
            "<g class=\"link\"><title>#{} {} → #{} {}</title><path class=\"arrow\" marker-end=\"url(#head)\" d=\"{}\"/></g>",
            from.step,
            escape(&from.text),
            to.step,
            escape(&to.text),
            path(&arrow.points)
        );
    }
    out
}

fn stage_box(graph: &Graph, placed: &Placed) -> String {
    let stage = &graph.stages[placed.stage];
    let Placed { x, y, width, height, .. } = placed;
    let class = if stage.target { "stage target" } else { "stage" };
    let mut out = String::new();
    let _ = writeln!(out, "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"9\"/>");
    let _ = writeln!(
        out,
        "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}<tspan class=\"soft\" font-weight=\"400\" font-size=\"12\" dx=\"8\">{}line {}</tspan></text>",
        x + PADDING,
        y + 22.0,
        escape(&progress::cut(&stage.name, 24)),
        if stage.target { "target, " } else { "" },
        stage.line
    );
    for (index, number) in placed.steps.iter().enumerate() {
        let top = y + TITLE + index as f64 * (ROW + ROW_GAP);
        let step = &graph.steps[number - 1];
        if index > 0 && step.parent == Some(placed.steps[index - 1]) {
            let _ = writeln!(out, "<path class=\"then\" d=\"M{:.1} {:.1}v{ROW_GAP}\"/>", x + PADDING + 17.0, top - ROW_GAP);
        }
        out.push_str(&row(step, x + PADDING, top, width - 2.0 * PADDING));
    }
    out
}

fn row(step: &Step, x: f64, y: f64, width: f64) -> String {
    let state = word(step.state);
    let letters = ((width - 52.0 - STATE) / LETTER) as usize;
    let mut out = String::new();
    let _ = writeln!(out, "<g><title>#{} line {}: {}</title>", step.step, step.line, escape(&step.text));
    let _ = writeln!(out, "<rect class=\"row\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{ROW}\" rx=\"5\"/>");
    let _ = writeln!(out, "<rect class=\"{state}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"5\" height=\"{ROW}\" rx=\"2.5\"/>");
    let _ = writeln!(out, "<text class=\"step soft\" x=\"{:.1}\" y=\"{:.1}\">#{}</text>", x + 13.0, y + 18.5, step.step);
    let _ = writeln!(
        out,
        "<text class=\"step\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        x + 44.0,
        y + 18.5,
        escape(&progress::cut(&step.text, letters))
    );
    let _ = writeln!(
        out,
        "<text class=\"state {state}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{state}</text></g>",
        x + width - 10.0,
        y + 18.5
    );
    out
}

fn unneeded_stage(stage: &Stage, x: f64, y: f64) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<rect class=\"unneeded\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{UNNEEDED_WIDTH}\" height=\"{UNNEEDED_HEIGHT}\" rx=\"9\"/>"
    );
    let _ = writeln!(
        out,
        "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" font-weight=\"600\">{}</text>",
        x + PADDING,
        y + 19.0,
        escape(&progress::cut(&stage.name, 26))
    );
    let _ = writeln!(
        out,
        "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\">{}</text>",
        x + PADDING,
        y + 36.0,
        escape(&stage.place())
    );
    out
}

/// Bends between lanes, level inside them.
fn path(points: &[(f64, f64)]) -> String {
    let Some((x, y)) = points.first() else { return String::new() };
    let mut out = format!("M{x:.1} {y:.1}");
    let mut from = (*x, *y);
    for (index, (x, y)) in points.iter().enumerate().skip(1) {
        let is_lane = index % 2 == 0 && index + 1 < points.len();
        let _ = match is_lane {
            true => write!(out, "L{x:.1} {y:.1}"),
            false => {
                let middle = (from.0 + x) / 2.0;
                write!(out, "C{middle:.1} {:.1} {middle:.1} {y:.1} {x:.1} {y:.1}", from.1)
            }
        };
        from = (*x, *y);
    }
    out
}

/// As XML has it; controls have no place there at all.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            _ if letter.is_control() => out.push('\u{fffd}'),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_dockerfile_is_no_markup() {
        let text = svg(&[super::super::tests::example()]);
        assert!(text.contains("RUN make &quot;&lt;all&gt;&quot;") && !text.contains("<all>"), "{text}");
        assert!(text.contains("not needed by app") && text.matches("<path class=\"arrow\"").count() == 1, "{text}");
    }
}
