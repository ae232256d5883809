//! What can be asked of a Dockerfile without building it: its targets, and what one target takes (args, secrets, ssh).
//! Unaware of how the answer is shown, but for its text form. The JSON is BuildKit's.

use super::expand::expand_word;
use super::mount::MountKind;
use super::position::LineIndex;
use super::scope::{ArgInfo, Globals, Heritage, StageGraph, StageScope, Surroundings, doc_comment, escape_of, target_index};
use super::tree::*;
use base64::Engine as _;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A place, in lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Always one.
    pub ranges: [Range; 1],
}

/// First and last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

/// A line, 1-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Position {
    pub line: usize,
}

impl Location {
    fn new(lines: &LineIndex, span: Span) -> Self {
        let (first, last) = lines.lines_of(span);
        Self { ranges: [Range { start: Position { line: first }, end: Position { line: last } }] }
    }

    fn line(&self) -> usize {
        self.ranges[0].start.line
    }
}

/// `--call=targets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// All stages.
    pub targets: Vec<Target>,
    /// The file, in base64.
    pub sources: Vec<String>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// In lower case; empty when it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Built when no target is named.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// From the comment above FROM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// As written.
    pub base: String,
    /// As written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// The FROM line.
    pub location: Location,
}

/// Lists the stages.
pub fn targets(file: &Dockerfile, text: &str) -> Targets {
    let lines = &LineIndex::new(text);
    let last = file.stages.len().saturating_sub(1);
    let targets = file.stages.iter().enumerate().map(|(index, stage)| Target {
        name: stage_name(stage),
        default: index == last,
        description: doc_comment(&stage.comments, &stage_name(stage)),
        base: stage.base.text.clone(),
        platform: stage.platform.as_ref().map(|platform| platform.text.clone()).unwrap_or_default(),
        location: Location::new(lines, stage.span),
    });
    Targets { targets: targets.collect(), sources: vec![base64::engine::general_purpose::STANDARD.encode(text)] }
}

impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |target: &Target| match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        let rows: Vec<Vec<String>> = self.targets.iter().map(|target| vec![name(target), target.description.clone()]).collect();
        write_table(f, &["TARGET", "DESCRIPTION"], &rows, 1)
    }
}

fn stage_name(stage: &Stage) -> String {
    stage.name.as_ref().map(|name| name.text.to_lowercase()).unwrap_or_default()
}

/// `--call=outline`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// Of the target.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// From the comment above its FROM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// ARGs that the target and what it needs use, by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// Secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Request>,
    /// Agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Request>,
    /// The file, in base64.
    pub sources: Vec<String>,
}

/// One ARG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// From the comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// In this build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is defined.
    pub location: Location,
}

/// A secret or an ssh agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The RUN that asks first.
    pub location: Location,
}

/// What the target takes; None when there is no such target. Err when an ARG can't be evaluated.
pub fn outline(
    file: &Dockerfile,
    text: &str,
    target: Option<&str>,
    predefined: &[(String, String)],
    build_args: &BTreeMap<String, String>,
) -> Result<Option<Outline>, String> {
    let Some(target) = target_index(file, target) else { return Ok(None) };
    let globals = Globals::new(file, predefined, build_args)?;
    let around = Surroundings { escape: escape_of(file), globals: &globals, build_args };
    let captures = Captures::follow(file, &around)?;
    let graph = &captures.graph;
    let lines = &LineIndex::new(text);
    let mut order = vec![];
    visit(graph, target, &mut order);
    let mut outline = Outline {
        name: stage_name(&file.stages[target]),
        description: doc_comment(&file.stages[target].comments, &stage_name(&file.stages[target])),
        args: captures.args(&order, lines),
        secrets: requests(&order, &captures.stages, lines, |capture| &capture.secrets),
        ssh: requests(&order, &captures.stages, lines, |capture| &capture.ssh),
        sources: vec![base64::engine::general_purpose::STANDARD.encode(text)],
    };
    outline.args.sort_by_key(|arg| arg.location.line());
    outline.secrets.sort_by_key(|request| request.location.line());
    outline.ssh.sort_by_key(|request| request.location.line());
    Ok(Some(outline))
}

