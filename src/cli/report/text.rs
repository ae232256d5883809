//! A report for a terminal: what took the time, why, and what takes the room.

use std::time::Duration;

use super::{Node, Shown, ShownLayer, worked_ms};
use crate::{
    build::{StepReport, StepResult},
    cli::{inspect, progress},
};

/// Columns of the timeline.
const TIMELINE: usize = 36;
const TEXT: usize = 46;
const DIRECTORIES: usize = 8;

/// All of it.
pub fn text(shown: &Shown) -> String {
    let mut out = head(shown);
    out.push_str(&timeline(shown));
    out.push_str(&reasons(shown));
    if !shown.layers.is_empty() {
        out.push_str(&sizes(&shown.layers));
    }
    out
}

fn elapsed(ms: u64) -> String {
    progress::elapsed(Duration::from_millis(ms))
}

fn head(shown: &Shown) -> String {
    let report = &shown.report;
    let end = match &report.error {
        None => "built".to_owned(),
        Some(error) => format!("failed: {error}"),
    };
    let work: Vec<&StepReport> = report.steps.iter().filter(|step| step.instruction != "FROM").collect();
    let cached = work.iter().filter(|step| step.result == StepResult::Cached).count();
    let path: Vec<String> = shown.critical.iter().map(|number| format!("#{number}")).collect();
    let mut out = format!("{} in {} {end}\n", report.dockerfile, elapsed(report.duration_ms));
    out.push_str(&format!("build {}, {}, rung {}\n", report.id, report.platforms.join(", "), report.rung));
    out.push_str(&format!("{cached} of {} steps cached", work.len()));
    if !path.is_empty() {
        let packed = shown.critical_pack.map_or("", |_| " and its layer's packing");
        out.push_str(&format!("; critical path {}: {}{packed}", elapsed(shown.critical_ms), path.join(" ")));
    }
    out.push('\n');
    report.notes.iter().for_each(|note| out.push_str(&format!("{note}\n")));
    out
}

fn timeline(shown: &Shown) -> String {
    let report = &shown.report;
    let whole = report.steps.iter().map(|step| step.started_ms + step.duration_ms).max().unwrap_or(0).max(report.duration_ms).max(1);
    let column = |ms: u64| (ms * TIMELINE as u64 / whole).min(TIMELINE as u64) as usize;
    let mut out = "\n".to_owned();
    for step in &report.steps {
        let name = step.name.split_once("] ").filter(|_| step.name.starts_with('[')).map_or(step.name.as_str(), |(_, rest)| rest);
        let name = progress::cut(&inspect::cut(name, 200), TEXT);
        let pad = " ".repeat(TEXT - progress::width(&name));
        let (from, to) = (column(step.started_ms), column(step.started_ms + step.duration_ms));
        let (bar, end) = match step.result {
            StepResult::NotReached => (String::new(), "not reached".to_owned()),
            StepResult::Cached => (" ".repeat(from) + "·", "cached".to_owned()),
            _ => {
                let mark = if step.result == StepResult::Done { "█" } else { "▓" };
                let took = elapsed(worked_ms(step));
                let end = match step.result {
                    StepResult::Failed => format!("{took} failed"),
                    StepResult::Cancelled => format!("{took} stopped"),
                    _ => took,
                };
                (" ".repeat(from) + &mark.repeat((to - from).max(1)), end)
            }
        };
        let critical = if shown.critical.contains(&step.step) { '*' } else { ' ' };
        let bar_pad = " ".repeat((TIMELINE + 1).saturating_sub(progress::width(&bar)));
        out.push_str(&format!("{:>4}{critical} {name}{pad} |{bar}{bar_pad}| {end}\n", format!("#{}", step.step)));
    }
    if !shown.critical.is_empty() {
        out.push_str("      * on the critical path\n");
    }
    out
}

fn reasons(shown: &Shown) -> String {
    // Steps that ran for the same reason stand together.
    let mut groups: Vec<(Vec<String>, &Vec<String>)> = Vec::new();
    for (number, lines) in &shown.why {
        match groups.iter_mut().find(|(_, known)| *known == lines) {
            Some((numbers, _)) => numbers.push(format!("#{number}")),
            None => groups.push((vec![format!("#{number}")], lines)),
        }
    }
    let mut out = String::new();
    for (numbers, lines) in groups {
        let lines: Vec<&str> = lines.iter().take(6).map(String::as_str).collect();
        out.push_str(&format!("\n{} ran: {}", numbers.join(" "), lines.join("\n    ")));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn sizes(layers: &[ShownLayer]) -> String {
    let mut out = format!("\n{:>3}  {:>10}  {:>10}  {:>10}  MADE BY\n", "", "COMPRESSED", "FILES", "WASTED");
    for (index, layer) in layers.iter().enumerate() {
        let known = |bytes: u64| if layer.in_store { progress::size(bytes) } else { "not here".to_owned() };
        out.push_str(&format!(
            "{:>3}  {:>10}  {:>10}  {:>10}  {}\n",
            index + 1,
            progress::size(layer.size_bytes),
            known(layer.file_bytes),
            known(layer.wasted_bytes),
            progress::cut(&layer.by, 60)
        ));
    }
    let mut largest: Vec<(u64, u64, String)> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        layer.tree.iter().for_each(|node| descend(node, &format!("layer {}: ", index + 1), &mut largest));
    }
    largest.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.2.cmp(&right.2)));
    if !largest.is_empty() {
        out.push_str("\nlargest\n");
    }
    for (size, wasted, path) in largest.iter().take(DIRECTORIES) {
        let wasted = if *wasted > 0 { format!("  ({} wasted)", progress::size(*wasted)) } else { String::new() };
        out.push_str(&format!("{:>15}  {path}{wasted}\n", progress::size(*size)));
    }
    out
}

/// The places where the bytes are: down while one child holds nearly all of its parent.
fn descend(node: &Node, above: &str, found: &mut Vec<(u64, u64, String)>) {
    let path = format!("{above}/{}", node.name);
    match node.children.iter().find(|child| child.size * 10 >= node.size * 9) {
        Some(child) => descend(child, &path, found),
        None => found.push((node.size, node.wasted, path)),
    }
}
