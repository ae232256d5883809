//! What lint found, for people: a list at the end of a build, each with its lines for `--check`.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::{
    build::{self, Event, Progress, Request},
    cli::{args::BuildArgs, failure::in_repository, progress},
    dockerfile::{self, lint::Warning, redact::blot},
};

/// Passes a build's events on and keeps its warnings for the end.
pub struct Watcher {
    inner: Arc<dyn Progress>,
    warnings: Mutex<Vec<Warning>>,
    unused_args: Mutex<Vec<(String, Option<String>)>>,
    dockerfile: String,
}

/// How warnings are shown at the end of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Not at all.
    Not,
    /// As text.
    Text,
    /// One JSON object a line.
    Json,
}

impl Shown {
    /// What the arguments ask for.
    pub fn of(args: &BuildArgs) -> Self {
        match args.progress.as_str() {
            _ if args.quiet => Self::Not,
            "quiet" | "none" => Self::Not,
            "rawjson" => Self::Json,
            _ => Self::Text,
        }
    }
}

impl Watcher {
    /// Nothing was found yet in the Dockerfile of this name.
    pub fn new(inner: Arc<dyn Progress>, dockerfile: &str) -> Self {
        Self { inner, warnings: Mutex::default(), unused_args: Mutex::default(), dockerfile: dockerfile.to_owned() }
    }

    /// Looks for `--build-arg`s that the Dockerfile does not know.
    pub fn look_at_args(&self, request: &Request) {
        let Ok(dockerfile) = dockerfile::parse(&request.dockerfile) else { return };
        let Some(options) = request.plans.first() else { return };
        *self.unused_args.lock().expect("no holder panics") = build::unused_build_args(&dockerfile, options);
    }

    /// Shows what was found, once, and gives it.
    pub fn show(&self, shown: Shown) -> Vec<Warning> {
        let warnings = std::mem::take(&mut *self.warnings.lock().expect("no holder panics"));
        let unused = std::mem::take(&mut *self.unused_args.lock().expect("no holder panics"));
        let mut err = std::io::stderr().lock();
        if shown == Shown::Text {
            let _ = unused.iter().try_for_each(|(name, near)| writeln!(err, "{}", unused_arg(name, near.as_deref())));
        }
        let _ = match shown {
            Shown::Not => Ok(()),
            // The runner shows them in the log too.
            Shown::Text if progress::Place::here().ci == Some(progress::Ci::GitHub) => {
                let path = in_repository(&self.dockerfile);
                let mark = |warning: &Warning| {
                    progress::annotation("warning", &path, warning.line, 1, &format!("{}: {}", warning.rule, warning.message))
                };
                warnings.iter().try_for_each(|warning| writeln!(err, "{}", mark(warning)))
            }
            Shown::Text => write!(err, "{}", list(&warnings)),
            Shown::Json => {
                warnings.iter().try_for_each(|warning| writeln!(err, "{}", progress::rawjson_warning(warning, &self.dockerfile)))
            }
        };
        warnings
    }
}

impl Progress for Watcher {
    fn event(&self, event: Event<'_>) {
        self.inner.event(event);
    }

    fn warnings(&self, warnings: &[Warning]) {
        self.inner.warnings(warnings);
        self.warnings.lock().expect("no holder panics").extend_from_slice(warnings);
    }
}

fn unused_arg(name: &str, near: Option<&str>) -> String {
    let suggestion = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    format!("note: --build-arg {name} has no effect: no ARG of the Dockerfile has this name{suggestion}")
}

/// One line for each.
fn list(warnings: &[Warning]) -> String {
    let mut text = match warnings.len() {
        0 => return String::new(),
        1 => "\n1 warning (`rbuild build --check` tells more):\n".to_owned(),
        count => format!("\n{count} warnings (`rbuild build --check` tells more):\n"),
    };
    for warning in warnings {
        text.push_str(&format!(" - {warning}\n"));
    }
    text
}

/// A warning with its lines.
pub fn render(path: &str, text: &str, warning: &Warning, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let title = format!("{}: {}", warning.rule, warning.message);
    let start = warning.span.start.min(text.len());
    let end = warning.span.end.clamp(start, text.len());
    let end = start + text.get(start..end).map_or(end - start, |part| part.trim_end().len());
    let shown = blot(text);
    let snippet =
        Snippet::source(&*shown).path(path).fold(true).annotation(AnnotationKind::Primary.span(start..end).label(warning.label.as_deref()));
    let mut report = renderer.render(&[Level::WARNING.primary_title(&title).element(snippet)]).to_string();
    report.push_str(&format!("\n{}", warning.description));
    if let Some(url) = warning.url {
        report.push_str(&format!("\nmore: {url}"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::lint::{self, Options};

    fn warnings(text: &str) -> Vec<Warning> {
        lint::check_text(text, &Options { all_stages: true, ..Options::default() }).0.warnings
    }

    #[test]
    fn a_build_ends_with_a_list() {
        assert_eq!(list(&[]), "");
        let shown = list(&warnings("FROM scratch as x\nMAINTAINER me\n"));
        let expected = "\n2 warnings (`rbuild build --check` tells more):\n - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_check_shows_the_line() {
        let text = "FROM scratch\nMAINTAINER me\n";
        let shown = render("Dockerfile", text, &warnings(text)[0], false);
        assert!(shown.starts_with("warning: MaintainerDeprecated: "), "{shown}");
        assert!(shown.contains("--> Dockerfile:2:1") && shown.contains("MAINTAINER me\n  | ^^^^^^^^^^^^^"), "{shown}");
        assert!(shown.contains("\nmore: https://"), "{shown}");
    }
}