/// The target, its base, what it needs: nearest first, since a nearer definition of a name counts.
fn visit(graph: &StageGraph, index: usize, order: &mut Vec<usize>) {
    let mut open = vec![index];
    while let Some(index) = open.pop() {
        if !order.contains(&index) {
            order.push(index);
            open.extend(graph.needs[index].iter().rev());
            open.extend(graph.base[index]);
        }
    }
}

/// What each stage uses.
struct Captures {
    graph: StageGraph,
    stages: Vec<Capture>,
}

#[derive(Debug, Default)]
struct Capture {
    used: BTreeSet<String>,
    /// What is known of the ARGs that are used.
    args: Vec<(String, Rc<ArgInfo>)>,
    secrets: Vec<(String, bool, Span)>,
    ssh: Vec<(String, bool, Span)>,
    known: Known,
}

/// What goes on to the stages built on one.
#[derive(Debug, Clone, Default)]
struct Known {
    infos: BTreeMap<String, Rc<ArgInfo>>,
    scope: StageScope,
}

impl Captures {
    fn follow(file: &Dockerfile, around: &Surroundings<'_>) -> Result<Self, String> {
        let mut used = Vec::new();
        let mut names = Vec::new();
        for stage in &file.stages {
            let name = expand_word(&stage.base.text, around.escape, &around.globals.values)?;
            let platform =
                stage.platform.as_ref().map(|word| expand_word(&word.text, around.escape, &around.globals.values)).transpose()?;
            used.push(name.matched.into_iter().chain(platform.into_iter().flat_map(|platform| platform.matched)).collect::<BTreeSet<_>>());
            names.push(name.text);
        }
        let graph = StageGraph::new(file, &names, &|_| Vec::new());
        let mut heritage = Heritage::new(graph.base.iter().copied());
        let mut stages = Vec::new();
        for (index, used) in used.into_iter().enumerate() {
            let of_base = graph.base[index].and_then(|base| heritage.of(base));
            let known = of_base.unwrap_or_else(|| Known { infos: around.globals.infos.clone(), ..Known::default() });
            let mut capture = Capture { used, known, ..Capture::default() };
            for instruction in graph.instructions(file, index) {
                capture.take(instruction, around);
            }
            capture.args = capture.all_used();
            heritage.keep(index, std::mem::take(&mut capture.known));
            stages.push(capture);
        }
        Ok(Self { graph, stages })
    }

    fn args(&self, order: &[usize], lines: &LineIndex) -> Vec<Arg> {
        let mut args: Vec<Arg> = Vec::new();
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        for capture in order.iter().map(|index| &self.stages[*index]) {
            for (name, info) in capture.args.iter().filter(|(name, _)| seen.insert(name)) {
                let (name, value, description) = (name.clone(), info.value.clone(), info.description.clone());
                args.push(Arg { name, description, value, location: Location::new(lines, info.span) });
            }
        }
        args
    }
}

impl Capture {
    fn take(&mut self, instruction: &Instruction, around: &Surroundings<'_>) {
        match &instruction.kind {
            InstructionKind::Arg(definitions) => {
                for definition in definitions {
                    let name = definition.name.text.clone();
                    let found = self.known.scope.evaluate(definition, around);
                    self.known.scope.declare(definition, found.value.clone());
                    if !found.inherited {
                        let description = doc_comment(&instruction.comments, &name);
                        let value = found.value.unwrap_or_default();
                        let info = ArgInfo { value, description, refers_to: BTreeSet::new(), span: instruction.span };
                        self.known.infos.insert(name.clone(), Rc::new(info));
                    }
                    self.used.insert(name);
                }
            }
            InstructionKind::Env(pairs) => {
                self.known.scope.set_env(pairs, around);
            }
            InstructionKind::Run(run) => {
                for mount in self.known.scope.mounts(run, around.escape) {
                    let (list, id) = match mount.kind {
                        MountKind::Secret => (&mut self.secrets, mount.secret_id()),
                        MountKind::Ssh => (&mut self.ssh, mount.ssh_id().to_owned()),
                        _ => continue,
                    };
                    if !list.iter().any(|(known, ..)| *known == id) {
                        list.push((id, mount.required, instruction.span));
                    }
                }
            }
            _ => {}
        }
    }

    /// What is used, and what that refers to.
    fn all_used(&self) -> Vec<(String, Rc<ArgInfo>)> {
        let mut all = BTreeSet::new();
        let mut open: Vec<&String> = self.used.iter().collect();
        while let Some(name) = open.pop() {
            if all.insert(name) {
                open.extend(self.known.infos.get(name).into_iter().flat_map(|info| &info.refers_to));
            }
        }
        all.into_iter().filter_map(|name| Some((name.clone(), self.known.infos.get(name)?.clone()))).collect()
    }
}

fn requests(order: &[usize], stages: &[Capture], lines: &LineIndex, list: impl Fn(&Capture) -> &Vec<(String, bool, Span)>) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for (name, required, span) in order.iter().flat_map(|index| list(&stages[*index])) {
        if !requests.iter().any(|request| request.name == *name) {
            requests.push(Request { name: name.clone(), required: *required, location: Location::new(lines, *span) });
        }
    }
    requests
}

impl std::fmt::Display for Outline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.name.is_empty() || !self.description.is_empty() {
            let name = if self.name.is_empty() { "(default)" } else { &self.name };
            let mut rows = vec![vec!["TARGET:".to_owned(), name.to_owned()]];
            if !self.description.is_empty() {
                rows.push(vec!["DESCRIPTION:".to_owned(), self.description.clone()]);
            }
            write_rows(f, &rows, 1)?;
            writeln!(f)?;
        }
        let args = self.args.iter().map(|arg| vec![arg.name.clone(), arg.value.clone(), arg.description.clone()]).collect::<Vec<_>>();
        let table = |requests: &[Request]| {
            requests
                .iter()
                .map(|request| vec![request.name.clone(), if request.required { "true".to_owned() } else { String::new() }])
                .collect::<Vec<_>>()
        };
        for (head, rows) in [
            (&["BUILD ARG", "VALUE", "DESCRIPTION"][..], args),
            (&["SECRET", "REQUIRED"], table(&self.secrets)),
            (&["SSH", "REQUIRED"], table(&self.ssh)),
        ] {
            if !rows.is_empty() {
                write_table(f, head, &rows, 3)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn write_table(f: &mut std::fmt::Formatter<'_>, head: &[&str], rows: &[Vec<String>], gap: usize) -> std::fmt::Result {
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect()];
    all.extend(rows.to_vec());
    write_rows(f, &all, gap)
}

/// Cells of a column, but for the last, are as wide as the widest and `gap` more.
fn write_rows(f: &mut std::fmt::Formatter<'_>, rows: &[Vec<String>], gap: usize) -> std::fmt::Result {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0) + gap;
    for row in rows {
        let (last, cells) = row.split_last().map_or((None, &[][..]), |(last, cells)| (Some(last), cells));
        for (column, cell) in cells.iter().enumerate() {
            write!(f, "{cell:<width$}", width = width(column))?;
        }
        writeln!(f, "{}", last.map_or("", String::as_str))?;
    }
    Ok(())
}

/// The names a `--build-arg` could have in this target, for suggestions and completions.
pub fn arg_names(file: &Dockerfile) -> BTreeSet<String> {
    let instructions = file.global_args.iter().chain(file.stages.iter().flat_map(|stage| &stage.instructions));
    let definitions = instructions
        .filter_map(|instruction| if let InstructionKind::Arg(definitions) = &instruction.kind { Some(definitions) } else { None });
    definitions.flatten().map(|definition| definition.name.text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const ARGS: &str = "
ARG inherited=box
ARG inherited2=box2
ARG unused=abc${inherited2}
# sfx is a suffix
ARG sfx=\"usy${inherited}\"

FROM b${sfx} AS first
# this is not assigned to anything
ARG FOO=123
# BAR is a number
ARG BAR=456
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true

FROM alpine${unused} AS second
ARG BAZ
RUN --mount=type=secret,id=unused true

FROM scratch AS third
ARG ABC=a
# check=skip=all
ARG password
RUN --mount=type=secret,id=second${BAR} true

# target defines build target
FROM third AS Target
COPY --from=first /etc/passwd /
RUN --mount=type=ssh,id=ssh3,required true

FROM second
";

    fn of(text: &str, target: Option<&str>) -> Outline {
        let build_args = [("BAR".to_owned(), "678".to_owned())].into();
        outline(&parse(text).unwrap(), text, target, &[], &build_args).unwrap().unwrap()
    }

    #[test]
    fn names_only_what_the_target_uses() {
        let outline = of(ARGS, Some("target"));
        assert_eq!((outline.name.as_str(), outline.description.as_str()), ("target", "defines build target"));
        let args: Vec<_> =
            outline.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_str(), arg.description.as_str(), arg.location.line())).collect();
        let expected = [
            ("inherited", "box", "", 2),
            ("sfx", "usybox", "is a suffix", 6),
            ("FOO", "123", "", 10),
            ("BAR", "678", "is a number", 12),
            ("ABC", "a", "", 20),
            ("password", "", "", 22),
        ];
        assert_eq!(args, expected);
        let requests = |list: &[Request]| {
            list.iter().map(|request| (request.name.clone(), request.required, request.location.line())).collect::<Vec<_>>()
        };
        assert_eq!(requests(&outline.secrets), [("passwd".to_owned(), true, 13), ("second".to_owned(), false, 23)]);
        assert_eq!(requests(&outline.ssh), [("default".to_owned(), false, 13), ("ssh3".to_owned(), true, 28)]);
    }

    #[test]
    fn names_global_args_that_later_ones_refer_to() {
        let text = "ARG FOO=123\nARG ABC=abc\nARG DEF=def\nARG FOO=${FOO}${ABC}\nARG BAR=${FOO}456\nFROM scratch\nARG BAR\n";
        let args = outline(&parse(text).unwrap(), text, None, &[], &BTreeMap::new()).unwrap().unwrap().args;
        let seen: Vec<_> = args.iter().map(|arg| (arg.name.as_str(), arg.value.as_str())).collect();
        assert_eq!(seen, [("ABC", "abc"), ("FOO", "123abc"), ("BAR", "123abc456")]);
    }

    #[test]
    fn text_is_a_table() {
        let shown = of(ARGS, Some("target")).to_string();
        assert!(
            shown.starts_with(
                "TARGET:      target\nDESCRIPTION: defines build target\n\nBUILD ARG   VALUE    DESCRIPTION\ninherited   box      \n"
            ),
            "{shown}"
        );
        assert!(shown.ends_with("SSH       REQUIRED\ndefault   \nssh3      true\n\n"), "{shown}");
        let text = "FROM a AS one\n# two is it\nFROM one AS two";
        let list = targets(&parse(text).unwrap(), text);
        assert_eq!(list.to_string(), "TARGET        DESCRIPTION\none           \ntwo (default) is it\n");
        let json = serde_json::to_string(&list.targets[1]).unwrap();
        assert_eq!(
            json,
            r#"{"name":"two","default":true,"description":"is it","base":"one","location":{"ranges":[{"start":{"line":3},"end":{"line":3}}]}}"#
        );
    }

    #[test]
    fn unknown_targets_have_no_outline() {
        assert_eq!(outline(&parse("FROM a").unwrap(), "FROM a", Some("b"), &[], &BTreeMap::new()), Ok(None));
        assert_eq!(arg_names(&parse("ARG a\nFROM a\nARG b c=1").unwrap()).into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
